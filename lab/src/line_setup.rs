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
/// The radio link alone, for clients behind a cluster: that one's uplink comes on top.
const RADIO: Duration = Duration::from_millis(2);

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
    for delay in delays {
        check_crossed(topology, &delay.a, &delay.b)?;
    }
    Ok(())
}

/// Refuses two endpoints between which every packet stays on one side of the line.
pub(crate) fn check_crossed(topology: &Topology, a: &str, b: &str) -> Result<()> {
    if side(topology, a) == side(topology, b) {
        return Err(LabError::NotCrossed(a.to_owned(), b.to_owned()));
    }
    Ok(())
}

/// The cluster that a client lies behind; everybody else is a side of their own.
fn side<'a>(topology: &'a Topology, name: &'a str) -> &'a str {
    let found = topology.uplinks().find(|(client, _)| client.name == name);
    found.map_or(name, |(_, uplink)| &uplink.cluster)
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
            let (from, to) = (side(topology, source), side(topology, target));
            if from == to {
                continue;
            }
            let delay = chosen(delays, source, target).unwrap_or_else(|| {
                // Behind clusters: their path, and a radio link at each end that needs one.
                let place = |name, i| names.iter().position(|n| *n == name).unwrap_or(i);
                let later = place(from, i).max(place(to, j));
                let radios = u32::from(from != *source) + u32::from(to != *target);
                let path = chosen(delays, from, to);
                path.unwrap_or_else(|| default_delay(topology.clusters.len(), later))
                    + RADIO * radios
            });
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

fn chosen(delays: &[PathDelay], a: &str, b: &str) -> Option<Duration> {
    let mut latest_first = delays.iter().rev();
    latest_first
        .find(|d| (d.a == a && d.b == b) || (d.b == a && d.a == b))
        .map(|d| d.delay)
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
        behind: None,
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
        behind: client.uplink.as_ref().map(|u| u.cluster.clone()),
    });
    clusters.chain(clients).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{default_mesh, plan, put_behind};

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
    fn clients_behind_a_cluster_share_its_uplink_and_add_a_radio_link() {
        let mut topology = plan("t", &default_mesh(3, 6).unwrap()).unwrap();
        put_behind(&mut topology, "drones", "picluster").unwrap();
        let path = |a: &str, b: &str, ms| PathDelay {
            a: a.into(),
            b: b.into(),
            delay: Duration::from_millis(ms),
        };
        let at = |delays: &[PathDelay], a: &str, b: &str| {
            let config = config(&topology, delays).unwrap();
            delay(&serde_json::from_str(&config).unwrap(), a, b)
        };
        for (a, b) in [("drones", "talos-east"), ("talos-west", "drones")] {
            assert_eq!(at(&[], a, b), EDGE + RADIO);
        }
        let uplink = [path("picluster", "talos-east", 20)];
        assert_eq!(
            at(&uplink, "talos-east", "drones"),
            Duration::from_millis(22)
        );
        let both = [uplink[0].clone(), path("talos-east", "drones", 7)];
        assert_eq!(at(&both, "drones", "talos-east"), Duration::from_millis(7));
        // The line never sees what stays on one side.
        for (a, b) in [("drones", "picluster"), ("talos-west", "talos-west")] {
            let refused = check_delays(&topology, &[path(a, b, 5)]).unwrap_err();
            assert!(matches!(refused, LabError::NotCrossed(..)), "{refused}");
        }
        let config: LineConfig = serde_json::from_str(&config(&topology, &[]).unwrap()).unwrap();
        assert_eq!(config.profiles.len(), 4 * 3 - 2);
        assert_eq!(config.endpoints[3].behind.as_deref(), Some("picluster"));
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
