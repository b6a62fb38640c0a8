//! `policy.*`: what mesh.yaml means to be allowed is allowed, and what it means to be denied is denied.

use mesh::observation::{Outcome, Plane, ProbeKind};
use mesh::{Access, Link};

use super::{Draft, Trial, count, outcome_word, percent, silent, spec};
use crate::checks::{POLICY_ALLOWED, POLICY_DENIED, POLICY_INTENT};
use crate::tally::{Tally, localise};
use crate::verdict::Status;
use crate::view::{Probe, View};

pub(super) fn rows(view: &View<'_>) -> Vec<Draft> {
    let mesh = view.mesh;
    if mesh.rules.policies.is_empty() {
        let mut row = Draft::settled(spec(POLICY_INTENT), Status::Info);
        row.check.expected.text =
            "mesh.yaml declares no `policies`: nothing is meant to be denied".to_owned();
        return vec![row];
    }
    mesh.links
        .iter()
        .filter_map(|link| match mesh.rules.access(link)? {
            Access::Allow => Some(allowed(view, link)),
            Access::Deny => Some(denied(view, link)),
        })
        .collect()
}

fn allowed(view: &View<'_>, link: &Link) -> Draft {
    let p0 = 1.0 - view.mesh.objectives.connect_success;
    let counted = count(
        view.of(link, Plane::Pod, ProbeKind::Tcp),
        |probe| match probe.sample.outcome {
            Outcome::Ok => Trial::Good,
            _ if probe.doubtful() => Trial::Doubtful,
            outcome => Trial::Bad(outcome_word(outcome)),
        },
    );
    let mut draft = counted.draft(view, POLICY_ALLOWED, link, Plane::Pod, p0);
    draft.check.expected.text = format!("allowed: at most {} of the connects fail", percent(p0));
    draft
}

/// Somebody at the target's address completed the handshake, whatever followed.
pub(crate) fn came_through(probe: &Probe<'_>) -> bool {
    probe.sample.connect_ns.is_some()
        || matches!(
            probe.sample.outcome,
            Outcome::Ok | Outcome::WrongResponder | Outcome::BadReply
        )
}

/// One connection that comes through is proof; that none does is one only where something else gets there.
fn denied(view: &View<'_>, link: &Link) -> Draft {
    let mut draft = Draft::settled(spec(POLICY_DENIED), Status::Undecided).on_link(link);
    let check = &mut draft.check;
    check.plane = Some(Plane::Pod.into());
    check.expected.text = "denied: not one connect comes through".to_owned();
    let mut tally = Tally::default();
    for probe in view.of(link, Plane::Pod, ProbeKind::Tcp) {
        if probe.sample.outcome == Outcome::LocalError || probe.doubtful() {
            continue;
        }
        let through = came_through(probe);
        tally.cell(probe.cell()).known.add(through);
        let word = if through {
            "came_through"
        } else {
            outcome_word(probe.sample.outcome)
        };
        *check.observed.failures.entry(word.to_owned()).or_default() += 1;
    }
    let trials = tally.pooled().known;
    check.observed.n = Some(trials.n);
    check.observed.bad = Some(trials.bad);
    let nodes = count(
        view.of(link, Plane::Node, ProbeKind::Tcp),
        |probe| match probe.sample.outcome {
            Outcome::Ok => Trial::Good,
            outcome => Trial::Bad(outcome_word(outcome)),
        },
    );
    let nodes = nodes.tally.pooled().known;
    check.evidence.push(format!(
        "nodes of the same link: {} of {} connects came through",
        nodes.n - nodes.bad,
        nodes.n
    ));
    let gaps = silent(view, link, Plane::Pod);
    if trials.bad > 0 {
        check.status = Status::Fail;
        check.node = localise(&tally).node();
        check.cause = Some(format!(
            "{} of {} connects came through",
            trials.bad, trials.n
        ));
    } else if let Some(gap) = gaps.into_iter().next() {
        check.cause = Some(gap);
    } else if trials.n == 0 {
        check.cause = Some("no sample: no evidence is never a pass".to_owned());
    } else if 2 * nodes.bad >= nodes.n {
        check.cause = Some(
            "the nodes do not reach each other either, so nothing shows that a policy denies"
                .to_owned(),
        );
        check.hint = Some("mend the path first, then verify again".to_owned());
    } else {
        check.status = Status::Pass;
    }
    draft
}
