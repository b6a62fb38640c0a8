//! Services' virtual addresses: how nodes translate them, the table of what becomes what, and the
//! nftables rules. Pure.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::topology::{NodeNet, Topology};

/// How nodes translate a service's virtual addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Services {
    /// In packets, as kube-proxy does: the socket's peer is the virtual address.
    #[default]
    Dnat,
    /// At `connect(2)`, as Cilium's socket load balancing does: the socket's peer is the backend.
    Connect,
}

/// A virtual address and the backends behind it, one of which every connection gets by chance; all listen on the same TCP port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub address: IpAddr,
    pub port: u16,
    pub backends: Vec<IpAddr>,
}

/// Where nodes of one cluster find a service, against what its affinity says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Redirect<'a> {
    pub(crate) service: &'a str,
    pub(crate) at: &'a str,
    /// Clusters whose backends they translate to.
    pub(crate) to: &'a [String],
}

/// What nodes of `cluster` translate: every virtual address of every service that has a backend of its family there.
pub(crate) fn entries(
    topology: &Topology,
    cluster: &str,
    redirects: &[Redirect<'_>],
) -> Vec<Entry> {
    let mut entries = Vec::new();
    for service in &topology.services {
        let redirect = redirects
            .iter()
            .rfind(|r| r.service == service.name && r.at == cluster);
        let answering = match redirect {
            Some(redirect) => redirect.to.iter().map(String::as_str).collect(),
            None => service.answering(cluster),
        };
        let pods = service
            .backends
            .iter()
            .filter(|backend| answering.contains(&backend.cluster.as_str()))
            .filter_map(|backend| topology.pod(&backend.pod));
        let backends: Vec<IpAddr> = pods.flat_map(|(_, _, pod)| pod.addresses.clone()).collect();
        for &address in &service.addresses {
            let mut backends = backends.clone();
            backends.retain(|backend| backend.is_ipv6() == address.is_ipv6());
            // A service may be declared at its backend's own address.
            if !backends.is_empty() && backends != [address] {
                entries.push(Entry {
                    address,
                    port: service.port,
                    backends,
                });
            }
        }
    }
    entries
}

/// DNAT on `node`: of the virtual addresses, for its pods and for itself, if packets are what is
/// translated; and of the node port on the backend's own node, which keeps the client's address.
pub(super) fn rules(
    topology: &Topology,
    cluster: &str,
    node: &NodeNet,
    services: Services,
    redirects: &[Redirect<'_>],
) -> String {
    let mut text = String::new();
    for (family, v6) in [("ip", false), ("ip6", true)] {
        let own: Vec<IpAddr> = node
            .addresses
            .iter()
            .map(IpNet::addr)
            .filter(|a| a.is_ipv6() == v6)
            .collect();
        let mut rules = String::new();
        let mut dnat = |to: IpAddr, port: u16, target: String| {
            let _ = writeln!(
                rules,
                "  {family} daddr {to} tcp dport {port} dnat to {target}"
            );
        };
        if services == Services::Dnat {
            for entry in entries(topology, cluster, redirects)
                .iter()
                .filter(|e| e.address.is_ipv6() == v6)
            {
                dnat(entry.address, entry.port, one_of(&entry.backends));
            }
        }
        for service in &topology.services {
            let home = service.backends.first();
            let backend = home
                .filter(|home| home.node == node.key)
                .and_then(|home| topology.pod(&home.pod))
                .and_then(|(_, _, pod)| pod.addresses.iter().find(|a| a.is_ipv6() == v6));
            if let Some(&backend) = backend {
                let backend = SocketAddr::new(backend, service.port).to_string();
                own.iter()
                    .for_each(|own| dnat(*own, service.node_port, backend.clone()));
            }
        }
        if rules.is_empty() {
            continue;
        }
        // What the node itself sends into the overlay must come back through it.
        let mut sources = String::new();
        if let Some(gateway) = node.pod_gateways.iter().find(|g| g.is_ipv6() == v6) {
            for own in &own {
                let _ = writeln!(
                    sources,
                    "  oifname vx0 {family} saddr {own} snat to {gateway}"
                );
            }
        }
        let _ = write!(
            text,
            "table {family} services {{\n chain prerouting {{\n  type nat hook prerouting priority -100;\n{rules} }}\n \
             chain output {{\n  type nat hook output priority -100;\n{rules} }}\n \
             chain postrouting {{\n  type nat hook postrouting priority 100;\n{sources} }}\n}}\n"
        );
    }
    text
}

/// The same rules in the place of those that a node has.
pub(crate) fn renewed_rules(
    topology: &Topology,
    cluster: &str,
    node: &NodeNet,
    services: Services,
    redirects: &[Redirect<'_>],
) -> String {
    let mut text = String::new();
    for family in ["ip", "ip6"] {
        // Adding first makes the deletion hold for a table that never came to be.
        let _ = writeln!(
            text,
            "add table {family} services\ndelete table {family} services"
        );
    }
    text + &rules(topology, cluster, node, services, redirects)
}

/// A target of `dnat to` that is one of `backends`, drawn for each connection. The port stays.
fn one_of(backends: &[IpAddr]) -> String {
    if let [only] = backends {
        return only.to_string();
    }
    let choices: Vec<String> = backends
        .iter()
        .enumerate()
        .map(|(at, backend)| format!("{at} : {backend}"))
        .collect();
    format!(
        "numgen random mod {} map {{ {} }}",
        backends.len(),
        choices.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{default_mesh, plan};

    #[test]
    fn packets_are_translated_everywhere_or_only_for_node_ports_at_the_backend() {
        let lab = plan("t", &default_mesh(2, 3).unwrap()).unwrap();
        let table = entries(&lab, "talos-west", &[]);
        let backend = &lab.pod("ndvi-wrk-e-1").unwrap().2.addresses;
        assert_eq!(table.len(), 2, "{table:?}");
        for (entry, backend) in table.iter().zip(backend) {
            assert_eq!((&entry.backends[..], entry.port), (&[*backend][..], 8080));
        }
        for (cluster, node) in lab.nodes() {
            for services in [Services::Dnat, Services::Connect] {
                let text = rules(&lab, &cluster.name, node, services, &[]);
                let virtual_rules = text.matches("daddr 10.96.0.80 tcp dport 8080").count();
                // In two chains each.
                let wanted = if services == Services::Dnat { 2 } else { 0 };
                assert_eq!(virtual_rules, wanted, "{}: {text}", node.key);
                // Of both families, whatever the address.
                let node_port = text.matches("tcp dport 30080").count();
                let wanted = if node.key == "wrk-e-1" { 4 } else { 0 };
                assert_eq!(node_port, wanted, "{}: {text}", node.key);
            }
        }
    }

    #[test]
    fn a_service_at_its_backends_own_address_needs_no_translation() {
        let mut mesh = default_mesh(2, 3).unwrap();
        mesh.services[0].addresses = vec!["10.244.1.12".parse().unwrap()];
        let lab = plan("t", &mesh).unwrap();
        assert_eq!(entries(&lab, "talos-east", &[]), []);
    }

    #[test]
    fn each_cluster_translates_to_the_backends_that_the_affinity_says_unless_it_is_redirected() {
        let mut mesh = default_mesh(3, 3).unwrap();
        let service = &mut mesh.services[0];
        service.backends = vec!["talos-east".into(), "talos-west".into()];
        let found = |affinity, redirects: &[Redirect<'_>]| -> Vec<String> {
            let mut mesh = mesh.clone();
            mesh.services[0].affinity = affinity;
            let lab = plan("t", &mesh).unwrap();
            let of = |cluster: &str| {
                let entry = &entries(&lab, cluster, redirects)[0];
                let owner = |ip: &IpAddr| {
                    lab.pods()
                        .find(|(_, _, pod)| pod.addresses.contains(ip))
                        .map(|(c, _, _)| c.name.trim_start_matches("talos-").to_owned())
                };
                let owners: Vec<String> = entry.backends.iter().filter_map(owner).collect();
                owners.join("+")
            };
            ["talos-east", "talos-west", "picluster"].map(of).to_vec()
        };
        let both = "east+west";
        assert_eq!(found(mesh::Affinity::None, &[]), [both; 3]);
        assert_eq!(found(mesh::Affinity::Local, &[]), ["east", "west", both]);
        assert_eq!(found(mesh::Affinity::Remote, &[]), ["west", "east", both]);
        let redirect = Redirect {
            service: "ndvi",
            at: "talos-west",
            to: &["talos-west".to_owned()],
        };
        assert_eq!(
            found(mesh::Affinity::None, &[redirect]),
            [both, "west", both]
        );
    }

    #[test]
    fn one_of_several_backends_is_drawn() {
        let backends: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        assert_eq!(one_of(&backends[..1]), "10.0.0.1");
        assert_eq!(
            one_of(&backends),
            "numgen random mod 2 map { 0 : 10.0.0.1, 1 : 10.0.0.2 }"
        );
    }
}
