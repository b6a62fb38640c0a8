//! `reach.*`: a probe that asked got its own answer from the right node.

use mesh::Link;
use mesh::observation::{Outcome, Plane, ProbeKind};

use super::{Draft, Trial, count, outcome_word, percent};
use crate::checks::{NODE_TCP, POD_HTTP, POD_TCP, POD_UDP};
use crate::view::View;

pub(super) fn rows(view: &View<'_>, link: &Link) -> Vec<Draft> {
    let connect = 1.0 - view.mesh.objectives.connect_success;
    let loss = view.mesh.objectives.loss;
    [
        (POD_TCP, Plane::Pod, ProbeKind::Tcp, connect, true),
        (POD_UDP, Plane::Pod, ProbeKind::Udp, loss, true),
        (NODE_TCP, Plane::Node, ProbeKind::Tcp, connect, false),
        (POD_HTTP, Plane::Pod, ProbeKind::Http, connect, false),
    ]
    .into_iter()
    .map(|(id, plane, kind, p0, each_node)| {
        let counted = count(view.of(link, plane, kind), |probe| {
            match probe.sample.outcome {
                Outcome::Ok => Trial::Good,
                _ if probe.doubtful() => Trial::Doubtful,
                outcome => Trial::Bad(outcome_word(outcome)),
            }
        });
        let mut draft = counted.draft(view, id, link, plane, p0);
        draft.check.expected.text = format!("at most {} of the probes fail", percent(p0));
        if let Some(test) = &mut draft.test {
            test.each_node = each_node;
        }
        draft
    })
    .collect()
}
