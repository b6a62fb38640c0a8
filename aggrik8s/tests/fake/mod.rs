//! Agents that speak the real API on unix sockets and misbehave on command, and a mesh.yaml that leads to them.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mesh::measurement::{
    MeasureKind, MeasureOutcome, MtuLimit, PathDirection, PathMtu, Sent, Throughput,
};
use mesh::observation::{
    Direction, KernelConnection, KernelOutcome, NodeRef, Outcome, ProbeKind, Sample,
};
use mesh::{AgentEndpoint, Cluster, Link, Mesh, Node, Objectives, Service, ServiceKind};
use probe_api::measure::{Figure, measure_result};
use probe_api::results::probe_result;
use probe_api::wire;
use probe_api::wire::agent_server::{Agent, AgentServer};
use probe_api::{MeasurePlan, Measurement, ProbePlan};
use tokio::net::UnixListener;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

/// What the agents of one node do wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Manner {
    Honest,
    /// The socket is not there.
    Absent,
    /// Accepts the connection and never says anything.
    Mute,
    /// Calls itself by another name.
    Impostor,
    /// Dies after so many results.
    DiesAfter(u32),
    /// Ends its stream early, as if all were done.
    StopsAfter(u32),
    /// Comes back with another boot id.
    Restarts,
    /// Results for a target that nobody asked for.
    WrongIndex,
    Duplicates,
    TooMany,
    UnknownOutcome,
    /// Times beyond the run.
    AbsurdTimes,
    /// Names with control characters.
    ControlCharacters,
    /// Says `ok` and names another responder.
    ForeignResponder,
    /// Every connect refused.
    Refuses,
    /// Its kernel programs are not attached.
    Blind,
    /// Never finishes.
    Endless,
    /// Knows no measurements.
    DoesNotMeasure,
}

/// Kernel records of all nodes.
#[derive(Default)]
struct Kernels {
    records: BTreeMap<NodeRef, Vec<KernelConnection>>,
    next_port: u16,
}

pub(crate) struct FakeMesh {
    pub(crate) folder: PathBuf,
    pub(crate) mesh: Mesh,
    manners: BTreeMap<NodeRef, Manner>,
    /// Calls of `Probe` that were cancelled by the client.
    pub(crate) cancelled: Arc<Mutex<u32>>,
    pub(crate) started: Arc<Mutex<u32>>,
    /// Connections that mute agents accepted.
    pub(crate) accepted: Arc<Mutex<u32>>,
    kernels: Arc<Mutex<Kernels>>,
    /// Targets of calls of `Measure`.
    pub(crate) measured: Arc<Mutex<u32>>,
    runtime: Option<tokio::runtime::Runtime>,
}

fn cluster(folder: &Path, number: u8, name: &str) -> Cluster {
    let node = format!("{name}-1");
    let socket = |suffix: &str| {
        Some(AgentEndpoint::Unix(
            folder
                .join(format!("{node}{suffix}.sock"))
                .display()
                .to_string(),
        ))
    };
    Cluster {
        name: name.to_owned(),
        id: number.into(),
        node_networks: vec![format!("192.168.{number}.0/24").parse().expect("net")],
        pod_cidrs: vec![format!("10.{number}.0.0/16").parse().expect("net")],
        service_cidrs: vec![format!("172.16.{number}.0/24").parse().expect("net")],
        dns_server: None,
        nodes: vec![Node {
            name: node.clone(),
            addresses: vec![[192, 168, number, 1].into()],
            agent_pod: vec![[10, number, 0, 2].into()],
            agent: socket(""),
            agent_node_plane: socket("-node"),
        }],
        context: None,
    }
}

impl FakeMesh {
    /// Clusters `east`, `west`, `pi` with one node each, and the manners of some of their agents.
    pub(crate) fn new(test: &str, clusters: usize, manners: &[(&str, Manner)]) -> Self {
        let folder =
            std::env::temp_dir().join(format!("aggrik8s-verify-{}-{test}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        let names = &["east", "west", "pi"][..clusters];
        let clusters: Vec<Cluster> = names
            .iter()
            .zip(1..)
            .map(|(name, number)| cluster(&folder, number, name))
            .collect();
        let links = names
            .iter()
            .flat_map(|s| names.iter().map(move |t| (s, t)))
            .filter(|(s, t)| s != t)
            .map(|(s, t)| Link {
                source: (*s).to_owned(),
                target: (*t).to_owned(),
            })
            .collect();
        let mesh = Mesh {
            name: "fake".to_owned(),
            services: vec![Service {
                name: "ndvi".to_owned(),
                cluster: "east".to_owned(),
                backends: vec!["east".to_owned()],
                affinity: mesh::Affinity::None,
                addresses: vec![[172, 16, 1, 10].into()],
                port: 8080,
                kind: ServiceKind::Ndvi,
                names: Vec::new(),
            }],
            clusters,
            clients: Vec::new(),
            links,
            objectives: Objectives::default(),
            rules: mesh::Rules::default(),
            tls: None,
        };
        std::fs::write(folder.join("mesh.yaml"), mesh.to_yaml()).expect("mesh.yaml");
        let manners = manners
            .iter()
            .map(|(cluster, manner)| {
                let node = NodeRef {
                    cluster: (*cluster).to_owned(),
                    node: format!("{cluster}-1"),
                };
                (node, *manner)
            })
            .collect();
        let mut fake = Self {
            folder,
            mesh,
            manners,
            cancelled: Arc::default(),
            started: Arc::default(),
            accepted: Arc::default(),
            kernels: Arc::new(Mutex::new(Kernels {
                next_port: 61_000,
                ..Kernels::default()
            })),
            measured: Arc::default(),
            runtime: None,
        };
        fake.serve(None);
        fake
    }

    /// Agents of `cluster` that were absent come, and are honest.
    pub(crate) fn revive(&mut self, cluster: &str) {
        self.manners.retain(|node, _| node.cluster != cluster);
        self.serve(Some(cluster));
    }

    fn serve(&mut self, only: Option<&str>) {
        let runtime = self.runtime.take().unwrap_or_else(|| {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime")
        });
        let kernels = Arc::clone(&self.kernels);
        let served = |cluster: &&Cluster| only.is_none_or(|only| cluster.name == only);
        for cluster in self.mesh.clusters.iter().filter(served) {
            for node in &cluster.nodes {
                let name = NodeRef {
                    cluster: cluster.name.clone(),
                    node: node.name.clone(),
                };
                let manner = self.manners.get(&name).copied().unwrap_or(Manner::Honest);
                for (plane, endpoint) in [("pod", &node.agent), ("node", &node.agent_node_plane)] {
                    let Some(AgentEndpoint::Unix(path)) = endpoint else {
                        continue;
                    };
                    if manner == Manner::Absent {
                        continue;
                    }
                    let agent = FakeAgent {
                        node: name.clone(),
                        plane,
                        address: if plane == "pod" {
                            node.agent_pod[0]
                        } else {
                            node.addresses[0]
                        },
                        manner,
                        kernels: Arc::clone(&kernels),
                        base: Instant::now(),
                        observed: Arc::default(),
                        cancelled: Arc::clone(&self.cancelled),
                        started: Arc::clone(&self.started),
                        accepted: Arc::clone(&self.accepted),
                        measured: Arc::clone(&self.measured),
                        death: Arc::default(),
                    };
                    let path = path.clone();
                    runtime.block_on(async {
                        let listener = UnixListener::bind(&path).expect("a socket");
                        tokio::spawn(serve(agent, listener));
                    });
                }
            }
        }
        self.runtime = Some(runtime);
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aggrik8s"));
        command
            .arg("verify")
            .arg("-f")
            .arg(self.folder.join("mesh.yaml"))
            .args(["--window", "200ms"])
            .args(arguments)
            .env_remove("AGGRIK8S_MESH")
            .env_remove("AGGRIK8S_OUTPUT");
        command
    }

    pub(crate) fn verify(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary runs")
    }
}

impl Drop for FakeMesh {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

async fn serve(agent: FakeAgent, listener: UnixListener) {
    if agent.manner == Manner::Mute {
        let mut held = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            *agent.accepted.lock().expect("not poisoned") += 1;
            held.push(connection);
        }
        return;
    }
    let death = Arc::clone(&agent.death);
    let incoming = UnixListenerStream::new(listener);
    let server = tonic::transport::Server::builder().add_service(AgentServer::new(agent));
    tokio::select! {
        served = server.serve_with_incoming(incoming) => served.expect("the fake agent serves"),
        () = death.notified() => {}
    }
}

struct FakeAgent {
    node: NodeRef,
    plane: &'static str,
    address: std::net::IpAddr,
    manner: Manner,
    kernels: Arc<Mutex<Kernels>>,
    base: Instant,
    observed: Arc<Mutex<u32>>,
    cancelled: Arc<Mutex<u32>>,
    started: Arc<Mutex<u32>>,
    accepted: Arc<Mutex<u32>>,
    measured: Arc<Mutex<u32>>,
    death: Arc<tokio::sync::Notify>,
}

impl FakeAgent {
    fn monotonic(&self) -> u64 {
        self.base.elapsed().as_nanos() as u64 + 1_000_000_000
    }

    fn wall() -> u64 {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |t| t.as_nanos() as u64)
    }

    /// One honest probe, with the records that both kernels would have.
    fn probe(&self, planned: &probe_api::PlannedTarget, sequence: u32) -> Sample {
        let mut kernels = self.kernels.lock().expect("not poisoned");
        kernels.next_port = if kernels.next_port == u16::MAX {
            61_000
        } else {
            kernels.next_port + 1
        };
        let port = kernels.next_port;
        let refused = self.manner == Manner::Refuses && planned.kind != ProbeKind::Udp;
        let tcp = planned.kind != ProbeKind::Udp;
        let target = planned.target.node.as_ref().map(|node| NodeRef {
            cluster: planned.target.cluster.clone(),
            node: node.clone(),
        });
        let source_address = std::net::SocketAddr::new(self.address, port);
        let kernel_connect = 2_000_000;
        if tcp {
            let mut record = KernelConnection {
                node: self.node.clone(),
                direction: Direction::Initiator,
                local: source_address,
                remote: planned.target.address,
                outcome: if refused {
                    KernelOutcome::Refused
                } else {
                    KernelOutcome::Established
                },
                at_ns: self.monotonic(),
                connect_ns: (!refused).then_some(kernel_connect),
                handshake_rtt_us: (!refused).then_some(1_950),
                min_rtt_us: None,
                syn_retransmits: 0,
            };
            kernels
                .records
                .entry(self.node.clone())
                .or_default()
                .push(record.clone());
            if let (Some(target), false) = (&target, refused) {
                record.node = target.clone();
                record.direction = Direction::Acceptor;
                (record.local, record.remote) = (record.remote, record.local);
                (record.connect_ns, record.handshake_rtt_us) = (None, None);
                kernels
                    .records
                    .entry(target.clone())
                    .or_default()
                    .push(record);
            }
        }
        let outcome = if refused {
            Outcome::Refused
        } else {
            Outcome::Ok
        };
        Sample {
            sequence,
            source_port: port,
            sent_ns: u64::from(sequence) * 1_000,
            delay_ns: 1_000,
            outcome,
            connect_ns: (tcp && !refused).then_some(kernel_connect + 100_000),
            round_trip_ns: (!refused).then_some(2_500_000),
            responder: target,
            receiver_count: (!tcp).then_some(sequence + 1),
            starved: false,
        }
    }

    /// The `n`-th result as this agent's manner makes it.
    fn spoil(&self, n: u32, result: wire::ProbeResult) -> Vec<wire::ProbeResult> {
        let mut result = result;
        match self.manner {
            Manner::WrongIndex => result.target = 4_000_000_000,
            Manner::Duplicates if n == 3 => return vec![result.clone(), result],
            Manner::TooMany if n == 3 => {
                let mut more = result.clone();
                more.sequence = 1_000_000;
                return vec![result, more];
            }
            Manner::UnknownOutcome => result.outcome = "splendid".to_owned(),
            Manner::AbsurdTimes => result.round_trip_ns = Some(u64::MAX),
            Manner::ControlCharacters => result.responder_node = "\u{1b}[2J\u{202e}evil".to_owned(),
            Manner::ForeignResponder => result.responder_node = "somebody-else".to_owned(),
            _ => {}
        }
        vec![result]
    }
}

type Results = Pin<Box<dyn Stream<Item = Result<wire::ProbeResult, Status>> + Send>>;

#[tonic::async_trait]
impl Agent for FakeAgent {
    async fn identity(
        &self,
        _: Request<wire::IdentityRequest>,
    ) -> Result<Response<wire::IdentityReply>, Status> {
        let impostor = self.manner == Manner::Impostor;
        Ok(Response::new(wire::IdentityReply {
            cluster: self.node.cluster.clone(),
            node: if impostor {
                "another-node".to_owned()
            } else {
                self.node.node.clone()
            },
            plane: self.plane.to_owned(),
            boot_id: "b00t".to_owned(),
            version: "0.1.0".to_owned(),
            kernel_witness: self.plane == "pod" && self.manner != Manner::Blind,
            kernel_detail: "the maps are not pinned".to_owned(),
            wall_ns: Self::wall(),
            monotonic_ns: self.monotonic(),
        }))
    }

    async fn observe(
        &self,
        _: Request<wire::ObserveRequest>,
    ) -> Result<Response<wire::ObserveReply>, Status> {
        let mut times = self.observed.lock().expect("not poisoned");
        *times += 1;
        let restarted = self.manner == Manner::Restarts && *times > 1;
        Ok(Response::new(wire::ObserveReply {
            layout: 1,
            series: Vec::new(),
            counters: Default::default(),
            wall_ns: Self::wall(),
            monotonic_ns: self.monotonic(),
            boot_id: if restarted { "b00t2" } else { "b00t" }.to_owned(),
            received: Vec::new(),
        }))
    }

    type MeasureStream =
        tokio_stream::Iter<std::vec::IntoIter<Result<wire::MeasureResult, Status>>>;

    /// Paths as wide as the interfaces, and 200 Mbit/s.
    async fn measure(
        &self,
        request: Request<wire::MeasureRequest>,
    ) -> Result<Response<Self::MeasureStream>, Status> {
        let plan = MeasurePlan::try_from(request.get_ref())
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        *self.measured.lock().expect("not poisoned") += plan.targets.len() as u32;
        if self.manner == Manner::DoesNotMeasure {
            return Err(Status::unimplemented("an older agent"));
        }
        let results: Vec<_> = (0_u32..)
            .zip(&plan.targets)
            .flat_map(|(index, target)| {
                [PathDirection::Forward, PathDirection::Return].map(|direction| {
                    let measurement = Measurement {
                        direction,
                        outcome: MeasureOutcome::Ok,
                        source_port: 61_500,
                        responder: Some(target.node.clone()),
                        figure: Some(figure(target.kind)),
                    };
                    Ok(measure_result(index, &measurement))
                })
            })
            .collect();
        Ok(Response::new(tokio_stream::iter(results)))
    }

    type ProbeStream = Results;

    async fn probe(
        &self,
        request: Request<wire::ProbeRequest>,
    ) -> Result<Response<Results>, Status> {
        let plan = ProbePlan::try_from(request.get_ref())
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        *self.started.lock().expect("not poisoned") += 1;
        let mut results = Vec::new();
        let most = plan.targets.iter().map(|t| t.count).max().unwrap_or(0);
        for sequence in 0..most {
            for (index, planned) in plan
                .targets
                .iter()
                .enumerate()
                .filter(|(_, t)| sequence < t.count)
            {
                let result = probe_result(index as u32, &self.probe(planned, sequence));
                results.extend(self.spoil(results.len() as u32, result));
            }
        }
        let (sender, receiver) = tokio::sync::mpsc::channel(16);
        let (manner, death, cancelled) = (
            self.manner,
            Arc::clone(&self.death),
            Arc::clone(&self.cancelled),
        );
        tokio::spawn(async move {
            for (n, result) in (0_u32..).zip(results) {
                match manner {
                    Manner::DiesAfter(most) if n >= most => {
                        death.notify_waiters();
                        return;
                    }
                    Manner::StopsAfter(most) if n >= most => return,
                    Manner::Endless => tokio::time::sleep(Duration::from_millis(200)).await,
                    _ => {}
                }
                if sender.send(Ok(result)).await.is_err() {
                    *cancelled.lock().expect("not poisoned") += 1;
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(
            ReceiverStream::new(receiver).map(|r| r),
        )))
    }

    async fn connections(
        &self,
        _: Request<wire::ConnectionsRequest>,
    ) -> Result<Response<wire::ConnectionsReply>, Status> {
        let kernels = self.kernels.lock().expect("not poisoned");
        let records = kernels.records.get(&self.node);
        Ok(Response::new(wire::ConnectionsReply {
            connections: records
                .into_iter()
                .flatten()
                .map(wire::Connection::from)
                .collect(),
            dropped: 0,
            boot_id: "b00t".to_owned(),
        }))
    }
}

fn figure(kind: MeasureKind) -> Figure {
    match kind {
        MeasureKind::PathMtu => Figure::PathMtu(PathMtu {
            bytes: 1_450,
            limit: MtuLimit::Local,
            local_bytes: 1_450,
            route_before: None,
            route_after: None,
            reported: None,
            fragments_pass: None,
            sized: Sent {
                sent: 4,
                answered: 2,
            },
            small: Sent {
                sent: 4,
                answered: 4,
            },
        }),
        MeasureKind::Throughput => Figure::Throughput(Throughput {
            bytes: 1_000_000,
            duration_ns: 40_000_000,
            by_time: false,
            retransmits: Some(0),
            min_rtt_us: Some(400),
            rtt: None,
        }),
    }
}
