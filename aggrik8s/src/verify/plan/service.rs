//! Probes of declared services that no link of `ndvi.*` asks for: see `service.reach`.

use std::net::SocketAddr;

use mesh::observation::{Plane, ProbeKind, ProbeTarget};
use mesh::{Mesh, ServiceKind};
use verify::stats::samples_tolerating;
use verify::{Policy, checks, service_askers};

use super::{TOLERATED, Wanted, node_ref};

pub(super) fn targets(mesh: &Mesh, policy: &Policy, wanted: &mut Vec<Wanted>) {
    let selected = [checks::SERVICE_REACH, checks::SERVICE_AFFINITY];
    if !selected.iter().any(|id| policy.selects(id)) {
        return;
    }
    let objectives = &mesh.objectives;
    for service in &mesh.services {
        let (kind, p0) = match service.kind {
            ServiceKind::Tcp => (ProbeKind::Tcp, 1.0 - objectives.connect_success),
            ServiceKind::Http => (ProbeKind::Http, 1.0 - objectives.connect_success),
            ServiceKind::Ndvi => (ProbeKind::NdviTile, 1.0 - objectives.ndvi_success),
        };
        let proving = samples_tolerating(p0, objectives.confidence, TOLERATED, 1.0).unwrap_or(0);
        for link in service_askers(mesh, service) {
            let Some(cluster) = mesh.cluster(&link.source) else {
                continue;
            };
            for node in &cluster.nodes {
                let own = |address: &&std::net::IpAddr| {
                    let same = |a: &std::net::IpAddr| a.is_ipv4() == address.is_ipv4();
                    node.agent_pod.iter().any(same)
                };
                let Some(address) = service.addresses.iter().find(own) else {
                    continue;
                };
                wanted.push(Wanted {
                    source: node_ref(&cluster.name, node),
                    plane: Plane::Pod,
                    kind,
                    target: ProbeTarget {
                        cluster: service.cluster.clone(),
                        node: None,
                        service: Some(service.name.clone()),
                        address: SocketAddr::new(*address, service.port),
                        question: None,
                    },
                    count: proving as f64 / cluster.nodes.len().max(1) as f64,
                    statement: cluster.nodes.len() as f64,
                });
            }
        }
    }
}
