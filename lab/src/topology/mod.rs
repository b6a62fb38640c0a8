//! What a lab consists of: every namespace, address and name, decided before anything is built.
//! Pure; [`fn@plan`] makes it from a mesh.

mod addresses;
mod default_mesh;
mod plan;
#[cfg(test)]
mod tests;
mod uplink;

use std::net::IpAddr;

use ipnet::IpNet;
use mesh::{Affinity, ServiceKind};
use serde::{Deserialize, Serialize};

pub use default_mesh::{DEFAULT_BEHIND, default_mesh};
pub use plan::plan;
pub use uplink::put_behind;

/// Network namespaces are visible here, as iproute2 wants them.
pub const NETNS_DIR: &str = "/run/netns";
/// TCP and UDP echo of every client pod.
pub const CLIENT_ECHO_PORT: u16 = 7;

/// A whole lab.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Topology {
    pub lab: String,
    pub mesh: String,
    pub fabric: Fabric,
    pub clusters: Vec<ClusterNet>,
    pub clients: Vec<ClientNet>,
    pub services: Vec<ServiceNet>,
}

/// The router between the clusters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fabric {
    pub netns: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterNet {
    pub name: String,
    pub id: u16,
    /// The cluster's bridge in the fabric.
    pub bridge: String,
    pub node_networks: Vec<IpNet>,
    /// Addresses of the fabric router, one in each node network, in their order.
    pub gateways: Vec<IpAddr>,
    pub pod_cidrs: Vec<IpNet>,
    pub service_cidrs: Vec<IpNet>,
    pub nodes: Vec<NodeNet>,
    /// The pod that answers DNS for this cluster.
    pub dns_pod: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeNet {
    /// As mesh.yaml calls it; unique within its cluster.
    pub name: String,
    /// Unique within the lab: the name, or `<cluster>.<name>` where two clusters share it.
    pub key: String,
    pub netns: String,
    /// This node's port of its cluster's bridge.
    pub port: String,
    /// Node addresses with the prefix length of their network, IPv4 first.
    pub addresses: Vec<IpNet>,
    /// This node's share of the pod CIDRs, IPv4 first.
    pub pod_networks: Vec<IpNet>,
    /// First address of each pod network: the node itself, as its pods and peers see it.
    pub pod_gateways: Vec<IpAddr>,
    pub vxlan_mac: String,
    pub pods: Vec<Pod>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PodRole {
    Agent,
    Client,
    Dns,
    Backend,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pod {
    pub name: String,
    pub role: PodRole,
    pub netns: String,
    /// The node's end of the pod's cable.
    pub port: String,
    pub addresses: Vec<IpAddr>,
}

/// A network of external clients: on a bridge of its own in the fabric, or behind a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientNet {
    pub name: String,
    pub bridge: String,
    pub prefixes: Vec<IpNet>,
    pub gateways: Vec<IpAddr>,
    pub hosts: Vec<ClientHost>,
    pub uplink: Option<Uplink>,
}

/// The router between a network of external clients and the node network of the cluster that it lies behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Uplink {
    pub cluster: String,
    pub name: String,
    pub netns: String,
    /// Its port of the cluster's bridge.
    pub port: String,
    /// Its addresses in the node networks, one for each family that the clients have.
    pub addresses: Vec<IpNet>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientHost {
    pub name: String,
    pub netns: String,
    pub port: String,
    pub addresses: Vec<IpNet>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceNet {
    pub name: String,
    pub cluster: String,
    pub kind: Kind,
    /// Virtual addresses that every node translates to the backend.
    pub addresses: Vec<IpAddr>,
    pub port: u16,
    /// Port on the addresses of the backend's node, for clients outside the clusters.
    pub node_port: u16,
    /// In every cluster that runs it, that of `cluster` first.
    pub backends: Vec<Backend>,
    pub affinity: Choice,
    /// Names that resolve to it, beside those of the lab's own domain.
    pub names: Vec<NameNet>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NameNet {
    pub name: String,
    pub addresses: Vec<IpAddr>,
    /// Clusters whose servers know it; empty: all.
    pub clusters: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    pub cluster: String,
    /// Name of its pod and key of its node.
    pub pod: String,
    pub node: String,
}

/// [`Affinity`] in a form that can be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    None,
    Local,
    Remote,
}

impl From<Affinity> for Choice {
    fn from(affinity: Affinity) -> Self {
        match affinity {
            Affinity::None => Self::None,
            Affinity::Local => Self::Local,
            Affinity::Remote => Self::Remote,
        }
    }
}

impl ServiceNet {
    /// Clusters whose backends nodes of `asker` translate to, all being healthy.
    pub fn answering(&self, asker: &str) -> Vec<&str> {
        let own = self.backends.iter().any(|b| b.cluster == asker);
        let abroad = self.backends.iter().any(|b| b.cluster != asker);
        let clusters = self.backends.iter().map(|b| b.cluster.as_str());
        clusters
            .filter(|cluster| match self.affinity {
                Choice::Local if own => *cluster == asker,
                Choice::Remote if abroad => *cluster != asker,
                _ => true,
            })
            .collect()
    }
}

/// [`ServiceKind`] in a form that can be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Tcp,
    Http,
    Ndvi,
}

impl From<ServiceKind> for Kind {
    fn from(kind: ServiceKind) -> Self {
        match kind {
            ServiceKind::Tcp => Self::Tcp,
            ServiceKind::Http => Self::Http,
            ServiceKind::Ndvi => Self::Ndvi,
        }
    }
}

impl From<Kind> for ServiceKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Tcp => Self::Tcp,
            Kind::Http => Self::Http,
            Kind::Ndvi => Self::Ndvi,
        }
    }
}

impl Topology {
    pub fn nodes(&self) -> impl Iterator<Item = (&ClusterNet, &NodeNet)> {
        self.clusters
            .iter()
            .flat_map(|c| c.nodes.iter().map(move |n| (c, n)))
    }

    pub fn pods(&self) -> impl Iterator<Item = (&ClusterNet, &NodeNet, &Pod)> {
        self.nodes()
            .flat_map(|(c, n)| n.pods.iter().map(move |p| (c, n, p)))
    }

    pub fn hosts(&self) -> impl Iterator<Item = (&ClientNet, &ClientHost)> {
        self.clients
            .iter()
            .flat_map(|c| c.hosts.iter().map(move |h| (c, h)))
    }

    /// Every client network that lies behind a cluster.
    pub fn uplinks(&self) -> impl Iterator<Item = (&ClientNet, &Uplink)> {
        self.clients
            .iter()
            .filter_map(|c| Some((c, c.uplink.as_ref()?)))
    }

    /// Names of all namespaces, fabric first.
    pub fn netns_names(&self) -> Vec<&str> {
        let mut names = vec![self.fabric.netns.as_str()];
        names.extend(self.nodes().map(|(_, n)| n.netns.as_str()));
        names.extend(self.pods().map(|(_, _, p)| p.netns.as_str()));
        names.extend(self.hosts().map(|(_, h)| h.netns.as_str()));
        names.extend(self.uplinks().map(|(_, u)| u.netns.as_str()));
        names
    }

    pub fn pod(&self, name: &str) -> Option<(&ClusterNet, &NodeNet, &Pod)> {
        self.pods().find(|(_, _, p)| p.name == name)
    }

    /// A node by key, by `cluster/name`, or by a name that is unique in the lab (then the key).
    pub fn node(&self, name: &str) -> Option<(&ClusterNet, &NodeNet)> {
        self.nodes().find(|(c, n)| {
            n.key == name
                || name
                    .split_once('/')
                    .is_some_and(|(cluster, node)| c.name == cluster && n.name == node)
        })
    }
}

impl NodeNet {
    pub fn pod(&self, role: PodRole) -> Option<&Pod> {
        self.pods.iter().find(|p| p.role == role)
    }

    /// Where VXLAN packets for this node go: its first address, IPv4 before IPv6.
    pub fn underlay(&self) -> IpAddr {
        self.addresses[0].addr()
    }
}

/// Every namespace of lab `lab` begins with this; a lab name has no dot, so no lab's prefix
/// begins another's.
pub fn netns_prefix(lab: &str) -> String {
    format!("ak-{lab}.")
}
