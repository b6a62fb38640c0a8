//! What is judged READY, NOT READY or UNDECIDED: evidence that is missing, samples that are few, and what cannot be asked.

mod world;

use mesh::{Link, Mesh};
use verify::{JudgeError, Outcome, Policy, Status, judge};
use world::verdicts::{check, not_ready, top, verdict};
use world::{Fault, On, world};

#[test]
fn healthy_meshes_are_ready() {
    for seed in 0..10 {
        let mut world = world(Vec::new());
        world.seed = seed;
        let verdict = verdict(&world);
        assert_eq!(
            verdict.result,
            Outcome::Ready,
            "seed {seed}: {:?}",
            not_ready(&verdict)
        );
        assert!(verdict.causes.is_empty() && verdict.unreachable.is_empty());
        let confidence = verdict
            .confidence
            .ready
            .expect("READY states its confidence");
        assert!((0.95..1.0).contains(&confidence), "{confidence}");
        assert_eq!(verdict.links.len(), 6);
        for row in &verdict.links {
            assert!(
                row.n == 960
                    && row.connect_p99_seconds.is_some()
                    && row.handshake_rtt_p50_seconds.is_some()
                    && row.loss_upper.is_some()
            );
        }
    }
}

#[test]
fn a_figure_near_the_objective_asks_for_no_absurd_number_of_samples() {
    let mut seen = 0;
    for seed in 0..6 {
        let mut world = world(vec![Fault::Loss(On("a", "b"), 0.008)]);
        world.seed = seed;
        let verdict = verdict(&world);
        for check in &verdict.checks {
            if let Some(more) = check.more_samples_needed {
                assert!(more <= 9 * 960, "{check:?}");
            }
            let text = check.cause.clone().unwrap_or_default();
            if check.status == Status::Undecided && text.starts_with("too close to the objective") {
                seen += 1;
                assert_eq!(check.more_samples_needed, None);
                assert!(text.contains(", objective 1 %"), "{text}");
                let hint = check.hint.as_ref().expect("a hint");
                assert!(hint.contains("in common"), "{hint}");
            }
        }
    }
    assert!(seen > 3, "{seen}");
}

#[test]
fn too_few_samples_name_the_window_that_would_do() {
    let mut world = world(Vec::new());
    world.tcp = 80;
    let verdict = verdict(&world);
    let row = verdict
        .checks
        .iter()
        .find(|c| c.id == "reach.pod_tcp")
        .expect("check");
    // 160 clean probes a node; 435 prove 1 % at the first look, bursts reckoned with.
    assert_eq!(row.more_samples_needed, Some(275));
    assert_eq!(
        row.cause.as_deref(),
        Some(
            "too few samples to tell: 0 of 160 bad from `a1`, objective 1 %; 275 more at this rate would"
        )
    );
    assert!(
        row.hint
            .as_ref()
            .is_some_and(|hint| hint.contains("`--window` 3 times as long")),
        "{row:?}"
    );
}

#[test]
fn a_dead_agent_is_unknown_never_a_network_verdict() {
    let verdict = check(
        vec![Fault::AgentDead("b", "b1")],
        "agent.unreachable b→- b1",
        &[
            "a→b?", "a⇢b?", "b→a?", "b⇢a?", "b→c?", "b⇢c?", "c→b?", "c⇢b?",
        ],
    );
    assert_eq!(verdict.unreachable.len(), 2);
    assert!(verdict.unreachable[0].reason.contains("refused"));
    for check in verdict
        .checks
        .iter()
        .filter(|check| check.status == Status::Undecided)
    {
        assert!(check.cause.is_some(), "{check:?}");
    }
}

#[test]
fn a_proven_failure_outranks_a_missing_answer() {
    let world = world(vec![
        Fault::AgentDead("c", "c1"),
        Fault::Loss(On("a", "b"), 1.0),
    ]);
    let verdict = verdict(&world);
    assert_eq!(verdict.result, Outcome::NotReady);
    assert_eq!(verdict.result.exit_code(), 1);
    assert_eq!(top(&verdict), "path.blackhole a→b -");
    assert!(
        verdict
            .causes
            .iter()
            .any(|cause| cause.id == "agent.unreachable")
    );
}

#[test]
fn without_kernel_witness_nothing_is_ready() {
    let all = ["a→b?", "a→c?", "b→a?", "c→a?"];
    let verdict = check(vec![Fault::NoWitness("a", "a1")], "none", &all);
    let row = verdict
        .checks
        .iter()
        .find(|c| c.id == "evidence.coverage" && c.status == Status::Undecided)
        .expect("coverage");
    assert!(
        row.cause
            .as_ref()
            .is_some_and(|cause| cause.contains("not attached")),
        "{row:?}"
    );
}

#[test]
fn lost_records_cost_coverage_not_the_network() {
    let verdict = check(
        vec![Fault::RecordsLost("a", "a1", 0.1)],
        "none",
        &["a→b?", "a→c?", "b→a?", "c→a?"],
    );
    assert!(
        verdict
            .checks
            .iter()
            .all(|check| check.status != Status::Fail)
    );
}

#[test]
fn a_stall_voids_times_but_hides_no_failure() {
    // Every starved sample is half a second late for the prober, not for its kernel.
    let mut world = world(vec![Fault::Starved(0.2)]);
    (world.tcp, world.few, world.tiles) = (320, 110, 220);
    let healthy = verdict(&world);
    assert_eq!(healthy.result, Outcome::Ready, "{:?}", not_ready(&healthy));
    let connect = healthy
        .checks
        .iter()
        .find(|check| check.id == "latency.connect")
        .expect("check");
    assert!(connect.observed.starved.is_some_and(|n| n > 100));
    assert!(
        connect
            .observed
            .p99
            .as_ref()
            .is_some_and(|q| q.seconds.is_some_and(|s| s < 0.1))
    );

    // Starved throughout, and the path is dead: the kernels still prove it.
    world.faults = vec![Fault::Starved(1.0), Fault::Loss(On("a", "b"), 1.0)];
    let dead = verdict(&world);
    assert_eq!(top(&dead), "path.blackhole a→b -");
    // 5 % loss while starved: what the receivers and kernels counted decides.
    world.faults = vec![Fault::Starved(1.0), Fault::Loss(On("a", "b"), 0.05)];
    let lossy = verdict(&world);
    assert_eq!(top(&lossy), "path.loss a→b -");
}

#[test]
fn stalls_of_the_source_are_void_but_slow_paths_are_not() {
    // One connect in 50 takes 60 ms more: far from 1 %, if it were the path.
    let stalled = verdict(&world(vec![Fault::Stalls(50, 0.06)]));
    let latency = |verdict: &verify::Verdict| {
        let row = verdict
            .checks
            .iter()
            .find(|c| c.id == "latency.handshake_rtt");
        row.expect("check").clone()
    };
    let row = latency(&stalled);
    assert_ne!(row.status, Status::Fail);
    assert_eq!(row.observed.bad, Some(0));
    assert!(row.observed.excluded_stalled.is_some_and(|n| n > 10));
    // What is short then is the processor, not the network.
    let short = verdict(&world(vec![Fault::Stalls(4, 0.06)]));
    let row_short = latency(&short);
    assert_eq!(row_short.status, Status::Undecided, "{row_short:?}");
    assert!(
        row_short
            .hint
            .as_ref()
            .is_some_and(|hint| hint.contains("CPU pressure")),
        "{row_short:?}"
    );
    let slow = verdict(&world(vec![Fault::Late(On("a", "b"), 0.03, 0.06)]));
    let row = latency(&slow);
    assert_eq!(
        (row.status, row.observed.excluded_stalled),
        (Status::Fail, None)
    );
}

#[test]
fn a_starved_prober_without_a_kernel_is_never_ready_over_timeouts() {
    let mut world = world(vec![
        Fault::Starved(1.0),
        Fault::NoWitness("a", "a1"),
        Fault::NoWitness("a", "a2"),
        Fault::Loss(On("a", "b"), 1.0),
    ]);
    world.tcp = 320;
    let verdict = verdict(&world);
    let reach = verdict
        .checks
        .iter()
        .find(|c| c.id == "reach.pod_tcp" && c.source_cluster.as_deref() == Some("a"))
        .expect("check");
    assert_eq!(reach.status, Status::Undecided);
    assert!(reach.observed.unresolved.is_some_and(|n| n > 1_000));
    assert!(
        reach.observed.rate_upper > Some(0.9),
        "{:?}",
        reach.observed
    );
}

#[test]
fn no_observation_is_never_a_pass() {
    let world = world(Vec::new());
    let empty = judge(&world.mesh, &Default::default(), &Policy::default()).expect("a scope");
    assert_eq!(empty.result, Outcome::Undecided);
    let healthy = world.observe();
    let mut silent = healthy.clone();
    silent.runs.clear();
    assert_eq!(
        judge(&world.mesh, &silent, &Policy::default())
            .expect("a scope")
            .result,
        Outcome::Undecided
    );
    // Any single family of evidence that goes missing makes READY impossible.
    for kind in [
        mesh::observation::ProbeKind::Tcp,
        mesh::observation::ProbeKind::Udp,
        mesh::observation::ProbeKind::Http,
        mesh::observation::ProbeKind::NdviTile,
    ] {
        let mut partly = healthy.clone();
        partly.runs.retain(|run| run.kind != kind);
        assert_eq!(
            judge(&world.mesh, &partly, &Policy::default())
                .expect("a scope")
                .result,
            Outcome::Undecided,
            "{kind:?}"
        );
    }
    for report in 0..healthy.nodes.len() {
        let mut partly = healthy.clone();
        partly.nodes.remove(report);
        assert_eq!(
            judge(&world.mesh, &partly, &Policy::default())
                .expect("a scope")
                .result,
            Outcome::Undecided
        );
    }
    let mut unwitnessed = healthy;
    unwitnessed.connections.clear();
    assert_eq!(
        judge(&world.mesh, &unwitnessed, &Policy::default())
            .expect("a scope")
            .result,
        Outcome::Undecided
    );
}

#[test]
fn a_silent_node_agent_leaves_its_plane_open_though_its_neighbour_passes() {
    let world = world(Vec::new());
    let mut partly = world.observe();
    let node_agent = |report: &mesh::observation::NodeReport| {
        report.node.node == "a1" && report.plane == mesh::observation::Plane::Node
    };
    partly.nodes.retain(|report| !node_agent(report));
    // So many samples of the neighbour that they prove the pooled objective.
    for run in &mut partly.runs {
        let again = run.samples.clone();
        for copy in 1..4 {
            run.samples.extend(again.iter().cloned().map(|mut sample| {
                sample.sequence += copy * again.len() as u32;
                sample.sent_ns += u64::from(copy) * 1_000_000_000;
                sample
            }));
        }
    }
    let verdict = judge(&world.mesh, &partly, &Policy::default()).expect("a scope");
    for link in &verdict.links {
        let touched = link.source_cluster == "a" || link.target_cluster == "a";
        let row = verdict.checks.iter().find(|c| {
            c.id == "reach.node_tcp"
                && c.source_cluster.as_ref() == Some(&link.source_cluster)
                && c.target_cluster.as_ref() == Some(&link.target_cluster)
        });
        let row = row.expect("row");
        if touched {
            assert_eq!(row.status, Status::Undecided, "{row:?}");
            assert!(row.observed.rate_upper < Some(0.01), "{row:?}");
            assert!(
                row.cause.as_ref().is_some_and(|c| c.contains("`a1`")),
                "{row:?}"
            );
            assert_eq!(link.result, Outcome::Undecided);
        } else {
            assert_eq!(row.status, Status::Pass, "{row:?}");
        }
    }
}

#[test]
fn a_failure_is_proven_against_all_that_was_tested() {
    let mut world = world(Vec::new());
    (world.mesh, world.few) = (world::mesh(&["a", "b"], 2), 400);
    let healthy = world.observe();
    let judged = |bad: usize| {
        let mut observed = healthy.clone();
        let http = |run: &&mut mesh::observation::ProbeRun| {
            run.kind == mesh::observation::ProbeKind::Http && run.source.cluster == "a"
        };
        let mut runs: Vec<_> = observed.runs.iter_mut().filter(http).collect();
        let pairs = runs.len();
        for at in 0..bad {
            runs[at % pairs].samples[40 * (at / pairs)].outcome = mesh::observation::Outcome::Reset;
        }
        judge(&world.mesh, &observed, &Policy::default()).expect("a scope")
    };
    let statements = judged(0).confidence.statements as f64;
    let chance = |bad: u64| verify::stats::p_too_many(verify::stats::Count::new(1_600, bad), 0.01);
    let first = verify::looks::share(0);
    let enough = (16..100).find(|bad| chance(*bad) / first <= 0.05 / statements);
    let enough = enough.expect("a number");
    for (bad, status) in [(enough, Status::Fail), (enough - 1, Status::Undecided)] {
        let verdict = judged(bad as usize);
        let row = verdict
            .checks
            .iter()
            .find(|c| c.id == "reach.pod_http" && c.source_cluster.as_deref() == Some("a"));
        let row = row.expect("row");
        assert_eq!((row.observed.n, row.observed.bad), (Some(1_600), Some(bad)));
        assert_eq!(row.status, status, "{row:?}");
    }
}

#[test]
fn a_node_fails_a_check_that_it_need_not_prove() {
    let mut world = world(Vec::new());
    world.mesh = world::mesh(&["a", "b"], 6);
    (world.tcp, world.few, world.tiles) = (40, 80, 60);
    let mut observed = world.observe();
    for run in &mut observed.runs {
        if run.kind == mesh::observation::ProbeKind::Http && run.source.node == "a3" {
            for sample in run.samples.iter_mut().step_by(20) {
                sample.outcome = mesh::observation::Outcome::Reset;
            }
        }
    }
    let verdict = judge(&world.mesh, &observed, &Policy::default()).expect("a scope");
    let row = verdict
        .checks
        .iter()
        .find(|c| c.id == "reach.pod_http" && c.source_cluster.as_deref() == Some("a"));
    let row = row.expect("row");
    // 24 of its 480 requests, 0.8 % of the link's.
    assert_eq!((row.observed.n, row.observed.bad), (Some(2_880), Some(24)));
    assert_eq!(
        (row.status, row.node.as_deref()),
        (Status::Fail, Some("a3")),
        "{row:?}"
    );
}

#[test]
fn one_node_without_samples_makes_its_links_undecided() {
    let world = world(Vec::new());
    let mut partly = world.observe();
    partly.runs.retain(|run| run.source.node != "a2");
    let verdict = judge(&world.mesh, &partly, &Policy::default()).expect("a scope");
    let row = verdict
        .checks
        .iter()
        .find(|c| c.id == "reach.pod_tcp" && c.status == Status::Undecided)
        .expect("undecided");
    assert!(
        row.cause
            .as_ref()
            .is_some_and(|cause| cause.contains("`a2`")),
        "{row:?}"
    );
    assert!(
        verdict
            .links
            .iter()
            .filter(|l| l.source_cluster == "b" && l.target_cluster == "c")
            .all(|l| l.result == Outcome::Ready)
    );
}

#[test]
fn too_few_samples_say_how_many_more() {
    let mut world = world(Vec::new());
    world.tcp = 40;
    let verdict = verdict(&world);
    assert_eq!(verdict.result, Outcome::Undecided);
    let row = verdict
        .checks
        .iter()
        .find(|c| c.id == "reach.pod_tcp")
        .expect("check");
    // 80 clean probes a node; 435 prove 1 % at the first look, bursts reckoned with.
    assert_eq!(row.more_samples_needed, Some(355));
}

#[test]
fn empty_scope_and_impossible_objectives_are_errors() {
    let refuse = |edit: fn(&mut Mesh)| {
        let mut world = world(Vec::new());
        edit(&mut world.mesh);
        judge(&world.mesh, &Default::default(), &Policy::default()).expect_err("refused")
    };
    assert_eq!(refuse(|m| m.links.clear()), JudgeError::EmptyScope);
    assert!(matches!(
        refuse(|m| m.clusters[1].nodes.clear()),
        JudgeError::EmptyLink { .. }
    ));
    assert!(matches!(
        refuse(|m| m.links = vec![Link {
            source: "a".into(),
            target: "nowhere".into()
        }]),
        JudgeError::EmptyLink { .. }
    ));
    // A node alone has nobody to probe.
    assert!(matches!(
        refuse(|m| *m = world::mesh(&["a"], 1)),
        JudgeError::EmptyLink { .. }
    ));
    assert!(matches!(
        refuse(|m| m.objectives.loss = 0.0),
        JudgeError::Unprovable { .. }
    ));
    assert!(matches!(
        refuse(|m| m.objectives.connect_success = 0.9999),
        JudgeError::Unprovable { .. }
    ));
    assert!(matches!(
        refuse(|m| m.objectives.ndvi_success = f64::NAN),
        JudgeError::Unprovable { .. }
    ));
    assert_eq!(
        refuse(|m| m.objectives.confidence = 1.0),
        JudgeError::Confidence(1.0)
    );
    assert_eq!(
        refuse(|m| m.objectives.confidence = 0.5),
        JudgeError::Confidence(0.5)
    );
    let world = world(Vec::new());
    let only = Policy {
        only: vec!["reach.nothing".into()],
        ..Policy::default()
    };
    assert!(matches!(
        judge(&world.mesh, &Default::default(), &only),
        Err(JudgeError::UnknownCheck(_))
    ));
}

#[test]
fn only_selects_checks_but_keeps_the_evidence() {
    let world = world(Vec::new());
    let only = Policy {
        only: vec!["loss.*".into()],
        ..Policy::default()
    };
    let verdict = judge(&world.mesh, &world.observe(), &only).expect("a scope");
    assert!(
        verdict
            .checks
            .iter()
            .all(|c| c.category == "loss" || c.category == "evidence")
    );
    for id in [
        "loss.udp",
        "loss.tcp_syn",
        "evidence.agents",
        "evidence.coverage",
        "evidence.agreement",
    ] {
        assert!(verdict.checks.iter().any(|c| c.id == id), "{id}");
    }
    assert_eq!(verdict.result, Outcome::Ready);
}

#[test]
fn a_wrong_clock_is_shown_and_decides_nothing() {
    let world = world(Vec::new());
    for (offset, step) in [(-5.0, 0.0), (0.0, 0.4)] {
        let mut observed = world.observe();
        for report in &mut observed.nodes {
            if let mesh::observation::NodeState::Observed(account) = &mut report.state
                && report.node.node == "b2"
            {
                account.clock_offset_seconds = Some(offset);
                account.clock_step_seconds = step;
            }
        }
        let verdict = judge(&world.mesh, &observed, &Policy::default()).expect("a scope");
        assert_eq!(verdict.result, Outcome::Ready, "{:?}", not_ready(&verdict));
        assert_eq!(top(&verdict), "node.clock b→- b2");
    }
    // An offset that its own error may have made is none.
    let mut observed = world.observe();
    for report in &mut observed.nodes {
        if let mesh::observation::NodeState::Observed(account) = &mut report.state {
            (
                account.clock_offset_seconds,
                account.clock_offset_bound_seconds,
            ) = (Some(1.2), Some(0.3));
        }
    }
    let verdict = judge(&world.mesh, &observed, &Policy::default()).expect("a scope");
    assert!(verdict.causes.is_empty(), "{:?}", verdict.causes);
}

#[test]
fn bytes_by_client_are_information() {
    let verdict = verdict(&world(Vec::new()));
    let row = verdict
        .checks
        .iter()
        .find(|c| c.id == "ndvi.bytes_per_client")
        .expect("row");
    assert_eq!(row.status, Status::Info);
    assert_eq!(row.observed.clients["drones"].received_bytes, 100_000);
}

#[test]
fn a_single_cluster_is_judged_by_itself() {
    let mut world = world(Vec::new());
    world.mesh = world::mesh(&["a"], 3);
    world.mesh.services.clear();
    world.tcp = 320;
    world.few = 60;
    assert_eq!(verdict(&world).result, Outcome::Ready);
    world.faults = vec![Fault::Loss(On("a/a1", "a"), 1.0)];
    assert_eq!(verdict(&world).result, Outcome::NotReady);
}

#[test]
fn a_tight_objective_is_proven_missed_or_left_open_with_what_is_lacking() {
    let judged = |probes: u32| {
        let mut world = world(vec![Fault::Loss(On("a", "b"), 0.01)]);
        world.mesh.objectives.loss = 0.002;
        world.mesh.services.clear();
        world.tcp = probes;
        let policy = Policy {
            only: vec!["loss.udp".into()],
            ..Policy::default()
        };
        judge(&world.mesh, &world.observe(), &policy).expect("a scope")
    };
    let status = |verdict: &verify::Verdict, source: &str, target: &str| {
        let of_path = |c: &&verify::Check| {
            c.id == "loss.udp"
                && c.source_cluster.as_deref() == Some(source)
                && c.target_cluster.as_deref() == Some(target)
        };
        let check = verdict.checks.iter().find(of_path).expect("the check");
        (check.status, check.more_samples_needed)
    };
    // As many as verify sends against this objective.
    let verdict = judged(1_215);
    assert_eq!(status(&verdict, "a", "b").0, Status::Fail);
    assert_eq!(status(&verdict, "b", "a").0, Status::Pass);
    // As many as against the default: what loses nothing is not READY for that.
    let verdict = judged(240);
    let (status, more) = status(&verdict, "b", "a");
    assert_eq!(status, Status::Undecided);
    assert!(
        more.is_some_and(|more| (500..3_000).contains(&more)),
        "{more:?}"
    );
}

/// Of one connection, prober and kernels have to tell the same.
#[test]
fn contradictory_witnesses_are_never_ready() {
    use mesh::observation::{Direction, KernelOutcome, Observations, Outcome as Probe};
    type Edit = fn(&mut Observations);
    let edits: [(&str, Edit); 3] = [
        ("the prober connected, its kernel did not", |seen| {
            for record in initiators(seen) {
                record.outcome = KernelOutcome::Refused;
                (record.connect_ns, record.handshake_rtt_us) = (None, None);
            }
        }),
        ("the prober did not connect, its kernel did", |seen| {
            let of_link = seen.runs.iter_mut().filter(|run| {
                run.kind == mesh::observation::ProbeKind::Tcp
                    && (&*run.source.node, run.target.node.as_deref()) == ("a1", Some("b1"))
            });
            for sample in of_link.flat_map(|run| &mut run.samples) {
                sample.outcome = Probe::Refused;
                (sample.connect_ns, sample.round_trip_ns) = (None, None);
                sample.responder = None;
            }
        }),
        ("established at the source, not at the target", |seen| {
            for record in seen.connections.iter_mut().filter(|record| {
                record.direction == Direction::Acceptor
                    && record.node.node == "b1"
                    && record.remote.ip() == std::net::IpAddr::from([10, 0, 0, 2])
            }) {
                record.outcome = KernelOutcome::SynOnly;
            }
        }),
    ];
    fn initiators(
        seen: &mut Observations,
    ) -> impl Iterator<Item = &mut mesh::observation::KernelConnection> {
        seen.connections.iter_mut().filter(|record| {
            record.direction == Direction::Initiator
                && record.node.node == "a1"
                && record.remote.ip() == std::net::IpAddr::from([10, 1, 0, 2])
        })
    }
    for (what, edit) in edits {
        let world = world(Vec::new());
        let mut seen = world.observe();
        edit(&mut seen);
        let verdict = judge(&world.mesh, &seen, &Policy::default()).expect("a scope");
        assert_ne!(verdict.result, Outcome::Ready, "{what}");
        let of_link = |c: &&verify::Check| {
            c.id == "evidence.agreement"
                && c.source_cluster.as_deref() == Some("a")
                && c.target_cluster.as_deref() == Some("b")
        };
        let check = verdict.checks.iter().find(of_link).expect("the check");
        assert_eq!(check.status, Status::Fail, "{what}: {check:#?}");
        let told = check.observed.failures.keys().any(|kind| kind == what)
            || check.evidence.iter().any(|line| line.contains(what));
        assert!(told, "{what}: {check:#?}");
        assert!(check.cause.is_some() && check.hint.is_some(), "{what}");
    }
}
