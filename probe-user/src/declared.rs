//! What callers may have probed: agents and services of the mesh, nothing else. Pure.
//!
//! An agent need not be listed: its pod's address changes with every rollout. What stands for it is that it lies in a
//! declared network of nodes or pods, at a port on which nobody but an agent has anything to say.

use std::net::SocketAddr;

use mesh::{Mesh, RESPONDER_ECHO_PORT, RESPONDER_HTTP_PORT};

const DNS_PORT: u16 = 53;

/// The first of `targets` that is neither an agent's responder nor a service nor a declared resolver.
pub(crate) fn foreign(
    mesh: &Mesh,
    mut targets: impl Iterator<Item = SocketAddr>,
) -> Option<SocketAddr> {
    targets.find(|target| !admits(mesh, *target))
}

fn admits(mesh: &Mesh, target: SocketAddr) -> bool {
    let (ip, port) = (target.ip().to_canonical(), target.port());
    let service = mesh
        .services
        .iter()
        .any(|service| service.port == port && service.addresses.contains(&ip));
    service
        || match port {
            RESPONDER_ECHO_PORT | RESPONDER_HTTP_PORT => mesh.clusters.iter().any(|cluster| {
                let mut nets = cluster.node_networks.iter().chain(&cluster.pod_cidrs);
                nets.any(|net| net.contains(&ip))
            }),
            DNS_PORT => mesh.clusters.iter().any(|c| c.dns_server == Some(ip)),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESH: &str = "
mesh: test
clusters:
  - name: east
    id: 1
    node_networks: [192.168.15.0/24]
    pod_cidrs: [10.244.0.0/16, \"fd44::/64\"]
    service_cidrs: [10.96.0.0/12]
    dns_server: 10.96.0.10
clients:
  - {name: drones, prefixes: [192.168.50.0/24]}
services:
  - {name: ndvi, cluster: east, addresses: [10.96.15.1], port: 8080, kind: ndvi}
";

    #[test]
    fn agents_and_services_are_admitted_and_nothing_else() {
        let mesh = Mesh::parse("mesh.yaml", MESH).expect("a mesh");
        let admitted = |target: &str| {
            let target: SocketAddr = target.parse().expect("an address");
            assert!(foreign(&mesh, [target].into_iter()).is_none_or(|named| named == target));
            admits(&mesh, target)
        };
        for target in [
            "10.244.77.9:7411",
            "10.244.77.9:7412",
            "[fd44::9]:7411",
            "[::ffff:10.244.77.9]:7411",
            "192.168.15.200:7411",
            "10.96.15.1:8080",
            "10.96.0.10:53",
        ] {
            assert!(admitted(target), "{target}");
        }
        for target in [
            // Where else an agent listens.
            "10.244.77.9:7410",
            "10.244.77.9:7413",
            "10.244.77.9:22",
            "192.168.15.200:6443",
            "192.168.15.200:10250",
            "10.244.77.9:53",
            // Services are no agents, and are known by address and port.
            "10.96.15.1:443",
            "10.96.15.1:7411",
            "10.96.0.1:443",
            "10.96.0.10:7411",
            // Clients answer no probes.
            "192.168.50.7:7411",
            "8.8.8.8:53",
            "8.8.8.8:7411",
            "127.0.0.1:7411",
        ] {
            assert!(!admitted(target), "{target}");
        }
    }
}
