//! `service.reach`: who reaches which declared service, and what its failure is called.

mod world;

use mesh::{Affinity, Service, ServiceKind};
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
        backends: vec![cluster.to_owned()],
        affinity: Affinity::None,
        addresses: vec![[172, 16, last, 20].into()],
        port: 5432,
        kind,
        names: Vec::new(),
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

/// `board` of kind HTTP with backends in `a` and `b`; `c` has none.
fn with_global(affinity: Affinity, faults: Vec<Fault>) -> World {
    let mut world = world(faults);
    world.mesh.services.push(Service {
        name: "board".to_owned(),
        cluster: "a".to_owned(),
        backends: vec!["a".to_owned(), "b".to_owned()],
        affinity,
        addresses: vec![[172, 16, 0, 30].into()],
        port: 8081,
        kind: ServiceKind::Http,
        names: Vec::new(),
    });
    world
}

/// `service.affinity` rows that do not pass, as `source→target:service STATUS`.
fn astray(verdict: &Verdict) -> Vec<String> {
    let rows = verdict
        .checks
        .iter()
        .filter(|c| c.id == "service.affinity" && c.status != Status::Pass);
    rows.map(|c| format!("{} {:?}", c.place(), c.status))
        .collect()
}

#[track_caller]
fn affinity(affinity: Affinity, faults: Vec<Fault>, rows: &[&str], cause: &str) -> Verdict {
    let verdict = verdict(&with_global(affinity, faults.clone()));
    let told: Vec<_> = verdict
        .causes
        .iter()
        .map(|c| (&c.id, &c.summary, &c.explains))
        .collect();
    assert_eq!(astray(&verdict), rows, "{faults:?} {told:#?}");
    assert_eq!(top(&verdict), cause, "{faults:?} {told:#?}");
    assert_eq!(verdict.causes.len(), 1, "{told:#?}");
    assert_eq!(verdict.result, Outcome::NotReady);
    verdict
}

#[test]
fn a_global_service_is_answered_by_whom_its_affinity_says() {
    for affinity in [Affinity::None, Affinity::Local, Affinity::Remote] {
        let verdict = verdict(&with_global(affinity, Vec::new()));
        assert_eq!(verdict.result, Outcome::Ready, "{:#?}", verdict.causes);
        let rows = verdict.checks.iter().filter(|c| c.id == "service.affinity");
        // Three clusters ask, two have backends.
        assert_eq!(rows.count(), 6);
        let at = |place: &str| {
            let row = verdict
                .checks
                .iter()
                .find(|c| c.id == "service.affinity" && c.place() == place);
            let by = &row.expect("a row").observed.answered_by;
            (by.contains_key("a"), by.contains_key("b"))
        };
        let own = match affinity {
            Affinity::None => (true, true),
            Affinity::Local => (true, false),
            Affinity::Remote => (false, true),
        };
        assert_eq!(at("a→b:board"), own, "{affinity:?}");
        assert_eq!(at("c→b:board"), (true, true), "{affinity:?}");
    }
}

#[test]
fn only_local_backends_are_named_with_direction() {
    let only = |on: &'static str, to: &'static [&'static str]| vec![Fault::Knows(On(on, on), to)];
    affinity(
        Affinity::None,
        only("a", &["a"]),
        &["a→b:board Fail"],
        "service.local_only a→b -",
    );
    affinity(
        Affinity::Remote,
        only("b", &["b"]),
        &["b→a:board Fail", "b→b:board Undecided"],
        "service.local_only b→a -",
    );
    // A cluster without backends has no local ones.
    affinity(
        Affinity::None,
        only("c", &["a"]),
        &["c→b:board Fail"],
        "service.not_synced c→b -",
    );
    // One node of two: half the answers of its cluster come from both.
    affinity(
        Affinity::None,
        only("a/a2", &["a"]),
        &["a→b:board Fail"],
        "service.not_synced a→b a2",
    );
}

#[test]
fn answers_that_the_affinity_leaves_out_are_named_with_direction() {
    let knows = |to: &'static [&'static str]| vec![Fault::Knows(On("b", "b"), to)];
    affinity(
        Affinity::Local,
        knows(&["a", "b"]),
        &["b→a:board Fail"],
        "service.affinity_ignored b→a -",
    );
    // All of it from the wrong cluster, while its own backends answer `c`.
    affinity(
        Affinity::Local,
        knows(&["a"]),
        &["b→a:board Undecided", "b→b:board Fail"],
        "service.affinity_ignored b→a -",
    );
    affinity(
        Affinity::Remote,
        knows(&["a", "b"]),
        &["b→b:board Fail"],
        "service.affinity_ignored b→b -",
    );
}

#[test]
fn backends_that_answer_nobody_are_missing_not_ignored() {
    let verdict = affinity(
        Affinity::None,
        vec![Fault::BackendsDown("b")],
        &["a→b:board Fail", "b→b:board Fail", "c→b:board Fail"],
        "service.backend_missing -→b -",
    );
    let explained = &verdict.causes[0].explains;
    assert!(
        explained.contains(&"service.reach c→board".to_owned()),
        "{explained:?}"
    );
    // Gone from everybody's endpoints: the others stand in, as the affinity says.
    affinity(
        Affinity::Local,
        vec![Fault::Knows(On("*", "*"), &["a"])],
        &["b→a:board Undecided", "b→b:board Fail", "c→b:board Fail"],
        "service.backend_missing -→b -",
    );
}

#[test]
fn a_dead_path_accounts_for_the_backends_behind_it() {
    let verdict = affinity(
        Affinity::None,
        vec![Fault::Loss(On("c", "b"), 1.0)],
        &["c→b:board Fail"],
        "path.blackhole c→b -",
    );
    // The untouched link of the cluster that the service is named after stays READY.
    assert_eq!(not_ready(&verdict), ["b→c", "c→b", "c⇢b"]);
}

#[test]
fn who_answered_unknown_is_never_a_pass_and_never_a_failure() {
    // The kernel where `b`'s backend runs does not testify, and HTTP answers do not say who gave them.
    let mut world = with_global(Affinity::None, Vec::new());
    let mut seen = world.observe();
    seen.connections
        .retain(|c| !(c.local.port() == 8081 && c.node.cluster == "b"));
    let verdict = verify::judge(&world.mesh, &seen, &verify::Policy::default()).expect("a scope");
    assert_eq!(
        astray(&verdict),
        [
            "a→b:board Undecided",
            "b→b:board Undecided",
            "c→b:board Undecided"
        ]
    );
    assert_eq!(verdict.result, Outcome::Undecided);
    // With affinity `local`, unknown answers may have come from elsewhere.
    world.mesh.services[1].affinity = Affinity::Local;
    let verdict = verify::judge(&world.mesh, &seen, &verify::Policy::default()).expect("a scope");
    let from_c = |row: &&String| row.starts_with("b→");
    assert_eq!(
        astray(&verdict).iter().filter(from_c).collect::<Vec<_>>(),
        ["b→a:board Undecided", "b→b:board Undecided"]
            .iter()
            .collect::<Vec<_>>()
    );
}

#[test]
fn a_single_stray_answer_breaks_an_affinity() {
    let world = with_global(Affinity::Local, Vec::new());
    let mut seen = world.observe();
    let judge =
        |seen: &_| verify::judge(&world.mesh, seen, &verify::Policy::default()).expect("a scope");
    assert!(astray(&judge(&seen)).is_empty());
    let of_b = seen
        .runs
        .iter_mut()
        .find(|run| run.source.cluster == "b" && run.target.service.as_deref() == Some("board"));
    of_b.expect("a run").samples[0].responder = Some(mesh::observation::NodeRef {
        cluster: "a".to_owned(),
        node: "a1".to_owned(),
    });
    assert_eq!(astray(&judge(&seen)), ["b→a:board Fail"]);
}
