//! Defects and limits that reading other tools' source brought to light, each as a test that the judgement does not have it.

mod simulate;
mod world;

use mesh::observation::{Observations, Outcome as Probe, ProbeKind};
use mesh::{Access, Link, PolicyRule};
use verify::verdict::Verdict;
use verify::{Check, Outcome, Policy, Status, judge};
use world::verdicts::{not_ready, verdict};
use world::{Fault, On, World, world};

fn row<'v>(verdict: &'v Verdict, id: &str, source: &str, target: &str) -> &'v Check {
    verdict
        .checks
        .iter()
        .find(|c| {
            c.id == id
                && c.source_cluster.as_deref() == Some(source)
                && c.target_cluster.as_deref() == Some(target)
        })
        .unwrap_or_else(|| panic!("no {id} {source}→{target}"))
}

fn judged(world: &World, edit: impl Fn(&mut Observations)) -> Verdict {
    let mut observations = world.observe();
    edit(&mut observations);
    judge(&world.mesh, &observations, &Policy::default()).expect("a scope")
}

/// cilium-cli, `clustermesh status`: the condition lists EndpointSlices in its message and never tests them.
#[test]
fn every_check_that_is_listed_is_judged() {
    let plain = world(Vec::new());
    let observations = plain.observe();
    let policy = Policy {
        baseline: Some(simulate::growth::of(&plain.mesh, &observations)),
        ..Policy::default()
    };
    let plain = judge(&plain.mesh, &observations, &policy).expect("a scope");
    let mut meant = world(vec![Fault::Policy(On("c", "b"))]);
    let rules = [("c", Access::Deny), ("a", Access::Allow)];
    meant.mesh.rules.policies = rules
        .map(|(source, access)| PolicyRule {
            link: Link {
                source: source.to_owned(),
                target: "b".to_owned(),
            },
            access,
        })
        .into();
    let mut board = meant.mesh.services[0].clone();
    board.name = "board".to_owned();
    board.backends.push("b".to_owned());
    board.port = 8081;
    board.names.push(mesh::ServiceName {
        name: "board.default.svc.clusterset.local".to_owned(),
        addresses: Vec::new(),
        clusters: Vec::new(),
    });
    meant.mesh.services.push(board);
    let meant = verdict(&meant);
    // Those of clusters: `clusters::a_healthy_mesh_lacks_only_measurements`.
    for spec in verify::checks::CHECKS
        .iter()
        .filter(|spec| verify::checks::of_mesh(spec.id))
    {
        let mut judged = plain.checks.iter().chain(&meant.checks);
        assert!(
            judged.any(|check| check.id == spec.id),
            "{} is listed and nothing judges it",
            spec.id
        );
    }
}

/// cilium-cli, `no-unexpected-packet-drops`: drop reasons that a half-joined mesh produces are excused.
#[test]
fn no_way_to_fail_is_excused() {
    for outcome in [
        Probe::Refused,
        Probe::Timeout,
        Probe::Reset,
        Probe::Unreachable,
        Probe::WrongResponder,
        Probe::BadReply,
    ] {
        let verdict = judged(&world(Vec::new()), |observations| {
            for run in &mut observations.runs {
                let ours = run.kind == ProbeKind::Http && run.source.cluster == "a";
                let failing = run.samples.iter_mut().step_by(10);
                for sample in failing.filter(|_| ours && run.target.cluster == "b") {
                    sample.outcome = outcome;
                }
            }
        });
        assert_eq!(verdict.result, Outcome::NotReady, "{outcome:?}");
        assert_eq!(not_ready(&verdict), ["a→b"], "{outcome:?}");
    }
}

/// cilium-cli, `connectivity perf`: the report drops minimum and maximum and holds nothing against a threshold.
#[test]
fn latency_comes_with_minimum_quantiles_bounds_and_a_threshold() {
    let verdict = verdict(&world(Vec::new()));
    for id in ["latency.connect", "latency.handshake_rtt"] {
        let check = row(&verdict, id, "b", "c");
        let observed = &check.observed;
        let (low, high) = (observed.p50.as_ref(), observed.p99.as_ref());
        let (low, high) = (low.expect("p50"), high.expect("p99"));
        let all = [
            observed.minimum_seconds,
            low.low_seconds,
            low.seconds,
            low.high_seconds,
            high.seconds,
            high.high_seconds,
            check.expected.threshold_seconds,
        ];
        let all: Vec<f64> = all
            .into_iter()
            .map(|value| value.expect("a figure"))
            .collect();
        assert!(all.is_sorted(), "{all:?}");
    }
}

/// cilium-cli, conn-disrupt-test: its verdict is a restart count, so that a stall below the retry limit is invisible.
#[test]
fn a_stall_without_a_failure_is_seen() {
    let mut world = world(vec![Fault::Loss(On("a", "b"), 0.05)]);
    world.seed = 11;
    let verdict = verdict(&world);
    // Nearly every connect comes through, a second later.
    assert_eq!(row(&verdict, "loss.tcp_syn", "a", "b").status, Status::Fail);
    let connect = row(&verdict, "latency.connect", "a", "b");
    assert_eq!(connect.status, Status::Fail);
    assert!(connect.observed.p99.as_ref().and_then(|q| q.seconds) > Some(0.9));
}

/// The same tool keys by pod name, and asks itself in a comment whether names may collide across clusters.
#[test]
fn nodes_of_the_same_name_in_two_clusters_are_two_nodes() {
    let mut world = world(vec![Fault::PodLoss(On("a/n1", "b"), 0.3)]);
    for cluster in &mut world.mesh.clusters {
        for (node, name) in cluster.nodes.iter_mut().zip(["n1", "n2"]) {
            node.name = name.to_owned();
        }
    }
    let verdict = verdict(&world);
    let loss = row(&verdict, "loss.udp", "a", "b");
    assert_eq!(
        (loss.status, loss.node.as_deref()),
        (Status::Fail, Some("n1"))
    );
    for (source, target) in [("b", "a"), ("c", "a"), ("c", "b"), ("b", "c"), ("a", "c")] {
        let other = row(&verdict, "loss.udp", source, target);
        assert_eq!(other.status, Status::Pass, "{source}→{target}");
    }
}

/// Submariner's pinger: an answer clears the count of unanswered ones, so that half of the packets may be lost for ever.
#[test]
fn half_of_the_packets_lost_is_not_connected() {
    for seed in 0..5 {
        let mut world = world(vec![Fault::PodLoss(On("a", "b"), 0.5)]);
        world.seed = seed;
        let verdict = verdict(&world);
        assert_eq!(verdict.result, Outcome::NotReady);
        let loss = row(&verdict, "loss.udp", "a", "b");
        let rate = loss.observed.rate.expect("a rate");
        assert!((0.45..0.55).contains(&rate), "{rate}");
        // What follows the last echo has no known direction, so the way back may stay undecided.
        assert_ne!(row(&verdict, "loss.udp", "b", "a").status, Status::Fail);
    }
}

/// Linkerd's probe: a failure below the threshold is skipped before it is counted.
#[test]
fn a_single_failure_is_counted() {
    let verdict = judged(&world(Vec::new()), |observations| {
        let run = observations.runs.iter_mut().find(|run| {
            run.kind == ProbeKind::Http && run.source.cluster == "a" && run.target.cluster == "b"
        });
        run.expect("a run").samples[3].outcome = Probe::Reset;
    });
    let observed = &row(&verdict, "reach.pod_http", "a", "b").observed;
    assert_eq!((observed.n, observed.bad), (Some(320), Some(1)));
    assert_eq!(observed.failures.get("reset"), Some(&1));
}

/// Linkerd's probe: latency in whole milliseconds, which is 0 in a data centre. Goldpinger: the first bucket ends at 5 ms.
#[test]
fn a_tenth_of_a_millisecond_is_told_from_two() {
    let shortened = |by: u64| {
        let verdict = judged(&world(Vec::new()), |observations| {
            for sample in observations
                .runs
                .iter_mut()
                .flat_map(|run| &mut run.samples)
            {
                sample.connect_ns = sample.connect_ns.map(|ns| ns / by);
            }
        });
        let p50 = row(&verdict, "latency.connect", "a", "b")
            .observed
            .p50
            .clone();
        p50.and_then(|q| q.seconds).expect("a median")
    };
    let (tenth, fifth) = (shortened(40), shortened(20));
    assert!((0.000_10..0.000_13).contains(&tenth), "{tenth}");
    assert!((fifth / tenth - 2.0).abs() < 0.05, "{fifth} {tenth}");
}

/// Linkerd's probe: latency is recorded for successes only, so that a path which drops the slow ones looks fast.
#[test]
fn lost_probes_are_slower_than_every_threshold() {
    let verdict = judged(&world(Vec::new()), |observations| {
        for run in &mut observations.runs {
            let ours = run.kind == ProbeKind::Tcp && run.source.cluster == "a";
            for sample in run.samples.iter_mut().step_by(20).filter(|_| ours) {
                sample.outcome = Probe::Timeout;
                sample.connect_ns = None;
                sample.round_trip_ns = None;
            }
        }
    });
    let check = row(&verdict, "latency.connect", "a", "b");
    assert_eq!(check.status, Status::Fail);
    let observed = &check.observed;
    assert!(observed.p50.as_ref().and_then(|q| q.seconds).is_some());
    // 5 % have no time at all: the 99th percentile lies among them.
    assert_eq!(observed.p99.as_ref().and_then(|q| q.seconds), None);
}

/// NetObserv: the largest smoothed RTT of a record stands for all of it.
#[test]
fn one_slow_connect_moves_no_quantile() {
    let p99 = |edit: fn(&mut Observations)| {
        let verdict = judged(&world(Vec::new()), edit);
        let p99 = row(&verdict, "latency.connect", "a", "b")
            .observed
            .p99
            .clone();
        p99.and_then(|q| q.seconds).expect("p99")
    };
    let calm = p99(|_| {});
    let slow = p99(|observations| {
        let run = observations.runs.iter_mut().find(|run| {
            run.kind == ProbeKind::Tcp && run.source.cluster == "a" && run.target.cluster == "b"
        });
        run.expect("a run").samples[5].connect_ns = Some(500_000_000);
    });
    assert!((slow / calm - 1.0).abs() < 0.01, "{slow} {calm}");
}

/// Inspektor Gadget: one RTT histogram for the whole node. Cilium took the target out of the labels of node latency.
#[test]
fn each_target_has_figures_of_its_own() {
    let verdict = verdict(&world(vec![Fault::Delay(On("a", "c"), 0.030)]));
    let median = |target: &str| {
        let p50 = row(&verdict, "latency.connect", "a", target)
            .observed
            .p50
            .clone();
        p50.and_then(|q| q.seconds).expect("a median")
    };
    assert!(median("c") - median("b") > 0.029);
    for node in ["a1", "a2", "b1", "b2"] {
        let marginals = &row(&verdict, "reach.pod_tcp", "a", "b").observed.marginals;
        assert!(
            marginals.iter().any(|m| m.node == node && m.n == 480),
            "{node}"
        );
    }
}

/// Coroot's node agent: a ping that is lost produces no sample.
#[test]
fn lost_probes_are_samples() {
    let n = |faults| {
        let verdict = verdict(&world(faults));
        let of = |id| row(&verdict, id, "a", "b").observed.n;
        (
            of("reach.pod_udp"),
            of("reach.pod_tcp"),
            of("latency.connect"),
        )
    };
    assert_eq!(
        n(vec![Fault::PodLoss(On("a", "b"), 0.5)]),
        n(Vec::new()),
        "loss must not make the sample smaller"
    );
}

/// Retina: buckets of half a millisecond that end at 4.5 ms.
#[test]
fn long_latencies_are_resolved() {
    for extra in [0.005, 0.050, 0.500] {
        let verdict = verdict(&world(vec![Fault::Delay(On("a", "b"), extra)]));
        let p50 = row(&verdict, "latency.connect", "a", "b")
            .observed
            .p50
            .clone();
        let median = p50.and_then(|q| q.seconds).expect("a median");
        assert!(
            (median - extra - 0.0045).abs() < 0.0005,
            "{extra}: {median}"
        );
    }
}

/// KubeSkoop: a failed ping is written down as 9999.9 ms.
#[test]
fn a_failure_gets_no_invented_duration() {
    let verdict = verdict(&world(vec![Fault::Loss(On("a", "b"), 1.0)]));
    let observed = &row(&verdict, "latency.connect", "a", "b").observed;
    assert_eq!(observed.minimum_seconds, None);
    for quantile in [&observed.p50, &observed.p99].into_iter().flatten() {
        assert_eq!(quantile.seconds, None);
    }
    let link = &verdict.links[0];
    assert_eq!(
        (link.connect_p50_seconds, link.connect_p99_seconds),
        (None, None)
    );
}
