//! Links whose latency grew since a baseline, or did not, probed and judged look by look.

use std::net::SocketAddr;

use mesh::Mesh;
use mesh::observation::{
    Direction, KernelConnection, KernelOutcome, NodeAccount, NodeReport, NodeState, Observations,
    Outcome, Plane, ProbeKind, ProbeRun, ProbeTarget, Sample,
};
use verify::report::{Occasion, Tool};
use verify::{Baseline, Outcome as Result, Policy, Status, judge_look, looks};

use super::{ALPHA, Judged, P0, SPACING_NS, node};
use crate::world::{self, Random};

/// Samples of the baseline.
pub(crate) const KEPT: u64 = 10_000;
/// Shortest round trip and p99, s; what is beyond the shortest is exponential.
const SHORTEST: f64 = 0.018;
const P99: f64 = 0.020;

/// What a p99 that is `grew` times the baseline's comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Growth {
    /// Every packet takes longer.
    Path,
    /// The shortest stay, the others wait longer.
    Queue,
    /// As before, and this share of the connects fails.
    Failing(f64),
}

#[derive(Clone, Copy)]
struct Line {
    shortest: f64,
    /// Mean of what is beyond the shortest, s.
    mean: f64,
    failing: f64,
}

impl Line {
    fn new(growth: Growth, times: f64) -> Self {
        let tail = 100_f64.ln();
        let mut line = Self {
            shortest: SHORTEST,
            mean: (P99 - SHORTEST) / tail,
            failing: 0.0,
        };
        match growth {
            Growth::Path => line.shortest += P99 * (times - 1.0),
            Growth::Queue => line.mean = (P99 * times - SHORTEST) / tail,
            Growth::Failing(share) => line.failing = share,
        }
        line
    }

    fn connect(self, random: &mut Random) -> Option<f64> {
        let seconds = self.shortest - self.mean * (1.0 - random.uniform()).ln();
        (!random.chance(self.failing)).then_some(seconds)
    }
}

pub(crate) struct Bench {
    mesh: Mesh,
    observations: Observations,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let mut mesh = world::mesh(&["a", "b"], 1);
        mesh.services.clear();
        mesh.links.truncate(1);
        let mut observations = Observations::default();
        for cluster in ["a", "b"] {
            for plane in [Plane::Pod, Plane::Node] {
                observations.nodes.push(NodeReport {
                    node: node(cluster),
                    plane,
                    state: NodeState::Observed(NodeAccount {
                        kernel_witness: Some("kernel".into()),
                        ..NodeAccount::default()
                    }),
                });
            }
        }
        Self { mesh, observations }
    }

    fn clear(&mut self) {
        self.observations.runs.clear();
        self.observations.connections.clear();
    }

    fn probe(&mut self, look: u32, count: u64, line: Line, random: &mut Random) {
        let remote = SocketAddr::from(([10, 1, 0, 2], 7411));
        let began = self.observations.connections.len() as u64;
        let mut samples = Vec::new();
        for at in 0..count {
            let source_port = 61_000 + ((began + at) % 4_000) as u16;
            let connect = line.connect(random);
            let outcome = if connect.is_some() {
                Outcome::Ok
            } else {
                Outcome::Timeout
            };
            let sent_ns = at * SPACING_NS;
            samples.push(Sample {
                sequence: at as u32,
                source_port,
                sent_ns,
                delay_ns: 0,
                outcome,
                // User space needs a tenth of a millisecond.
                connect_ns: connect.map(|s| ((s + 1e-4) * 1e9) as u64),
                round_trip_ns: connect.map(|_| 1),
                responder: None,
                receiver_count: None,
                starved: false,
            });
            self.observations.connections.push(KernelConnection {
                node: node("a"),
                direction: Direction::Initiator,
                local: SocketAddr::from(([10, 0, 0, 2], source_port)),
                remote,
                outcome: if connect.is_some() {
                    KernelOutcome::Established
                } else {
                    KernelOutcome::AbortedByApplication
                },
                at_ns: began * SPACING_NS + sent_ns,
                connect_ns: connect.map(|s| (s * 1e9) as u64),
                handshake_rtt_us: connect.map(|s| (s * 1e6) as u32),
                min_rtt_us: None,
                syn_retransmits: 0,
            });
        }
        self.observations.runs.push(ProbeRun {
            source: node("a"),
            target: ProbeTarget {
                cluster: "b".into(),
                node: Some("b1".into()),
                service: None,
                question: None,
                address: remote,
            },
            kind: ProbeKind::Tcp,
            plane: Plane::Pod,
            look,
            samples,
        });
    }

    /// A baseline of `kept` samples.
    pub(crate) fn keep(&mut self, kept: u64, random: &mut Random) -> Baseline {
        self.clear();
        self.probe(0, kept, Line::new(Growth::Path, 1.0), random);
        let baseline = of(&self.mesh, &self.observations);
        assert_eq!(baseline.check(&self.mesh), Ok(()));
        baseline
    }

    /// One link against a baseline of its own, look by look, `first` samples at the first.
    pub(crate) fn link(
        &mut self,
        baseline: Baseline,
        (growth, times): (Growth, f64),
        first: u64,
        random: &mut Random,
        sum: &mut Judged,
    ) -> verify::Verdict {
        self.clear();
        let policy = Policy {
            only: vec!["latency.*".into()],
            baseline: Some(baseline),
            ..Policy::default()
        };
        let line = Line::new(growth, times);
        sum.links += 1;
        let mut last = None;
        for look in 0..looks::MOST {
            let before = if look == 0 { 0 } else { looks::times(look - 1) };
            let count = first * (looks::times(look) - before);
            self.probe(look as u32, count, line, random);
            sum.probes += count;
            sum.looks += 1;
            let (verdict, open) =
                judge_look(&self.mesh, &self.observations, &policy).expect("a scope");
            let status = status(&verdict);
            let goes_on = open.iter().any(|open| open.check == "latency.baseline");
            last = Some(verdict);
            match status {
                Status::Pass => sum.ready += 1,
                Status::Fail => sum.not_ready += 1,
                _ if goes_on => continue,
                _ => {}
            }
            break;
        }
        last.expect("a look")
    }
}

/// What a READY run keeps.
pub(crate) fn of(mesh: &Mesh, observations: &Observations) -> Baseline {
    let occasion = Occasion {
        tool: Tool {
            name: "aggrik8s".into(),
            version: "0".into(),
            commit: None,
        },
        command: "verify".into(),
        mesh: mesh.name.clone(),
        started_at: "2026-11-21T08:00:00Z".into(),
        duration_seconds: 120.0,
    };
    Baseline::of(mesh, observations, Result::Ready, occasion)
}

pub(crate) fn status(verdict: &verify::Verdict) -> Status {
    let check = verdict.checks.iter().find(|c| c.id == "latency.baseline");
    check.expect("the check").status
}

/// Samples of the first look of a link of one node on either side.
pub(crate) fn first() -> u64 {
    looks::first_look(P0, 1.0 - ALPHA, 1).expect("decidable")
}

/// `count` links whose p99 is `times` the baseline's, each with a baseline of its own of `kept` samples.
pub(crate) fn links(growth: Growth, times: f64, kept: u64, count: u64, seed: u64) -> Judged {
    let mut bench = Bench::new();
    let mut random = Random::new(seed);
    let mut sum = Judged::default();
    for _ in 0..count {
        let baseline = bench.keep(kept, &mut random);
        bench.link(baseline, (growth, times), first(), &mut random, &mut sum);
    }
    sum
}
