//! `control.*`: the same probes between the nodes of one cluster. They judge nothing; they tell a broken node from a broken mesh.

use mesh::Link;
use mesh::observation::{Outcome, Plane, ProbeKind};

use super::{Draft, Trial, count, outcome_word, spec};
use crate::checks::{CONTROL_TCP, CONTROL_UDP};
use crate::quantile::quantile;
use crate::stats::{lower_bound, upper_bound};
use crate::verdict::Status;
use crate::view::View;

/// The cluster towards itself.
pub(crate) fn inside(cluster: &str) -> Link {
    Link {
        source: cluster.to_owned(),
        target: cluster.to_owned(),
    }
}

/// One row per cluster in scope and kind of probe; none for a cluster that is judged itself.
pub(super) fn rows(view: &View<'_>) -> Vec<Draft> {
    let mut rows = Vec::new();
    for cluster in &view.mesh.clusters {
        let link = inside(&cluster.name);
        let in_scope = |end: &Link| end.source == cluster.name || end.target == cluster.name;
        if cluster.nodes.len() < 2
            || view.mesh.links.contains(&link)
            || !view.mesh.links.iter().any(in_scope)
        {
            continue;
        }
        for (id, kind) in [(CONTROL_TCP, ProbeKind::Tcp), (CONTROL_UDP, ProbeKind::Udp)] {
            rows.push(row(view, &link, id, kind));
        }
    }
    rows
}

fn row(view: &View<'_>, link: &Link, id: &str, kind: ProbeKind) -> Draft {
    let mut times = Vec::new();
    let counted = count(view.of(link, Plane::Pod, kind), |probe| {
        match probe.sample.outcome {
            Outcome::Ok => {
                let time = match kind {
                    ProbeKind::Udp => probe.sample.round_trip_ns,
                    _ => probe.sample.connect_ns,
                };
                if !probe.sample.starved {
                    times.extend(time.map(|ns| ns as f64 * 1e-9));
                }
                Trial::Good
            }
            _ if probe.doubtful() => Trial::Doubtful,
            outcome => Trial::Bad(outcome_word(outcome)),
        }
    });
    let confidence = view.mesh.objectives.confidence;
    let mut draft = Draft::settled(spec(id), Status::Info).on_link(link);
    let check = &mut draft.check;
    check.plane = Some(Plane::Pod.into());
    let trials = counted.tally.pooled();
    let failed = trials.known.bad;
    let observed = &mut check.observed;
    observed.n = Some(trials.known.n);
    observed.bad = Some(failed);
    observed.rate = (trials.known.n > 0).then(|| trials.known.rate());
    observed.rate_lower = Some(lower_bound(trials.best(), confidence));
    observed.rate_upper = Some(upper_bound(trials.worst(), confidence));
    observed.failures = counted.failures;
    observed.minimum_seconds = times.iter().copied().reduce(f64::min);
    observed.p50 = quantile(&times, failed, 0.5, confidence);
    check.expected.text = format!("for comparison with the links of `{}`", link.source);
    if trials.known.n == 0 {
        let none = "no probe ran inside this cluster".to_owned();
        check.evidence.push(none);
    }
    draft
}
