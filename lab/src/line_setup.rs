//! What the line is told about a lab: who lives where, and how far apart.

use std::time::Duration;

use crate::error::{LabError, Result};
use crate::line::config::{Endpoint, EndpointNode, LineConfig, Profile};
use crate::line::fault::{EndpointRef, Fault, Rule, Scope};
use crate::options::PathDelay;
use crate::topology::Topology;

/// Between the two data-centre clusters.
const NEAR: Duration = Duration::from_millis(1);
/// To every further cluster, which are edge sites.
const EDGE: Duration = Duration::from_millis(3);
/// Between an external client and any cluster: its own radio link and the edge site's uplink.
const CLIENT: Duration = Duration::from_millis(5);

pub(crate) fn check_delays(topology: &Topology, delays: &[PathDelay]) -> Result<()> {
    let known: Vec<_> = endpoint_names(topology).collect();
    for name in delays.iter().flat_map(|d| [&d.a, &d.b]) {
        if !known.contains(&name.as_str()) {
            return Err(LabError::NoSuchThing {
                kind: "cluster or client",
                name: name.clone(),
                lab: topology.lab.clone(),
                known: known.join(", "),
            });
        }
    }
    Ok(())
}

fn endpoint_names(topology: &Topology) -> impl Iterator<Item = &str> {
    topology
        .clusters
        .iter()
        .map(|c| c.name.as_str())
        .chain(topology.clients.iter().map(|c| c.name.as_str()))
}

/// The content of `line.json`.
pub(crate) fn config(topology: &Topology, delays: &[PathDelay]) -> Result<String> {
    let mut config = LineConfig::new(endpoints(topology));
    let names: Vec<&str> = endpoint_names(topology).collect();
    for (i, source) in names.iter().enumerate() {
        for (j, target) in names.iter().enumerate().filter(|(j, _)| *j != i) {
            let chosen = delays
                .iter()
                .rev()
                .find(|d| (d.a == *source && d.b == *target) || (d.b == *source && d.a == *target));
            let delay = chosen.map_or_else(
                || default_delay(topology.clusters.len(), i.max(j)),
                |d| d.delay,
            );
            config.profiles.push(Profile {
                scope: Scope::new(EndpointRef::cluster(*source), EndpointRef::cluster(*target)),
                rules: vec![Rule::new(Fault::Delay(delay))],
            });
        }
    }
    config
        .validate()
        .map_err(|e| LabError::Line(e.to_string()))?;
    serde_json::to_string_pretty(&config).map_err(|e| LabError::Line(e.to_string()))
}

/// By the later of the two endpoints in the order of the mesh.
fn default_delay(clusters: usize, later: usize) -> Duration {
    match later {
        later if later >= clusters => CLIENT,
        later if later >= 2 => EDGE,
        _ => NEAR,
    }
}

fn endpoints(topology: &Topology) -> Vec<Endpoint> {
    let clusters = topology.clusters.iter().map(|cluster| Endpoint {
        name: cluster.name.clone(),
        networks: cluster.node_networks.clone(),
        nodes: cluster
            .nodes
            .iter()
            .map(|node| EndpointNode {
                name: node.name.clone(),
                addresses: node.addresses.iter().map(|a| a.addr()).collect(),
                networks: Vec::new(),
            })
            .collect(),
    });
    let clients = topology.clients.iter().map(|client| Endpoint {
        name: client.name.clone(),
        networks: client.prefixes.clone(),
        nodes: client
            .hosts
            .iter()
            .map(|host| EndpointNode {
                name: host.name.clone(),
                addresses: host.addresses.iter().map(|a| a.addr()).collect(),
                networks: Vec::new(),
            })
            .collect(),
    });
    clusters.chain(clients).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{default_mesh, plan};

    fn delay(config: &LineConfig, source: &str, target: &str) -> Duration {
        let scope = Scope::new(EndpointRef::cluster(source), EndpointRef::cluster(target));
        let profile = config.profiles.iter().find(|p| p.scope == scope).unwrap();
        match &profile.rules[..] {
            [
                Rule {
                    fault: Fault::Delay(delay),
                    ..
                },
            ] => *delay,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_direction_has_its_delay_and_overrides_hold_for_both() {
        let topology = plan("t", &default_mesh(3, 6).unwrap()).unwrap();
        let far = PathDelay {
            a: "picluster".into(),
            b: "talos-east".into(),
            delay: Duration::from_millis(20),
        };
        let config: LineConfig = serde_json::from_str(&config(&topology, &[far]).unwrap()).unwrap();
        assert_eq!(config.profiles.len(), 4 * 3);
        assert_eq!(delay(&config, "talos-east", "talos-west"), NEAR);
        assert_eq!(delay(&config, "picluster", "talos-west"), EDGE);
        assert_eq!(
            delay(&config, "talos-east", "picluster"),
            Duration::from_millis(20)
        );
        assert_eq!(
            delay(&config, "picluster", "talos-east"),
            Duration::from_millis(20)
        );
        assert_eq!(delay(&config, "drones", "talos-east"), CLIENT);
    }

    #[test]
    fn a_delay_to_nowhere_is_refused() {
        let topology = plan("t", &default_mesh(2, 2).unwrap()).unwrap();
        let wrong = PathDelay {
            a: "talos-east".into(),
            b: "mars".into(),
            delay: NEAR,
        };
        let message = check_delays(&topology, &[wrong]).unwrap_err().to_string();
        assert!(
            message.contains("`mars`") && message.contains("talos-west"),
            "{message}"
        );
    }
}
