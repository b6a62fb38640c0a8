//! What a world is judged to be, in words that tests compare.

use verify::verdict::Verdict;
use verify::{Outcome, Policy, Status, judge};

use super::{Fault, World, world};

pub(crate) fn verdict(world: &World) -> Verdict {
    judge(&world.mesh, &world.observe(), &Policy::default()).expect("a scope")
}

/// Links that are not READY as `source→target`, and path directions as `source⇢target`.
pub(crate) fn not_ready(verdict: &Verdict) -> Vec<String> {
    let mut out = Vec::new();
    for row in &verdict.links {
        let mark = |outcome: Outcome| {
            if outcome == Outcome::NotReady {
                ""
            } else {
                "?"
            }
        };
        let (s, t) = (&row.source_cluster, &row.target_cluster);
        if row.result != Outcome::Ready {
            out.push(format!("{s}→{t}{}", mark(row.result)));
        }
        if row.path_result != Outcome::Ready {
            out.push(format!("{s}⇢{t}{}", mark(row.path_result)));
        }
    }
    out
}

/// id, direction, node of the first cause.
pub(crate) fn top(verdict: &Verdict) -> String {
    let Some(cause) = verdict.causes.first() else {
        return "none".into();
    };
    let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "-".into());
    format!(
        "{} {}→{} {}",
        cause.id,
        name(&cause.source_cluster),
        name(&cause.target_cluster),
        name(&cause.node)
    )
}

#[track_caller]
pub(crate) fn check(
    faults: Vec<Fault>,
    expected_top: &str,
    expected_not_ready: &[&str],
) -> Verdict {
    let world = world(faults.clone());
    let verdict = verdict(&world);
    let causes: Vec<_> = verdict
        .causes
        .iter()
        .map(|c| (&c.id, &c.summary, &c.explains))
        .collect();
    assert_eq!(top(&verdict), expected_top, "{faults:?}\n{causes:#?}");
    assert_eq!(
        not_ready(&verdict),
        expected_not_ready,
        "{faults:?}\n{causes:#?}"
    );
    let expected = if expected_not_ready.iter().any(|l| !l.ends_with('?')) {
        Outcome::NotReady
    } else if expected_not_ready.is_empty() {
        Outcome::Ready
    } else {
        Outcome::Undecided
    };
    assert_eq!(verdict.result, expected);
    // Every failure is explained, and says what was seen, why, and what to do.
    for check in verdict
        .checks
        .iter()
        .filter(|check| check.status == Status::Fail)
    {
        assert!(check.cause.is_some() && check.hint.is_some(), "{check:?}");
    }
    for cause in &verdict.causes {
        assert!(
            !cause.evidence.is_empty() && !cause.hint.is_empty() && !cause.explains.is_empty(),
            "{cause:?}"
        );
    }
    verdict
}
