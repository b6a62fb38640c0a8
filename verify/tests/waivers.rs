//! Findings that mesh.yaml accepts or makes lighter: what still decides, and what is said of the rest.

mod world;

use mesh::{Day, Gravity, Waiver, WaiverScope};
use verify::verdict::Verdict;
use verify::waivers::WaiverState;
use verify::{Outcome, Policy, Status, judge};
use world::verdicts::not_ready;
use world::{Fault, On, World, world};

fn day(text: &str) -> Day {
    Day::parse(text).expect("a day")
}

fn waiver(check: &str, scope: [Option<&str>; 3]) -> Waiver {
    let [source, target, node] = scope.map(|name| name.map(str::to_owned));
    Waiver {
        check: check.to_owned(),
        scope: WaiverScope {
            source,
            target,
            node,
        },
        reason: "the barn".to_owned(),
        until: day("2026-12-31"),
    }
}

/// 10 % of the HTTP requests from `a` to `b` are cut off: one finding, and no other.
fn http(accept: Vec<Waiver>) -> World {
    let mut world = world(vec![Fault::NoHttp(On("a", "b"))]);
    world.mesh.rules.accept = accept;
    world
}

fn on(world: &World, today: Option<&str>) -> Verdict {
    let policy = Policy {
        today: today.map(day),
        ..Policy::default()
    };
    judge(&world.mesh, &world.observe(), &policy).expect("a scope")
}

#[test]
fn without_a_waiver_the_finding_gates() {
    let verdict = on(&http(Vec::new()), Some("2026-06-01"));
    assert_eq!(verdict.result, Outcome::NotReady);
    assert_eq!(not_ready(&verdict), ["a→b"]);
    assert!(verdict.waivers.is_empty());
}

#[test]
fn a_waived_finding_stays_visible_and_counts_nowhere() {
    for (check, scope) in [
        ("reach.pod_http", [None, None, None]),
        ("reach.*", [Some("a"), Some("b"), None]),
    ] {
        let world = http(vec![waiver(check, scope)]);
        let verdict = on(&world, Some("2026-12-31"));
        assert_eq!(verdict.result, Outcome::Ready, "{:?}", not_ready(&verdict));
        assert!(not_ready(&verdict).is_empty());
        let found: Vec<_> = verdict
            .checks
            .iter()
            .filter(|c| c.waived.is_some())
            .collect();
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].id.as_str(), found[0].status),
            ("reach.pod_http", Status::Fail)
        );
        let waived = found[0].waived.as_ref().expect("waived");
        assert_eq!(
            (waived.reason.as_str(), waived.until.as_str()),
            ("the barn", "2026-12-31")
        );
        // Its cause is still named.
        assert_eq!(verdict.causes[0].id, "filter.http");
        let row = &verdict.waivers[0];
        assert_eq!((row.state, row.findings), (WaiverState::Used, 1));
    }
}

#[test]
fn an_expired_waiver_gates_again_and_says_so() {
    let world = http(vec![waiver("reach.pod_http", [None, None, None])]);
    for today in [Some("2027-01-01"), None] {
        let verdict = on(&world, today);
        assert_eq!(verdict.result, Outcome::NotReady);
        let check = verdict
            .checks
            .iter()
            .find(|c| c.status == Status::Fail)
            .expect("a failure");
        assert_eq!(check.waived, None);
        assert!(
            check.evidence.iter().any(|line| line
                == "was accepted until 2026-12-31 (the barn); that is over, so it counts again"),
            "{:?}",
            check.evidence
        );
        let row = &verdict.waivers[0];
        assert_eq!((row.state, row.findings), (WaiverState::Expired, 1));
    }
}

#[test]
fn a_waiver_covers_what_its_scope_names_and_nothing_else() {
    for (check, scope) in [
        ("reach.pod_http", [Some("b"), None, None]),
        ("reach.pod_http", [None, Some("c"), None]),
        // The finding is the whole link's, not one of a node.
        ("reach.pod_http", [None, None, Some("a1")]),
        ("reach.pod_tcp", [None, None, None]),
    ] {
        let verdict = on(&http(vec![waiver(check, scope)]), Some("2026-06-01"));
        assert_eq!(verdict.result, Outcome::NotReady, "{check} {scope:?}");
        assert_eq!(verdict.waivers[0].state, WaiverState::Unused);
    }
    // Another finding beside the accepted one.
    let mut both = http(vec![waiver("reach.pod_http", [None, None, None])]);
    both.faults.push(Fault::UdpLoss(On("b", "c"), 0.2));
    let verdict = on(&both, Some("2026-06-01"));
    assert_eq!(verdict.result, Outcome::NotReady);
    assert!(verdict.causes.len() >= 2);
}

#[test]
fn a_finding_of_one_node_is_accepted_for_that_node() {
    let mut world = world(vec![Fault::PodLoss(On("a/a1", "b"), 0.3)]);
    world.mesh.rules.accept = vec![waiver("loss.udp", [Some("a"), Some("b"), Some("a1")])];
    let verdict = on(&world, Some("2026-06-01"));
    assert_eq!(verdict.waivers[0].state, WaiverState::Used);
    // Its figure stays, and nobody is left undecided by it.
    let row = &verdict.links[0];
    assert!(row.loss_upper > Some(0.1), "{row:?}");
    assert_ne!(row.path_result, Outcome::Undecided);
    world.mesh.rules.accept[0].scope.node = Some("a2".to_owned());
    let verdict = on(&world, Some("2026-06-01"));
    assert_eq!(verdict.waivers[0].state, WaiverState::Unused);
}

#[test]
fn what_is_undecided_can_be_accepted_as_well() {
    let mut world = world(Vec::new());
    world.few = 5;
    world.tiles = 200;
    assert_eq!(on(&world, Some("2026-06-01")).result, Outcome::Undecided);
    world.mesh.rules.accept = vec![
        waiver("reach.node_tcp", [None, None, None]),
        waiver("reach.pod_http", [None, None, None]),
    ];
    let verdict = on(&world, Some("2026-06-01"));
    assert_eq!(verdict.result, Outcome::Ready, "{:?}", not_ready(&verdict));
    assert_eq!(verdict.waivers[0].findings, 6);
}

#[test]
fn severities_of_the_file_decide_what_gates() {
    for gravity in [Gravity::Warn, Gravity::Info] {
        let mut world = http(Vec::new());
        world.mesh.rules.severity = vec![("reach.pod_http".to_owned(), gravity)];
        let verdict = on(&world, None);
        assert_eq!(verdict.result, Outcome::Ready);
        let failed = verdict.checks.iter().find(|c| c.status == Status::Fail);
        assert_eq!(failed.map(|c| c.severity), Some(gravity.into()));
    }
    // The longest pattern counts, and evidence gates whatever the file says.
    let mut world = http(Vec::new());
    world.mesh.rules.severity = vec![
        ("*".to_owned(), Gravity::Info),
        ("reach.pod_http".to_owned(), Gravity::Gate),
    ];
    assert_eq!(on(&world, None).result, Outcome::NotReady);
    world.mesh.rules.severity.pop();
    assert_eq!(on(&world, None).result, Outcome::Ready);
    world.faults = vec![Fault::NoWitness("a", "a1")];
    assert_eq!(on(&world, None).result, Outcome::Undecided);
}

#[test]
fn a_path_that_was_not_asked_about_is_not_blamed_for_the_service() {
    let world = world(vec![Fault::NdviDown]);
    let policy = Policy {
        only: vec!["ndvi.*".to_owned()],
        ..Policy::default()
    };
    let verdict = judge(&world.mesh, &world.observe(), &policy).expect("a scope");
    assert_eq!(verdict.result, Outcome::NotReady);
    for row in &verdict.links {
        assert_eq!(row.path_result, Outcome::Undecided, "{row:?}");
    }
}
