//! A run against a baseline: what grew, what did not, and baselines that tell nothing.

mod simulate;
mod world;

use simulate::growth::{Bench, Growth, KEPT, first, links, status};
use simulate::{ALPHA, Judged};
use verify::verdict::TimedName;
use verify::{BaselineError, Policy, Status, judge};
use world::Random;

const LINKS: u64 = 60;

#[test]
fn a_p99_that_grew_by_a_tenth_is_found_within_the_budget() {
    for (seed, growth) in [(1, Growth::Path), (2, Growth::Queue)] {
        let sum = links(growth, 1.1, KEPT, LINKS, seed);
        assert_eq!((sum.not_ready, sum.ready), (LINKS, 0), "{growth:?} {sum:?}");
    }
}

#[test]
fn what_did_not_grow_passes() {
    let sum = links(Growth::Path, 1.0, KEPT, LINKS, 3);
    assert_eq!((sum.ready, sum.not_ready), (LINKS, 0), "{sum:?}");
    assert!(sum.share(sum.looks) < 2.0, "{sum:?}");
}

/// At the allowed growth either answer is an error.
#[test]
fn at_the_margin_wrong_answers_are_rare() {
    let tolerated = ALPHA + 3.0 * (ALPHA * (1.0 - ALPHA) / LINKS as f64).sqrt();
    for (seed, growth) in [(4, Growth::Path), (5, Growth::Queue)] {
        let sum = links(growth, 1.05, KEPT, LINKS, seed);
        assert!(sum.share(sum.ready) <= tolerated, "{growth:?} {sum:?}");
        assert!(sum.share(sum.not_ready) <= tolerated, "{growth:?} {sum:?}");
    }
}

/// Those that got through are as fast as ever.
#[test]
fn failed_probes_are_slow_probes() {
    let sum = links(Growth::Failing(0.04), 1.0, KEPT, 20, 6);
    assert_eq!((sum.not_ready, sum.ready), (20, 0), "{sum:?}");
}

fn once(kept: u64, growth: Growth, times: f64) -> verify::Verdict {
    let mut bench = Bench::new();
    let mut random = Random::new(7);
    let baseline = bench.keep(kept, &mut random);
    let mut sum = Judged::default();
    bench.link(baseline, (growth, times), first(), &mut random, &mut sum)
}

fn check(verdict: &verify::Verdict) -> &verify::Check {
    let mut found = verdict.checks.iter().filter(|c| c.id == "latency.baseline");
    let check = found.next().expect("the check");
    assert!(found.next().is_none(), "one per link");
    check
}

#[test]
fn a_longer_path_and_a_longer_queue_are_told_apart() {
    for (growth, id) in [
        (Growth::Path, "path.longer"),
        (Growth::Queue, "path.queueing"),
    ] {
        let verdict = once(KEPT, growth, 1.2);
        let check = check(&verdict);
        assert_eq!(check.status, Status::Fail);
        let cause = verdict
            .causes
            .iter()
            .find(|c| c.explains.iter().any(|e| e.starts_with("latency.baseline")))
            .expect("a cause");
        assert_eq!(cause.id, id, "{cause:#?}");
        assert_eq!(check.cause.as_ref(), Some(&cause.summary));
        assert!(check.hint.is_some() && !check.evidence.is_empty());
        assert!(cause.summary.contains("baseline"), "{}", cause.summary);
    }
    // It warns, and leaves the verdict alone.
    let verdict = once(KEPT, Growth::Path, 1.2);
    assert!(!check(&verdict).gates());
    assert_ne!(verdict.result, verify::Outcome::NotReady);
}

#[test]
fn the_figures_say_what_grew() {
    let verdict = once(KEPT, Growth::Path, 1.1);
    let growth = &check(&verdict).observed.growth;
    let names: Vec<(TimedName, f64)> = growth.iter().map(|g| (g.time, g.quantile)).collect();
    let (connect, handshake) = (TimedName::Connect, TimedName::HandshakeRtt);
    assert_eq!(
        names,
        [
            (connect, 0.5),
            (connect, 0.99),
            (handshake, 0.5),
            (handshake, 0.99)
        ]
    );
    for of in growth {
        let near = |a: Option<f64>, b: f64| a.is_some_and(|a| (a - b).abs() < 2e-4);
        assert!(near(of.shortest_grew_seconds, 0.002), "{of:?}");
        if of.quantile == 0.5 {
            assert!(near(of.grew_seconds, 0.002), "{of:?}");
        }
        assert_eq!((of.baseline_n, of.status), (KEPT, Status::Fail));
    }
    let p99 = growth[3].baseline.as_ref().and_then(|q| q.seconds);
    assert!(p99.is_some_and(|s| (s - 0.020).abs() < 3e-4), "{p99:?}");
}

#[test]
fn a_baseline_of_too_few_samples_proves_nothing() {
    for (kept, words) in [
        (20, "too few samples in the baseline"),
        (300, "p99 rests on 300"),
    ] {
        let verdict = once(kept, Growth::Path, 1.0);
        let check = check(&verdict);
        assert_eq!(check.status, Status::Undecided, "{check:#?}");
        let said = [
            check.cause.clone().unwrap_or_default(),
            check.evidence.join("; "),
        ]
        .join("; ");
        assert!(said.contains(words), "{said}");
        assert!(
            check.hint.as_ref().is_some_and(|h| h.contains("--window")),
            "{check:#?}"
        );
    }
    // Not a single sample.
    assert_eq!(status(&once(0, Growth::Path, 1.0)), Status::Undecided);
}

/// Judged against a baseline of another mesh's links or nodes.
#[test]
fn links_without_a_baseline_are_no_finding() {
    let world = world::world(Vec::new());
    let observations = world.observe();
    let kept = simulate::growth::of(&world.mesh, &observations);
    let judged = |kept: verify::Baseline| {
        let policy = Policy {
            baseline: Some(kept),
            ..Policy::default()
        };
        judge(&world.mesh, &observations, &policy).expect("a scope")
    };
    let statuses = |verdict: &verify::Verdict| -> Vec<Status> {
        let rows = verdict.checks.iter().filter(|c| c.id == "latency.baseline");
        rows.map(|c| c.status).collect()
    };
    let same = judged(kept.clone());
    assert_eq!(statuses(&same), [Status::Pass; 6], "{:#?}", same.checks);

    let mut fewer = kept.clone();
    fewer.links.remove(0);
    let verdict = judged(fewer);
    assert_eq!(statuses(&verdict)[0], Status::Info);
    assert_eq!(statuses(&verdict)[1..], [Status::Pass; 5]);
    let rows = verdict.checks.iter().find(|c| c.id == "latency.baseline");
    let cause = rows.and_then(|c| c.cause.as_ref()).expect("why");
    assert!(cause.starts_with("no baseline: "), "{cause}");

    // A node that was not there then is left out, the others are compared.
    let mut renamed = kept.clone();
    for pair in renamed
        .links
        .iter_mut()
        .flat_map(|l| [&mut l.connect, &mut l.handshake_rtt])
    {
        for pair in pair.pairs.iter_mut().filter(|p| p.source_node == "a1") {
            pair.source_node = "a9".into();
        }
    }
    let verdict = judged(renamed.clone());
    assert_eq!(statuses(&verdict)[0], Status::Pass, "{:#?}", verdict.checks);
    let row = verdict.checks.iter().find(|c| c.id == "latency.baseline");
    let evidence = row.map(|c| c.evidence.join("; ")).expect("a row");
    assert!(
        evidence.contains("does not know 2 of 4 pairs"),
        "{evidence}"
    );
    for link in &mut renamed.links {
        for pair in link
            .connect
            .pairs
            .iter_mut()
            .chain(&mut link.handshake_rtt.pairs)
        {
            pair.source_node = format!("x{}", pair.source_node);
        }
    }
    assert_eq!(statuses(&judged(renamed)), [Status::Info; 6]);
}

#[test]
fn baselines_that_cannot_be_used_are_refused() {
    let world = world::world(Vec::new());
    let kept = simulate::growth::of(&world.mesh, &world.observe());
    assert_eq!(kept.check(&world.mesh), Ok(()));
    let mut other = kept.clone();
    other.schema_version = 2;
    let seen = BaselineError::Version { seen: "2".into() };
    assert_eq!(other.check(&world.mesh), Err(seen));
    let mut other = kept.clone();
    other.kind = "verify".into();
    assert!(matches!(
        other.check(&world.mesh),
        Err(BaselineError::Kind(_))
    ));
    let mut other = kept.clone();
    other.links.push(other.links[0].clone());
    assert!(matches!(
        other.check(&world.mesh),
        Err(BaselineError::Garbled(_))
    ));
    let stranger = world::mesh(&["x", "y"], 2);
    let error = kept.check(&stranger).expect_err("nothing in common");
    assert!(error.to_string().contains("`sim`"), "{error}");
    // Without one, its check cannot be asked for alone.
    let policy = Policy {
        only: vec!["latency.baseline".into()],
        ..Policy::default()
    };
    let error = verify::check_scope(&world.mesh, &policy).expect_err("no baseline");
    assert!(error.to_string().contains("nothing to compare"), "{error}");
}

#[test]
fn as_a_gate_it_decides_and_can_be_accepted() {
    let slower = {
        let mut world = world::world(vec![world::Fault::Delay(world::On("a", "b"), 0.003)]);
        world.mesh.rules.severity = vec![("latency.baseline".into(), mesh::Gravity::Gate)];
        world
    };
    let healthy = world::world(Vec::new());
    let kept = simulate::growth::of(&healthy.mesh, &healthy.observe());
    let mut mesh = slower.mesh.clone();
    let mut policy = Policy {
        baseline: Some(kept),
        today: mesh::Day::parse("2026-11-21"),
        ..Policy::default()
    };
    let observations = slower.observe();
    let verdict = judge(&mesh, &observations, &policy).expect("a scope");
    assert_eq!(
        verdict.result,
        verify::Outcome::NotReady,
        "{:#?}",
        verdict.checks
    );
    assert_eq!(world::verdicts::not_ready(&verdict), ["a→b", "b→a"]);
    assert_eq!(verdict.causes[0].id, "path.longer");
    assert_eq!(verdict.causes.len(), 1);
    mesh.rules.accept = vec![mesh::Waiver {
        check: "latency.*".into(),
        scope: mesh::WaiverScope::default(),
        reason: "moved to the other provider".into(),
        until: mesh::Day::parse("2026-12-31").expect("a day"),
    }];
    let verdict = judge(&mesh, &observations, &policy).expect("a scope");
    assert_eq!(verdict.result, verify::Outcome::Ready);
    policy.today = mesh::Day::parse("2027-01-01");
    let verdict = judge(&mesh, &observations, &policy).expect("a scope");
    assert_eq!(verdict.result, verify::Outcome::NotReady);
}
