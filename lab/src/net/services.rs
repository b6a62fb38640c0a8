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

/// A virtual address and the backend behind it; both listen on the same TCP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub address: IpAddr,
    pub port: u16,
    pub backend: IpAddr,
}

/// Every virtual address of every service that has a backend of its family.
pub(crate) fn entries(topology: &Topology) -> Vec<Entry> {
    let mut entries = Vec::new();
    for service in &topology.services {
        let Some((_, _, pod)) = topology.pod(&service.backend) else {
            continue;
        };
        for &address in &service.addresses {
            let family = |a: &&IpAddr| a.is_ipv6() == address.is_ipv6();
            // A service may be declared at its backend's own address.
            if let Some(&backend) = pod.addresses.iter().find(family)
                && backend != address
            {
                entries.push(Entry {
                    address,
                    port: service.port,
                    backend,
                });
            }
        }
    }
    entries
}

/// DNAT on `node`: of the virtual addresses, for its pods and for itself, if packets are what is
/// translated; and of the node port on the backend's own node, which keeps the client's address.
pub(super) fn rules(topology: &Topology, node: &NodeNet, services: Services) -> String {
    let mut text = String::new();
    for (family, v6) in [("ip", false), ("ip6", true)] {
        let own: Vec<IpAddr> = node
            .addresses
            .iter()
            .map(IpNet::addr)
            .filter(|a| a.is_ipv6() == v6)
            .collect();
        let mut rules = String::new();
        let mut dnat = |to: IpAddr, port: u16, target: SocketAddr| {
            let _ = writeln!(
                rules,
                "  {family} daddr {to} tcp dport {port} dnat to {target}"
            );
        };
        if services == Services::Dnat {
            for entry in entries(topology)
                .iter()
                .filter(|e| e.address.is_ipv6() == v6)
            {
                let backend = SocketAddr::new(entry.backend, entry.port);
                dnat(entry.address, entry.port, backend);
            }
        }
        for service in &topology.services {
            let backend = topology
                .pod(&service.backend)
                .filter(|_| service.backend_node == node.key)
                .and_then(|(_, _, pod)| pod.addresses.iter().find(|a| a.is_ipv6() == v6));
            if let Some(&backend) = backend {
                let backend = SocketAddr::new(backend, service.port);
                own.iter()
                    .for_each(|own| dnat(*own, service.node_port, backend));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{default_mesh, plan};

    #[test]
    fn packets_are_translated_everywhere_or_only_for_node_ports_at_the_backend() {
        let lab = plan("t", &default_mesh(2, 3).unwrap()).unwrap();
        let table = entries(&lab);
        let backend = &lab.pod("ndvi-wrk-e-1").unwrap().2.addresses;
        assert_eq!(table.len(), 2, "{table:?}");
        for (entry, backend) in table.iter().zip(backend) {
            assert_eq!((entry.backend, entry.port), (*backend, 8080));
        }
        for (_, node) in lab.nodes() {
            for services in [Services::Dnat, Services::Connect] {
                let text = rules(&lab, node, services);
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
        assert_eq!(entries(&lab), []);
    }
}
