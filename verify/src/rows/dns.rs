//! `dns.*`: the declared names of services, asked of every cluster's resolver.

use mesh::observation::Plane;
use mesh::{Link, Service, ServiceName};

use super::{Counted, Draft, exchange, percent, silent};
use crate::checks::{DNS_LATENCY, DNS_RESOLVE};
use crate::view::View;

/// Longest time that an answer may take, s.
const SOON_SECONDS: f64 = 0.1;
/// Share of the answers that may take longer.
const LATE_SHARE: f64 = 0.01;

pub(super) fn rows(view: &View<'_>) -> Vec<Draft> {
    let mut rows = Vec::new();
    for cluster in &view.mesh.clusters {
        for (service, name) in view.mesh.names_in(&cluster.name) {
            rows.extend(of_name(view, &cluster.name, service, name));
        }
    }
    rows
}

fn of_name(view: &View<'_>, cluster: &str, service: &Service, name: &ServiceName) -> [Draft; 2] {
    let objectives = &view.mesh.objectives;
    let p0 = 1.0 - objectives.connect_success;
    let asked = || view.resolutions(cluster, &name.name);
    let resolved = exchange::answered(asked());
    let (in_time, round_trips) = exchange::in_time(asked(), SOON_SECONDS);
    let addresses: Vec<String> = service
        .addresses_of(name)
        .iter()
        .map(ToString::to_string)
        .collect();
    let mut resolved = draft(view, DNS_RESOLVE, cluster, name, resolved, p0);
    resolved.check.expected.text = format!(
        "at most {} of the questions for `{}` do not end in {}",
        percent(p0),
        name.name,
        addresses.join(", ")
    );
    let mut in_time = draft(view, DNS_LATENCY, cluster, name, in_time, LATE_SHARE);
    in_time.check.expected.threshold_seconds = Some(SOON_SECONDS);
    in_time.check.expected.text = format!(
        "at most {} of the questions take longer than {:.0} ms",
        percent(LATE_SHARE),
        SOON_SECONDS * 1e3
    );
    round_trips.show(&mut in_time.check.observed, objectives.confidence);
    [resolved, in_time]
}

fn draft(
    view: &View<'_>,
    id: &str,
    cluster: &str,
    name: &ServiceName,
    counted: Counted,
    p0: f64,
) -> Draft {
    let home = Link {
        source: cluster.to_owned(),
        target: cluster.to_owned(),
    };
    let mut draft = counted.draft(view, id, &home, Plane::Pod, p0);
    // The resolver may be anywhere; what it answers is a matter of the asking cluster alone.
    draft.check.target_cluster = None;
    draft.check.service = Some(name.name.clone());
    if let Some(test) = &mut draft.test {
        test.each_node = false;
        test.targets.clear();
        test.missing = silent(view, &home, Plane::Pod);
    }
    draft
}
