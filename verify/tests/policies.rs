//! `policy.*`: intent of mesh.yaml against what comes through.

mod world;

use mesh::{Access, Link, PolicyRule};
use verify::verdict::Verdict;
use verify::{Check, Outcome, Status};
use world::verdicts::{not_ready, top, verdict};
use world::{Fault, On, World, world};

fn meant(rules: &[(&str, &str, Access)], faults: Vec<Fault>) -> World {
    let mut world = world(faults);
    let rule = |(source, target, access): &(&str, &str, Access)| PolicyRule {
        link: Link {
            source: (*source).to_owned(),
            target: (*target).to_owned(),
        },
        access: *access,
    };
    world.mesh.rules.policies = rules.iter().map(rule).collect();
    world
}

fn row<'v>(verdict: &'v Verdict, label: &str) -> &'v Check {
    verdict
        .checks
        .iter()
        .find(|c| c.label() == label)
        .unwrap_or_else(|| panic!("no {label}"))
}

#[test]
fn without_intent_there_is_a_figure_and_no_judgement() {
    let verdict = verdict(&world(Vec::new()));
    assert_eq!(row(&verdict, "policy.intent").status, Status::Info);
    assert!(
        verdict
            .checks
            .iter()
            .all(|c| c.category != "policy" || c.id == "policy.intent")
    );
}

#[test]
fn denied_pods_that_do_not_connect_are_ready_and_no_reach_failure() {
    let world = meant(
        &[("c", "b", Access::Deny), ("b", "c", Access::Allow)],
        vec![Fault::Policy(On("c", "b"))],
    );
    let verdict = verdict(&world);
    assert_eq!(verdict.result, Outcome::Ready, "{:?}", not_ready(&verdict));
    assert_eq!(row(&verdict, "policy.denied c→b").status, Status::Pass);
    assert_eq!(row(&verdict, "policy.allowed b→c").status, Status::Pass);
    let labels: Vec<String> = verdict.checks.iter().map(Check::label).collect();
    for gone in [
        "reach.pod_tcp c→b",
        "latency.connect c→b",
        "loss.tcp_syn c→b",
    ] {
        assert!(!labels.contains(&gone.to_owned()), "{gone}");
    }
    // Nodes and the path are judged all the same.
    for kept in ["reach.node_tcp c→b", "loss.udp c→b", "loss.udp b→c"] {
        assert_eq!(row(&verdict, kept).status, Status::Pass, "{kept}");
    }
}

#[test]
fn one_connection_that_comes_through_is_enough() {
    let open = verdict(&meant(&[("c", "b", Access::Deny)], Vec::new()));
    assert_eq!(open.result, Outcome::NotReady);
    assert_eq!(top(&open), "policy.open c→b -");
    assert_eq!(not_ready(&open), ["c→b"]);
    // A policy that forgot one node.
    let leaky = meant(
        &[("c", "b", Access::Deny)],
        vec![Fault::Policy(On("c", "b/b1"))],
    );
    let leaky = verdict(&leaky);
    assert_eq!(top(&leaky), "policy.open c→b b2");
    let mut once = meant(
        &[("c", "b", Access::Deny)],
        vec![Fault::Policy(On("c", "b"))],
    );
    once.seed = 4;
    let mut observations = once.observe();
    let run = observations.runs.iter_mut().find(|run| {
        run.kind == mesh::observation::ProbeKind::Tcp
            && run.plane == mesh::observation::Plane::Pod
            && run.source.cluster == "c"
            && run.target.cluster == "b"
    });
    run.expect("a run").samples[0].connect_ns = Some(1_000_000);
    let judged = verify::judge(&once.mesh, &observations, &verify::Policy::default());
    let judged = judged.expect("a scope");
    let row = row(&judged, "policy.denied c→b");
    assert_eq!((row.status, row.observed.bad), (Status::Fail, Some(1)));
}

#[test]
fn a_dead_path_proves_no_policy() {
    let world = meant(
        &[("c", "b", Access::Deny)],
        vec![Fault::Loss(On("c", "b"), 1.0)],
    );
    let verdict = verdict(&world);
    let row = row(&verdict, "policy.denied c→b");
    assert_eq!(row.status, Status::Undecided);
    assert!(
        row.cause
            .as_ref()
            .is_some_and(|cause| cause.starts_with("the nodes do not reach"))
    );
    assert_eq!(verdict.result, Outcome::NotReady);
}

#[test]
fn a_policy_against_what_is_allowed_is_named() {
    let world = meant(
        &[("b", "a", Access::Allow)],
        vec![Fault::Policy(On("b", "a"))],
    );
    let verdict = verdict(&world);
    assert_eq!(top(&verdict), "policy.pod_plane b→a -");
    let row = row(&verdict, "policy.allowed b→a");
    assert_eq!(row.status, Status::Fail);
    assert_eq!(row.cause.as_ref(), Some(&verdict.causes[0].summary));
}

#[test]
fn a_silent_agent_leaves_the_denial_open() {
    let world = meant(
        &[("c", "b", Access::Deny)],
        vec![Fault::Policy(On("c", "b")), Fault::AgentDead("b", "b2")],
    );
    let verdict = verdict(&world);
    assert_eq!(row(&verdict, "policy.denied c→b").status, Status::Undecided);
    assert_eq!(verdict.result, Outcome::Undecided);
}

#[test]
fn isolated_from_each_other_is_a_mesh_that_can_be_ready() {
    let world = meant(
        &[("c", "b", Access::Deny), ("b", "c", Access::Deny)],
        vec![Fault::Policy(On("c", "b")), Fault::Policy(On("b", "c"))],
    );
    let mut world = world;
    world.mesh.services.clear();
    let verdict = verdict(&world);
    assert_eq!(verdict.result, Outcome::Ready, "{:?}", not_ready(&verdict));
    assert!(not_ready(&verdict).is_empty(), "{:?}", not_ready(&verdict));
}
