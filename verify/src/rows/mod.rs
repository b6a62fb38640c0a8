//! From observations to undecided rows: one file per family of checks. `judge` decides them together.

mod affinity;
mod baseline;
mod config;
pub(crate) mod control;
mod dns;
mod evidence;
mod exchange;
mod jitter;
pub(crate) mod latency;
mod loss;
pub(crate) mod mtu;
mod ndvi;
pub(crate) mod policy;
mod reach;
pub(crate) mod service;
pub(crate) mod throughput;

use std::collections::BTreeMap;

use mesh::Link;
use mesh::observation::{NodeRef, Outcome, Plane, ProbeRun};

use crate::Policy;
use crate::checks::{self, CheckSpec};
use crate::tally::{CellName, Tally};
use crate::verdict::{Check, Expected, Observed, Status};
use crate::view::{Probe, View};

/// A check before the decision.
pub(crate) struct Draft {
    pub(crate) check: Check,
    /// What is to be tested; without it the check's status already stands.
    pub(crate) test: Option<Test>,
}

/// "At most `p0` of the trials are bad."
pub(crate) struct Test {
    pub(crate) p0: f64,
    pub(crate) tally: Tally,
    /// Declared nodes of either side. With `each_node` every one of them has to prove the claim.
    pub(crate) sources: Vec<String>,
    pub(crate) targets: Vec<String>,
    pub(crate) each_node: bool,
    /// [`checks::burst`].
    pub(crate) burst: f64,
    /// Samples left out because their source was stalled, by source.
    pub(crate) stalled: BTreeMap<String, u64>,
    /// Evidence that is missing: makes READY impossible.
    pub(crate) missing: Vec<String>,
    pub(crate) spent: Spent,
}

impl Test {
    /// A service's backends answer for themselves, and any may serve: only the clients' side has names of its own and
    /// evidence to give.
    fn of_clients_alone(&mut self, view: &View<'_>, link: &Link) {
        self.each_node = false;
        self.targets.clear();
        let home = Link {
            source: link.source.clone(),
            target: link.source.clone(),
        };
        self.missing = silent(view, &home, Plane::Pod);
    }
}

/// Chances of error that were spent before the trials were counted, on what tells the bad ones from the good.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Spent {
    /// On the side of passing.
    pub(crate) good: f64,
    /// On the side of failing.
    pub(crate) bad: f64,
}

impl Test {
    fn statements(&self) -> usize {
        1 + self.sources.len() + self.targets.len()
    }
}

/// All rows that `policy` selects.
pub(crate) fn build(view: &View<'_>, policy: &Policy) -> Vec<Draft> {
    let mut rows = config::rows(view);
    rows.extend(evidence::agents(view));
    let suspects = throughput::Suspects::of(view);
    let wanted = |ids: &[&str]| ids.iter().any(|id| policy.selects(id));
    for link in &view.mesh.links {
        let denied = |link: &Link| view.mesh.rules.denies(link);
        if denied(link) {
            rows.extend(despite_denial(view, link));
        } else {
            rows.extend(reach::rows(view, link));
            if wanted(&[checks::LATENCY_CONNECT, checks::LATENCY_HANDSHAKE]) {
                rows.extend(latency::rows(view, link));
            }
            if wanted(&[checks::LOSS_UDP, checks::LOSS_TCP_SYN]) {
                rows.extend(loss::rows(view, link));
            }
            rows.push(jitter::row(view, link));
        }
        // Whoever may connect measures both directions.
        let back = Link {
            source: link.target.clone(),
            target: link.source.clone(),
        };
        let measurable = |link: &Link| view.mesh.links.contains(link) && !denied(link);
        if measurable(link) || measurable(&back) {
            rows.extend(mtu::rows(view, link));
            rows.push(throughput::row(view, link, &suspects));
        }
        rows.extend(evidence::link_rows(view, link));
        rows.extend(ndvi::rows(view, link));
    }
    rows.extend(ndvi::clients(view));
    rows.extend(control::rows(view));
    rows.extend(policy::rows(view));
    rows.extend(service::rows(view));
    rows.extend(dns::rows(view));
    rows.retain(|row| policy.selects(&row.check.id));
    if let Some(baseline) = &policy.baseline
        && wanted(&[checks::LATENCY_BASELINE])
    {
        let tests = rows.iter().filter_map(|row| row.test.as_ref());
        let others = tests.map(Test::statements).sum();
        rows.extend(baseline::rows(view, baseline, others));
    }
    for row in &mut rows {
        if spec(&row.check.id).fixed().is_none()
            && let Some(gravity) = view.mesh.rules.gravity(&row.check.id)
        {
            row.check.severity = gravity.into();
        }
    }
    let order = |id: &str| checks::CHECKS.iter().position(|spec| spec.id == id);
    rows.sort_by_key(|row| order(&row.check.id));
    rows
}

/// What is still judged on a link whose pods must not connect: its nodes, and its path by the datagrams of the
/// other initiator, if that one may connect.
fn despite_denial(view: &View<'_>, link: &Link) -> Vec<Draft> {
    let back = Link {
        source: link.target.clone(),
        target: link.source.clone(),
    };
    let datagrams = view.mesh.links.contains(&back) && !view.mesh.rules.denies(&back);
    let mut rows = reach::rows(view, link);
    rows.extend(loss::rows(view, link));
    rows.retain(|row| match row.check.id.as_str() {
        checks::NODE_TCP => true,
        checks::LOSS_UDP => datagrams,
        _ => false,
    });
    rows
}

impl Draft {
    pub(crate) fn settled(spec: &CheckSpec, status: Status) -> Self {
        Self {
            check: Check {
                id: spec.id.to_owned(),
                category: spec.family().to_owned(),
                severity: spec.severity,
                status,
                source_cluster: None,
                target_cluster: None,
                node: None,
                plane: None,
                service: None,
                observed: Observed::default(),
                expected: Expected::default(),
                evidence: Vec::new(),
                cause: None,
                hint: None,
                docs: spec.docs(),
                more_samples_needed: None,
                waived: None,
            },
            test: None,
        }
    }

    pub(crate) fn on_link(mut self, link: &Link) -> Self {
        self.check.source_cluster = Some(link.source.clone());
        self.check.target_cluster = Some(link.target.clone());
        self
    }
}

pub(crate) use baseline::merge;

pub(crate) fn spec(id: &str) -> &'static CheckSpec {
    checks::find(id).unwrap_or_else(|| unreachable!("`{id}` is in the table"))
}

/// What one probe contributes to a check.
pub(crate) enum Trial {
    Good,
    Bad(&'static str),
    /// The starved prober cannot tell: counts against READY and never for NOT READY.
    Doubtful,
    /// Says nothing about this check.
    Skip,
}

/// The sum of one check's trials.
#[derive(Default)]
pub(crate) struct Counted {
    pub(crate) tally: Tally,
    pub(crate) failures: BTreeMap<String, u64>,
    pub(crate) starved: u64,
    pub(crate) local: u64,
}

/// Counts `probes`, leaving out those that were never sent. A starved prober's samples are not left out:
/// the longer an answer takes, the likelier a stall falls into it, so that would hide failures.
pub(crate) fn count<'p, 'a: 'p>(
    probes: impl Iterator<Item = &'p Probe<'a>>,
    mut trial: impl FnMut(&Probe<'a>) -> Trial,
) -> Counted {
    let mut counted = Counted::default();
    let mut current: Option<(&ProbeRun, CellName)> = None;
    for probe in probes {
        if probe.sample.outcome == Outcome::LocalError {
            counted.local += 1;
            continue;
        }
        let trial = trial(probe);
        if probe.sample.starved && !matches!(trial, Trial::Skip) {
            counted.starved += 1;
        }
        // Probes come run by run.
        let cell = match current.take() {
            Some((run, cell)) if std::ptr::eq(run, probe.run) => cell,
            _ => probe.cell(),
        };
        let (_, cell) = current.insert((probe.run, cell));
        let bad = match trial {
            Trial::Skip => continue,
            Trial::Doubtful => {
                let trials = counted.tally.at_look(cell.clone(), probe.run.look);
                trials.unresolved += 1;
                continue;
            }
            Trial::Good => false,
            Trial::Bad(reason) => {
                *counted.failures.entry(reason.to_owned()).or_default() += 1;
                true
            }
        };
        let event = (probe.run.look, probe.sample.sent_ns, bad);
        counted.tally.add(cell, event);
    }
    counted
}

impl Counted {
    /// The draft of a tested check on `link`.
    pub(crate) fn draft(
        self,
        view: &View<'_>,
        id: &str,
        link: &Link,
        plane: Plane,
        p0: f64,
    ) -> Draft {
        let mut draft = Draft::settled(spec(id), Status::Undecided).on_link(link);
        draft.check.plane = Some(plane.into());
        draft.check.observed = Observed {
            failures: self.failures,
            starved: (self.starved > 0).then_some(self.starved),
            excluded_local: Some(self.local),
            ..Observed::default()
        };
        draft.check.expected = Expected {
            rate_at_most: Some(p0),
            confidence: Some(view.mesh.objectives.confidence),
            ..Expected::default()
        };
        draft.test = Some(Test {
            p0,
            tally: self.tally,
            sources: names(view, &link.source),
            targets: names(view, &link.target),
            each_node: true,
            burst: checks::burst(id),
            stalled: BTreeMap::new(),
            missing: silent(view, link, plane),
            spent: Spent::default(),
        });
        draft
    }
}

fn names(view: &View<'_>, cluster: &str) -> Vec<String> {
    view.nodes(cluster)
        .iter()
        .map(|node| node.name.clone())
        .collect()
}

/// Nodes of the link without a usable agent, each with the reason.
pub(crate) fn silent(view: &View<'_>, link: &Link, plane: Plane) -> Vec<String> {
    link_nodes(view, link)
        .filter_map(|node| {
            let reason = view.silent(plane, &node)?;
            Some(format!(
                "no evidence from the {} agent of `{}` in `{}`: {reason}",
                plane_word(plane),
                node.node,
                node.cluster
            ))
        })
        .collect()
}

/// Every node of both clusters, once.
pub(crate) fn link_nodes<'v>(
    view: &'v View<'_>,
    link: &'v Link,
) -> impl Iterator<Item = NodeRef> + 'v {
    let target = (link.target != link.source).then_some(link.target.as_str());
    std::iter::once(link.source.as_str())
        .chain(target)
        .flat_map(|cluster| {
            view.nodes(cluster).iter().map(move |node| NodeRef {
                cluster: cluster.to_owned(),
                node: node.name.clone(),
            })
        })
}

/// Nodes of `cluster` whose kernel cannot testify, each with the reason.
pub(crate) fn unwitnessed(view: &View<'_>, cluster: &str) -> Vec<String> {
    view.nodes(cluster)
        .iter()
        .filter_map(|node| {
            let node = NodeRef {
                cluster: cluster.to_owned(),
                node: node.name.clone(),
            };
            if view.witnessed(&node) {
                return None;
            }
            // A silent agent is named already.
            let account = view.account(Plane::Pod, &node)?;
            let why = account
                .kernel_witness
                .as_deref()
                .unwrap_or("it does not say why");
            Some(format!(
                "no kernel witness on `{}` in `{}`: {why}",
                node.node, node.cluster
            ))
        })
        .collect()
}

pub(crate) fn plane_word(plane: Plane) -> &'static str {
    match plane {
        Plane::Pod => "pod",
        Plane::Node => "node",
    }
}

pub(crate) fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::Refused => "refused",
        Outcome::Timeout => "timeout",
        Outcome::Reset => "reset",
        Outcome::Unreachable => "unreachable",
        Outcome::WrongResponder => "wrong_responder",
        Outcome::BadReply => "bad_reply",
        Outcome::NoSuchName => "no_such_name",
        Outcome::ServerFailure => "server_failure",
        Outcome::WrongAddress => "wrong_address",
        Outcome::LocalError => "local_error",
    }
}

/// 0.01 → "1 %".
pub(crate) fn percent(share: f64) -> String {
    let digits = (share * 1e6).round() / 1e4;
    format!("{digits} %")
}
