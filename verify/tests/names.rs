//! `dns.*`: names of services, who cannot resolve them, and whether the address fails as well.

mod world;

use mesh::ServiceName;
use mesh::observation::Outcome as Probe;
use verify::checks::Severity;
use verify::verdict::Verdict;
use verify::{Outcome, Policy, Status, judge};
use world::verdicts::{not_ready, top, verdict};
use world::{Fault, World, world};

const LOCAL: &str = "ndvi.default.svc.cluster.local";
const SET: &str = "ndvi.default.svc.clusterset.local";

/// `ndvi` has a name in every cluster, and another one in `b` and `c`.
fn with_names(faults: Vec<Fault>) -> World {
    let mut world = world(faults);
    let name = |name: &str, clusters: &[&str]| ServiceName {
        name: name.to_owned(),
        addresses: Vec::new(),
        clusters: clusters.iter().map(|c| (*c).to_owned()).collect(),
    };
    world.mesh.services[0].names = vec![name(LOCAL, &[]), name(SET, &["b", "c"])];
    world
}

/// Rows of `dns.*` with this status, as `id cluster→name`.
fn rows(verdict: &Verdict, status: Status) -> Vec<String> {
    let wanted =
        |check: &&verify::verdict::Check| check.id.starts_with("dns.") && check.status == status;
    verdict
        .checks
        .iter()
        .filter(wanted)
        .map(|check| check.label())
        .collect()
}

#[test]
fn names_resolve_where_they_are_declared_and_nowhere_else_is_anything_claimed() {
    let verdict = verdict(&with_names(Vec::new()));
    assert_eq!(verdict.result, Outcome::Ready, "{:#?}", verdict.causes);
    let expected: Vec<String> = ["dns.resolve", "dns.latency"]
        .iter()
        .flat_map(|id| {
            [
                ("a", LOCAL),
                ("b", LOCAL),
                ("b", SET),
                ("c", LOCAL),
                ("c", SET),
            ]
            .map(|(cluster, name)| format!("{id} {cluster}→{name}"))
        })
        .collect();
    assert_eq!(rows(&verdict, Status::Pass), expected);
    let none = self::verdict(&world(Vec::new()));
    assert!(
        none.checks
            .iter()
            .all(|check| !check.id.starts_with("dns."))
    );
}

#[test]
fn each_way_to_fail_has_its_cause_and_is_held_against_the_address() {
    for (outcome, cause) in [
        (Probe::Timeout, "dns.unanswered"),
        (Probe::Refused, "dns.unanswered"),
        (Probe::NoSuchName, "dns.no_such_name"),
        (Probe::ServerFailure, "dns.server_failure"),
        (Probe::WrongAddress, "dns.wrong_address"),
    ] {
        let verdict = verdict(&with_names(vec![Fault::Names("b", outcome)]));
        assert_eq!(verdict.result, Outcome::NotReady);
        assert_eq!(top(&verdict), format!("{cause} b→- -"), "{outcome:?}");
        assert_eq!(verdict.causes.len(), 1, "{:#?}", verdict.causes);
        assert!(
            verdict.causes[0]
                .summary
                .ends_with("while the service answers at its address: DNS or service sync"),
            "{}",
            verdict.causes[0].summary
        );
        let failed = rows(&verdict, Status::Fail);
        assert_eq!(failed.len(), 4, "{failed:?}");
        assert!(failed.iter().all(|row| row.contains(" b→")), "{failed:?}");
        // The links are as they were: it is the cluster's resolver.
        assert_eq!(not_ready(&verdict), [] as [&str; 0]);
    }
}

#[test]
fn where_the_address_fails_too_the_cause_says_so() {
    let verdict = verdict(&with_names(vec![
        Fault::Names("b", Probe::NoSuchName),
        Fault::NdviDown,
    ]));
    let causes: Vec<(&str, bool)> = verdict
        .causes
        .iter()
        .map(|cause| {
            let both = cause
                .summary
                .ends_with("at its address the service fails as well");
            (cause.id.as_str(), both)
        })
        .collect();
    assert_eq!(
        causes,
        [("service.no_backend", false), ("dns.no_such_name", true)]
    );
}

#[test]
fn one_node_without_names_is_named() {
    let verdict = verdict(&with_names(vec![Fault::Names("b2", Probe::Timeout)]));
    assert_eq!(top(&verdict), "dns.unanswered b→- b2");
}

#[test]
fn a_slow_resolver_is_a_warning() {
    let verdict = verdict(&with_names(vec![Fault::NamesSlow("c")]));
    assert_eq!(verdict.result, Outcome::Ready);
    assert_eq!(
        rows(&verdict, Status::Fail),
        [
            format!("dns.latency c→{LOCAL}"),
            format!("dns.latency c→{SET}")
        ]
    );
    assert_eq!(top(&verdict), "dns.slow c→- -");
    let severity = |check: &&verify::verdict::Check| check.id == "dns.latency";
    assert!(
        verdict
            .checks
            .iter()
            .filter(severity)
            .all(|c| c.severity == Severity::Warn)
    );
}

#[test]
fn names_that_nobody_asked_for_are_no_pass() {
    let world = with_names(Vec::new());
    let mut seen = world.observe();
    seen.runs
        .retain(|run| run.target.question.is_none() || run.source.cluster != "c");
    let verdict = judge(&world.mesh, &seen, &Policy::default()).expect("a scope");
    assert_eq!(verdict.result, Outcome::Undecided);
    assert_eq!(rows(&verdict, Status::Undecided).len(), 4);
    // A silent agent of one node leaves it open as well.
    let silent = self::verdict(&with_names(vec![Fault::AgentDead("b", "b1")]));
    assert!(
        rows(&silent, Status::Undecided).contains(&format!("dns.resolve b→{LOCAL}")),
        "{:?}",
        rows(&silent, Status::Undecided)
    );
}
