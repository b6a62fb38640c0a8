//! What API servers say of the clusters of a mesh, and the mesh that follows from it: declared values win, and what
//! contradicts them is named. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{AgentEndpoint, Cluster, Mesh, Node};
use crate::observation::{NodeRef, Plane};

/// Read, or in words why not.
pub type Found<T> = Result<T, String>;

/// What one API server says of its cluster, as far as a mesh needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct Discovered {
    /// Cilium's own name and id; both absent where there is no Cilium.
    pub cilium: Found<CiliumName>,
    pub nodes: Found<Vec<FoundNode>>,
    /// Pods of our agents that have not ended.
    pub agents: Found<Vec<FoundAgent>>,
    /// Of nodes and CiliumNodes.
    pub pod_cidrs: Found<Vec<IpNet>>,
    pub service_cidrs: Found<Vec<IpNet>>,
    /// Text of the mesh.yaml that the agents run with; `None` where none is installed.
    pub mesh_yaml: Found<Option<String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CiliumName {
    pub name: Option<String>,
    pub id: Option<u16>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundNode {
    pub name: String,
    /// Every InternalIP, IPv4 first.
    pub addresses: Vec<IpAddr>,
    pub ready: bool,
    /// Cordoned, or being drained.
    pub unschedulable: bool,
}

/// The pod of one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundAgent {
    pub node: String,
    pub plane: Plane,
    pub namespace: String,
    pub pod: String,
    /// Of the pod, IPv4 first; empty until it has been started.
    pub addresses: Vec<IpAddr>,
    pub ready: bool,
    pub image: String,
    /// Of its API.
    pub port: u16,
    /// Whether that port speaks mTLS; else it listens on the pod's loopback alone.
    pub tls: bool,
}

/// A mesh completed by what was discovered.
#[derive(Clone, Debug, PartialEq)]
pub struct Effective {
    pub mesh: Mesh,
    /// In the order of the clusters.
    pub conflicts: Vec<Conflict>,
    /// Nodes that are not in `mesh`, although their cluster has them.
    pub left_out: Vec<LeftOut>,
    /// Clusters of which something is unknown that matters here, and why.
    pub unread: Vec<(String, String)>,
}

/// Where mesh.yaml says one thing and the API server another. What mesh.yaml says is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub cluster: String,
    pub node: Option<String>,
    /// "cluster id".
    pub what: &'static str,
    pub declared: String,
    pub found: String,
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of `{}", self.what, self.cluster)?;
        if let Some(node) = &self.node {
            write!(f, "/{node}")?;
        }
        write!(
            f,
            "`: mesh.yaml says {}, the API server {}",
            self.declared, self.found
        )
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    pub node: NodeRef,
    pub why: Why,
}

/// Why nothing is expected of a node for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Cordoned,
    NotReady,
}

impl Why {
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Cordoned => "cordoned",
            Self::NotReady => "not ready",
        }
    }
}

impl Mesh {
    /// This mesh with what API servers say, by name of the cluster. Nodes and agents come from there for clusters that
    /// declare no node; agents also for declared nodes without any. Clusters that nothing is found of stay as they are.
    #[must_use]
    pub fn with_discovered(&self, found: &BTreeMap<String, Discovered>) -> Effective {
        let mut effective = Effective {
            mesh: self.clone(),
            conflicts: Vec::new(),
            left_out: Vec::new(),
            unread: Vec::new(),
        };
        for at in 0..effective.mesh.clusters.len() {
            let name = effective.mesh.clusters[at].name.clone();
            if let Some(found) = found.get(&name) {
                effective.names(at, found);
                effective.networks(at, found);
                effective.nodes(at, found);
            }
        }
        effective
    }
}

impl Effective {
    fn unread(&mut self, at: usize, why: &str) {
        let cluster = self.mesh.clusters[at].name.clone();
        self.unread.push((cluster, why.to_owned()));
    }

    fn conflict(
        &mut self,
        (at, node): (usize, Option<&str>),
        what: &'static str,
        declared: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) {
        self.conflicts.push(Conflict {
            cluster: self.mesh.clusters[at].name.clone(),
            node: node.map(str::to_owned),
            what,
            declared: declared.to_string(),
            found: found.to_string(),
        });
    }

    fn names(&mut self, at: usize, found: &Discovered) {
        let cilium = match &found.cilium {
            Ok(cilium) => cilium.clone(),
            Err(why) => return self.unread(at, why),
        };
        let (name, id) = (
            self.mesh.clusters[at].name.clone(),
            self.mesh.clusters[at].id,
        );
        if let Some(other) = cilium.name.filter(|other| *other != name) {
            self.conflict((at, None), "cluster name", name, other);
        }
        if let Some(other) = cilium.id.filter(|other| *other != id) {
            self.conflict((at, None), "cluster id", id, other);
        }
    }

    /// Declared prefixes stay; service CIDRs are filled in where none is declared and they mean nothing else.
    fn networks(&mut self, at: usize, found: &Discovered) {
        match &found.pod_cidrs {
            Err(why) => self.unread(at, why),
            Ok(nets) => self.contained(at, "pod CIDR", nets, |cluster| &cluster.pod_cidrs),
        }
        let nets = match &found.service_cidrs {
            Ok(nets) => nets,
            Err(why) => return self.unread(at, why),
        };
        if !self.mesh.clusters[at].service_cidrs.is_empty() {
            self.contained(at, "service CIDR", nets, |cluster| &cluster.service_cidrs);
            return;
        }
        for net in nets {
            match self.meaning(net) {
                None => self.mesh.clusters[at].service_cidrs.push(*net),
                Some(taken) => self.conflict((at, None), "service CIDR", taken, net),
            }
        }
    }

    /// What `net` already means, wholly or in part; service CIDRs of several clusters may be the same.
    fn meaning(&self, net: &IpNet) -> Option<String> {
        let overlaps = |other: &&IpNet| other.contains(net) || net.contains(*other);
        let clusters = self.mesh.clusters.iter().map(|cluster| {
            let own = cluster.node_networks.iter().chain(&cluster.pod_cidrs);
            (&cluster.name, own.collect::<Vec<_>>())
        });
        let clients = self.mesh.clients.iter();
        let clients = clients.map(|client| (&client.name, client.prefixes.iter().collect()));
        clusters.chain(clients).find_map(|(owner, nets)| {
            let taken = nets.into_iter().find(overlaps)?;
            Some(format!("that {taken} is of `{owner}`"))
        })
    }

    fn contained(
        &mut self,
        at: usize,
        what: &'static str,
        nets: &[IpNet],
        declared: fn(&Cluster) -> &Vec<IpNet>,
    ) {
        let declared = declared(&self.mesh.clusters[at]).clone();
        let stray: BTreeSet<&IpNet> = nets
            .iter()
            .filter(|net| !declared.iter().any(|wide| wide.contains(*net)))
            .collect();
        if !stray.is_empty() {
            self.conflict((at, None), what, list(&declared), list(stray));
        }
    }

    fn nodes(&mut self, at: usize, found: &Discovered) {
        let agents = match &found.agents {
            Ok(agents) => agents.as_slice(),
            Err(why) => {
                self.unread(at, why);
                &[]
            }
        };
        let nodes = match &found.nodes {
            Ok(nodes) => nodes.as_slice(),
            Err(why) => {
                self.unread(at, why);
                &[]
            }
        };
        let declared = std::mem::take(&mut self.mesh.clusters[at].nodes);
        let lists = !declared.is_empty();
        let mut effective = declared;
        if lists && found.nodes.is_ok() {
            let names = |nodes: &mut dyn Iterator<Item = &String>| -> BTreeSet<String> {
                nodes.cloned().collect()
            };
            let ours = names(&mut effective.iter().map(|node| &node.name));
            let theirs = names(&mut nodes.iter().map(|node| &node.name));
            if ours != theirs {
                self.conflict(
                    (at, None),
                    "the nodes",
                    list(ours.difference(&theirs)),
                    list(theirs.difference(&ours)),
                );
            }
        } else if !lists {
            effective.extend(nodes.iter().map(|node| Node {
                name: node.name.clone(),
                addresses: Vec::new(),
                agent_pod: Vec::new(),
                agent: None,
                agent_node_plane: None,
            }));
            effective.sort_by(|a, b| a.name.cmp(&b.name));
        }
        let mut kept = Vec::with_capacity(effective.len());
        for mut node in effective {
            let known = nodes.iter().find(|found| found.name == node.name);
            let why = known.and_then(|known| match known {
                FoundNode {
                    unschedulable: true,
                    ..
                } => Some(Why::Cordoned),
                FoundNode { ready: false, .. } => Some(Why::NotReady),
                _ => None,
            });
            if let Some(why) = why {
                let cluster = self.mesh.clusters[at].name.clone();
                let node = NodeRef {
                    cluster,
                    node: node.name,
                };
                self.left_out.push(LeftOut { node, why });
                continue;
            }
            if let Some(known) = known {
                self.addresses(at, &mut node, known);
            }
            for plane in [Plane::Pod, Plane::Node] {
                if let Some(agent) = agent_of(agents, &node.name, plane) {
                    self.agent(at, &mut node, agent);
                }
            }
            kept.push(node);
        }
        self.mesh.clusters[at].nodes = kept;
    }

    fn addresses(&mut self, at: usize, node: &mut Node, found: &FoundNode) {
        let networks = self.mesh.clusters[at].node_networks.clone();
        if node.addresses.is_empty() {
            let (inside, outside) = split(&found.addresses, &networks);
            node.addresses = inside;
            if node.addresses.is_empty() && !outside.is_empty() {
                let place = (at, Some(node.name.as_str()));
                self.conflict(place, "the node's address", list(&networks), list(outside));
            }
        } else if !found.addresses.is_empty()
            && !node.addresses.iter().all(|a| found.addresses.contains(a))
        {
            self.conflict(
                (at, Some(&node.name)),
                "the node's address",
                list(&node.addresses),
                list(&found.addresses),
            );
        }
    }

    fn agent(&mut self, at: usize, node: &mut Node, agent: &FoundAgent) {
        let endpoint = AgentEndpoint::Pod {
            namespace: agent.namespace.clone(),
            pod: agent.pod.clone(),
            port: agent.port,
            tls: agent.tls,
        };
        if agent.plane == Plane::Node {
            node.agent_node_plane.get_or_insert(endpoint);
            return;
        }
        let name = node.name.clone();
        let place = (at, Some(name.as_str()));
        if node.agent_pod.is_empty() {
            let ranges = self.mesh.clusters[at].pod_cidrs.clone();
            let (inside, outside) = split(&agent.addresses, &ranges);
            node.agent_pod = inside;
            if node.agent_pod.is_empty() && !outside.is_empty() {
                self.conflict(place, "the agent's pod", list(&ranges), list(outside));
            }
        } else if !node.agent_pod.iter().all(|a| agent.addresses.contains(a)) {
            let (declared, found) = (list(&node.agent_pod), list(&agent.addresses));
            self.conflict(place, "the agent's pod", declared, found);
        }
        node.agent.get_or_insert(endpoint);
    }
}

/// While a pod is being replaced there are two: the one that is ready, and has an address.
fn agent_of<'a>(agents: &'a [FoundAgent], node: &str, plane: Plane) -> Option<&'a FoundAgent> {
    agents
        .iter()
        .filter(|agent| agent.node == node && agent.plane == plane && !agent.addresses.is_empty())
        .max_by_key(|agent| (agent.ready, std::cmp::Reverse(&agent.pod)))
}

/// Those within `nets`, and the others.
fn split(addresses: &[IpAddr], nets: &[IpNet]) -> (Vec<IpAddr>, Vec<IpAddr>) {
    let inside = |address: &IpAddr| nets.iter().any(|net| net.contains(address));
    addresses.iter().copied().partition(inside)
}

/// "10.0.0.0/16, 10.1.0.0/16", at most [`SHOWN`] of them.
fn list<T: std::fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let all: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    match all.len() {
        0 => "nothing".to_owned(),
        1..=SHOWN => all.join(", "),
        more => format!("{} and {} more", all[..SHOWN].join(", "), more - SHOWN),
    }
}

const SHOWN: usize = 4;
