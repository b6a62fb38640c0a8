//! Asks every agent at once: who are you, probe these, what did your kernel see. Whoever cannot answer is data.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mesh::observation::{
    KernelSeries, NodeRef, NodeReport, NodeState, Observations, Plane, ProbeRun, Received, Sample,
};
use mesh::{AgentEndpoint, Mesh, Tls};
use probe_api::reply::printable;
use probe_api::{Client, Deadlines, Identity, Observation, ProbePlan};
use tokio::task::JoinSet;
use verify::{Policy, judge_look};

use super::believe::absurd;
use super::clock::{self, Exchange};
use super::measure::{Clients, Measures, measure};
use super::plan::{Plan, Round, Stream};
use super::progress::Progress;

const DEADLINES: Deadlines = Deadlines {
    connect: Duration::from_secs(3),
    call: Duration::from_secs(8),
    stream_slack: Duration::from_secs(8),
};
/// Exchanges per agent from which the clock offset is taken.
const EXCHANGES: usize = 5;
/// The kernels' last records need this long to reach the agents.
const SETTLE: Duration = Duration::from_millis(300);

/// What a look needs beyond its probes: its answers, and its judgement.
const ROUND_SLACK: Duration = Duration::from_secs(2);

type Key = (NodeRef, Plane);

/// Probes look by look until nothing is open or `plan` has nothing left to send, and gathers what all agents of the
/// links in scope know, within `limit`.
pub(super) async fn collect(
    mesh: &Mesh,
    plan: &Plan,
    measures: &Measures,
    policy: &Policy,
    limit: Duration,
    progress: &Arc<Progress>,
) -> Observations {
    let deadline = tokio::time::Instant::now() + limit;
    let base = Instant::now();
    progress.say("asking the agents who they are");
    let mut agents = greet(mesh, base, deadline, limit).await;
    let probing = Instant::now();
    // The kernels' part still has to be asked for when the probes were cut off.
    let reserve = (limit / 4).min(DEADLINES.call);
    let mut runs = Vec::new();
    let mut done = Vec::new();
    let mut measurements = Vec::new();
    let mut beside = BTreeMap::new();
    let mut round = plan.first();
    loop {
        progress.expect(round.probes());
        runs.extend(probe(&mut agents, &round, deadline - reserve, limit, progress).await);
        let duration_seconds = probing.elapsed().as_secs_f64();
        if done.is_empty() {
            progress.say("measuring the paths");
            let clients = clients(&agents);
            measurements = measure(measures, &runs, &clients, deadline - reserve).await;
            beside = measures.spent(&measurements);
        }
        tokio::time::sleep(SETTLE).await;
        progress.say("asking the agents what their kernels saw");
        let mut observations = account(&agents, deadline, limit).await;
        observations.duration_seconds = duration_seconds;
        observations.runs = std::mem::take(&mut runs);
        observations.measurements = std::mem::take(&mut measurements);
        done.push(round);
        let left = (deadline - reserve).saturating_duration_since(tokio::time::Instant::now());
        // What cannot be judged at all is the caller's to report.
        let open =
            judge_look(mesh, &observations, policy).map_or_else(|_| Vec::new(), |(_, open)| open);
        match plan.next(&done, &beside, &open, left.saturating_sub(ROUND_SLACK)) {
            None => return observations,
            Some(next) => round = next,
        }
        runs = observations.runs;
        measurements = observations.measurements;
    }
}

/// An agent that answered so far.
#[derive(Clone)]
struct Session {
    client: Client,
    identity: Identity,
    before: Observation,
    wall: Vec<Exchange>,
    monotonic: Vec<Exchange>,
}

/// Those that answered so far.
fn clients(agents: &Agents) -> Clients {
    let answering = |(key, session): (&Key, &Result<Session, String>)| {
        Some((key.clone(), session.as_ref().ok()?.client.clone()))
    };
    agents.iter().filter_map(answering).collect()
}

type Agents = BTreeMap<Key, Result<Session, String>>;

fn declared(mesh: &Mesh) -> BTreeMap<Key, Option<AgentEndpoint>> {
    let in_scope: BTreeSet<&String> = mesh
        .links
        .iter()
        .flat_map(|link| [&link.source, &link.target])
        .collect();
    let mut agents = BTreeMap::new();
    for cluster in mesh
        .clusters
        .iter()
        .filter(|cluster| in_scope.contains(&cluster.name))
    {
        for node in &cluster.nodes {
            let key = NodeRef {
                cluster: cluster.name.clone(),
                node: node.name.clone(),
            };
            agents.insert((key.clone(), Plane::Pod), node.agent.clone());
            agents.insert((key, Plane::Node), node.agent_node_plane.clone());
        }
    }
    agents
}

async fn greet(
    mesh: &Mesh,
    base: Instant,
    deadline: tokio::time::Instant,
    limit: Duration,
) -> Agents {
    let mut asking = JoinSet::new();
    let mut agents = Agents::new();
    for (key, endpoint) in declared(mesh) {
        let Some(endpoint) = endpoint else {
            agents.insert(key, Err("mesh.yaml declares no agent here".to_owned()));
            continue;
        };
        let tls = mesh.tls.clone();
        asking.spawn(async move {
            let session = within(
                deadline,
                limit,
                session(&key, &endpoint, tls.as_ref(), base),
            )
            .await;
            (key, session)
        });
    }
    while let Some(done) = asking.join_next().await {
        if let Ok((key, session)) = done {
            agents.insert(key, session);
        }
    }
    agents
}

/// Stops waiting at the run's own deadline.
async fn within<T>(
    deadline: tokio::time::Instant,
    limit: Duration,
    answer: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    match tokio::time::timeout_at(deadline, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(out_of_time(limit)),
    }
}

fn out_of_time(limit: Duration) -> String {
    format!(
        "did not finish within --timeout {}",
        humantime::format_duration(limit)
    )
}

async fn session(
    key: &Key,
    endpoint: &AgentEndpoint,
    tls: Option<&Tls>,
    base: Instant,
) -> Result<Session, String> {
    let client = Client::connect_within(endpoint, tls, DEADLINES)
        .await
        .map_err(|e| chain(&e))?;
    let (mut wall, mut monotonic) = (Vec::new(), Vec::new());
    let mut identity = None;
    for _ in 0..EXCHANGES {
        let (asked, asked_wall) = (base.elapsed(), SystemTime::now());
        let answer = client.identity().await.map_err(|e| chain(&e))?;
        let (answered, answered_wall) = (base.elapsed(), SystemTime::now());
        wall.push(Exchange {
            asked: seconds(asked_wall),
            answered: seconds(answered_wall),
            theirs: answer.wall_ns as f64 * 1e-9,
        });
        monotonic.push(Exchange {
            asked: asked.as_secs_f64(),
            answered: answered.as_secs_f64(),
            theirs: answer.monotonic_ns as f64 * 1e-9,
        });
        identity.get_or_insert(answer);
    }
    let identity = identity.ok_or_else(|| "no identity".to_owned())?;
    if (&identity.node, identity.plane) != (&key.0, key.1) {
        return Err(format!(
            "the agent at this address says that it is `{}/{}` ({:?} plane), so mesh.yaml points to the wrong one",
            identity.node.cluster, identity.node.node, identity.plane
        ));
    }
    let before = client.observe().await.map_err(|e| chain(&e))?;
    if before.boot_id != identity.boot_id {
        return Err("restarted while it was asked".to_owned());
    }
    Ok(Session {
        client,
        identity,
        before,
        wall,
        monotonic,
    })
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// Runs all streams of a look at once. An agent whose stream fails is silent from then on, and nothing it sent is used.
async fn probe(
    agents: &mut Agents,
    round: &Round,
    deadline: tokio::time::Instant,
    limit: Duration,
    progress: &Arc<Progress>,
) -> Vec<ProbeRun> {
    let mut running = JoinSet::new();
    for stream in &round.streams {
        let key = (stream.source.clone(), stream.plane);
        let Some(Ok(session)) = agents.get(&key) else {
            continue;
        };
        let client = session.client.clone();
        let Some(stream) = answerable(agents, stream) else {
            continue;
        };
        let progress = Arc::clone(progress);
        let later = round.look > 0;
        running.spawn(async move {
            let answer = results(&client, &stream.plan, &progress);
            let results = match tokio::time::timeout_at(deadline, answer).await {
                Ok(results) => results.map(Some),
                // What earlier looks brought stands; the agent will be asked again what its kernel saw.
                Err(_) if later => Ok(None),
                Err(_) => Err(out_of_time(limit)),
            };
            (key, stream, results)
        });
    }
    let mut done = Vec::new();
    while let Some(finished) = running.join_next().await {
        match finished {
            Ok((_, stream, Ok(Some(samples)))) => done.push((stream, samples)),
            Ok((key, _, Ok(None))) => {
                tracing::warn!(node = %key.0.node, "ran out of time during a later look, which does not count");
            }
            Ok((key, _, Err(reason))) => {
                agents.insert(key, Err(reason));
            }
            Err(error) => {
                tracing::error!(%error, "a probe task ended badly; its samples are missing")
            }
        }
    }
    done.into_iter()
        .filter(|(stream, _)| {
            matches!(
                agents.get(&(stream.source.clone(), stream.plane)),
                Some(Ok(_))
            )
        })
        .flat_map(|(stream, samples)| {
            let targets = stream.plan.targets.into_iter().zip(samples);
            targets.map(move |(target, samples)| ProbeRun {
                source: stream.source.clone(),
                target: target.target,
                kind: target.kind,
                plane: stream.plane,
                look: round.look as u32,
                samples,
            })
        })
        .collect()
}

/// The stream without targets whose own agent is silent: they could not be judged.
fn answerable(agents: &Agents, stream: &Stream) -> Option<Stream> {
    let mut stream = stream.clone();
    stream.plan.targets.retain(|planned| {
        planned.target.node.as_ref().is_none_or(|node| {
            let node = NodeRef {
                cluster: planned.target.cluster.clone(),
                node: node.clone(),
            };
            matches!(agents.get(&(node, stream.plane)), Some(Ok(_)))
        })
    });
    (!stream.plan.targets.is_empty()).then_some(stream)
}

async fn results(
    client: &Client,
    plan: &ProbePlan,
    progress: &Progress,
) -> Result<Vec<Vec<Sample>>, String> {
    let started = Instant::now();
    let mut stream = client.probe(plan).await.map_err(|e| chain(&e))?;
    let mut samples: Vec<Vec<Sample>> = plan.targets.iter().map(|_| Vec::new()).collect();
    while let Some((target, sample)) = stream.next().await.map_err(|e| chain(&e))? {
        if let Some(why) = absurd(&sample, started.elapsed()) {
            return Err(format!(
                "its answer to probe cannot be believed: target {target}, {why}"
            ));
        }
        progress.result();
        if let Some(of_target) = samples.get_mut(target) {
            of_target.push(sample);
        }
    }
    Ok(samples)
}

/// What every agent and its kernel have to say about the run.
async fn account(agents: &Agents, deadline: tokio::time::Instant, limit: Duration) -> Observations {
    let mut asking = JoinSet::new();
    let mut observations = Observations::default();
    for ((node, plane), session) in agents.clone() {
        asking.spawn(async move {
            let answer = match session {
                Ok(session) => within(deadline, limit, witness(&node, plane, session)).await,
                Err(reason) => Err(reason),
            };
            (node, plane, answer)
        });
    }
    while let Some(done) = asking.join_next().await {
        let (node, plane, answer) = match done {
            Ok(done) => done,
            Err(error) => {
                tracing::error!(%error, "an agent's task ended badly; it counts as silent");
                continue;
            }
        };
        let state = match answer {
            Ok((account, connections, series, received)) => {
                observations.received.extend(received);
                observations.connections.extend(connections);
                observations.series.extend(series);
                NodeState::Observed(account)
            }
            Err(reason) => NodeState::Unreachable(printable(&reason, 600)),
        };
        observations.nodes.push(NodeReport { node, plane, state });
    }
    observations
        .nodes
        .sort_by(|a, b| (&a.node, a.plane).cmp(&(&b.node, b.plane)));
    observations
}

type Testimony = (
    mesh::observation::NodeAccount,
    Vec<mesh::observation::KernelConnection>,
    Vec<KernelSeries>,
    Vec<Received>,
);

async fn witness(node: &NodeRef, plane: Plane, session: Session) -> Result<Testimony, String> {
    let Session {
        client,
        identity,
        before,
        wall,
        monotonic,
    } = session;
    let after = client.observe().await.map_err(|e| chain(&e))?;
    let restarted = |boot_id: &str| {
        (boot_id != identity.boot_id).then(|| "restarted during the run".to_owned())
    };
    if let Some(reason) = restarted(&after.boot_id) {
        return Err(reason);
    }
    let mut account = after.account_since(&before, &identity);
    if let Some((offset, bound)) = clock::offset(&wall) {
        account.clock_offset_seconds = Some(offset);
        account.clock_offset_bound_seconds = Some(bound);
    }
    account.monotonic_offset_seconds = clock::offset(&monotonic).map(|(offset, _)| offset);
    // Both planes of a node share one kernel; the pod plane reads it.
    if plane == Plane::Node {
        return Ok((account, Vec::new(), Vec::new(), Vec::new()));
    }
    let mut connections = Vec::new();
    if identity.kernel_witness {
        let records = client
            .connections(node, identity.monotonic_ns)
            .await
            .map_err(|e| chain(&e))?;
        if let Some(reason) = restarted(&records.boot_id) {
            return Err(reason);
        }
        if records.dropped > 0 {
            tracing::warn!(node = %node.node, dropped = records.dropped, "the agent no longer had all kernel records of the run");
        }
        connections = records.connections;
    }
    let received = after.received_since(&before, node);
    Ok((account, connections, grown(node, &before, &after), received))
}

/// What each series grew by during the run.
fn grown(node: &NodeRef, before: &Observation, after: &Observation) -> Vec<KernelSeries> {
    let key = |s: &KernelSeries| (s.remote.clone(), s.direction, s.class.clone(), s.origin);
    let earlier: BTreeMap<_, KernelSeries> = before
        .series
        .iter()
        .filter_map(|series| series.kernel_series(node))
        .map(|series| (key(&series), series))
        .collect();
    let mut grown: Vec<KernelSeries> = after
        .series
        .iter()
        .filter_map(|series| series.kernel_series(node))
        .collect();
    for series in &mut grown {
        let Some(was) = earlier.get(&key(series)) else {
            continue;
        };
        for (now, then) in [
            (&mut series.established, was.established),
            (&mut series.failed, was.failed),
            (&mut series.bytes_sent, was.bytes_sent),
            (&mut series.bytes_received, was.bytes_received),
            (&mut series.retransmits, was.retransmits),
        ] {
            *now = now.saturating_sub(then);
        }
    }
    grown
}

/// An error with its causes on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Transport errors like to repeat themselves.
        if !text.contains(&cause_text) {
            text += &format!(": {cause_text}");
        }
        source = cause.source();
    }
    text
}
