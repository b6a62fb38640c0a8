//! Connections that mesh.yaml denies and that come through.

use mesh::Link;

use super::{Case, cause, direction, example, on, rival};
use crate::checks::POLICY_DENIED;
use crate::rows::policy::came_through;
use crate::tally::{Tally, localise};
use mesh::observation::{Plane, ProbeKind};

pub(super) fn find(case: &mut Case<'_, '_>) {
    let links: Vec<Link> = case.view.mesh.links.clone();
    for link in &links {
        if !case.open(POLICY_DENIED, link) {
            continue;
        }
        let mut tally = Tally::default();
        for probe in case.view.of(link, Plane::Pod, ProbeKind::Tcp) {
            tally.cell(probe.cell()).known.add(came_through(probe));
        }
        let scope = localise(&tally);
        let name = direction(link, &scope);
        let trials = tally.pooled().known;
        let at = example(case.view, link, &scope);
        let mut found = cause(
            "policy.open",
            link,
            &scope,
            format!("pods of {name} connect although mesh.yaml denies it"),
            format!(
                "policies that select the pod {} on `{}`: does one select it at all, and does it know the other cluster's identities?",
                at.target_pod, at.target_node
            ),
        );
        found.evidence = vec![format!(
            "{name}: {} of {} connects came through",
            trials.bad, trials.n
        )];
        found.rivals = vec![rival(
            "mesh.yaml denies what is meant to work",
            "whoever owns the policies",
        )];
        case.name(found, |check| check.id == POLICY_DENIED && on(check, link));
    }
}
