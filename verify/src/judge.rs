//! `judge`: all statements tested together, then statuses, links, causes and the result.

use mesh::observation::{NodeState, Observations};
use mesh::{Link, Mesh};

use crate::baseline::Baseline;
use crate::causes;
use crate::checks::{
    self, AGENTS, LATENCY_BASELINE, LATENCY_CONNECT, LATENCY_HANDSHAKE, LOSS_UDP, NODE_TCP,
    POD_TCP, POD_UDP,
};
use crate::dependence::runs_test;
use crate::looks;
use crate::open::Open;
use crate::rows::{self, Draft, Test};
use crate::short::{Short, place};
use crate::statement::{Statement, statements};
use crate::stats::holm;
use crate::tally::localise;
use crate::verdict::{
    Check, Confidence, LinkRow, Marginal, Outcome, Side, Status, Unreachable, Verdict,
};
use crate::view::View;
use crate::waivers;

/// How to judge, apart from the objectives of the mesh.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// Globs of check ids; empty selects all. `evidence.*` is always judged: the others rest on it.
    pub only: Vec<String>,
    /// The day of the run in UTC, until which findings may be accepted; unknown, none is.
    pub today: Option<mesh::Day>,
    /// What `latency.baseline` compares with; without one it is not judged. [`Baseline::check`] tells whether it can be.
    pub baseline: Option<Baseline>,
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
    #[error("`{0}` is judged from API servers")]
    NeedsContexts(String),
    #[error("`{0}` is judged from mesh.yaml and the agents")]
    NeedsMesh(String),
    #[error("`{LATENCY_BASELINE}` has nothing to compare with")]
    NoBaseline,
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
        let mut ours = checks::CHECKS
            .iter()
            .filter(|spec| checks::of_mesh(spec.id));
        if !ours.any(|spec| checks::glob_matches(glob, spec.id)) {
            return Err(JudgeError::NeedsContexts(glob.clone()));
        }
        if glob == LATENCY_BASELINE && policy.baseline.is_none() {
            return Err(JudgeError::NoBaseline);
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
    judge_look(mesh, observations, policy).map(|(verdict, _)| verdict)
}

/// [`judge`], and what another look at the same links would decide.
///
/// # Errors
/// As [`judge`].
pub fn judge_look(
    mesh: &Mesh,
    observations: &Observations,
    policy: &Policy,
) -> Result<(Verdict, Vec<Open>), JudgeError> {
    check_scope(mesh, policy)?;
    let view = View::new(mesh, observations);
    let drafts = rows::build(&view, policy);
    let confidence = mesh.objectives.confidence;
    let mut family = Family::test(&drafts, confidence);
    let mut open = Vec::new();
    let checks: Vec<Check> = drafts
        .into_iter()
        .enumerate()
        .map(|(row, draft)| family.decide(row, draft, confidence, &mut open))
        .collect();
    let mut checks = rows::merge(checks);
    let waivers = waivers::apply(&mesh.rules, policy.today.as_ref(), &mut checks);
    let links: Vec<LinkRow> = mesh
        .links
        .iter()
        .map(|link| link_row(mesh, link, &checks))
        .collect();
    let result = checks
        .iter()
        .filter(|check| check.gates())
        .map(|check| Outcome::of(check.status))
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
    let verdict = Verdict {
        result,
        confidence: Confidence {
            per_statement: confidence,
            ready: (result == Outcome::Ready).then_some(1.0 - family.weakest_ready),
            burst_seconds: family
                .longest_burst_ns
                .filter(|_| result == Outcome::Ready)
                .map(|ns| ns * 1e-9),
            not_ready: (result == Outcome::NotReady).then_some(confidence),
            statements: family.rejected.len() as u64,
            looks: family.looks as u64,
            method: format!(
                "exact binomial, bursts counted by their size, looks {} of {} with {:.0} % of the error for the first; READY by intersection-union, NOT READY by Holm over all statements",
                family.looks,
                looks::MOST,
                100.0 * looks::share(0)
            ),
        },
        links,
        checks,
        causes,
        unreachable,
        waivers,
    };
    Ok((verdict, open))
}

/// All statements of a run: each row's pooled one, then its sources, then its targets.
struct Family {
    /// By row.
    statements: Vec<Vec<Statement>>,
    /// In the same order, all rows in one.
    rejected: Vec<bool>,
    /// Index of the first statement of each row.
    first: Vec<usize>,
    /// Largest chance, over the statements that had to hold, of passing while the objective is missed.
    weakest_ready: f64,
    /// Longest bursts of lost packets that every node's statement of a loss reckons with, ns on average.
    longest_burst_ns: Option<f64>,
    /// Most looks that any statement rests on.
    looks: usize,
}

impl Family {
    fn test(drafts: &[Draft], confidence: f64) -> Self {
        let mut p_bad = Vec::new();
        let mut first = Vec::new();
        let mut by_row = Vec::new();
        for draft in drafts {
            first.push(p_bad.len());
            let of_row = draft
                .test
                .as_ref()
                .map_or_else(Vec::new, |test| statements(test, confidence));
            p_bad.extend(of_row.iter().map(|statement| statement.p_bad));
            by_row.push(of_row);
        }
        let looks = by_row.iter().flatten().map(|s| s.looks).max().unwrap_or(1);
        Self {
            rejected: holm(&p_bad, 1.0 - confidence),
            statements: by_row,
            first,
            weakest_ready: 0.0,
            longest_burst_ns: None,
            looks,
        }
    }

    fn decide(&mut self, row: usize, draft: Draft, confidence: f64, open: &mut Vec<Open>) -> Check {
        let Draft { mut check, test } = draft;
        let Some(test) = test else { return check };
        let mut statuses = Vec::new();
        let mut short: Option<Short> = None;
        let mut missing = test.missing.clone();
        for (at, statement) in self.statements[row].iter().enumerate() {
            let subject = &statement.subject;
            let has_to_hold = subject.is_none() || test.each_node;
            let status = if self.rejected[self.first[row] + at] {
                Status::Fail
            } else if statement.p_good <= 1.0 - confidence {
                Status::Pass
            } else {
                Status::Undecided
            };
            if has_to_hold {
                if status == Status::Pass {
                    self.weakest_ready = self.weakest_ready.max(statement.p_good);
                    // All nodes together are probed more often than each: it is each one's probes that meet bursts.
                    if let (Some(longest), Some(_)) = (statement.longest_burst_ns, subject) {
                        let so_far = self.longest_burst_ns.get_or_insert(longest);
                        *so_far = so_far.min(longest);
                    }
                } else if status == Status::Undecided {
                    let this = Short::of(statement, test.p0, confidence, self.rejected.len());
                    if short.as_ref().is_none_or(|short| this.worse(short)) {
                        short = Some(this);
                    }
                }
                if let Some(subject) = subject
                    && statement.trials.worst().n == 0
                {
                    missing.push(format!("no usable sample {}", place(subject)));
                }
                statuses.push(status);
            } else if status == Status::Fail {
                statuses.push(status);
            }
            if let Some((side, node)) = subject {
                let mut marginal = marginal(*side, node.clone(), status, statement);
                if *side == Side::Source {
                    marginal.excluded_stalled = test.stalled.get(node).copied();
                }
                check.observed.marginals.push(marginal);
            } else {
                figures(&mut check, statement);
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
                    if missing.is_empty() {
                        open.extend(Open::of(&check, &short));
                        check.more_samples_needed = short.more;
                    }
                    let voided = check.observed.excluded_stalled.unwrap_or(0);
                    check.hint = Some(short.advice(voided));
                }
                check.evidence.extend(missing);
            }
            Status::Pass | Status::Info => {}
        }
        if let Some(order) = order(&test, &self.statements[row]) {
            check.evidence.push(order);
        }
        check
    }
}

/// How the bad trials hang together in time, if they do.
fn order(test: &Test, statements: &[Statement]) -> Option<String> {
    let bursts = statements.first()?.bursts;
    if bursts.design_effect() < 1.5 {
        return None;
    }
    let chance = test
        .tally
        .series()
        .filter_map(runs_test)
        .reduce(f64::min)
        .filter(|p| *p < ORDER_CHANCE)?;
    Some(format!(
        "the bad ones come in bursts: {} in {} of them (Wald–Wolfowitz p {chance:.0e}), so that {:.1} count as one",
        bursts.bad,
        bursts.bursts,
        bursts.design_effect()
    ))
}

/// Below it, the order of a cell's bad trials is no accident and is told.
const ORDER_CHANCE: f64 = 1e-3;

fn figures(check: &mut Check, statement: &Statement) {
    let observed = &mut check.observed;
    let known = statement.trials.known;
    observed.n = Some(known.n);
    observed.bad = Some(known.bad);
    observed.rate = (known.n > 0).then(|| known.rate());
    observed.rate_lower = Some(statement.lower);
    observed.rate_upper = Some(statement.upper);
    let unresolved = statement.trials.unresolved;
    observed.unresolved = (unresolved > 0).then_some(unresolved);
    observed.bursts = (statement.bursts.bad > 0).then_some(statement.bursts.bursts);
}

fn marginal(side: Side, node: String, status: Status, statement: &Statement) -> Marginal {
    Marginal {
        side,
        node,
        status,
        n: statement.trials.known.n,
        bad: statement.trials.known.bad,
        rate_lower: statement.lower,
        rate_upper: statement.upper,
        excluded_stalled: None,
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
            .map(|check| Outcome::of(check.status))
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
