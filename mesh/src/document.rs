//! `mesh.yaml` as it is written: the JSON Schema comes from these types, and so does the text that
//! [`Mesh::to_yaml`] writes. Reading goes through `read`, which reports every mistake at once; a test
//! holds the two to the same keys.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use serde_saphyr::FlowSeq;

use crate::model::{AgentEndpoint, Cluster, ExternalClient, Mesh, Node, Objectives, Service};
use crate::units::{format_duration, format_percent, format_rate};

/// A mesh: the clusters, what runs across them, and what must hold.
#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, title = "mesh.yaml of aggrik8s")]
pub(crate) struct MeshDocument {
    /// Name of the mesh.
    mesh: Label,
    /// Cilium's `clustermesh.maxConnectedClusters` of all clusters: 255 unless said otherwise. With 511, cluster ids go up to 511.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_connected_clusters: Option<MaxClusters>,
    /// The clusters that make up the mesh.
    #[schemars(length(min = 1, max = 256))]
    clusters: Vec<ClusterDocument>,
    /// Clients outside every cluster whose traffic is told apart, such as drones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    clients: Vec<ClientDocument>,
    /// Services that are reached across clusters. A service's name is its service class in metrics.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    services: Vec<ServiceDocument>,
    /// What is judged: `all` (the default) for every ordered pair of clusters, or a list of directed links.
    #[schemars(default)]
    links: LinksDocument,
    /// What must hold on every link.
    #[serde(skip_serializing_if = "Option::is_none")]
    objectives: Option<ObjectivesDocument>,
    /// Findings that are known and accepted until a day: shown as waived, counted nowhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    accept: Vec<WaiverDocument>,
    /// What the failure of a check does, by check id or `family.*`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(default)]
    severity: BTreeMap<String, GravityDocument>,
    /// Whether pods of one cluster are meant to open connections to pods of another.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    policies: Vec<PolicyDocument>,
    /// Client side of mTLS towards agents with an `https` address.
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<TlsDocument>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "Cluster")]
struct ClusterDocument {
    /// Equals Cilium's `cluster.name`: at most 32 characters.
    name: ClusterName,
    /// Equals Cilium's `cluster.id`: 1 to 255, or to 511 with `max_connected_clusters: 511`.
    #[schemars(range(min = 1, max = 511))]
    id: u16,
    /// kubeconfig context of the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    context: Option<String>,
    /// Networks of the nodes' addresses.
    #[schemars(with = "Vec<Cidr>", length(min = 1))]
    node_networks: FlowSeq<Vec<String>>,
    /// Networks of the pods' addresses. No other network of the mesh may overlap them.
    #[schemars(with = "Vec<Cidr>", length(min = 1))]
    pod_cidrs: FlowSeq<Vec<String>>,
    /// Networks of the services' cluster addresses. Clusters may share them, because such an address means nothing outside its cluster.
    #[serde(skip_serializing_if = "is_empty")]
    #[schemars(with = "Vec<Cidr>", default = "no_items")]
    service_cidrs: FlowSeq<Vec<String>>,
    /// The resolver that services' names are asked of; the first one of each agent's own resolv.conf unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    dns_server: Option<Address>,
    /// The nodes. Without any, they are those that the cluster's API server names, and its agents are found there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    nodes: Vec<NodeDocument>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "Node")]
struct NodeDocument {
    /// Name of the node in its cluster.
    name: NodeName,
    /// Addresses of the node, within `node_networks`.
    #[schemars(with = "Vec<Address>", length(min = 1))]
    addresses: FlowSeq<Vec<String>>,
    /// Addresses of the agent's pod on this node, within `pod_cidrs`: pod probes go to them and come from them.
    #[serde(skip_serializing_if = "is_empty")]
    #[schemars(with = "Vec<Address>", default = "no_items")]
    agent_pod: FlowSeq<Vec<String>>,
    /// API of the agent in the pod network: `https://host:port`, `unix:/path`, or `http` to loopback.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<Endpoint>,
    /// API of the agent in the node's own network.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_node_plane: Option<Endpoint>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "Client")]
struct ClientDocument {
    /// Name of the client, as it appears in metrics.
    name: Label,
    /// Where its traffic comes from.
    #[schemars(with = "Vec<Cidr>", length(min = 1))]
    prefixes: FlowSeq<Vec<String>>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "Service")]
struct ServiceDocument {
    /// Name of the service, and its service class in metrics.
    name: Label,
    /// The cluster that runs it.
    cluster: Label,
    /// All clusters that run backends of it, `cluster` among them, when there are several: a global service.
    #[serde(skip_serializing_if = "is_empty")]
    #[schemars(with = "Vec<Label>", default = "no_items")]
    backends: FlowSeq<Vec<String>>,
    /// Which of the backends answer a cluster that has some of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    affinity: Option<AffinityDocument>,
    /// Addresses at which clients reach it.
    #[schemars(with = "Vec<Address>", length(min = 1))]
    addresses: FlowSeq<Vec<String>>,
    /// TCP port.
    #[schemars(range(min = 1, max = 60999))]
    port: u16,
    /// What it speaks.
    kind: KindDocument,
    /// DNS names that must resolve to it in the clusters that use it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    names: Vec<NameDocument>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "ServiceName")]
struct NameDocument {
    /// The complete name, such as `ndvi.default.svc.cluster.local`.
    name: NodeName,
    /// What it must resolve to: the service's addresses unless said otherwise.
    #[serde(skip_serializing_if = "is_empty")]
    #[schemars(with = "Vec<Address>", default = "no_items")]
    addresses: FlowSeq<Vec<String>>,
    /// Clusters where it must: all unless said otherwise.
    #[serde(skip_serializing_if = "is_empty")]
    #[schemars(with = "Vec<Label>", default = "no_items")]
    clusters: FlowSeq<Vec<String>>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Affinity")]
#[expect(
    dead_code,
    reason = "`none` may be written, and is not: it is the default"
)]
enum AffinityDocument {
    /// All of them, wherever they are. The default.
    None,
    /// Its own while one of them is healthy, else the others.
    Local,
    /// Those of other clusters while one of them is healthy, else its own.
    Remote,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "ServiceKind")]
enum KindDocument {
    /// Any TCP service: a connect is a success.
    Tcp,
    /// HTTP/1.1.
    Http,
    /// NDVI tiles over HTTP.
    Ndvi,
}

#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "Links")]
enum LinksDocument {
    All(AllLinks),
    Some(#[schemars(length(min = 1))] Vec<LinkDocument>),
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum AllLinks {
    /// Every ordered pair of clusters; with one cluster, that cluster towards itself.
    All,
}

impl Default for LinksDocument {
    fn default() -> Self {
        Self::All(AllLinks::All)
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "Link")]
struct LinkDocument {
    /// The cluster whose clients connect.
    source: Label,
    /// The cluster that they connect to.
    target: Label,
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "Objectives")]
struct ObjectivesDocument {
    /// Largest share of probes that may fail. Default 1%.
    #[schemars(default = "default_loss")]
    loss: Percent,
    /// Smallest share of connects that must succeed. Default 99%.
    #[schemars(default = "default_connect_success")]
    connect_success: Percent,
    /// 99th percentile of connect time and handshake RTT. Default: 3 times the pair's minimum RTT, plus 20ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_p99: Option<Duration>,
    /// Smallest share of NDVI tiles that must be answered correctly within `ndvi_round_trip`. Default 99%.
    #[schemars(default = "default_ndvi_success")]
    ndvi_success: Percent,
    /// Time from posting an NDVI tile to its whole answer. Default 2.5s.
    #[schemars(default = "default_ndvi_round_trip")]
    ndvi_round_trip: Duration,
    /// Smallest IP packet in bytes that must cross between pods of any two clusters. Default: what the sender's own kernel lets out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1280, max = 9216))]
    mtu: Option<u16>,
    /// Smallest goodput of one TCP connection in either direction of every path, per second. Default: shown, not judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    throughput: Option<Rate>,
    /// 99th percentile of how much longer than its shortest the one-way delay is. Default: a warning above the pair's minimum RTT plus 10ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    jitter_p99: Option<Duration>,
    /// Smallest share of our own probes that the kernel must also have seen. Default 99%.
    #[schemars(default = "default_coverage")]
    coverage: Percent,
    /// Confidence of every single statement. Default 95%.
    #[schemars(default = "default_confidence")]
    confidence: Percent,
    /// Latency objectives of single links.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    links: Vec<LinkObjective>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct LinkObjective {
    /// The cluster whose clients connect.
    source: Label,
    /// The cluster that they connect to.
    target: Label,
    /// Replaces `latency_p99` on this link.
    latency_p99: Duration,
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "Waiver")]
struct WaiverDocument {
    /// Check id, or `family.*`.
    #[schemars(length(min = 1))]
    check: String,
    /// Where it is accepted; everywhere without it.
    #[serde(skip_serializing_if = "ScopeDocument::is_empty")]
    #[schemars(default)]
    scope: ScopeDocument,
    /// Why, for whoever reads the report.
    #[schemars(length(min = 1))]
    reason: String,
    /// Last day on which it is accepted, in UTC.
    until: DayText,
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "Policy")]
struct PolicyDocument {
    /// The cluster whose pods connect.
    source: Label,
    /// The cluster that they connect to.
    target: Label,
    /// What must come of it.
    access: AccessDocument,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Access")]
enum AccessDocument {
    /// Connections must succeed.
    Allow,
    /// Not one connection may come through.
    Deny,
}

#[derive(Default, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "WaiverScope")]
struct ScopeDocument {
    /// Cluster from which is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Label>,
    /// Cluster that is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<Label>,
    /// Node that the finding must be confined to.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<NodeName>,
}

impl ScopeDocument {
    fn is_empty(&self) -> bool {
        self.source.is_none() && self.target.is_none() && self.node.is_none()
    }
}

#[derive(Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Severity")]
enum GravityDocument {
    /// Failing makes the mesh NOT READY.
    Gate,
    /// Shown, never decides.
    Warn,
    /// Shown as a figure, never decides.
    Info,
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "Tls")]
struct TlsDocument {
    /// PEM file of the authority that signed the agents' certificates, relative to this file.
    ca: FilePath,
    /// PEM file of our own certificate.
    cert: FilePath,
    /// PEM file of our own key.
    key: FilePath,
}

/// A string with a pattern of its own in the schema.
macro_rules! text {
    ($name:ident, $about:literal, $($rule:tt)*) => {
        #[doc = $about]
        #[derive(Default, Serialize, JsonSchema)]
        #[serde(transparent)]
        struct $name(#[schemars($($rule)*)] String);
    };
}

text!(
    Label,
    "A DNS label: lower-case letters, digits and `-`, at most 63 characters.",
    regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"),
    length(max = 63)
);
text!(
    ClusterName,
    "A DNS label of at most 32 characters.",
    regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"),
    length(max = 32)
);
text!(
    NodeName,
    "DNS labels joined by dots.",
    regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"),
    length(max = 253)
);
text!(
    Cidr,
    "An IPv4 or IPv6 network without host bits, e.g. `10.244.0.0/16`.",
    regex(pattern = "^[0-9a-fA-F:.]+/[0-9]{1,3}$")
);
text!(
    Address,
    "An IPv4 or IPv6 address.",
    regex(pattern = "^[0-9a-fA-F:.]+$")
);
text!(
    Endpoint,
    "`unix:/path`, `https://host:port`, or `http://127.0.0.1:port`.",
    regex(
        pattern = r"^(unix:/.+|https://[^/]+:[0-9]{1,5}|http://(127\.[0-9.]+|\[::1\]):[0-9]{1,5})$"
    )
);
text!(
    Percent,
    "A share, e.g. `99.9%`.",
    regex(pattern = r"^[0-9]+(\.[0-9]+)?%$")
);
text!(
    Duration,
    "A duration in `us`, `ms` or `s`, e.g. `50ms`.",
    regex(pattern = r"^[0-9]+(\.[0-9]+)?(us|ms|s)$")
);
text!(
    DayText,
    "A day, e.g. `2026-12-31`.",
    regex(pattern = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")
);
text!(
    Rate,
    "A rate in `kbit`, `Mbit` or `Gbit` per second, e.g. `100Mbit`.",
    regex(pattern = r"^[0-9]+(\.[0-9]+)?(kbit|Mbit|Gbit)$")
);
text!(FilePath, "Path of a file.", length(min = 1));

#[derive(Serialize)]
#[serde(transparent)]
struct MaxClusters(u16);

impl JsonSchema for MaxClusters {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "MaxConnectedClusters".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "integer", "enum": [255, 511] })
    }
}

/// The schema's defaults are those of [`Objectives`].
macro_rules! defaults {
    ($($name:ident: $kind:ident = $field:ident;)*) => {
        $(fn $name() -> $kind {
            ObjectivesDocument::from(&Objectives::default()).$field
        })*
    };
}

defaults! {
    default_loss: Percent = loss;
    default_connect_success: Percent = connect_success;
    default_ndvi_success: Percent = ndvi_success;
    default_ndvi_round_trip: Duration = ndvi_round_trip;
    default_coverage: Percent = coverage;
    default_confidence: Percent = confidence;
}

/// An absent key is not the same as `null`, which the reader refuses.
fn without_null(schema: &mut schemars::Schema) {
    if let Some(object) = schema.as_object_mut() {
        if let Some(serde_json::Value::Array(types)) = object.get_mut("type") {
            types.retain(|kind| kind != "null");
            if let [only] = &types[..] {
                let only = only.clone();
                object.insert("type".to_owned(), only);
            }
        }
        if let Some(serde_json::Value::Array(any)) = object.get_mut("anyOf") {
            any.retain(|kind| kind["type"] != "null");
            if let [serde_json::Value::Object(only)] = &any[..] {
                let only = only.clone();
                object.remove("anyOf");
                object.extend(only);
            }
        }
    }
    schemars::transform::transform_subschemas(&mut without_null, schema);
}

pub(crate) fn json_schema() -> schemars::Schema {
    let settings = schemars::generate::SchemaSettings::draft2020_12().with_transform(without_null);
    settings
        .into_generator()
        .into_root_schema_for::<MeshDocument>()
}

fn no_items() -> FlowSeq<Vec<String>> {
    FlowSeq(Vec::new())
}

fn is_empty(list: &FlowSeq<Vec<String>>) -> bool {
    list.0.is_empty()
}

fn texts<T: ToString>(items: &[T]) -> FlowSeq<Vec<String>> {
    FlowSeq(items.iter().map(ToString::to_string).collect())
}

impl From<&Mesh> for MeshDocument {
    fn from(mesh: &Mesh) -> Self {
        let wide = mesh.clusters.iter().any(|c| c.id > 255);
        let link = |link: &crate::Link| LinkDocument {
            source: Label(link.source.clone()),
            target: Label(link.target.clone()),
        };
        Self {
            mesh: Label(mesh.name.clone()),
            max_connected_clusters: wide.then_some(MaxClusters(511)),
            clusters: mesh.clusters.iter().map(ClusterDocument::from).collect(),
            clients: mesh.clients.iter().map(ClientDocument::from).collect(),
            services: mesh.services.iter().map(ServiceDocument::from).collect(),
            links: if mesh.links == crate::check::all_links(&mesh.clusters) {
                LinksDocument::default()
            } else {
                LinksDocument::Some(mesh.links.iter().map(link).collect())
            },
            objectives: (mesh.objectives != Objectives::default())
                .then(|| ObjectivesDocument::from(&mesh.objectives)),
            accept: mesh
                .rules
                .accept
                .iter()
                .map(|waiver| WaiverDocument {
                    check: waiver.check.clone(),
                    scope: ScopeDocument {
                        source: waiver.scope.source.clone().map(Label),
                        target: waiver.scope.target.clone().map(Label),
                        node: waiver.scope.node.clone().map(NodeName),
                    },
                    reason: waiver.reason.clone(),
                    until: DayText(waiver.until.to_string()),
                })
                .collect(),
            severity: mesh
                .rules
                .severity
                .iter()
                .map(|(check, gravity)| {
                    let gravity = match gravity {
                        crate::Gravity::Gate => GravityDocument::Gate,
                        crate::Gravity::Warn => GravityDocument::Warn,
                        crate::Gravity::Info => GravityDocument::Info,
                    };
                    (check.clone(), gravity)
                })
                .collect(),
            policies: mesh
                .rules
                .policies
                .iter()
                .map(|rule| PolicyDocument {
                    source: Label(rule.link.source.clone()),
                    target: Label(rule.link.target.clone()),
                    access: match rule.access {
                        crate::Access::Allow => AccessDocument::Allow,
                        crate::Access::Deny => AccessDocument::Deny,
                    },
                })
                .collect(),
            tls: mesh.tls.as_ref().map(|tls| TlsDocument {
                ca: FilePath(tls.ca.clone()),
                cert: FilePath(tls.cert.clone()),
                key: FilePath(tls.key.clone()),
            }),
        }
    }
}

impl From<&Cluster> for ClusterDocument {
    fn from(cluster: &Cluster) -> Self {
        Self {
            name: ClusterName(cluster.name.clone()),
            id: cluster.id,
            context: cluster.context.clone(),
            node_networks: texts(&cluster.node_networks),
            pod_cidrs: texts(&cluster.pod_cidrs),
            service_cidrs: texts(&cluster.service_cidrs),
            dns_server: cluster.dns_server.map(|ip| Address(ip.to_string())),
            nodes: cluster.nodes.iter().map(NodeDocument::from).collect(),
        }
    }
}

impl From<&Node> for NodeDocument {
    fn from(node: &Node) -> Self {
        let endpoint = |agent: &AgentEndpoint| Endpoint(agent.to_string());
        Self {
            name: NodeName(node.name.clone()),
            addresses: texts(&node.addresses),
            agent_pod: texts(&node.agent_pod),
            agent: node.agent.as_ref().map(endpoint),
            agent_node_plane: node.agent_node_plane.as_ref().map(endpoint),
        }
    }
}

impl From<&ExternalClient> for ClientDocument {
    fn from(client: &ExternalClient) -> Self {
        Self {
            name: Label(client.name.clone()),
            prefixes: texts(&client.prefixes),
        }
    }
}

impl From<&Service> for ServiceDocument {
    fn from(service: &Service) -> Self {
        Self {
            name: Label(service.name.clone()),
            cluster: Label(service.cluster.clone()),
            backends: if service.is_global() {
                texts(&service.backends)
            } else {
                FlowSeq(Vec::new())
            },
            affinity: match service.affinity {
                crate::Affinity::None => None,
                crate::Affinity::Local => Some(AffinityDocument::Local),
                crate::Affinity::Remote => Some(AffinityDocument::Remote),
            },
            addresses: texts(&service.addresses),
            port: service.port,
            kind: match service.kind {
                crate::ServiceKind::Tcp => KindDocument::Tcp,
                crate::ServiceKind::Http => KindDocument::Http,
                crate::ServiceKind::Ndvi => KindDocument::Ndvi,
            },
            names: service
                .names
                .iter()
                .map(|name| NameDocument {
                    name: NodeName(name.name.clone()),
                    addresses: texts(&name.addresses),
                    clusters: texts(&name.clusters),
                })
                .collect(),
        }
    }
}

impl From<&Objectives> for ObjectivesDocument {
    fn from(objectives: &Objectives) -> Self {
        let percent = |share| Percent(format_percent(share));
        let duration = |seconds| Duration(format_duration(seconds));
        Self {
            loss: percent(objectives.loss),
            connect_success: percent(objectives.connect_success),
            latency_p99: objectives.latency_p99_seconds.map(duration),
            ndvi_success: percent(objectives.ndvi_success),
            ndvi_round_trip: duration(objectives.ndvi_round_trip_seconds),
            mtu: objectives.mtu_bytes,
            throughput: objectives
                .throughput_bits_per_second
                .map(|bits| Rate(format_rate(bits))),
            jitter_p99: objectives.jitter_p99_seconds.map(duration),
            coverage: percent(objectives.coverage),
            confidence: percent(objectives.confidence),
            links: objectives
                .latency_p99_by_link
                .iter()
                .map(|(link, seconds)| LinkObjective {
                    source: Label(link.source.clone()),
                    target: Label(link.target.clone()),
                    latency_p99: duration(*seconds),
                })
                .collect(),
        }
    }
}
