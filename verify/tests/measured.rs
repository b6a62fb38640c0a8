//! Measured paths: what their figures are judged to be, and the cause that each fault must be given.

mod world;

use mesh::measurement::MtuLimit;
use mesh::observation::{
    Direction, KernelConnection, KernelOutcome, MeasuredPath, Plane, ProbeKind,
};
use verify::checks::Severity;
use verify::verdict::{Check, PlaneName, Verdict};
use verify::{Outcome, Policy, Status, judge};
use world::verdicts::{check, not_ready, top, verdict};
use world::{Fault, MtuMode, On, World, world};

fn row<'v>(verdict: &'v Verdict, id: &str, source: &str, target: &str) -> &'v Check {
    verdict
        .checks
        .iter()
        .find(|check| {
            check.id == id
                && check.source_cluster.as_deref() == Some(source)
                && check.target_cluster.as_deref() == Some(target)
        })
        .expect("a row")
}

#[test]
fn a_black_hole_is_named_to_the_byte_with_the_value_to_set() {
    for (on, floor, place, node) in [
        (On("a", "b"), 1_393, "a→b -", None),
        (On("a/a2", "b"), 1_281, "a→b a2", Some("a2")),
        (On("c", "a/a1"), 1_499, "c→a a1", Some("a1")),
        (On("b/b1", "c/c2"), 1_400, "b→c b1 → c2", Some("b1 → c2")),
    ] {
        let verdict = check(
            vec![Fault::Mtu(on.clone(), floor, MtuMode::Silent)],
            &format!("mtu.black_hole {place}"),
            &[&format!("{}⇢{}", &place[..1], &place["a→".len()..][..1])],
        );
        let (source, target) = (&place[..1], &place["a→".len()..][..1]);
        let pods = row(&verdict, "mtu.path", source, target);
        assert_eq!(pods.status, Status::Fail);
        assert_eq!(pods.observed.mtu_bytes, Some(floor - 50));
        assert_eq!(pods.observed.mtu_limit, Some(MtuLimit::Silent));
        assert_eq!(pods.observed.mtu_local_bytes, Some(1_450));
        assert_eq!(pods.node.as_deref(), node);
        let nodes = row(&verdict, "mtu.node_path", source, target);
        assert_eq!(nodes.observed.mtu_bytes, Some(floor));
        assert_eq!(
            row(&verdict, "mtu.underlay", source, target).status,
            Status::Pass
        );
        assert_eq!(
            row(&verdict, "mtu.path", target, source).status,
            Status::Pass
        );
        let cause = &verdict.causes[0];
        assert_eq!(verdict.causes.len(), 1, "{:#?}", verdict.causes);
        assert!(
            cause.hint.contains(&format!("Cilium `MTU: {floor}`")),
            "{}",
            cause.hint
        );
        assert!(
            cause
                .summary
                .contains(&format!("above {} bytes", floor - 50)),
            "{}",
            cause.summary
        );
    }
}

#[test]
fn a_node_whose_large_packets_vanish_everywhere_is_named() {
    let faults = [On("b/b1", "a"), On("b/b1", "c")]
        .map(|on| Fault::Mtu(on, 1_400, MtuMode::Silent))
        .to_vec();
    let verdict = verdict(&world(faults));
    assert_eq!(top(&verdict), "node.mtu b→- b1");
    assert_eq!(verdict.causes.len(), 1, "{:#?}", verdict.causes);
}

#[test]
fn a_sender_that_knows_its_path_is_fine() {
    for mode in [MtuMode::Told, MtuMode::Absorbed] {
        let verdict = verdict(&world(vec![Fault::Mtu(On("a", "b"), 1_400, mode)]));
        assert_eq!(verdict.result, Outcome::Ready, "{mode:?}");
        let pods = row(&verdict, "mtu.path", "a", "b");
        assert_eq!(
            (pods.status, pods.observed.mtu_bytes),
            (Status::Pass, Some(1_350))
        );
        assert!(
            pods.evidence[0].contains("1350 bytes"),
            "{:?}",
            pods.evidence
        );
    }
}

#[test]
fn a_sender_that_ignores_what_a_hop_says_is_named() {
    check(
        vec![Fault::Mtu(On("a", "b"), 1_400, MtuMode::Ignored)],
        "mtu.ignored a→b -",
        &["a⇢b"],
    );
    // What its kernel made of it is not known: no pass, no failure.
    let unclear = verdict(&world(vec![Fault::Mtu(
        On("a", "b"),
        1_400,
        MtuMode::Unclear,
    )]));
    assert_eq!(unclear.result, Outcome::Undecided);
    let pods = row(&unclear, "mtu.path", "a", "b");
    assert_eq!(pods.status, Status::Undecided);
    assert!(
        pods.cause
            .as_ref()
            .is_some_and(|why| why.contains("not visible"))
    );
}

#[test]
fn a_path_below_what_is_declared_fails_however_it_is_told() {
    for (mode, id) in [
        (MtuMode::Told, "mtu.below_declared"),
        (MtuMode::Absorbed, "mtu.below_declared"),
        (MtuMode::Silent, "mtu.black_hole"),
    ] {
        let mut world = world(vec![Fault::Mtu(On("a", "b"), 1_440, mode)]);
        for (declared, fails) in [(1_390, mode == MtuMode::Silent), (1_391, true)] {
            world.mesh.objectives.mtu_bytes = Some(declared);
            let verdict = verdict(&world);
            let pods = row(&verdict, "mtu.path", "a", "b");
            assert_eq!(pods.status == Status::Fail, fails, "{mode:?} {declared}");
            assert_eq!(pods.expected.mtu_bytes_at_least, Some(declared));
            if fails {
                assert_eq!(top(&verdict), format!("{id} a→b -"), "{mode:?} {declared}");
            }
        }
    }
}

#[test]
fn fragments_below_a_tunnel_are_found_from_the_nodes() {
    let verdict = check(
        vec![Fault::Mtu(On("a", "b"), 1_400, MtuMode::ToldAndCut)],
        "mtu.fragmented a→b -",
        &["a⇢b"],
    );
    assert_eq!(row(&verdict, "mtu.path", "a", "b").status, Status::Pass);
    assert_eq!(
        row(&verdict, "mtu.node_path", "a", "b").status,
        Status::Pass
    );
    let underlay = row(&verdict, "mtu.underlay", "a", "b");
    assert_eq!(
        (
            underlay.observed.mtu_bytes,
            underlay.expected.mtu_bytes_at_least
        ),
        (Some(1_400), Some(1_500))
    );
    assert_eq!(underlay.severity, Severity::Gate);
    let cause = &verdict.causes[0];
    assert!(cause.hint.contains("Cilium `MTU: 1400`"), "{}", cause.hint);
    assert!(cause.rivals.is_empty());
    // Without a word the nodes' own packets are dropped as well, and that comes first.
    check(
        vec![Fault::Mtu(On("a", "b"), 1_400, MtuMode::Cut)],
        "mtu.black_hole a→b -",
        &["a⇢b"],
    );
}

#[test]
fn a_header_that_may_not_be_there_only_warns() {
    let verdict = verdict(&world(vec![Fault::Mtu(
        On("a", "b"),
        1_470,
        MtuMode::ToldAndCut,
    )]));
    assert_eq!(verdict.result, Outcome::Ready);
    let underlay = row(&verdict, "mtu.underlay", "a", "b");
    assert_eq!(
        (underlay.status, underlay.severity),
        (Status::Fail, Severity::Warn)
    );
    assert_eq!(top(&verdict), "mtu.fragmented a→b -");
    assert!(!verdict.causes[0].rivals.is_empty());
}

#[test]
fn two_faults_on_one_path_are_both_named() {
    let verdict = verdict(&world(vec![
        Fault::Mtu(On("a", "b"), 1_400, MtuMode::Silent),
        Fault::Mtu(On("b", "a"), 1_300, MtuMode::Silent),
        Fault::Loss(On("c", "a"), 0.05),
    ]));
    let mut ids: Vec<&str> = verdict.causes.iter().map(|c| c.id.as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["mtu.black_hole", "mtu.black_hole", "path.loss"]);
}

#[test]
fn what_was_not_measured_is_no_pass() {
    let mesh = world(Vec::new());
    let mut observations = mesh.observe();
    let all = observations.measurements.clone();
    let judged = |observations: &_, only: &[&str]| {
        let policy = Policy {
            only: only.iter().map(|glob| (*glob).to_owned()).collect(),
            ..Policy::default()
        };
        judge(&mesh.mesh, observations, &policy).expect("a scope")
    };
    observations.measurements.clear();
    let verdict = judged(&observations, &[]);
    assert_eq!(verdict.result, Outcome::Undecided);
    assert!(
        verdict
            .links
            .iter()
            .all(|row| row.path_result == Outcome::Undecided)
    );
    let lacking = row(&verdict, "mtu.path", "a", "b");
    assert!(
        lacking
            .cause
            .as_ref()
            .is_some_and(|why| why.contains("no path MTU of `a1` in `a`")),
        "{lacking:?}"
    );
    // Nobody asked for it.
    assert_eq!(judged(&observations, &["reach.*"]).result, Outcome::Ready);

    // One pair of four has no figure: each node still has one. A node without any is missed.
    let without = |lost: &dyn Fn(&str, &str) -> bool| {
        let mut observations = observations.clone();
        observations.measurements = all
            .iter()
            .filter(|m| {
                !(matches!(m.result, MeasuredPath::PathMtu(_))
                    && m.source.cluster == "a"
                    && m.target.cluster == "b"
                    && lost(&m.source.node, &m.target.node))
            })
            .cloned()
            .collect();
        judged(&observations, &[])
    };
    assert_eq!(
        without(&|source, target| source == "a1" && target == "b2").result,
        Outcome::Ready
    );
    let lost = without(&|_, target| target == "b2");
    assert_eq!(lost.result, Outcome::Undecided);
    let lacking = row(&lost, "mtu.path", "a", "b");
    assert!(
        lacking
            .cause
            .as_ref()
            .is_some_and(|why| why.contains("`b2` in `b`")),
        "{lacking:?}"
    );
}

#[test]
fn a_dead_path_leaves_the_mtu_of_the_way_back_open_and_the_way_back_ready() {
    let verdict = check(
        vec![Fault::Loss(On("a", "b"), 1.0)],
        "path.blackhole a→b -",
        &["a→b", "a⇢b", "b→a"],
    );
    let back = row(&verdict, "mtu.path", "b", "a");
    assert_eq!(back.status, Status::Undecided);
    assert!(
        verdict.causes[0]
            .explains
            .iter()
            .any(|label| label == "mtu.path b→a")
    );
    assert_eq!(back.plane, Some(PlaneName::Pod));
}

fn objective(mut world: World, bits: f64) -> World {
    world.mesh.objectives.throughput_bits_per_second = Some(bits);
    world
}

#[test]
fn a_slow_port_of_one_node_is_named_with_its_figures() {
    let port = || {
        vec![
            Fault::Rate(On("c/c2", "*"), 95_000_000),
            Fault::Rate(On("*", "c/c2"), 95_000_000),
        ]
    };
    let judged = verdict(&objective(world(port()), 150e6));
    assert_eq!(judged.result, Outcome::NotReady);
    assert_eq!(top(&judged), "node.slow_port c→- c2");
    assert_eq!(judged.causes.len(), 1, "{:#?}", judged.causes);
    assert!(judged.causes[0].summary.contains("`c/c2`"));
    let slow = row(&judged, "throughput.tcp", "c", "a");
    assert_eq!(slow.status, Status::Fail);
    assert_eq!(slow.node.as_deref(), Some("c2"));
    assert_eq!(slow.observed.goodput_bits_per_second, Some(95e6));
    assert_eq!(slow.expected.goodput_bits_per_second_at_least, Some(150e6));
    assert!(
        slow.observed
            .queueing_seconds
            .is_some_and(|s| (s - 0.04).abs() < 1e-9)
    );
    assert!(
        slow.evidence[0].contains("95.0 Mbit/s"),
        "{:?}",
        slow.evidence
    );
    let fine = row(&judged, "throughput.tcp", "a", "b");
    assert_eq!(fine.status, Status::Pass);
    assert_eq!(not_ready(&judged), ["a⇢c", "b⇢c", "c⇢a", "c⇢b"]);

    // Without an objective the same is a warning, by comparison with its siblings.
    let judged = verdict(&world(port()));
    assert_eq!(judged.result, Outcome::Ready);
    assert_eq!(top(&judged), "node.slow_port c→- c2");
    let slow = row(&judged, "throughput.tcp", "c", "a");
    assert_eq!((slow.status, slow.severity), (Status::Fail, Severity::Warn));
    let fine = row(&judged, "throughput.tcp", "a", "b");
    assert_eq!((fine.status, fine.severity), (Status::Info, Severity::Info));
}

#[test]
fn one_direction_one_pair_and_a_whole_path_are_told_apart() {
    for (on, place, node) in [
        (On("a", "b"), "a→b -", None),
        (On("a/a1", "b"), "a→b a1", Some("a1")),
        (On("a", "b/b2"), "a→b b2", Some("b2")),
        (On("a/a1", "b/b2"), "a→b a1 → b2", Some("a1 → b2")),
    ] {
        let judged = verdict(&objective(world(vec![Fault::Rate(on, 50_000_000)]), 150e6));
        assert_eq!(top(&judged), format!("path.slow_port {place}"));
        assert_eq!(
            row(&judged, "throughput.tcp", "a", "b").node.as_deref(),
            node
        );
        assert_eq!(
            row(&judged, "throughput.tcp", "b", "a").status,
            Status::Pass
        );
        assert_eq!(not_ready(&judged), ["a⇢b"]);
    }
}

#[test]
fn little_without_a_queue_is_no_slow_port() {
    let thin = || vec![Fault::Thin(On("a", "b"), 50_000_000)];
    assert_eq!(
        top(&verdict(&objective(world(thin()), 150e6))),
        "path.thin a→b -"
    );
    // The whole path is as slow: without an objective there is nothing to compare it with.
    let judged = verdict(&world(thin()));
    assert!(judged.causes.is_empty() && judged.result == Outcome::Ready);
    // One pair is, and it may be the sender's doing.
    let one = verdict(&world(vec![Fault::Thin(On("a/a1", "b/b1"), 50_000_000)]));
    assert!(one.causes.is_empty(), "{:#?}", one.causes);
}

#[test]
fn throughput_that_was_not_measured_is_no_pass_where_it_is_asked_for() {
    let asked = objective(
        world(vec![Fault::Mtu(On("a", "b"), 1_400, MtuMode::Silent)]),
        150e6,
    );
    let judged = verdict(&asked);
    assert_eq!(
        row(&judged, "throughput.tcp", "a", "b").status,
        Status::Undecided
    );
    assert_eq!(
        row(&judged, "throughput.tcp", "b", "a").status,
        Status::Undecided
    );
    assert_eq!(judged.causes.len(), 1, "{:#?}", judged.causes);
    assert!(
        judged.causes[0]
            .explains
            .iter()
            .any(|label| label == "throughput.tcp b→a")
    );
    let asked = objective(world(Vec::new()), 150e6);
    let mut observations = asked.observe();
    observations
        .measurements
        .retain(|m| !matches!(m.result, MeasuredPath::Throughput(_)));
    let judged = judge(&asked.mesh, &observations, &Policy::default()).expect("a scope");
    assert_eq!(judged.result, Outcome::Undecided);
}

#[test]
fn a_transfer_is_not_taken_for_a_probe() {
    let asked = world(Vec::new());
    let mut observations = asked.observe();
    let before = judge(&asked.mesh, &observations, &Policy::default()).expect("a scope");
    // The kernels record a transfer from the port of a probe whose own record was lost, and it ended differently.
    let run = observations
        .runs
        .iter()
        .find(|run| run.kind == ProbeKind::Tcp && run.plane == Plane::Pod)
        .expect("a run")
        .clone();
    let port = run.samples[0].source_port;
    let record = |c: &&mut KernelConnection| {
        c.node == run.source && c.direction == Direction::Initiator && c.local.port() == port
    };
    let found = observations
        .connections
        .iter_mut()
        .find(record)
        .expect("a record");
    found.outcome = KernelOutcome::Refused;
    found.at_ns += 1_000_000_000_000;
    let transfer = observations
        .measurements
        .iter_mut()
        .find(|m| matches!(m.result, MeasuredPath::Throughput(_)) && m.source == run.source)
        .expect("a transfer");
    transfer.responder = run.target.address;
    transfer.source_port = port;
    transfer.target.cluster = run.target.cluster.clone();
    transfer.target.node = run.target.node.clone().expect("a node");
    let after = judge(&asked.mesh, &observations, &Policy::default()).expect("a scope");
    let bad = |verdict: &Verdict| {
        let row = row(
            verdict,
            "evidence.agreement",
            &run.source.cluster,
            &run.target.cluster,
        );
        (row.observed.n, row.observed.bad)
    };
    let (n, none) = bad(&before);
    assert_eq!(none, Some(0));
    assert_eq!(bad(&after), (n.map(|n| n - 1), Some(0)));
}

#[test]
fn jitter_is_given_to_its_direction_and_node() {
    let judged = verdict(&world(vec![Fault::LateAck(On("a/a2", "b"), 0.2, 0.03)]));
    assert_eq!(judged.result, Outcome::Ready);
    assert_eq!(top(&judged), "path.jitter a→b a2");
    let uneven = row(&judged, "jitter.path", "a", "b");
    assert_eq!(
        (uneven.status, uneven.severity),
        (Status::Fail, Severity::Warn)
    );
    let late = uneven
        .observed
        .p99
        .as_ref()
        .and_then(|q| q.seconds)
        .expect("p99");
    assert!((late - 0.03).abs() < 0.001, "{late}");
    assert_eq!(row(&judged, "jitter.path", "b", "a").status, Status::Pass);
    // Declared, the same decides; and less than is declared is fine.
    let declared = |seconds: f64| {
        let mut world = world(vec![Fault::LateAck(On("a/a2", "b"), 0.2, 0.03)]);
        world.mesh.objectives.jitter_p99_seconds = Some(seconds);
        verdict(&world)
    };
    let judged = declared(0.02);
    assert_eq!(not_ready(&judged), ["a⇢b"]);
    assert_eq!(top(&judged), "path.jitter a→b a2");
    assert_eq!(declared(0.04).result, Outcome::Ready);
    // The offset of the clocks drops out.
    let mut offset = world(Vec::new());
    offset.mesh.objectives.jitter_p99_seconds = Some(0.001);
    let mut observations = offset.observe();
    for record in &mut observations.connections {
        if record.node.cluster == "b" {
            record.at_ns += 7_000_000_000_000;
        }
    }
    let judged = judge(&offset.mesh, &observations, &Policy::default()).expect("a scope");
    assert_eq!(row(&judged, "jitter.path", "a", "b").status, Status::Pass);
    assert_eq!(row(&judged, "jitter.path", "b", "a").status, Status::Pass);
}

/// As seen beside resets: 199 Mbit/s once, its sibling 343 as the better of two, and nothing wrong with either.
#[test]
fn one_slow_transfer_that_nobody_measured_again_is_no_slow_port() {
    let faults = || vec![Fault::Hiccup(On("a/a2", "c/c1"), 80_000_000)];
    let calm = verdict(&world(faults()));
    assert_eq!(calm.result, Outcome::Ready);
    assert!(calm.causes.is_empty(), "{:#?}", calm.causes);
    let row = row(&calm, "throughput.tcp", "a", "c");
    assert_eq!((row.status, row.severity), (Status::Info, Severity::Info));
    // Against an objective it counts: nothing says that the path carries it.
    let mut declared = world(faults());
    declared.mesh.objectives.throughput_bits_per_second = Some(100e6);
    assert_eq!(verdict(&declared).result, Outcome::NotReady);
}
