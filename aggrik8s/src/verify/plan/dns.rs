//! Questions for the declared names of services, asked of every cluster's own resolver.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use mesh::Mesh;
use mesh::observation::{Plane, ProbeKind, ProbeTarget, Question};
use verify::{Policy, checks, looks};

use super::{TOLERATED, Wanted, node_ref};

const PORT: u16 = 53;
/// The first resolver of the agent's own resolv.conf.
const OWN: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

pub(super) fn targets(mesh: &Mesh, policy: &Policy, wanted: &mut Vec<Wanted>) {
    let selected = [checks::DNS_RESOLVE, checks::DNS_LATENCY];
    if !selected.iter().any(|id| policy.selects(id)) {
        return;
    }
    let objectives = &mesh.objectives;
    let p0 = (1.0 - objectives.connect_success).min(0.01);
    let proving = looks::first_look(p0, objectives.confidence, TOLERATED).unwrap_or(0) as f64;
    for cluster in &mesh.clusters {
        let resolver = SocketAddr::new(cluster.dns_server.unwrap_or(OWN), PORT);
        for (service, name) in mesh.names_in(&cluster.name) {
            let families: Vec<Vec<IpAddr>> = [true, false]
                .into_iter()
                .map(|v4| {
                    let of_family = |ip: &&IpAddr| ip.is_ipv4() == v4;
                    let addresses = service.addresses_of(name).iter();
                    addresses.filter(of_family).copied().collect()
                })
                .filter(|addresses: &Vec<IpAddr>| !addresses.is_empty())
                .collect();
            // Pooled over the nodes and families of one row.
            let count = proving / (cluster.nodes.len() * families.len()).max(1) as f64;
            for node in &cluster.nodes {
                for addresses in &families {
                    wanted.push(Wanted {
                        source: node_ref(&cluster.name, node),
                        plane: Plane::Pod,
                        kind: ProbeKind::Dns,
                        target: ProbeTarget {
                            cluster: cluster.name.clone(),
                            node: None,
                            service: Some(service.name.clone()),
                            address: resolver,
                            question: Some(Question {
                                name: name.name.clone(),
                                addresses: addresses.clone(),
                            }),
                        },
                        count,
                        statement: (cluster.nodes.len() * families.len()) as f64,
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh::ServiceName;

    use super::*;
    use crate::verify::plan::tests::mesh;

    #[test]
    fn every_node_asks_its_own_resolver_for_every_family_of_every_name() {
        let mut mesh = mesh(3);
        let mut wanted = Vec::new();
        targets(&mesh, &Policy::default(), &mut wanted);
        assert!(wanted.is_empty(), "no name, no question: {wanted:?}");

        let name = |name: &str, clusters: &[&str]| ServiceName {
            name: name.to_owned(),
            addresses: Vec::new(),
            clusters: clusters.iter().map(|c| (*c).to_owned()).collect(),
        };
        let service = &mut mesh.services[0];
        service.addresses.push("fd00::1".parse().unwrap());
        service.names = vec![name("x.svc.cluster.local", &[]), name("x.lan.b", &["b"])];
        service.names[1].addresses = vec!["10.9.9.9".parse().unwrap()];
        mesh.clusters[1].dns_server = Some("10.0.0.10".parse().unwrap());
        targets(&mesh, &Policy::default(), &mut wanted);
        // Three nodes of two clusters, two families; three nodes of one cluster, one family.
        assert_eq!(wanted.len(), 3 * 2 * 2 + 3);
        for want in &wanted {
            let (target, question) = (&want.target, want.target.question.as_ref().unwrap());
            assert_eq!(want.source.cluster, target.cluster);
            let resolver = if target.cluster == "b" {
                "10.0.0.10:53"
            } else {
                "0.0.0.0:53"
            };
            assert_eq!(target.address, resolver.parse().unwrap());
            let own = question.name == "x.lan.b";
            assert_eq!(question.addresses.len(), 1);
            assert!(!own || target.cluster == "b");
            assert_eq!((want.count * if own { 3.0 } else { 6.0 }).round(), 486.0);
        }
        let only = Policy {
            only: vec!["reach.*".to_owned()],
            ..Policy::default()
        };
        let mut none = Vec::new();
        targets(&mesh, &only, &mut none);
        assert!(none.is_empty());
    }
}
