//! What was read from the API servers, in plain types: the border behind which Kubernetes and Cilium end.
//!
//! Everything that may be unreadable says why. Certificates carry names, dates and key ids; no key is ever here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

/// Read, or why not.
pub type Seen<T> = Result<T, Unread>;

/// Why something could not be read. What rests on it is undecided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// RBAC refuses: verb and resource as a role names them, "list" and "nodes".
    Forbidden { verb: String, resource: String },
    /// "the API server did not answer in time".
    Failed(String),
}

/// One cluster of `--contexts`.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterView {
    /// The context it was reached by: its name in every finding.
    pub context: String,
    /// What it says, or why it cannot be asked.
    pub state: Result<Box<Facts>, String>,
}

/// What one cluster says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// "v1.34.4".
    pub kubernetes: String,
    /// Data of ConfigMap `cilium-config`; `None`: there is no Cilium.
    pub config: Seen<Option<BTreeMap<String, String>>>,
    /// DaemonSet `cilium`.
    pub agents: Seen<Option<Agents>>,
    pub nodes: Seen<Vec<Node>>,
    /// Pod CIDRs that CiliumNodes hold, beyond those of the nodes.
    pub pod_cidrs: Seen<Vec<IpNet>>,
    pub service_cidrs: Seen<Vec<IpNet>>,
    /// Pods of kube-proxy, by name.
    pub kube_proxy: Seen<Vec<String>>,
    /// Deployment and Service `clustermesh-apiserver`; `None`: no control plane for other clusters.
    pub server: Seen<Option<Server>>,
    /// Secret `cilium-clustermesh`, which agents read; `None`: it does not exist.
    pub remotes: Seen<Option<Vec<Remote>>>,
    /// Secret `cilium-kvstoremesh`, which KVStoreMesh reads.
    pub kvstoremesh: Seen<Option<Vec<Remote>>>,
    /// Secrets of certificates by name; those that do not exist are `None`.
    pub certificates: BTreeMap<String, Seen<Option<KeyPair>>>,
    /// CAs that this cluster trusts in others, and the object they come from.
    pub trust: Seen<Option<Trust>>,
    /// What the agents say of their remote clusters.
    pub status: Seen<Statuses>,
    pub services: Seen<Services>,
    /// Policies with a peer selector that names no cluster: "CiliumNetworkPolicy default/api".
    pub open_policies: Seen<Vec<String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agents {
    /// "v1.18.5", from the tag of the image; `None` for an image named by digest alone.
    pub version: Option<String>,
    pub wanted: u64,
    pub ready: u64,
    pub updated: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    /// InternalIP and ExternalIP.
    pub addresses: Vec<IpAddr>,
    pub pod_cidrs: Vec<IpNet>,
}

/// The control plane that a cluster offers to others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    pub wanted: u64,
    pub ready: u64,
    /// Whether its pods run KVStoreMesh.
    pub kvstoremesh: bool,
    /// Its Service, if there is one.
    pub service: Option<ServerService>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerService {
    /// "NodePort", "LoadBalancer" or "ClusterIP".
    pub kind: String,
    pub port: u16,
    pub node_port: Option<u16>,
    /// Addresses and names that its load balancer was given.
    pub balancer: Vec<String>,
}

/// One remote cluster as a cluster has it configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remote {
    /// Cilium's name of it.
    pub name: String,
    pub endpoints: Vec<Endpoint>,
    /// CAs for this remote alone, which outrank the common ones.
    pub trust: Option<Vec<Certificate>>,
}

/// `https://west.mesh.cilium.io:32379`, with the addresses that host aliases give the name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
    pub addresses: Vec<IpAddr>,
}

impl Endpoint {
    /// Whether it is the cluster's own Service, as agents have it with KVStoreMesh.
    pub fn is_local_service(&self) -> bool {
        self.host == "clustermesh-apiserver"
            || self
                .host
                .strip_prefix("clustermesh-apiserver.")
                .is_some_and(|rest| rest.ends_with(".svc") || rest.contains(".svc."))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    pub subject: String,
    pub issuer: String,
    /// SubjectKeyId and AuthorityKeyId, hexadecimal.
    pub key_id: Option<String>,
    pub authority: Option<String>,
    /// SHA-256 of the whole certificate, hexadecimal.
    pub fingerprint: String,
    /// Seconds since 1970.
    pub not_before: i64,
    pub not_after: i64,
}

/// The certificates of one Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyPair {
    /// `ca.crt`, all of them if it is a bundle.
    pub ca: Vec<Certificate>,
    /// `tls.crt`: the leaf first.
    pub chain: Vec<Certificate>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// "Secret clustermesh-apiserver-remote-cert".
    pub place: String,
    pub authorities: Vec<Certificate>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statuses {
    pub answers: Vec<AgentStatus>,
    /// Agents without an answer: node and why.
    pub silent: Vec<(String, String)>,
}

/// Of one agent's StatusResponse.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentStatus {
    pub node: String,
    pub remotes: Vec<RemoteStatus>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteStatus {
    pub name: String,
    pub connected: bool,
    pub ready: bool,
    pub status: String,
    /// Whether its configuration is required and was retrieved, and the id it states.
    pub config_required: bool,
    pub config_retrieved: bool,
    pub cluster_id: Option<u32>,
    /// What is not yet synchronised: "nodes".
    pub unsynced: Vec<String>,
    pub nodes: Option<u64>,
    pub failures: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services {
    /// Global ones by "namespace/name".
    pub global: BTreeMap<String, GlobalService>,
    /// The names of all others.
    pub others: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlobalService {
    /// "http TCP" → 80: Cilium joins the backends of several clusters by port name and protocol.
    pub ports: BTreeMap<String, u16>,
    /// Whether its backends serve other clusters.
    pub shared: bool,
    pub affinity: Option<String>,
    /// Annotated with the names that Cilium had before 1.12.
    pub legacy: bool,
    /// Ready backends of its own cluster.
    pub ready: Seen<u64>,
}
