//! The lab's own `mesh.yaml`: what it built, as verify and the agents read it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use mesh::observation::Plane;
use mesh::{AgentEndpoint, Mesh};

use crate::error::{During, Result};
use crate::options::Options;
use crate::paths::RunDir;
use crate::topology::{PodRole, Topology};

pub(crate) fn write(options: &Options, run: &RunDir, topology: &Topology) -> Result<()> {
    let mesh = built(&options.mesh, run, topology, options.bare);
    let path = run.mesh_yaml();
    fs::write(&path, mesh.to_yaml()).during(|| format!("write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644))
        .during(|| format!("chmod {}", path.display()))
}

/// The mesh with the addresses that the lab gave out and the sockets of its agents.
fn built(mesh: &Mesh, run: &RunDir, topology: &Topology, bare: bool) -> Mesh {
    let mut mesh = mesh.clone();
    mesh.tls = None;
    for (cluster, net) in mesh.clusters.iter_mut().zip(&topology.clusters) {
        cluster.context = None;
        cluster.nodes = net
            .nodes
            .iter()
            .map(|node| {
                let socket = |plane| {
                    (!bare).then(|| {
                        AgentEndpoint::Unix(
                            run.agent_socket(&node.key, plane).display().to_string(),
                        )
                    })
                };
                mesh::Node {
                    name: node.name.clone(),
                    addresses: node.addresses.iter().map(|a| a.addr()).collect(),
                    agent_pod: node
                        .pod(PodRole::Agent)
                        .map(|p| p.addresses.clone())
                        .unwrap_or_default(),
                    agent: socket(Plane::Pod),
                    agent_node_plane: socket(Plane::Node),
                }
            })
            .collect();
    }
    let addresses: BTreeMap<_, _> = topology
        .services
        .iter()
        .map(|s| (&s.name, &s.addresses))
        .collect();
    for service in &mut mesh.services {
        if let Some(addresses) = addresses.get(&service.name) {
            service.addresses.clone_from(addresses);
        }
    }
    mesh
}
