//! Which probes answer the questions of a mesh, how many of each at which look, and what they cost. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use mesh::observation::{NodeRef, Plane, ProbeKind, ProbeTarget};
use mesh::{Link, Mesh, Node, RESPONDER_ECHO_PORT, RESPONDER_HTTP_PORT, ServiceKind};
use probe_api::{MAX_COUNT, MAX_TARGETS, PlannedTarget, ProbePlan};
use verify::checks::{self, CHECKS};
use verify::{Open, Policy, looks};

mod control;
mod dns;
mod provable;
mod service;

pub(super) use provable::Unprovable;

/// Deadline of one probe: long enough to see a SYN that had to be sent again after a second.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// What the probes are spread over unless asked otherwise; a longer window gets more probes, a shorter one no fewer.
pub(super) const WINDOW: Duration = Duration::from_secs(12);
/// Bad probes that a healthy node may have without making its link undecided.
const TOLERATED: u64 = 1;
/// Connects per node where none may come through.
const DENIED: f64 = 60.0;
/// Shortest later look, in windows of the first.
const SHORTEST_ROUND: f64 = 0.5;
/// Most probes a second of one node, and of all of them, which one collector has to read: more are spread over a longer
/// window.
const NODE_RATE: f64 = 1_000.0;
const MESH_RATE: f64 = 2_500.0;
/// Most partners that a node of the larger cluster is probed with on one link; every node has as many.
const PARTNERS: usize = 32;

/// Bytes on the wire per probe, both directions, tunnel headers included, as counted on the lab's line.
fn bytes(kind: ProbeKind) -> u64 {
    match kind {
        // SYN, SYN-ACK, ACK, request, reply, their ACKs, RST: frames of 384 bytes, and 50 of VXLAN a packet.
        ProbeKind::Tcp => 1_650,
        ProbeKind::Udp => 930,
        ProbeKind::Http => 1_350,
        // Names and tunnel headers twice, and the address.
        ProbeKind::Dns => 400,
        ProbeKind::NdviTile => {
            let pixels = u64::from(ndvi::PROBE_SIDE) * u64::from(ndvi::PROBE_SIDE);
            // Two bands of two bytes there, one of two back, a tenth for headers.
            pixels * 6 * 11 / 10 + 3_000
        }
    }
}

/// What one agent is asked to do: one stream per kind, so that each kind fills the whole window.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stream {
    pub(super) source: NodeRef,
    pub(super) plane: Plane,
    pub(super) plan: ProbePlan,
}

/// The probes of one look.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Round {
    pub(super) look: usize,
    pub(super) streams: Vec<Stream>,
    pub(super) window: Duration,
}

pub(super) struct Plan {
    wanted: Vec<Wanted>,
    window: Duration,
    /// Share of the probes that the byte budget left over.
    kept: f64,
    budget: Option<u64>,
    /// Bytes of the first look without it, of the node that sends and receives most.
    whole: u64,
}

impl Plan {
    pub(super) fn new(mesh: &Mesh, policy: &Policy, window: Duration, budget: Option<u64>) -> Self {
        let mut wanted = Vec::new();
        for link in &mesh.links {
            link_targets(mesh, policy, link, &mut wanted);
        }
        control::targets(mesh, policy, &mut wanted);
        service::targets(mesh, policy, &mut wanted);
        dns::targets(mesh, policy, &mut wanted);
        let times = (window.as_secs_f64() / WINDOW.as_secs_f64()).max(1.0);
        for want in &mut wanted {
            want.count *= times;
        }
        let mut plan = Self {
            wanted,
            window,
            kept: 1.0,
            budget,
            whole: 0,
        };
        let first = plan.first();
        let most = first.most(|cost| cost.bytes);
        plan.whole = most;
        if let Some(budget) = budget.filter(|budget| most > *budget) {
            plan.kept = budget as f64 / most as f64;
        }
        let rate = |probes: u64, bearable: f64| {
            probes as f64 * plan.kept / window.max(WINDOW).as_secs_f64() / bearable
        };
        let busiest = rate(first.most(Cost::probes), NODE_RATE);
        let all = rate(first.probes(), MESH_RATE);
        plan.window = window.mul_f64(busiest.max(all).max(1.0));
        plan
    }

    pub(super) fn window(&self) -> Duration {
        self.window
    }

    /// What every run sends.
    pub(super) fn first(&self) -> Round {
        Round {
            look: 0,
            streams: streams(self.wanted.iter(), self.window, self.kept),
            window: self.window,
        }
    }

    /// What is sent after the looks in `done` for the links and kinds that they left `open`; `None` when nothing
    /// is left to send, or it does not fit into the byte budget, of which `beside` went to measurements, or into `left`.
    pub(super) fn next(
        &self,
        done: &[Round],
        beside: &BTreeMap<NodeRef, u64>,
        open: &[Open],
        left: Duration,
    ) -> Option<Round> {
        let look = done.len();
        if look == 0 || look >= looks::MOST {
            return None;
        }
        let wanted: Vec<&Wanted> = self
            .wanted
            .iter()
            .filter(|want| open.iter().any(|open| want.answers(open, look)))
            .collect();
        let times = self.kept * (looks::times(look) - looks::times(look - 1)) as f64;
        let mut round = Round {
            look,
            streams: streams(wanted.iter().copied(), self.window, times),
            window: self.window,
        };
        if round.streams.is_empty() {
            return None;
        }
        // No node works harder than at the first look, and bursts still have the time to show.
        let load = round.most(Cost::probes) as f64 / done[0].most(Cost::probes).max(1) as f64;
        round.window = self.window.mul_f64(load.max(SHORTEST_ROUND));
        round.streams = streams(wanted.into_iter(), round.window, times);
        let spent = |node: &NodeRef| -> u64 {
            let cost = |round: &Round| round.per_node().get(node).map_or(0, |cost| cost.bytes);
            let probes = done.iter().map(cost).sum::<u64>() + cost(&round);
            probes + beside.get(node).copied().unwrap_or(0)
        };
        let affordable = self.budget.is_none_or(|budget| {
            let first = done[0].per_node();
            first.keys().all(|node| spent(node) <= budget)
        });
        (affordable && round.longest() <= left).then_some(round)
    }

    /// Of the node that sends and receives most.
    pub(super) fn most_bytes(&self) -> u64 {
        self.first().most(|cost| cost.bytes)
    }

    /// What is about to be spent, for a person.
    pub(super) fn budget(&self) -> String {
        let first = self.first();
        let total: u64 = first.per_node().values().map(|cost| cost.bytes).sum();
        let mut text = format!(
            "budget: at most {} connections, {} datagrams and {} per node over {:.0} s; {} probes, {} in all",
            first.most(|cost| cost.connections),
            first.most(|cost| cost.datagrams),
            human(first.most(|cost| cost.bytes)),
            self.window.as_secs_f64(),
            first.probes(),
            human(total)
        );
        text += &match self.budget {
            Some(budget) => format!(
                "\nbudget: what that leaves undecided is probed further, at most {} per node in all",
                human(budget.max(first.most(|cost| cost.bytes)))
            ),
            None => format!(
                "\nbudget: what that leaves undecided is probed further, at most {} per node in all",
                human(looks::times(looks::MOST - 1) * first.most(|cost| cost.bytes))
            ),
        };
        if self.kept < 1.0 {
            text += &format!(
                "\nnote: --budget leaves {:.0} % of the probes; that may be too few to decide",
                self.kept * 100.0
            );
        }
        text
    }
}

impl Round {
    pub(super) fn probes(&self) -> u64 {
        self.streams.iter().map(|stream| stream.plan.probes()).sum()
    }

    /// How long it takes when nothing answers.
    pub(super) fn longest(&self) -> Duration {
        let streams = self.streams.iter().map(|stream| stream.plan.longest());
        streams.max().unwrap_or_default()
    }

    fn most(&self, of: fn(&Cost) -> u64) -> u64 {
        self.per_node().values().map(of).max().unwrap_or(0)
    }

    fn per_node(&self) -> BTreeMap<&NodeRef, Cost> {
        let mut costs: BTreeMap<&NodeRef, Cost> = BTreeMap::new();
        for stream in &self.streams {
            let cost = costs.entry(&stream.source).or_default();
            for target in &stream.plan.targets {
                let count = u64::from(target.count);
                if matches!(target.kind, ProbeKind::Udp | ProbeKind::Dns) {
                    cost.datagrams += count;
                } else {
                    cost.connections += count;
                }
                cost.bytes += count * bytes(target.kind);
            }
        }
        costs
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Cost {
    connections: u64,
    datagrams: u64,
    bytes: u64,
}

impl Cost {
    fn probes(&self) -> u64 {
        self.connections + self.datagrams
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Wanted {
    source: NodeRef,
    plane: Plane,
    kind: ProbeKind,
    target: ProbeTarget,
    count: f64,
    /// So many targets like this one a single statement rests on; 0 where none does.
    statement: f64,
}

impl Wanted {
    /// Whether more of these would settle `open` at look `look`.
    fn answers(&self, open: &Open, look: usize) -> bool {
        // A second look may show another rate; where it is still as close to the objective, more looks are in vain.
        let hopeful = look == 1 || open.more.is_some();
        let (source, target) = (&self.source.cluster, &self.target.cluster);
        let there = (source, target) == (&open.link.source, &open.link.target);
        // Echoes of the datagrams that the other side sent count for this direction of the path as well.
        let back = (source, target) == (&open.link.target, &open.link.source)
            && open.check == checks::LOSS_UDP;
        hopeful
            && (there || back)
            && lives_from(self.kind, self.plane).contains(&open.check.as_str())
    }
}

/// The checks that live from one kind of probes.
fn lives_from(kind: ProbeKind, plane: Plane) -> &'static [&'static str] {
    let ids: &[&str] = match (kind, plane) {
        (ProbeKind::Tcp, Plane::Pod) => &[
            checks::POD_TCP,
            checks::LATENCY_CONNECT,
            checks::LATENCY_HANDSHAKE,
            checks::LATENCY_BASELINE,
            checks::LOSS_TCP_SYN,
        ],
        // What nodes measure is measured where their connects are answered.
        (ProbeKind::Tcp, Plane::Node) => &[
            checks::NODE_TCP,
            checks::MTU_NODE_PATH,
            checks::MTU_UNDERLAY,
        ],
        (ProbeKind::Udp, _) => &[checks::POD_UDP, checks::LOSS_UDP],
        (ProbeKind::Http, _) => &[checks::POD_HTTP],
        (ProbeKind::Dns, _) => &[checks::DNS_RESOLVE, checks::DNS_LATENCY],
        (ProbeKind::NdviTile, _) => &[checks::NDVI_SUCCESS, checks::NDVI_ROUND_TRIP],
    };
    debug_assert!(
        ids.iter()
            .all(|id| CHECKS.iter().any(|spec| spec.id == *id))
    );
    ids
}

/// Whether the selected checks need these probes.
fn needed(policy: &Policy, kind: ProbeKind, plane: Plane) -> bool {
    let ids = lives_from(kind, plane);
    // Evidence is judged always, and lives from TCP probes of the pod plane.
    (kind == ProbeKind::Tcp && plane == Plane::Pod) || ids.iter().any(|id| policy.selects(id))
}

fn link_targets(mesh: &Mesh, policy: &Policy, link: &Link, wanted: &mut Vec<Wanted>) {
    let (Some(source), Some(target)) = (mesh.cluster(&link.source), mesh.cluster(&link.target))
    else {
        return;
    };
    let objectives = &mesh.objectives;
    let proving =
        |p0: f64| looks::first_look(p0, objectives.confidence, TOLERATED).unwrap_or(0) as f64;
    let connect = proving(1.0 - objectives.connect_success).max(proving(0.01));
    let back = Link {
        source: link.target.clone(),
        target: link.source.clone(),
    };
    let denied = mesh.rules.denies(link);
    // Where one side is denied, the datagrams of the other have to tell of both directions alone.
    let alone = if mesh.rules.denies(&back) { 2.0 } else { 1.0 };
    let datagram = proving(objectives.loss);
    let same = link.source == link.target;
    let pairs = pairs(source.nodes.len(), target.nodes.len(), same);
    // A node takes part in this many pairs at least, and has to prove the objective by itself.
    let per_node = least_partners(&pairs, source.nodes.len(), target.nodes.len()).max(1) as f64;
    let all = pairs.len().max(1) as f64;
    for (plane, kind, port, wanted_in_all, statement) in [
        (
            Plane::Pod,
            ProbeKind::Tcp,
            RESPONDER_ECHO_PORT,
            connect.max(datagram),
            per_node,
        ),
        // Either leg of an echo counts for one path direction; half of a node's are its own.
        (
            Plane::Pod,
            ProbeKind::Udp,
            RESPONDER_ECHO_PORT,
            alone * datagram,
            per_node,
        ),
        (
            Plane::Pod,
            ProbeKind::Http,
            RESPONDER_HTTP_PORT,
            connect,
            all,
        ),
        (
            Plane::Node,
            ProbeKind::Tcp,
            RESPONDER_ECHO_PORT,
            connect,
            all,
        ),
    ] {
        if !needed(policy, kind, plane) {
            continue;
        }
        let (count, statement) = match (denied, plane, kind) {
            (true, Plane::Pod, ProbeKind::Tcp) => (DENIED / per_node, 0.0),
            (true, Plane::Pod, _) => continue,
            _ => (wanted_in_all / statement, statement),
        };
        for (s, t) in &pairs {
            let (s, t) = (&source.nodes[*s], &target.nodes[*t]);
            let Some(address) = address(s, t, plane) else {
                continue;
            };
            wanted.push(Wanted {
                source: node_ref(&link.source, s),
                plane,
                kind,
                target: ProbeTarget {
                    cluster: link.target.clone(),
                    node: Some(t.name.clone()),
                    service: None,
                    address: SocketAddr::new(address, port),
                    question: None,
                },
                count,
                statement,
            });
        }
    }
    if !needed(policy, ProbeKind::NdviTile, Plane::Pod) {
        return;
    }
    let count = proving(1.0 - objectives.ndvi_success) / source.nodes.len().max(1) as f64;
    let served = |s: &&mesh::Service| {
        s.kind == ServiceKind::Ndvi && s.cluster == link.target && !s.is_global()
    };
    for service in mesh.services.iter().filter(served) {
        let Some(address) = service.addresses.first() else {
            continue;
        };
        for node in &source.nodes {
            wanted.push(Wanted {
                source: node_ref(&link.source, node),
                plane: Plane::Pod,
                kind: ProbeKind::NdviTile,
                target: ProbeTarget {
                    cluster: link.target.clone(),
                    node: None,
                    service: Some(service.name.clone()),
                    address: SocketAddr::new(*address, service.port),
                    question: None,
                },
                count,
                statement: source.nodes.len() as f64,
            });
        }
    }
}

pub(super) fn node_ref(cluster: &str, node: &Node) -> NodeRef {
    NodeRef {
        cluster: cluster.to_owned(),
        node: node.name.clone(),
    }
}

/// The target's first address of a family that the source has as well.
pub(super) fn address(source: &Node, target: &Node, plane: Plane) -> Option<std::net::IpAddr> {
    let of = |node: &Node| match plane {
        Plane::Pod => node.agent_pod.clone(),
        Plane::Node => node.addresses.clone(),
    };
    let own = of(source);
    of(target)
        .into_iter()
        .find(|address| own.iter().any(|a| a.is_ipv4() == address.is_ipv4()))
}

/// Pairs (source, target) so that every node of the larger side has min([`PARTNERS`], smaller side)
/// partners, and those of the smaller side at least as many: all pairs while clusters are small.
fn pairs(sources: usize, targets: usize, same: bool) -> Vec<(usize, usize)> {
    pairs_of(sources, targets, same, PARTNERS)
}

/// The same with so many partners.
pub(super) fn pairs_of(
    sources: usize,
    targets: usize,
    same: bool,
    partners: usize,
) -> Vec<(usize, usize)> {
    let (large, small) = (sources.max(targets), sources.min(targets));
    let mut pairs = Vec::new();
    if small == 0 {
        return pairs;
    }
    let degree = small.min(partners);
    for l in 0..large {
        for step in 0..degree {
            // Towards itself a cluster skips the node's own index.
            let s = (l + step + usize::from(same && degree < small)) % small;
            let (source, target) = if sources >= targets { (l, s) } else { (s, l) };
            if !(same && source == target) {
                pairs.push((source, target));
            }
        }
    }
    pairs
}

fn least_partners(pairs: &[(usize, usize)], sources: usize, targets: usize) -> usize {
    let mut partners = (vec![0; sources], vec![0; targets]);
    for (s, t) in pairs {
        partners.0[*s] += 1;
        partners.1[*t] += 1;
    }
    partners.0.into_iter().chain(partners.1).min().unwrap_or(0)
}

fn streams<'w>(
    wanted: impl Iterator<Item = &'w Wanted>,
    window: Duration,
    times: f64,
) -> Vec<Stream> {
    let mut by_stream: BTreeMap<(&NodeRef, Plane, ProbeKind), Vec<PlannedTarget>> = BTreeMap::new();
    for want in wanted {
        let count = (want.count * times).ceil().clamp(1.0, f64::from(MAX_COUNT));
        by_stream
            .entry((&want.source, want.plane, want.kind))
            .or_default()
            .push(PlannedTarget {
                target: want.target.clone(),
                kind: want.kind,
                count: count as u32,
            });
    }
    let mut streams = Vec::new();
    for ((source, plane, _), targets) in by_stream {
        for targets in targets.chunks(MAX_TARGETS) {
            let most = targets.iter().map(|t| t.count).max().unwrap_or(1).max(1);
            streams.push(Stream {
                source: source.clone(),
                plane,
                plan: ProbePlan {
                    targets: targets.to_vec(),
                    interval: (window / most).clamp(
                        probe_api::request::MIN_INTERVAL,
                        probe_api::request::MAX_INTERVAL,
                    ),
                    timeout: PROBE_TIMEOUT,
                },
            });
        }
    }
    streams
}

/// `5MB`, `200 kB`, `1000`.
pub(super) fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text
        .trim()
        .trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let unit = text.trim()[digits.len()..].trim();
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        _ => return Err(format!("`{unit}` is not B, kB, MB or GB")),
    };
    match digits.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok((number * factor) as u64),
        _ => Err(format!(
            "`{text}` is not a positive number of bytes such as 5MB"
        )),
    }
}

pub(super) fn human(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests;
