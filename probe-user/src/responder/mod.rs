//! The responder: answers probes over TCP, UDP and HTTP with who it is. Bounded in connections, time and
//! memory, and over UDP never sends more than it was sent to whoever has not proven its address.

mod arrivals;
mod http;
mod runs;
mod sized;
mod tcp;
pub(crate) mod transfer;
mod udp;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

pub use arrivals::Arrivals;
use mesh::observation::NodeRef;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::sys::socket::set_syn_ack_retries;

/// Connections held at one time, per listener.
const MAX_CONNECTIONS: usize = 1_024;
/// A connection's whole life.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(10);

/// Ports to listen on; 0 lets the kernel choose (tests).
#[derive(Clone, Copy, Debug)]
pub struct ResponderPorts {
    pub echo: u16,
    pub http: u16,
}

impl Default for ResponderPorts {
    fn default() -> Self {
        Self {
            echo: mesh::RESPONDER_ECHO_PORT,
            http: mesh::RESPONDER_HTTP_PORT,
        }
    }
}

/// What the responder did, since its start.
#[derive(Debug, Default)]
pub struct ResponderStats {
    pub tcp_answered: AtomicU64,
    pub udp_answered: AtomicU64,
    pub http_answered: AtomicU64,
    /// Datagrams of path-MTU searches.
    pub sized_answered: AtomicU64,
    /// Longer replies that were asked for without a token, or above the bound.
    pub padded_refused: AtomicU64,
    pub transfers_done: AtomicU64,
    /// Transfers that were granted and did not end well.
    pub transfers_cut: AtomicU64,
    /// Transfers refused because others were going on, or because the minute's bytes were used up.
    pub transfers_busy: AtomicU64,
    pub transfers_over_budget: AtomicU64,
    /// Payload of transfers, either way.
    pub transfer_bytes: AtomicU64,
    /// Bytes that were no request of this protocol.
    pub ignored: AtomicU64,
    /// Connections over the cap.
    pub rejected: AtomicU64,
    /// Connections that ran into their deadline.
    pub expired: AtomicU64,
    /// Replies that could not be sent.
    pub send_errors: AtomicU64,
    /// UDP runs whose count was forgotten to make room.
    pub evicted_runs: AtomicU64,
    /// Distinct datagrams of requested probes.
    pub arrivals: Arrivals,
}

#[derive(Debug, thiserror::Error)]
pub enum ResponderError {
    #[error(
        "cannot answer probes on `{0}`: replies could leave from another address\nhint: name the addresses of this pod or node"
    )]
    Unspecified(IpAddr),
    #[error("cannot listen on `{address}` ({protocol})")]
    Listen {
        address: SocketAddr,
        protocol: &'static str,
        #[source]
        source: io::Error,
    },
}

/// Sockets that are open, not yet served.
#[derive(Debug)]
pub struct Bound {
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
    http: Vec<TcpListener>,
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A restart must not wait for the TIME_WAIT of accepted connections.
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(address))?;
    // Where answers get lost a prober gives up after seconds, and comes back with the same port: what is still half open
    // then answers the new SYN as if it belonged to it.
    set_syn_ack_retries(&socket, 1)?;
    socket.listen(1_024)?;
    TcpListener::from_std(socket.into())
}

/// Opens every socket or none.
pub async fn bind(addresses: &[IpAddr], ports: ResponderPorts) -> Result<Bound, ResponderError> {
    let mut bound = Bound {
        tcp: Vec::new(),
        udp: Vec::new(),
        http: Vec::new(),
    };
    for ip in addresses {
        if ip.is_unspecified() {
            return Err(ResponderError::Unspecified(*ip));
        }
        let error = |address, protocol| {
            move |source| ResponderError::Listen {
                address,
                protocol,
                source,
            }
        };
        let echo = SocketAddr::new(*ip, ports.echo);
        let tcp = listen(echo).map_err(error(echo, "TCP"))?;
        // With port 0 the two protocols still share one number, as peers expect.
        let echo = tcp.local_addr().map_err(error(echo, "TCP"))?;
        let udp = UdpSocket::bind(echo).await.map_err(error(echo, "UDP"))?;
        let http = SocketAddr::new(*ip, ports.http);
        bound.http.push(listen(http).map_err(error(http, "HTTP"))?);
        bound.tcp.push(tcp);
        bound.udp.push(udp);
    }
    Ok(bound)
}

impl Bound {
    /// Where TCP and UDP echo are served.
    pub fn echo_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.tcp.iter().map(TcpListener::local_addr).collect()
    }

    pub fn http_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.http.iter().map(TcpListener::local_addr).collect()
    }

    /// Answers until `stop`, or until a socket fails for good.
    pub async fn serve(
        self,
        me: NodeRef,
        stats: Arc<ResponderStats>,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let me = Arc::new(me);
        let gate = Arc::new(transfer::Gate::new());
        let mut tasks = JoinSet::new();
        for listener in self.tcp {
            let (me, gate) = (Arc::clone(&me), Arc::clone(&gate));
            tasks.spawn(tcp::serve(listener, me, gate, Arc::clone(&stats)));
        }
        for socket in self.udp {
            tasks.spawn(udp::serve(socket, Arc::clone(&me), Arc::clone(&stats)));
        }
        for listener in self.http {
            tasks.spawn(http::serve(listener, Arc::clone(&me), Arc::clone(&stats)));
        }
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            Some(ended) = tasks.join_next() => match ended {
                Ok(Ok(never)) => match never {},
                Ok(Err(error)) => Err(error),
                Err(panic) => Err(io::Error::other(panic)),
            },
        }
    }
}

/// Whether `accept` may be tried again: errors of one connection or of a full table pass.
pub(crate) async fn tolerate(error: io::Error) -> io::Result<()> {
    use nix::errno::Errno;
    match error.raw_os_error().map(Errno::from_raw) {
        Some(
            Errno::ECONNABORTED
            | Errno::EPERM
            | Errno::EPROTO
            | Errno::EHOSTUNREACH
            | Errno::ENETDOWN
            | Errno::ENETUNREACH
            | Errno::EINTR,
        ) => Ok(()),
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(())
        }
        _ => Err(error),
    }
}

#[cfg(test)]
#[path = "../responder_tests.rs"]
mod tests;
