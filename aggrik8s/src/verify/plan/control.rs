//! Probes inside each cluster: few, and only to compare with.

use mesh::observation::{Plane, ProbeKind, ProbeTarget};
use mesh::{Link, Mesh, RESPONDER_ECHO_PORT};
use verify::Policy;
use verify::checks;

use super::{Wanted, address, node_ref};

/// Probes of each kind that a node sends to its neighbours.
const PER_NODE: f64 = 60.0;
/// Neighbours that a node sends them to.
const NEIGHBOURS: usize = 2;

/// Every node probes the next ones of its cluster, so that it is the target of as many.
pub(super) fn targets(mesh: &Mesh, policy: &Policy, wanted: &mut Vec<Wanted>) {
    for cluster in &mesh.clusters {
        let itself = Link {
            source: cluster.name.clone(),
            target: cluster.name.clone(),
        };
        let in_scope = |link: &Link| link.source == cluster.name || link.target == cluster.name;
        if mesh.links.contains(&itself) || !mesh.links.iter().any(in_scope) {
            continue;
        }
        let nodes = &cluster.nodes;
        let neighbours = NEIGHBOURS.min(nodes.len().saturating_sub(1));
        for (kind, id) in [
            (ProbeKind::Tcp, checks::CONTROL_TCP),
            (ProbeKind::Udp, checks::CONTROL_UDP),
        ] {
            if !policy.selects(id) {
                continue;
            }
            for (at, source) in nodes.iter().enumerate() {
                for step in 1..=neighbours {
                    let target = &nodes[(at + step) % nodes.len()];
                    let Some(address) = address(source, target, Plane::Pod) else {
                        continue;
                    };
                    wanted.push(Wanted {
                        source: node_ref(&cluster.name, source),
                        plane: Plane::Pod,
                        kind,
                        target: ProbeTarget {
                            cluster: cluster.name.clone(),
                            node: Some(target.name.clone()),
                            service: None,
                            address: (address, RESPONDER_ECHO_PORT).into(),
                            question: None,
                        },
                        count: PER_NODE / neighbours as f64,
                        statement: 0.0,
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::verify::plan::tests::mesh;

    #[test]
    fn every_node_is_source_and_target_of_its_neighbours() {
        for nodes in [1, 2, 3, 6] {
            let mut wanted = Vec::new();
            targets(&mesh(nodes), &Policy::default(), &mut wanted);
            let mut sums: BTreeMap<(bool, String), f64> = BTreeMap::new();
            for want in &wanted {
                assert_eq!(want.source.cluster, want.target.cluster);
                let target = want.target.node.clone().unwrap_or_default();
                assert_ne!(want.source.node, target);
                *sums.entry((true, want.source.node.clone())).or_default() += want.count;
                *sums.entry((false, target)).or_default() += want.count;
            }
            let ends = if nodes == 1 { 0 } else { 2 * 2 * nodes };
            assert_eq!(sums.len(), ends, "{nodes}");
            // TCP and UDP.
            assert!(
                sums.values().all(|n| (n - 2.0 * PER_NODE).abs() < 1e-9),
                "{sums:?}"
            );
        }
    }

    #[test]
    fn a_cluster_that_is_judged_itself_has_no_control() {
        let mut mesh = mesh(3);
        mesh.links = vec![Link {
            source: "a".to_owned(),
            target: "a".to_owned(),
        }];
        let mut wanted = Vec::new();
        targets(&mesh, &Policy::default(), &mut wanted);
        assert!(wanted.is_empty());
    }
}
