//! `service.reach`: who reaches which declared service, and what its failure is called.

mod world;

use mesh::{Service, ServiceKind};
use verify::verdict::Verdict;
use verify::{Outcome, Status};
use world::verdicts::{not_ready, top, verdict};
use world::{Fault, On, World, world};

/// Beside `ndvi` in `a`: a store in `b` and a board in `c`.
fn with_services(faults: Vec<Fault>) -> World {
    let mut world = world(faults);
    let service = |name: &str, cluster: &str, last: u8, kind| Service {
        name: name.to_owned(),
        cluster: cluster.to_owned(),
        addresses: vec![[172, 16, last, 20].into()],
        port: 5432,
        kind,
    };
    world.mesh.services.extend([
        service("store", "b", 1, ServiceKind::Tcp),
        service("board", "c", 2, ServiceKind::Http),
    ]);
    world
}

/// `service.reach` as `source→service STATUS`.
fn rows(verdict: &Verdict) -> Vec<String> {
    let rows = verdict.checks.iter().filter(|c| c.id == "service.reach");
    rows.map(|c| {
        let (source, service) = (c.source_cluster.as_ref(), c.service.as_ref());
        format!(
            "{}→{} {:?}",
            source.expect("a source"),
            service.expect("a service"),
            c.status
        )
    })
    .collect()
}

#[test]
fn every_cluster_reaches_every_service_its_own_included() {
    let verdict = verdict(&with_services(Vec::new()));
    assert_eq!(verdict.result, Outcome::Ready, "{:?}", not_ready(&verdict));
    assert_eq!(
        rows(&verdict),
        [
            "a→ndvi Pass",
            "a→store Pass",
            "b→store Pass",
            "c→store Pass",
            "a→board Pass",
            "b→board Pass",
            "c→board Pass"
        ]
    );
    // What services answer is no evidence of the responders' reach.
    for id in ["reach.pod_tcp", "reach.pod_http"] {
        let n = |world: &World| {
            let verdict = self::verdict(world);
            let row = verdict
                .checks
                .iter()
                .find(|c| c.id == id && c.target_cluster.as_deref() == Some("b"));
            row.and_then(|row| row.observed.n)
        };
        assert_eq!(n(&with_services(Vec::new())), n(&world(Vec::new())), "{id}");
    }
}

#[test]
fn a_service_that_one_cluster_does_not_reach_is_named_with_that_cluster() {
    let verdict = verdict(&with_services(vec![Fault::Untranslated("c")]));
    assert_eq!(verdict.result, Outcome::NotReady);
    let failed: Vec<String> = rows(&verdict)
        .into_iter()
        .filter(|row| row.ends_with("Fail"))
        .collect();
    assert_eq!(failed, ["c→store Fail", "c→board Fail"]);
    let store = verdict
        .causes
        .iter()
        .find(|cause| cause.summary.contains("`store`"))
        .expect("a cause");
    assert_eq!(
        (store.id.as_str(), store.source_cluster.as_deref()),
        ("service.unanswered", Some("c"))
    );
    assert!(
        store
            .evidence
            .iter()
            .any(|line| line == "from inside `b`: 0 of 320 requests to `store` failed"),
        "{:?}",
        store.evidence
    );
    // `board` runs in `c` itself and is asked from there as well.
    assert!(
        verdict
            .causes
            .iter()
            .any(|cause| cause.summary.contains("`board`"))
    );
    assert!(
        verdict
            .causes
            .iter()
            .all(|cause| cause.id == "service.unanswered")
    );
}

#[test]
fn a_service_without_a_backend_fails_for_all_and_at_home() {
    let verdict = verdict(&with_services(vec![Fault::NdviDown]));
    let failed = rows(&verdict)
        .iter()
        .filter(|row| row.ends_with("Fail"))
        .count();
    assert_eq!(failed, 7);
    assert_eq!(verdict.causes.len(), 3, "{:#?}", verdict.causes);
    for cause in &verdict.causes {
        assert_eq!(cause.id, "service.no_backend");
        assert!(
            cause
                .evidence
                .last()
                .is_some_and(|line| line.starts_with("from inside `")),
            "{cause:#?}"
        );
    }
}

#[test]
fn a_redirect_to_somebody_else_is_a_wrong_answer() {
    let verdict = verdict(&with_services(vec![Fault::Redirected("b")]));
    assert_eq!(verdict.result, Outcome::NotReady);
    assert!(
        verdict
            .causes
            .iter()
            .all(|cause| cause.id == "service.wrong_answer"),
        "{:#?}",
        verdict.causes
    );
}

#[test]
fn a_dead_path_accounts_for_the_services_behind_it() {
    let verdict = verdict(&with_services(vec![Fault::Loss(On("a", "b"), 1.0)]));
    assert_eq!(top(&verdict), "path.blackhole a→b -");
    assert_eq!(verdict.causes.len(), 1, "{:#?}", verdict.causes);
    let store = verdict
        .checks
        .iter()
        .find(|c| c.label() == "service.reach a→b:store");
    assert_eq!(store.map(|c| c.status), Some(Status::Fail));
}
