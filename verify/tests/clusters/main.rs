//! The control plane of clusters: a healthy mesh passes, and every fault is named with its cluster, direction and cure.

mod agreement;
mod certificates;
mod faults;
mod unread;
mod world;

use verify::{Outcome, Status};
use world::{cause, check, healthy, judged, statuses};

#[test]
fn a_healthy_mesh_lacks_only_measurements() {
    let verdict = judged(healthy());
    let open: Vec<_> = verdict
        .checks
        .iter()
        .filter(|check| !matches!(check.status, Status::Pass | Status::Info))
        .map(|check| (check.status, check.cause.as_deref().unwrap_or("")))
        .collect();
    assert!(
        open.iter()
            .all(|open| *open == (Status::Undecided, "not measured")),
        "{open:#?}"
    );
    // Eleven gates that agents decide, on six links.
    assert_eq!(open.len(), 66);
    assert_eq!(verdict.result, Outcome::Undecided);
    assert_eq!(verdict.causes.len(), 1, "{:#?}", verdict.causes);
    let absent = cause(&verdict, "agent.absent");
    assert!(
        absent
            .hint
            .contains("`aggrik8s install -f mesh.yaml --contexts east,west,pi --image REF`"),
        "{}",
        absent.hint
    );
    assert_eq!(absent.explains.len(), 66);
    assert_eq!(verdict.links.len(), 6);
    // Something was judged of every kind.
    for spec in verify::checks::CHECKS
        .iter()
        .filter(|spec| verify::checks::of_clusters(spec.id))
    {
        assert!(
            verdict.checks.iter().any(|check| check.id == spec.id),
            "{}",
            spec.id
        );
    }
}

#[test]
fn what_was_asked_for_alone_decides() {
    let only = |glob: &str| world::judged_only(healthy(), &[glob]);
    let verdict = only("certificate.*").expect("such checks exist");
    assert_eq!(verdict.result, Outcome::Ready);
    assert!(verdict.causes.is_empty());
    assert!(
        verdict
            .checks
            .iter()
            .all(|c| c.category == "certificate" || c.category == "evidence")
    );
    let verdict = only("reach.*").expect("such checks exist");
    assert_eq!(verdict.result, Outcome::Undecided);
    assert_eq!(
        only("nothing.*").unwrap_err().to_string(),
        "no check matches `nothing.*`"
    );
    // Judged, but not from what API servers say: never READY for want of a row.
    assert_eq!(
        only("throughput.tcp").unwrap_err().to_string(),
        "`throughput.tcp` is judged from mesh.yaml and the agents"
    );
}

#[test]
fn a_failed_gate_outranks_what_is_unknown() {
    let mut views = healthy();
    world::facts(&mut views, "west")
        .agents
        .as_mut()
        .unwrap()
        .as_mut()
        .unwrap()
        .ready = 2;
    let verdict = judged(views);
    assert_eq!(verdict.result, Outcome::NotReady);
    assert_eq!(verdict.result.exit_code(), 1);
    let found = check(&verdict, "cilium.agents west");
    assert_eq!(
        found.cause.as_deref(),
        Some("1 of 3 Cilium agents of `west` are not ready")
    );
    // Failures stand before what lacks.
    assert_eq!(verdict.causes[0].id, "cilium.agent_down");
}

#[test]
fn a_cluster_without_cilium_has_fewer_checks_and_no_failure() {
    let mut views = healthy();
    *world::facts(&mut views, "pi") = world::without_cilium("10.246");
    let verdict = judged(views);
    assert!(
        verdict
            .checks
            .iter()
            .all(|check| check.status != Status::Fail),
        "{:#?}",
        verdict.causes
    );
    assert_eq!(statuses(&verdict, "cilium.agents pi"), [Status::Info]);
    assert_eq!(
        statuses(&verdict, "clustermesh.remotes east→pi"),
        [Status::Info]
    );
    assert_eq!(
        statuses(&verdict, "clustermesh.remotes east→west"),
        [Status::Pass]
    );
    assert_eq!(statuses(&verdict, "config.cidrs"), [Status::Pass]);
}

#[test]
fn clusters_without_any_clustermesh_are_no_fault() {
    let mut views = healthy();
    for name in ["east", "west", "pi"] {
        let facts = world::facts(&mut views, name);
        facts.server = Ok(None);
        facts.remotes = Ok(None);
        facts.kvstoremesh = Ok(None);
    }
    let verdict = judged(views);
    assert!(
        verdict
            .checks
            .iter()
            .all(|check| check.status != Status::Fail),
        "{:#?}",
        verdict.causes
    );
    assert_eq!(
        statuses(&verdict, "clustermesh.remotes east→west"),
        [Status::Info]
    );
}

#[test]
fn no_cluster_is_no_verdict() {
    let error = verify::judge_clusters(&[], &verify::ClustersPolicy::default(), 0).unwrap_err();
    assert_eq!(error, verify::JudgeError::EmptyScope);
}

/// What mesh.yaml's verify cannot judge it refuses, instead of being READY without a row.
#[test]
fn a_mesh_is_not_ready_for_checks_that_need_contexts() {
    let mesh = mesh::Mesh::parse(
        "mesh.yaml",
        include_str!("../../../examples/aggrik8s-net.yaml"),
    )
    .expect("the example");
    let policy = verify::Policy {
        only: vec!["certificate.*".to_owned()],
        ..verify::Policy::default()
    };
    assert_eq!(
        verify::check_scope(&mesh, &policy),
        Err(verify::JudgeError::NeedsContexts(
            "certificate.*".to_owned()
        ))
    );
}
