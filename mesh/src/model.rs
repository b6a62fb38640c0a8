//! The validated mesh: what the rest of the program may rely on.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// First and last source port of our own probe connections, both inclusive. It lies outside
/// Linux's default `ip_local_port_range` (32768–60999), so both kernels recognise a probe.
pub const PROBE_SOURCE_PORTS: std::ops::RangeInclusive<u16> = 61_000..=65_535;
/// Those of [`PROBE_SOURCE_PORTS`] from which background probes come, on which SLOs are computed.
pub const BACKGROUND_SOURCE_PORTS: std::ops::RangeInclusive<u16> = 61_000..=61_499;
/// The others, for probes that somebody asked for: a run of `aggrik8s verify` moves no SLO.
pub const BURST_SOURCE_PORTS: std::ops::RangeInclusive<u16> = 61_500..=65_535;

/// TCP echo and UDP echo port of every agent's responder.
pub const RESPONDER_ECHO_PORT: u16 = 7411;
/// HTTP port of every agent's responder.
pub const RESPONDER_HTTP_PORT: u16 = 7412;

/// A mesh that passed every check of `mesh.yaml`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mesh {
    pub name: String,
    pub clusters: Vec<Cluster>,
    pub clients: Vec<ExternalClient>,
    pub services: Vec<Service>,
    /// Directed links in scope, in declaration order: every ordered pair of clusters unless the file names fewer.
    /// With one cluster this is that cluster towards itself.
    pub links: Vec<Link>,
    pub objectives: Objectives,
    pub rules: crate::Rules,
    pub tls: Option<Tls>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// DNS label; equals Cilium's `cluster.name`.
    pub name: String,
    /// Cilium's `cluster.id`, 1–511.
    pub id: u16,
    pub node_networks: Vec<IpNet>,
    pub pod_cidrs: Vec<IpNet>,
    pub service_cidrs: Vec<IpNet>,
    /// The resolver that names are asked of; `None`: the first of each agent's own resolv.conf.
    pub dns_server: Option<IpAddr>,
    /// Empty: those that its API server names, see [`Mesh::with_discovered`].
    pub nodes: Vec<Node>,
    /// kubeconfig context, for commands that talk to the API server.
    pub context: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub name: String,
    /// Node addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Addresses of the agent's pod on this node, IPv4 first: where pod-plane probes go to and come from.
    pub agent_pod: Vec<IpAddr>,
    /// Where the agent's API of the pod plane listens. `None`: no agent is declared on this node.
    pub agent: Option<AgentEndpoint>,
    /// The same for the node-plane prober, a process of its own in the node's network namespace.
    pub agent_node_plane: Option<AgentEndpoint>,
}

/// `unix:/path` or `https://host:port`; plain `http` only to loopback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentEndpoint {
    Unix(String),
    Https {
        host: String,
        port: u16,
    },
    HttpLoopback(SocketAddr),
    /// A port of a discovered pod, forwarded by its cluster's API server. No mesh.yaml can say this: pods come and go.
    Pod {
        namespace: String,
        pod: String,
        port: u16,
        /// Whether the port speaks mTLS.
        tls: bool,
    },
}

/// Client side of mTLS towards agents: paths of PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub ca: String,
    pub cert: String,
    pub key: String,
}

/// Someone outside every cluster whose traffic is told apart: a drone, a rover.
#[derive(Clone, Debug, PartialEq)]
pub struct ExternalClient {
    pub name: String,
    pub prefixes: Vec<IpNet>,
}

/// A service that is reached across clusters.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Also its service class in metrics.
    pub name: String,
    /// The cluster that runs it; with backends in several, the one that the service is named after in reports.
    pub cluster: String,
    /// Every cluster with backends of it, `cluster` among them.
    pub backends: Vec<String>,
    /// Which of them are to answer.
    pub affinity: Affinity,
    /// Addresses at which clients reach it (a cluster IP or a backend), IPv4 first.
    pub addresses: Vec<IpAddr>,
    pub port: u16,
    pub kind: ServiceKind,
    /// Names that must resolve to it.
    pub names: Vec<ServiceName>,
}

/// A DNS name of a service, such as `ndvi.default.svc.cluster.local` or `….svc.clusterset.local`.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceName {
    /// Complete, without a dot at its end.
    pub name: String,
    /// What it must resolve to; empty: the service's own addresses.
    pub addresses: Vec<IpAddr>,
    /// Where it must; empty: in every cluster.
    pub clusters: Vec<String>,
}

/// Which backends of a global service answer a cluster that has some itself: Cilium's `service.cilium.io/affinity`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Affinity {
    /// All, wherever they are.
    #[default]
    None,
    /// Its own, while one of them is healthy; else all others.
    Local,
    /// Those of other clusters, while one of them is healthy; else its own.
    Remote,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    Tcp,
    Http,
    /// NDVI tiles over HTTP, as crate `ndvi` defines them.
    Ndvi,
}

impl Service {
    /// What `name` must resolve to, IPv4 first.
    #[must_use]
    pub fn addresses_of<'s>(&'s self, name: &'s ServiceName) -> &'s [IpAddr] {
        if name.addresses.is_empty() {
            &self.addresses
        } else {
            &name.addresses
        }
    }

    /// Whether backends in more than one cluster stand behind one address.
    #[must_use]
    pub fn is_global(&self) -> bool {
        self.backends.len() > 1
    }

    /// The clusters whose backends are to answer `asker` while all are healthy.
    #[must_use]
    pub fn answering(&self, asker: &str) -> Vec<&str> {
        let own = self.backends.iter().any(|cluster| cluster == asker);
        let wanted = |cluster: &&str| match self.affinity {
            Affinity::Local if own => *cluster == asker,
            Affinity::Remote if own && self.is_global() => *cluster != asker,
            _ => true,
        };
        let backends = self.backends.iter().map(String::as_str);
        backends.filter(wanted).collect()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Link {
    pub source: String,
    pub target: String,
}

/// What must hold, as proportions. See docs/verdict.md for the statistics.
#[derive(Clone, Debug, PartialEq)]
pub struct Objectives {
    /// Largest share of probes that may fail, e.g. 0.01.
    pub loss: f64,
    /// Smallest share of connects that must succeed, e.g. 0.99.
    pub connect_success: f64,
    /// Declared p99 of connect and handshake RTT per link, in seconds; `None` uses 3 × the pair's minimum RTT + 20 ms.
    pub latency_p99_seconds: Option<f64>,
    /// Per-link overrides of `latency_p99_seconds`.
    pub latency_p99_by_link: Vec<(Link, f64)>,
    /// NDVI tile round trip: share `ndvi_success` within `ndvi_round_trip_seconds`.
    pub ndvi_round_trip_seconds: f64,
    pub ndvi_success: f64,
    /// Smallest IP packet, header included, that must cross between pods of any two clusters, in bytes; `None`: whatever
    /// the sender's own kernel lets out.
    pub mtu_bytes: Option<u16>,
    /// Smallest goodput of one TCP connection in either direction of every path, bit/s; `None`: shown, not judged.
    pub throughput_bits_per_second: Option<f64>,
    /// Declared p99 of the one-way delay's variation above its shortest, s; `None`: the pair's shortest round trip + 10 ms, as a warning.
    pub jitter_p99_seconds: Option<f64>,
    /// Smallest share of our own probes that the kernel must also have seen.
    pub coverage: f64,
    /// Confidence of every single statement, e.g. 0.95.
    pub confidence: f64,
}

impl Default for Objectives {
    fn default() -> Self {
        Self {
            loss: 0.01,
            connect_success: 0.99,
            latency_p99_seconds: None,
            latency_p99_by_link: Vec::new(),
            ndvi_round_trip_seconds: 2.5,
            ndvi_success: 0.99,
            mtu_bytes: None,
            throughput_bits_per_second: None,
            jitter_p99_seconds: None,
            coverage: 0.99,
            confidence: 0.95,
        }
    }
}

impl Mesh {
    /// Every name that must resolve in `cluster`, with its service; none where no link touches the cluster.
    pub fn names_in<'m>(
        &'m self,
        cluster: &'m str,
    ) -> impl Iterator<Item = (&'m Service, &'m ServiceName)> {
        let touches = |link: &Link| link.source == cluster || link.target == cluster;
        let in_scope = self.links.iter().any(touches);
        self.services
            .iter()
            .flat_map(|service| service.names.iter().map(move |name| (service, name)))
            .filter(move |(_, name)| {
                in_scope && (name.clusters.is_empty() || name.clusters.iter().any(|c| c == cluster))
            })
    }

    pub fn cluster(&self, name: &str) -> Option<&Cluster> {
        self.clusters.iter().find(|c| c.name == name)
    }
}
