//! Where the API listens: a unix socket, loopback, or TCP with mTLS. Anything else is a configuration error.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use probe_api::wire::agent_server::AgentServer;
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use crate::admission;
use crate::agent::Agent;
use crate::api::Api;

/// Largest request that is read.
const MAX_REQUEST_BYTES: usize = 1 << 20;

/// As given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            if !path.starts_with('/') {
                return Err(format!("`{text}`: the path must be absolute"));
            }
            return Ok(Self::Unix(path.into()));
        }
        text.parse()
            .map(Self::Tcp)
            .map_err(|_| format!("`{text}` is neither `unix:/path` nor `IP:PORT`"))
    }
}

/// PEM files of the server's side of mTLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(
        "the API may not listen on `{0}` without TLS\nhint: give --tls-ca, --tls-cert and --tls-key, or listen on unix:PATH or loopback"
    )]
    TlsRequired(SocketAddr),
    #[error("TLS is for TCP; a unix socket is guarded by its permissions\nhint: leave out --tls-*")]
    TlsOnUnix,
    #[error("cannot read `{path}`")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the certificate, key or CA is not usable")]
    Tls(#[source] tonic::transport::Error),
    #[error("cannot listen on `{address}`")]
    Bind {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("`{0}` is in use by another agent")]
    SocketInUse(PathBuf),
    #[error("`{0}` exists and is no socket")]
    NotASocket(PathBuf),
}

/// An open socket for the API.
pub struct Listener {
    socket: Open,
    tls: Option<ServerTlsConfig>,
}

enum Open {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
}

fn read(path: &Path) -> Result<Vec<u8>, ListenError> {
    std::fs::read(path).map_err(|source| ListenError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Opens the socket. Nothing is served yet.
pub async fn open(address: &Address, tls: Option<&TlsFiles>) -> Result<Listener, ListenError> {
    match address {
        Address::Unix(path) => {
            if tls.is_some() {
                return Err(ListenError::TlsOnUnix);
            }
            Ok(Listener {
                socket: Open::Unix(open_unix(path)?, path.clone()),
                tls: None,
            })
        }
        Address::Tcp(address) => {
            if tls.is_none() && !address.ip().to_canonical().is_loopback() {
                return Err(ListenError::TlsRequired(*address));
            }
            let tls = tls
                .map(|files| {
                    Ok::<_, ListenError>(
                        ServerTlsConfig::new()
                            .identity(Identity::from_pem(read(&files.cert)?, read(&files.key)?))
                            .client_ca_root(Certificate::from_pem(read(&files.ca)?))
                            .timeout(Duration::from_secs(5)),
                    )
                })
                .transpose()?;
            if let Some(tls) = &tls {
                // Unusable files are a configuration error now, not a refused handshake later.
                Server::builder()
                    .tls_config(tls.clone())
                    .map_err(ListenError::Tls)?;
            }
            let listener =
                TcpListener::bind(address)
                    .await
                    .map_err(|source| ListenError::Bind {
                        address: address.to_string(),
                        source,
                    })?;
            Ok(Listener {
                socket: Open::Tcp(listener),
                tls,
            })
        }
    }
}

/// A socket that its last owner left behind is replaced; one in use is not.
fn open_unix(path: &Path) -> Result<UnixListener, ListenError> {
    use std::os::unix::fs::FileTypeExt;
    let failed = |source| ListenError::Bind {
        address: format!("unix:{}", path.display()),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => {
            return Err(ListenError::NotASocket(path.to_owned()));
        }
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed)?;
            }
            Ok(_) => return Err(ListenError::SocketInUse(path.to_owned())),
            Err(error) => return Err(failed(error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
    Ok(listener)
}

impl Listener {
    /// The TCP address, for a port that the kernel chose.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Open::Tcp(listener) => listener.local_addr().ok(),
            Open::Unix(..) => None,
        }
    }

    /// Serves until `stop`; then calls that are going on may finish.
    pub async fn serve(
        self,
        agent: Arc<Agent>,
        stop: CancellationToken,
    ) -> Result<(), tonic::transport::Error> {
        let mut server = Server::builder()
            .max_concurrent_streams(admission::STREAMS)
            .concurrency_limit_per_connection(admission::STREAMS as usize)
            .http2_max_header_list_size(16_384)
            .http2_max_pending_accept_reset_streams(Some(32))
            .http2_keepalive_interval(Some(Duration::from_secs(20)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .max_frame_size(16_384)
            .tcp_nodelay(true);
        if let Some(tls) = self.tls {
            server = server.tls_config(tls)?;
        }
        let stats = Arc::clone(&agent.api.admission);
        let service =
            AgentServer::new(Api::new(agent)).max_decoding_message_size(MAX_REQUEST_BYTES);
        let router = server.add_service(service);
        let stopped = stop.cancelled_owned();
        match self.socket {
            Open::Tcp(listener) => {
                let incoming = admission::admit(TcpListenerStream::new(listener), stats);
                router.serve_with_incoming_shutdown(incoming, stopped).await
            }
            Open::Unix(listener, path) => {
                let incoming = admission::admit(UnixListenerStream::new(listener), stats);
                let result = router.serve_with_incoming_shutdown(incoming, stopped).await;
                let _ = std::fs::remove_file(path);
                result
            }
        }
    }
}
