//! Simulated links, probed and judged look by look as verify does it, until nothing is open or the looks are spent.

#![allow(dead_code, reason = "each binary uses its own part")]

pub(crate) mod growth;

use std::net::SocketAddr;

use mesh::Mesh;
use mesh::observation::{
    NodeAccount, NodeRef, NodeReport, NodeState, Observations, Outcome, Plane, ProbeKind, ProbeRun,
    ProbeTarget, Sample,
};
use verify::{Policy, Status, judge_look, looks};

use crate::world::{self, Random};

pub(crate) const P0: f64 = 0.01;
pub(crate) const ALPHA: f64 = 0.05;
/// A node's probes of one kind: 486 in 12 s.
const SPACING_NS: u64 = 25_000_000;

/// Mean burst up to which a link that loses twice its objective is found out within the default window: 50 ms.
pub(crate) const SHORT_BURST: f64 = 2.0;

/// How a link loses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Loss {
    Independent,
    /// Gilbert–Elliott: a state that loses everything, left after this many probes on average.
    Bursts(f64),
}

/// How links of one kind were judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Judged {
    pub(crate) links: u64,
    pub(crate) ready: u64,
    pub(crate) not_ready: u64,
    pub(crate) looks: u64,
    pub(crate) probes: u64,
}

impl Judged {
    pub(crate) fn share(&self, part: u64) -> f64 {
        part as f64 / self.links as f64
    }
}

/// Fates of consecutive probes.
struct Line {
    loss: Loss,
    p: f64,
    bad: bool,
}

impl Line {
    fn new(loss: Loss, p: f64, random: &mut Random) -> Self {
        let bad = random.chance(p);
        Self { loss, p, bad }
    }

    fn loses(&mut self, random: &mut Random) -> bool {
        match self.loss {
            Loss::Independent => random.chance(self.p),
            Loss::Bursts(mean) => {
                let lost = self.bad;
                let (leave, enter) = (1.0 / mean, self.p / ((1.0 - self.p) * mean));
                self.bad = random.chance(if lost { 1.0 - leave } else { enter });
                lost
            }
        }
    }
}

/// A link of one node on either side, so that each of its three statements rests on all of its probes.
struct Bench {
    mesh: Mesh,
    policy: Policy,
    observations: Observations,
    p0: f64,
}

fn node(cluster: &str) -> NodeRef {
    NodeRef {
        cluster: cluster.into(),
        node: format!("{cluster}1"),
    }
}

impl Bench {
    fn new(p0: f64) -> Self {
        let mut mesh = world::mesh(&["a", "b"], 1);
        mesh.objectives.loss = p0;
        mesh.services.clear();
        mesh.links.truncate(1);
        let mut observations = Observations::default();
        for cluster in ["a", "b"] {
            for plane in [Plane::Pod, Plane::Node] {
                observations.nodes.push(NodeReport {
                    node: node(cluster),
                    plane,
                    state: NodeState::Observed(NodeAccount::default()),
                });
            }
        }
        let policy = Policy {
            only: vec!["reach.pod_udp".into()],
            ..Policy::default()
        };
        Self {
            mesh,
            policy,
            observations,
            p0,
        }
    }

    fn probe(&mut self, look: u32, count: u64, line: &mut Line, random: &mut Random) {
        let samples = (0..count)
            .map(|at| {
                let bad = line.loses(random);
                Sample {
                    sequence: at as u32,
                    source_port: 61_000,
                    sent_ns: at * SPACING_NS,
                    delay_ns: 0,
                    outcome: if bad { Outcome::Timeout } else { Outcome::Ok },
                    connect_ns: None,
                    round_trip_ns: (!bad).then_some(1),
                    responder: None,
                    receiver_count: None,
                    starved: false,
                }
            })
            .collect();
        self.observations.runs.push(ProbeRun {
            source: node("a"),
            target: ProbeTarget {
                cluster: "b".into(),
                node: Some("b1".into()),
                service: None,
                address: SocketAddr::from(([10, 1, 0, 2], 7411)),
                question: None,
            },
            kind: ProbeKind::Udp,
            plane: Plane::Pod,
            look,
            samples,
        });
    }

    /// One link, look by look.
    fn link(&mut self, loss: Loss, p: f64, random: &mut Random, sum: &mut Judged) {
        self.observations.runs.clear();
        let first = looks::first_look(self.p0, 1.0 - ALPHA, 1).expect("decidable");
        let mut line = Line::new(loss, p, random);
        sum.links += 1;
        for look in 0..looks::MOST {
            let before = if look == 0 { 0 } else { looks::times(look - 1) };
            let count = first * (looks::times(look) - before);
            self.probe(look as u32, count, &mut line, random);
            sum.probes += count;
            sum.looks += 1;
            let (verdict, open) =
                judge_look(&self.mesh, &self.observations, &self.policy).expect("a scope");
            let check = verdict
                .checks
                .iter()
                .find(|check| check.id == "reach.pod_udp")
                .expect("the check");
            match check.status {
                Status::Pass => sum.ready += 1,
                Status::Fail => sum.not_ready += 1,
                _ if !open.is_empty() => continue,
                _ => {}
            }
            break;
        }
    }
}

/// `count` links that lose the share `p`, of which they may lose [`P0`].
pub(crate) fn links(loss: Loss, p: f64, count: u64, seed: u64) -> Judged {
    links_against(P0, loss, p, count, seed)
}

/// `count` links that lose the share `p`, of which they may lose `p0`.
pub(crate) fn links_against(p0: f64, loss: Loss, p: f64, count: u64, seed: u64) -> Judged {
    let mut bench = Bench::new(p0);
    let mut random = Random::new(seed);
    let mut sum = Judged::default();
    for _ in 0..count {
        bench.link(loss, p, &mut random, &mut sum);
    }
    sum
}
