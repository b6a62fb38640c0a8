//! From findings to rows of the report: the same checks and causes that measurements give.

use super::view::Unread;
use super::world::{Cluster, Pair};
use crate::checks::{self, CheckSpec};
use crate::rows::{Draft, spec};
use crate::verdict::{Cause, Check, Status};

/// What a check found in one place.
pub(super) enum Finding {
    /// Holds; what was seen.
    Pass(String),
    Fail(Problem),
    /// What is lacking (figures after a colon), and what to do about it.
    Undecided(String, String),
    /// Nothing to judge, and why.
    Info(String),
}

impl Finding {
    /// Undecided for what could not be read in `cluster`.
    pub(super) fn unread(cluster: &str, unread: &Unread) -> Self {
        Self::Undecided(
            format!("{}: `{cluster}`", unread.words()),
            unread.hint().to_owned(),
        )
    }
}

/// Something that is wrong.
pub(super) struct Problem {
    /// Id of a cause.
    pub(super) cause: &'static str,
    /// One sentence with the cluster and, on a link, the direction.
    pub(super) summary: String,
    pub(super) evidence: Vec<String>,
    /// The line, key or command to change.
    pub(super) hint: String,
}

/// Where a finding is.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    Mesh,
    Cluster(&'a str),
    Link(&'a str, &'a str),
}

impl<'a> From<Cluster<'a>> for Place<'a> {
    fn from(cluster: Cluster<'a>) -> Self {
        Self::Cluster(cluster.context)
    }
}

impl<'a> From<Pair<'a>> for Place<'a> {
    fn from(pair: Pair<'a>) -> Self {
        Self::Link(pair.from.context, pair.to.context)
    }
}

#[derive(Default)]
pub(super) struct Rows {
    checks: Vec<Check>,
    causes: Vec<Cause>,
}

impl Rows {
    pub(super) fn add<'a>(
        &mut self,
        id: &'static str,
        place: impl Into<Place<'a>>,
        finding: Finding,
    ) {
        let place = place.into();
        let spec = spec(id);
        let mut check = row(spec, place);
        check.expected.text = spec.claim.to_owned();
        match finding {
            Finding::Pass(seen) => {
                check.status = Status::Pass;
                check
                    .evidence
                    .extend(Some(seen).filter(|seen| !seen.is_empty()));
            }
            Finding::Info(why) => {
                check.status = Status::Info;
                check.cause = Some(why);
            }
            Finding::Undecided(why, hint) => {
                check.cause = Some(why);
                check.hint = Some(hint);
            }
            Finding::Fail(problem) => {
                check.status = Status::Fail;
                check.cause = Some(problem.summary.clone());
                check.hint = Some(problem.hint.clone());
                check.evidence = problem.evidence.clone();
                self.blame(&check, problem);
            }
        }
        self.checks.push(check);
    }

    /// Directions and checks with the same cause share one.
    fn blame(&mut self, check: &Check, problem: Problem) {
        debug_assert!(
            crate::causes::table::find(problem.cause).is_some(),
            "`{}`",
            problem.cause
        );
        let same =
            |cause: &&mut Cause| cause.id == problem.cause && cause.summary == problem.summary;
        if let Some(known) = self.causes.iter_mut().find(same) {
            known.explains.push(check.label());
            for line in problem.evidence {
                if !known.evidence.contains(&line) {
                    known.evidence.push(line);
                }
            }
            return;
        }
        self.causes.push(Cause {
            id: problem.cause.to_owned(),
            summary: problem.summary,
            source_cluster: check.source_cluster.clone(),
            target_cluster: check.target_cluster.clone(),
            node: None,
            plane: None,
            evidence: problem.evidence,
            rivals: Vec::new(),
            hint: problem.hint,
            explains: vec![check.label()],
        });
    }

    /// A cause of checks that are undecided, and those checks.
    pub(super) fn lacking(&mut self, mut cause: Cause, checks: Vec<Check>) {
        cause.explains = checks.iter().map(Check::label).collect();
        self.checks.extend(checks);
        self.causes.push(cause);
    }

    /// What `selected` leaves, in the order of the table; failures that decide before those that warn.
    pub(super) fn finish(self, selected: impl Fn(&str) -> bool) -> (Vec<Check>, Vec<Cause>) {
        let mut checks: Vec<Check> = self.checks;
        checks.retain(|check| selected(&check.id));
        let order = |id: &str| checks::CHECKS.iter().position(|spec| spec.id == id);
        checks.sort_by_key(|check| order(&check.id));
        let mut causes = self.causes;
        for cause in &mut causes {
            cause
                .explains
                .retain(|label| checks.iter().any(|check| check.label() == *label));
        }
        causes.retain(|cause| !cause.explains.is_empty());
        causes.sort_by_key(|cause| {
            let mut explained = checks
                .iter()
                .filter(|check| cause.explains.contains(&check.label()));
            let worst = explained.any(|check| check.status == Status::Fail && check.gates());
            let failed = checks.iter().any(|check| {
                check.status == Status::Fail && cause.explains.contains(&check.label())
            });
            (!worst, !failed)
        });
        (checks, causes)
    }
}

/// An undecided row of `spec` in `place`.
pub(super) fn row(spec: &CheckSpec, place: Place<'_>) -> Check {
    let mut check = Draft::settled(spec, Status::Undecided).check;
    (check.source_cluster, check.target_cluster) = match place {
        Place::Mesh => (None, None),
        Place::Cluster(context) => (Some(context.to_owned()), None),
        Place::Link(source, target) => (Some(source.to_owned()), Some(target.to_owned())),
    };
    check
}

/// "`a`, `b` and 3 more".
pub(super) fn some(names: &[String], most: usize) -> String {
    let shown: Vec<String> = names
        .iter()
        .take(most)
        .map(|name| format!("`{name}`"))
        .collect();
    let text = shown.join(", ");
    match names.len().saturating_sub(most) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}
