//! Measurements after the probes: which paths, between which nodes, and their results. Paths on which nothing came back
//! are not measured, and a path is measured from the end whose probes were answered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use mesh::measurement::{MeasureKind, MeasureOutcome, PathDirection};
use mesh::observation::{
    MeasuredPath, NoFigure, NodeRef, Outcome, PathMeasurement, Plane, ProbeKind, ProbeRun,
};
use mesh::{Mesh, RESPONDER_ECHO_PORT};
use probe_api::measure::{Figure, Measurement};
use probe_api::{Client, ClientError, MeasurePlan, MeasureStream, MeasureTarget, TransferCaps};
use tokio::task::JoinSet;
use verify::Policy;
use verify::checks;

use super::plan::{address, human, node_ref, pairs_of};

/// Partners of a node on a path: with two, a bad node differs from a bad partner.
const PARTNERS: usize = 2;
/// One agent is asked for so many searches at a time, and makes them together.
const SEARCHES_IN_A_CALL: usize = 8;
/// An agent that measures for somebody else is asked again so often, and after so long.
const ATTEMPTS: u32 = 6;
const PAUSE: Duration = Duration::from_millis(500);
/// What one search sends and receives as a rule, both directions, and at most.
const USUAL_SEARCH_BYTES: u64 = 60_000;
/// A transfer in one direction ends with whichever comes first.
const CAPS: TransferCaps = TransferCaps {
    bytes: 16_000_000,
    time: Duration::from_millis(400),
};
/// Smaller ones would say nothing.
const LEAST_TRANSFER_BYTES: u64 = 1_000_000;
/// Echoes and headers beside a transfer's payload.
const BESIDE_BYTES: u64 = 100_000;
/// Between two clusters.
const MOST_TRANSFERS: usize = 8;
/// Below this share of its fastest sibling a transfer is made again, alone, once; so many pairs at most.
const AGAIN_BELOW: f64 = 0.6;
const MOST_AGAIN: usize = 3;

/// Two nodes between which a path is measured, in both directions.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pair {
    plane: Plane,
    ends: [End; 2],
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct End {
    node: NodeRef,
    responder: SocketAddr,
}

/// What is measured when the probes are done.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Measures {
    searches: Vec<Pair>,
    transfers: Vec<Pair>,
    caps: TransferCaps,
    /// Declared, bit/s.
    objective: Option<f64>,
}

/// A client per agent that still answers.
pub(super) type Clients = BTreeMap<(NodeRef, Plane), Client>;

impl Measures {
    /// `left`: bytes that a node may send and receive beside its probes.
    pub(super) fn new(mesh: &Mesh, policy: &Policy, left: Option<u64>) -> Self {
        let selected = |ids: &[&str]| ids.iter().any(|id| policy.selects(id));
        let mut planes = Vec::new();
        if selected(&[checks::MTU_PATH, checks::MTU_UNDERLAY]) {
            planes.push(Plane::Pod);
        }
        if selected(&[checks::MTU_NODE_PATH, checks::MTU_UNDERLAY]) {
            planes.push(Plane::Node);
        }
        let transfers = if selected(&[checks::THROUGHPUT_TCP]) {
            transfers(mesh)
        } else {
            Vec::new()
        };
        let mut measures = Self {
            searches: planes
                .into_iter()
                .flat_map(|plane| pairs(mesh, plane))
                .collect(),
            transfers,
            caps: CAPS,
            objective: mesh.objectives.throughput_bits_per_second,
        };
        if let Some(left) = left {
            measures.fit(left);
        }
        measures
    }

    /// Makes transfers so small that no node sends and receives more than `left` bytes; leaves them out if that is too little.
    fn fit(&mut self, left: u64) {
        let searches = per_node(&self.searches, USUAL_SEARCH_BYTES);
        let searches = searches.values().copied().max().unwrap_or(0);
        let ways = 2 * per_node(&self.transfers, 1)
            .values()
            .copied()
            .max()
            .unwrap_or(0);
        let each = left.saturating_sub(searches) / ways.max(1);
        let payload = each.saturating_sub(BESIDE_BYTES) * 8 / 9;
        if payload < LEAST_TRANSFER_BYTES {
            self.transfers.clear();
        } else {
            self.caps.bytes = self.caps.bytes.min(payload);
        }
    }

    /// Bytes on the wire that each node spent on what came of it; what ended badly may have spent all that it might.
    pub(super) fn spent(&self, found: &[PathMeasurement]) -> BTreeMap<NodeRef, u64> {
        let mut sums = BTreeMap::new();
        for measured in found {
            let bytes = match &measured.result {
                MeasuredPath::PathMtu(Err(NoFigure::NotMade(_)))
                | MeasuredPath::Throughput(Err(NoFigure::NotMade(_))) => 0,
                // One search is both directions.
                MeasuredPath::PathMtu(_) => USUAL_SEARCH_BYTES / 2,
                MeasuredPath::Throughput(Ok(carried)) => on_the_wire(carried.bytes),
                MeasuredPath::Throughput(Err(_)) => self.wire_bytes(),
            };
            for node in [&measured.source, &measured.target] {
                *sums.entry(node.clone()).or_default() += bytes;
            }
        }
        sums
    }

    /// What the measurements send, for a person; `None` when there are none.
    pub(super) fn budget(&self) -> Option<String> {
        let mut parts = Vec::new();
        let mut bytes = per_node(&self.searches, USUAL_SEARCH_BYTES);
        let plural =
            |n: usize, one: &str, more: &str| format!("{n} {}", if n == 1 { one } else { more });
        if !self.searches.is_empty() {
            let (one, more) = ("path MTU search", "path MTU searches");
            parts.push(plural(self.searches.len(), one, more));
        }
        if !self.transfers.is_empty() {
            let transfers = plural(self.transfers.len(), "transfer", "transfers");
            parts.push(format!(
                "{transfers} each way of at most {} and {:.1} s",
                human(self.caps.bytes),
                self.caps.time.as_secs_f64()
            ));
            for (node, sum) in per_node(&self.transfers, 2 * self.wire_bytes()) {
                *bytes.entry(node).or_default() += sum;
            }
        }
        let most = bytes.values().max()?;
        let bound = if self.transfers.is_empty() {
            "usually at most"
        } else {
            "at most"
        };
        Some(format!(
            "then {}, {bound} {} per node",
            parts.join(" and "),
            human(*most)
        ))
    }

    /// On the wire, of one transfer in one direction.
    fn wire_bytes(&self) -> u64 {
        on_the_wire(self.caps.bytes)
    }
}

/// A payload with its headers, the acknowledgements and the echoes beside it.
fn on_the_wire(payload: u64) -> u64 {
    payload * 9 / 8 + BESIDE_BYTES
}

/// `each` for every pair that a node is an end of.
fn per_node(pairs: &[Pair], each: u64) -> BTreeMap<&NodeRef, u64> {
    let mut sums = BTreeMap::new();
    for end in pairs.iter().flat_map(|pair| &pair.ends) {
        *sums.entry(&end.node).or_default() += each;
    }
    sums
}

/// Pairs of clusters in scope, each once, with its place in mesh.yaml's order.
fn cluster_pairs(mesh: &Mesh) -> Vec<(&mesh::Cluster, &mesh::Cluster)> {
    let mut done = BTreeSet::new();
    let mut found = Vec::new();
    for link in &mesh.links {
        let mut names = [link.source.as_str(), link.target.as_str()];
        names.sort_unstable();
        if let (Some(a), Some(b), true) = (
            mesh.cluster(names[0]),
            mesh.cluster(names[1]),
            done.insert(names),
        ) {
            found.push((a, b));
        }
    }
    found
}

/// Both nodes as ends that the other can reach.
fn pair(
    (a, from): (&mesh::Cluster, usize),
    (b, to): (&mesh::Cluster, usize),
    plane: Plane,
) -> Option<Pair> {
    let (from, to) = (a.nodes.get(from)?, b.nodes.get(to)?);
    let end = |cluster: &mesh::Cluster, node, peer| {
        let responder = address(peer, node, plane)?;
        Some(End {
            node: node_ref(&cluster.name, node),
            responder: SocketAddr::new(responder, RESPONDER_ECHO_PORT),
        })
    };
    Some(Pair {
        plane,
        ends: [end(a, from, to)?, end(b, to, from)?],
    })
}

/// Nodes of every pair of clusters with [`PARTNERS`] partners each.
fn pairs(mesh: &Mesh, plane: Plane) -> Vec<Pair> {
    let mut found = Vec::new();
    for (a, b) in cluster_pairs(mesh) {
        let same = a.name == b.name;
        let mut once = BTreeSet::new();
        for (s, t) in pairs_of(a.nodes.len(), b.nodes.len(), same, PARTNERS) {
            if !same || once.insert([s.min(t), s.max(t)]) {
                found.extend(pair((a, s), (b, t), plane));
            }
        }
    }
    found
}

/// Every node with one partner in every other cluster, or with two where there is only one other; at most
/// [`MOST_TRANSFERS`] for each pair of clusters. Who is whose partner turns from one pair of clusters to the next,
/// so that more of them can go on at the same time.
fn transfers(mesh: &Mesh) -> Vec<Pair> {
    let clusters = cluster_pairs(mesh);
    let mut found = Vec::new();
    for (turn, (a, b)) in clusters.iter().enumerate() {
        if clusters.len() < 3 {
            let all = pairs_of(a.nodes.len(), b.nodes.len(), a.name == b.name, PARTNERS);
            let mut once = BTreeSet::new();
            let fresh = all
                .into_iter()
                .filter(|(s, t)| a.name != b.name || once.insert([*s.min(t), *s.max(t)]));
            let of_pair = fresh.take(MOST_TRANSFERS);
            found.extend(of_pair.filter_map(|(s, t)| pair((a, s), (b, t), Plane::Pod)));
            continue;
        }
        let (n, m) = (a.nodes.len(), b.nodes.len());
        let of_pair = (0..n.max(m)).take(MOST_TRANSFERS).filter_map(|i| {
            let (s, t) = if n >= m {
                (i, (i + turn) % m.max(1))
            } else {
                ((i + turn) % n.max(1), i)
            };
            pair((a, s), (b, t), Plane::Pod)
        });
        found.extend(of_pair);
    }
    found
}

/// Which probes were answered: (asker, asked, plane).
type Answered = BTreeSet<(NodeRef, NodeRef, Plane)>;

/// Between the nodes of `runs`, by datagram on the pods' plane where datagrams were sent, else by connection.
fn answered(runs: &[ProbeRun]) -> Answered {
    let datagrams = runs.iter().any(|run| run.kind == ProbeKind::Udp);
    runs.iter()
        .filter(|run| match run.plane {
            Plane::Pod if datagrams => run.kind == ProbeKind::Udp,
            _ => run.kind == ProbeKind::Tcp,
        })
        .filter(|run| run.samples.iter().any(|s| s.outcome == Outcome::Ok))
        .filter_map(|run| {
            let target = NodeRef {
                cluster: run.target.cluster.clone(),
                node: run.target.node.clone()?,
            };
            Some((run.source.clone(), target, run.plane))
        })
        .collect()
}

/// A pair with the end that measures: 0 or 1.
#[derive(Clone, Debug)]
struct Task {
    pair: Pair,
    by: usize,
}

impl Task {
    fn by(&self) -> &End {
        &self.pair.ends[self.by]
    }

    fn other(&self) -> &End {
        &self.pair.ends[1 - self.by]
    }

    /// The result of one direction.
    fn measurement(
        &self,
        direction: PathDirection,
        source_port: u16,
        result: MeasuredPath,
    ) -> PathMeasurement {
        let (by, other) = (self.by().node.clone(), self.other().node.clone());
        let (source, target) = match direction {
            PathDirection::Forward => (by, other),
            PathDirection::Return => (other, by),
        };
        PathMeasurement {
            source,
            target,
            plane: self.pair.plane,
            measured: direction,
            responder: self.other().responder,
            source_port,
            result,
        }
    }

    fn without(&self, kind: MeasureKind, reason: &str) -> [PathMeasurement; 2] {
        [PathDirection::Forward, PathDirection::Return].map(|direction| {
            let why = NoFigure::NotMade(reason.to_owned());
            let result = match kind {
                MeasureKind::PathMtu => MeasuredPath::PathMtu(Err(why)),
                MeasureKind::Throughput => MeasuredPath::Throughput(Err(why)),
            };
            self.measurement(direction, 0, result)
        })
    }

    fn target(&self, kind: MeasureKind) -> MeasureTarget {
        let other = self.other();
        MeasureTarget {
            node: other.node.clone(),
            address: other.responder,
            kind,
        }
    }
}

/// Which end measures each pair, both agents being such as `asks` lets be asked, so that nodes share the work; and the pairs that nobody can measure.
fn assign(
    pairs: &[Pair],
    kind: MeasureKind,
    asks: impl Fn(&NodeRef, Plane) -> bool,
    answered: &Answered,
) -> (Vec<Task>, Vec<PathMeasurement>) {
    let mut load: BTreeMap<NodeRef, usize> = BTreeMap::new();
    let (mut tasks, mut without) = (Vec::new(), Vec::new());
    for pair in pairs {
        let able = |by: usize| {
            let (by, other) = (&pair.ends[by].node, &pair.ends[1 - by].node);
            let agents = asks(by, pair.plane) && asks(other, pair.plane);
            agents && answered.contains(&(by.clone(), other.clone(), pair.plane))
        };
        let by = (0..2)
            .filter(|by| able(*by))
            .min_by_key(|by| load.get(&pair.ends[*by].node).copied().unwrap_or(0));
        match by {
            Some(by) => {
                *load.entry(pair.ends[by].node.clone()).or_default() += 1;
                tasks.push(Task {
                    pair: pair.clone(),
                    by,
                });
            }
            None => {
                let task = Task {
                    pair: pair.clone(),
                    by: 0,
                };
                without.extend(task.without(
                    kind,
                    "no probe between these nodes was answered, so nothing could be measured",
                ));
            }
        }
    }
    (tasks, without)
}

/// Measures all that `measures` lists, after the probes that `runs` holds, until `deadline`. Searches first: they tell
/// where a transfer would hang.
pub(super) async fn measure(
    measures: &Measures,
    runs: &[ProbeRun],
    clients: &Clients,
    deadline: tokio::time::Instant,
) -> Vec<PathMeasurement> {
    let asks = |node: &NodeRef, plane| clients.contains_key(&(node.clone(), plane));
    let answered = answered(runs);
    let (tasks, mut found) = assign(&measures.searches, MeasureKind::PathMtu, asks, &answered);
    found.extend(search(tasks, clients, deadline).await);
    let (tasks, without) = assign(
        &measures.transfers,
        MeasureKind::Throughput,
        asks,
        &answered,
    );
    let holes = holes(&found);
    found.extend(without);
    let (hung, tasks): (Vec<Task>, Vec<Task>) =
        tasks.into_iter().partition(|t| t.falls_into(&holes));
    for task in hung {
        found.extend(task.without(
            MeasureKind::Throughput,
            "large packets vanish between these nodes, see mtu.path",
        ));
    }
    let mut carried = Vec::new();
    for round in rounds(&tasks) {
        carried.extend(transfer(round, measures.caps, clients, deadline).await);
    }
    // Twice: a sibling that was faster at its second try raises what the others are held against.
    let mut left = MOST_AGAIN;
    for _ in 0..2 {
        let short = again(&tasks, &carried, measures.objective);
        for task in short.into_iter().take(left) {
            left -= 1;
            carried.extend(transfer(vec![task], measures.caps, clients, deadline).await);
        }
    }
    found.extend(carried);
    found
}

async fn search(
    tasks: Vec<Task>,
    clients: &Clients,
    deadline: tokio::time::Instant,
) -> Vec<PathMeasurement> {
    let mut by_agent: BTreeMap<(NodeRef, Plane), Vec<Task>> = BTreeMap::new();
    for task in tasks {
        let key = (task.by().node.clone(), task.pair.plane);
        by_agent.entry(key).or_default().push(task);
    }
    let mut asking = JoinSet::new();
    for (key, tasks) in by_agent {
        let Some(client) = clients.get(&key).cloned() else {
            continue;
        };
        asking.spawn(async move {
            let mut found = Vec::new();
            for tasks in tasks.chunks(SEARCHES_IN_A_CALL) {
                found.extend(ask(&client, tasks, MeasureKind::PathMtu, CAPS, deadline).await);
            }
            found
        });
    }
    gather(asking).await
}

/// All at the same time.
async fn transfer(
    tasks: Vec<Task>,
    caps: TransferCaps,
    clients: &Clients,
    deadline: tokio::time::Instant,
) -> Vec<PathMeasurement> {
    let mut asking = JoinSet::new();
    for task in tasks {
        let key = (task.by().node.clone(), task.pair.plane);
        if let Some(client) = clients.get(&key).cloned() {
            asking.spawn(async move {
                ask(&client, &[task], MeasureKind::Throughput, caps, deadline).await
            });
        }
    }
    gather(asking).await
}

async fn gather(mut asking: JoinSet<Vec<PathMeasurement>>) -> Vec<PathMeasurement> {
    let mut found = Vec::new();
    while let Some(done) = asking.join_next().await {
        match done {
            Ok(measured) => found.extend(measured),
            Err(error) => tracing::error!(%error, "a measurement ended badly; it is missing"),
        }
    }
    found
}

/// Pods between which packets vanish that their kernels let out, in this direction.
fn holes(found: &[PathMeasurement]) -> BTreeSet<(NodeRef, NodeRef)> {
    found
        .iter()
        .filter(|measured| measured.plane == Plane::Pod)
        .filter(|measured| {
            matches!(&measured.result, MeasuredPath::PathMtu(Ok(mtu)) if mtu.bytes < mtu.let_out())
        })
        .map(|measured| (measured.source.clone(), measured.target.clone()))
        .collect()
}

impl Task {
    fn falls_into(&self, holes: &BTreeSet<(NodeRef, NodeRef)>) -> bool {
        let (by, other) = (self.by().node.clone(), self.other().node.clone());
        holes.contains(&(by.clone(), other.clone())) || holes.contains(&(other, by))
    }

    fn clusters(&self) -> [&str; 2] {
        [&self.pair.ends[0], &self.pair.ends[1]].map(|end| end.node.cluster.as_str())
    }
}

/// Groups in which no node and no pair of clusters comes twice.
fn rounds(tasks: &[Task]) -> Vec<Vec<Task>> {
    let mut rounds: Vec<Vec<Task>> = Vec::new();
    for task in tasks {
        let disturbs = |other: &Task| {
            let shares = |end: &End| other.pair.ends.iter().any(|o| o.node == end.node);
            other.clusters() == task.clusters() || task.pair.ends.iter().any(shares)
        };
        match rounds.iter_mut().find(|round| !round.iter().any(disturbs)) {
            Some(round) => round.push(task.clone()),
            None => rounds.push(vec![task.clone()]),
        }
    }
    rounds
}

/// Those with a direction that fell short of the objective, or far behind a sibling, and that were measured only once:
/// the worst first.
fn again(tasks: &[Task], carried: &[PathMeasurement], objective: Option<f64>) -> Vec<Task> {
    let mut best: BTreeMap<(&NodeRef, &NodeRef), (f64, u32)> = BTreeMap::new();
    let mut fastest: BTreeMap<(&str, &str), f64> = BTreeMap::new();
    for measured in carried {
        let (source, target) = (&measured.source, &measured.target);
        let (most, times) = best.entry((source, target)).or_default();
        *times += 1;
        if let MeasuredPath::Throughput(Ok(found)) = &measured.result {
            let rate = found.bits_per_second();
            *most = most.max(rate);
            let of_path = fastest.entry((&source.cluster, &target.cluster));
            let of_path = of_path.or_insert(rate);
            *of_path = of_path.max(rate);
        }
    }
    let mut short: Vec<(f64, &Task)> = Vec::new();
    for task in tasks {
        let (by, other) = (&task.by().node, &task.other().node);
        let share = |(source, target): (&NodeRef, &NodeRef)| {
            let (rate, times) = *best.get(&(source, target))?;
            let fastest = fastest.get(&(&*source.cluster, &*target.cluster));
            let limit = objective.or_else(|| Some(AGAIN_BELOW * fastest?))?;
            (times == 1 && rate > 0.0).then_some(rate / limit)
        };
        let worst = [(by, other), (other, by)].into_iter().filter_map(share);
        if let Some(worst) = worst.reduce(f64::min).filter(|worst| *worst < 1.0) {
            short.push((worst, task));
        }
    }
    short.sort_by(|a, b| a.0.total_cmp(&b.0));
    short.into_iter().map(|(_, task)| task.clone()).collect()
}

/// One call of an agent. What it does not deliver in time has no figure, and says why.
async fn ask(
    client: &Client,
    tasks: &[Task],
    kind: MeasureKind,
    transfer: TransferCaps,
    deadline: tokio::time::Instant,
) -> Vec<PathMeasurement> {
    let plan = MeasurePlan {
        targets: tasks.iter().map(|task| task.target(kind)).collect(),
        transfer,
    };
    let mut found = Vec::new();
    let mut missing: BTreeSet<(usize, PathDirection)> = (0..tasks.len())
        .flat_map(|task| {
            [
                (task, PathDirection::Forward),
                (task, PathDirection::Return),
            ]
        })
        .collect();
    let results = async {
        let mut stream = start(client, &plan).await?;
        while let Some((target, measurement)) = stream.next().await? {
            missing.remove(&(target, measurement.direction));
            found.push(named(&tasks[target], kind, measurement));
        }
        Ok::<(), ClientError>(())
    };
    let why = match tokio::time::timeout_at(deadline, results).await {
        Ok(Ok(())) => return found,
        Ok(Err(error)) => super::collect::chain(&error),
        Err(_) => "there was no time left for it".to_owned(),
    };
    let why = probe_api::reply::printable(&why, 300);
    for (task, direction) in missing {
        let [forward, back] = tasks[task].without(kind, &why);
        found.push(if direction == PathDirection::Forward {
            forward
        } else {
            back
        });
    }
    found
}

/// An agent measures for one caller at a time.
async fn start(client: &Client, plan: &MeasurePlan) -> Result<MeasureStream, ClientError> {
    let mut attempt = 1;
    loop {
        match client.measure(plan).await {
            Err(ClientError::Refused { code, .. })
                if code == tonic::Code::ResourceExhausted && attempt < ATTEMPTS =>
            {
                attempt += 1;
                tokio::time::sleep(PAUSE).await;
            }
            answer => return answer,
        }
    }
}

fn named(task: &Task, kind: MeasureKind, measurement: Measurement) -> PathMeasurement {
    let Measurement {
        direction,
        outcome,
        source_port,
        figure,
        ..
    } = measurement;
    let none = || NoFigure::Ended(outcome);
    debug_assert!(figure.is_some() == (outcome == MeasureOutcome::Ok));
    let result = match (kind, figure) {
        (MeasureKind::PathMtu, Some(Figure::PathMtu(mtu))) => MeasuredPath::PathMtu(Ok(mtu)),
        (MeasureKind::PathMtu, _) => MeasuredPath::PathMtu(Err(none())),
        (MeasureKind::Throughput, Some(Figure::Throughput(found))) => {
            MeasuredPath::Throughput(Ok(found))
        }
        (MeasureKind::Throughput, _) => MeasuredPath::Throughput(Err(none())),
    };
    task.measurement(direction, source_port, result)
}

#[cfg(test)]
#[path = "measure_tests.rs"]
mod tests;
