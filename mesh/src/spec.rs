//! `mesh.yaml` as understood so far: every value has the right type and knows its place, but nothing
//! says yet that the parts fit together. What could not be read is absent here and was reported.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::errors::Position;
use crate::{Access, Affinity, AgentEndpoint, Day, Gravity, ServiceKind};

/// A value with its place.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) at: Position,
    /// e.g. `clusters[0].id`
    pub(crate) path: String,
}

/// The items of a list that could be read.
#[derive(Clone, Debug)]
pub(crate) struct List<T> {
    pub(crate) items: Vec<T>,
    pub(crate) at: Position,
    pub(crate) path: String,
    /// False when an item, or the list itself, was reported and left out.
    pub(crate) complete: bool,
}

#[derive(Debug)]
pub(crate) struct Spec {
    pub(crate) name: Option<At<String>>,
    pub(crate) max_connected_clusters: u16,
    pub(crate) clusters: List<ClusterSpec>,
    pub(crate) clients: List<ClientSpec>,
    pub(crate) services: List<ServiceSpec>,
    /// `None`: all.
    pub(crate) links: Option<List<LinkSpec>>,
    pub(crate) objectives: ObjectivesSpec,
    pub(crate) accept: List<WaiverSpec>,
    pub(crate) severity: Vec<(At<String>, At<Gravity>)>,
    pub(crate) policies: List<(LinkSpec, Option<At<Access>>)>,
    pub(crate) tls: Option<TlsSpec>,
}

#[derive(Debug)]
pub(crate) struct ClusterSpec {
    pub(crate) name: Option<At<String>>,
    pub(crate) id: Option<At<u16>>,
    pub(crate) context: Option<At<String>>,
    pub(crate) node_networks: List<At<IpNet>>,
    pub(crate) pod_cidrs: List<At<IpNet>>,
    pub(crate) service_cidrs: List<At<IpNet>>,
    pub(crate) dns_server: Option<At<IpAddr>>,
    pub(crate) nodes: List<NodeSpec>,
}

#[derive(Debug)]
pub(crate) struct NodeSpec {
    pub(crate) name: Option<At<String>>,
    pub(crate) addresses: List<At<IpAddr>>,
    pub(crate) agent_pod: List<At<IpAddr>>,
    pub(crate) agent: Option<At<AgentEndpoint>>,
    pub(crate) agent_node_plane: Option<At<AgentEndpoint>>,
}

#[derive(Debug)]
pub(crate) struct ClientSpec {
    pub(crate) name: Option<At<String>>,
    pub(crate) prefixes: List<At<IpNet>>,
}

#[derive(Debug)]
pub(crate) struct ServiceSpec {
    pub(crate) name: Option<At<String>>,
    pub(crate) cluster: Option<At<String>>,
    /// Empty: only `cluster`.
    pub(crate) backends: List<At<String>>,
    pub(crate) affinity: Option<At<Affinity>>,
    pub(crate) addresses: List<At<IpAddr>>,
    pub(crate) port: Option<At<u16>>,
    pub(crate) kind: Option<At<ServiceKind>>,
    pub(crate) names: List<NameSpec>,
}

#[derive(Debug)]
pub(crate) struct NameSpec {
    pub(crate) name: Option<At<String>>,
    pub(crate) addresses: List<At<IpAddr>>,
    pub(crate) clusters: List<At<String>>,
}

#[derive(Debug)]
pub(crate) struct LinkSpec {
    pub(crate) at: Position,
    pub(crate) path: String,
    pub(crate) source: Option<At<String>>,
    pub(crate) target: Option<At<String>>,
}

#[derive(Debug)]
pub(crate) struct ObjectivesSpec {
    pub(crate) loss: Option<At<f64>>,
    pub(crate) connect_success: Option<At<f64>>,
    pub(crate) latency_p99: Option<At<f64>>,
    pub(crate) ndvi_success: Option<At<f64>>,
    pub(crate) ndvi_round_trip: Option<At<f64>>,
    pub(crate) mtu: Option<At<u16>>,
    pub(crate) throughput: Option<At<f64>>,
    pub(crate) jitter_p99: Option<At<f64>>,
    pub(crate) coverage: Option<At<f64>>,
    pub(crate) confidence: Option<At<f64>>,
    pub(crate) links: List<(LinkSpec, Option<At<f64>>)>,
}

#[derive(Debug)]
pub(crate) struct WaiverSpec {
    pub(crate) check: Option<At<String>>,
    pub(crate) source: Option<At<String>>,
    pub(crate) target: Option<At<String>>,
    pub(crate) node: Option<At<String>>,
    pub(crate) reason: Option<At<String>>,
    pub(crate) until: Option<At<Day>>,
}

#[derive(Debug)]
pub(crate) struct TlsSpec {
    pub(crate) ca: Option<At<String>>,
    pub(crate) cert: Option<At<String>>,
    pub(crate) key: Option<At<String>>,
}

impl LinkSpec {
    /// Source and target, if both could be read.
    pub(crate) fn ends(&self) -> Option<(&At<String>, &At<String>)> {
        self.source.as_ref().zip(self.target.as_ref())
    }
}
