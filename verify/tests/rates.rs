//! How often the verdict is wrong: simulated links near the objective, judged as any other.

mod world;

use std::net::SocketAddr;

use mesh::observation::{
    NodeAccount, NodeRef, NodeReport, NodeState, Observations, Outcome, Plane, ProbeKind, ProbeRun,
    ProbeTarget, Sample,
};
use verify::stats::{Count, holm, p_too_few, p_too_many};
use verify::{Policy, Status, judge};
use world::Random;

const LINKS: u32 = 500;
const N: u32 = 640;
const P0: f64 = 0.01;

/// Shares of links whose `reach.pod_tcp` passes and fails when probes fail with probability `p`.
fn shares(p: f64, seed: u64) -> (f64, f64) {
    let mut mesh = world::mesh(&["a", "b"], 1);
    mesh.services.clear();
    mesh.links.truncate(1);
    let node = |cluster: &str| NodeRef {
        cluster: cluster.into(),
        node: format!("{cluster}1"),
    };
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
    let mut random = Random::new(seed);
    let policy = Policy {
        only: vec!["reach.pod_tcp".into()],
        ..Policy::default()
    };
    let (mut passed, mut failed) = (0, 0);
    for _ in 0..LINKS {
        let samples = (0..N)
            .map(|sequence| {
                let bad = random.chance(p);
                Sample {
                    sequence,
                    source_port: 61_000,
                    sent_ns: 0,
                    delay_ns: 0,
                    outcome: if bad { Outcome::Timeout } else { Outcome::Ok },
                    connect_ns: (!bad).then_some(1),
                    round_trip_ns: (!bad).then_some(1),
                    responder: None,
                    receiver_count: None,
                    starved: false,
                }
            })
            .collect();
        observations.runs = vec![ProbeRun {
            source: node("a"),
            target: ProbeTarget {
                cluster: "b".into(),
                node: Some("b1".into()),
                service: None,
                address: SocketAddr::from(([10, 1, 0, 2], 7411)),
            },
            kind: ProbeKind::Tcp,
            plane: Plane::Pod,
            samples,
        }];
        let verdict = judge(&mesh, &observations, &policy).expect("a scope");
        let check = verdict
            .checks
            .iter()
            .find(|check| check.id == "reach.pod_tcp")
            .expect("the check");
        match check.status {
            Status::Pass => passed += 1,
            Status::Fail => failed += 1,
            _ => {}
        }
    }
    (
        f64::from(passed) / f64::from(LINKS),
        f64::from(failed) / f64::from(LINKS),
    )
}

/// α plus three standard errors of the simulation itself.
fn tolerated() -> f64 {
    0.05 + 3.0 * (0.05 * 0.95 / f64::from(LINKS)).sqrt()
}

#[test]
fn wrong_verdicts_are_rarer_than_stated() {
    for (seed, margin) in [(1, 0.0), (2, 0.2)] {
        let (ready, _) = shares(P0 * (1.0 + margin), seed);
        assert!(
            ready <= tolerated(),
            "wrong READY {ready} at p0 × {}",
            1.0 + margin
        );
        let (_, not_ready) = shares(P0 * (1.0 - margin), seed + 10);
        assert!(
            not_ready <= tolerated(),
            "wrong NOT READY {not_ready} at p0 × {}",
            1.0 - margin
        );
    }
}

#[test]
fn clear_cases_are_decided() {
    assert!(shares(0.0005, 4).0 > 0.98);
    assert!(shares(0.05, 5).1 > 0.98);
}

/// Many links that all sit exactly at the objective: the chance of any false NOT READY stays below α.
#[test]
fn holm_holds_over_a_whole_mesh() {
    let mut random = Random::new(6);
    let (runs, links) = (4_000, 30);
    // Binomial draws by inversion from the exact distribution.
    let below: Vec<f64> = (0..=40)
        .map(|k| p_too_few(Count::new(u64::from(N), k), P0))
        .collect();
    let mut false_alarms = 0;
    for _ in 0..runs {
        let p_values: Vec<f64> = (0..links)
            .map(|_| {
                let u = random.uniform();
                let k = below.iter().position(|p| u <= *p).unwrap_or(40) as u64;
                p_too_many(Count::new(u64::from(N), k), P0)
            })
            .collect();
        false_alarms += u32::from(holm(&p_values, 0.05).contains(&true));
    }
    let rate = f64::from(false_alarms) / f64::from(runs);
    assert!(
        rate <= 0.05 + 3.0 * (0.05 * 0.95 / f64::from(runs)).sqrt(),
        "{rate}"
    );
    assert!(rate > 0.005, "the test would not notice: {rate}");
}
