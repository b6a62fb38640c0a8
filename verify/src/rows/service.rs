//! `service.reach`: every cluster reaches every declared service, the one that runs it included.

use mesh::observation::{Outcome, Plane, ProbeKind};
use mesh::{Link, Service, ServiceKind};

use super::{Draft, Trial, affinity, count, outcome_word, percent};
use crate::checks::SERVICE_REACH;
use crate::view::View;

/// How a service of this kind is asked.
pub(crate) fn probe_kind(kind: ServiceKind) -> ProbeKind {
    match kind {
        ServiceKind::Tcp => ProbeKind::Tcp,
        ServiceKind::Http => ProbeKind::Http,
        ServiceKind::Ndvi => ProbeKind::NdviTile,
    }
}

/// Clusters that must reach `service`: those of links towards a cluster with backends, and these themselves. What
/// `ndvi.*` judges is not judged twice.
pub fn askers(mesh: &mesh::Mesh, service: &Service) -> Vec<Link> {
    let towards = |source: &str| Link {
        source: source.to_owned(),
        target: service.cluster.clone(),
    };
    let runs_it = |name: &String| service.backends.contains(name);
    let linked = |source: &str| {
        let links = |link: &&Link| link.source == source && runs_it(&link.target);
        mesh.links
            .iter()
            .any(|link| links(&link) && link.target != source)
            || mesh.links.contains(&towards(source))
    };
    let at_home = |source: &str| {
        let touches = |link: &Link| link.source == source || link.target == source;
        runs_it(&source.to_owned()) && mesh.links.iter().any(touches)
    };
    mesh.clusters
        .iter()
        .map(|cluster| cluster.name.as_str())
        .filter(|name| match service.kind {
            ServiceKind::Ndvi if !service.is_global() => at_home(name) && !linked(name),
            _ => at_home(name) || linked(name),
        })
        .map(towards)
        .collect()
}

pub(super) fn rows(view: &View<'_>) -> Vec<Draft> {
    let mut rows = Vec::new();
    for service in &view.mesh.services {
        for link in askers(view.mesh, service) {
            rows.push(row(view, service, &link));
            if service.is_global() {
                rows.extend(affinity::rows(view, service, &link));
            }
        }
    }
    rows
}

fn row(view: &View<'_>, service: &Service, link: &Link) -> Draft {
    let objectives = &view.mesh.objectives;
    let p0 = match service.kind {
        ServiceKind::Ndvi => 1.0 - objectives.ndvi_success,
        ServiceKind::Tcp | ServiceKind::Http => 1.0 - objectives.connect_success,
    };
    let kind = probe_kind(service.kind);
    let counted = count(
        view.to_service(link, &service.name, kind),
        |probe| match probe.sample.outcome {
            _ if service.is_global() && affinity::answered(view, service, probe) => Trial::Good,
            Outcome::Ok if service.is_global() => Trial::Bad(outcome_word(Outcome::WrongResponder)),
            Outcome::Ok => Trial::Good,
            _ if probe.doubtful() => Trial::Doubtful,
            outcome => Trial::Bad(outcome_word(outcome)),
        },
    );
    let mut draft = counted.draft(view, SERVICE_REACH, link, Plane::Pod, p0);
    draft.check.service = Some(service.name.clone());
    if service.is_global() {
        // Its backends are in no one cluster: what keeps it from answering is no matter of one link.
        draft.check.target_cluster = None;
    }
    draft.check.expected.text = format!(
        "at most {} of the requests to `{}` fail",
        percent(p0),
        service.name
    );
    if let Some(test) = &mut draft.test {
        test.of_clients_alone(view, link);
    }
    draft
}
