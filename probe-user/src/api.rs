//! The gRPC API: a thin coat over the prober, the kernel's maps and the record store.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mesh::Mesh;
use mesh::observation::{ProbeKind, Question};
use probe_api::measure::measure_result;
use probe_api::reply::{UNKNOWN_DIRECTION, series_counter};
use probe_api::results::probe_result;
use probe_api::wire;
use probe_api::words::Word;
use probe_api::{MeasurePlan, ProbePlan};
use probe_common::{Counter, Direction, HistogramKind, Origin};
use tokio_stream::Stream;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::agent::{Agent, clocks};
use crate::declared;
use crate::kernel::NamedSeries;
use crate::metrics;
use crate::prober::{Purpose, Refusal, TileSide};

/// The API of one agent.
pub struct Api {
    agent: Arc<Agent>,
}

impl Api {
    #[must_use]
    pub fn new(agent: Arc<Agent>) -> Self {
        Self { agent }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Agents probe what their mesh.yaml declares: they are no port scanners for whoever may call them.
fn check_targets(mesh: &Mesh, targets: impl Iterator<Item = SocketAddr>) -> Result<(), Status> {
    match declared::foreign(mesh, targets) {
        Some(target) => Err(Status::permission_denied(format!(
            "target `{target}` is neither an agent nor a service of the agent's mesh.yaml"
        ))),
        None => Ok(()),
    }
}

/// Nor are they anybody's way to ask a cluster's resolver: only declared names are asked for.
fn check_questions(mesh: &Mesh, plan: &ProbePlan) -> Result<(), Status> {
    let asked = plan
        .targets
        .iter()
        .filter_map(|t| t.target.question.as_ref());
    for Question { name, .. } in asked {
        let mut declared = mesh.services.iter().flat_map(|service| &service.names);
        if !declared.any(|known| known.name == *name) {
            return Err(Status::permission_denied(format!(
                "name `{name}` is not in the agent's mesh.yaml"
            )));
        }
    }
    Ok(())
}

fn status(refusal: &Refusal) -> Status {
    let text = chain(refusal);
    match refusal {
        Refusal::Plan(_) => Status::invalid_argument(text),
        Refusal::Probes(..) | Refusal::Runs(_) | Refusal::Rate { .. } | Refusal::Sockets { .. } => {
            Status::resource_exhausted(text)
        }
        Refusal::Stopped => Status::unavailable(text),
    }
}

/// One kernel series on the wire: every counter by its name, and the failures of all reasons together.
fn wire_series(series: &NamedSeries) -> wire::Series {
    let mut counters: BTreeMap<String, u64> = Counter::ALL
        .iter()
        .map(|counter| (counter.name().to_owned(), series.data.counter(*counter)))
        .collect();
    counters.insert(series_counter::FAILED.to_owned(), series.data.failed());
    let histograms = HistogramKind::ALL
        .iter()
        .map(|kind| {
            let histogram = series.data.histogram(*kind);
            let (index, count) = (0_u32..)
                .zip(histogram.buckets.iter())
                .filter(|(_, count)| **count > 0)
                .map(|(index, count)| (index, *count))
                .unzip();
            let wired = wire::Histogram {
                index,
                count,
                sum_ns: histogram.sum_ns,
            };
            (kind.name().to_owned(), wired)
        })
        .collect();
    wire::Series {
        remote: series.remote.clone(),
        direction: match series.key.direction() {
            Direction::Initiator => mesh::observation::Direction::Initiator.word(),
            Direction::Acceptor => mesh::observation::Direction::Acceptor.word(),
            Direction::Unknown => UNKNOWN_DIRECTION,
        }
        .to_owned(),
        class: series.class.clone(),
        origin: match series.key.origin() {
            Origin::Probe => mesh::observation::Origin::Probe.word(),
            Origin::Burst => mesh::observation::Origin::Burst.word(),
            Origin::Traffic => mesh::observation::Origin::Traffic.word(),
        }
        .to_owned(),
        counters,
        histograms,
    }
}

#[tonic::async_trait]
impl wire::agent_server::Agent for Api {
    async fn identity(
        &self,
        _request: Request<wire::IdentityRequest>,
    ) -> Result<Response<wire::IdentityReply>, Status> {
        let agent = &self.agent;
        count(&agent.api.identity);
        let (kernel_witness, kernel_detail) = agent.kernel.witness();
        let (wall_ns, monotonic_ns) = clocks();
        Ok(Response::new(wire::IdentityReply {
            cluster: agent.me.cluster.clone(),
            node: agent.me.node.clone(),
            plane: agent.plane.word().to_owned(),
            boot_id: agent.boot_id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel_witness,
            kernel_detail,
            wall_ns,
            monotonic_ns,
        }))
    }

    async fn observe(
        &self,
        _request: Request<wire::ObserveRequest>,
    ) -> Result<Response<wire::ObserveReply>, Status> {
        let agent = &self.agent;
        count(&agent.api.observe);
        let reading = agent.kernel.read();
        let series = reading
            .iter()
            .flat_map(|reading| &reading.series)
            .map(wire_series)
            .collect();
        let received = agent
            .responder
            .arrivals
            .so_far()
            .into_iter()
            .map(|(peer, datagrams)| wire::Received {
                address: peer.to_string(),
                datagrams,
            })
            .collect();
        let counters = metrics::agent_counters(agent, reading.as_ref());
        let (wall_ns, monotonic_ns) = clocks();
        Ok(Response::new(wire::ObserveReply {
            layout: probe_common::LAYOUT,
            series,
            counters,
            wall_ns,
            monotonic_ns,
            boot_id: agent.boot_id(),
            received,
        }))
    }

    type ProbeStream =
        Pin<Box<dyn Stream<Item = Result<wire::ProbeResult, Status>> + Send + 'static>>;

    async fn probe(
        &self,
        request: Request<wire::ProbeRequest>,
    ) -> Result<Response<Self::ProbeStream>, Status> {
        let agent = Arc::clone(&self.agent);
        count(&agent.api.probe);
        let refuse = |status: Status| {
            count(&agent.api.refused);
            status
        };
        let plan = ProbePlan::try_from(request.get_ref())
            .map_err(|error| refuse(Status::invalid_argument(chain(&error))))?;
        let mesh = agent.mesh();
        check_questions(&mesh, &plan).map_err(refuse)?;
        let addresses = plan.targets.iter().map(|t| t.target.address);
        // Only a question passes with none: it goes to the resolver of this agent.
        let targets = addresses.filter(|target| !target.ip().is_unspecified());
        check_targets(&mesh, targets).map_err(refuse)?;
        let kinds: Vec<ProbeKind> = plan.targets.iter().map(|t| t.kind).collect();
        let results = agent
            .prober
            .submit(plan, TileSide(ndvi::PROBE_SIDE), Purpose::Burst)
            .map_err(|refusal| refuse(status(&refusal)))?;
        let counted = Arc::clone(&agent);
        let run = agent.api.begin_run();
        let stream = ReceiverStream::new(results).map(move |(target, sample)| {
            let _going_on = &run;
            if let Some(kind) = kinds.get(target as usize) {
                counted.probes.burst(*kind, &sample);
            }
            Ok(probe_result(target, &sample))
        });
        Ok(Response::new(Box::pin(stream)))
    }

    type MeasureStream =
        Pin<Box<dyn Stream<Item = Result<wire::MeasureResult, Status>> + Send + 'static>>;

    async fn measure(
        &self,
        request: Request<wire::MeasureRequest>,
    ) -> Result<Response<Self::MeasureStream>, Status> {
        let agent = Arc::clone(&self.agent);
        count(&agent.api.measure);
        let refuse = |status: Status| {
            count(&agent.api.refused);
            status
        };
        let plan = MeasurePlan::try_from(request.get_ref())
            .map_err(|error| refuse(Status::invalid_argument(chain(&error))))?;
        let targets = plan.targets.iter().map(|t| t.address);
        check_targets(&agent.mesh(), targets).map_err(refuse)?;
        let results = agent
            .measurer
            .submit(plan)
            .map_err(|refusal| refuse(Status::resource_exhausted(chain(&refusal))))?;
        let run = agent.api.begin_run();
        let stream = ReceiverStream::new(results).map(move |(target, measurement)| {
            let _going_on = &run;
            Ok(measure_result(target, &measurement))
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn connections(
        &self,
        request: Request<wire::ConnectionsRequest>,
    ) -> Result<Response<wire::ConnectionsReply>, Status> {
        let agent = &self.agent;
        count(&agent.api.connections);
        if !agent.kernel.is_wanted() {
            let (_, reason) = agent.kernel.witness();
            return Err(Status::failed_precondition(reason));
        }
        let since = request.get_ref().since_ns;
        let (connections, dropped) = agent.kernel.store().since(since);
        Ok(Response::new(wire::ConnectionsReply {
            connections,
            dropped,
            boot_id: agent.boot_id(),
        }))
    }
}
