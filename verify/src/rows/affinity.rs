//! `service.affinity`: which clusters' backends answer for a global service.

use std::collections::BTreeMap;

use mesh::observation::{NodeRef, Outcome, Plane};
use mesh::{Link, Service};

use super::service::probe_kind;
use super::{Counted, Draft, percent};
use crate::checks::SERVICE_AFFINITY;
use crate::tally::{Tally, localise};
use crate::verdict::Status;
use crate::view::{Probe, View};

/// Least part of its fair share that the backends of a cluster must have of the answers: what is missing has none.
const LEAST_OF_FAIR: f64 = 0.2;

/// Whether one of the service's backends answered, wherever; it counts as one where nobody says who answered.
pub(crate) fn answered(view: &View<'_>, service: &Service, probe: &Probe<'_>) -> bool {
    // The prober knows only the cluster that the service is named after.
    if !matches!(probe.sample.outcome, Outcome::Ok | Outcome::WrongResponder) {
        return false;
    }
    match view.answerer(probe) {
        Some(by) => service.backends.contains(&by.cluster),
        None => probe.sample.outcome == Outcome::Ok,
    }
}

/// An answer, and whose backend gave it where that is known.
struct Answer<'p, 'a> {
    probe: &'p Probe<'a>,
    by: Option<NodeRef>,
}

/// One row per cluster with backends, for those that `link.source` asks through it.
pub(super) fn rows(view: &View<'_>, service: &Service, link: &Link) -> Vec<Draft> {
    let probes = view.to_service(link, &service.name, probe_kind(service.kind));
    let answers: Vec<Answer<'_, '_>> = probes
        .filter(|probe| matches!(probe.sample.outcome, Outcome::Ok | Outcome::WrongResponder))
        .map(|probe| Answer {
            probe,
            by: view.answerer(probe),
        })
        .collect();
    let expected = service.answering(&link.source);
    let row = |cluster: &String| {
        let link = Link {
            source: link.source.clone(),
            target: cluster.clone(),
        };
        if expected.contains(&cluster.as_str()) {
            let least = LEAST_OF_FAIR / expected.len() as f64;
            wanted(view, service, &link, &answers, least)
        } else {
            unwanted(view, service, &link, &answers)
        }
    };
    service.backends.iter().map(row).collect()
}

/// Backends of `link.target` must have a part in the answers.
fn wanted(
    view: &View<'_>,
    service: &Service,
    link: &Link,
    answers: &[Answer<'_, '_>],
    least: f64,
) -> Draft {
    let elsewhere = |by: &NodeRef| by.cluster != link.target;
    let tally = tally(answers, elsewhere);
    let mut draft = draft(view, service, link, answers, tally, 1.0 - least);
    draft.check.expected.text = format!(
        "backends in `{}` give at least {} of the answers of `{}`",
        link.target,
        percent(least),
        service.name
    );
    draft
}

/// Backends of `link.target` must have none, as those that are meant answer.
fn unwanted(view: &View<'_>, service: &Service, link: &Link, answers: &[Answer<'_, '_>]) -> Draft {
    let p0 = 1.0 - view.mesh.objectives.connect_success;
    let from_there = |by: &NodeRef| by.cluster == link.target;
    let tally = tally(answers, from_there);
    let strays = tally.pooled().known;
    let place = localise(&tally).node();
    let mut draft = draft(view, service, link, answers, tally, p0);
    let check = &mut draft.check;
    let meant = service.answering(&link.source);
    check.expected.text = format!(
        "no backend in `{}` answers for `{}` while {} do",
        link.target,
        service.name,
        quoted(&meant)
    );
    let by_meant: u64 = meant
        .iter()
        .filter_map(|cluster| check.observed.answered_by.get(*cluster))
        .sum();
    if strays.bad == 0 {
        return draft;
    }
    check.observed.n = Some(strays.n);
    check.observed.bad = Some(strays.bad);
    draft.test = None;
    let check = &mut draft.check;
    if by_meant > 0 {
        check.status = Status::Fail;
        check.node = place;
        check.cause = Some(format!(
            "{} of {} answers came from `{}`",
            strays.bad, strays.n, link.target
        ));
    } else {
        // Falling back is what an affinity does when those that are meant are gone.
        check.status = Status::Undecided;
        check.cause = Some(format!(
            "no backend in {} is known to have answered, so that nothing shows whether the affinity holds",
            quoted(&meant)
        ));
        check.hint =
            Some("mend the backends that do not answer first, then verify again".to_owned());
    }
    draft
}

fn quoted(clusters: &[&str]) -> String {
    let quoted: Vec<String> = clusters.iter().map(|c| format!("`{c}`")).collect();
    quoted.join(", ")
}

/// Trials without their place in time: which backend a connection gets is drawn for each, so that no burst is one event.
fn tally(answers: &[Answer<'_, '_>], bad: impl Fn(&NodeRef) -> bool) -> Tally {
    let mut tally = Tally::default();
    for answer in answers {
        let trials = tally.at_look(answer.probe.cell(), answer.probe.run.look);
        match &answer.by {
            Some(by) => trials.known.add(bad(by)),
            None => trials.unresolved += 1,
        }
    }
    tally
}

fn draft(
    view: &View<'_>,
    service: &Service,
    link: &Link,
    answers: &[Answer<'_, '_>],
    tally: Tally,
    p0: f64,
) -> Draft {
    let unknown = answers.iter().filter(|answer| answer.by.is_none()).count();
    let counted = Counted {
        tally,
        ..Counted::default()
    };
    let mut draft = counted.draft(view, SERVICE_AFFINITY, link, Plane::Pod, p0);
    let check = &mut draft.check;
    check.service = Some(service.name.clone());
    check.observed.excluded_local = None;
    let mut nodes: BTreeMap<&NodeRef, u64> = BTreeMap::new();
    for by in answers.iter().filter_map(|answer| answer.by.as_ref()) {
        *nodes.entry(by).or_default() += 1;
        *check
            .observed
            .answered_by
            .entry(by.cluster.clone())
            .or_default() += 1;
    }
    for (by, n) in nodes {
        check.evidence.push(format!(
            "{n} of {} answers came from `{}/{}`",
            answers.len(),
            by.cluster,
            by.node
        ));
    }
    if let Some(test) = &mut draft.test {
        test.of_clients_alone(view, link);
        if answers.is_empty() {
            test.missing
                .push(format!("`{}` answered nothing", service.name));
        } else if unknown > 0 {
            check.evidence.push(format!(
                "who gave {unknown} of {} answers is not known: they do not say it, and no kernel recorded their connection",
                answers.len()
            ));
        }
    }
    draft
}
