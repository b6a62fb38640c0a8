//! A man in the middle of an agent's API: everything passes as it is, but the times of the agent's own probes are doubled.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use probe_api::wire;
use probe_api::wire::agent_client::AgentClient;
use probe_api::wire::agent_server::{Agent, AgentServer};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

use crate::lab_rig::Lab;

/// Largest reply that it passes on.
const MOST_BYTES: usize = 32 << 20;

/// Stands between a lab's agent and whoever asks it, until it is dropped.
pub struct Doubled {
    /// Times that were doubled so far.
    pub doubled: Arc<AtomicU64>,
    path: PathBuf,
    moved: PathBuf,
    _runtime: tokio::runtime::Runtime,
}

struct Middle {
    agent: AgentClient<Channel>,
    doubled: Arc<AtomicU64>,
}

impl Doubled {
    /// Takes the place of the pod-plane agent of `node`: its socket is moved aside, and answers behind this one.
    pub fn before(lab: &Lab, node: &str) -> Result<Self> {
        let path = lab.run_dir().join("agents").join(format!("{node}.sock"));
        let moved = path.with_extension("real");
        std::fs::rename(&path, &moved).with_context(|| path.display().to_string())?;
        let doubled = Arc::new(AtomicU64::new(0));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        runtime.block_on(serve(&path, &moved, Arc::clone(&doubled)))?;
        Ok(Self {
            doubled,
            path,
            moved,
            _runtime: runtime,
        })
    }
}

impl Drop for Doubled {
    fn drop(&mut self) {
        let _ = std::fs::rename(&self.moved, &self.path);
    }
}

/// Serves in the background, with the owner and mode that the agent's socket has.
async fn serve(path: &Path, agent: &Path, doubled: Arc<AtomicU64>) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let channel = Endpoint::try_from(format!("unix:{}", agent.display()))?
        .connect()
        .await?;
    let middle = Middle {
        agent: AgentClient::new(channel).max_decoding_message_size(MOST_BYTES),
        doubled,
    };
    let listener = UnixListener::bind(path)?;
    let like = std::fs::metadata(agent)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(like.mode()))?;
    chown(path, Some(like.uid()), Some(like.gid()))?;
    let server = Server::builder().add_service(AgentServer::new(middle));
    tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
    Ok(())
}

type Answer<T> = std::result::Result<Response<T>, Status>;

#[tonic::async_trait]
impl Agent for Middle {
    async fn identity(
        &self,
        request: Request<wire::IdentityRequest>,
    ) -> Answer<wire::IdentityReply> {
        self.agent.clone().identity(request.into_inner()).await
    }

    async fn observe(&self, request: Request<wire::ObserveRequest>) -> Answer<wire::ObserveReply> {
        self.agent.clone().observe(request.into_inner()).await
    }

    type ProbeStream =
        Pin<Box<dyn Stream<Item = std::result::Result<wire::ProbeResult, Status>> + Send>>;

    async fn probe(&self, request: Request<wire::ProbeRequest>) -> Answer<Self::ProbeStream> {
        let results = self.agent.clone().probe(request.into_inner()).await?;
        let doubled = Arc::clone(&self.doubled);
        let results = results.into_inner().map(move |result| {
            result.map(|mut result| {
                let times = [&mut result.connect_ns, &mut result.round_trip_ns];
                for ns in times.into_iter().flatten() {
                    *ns *= 2;
                    doubled.fetch_add(1, Ordering::Relaxed);
                }
                result
            })
        });
        Ok(Response::new(Box::pin(results)))
    }

    async fn connections(
        &self,
        request: Request<wire::ConnectionsRequest>,
    ) -> Answer<wire::ConnectionsReply> {
        self.agent.clone().connections(request.into_inner()).await
    }

    type MeasureStream = Streaming<wire::MeasureResult>;

    async fn measure(&self, request: Request<wire::MeasureRequest>) -> Answer<Self::MeasureStream> {
        self.agent.clone().measure(request.into_inner()).await
    }
}
