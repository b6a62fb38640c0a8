//! What `mesh.yaml` declares, as the kernel's maps hold it. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use mesh::{Mesh, Remote};

/// Names, prefixes and service ports of a mesh.
#[derive(Clone, Debug, PartialEq)]
pub struct Declared {
    /// Clusters and external clients.
    pub remotes: BTreeSet<String>,
    pub classes: BTreeSet<String>,
    pub prefixes: Vec<(IpNet, Remote)>,
    /// Address, port and class of every service.
    pub services: Vec<(IpAddr, u16, String)>,
}

impl Declared {
    #[must_use]
    pub fn of(mesh: &Mesh) -> Self {
        let mut prefixes = mesh.prefixes();
        for cluster in &mesh.clusters {
            for node in &cluster.nodes {
                let addresses = node.addresses.iter().chain(&node.agent_pod);
                // A node outside of every declared network is still that cluster's.
                let stray = addresses.filter(|ip| mesh.classify(**ip) == Remote::World);
                prefixes.extend(
                    stray.map(|ip| (IpNet::from(*ip), Remote::Cluster(cluster.name.clone()))),
                );
            }
        }
        Self {
            remotes: mesh
                .clusters
                .iter()
                .map(|cluster| cluster.name.clone())
                .chain(mesh.clients.iter().map(|client| client.name.clone()))
                .collect(),
            classes: mesh.services.iter().map(|s| s.name.clone()).collect(),
            prefixes,
            services: mesh
                .services
                .iter()
                .flat_map(|service| {
                    service
                        .addresses
                        .iter()
                        .map(|ip| (*ip, service.port, service.name.clone()))
                })
                .collect(),
        }
    }
}
