//! `judge`: all statements tested together, then statuses, links, causes and the result.

use mesh::observation::{NodeState, Observations};
use mesh::{Link, Mesh};

use crate::causes;
use crate::checks::{
    self, AGENTS, LATENCY_CONNECT, LATENCY_HANDSHAKE, LOSS_UDP, NODE_TCP, POD_TCP, POD_UDP,
};
use crate::rows::{self, Draft, Test};
use crate::short::{Short, Subject, place};
use crate::stats::{holm, lower_bound, p_too_few, p_too_many, upper_bound};
use crate::tally::{Trials, localise};
use crate::verdict::{
    Check, Confidence, LinkRow, Marginal, Outcome, Side, Status, Unreachable, Verdict,
};
use crate::view::View;
use crate::waivers;

/// How to judge, apart from the objectives of the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Globs of check ids; empty selects all. `evidence.*` is always judged: the others rest on it.
    pub only: Vec<String>,
    /// The day of the run in UTC, until which findings may be accepted; unknown, none is.
    pub today: Option<mesh::Day>,
}

impl Policy {
    pub fn selects(&self, id: &str) -> bool {
        self.only.is_empty()
            || id.starts_with("evidence.")
            || self.only.iter().any(|glob| checks::glob_matches(glob, id))
    }
}

/// Why there is nothing to judge.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum JudgeError {
    #[error("no link is in scope")]
    EmptyScope,
    #[error(
        "cluster `{cluster}` of link `{source_cluster}` → `{target_cluster}` has too few nodes to probe between"
    )]
    EmptyLink {
        cluster: String,
        source_cluster: String,
        target_cluster: String,
    },
    #[error("no check matches `{0}`")]
    UnknownCheck(String),
    #[error(
        "objective `{objective}` allows a share of {share} to be bad, which fresh probes cannot prove"
    )]
    Unprovable { objective: &'static str, share: f64 },
    #[error("confidence {0} is not between 0.5 and 1")]
    Confidence(f64),
}

/// Smallest share that a fresh run can prove: about 30 000 clean probes a node.
const SMALLEST_PROVABLE_SHARE: f64 = 1e-4;

/// Whether there is something that can be judged. [`judge`] asks this itself; a collector asks before it probes.
pub fn check_scope(mesh: &Mesh, policy: &Policy) -> Result<(), JudgeError> {
    if mesh.links.is_empty() {
        return Err(JudgeError::EmptyScope);
    }
    for link in &mesh.links {
        for name in [&link.source, &link.target] {
            let nodes = mesh.cluster(name).map_or(0, |cluster| cluster.nodes.len());
            if nodes == 0 || (link.source == link.target && nodes < 2) {
                return Err(JudgeError::EmptyLink {
                    cluster: name.clone(),
                    source_cluster: link.source.clone(),
                    target_cluster: link.target.clone(),
                });
            }
        }
    }
    for glob in &policy.only {
        if !checks::CHECKS
            .iter()
            .any(|spec| checks::glob_matches(glob, spec.id))
        {
            return Err(JudgeError::UnknownCheck(glob.clone()));
        }
    }
    let objectives = &mesh.objectives;
    let confidence = objectives.confidence;
    if !(confidence > 0.5 && confidence < 1.0) {
        return Err(JudgeError::Confidence(confidence));
    }
    for (objective, share) in [
        ("loss", objectives.loss),
        ("connect_success", 1.0 - objectives.connect_success),
        ("ndvi_success", 1.0 - objectives.ndvi_success),
    ] {
        // Written so that a NaN is refused as well.
        if !(share > SMALLEST_PROVABLE_SHARE && share < 1.0) {
            return Err(JudgeError::Unprovable { objective, share });
        }
    }
    Ok(())
}

/// Judges what was observed against what must hold.
///
/// # Errors
/// When nothing is in scope or an objective cannot be decided; never for missing evidence, which is UNDECIDED.
pub fn judge(
    mesh: &Mesh,
    observations: &Observations,
    policy: &Policy,
) -> Result<Verdict, JudgeError> {
    check_scope(mesh, policy)?;
    let view = View::new(mesh, observations);
    let drafts = rows::build(&view, policy);
    let confidence = mesh.objectives.confidence;
    let mut family = Family::test(&drafts, confidence);
    let mut checks: Vec<Check> = drafts
        .into_iter()
        .enumerate()
        .map(|(row, draft)| family.decide(row, draft, confidence))
        .collect();
    let waivers = waivers::apply(&mesh.rules, policy.today.as_ref(), &mut checks);
    let links: Vec<LinkRow> = mesh
        .links
        .iter()
        .map(|link| link_row(mesh, link, &checks))
        .collect();
    let result = checks
        .iter()
        .filter(|check| check.gates())
        .map(|check| outcome(check.status))
        .fold(Outcome::Ready, Outcome::and);
    let causes = causes::find(&view, &mut checks);
    let unreachable = observations
        .nodes
        .iter()
        .filter_map(|report| match &report.state {
            NodeState::Unreachable(reason) => Some(Unreachable {
                cluster: report.node.cluster.clone(),
                node: report.node.node.clone(),
                plane: report.plane.into(),
                reason: reason.clone(),
            }),
            NodeState::Observed(_) => None,
        })
        .collect();
    Ok(Verdict {
        result,
        confidence: Confidence {
            per_statement: confidence,
            ready: (result == Outcome::Ready).then_some(1.0 - family.weakest_ready),
            not_ready: (result == Outcome::NotReady).then_some(confidence),
            statements: family.p_bad.len() as u64,
            method: "exact binomial, single look; READY by intersection-union, NOT READY by Holm over all statements".to_owned(),
        },
        links,
        checks,
        causes,
        unreachable,
        waivers,
    })
}

fn outcome(status: Status) -> Outcome {
    match status {
        Status::Pass | Status::Info => Outcome::Ready,
        Status::Fail => Outcome::NotReady,
        Status::Undecided => Outcome::Undecided,
    }
}

/// All statements of a run: each row's pooled one, then its sources, then its targets.
struct Family {
    p_bad: Vec<f64>,
    rejected: Vec<bool>,
    /// Index of the first statement of each row.
    first: Vec<usize>,
    /// Largest chance, over the statements that had to hold, of passing while the objective is missed.
    weakest_ready: f64,
}

impl Family {
    fn test(drafts: &[Draft], confidence: f64) -> Self {
        let mut p_bad = Vec::new();
        let mut first = Vec::new();
        for draft in drafts {
            first.push(p_bad.len());
            if let Some(test) = &draft.test {
                p_bad
                    .extend(statements(test).map(|(_, trials)| p_too_many(trials.best(), test.p0)));
            }
        }
        let rejected = holm(&p_bad, 1.0 - confidence);
        Self {
            p_bad,
            rejected,
            first,
            weakest_ready: 0.0,
        }
    }

    fn decide(&mut self, row: usize, draft: Draft, confidence: f64) -> Check {
        let Draft { mut check, test } = draft;
        let Some(test) = test else { return check };
        let mut statuses = Vec::new();
        let mut short: Option<Short> = None;
        let mut missing = test.missing.clone();
        for (at, (subject, trials)) in statements(&test).enumerate() {
            let p_good = p_too_few(trials.worst(), test.p0);
            let has_to_hold = subject.is_none() || test.each_node;
            let status = if self.rejected[self.first[row] + at] {
                Status::Fail
            } else if p_good <= 1.0 - confidence {
                Status::Pass
            } else {
                Status::Undecided
            };
            if has_to_hold {
                if status == Status::Pass {
                    self.weakest_ready = self.weakest_ready.max(p_good);
                } else if status == Status::Undecided {
                    let this = Short::of(
                        subject.as_ref(),
                        trials,
                        test.p0,
                        confidence,
                        self.p_bad.len(),
                    );
                    if short.as_ref().is_none_or(|short| this.worse(short)) {
                        short = Some(this);
                    }
                }
                if let Some(subject) = &subject
                    && trials.worst().n == 0
                {
                    missing.push(format!("no usable sample {}", place(subject)));
                }
                statuses.push(status);
            } else if status == Status::Fail {
                statuses.push(status);
            }
            if let Some((side, node)) = subject {
                check
                    .observed
                    .marginals
                    .push(marginal(side, node, status, trials, confidence));
            } else {
                figures(&mut check, trials, confidence);
            }
        }
        check.status = if statuses.contains(&Status::Fail) {
            Status::Fail
        } else if statuses.contains(&Status::Undecided) || !missing.is_empty() {
            Status::Undecided
        } else {
            Status::Pass
        };
        match check.status {
            Status::Fail => check.node = localise(&test.tally).node(),
            Status::Undecided => {
                check.cause = missing
                    .first()
                    .cloned()
                    .or_else(|| short.as_ref().map(|short| short.words(&check.id, test.p0)));
                if let (Some(short), true) = (short, test.missing.is_empty()) {
                    check.more_samples_needed = short.more.filter(|_| missing.is_empty());
                    let voided = check.observed.excluded_stalled.unwrap_or(0);
                    check.hint = Some(short.advice(voided));
                }
                check.evidence.extend(missing);
            }
            Status::Pass | Status::Info => {}
        }
        check
    }
}

fn statements(test: &Test) -> impl Iterator<Item = (Subject, Trials)> + '_ {
    let of = move |side: Side, declared: &'_ Vec<String>| {
        declared
            .iter()
            .map(move |node| (Some((side, node.clone())), test.tally.marginal(side, node)))
            .collect::<Vec<_>>()
    };
    std::iter::once((None, test.tally.pooled()))
        .chain(of(Side::Source, &test.sources))
        .chain(of(Side::Target, &test.targets))
}

fn figures(check: &mut Check, trials: Trials, confidence: f64) {
    let observed = &mut check.observed;
    let known = trials.known;
    observed.n = Some(known.n);
    observed.bad = Some(known.bad);
    observed.rate = (known.n > 0).then(|| known.rate());
    observed.rate_lower = Some(lower_bound(trials.best(), confidence));
    observed.rate_upper = Some(upper_bound(trials.worst(), confidence));
    observed.unresolved = (trials.unresolved > 0).then_some(trials.unresolved);
}

fn marginal(side: Side, node: String, status: Status, trials: Trials, confidence: f64) -> Marginal {
    Marginal {
        side,
        node,
        status,
        n: trials.known.n,
        bad: trials.known.bad,
        rate_lower: lower_bound(trials.best(), confidence),
        rate_upper: upper_bound(trials.worst(), confidence),
    }
}

fn link_row(mesh: &Mesh, link: &Link, checks: &[Check]) -> LinkRow {
    let of_link = |check: &&Check| {
        check.source_cluster.as_ref() == Some(&link.source)
            && check.target_cluster.as_ref() == Some(&link.target)
    };
    let figure = |id: &str| checks.iter().filter(of_link).find(|check| check.id == id);
    // Where nothing comes back a path cannot be measured: that has its own failure, which leaves the mesh no READY.
    let (there, back) = ((&link.source, &link.target), (&link.target, &link.source));
    let dead = checks.iter().any(|check| {
        let at = (check.source_cluster.as_ref(), check.target_cluster.as_ref());
        check.status == Status::Fail
            && [POD_TCP, POD_UDP, NODE_TCP].contains(&check.id.as_str())
            && [there, back]
                .iter()
                .any(|(source, target)| at == (Some(*source), Some(*target)))
    });
    let unmeasurable =
        |check: &&Check| dead && check.status == Status::Undecided && checks::measured(&check.id);
    let worst = |path: bool| {
        checks
            .iter()
            .filter(of_link)
            .filter(|check| check.gates())
            .filter(|check| checks::of_path(&check.id) == path && check.id != AGENTS)
            .filter(|check| !unmeasurable(check))
            .map(|check| outcome(check.status))
            .reduce(Outcome::and)
    };
    let back = Link {
        source: link.target.clone(),
        target: link.source.clone(),
    };
    let unused = mesh.rules.denies(link) && mesh.rules.denies(&back);
    let quantile = |id: &str, pick: fn(&Check) -> Option<f64>| figure(id).and_then(pick);
    let p50 = |check: &Check| check.observed.p50.as_ref().and_then(|q| q.seconds);
    let p99 = |check: &Check| check.observed.p99.as_ref().and_then(|q| q.seconds);
    LinkRow {
        source_cluster: link.source.clone(),
        target_cluster: link.target.clone(),
        result: worst(false).unwrap_or(Outcome::Undecided),
        path_result: worst(true)
            // A finding that counts nowhere stands in nobody's way.
            .or_else(|| figure(LOSS_UDP).map(|_| Outcome::Ready))
            // Where both sides are denied no datagram tells of the path, and nobody is meant to use it.
            .or_else(|| unused.then(|| worst(false)).flatten())
            .unwrap_or(Outcome::Undecided),
        n: figure(POD_TCP)
            .and_then(|check| check.observed.n)
            .unwrap_or(0),
        failed: figure(POD_TCP)
            .and_then(|check| check.observed.bad)
            .unwrap_or(0),
        loss_upper: figure(LOSS_UDP).and_then(|check| check.observed.rate_upper),
        connect_p50_seconds: quantile(LATENCY_CONNECT, p50),
        connect_p99_seconds: quantile(LATENCY_CONNECT, p99),
        handshake_rtt_p50_seconds: quantile(LATENCY_HANDSHAKE, p50),
        handshake_rtt_p99_seconds: quantile(LATENCY_HANDSHAKE, p99),
    }
}
