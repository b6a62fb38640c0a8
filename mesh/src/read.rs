//! The tree of a file becomes a [`Spec`]: shapes, types and spelling of single values.

use crate::spec::{
    ClientSpec, ClusterSpec, LinkSpec, List, NameSpec, NodeSpec, ObjectivesSpec, ServiceSpec, Spec,
    TlsSpec,
};
use crate::tree::{Kind, Value};

pub(crate) mod fields;
mod rules;
mod scalars;

use fields::{Fields, Report, Shape, list};
use scalars::{
    address, affinity, cluster_name, dns_label, dns_name, duration, endpoint, network, not_empty,
    rate, service_kind,
};

const MESH: Shape = Shape {
    what: "a mesh",
    required: &["mesh", "clusters"],
    optional: &[
        "max_connected_clusters",
        "clients",
        "services",
        "links",
        "objectives",
        "accept",
        "severity",
        "policies",
        "tls",
    ],
};
const CLUSTER: Shape = Shape {
    what: "a cluster",
    required: &["name", "id", "node_networks", "pod_cidrs"],
    optional: &["context", "service_cidrs", "dns_server", "nodes"],
};
const NODE: Shape = Shape {
    what: "a node",
    required: &["name", "addresses"],
    optional: &["agent_pod", "agent", "agent_node_plane"],
};
const CLIENT: Shape = Shape {
    what: "a client",
    required: &["name", "prefixes"],
    optional: &[],
};
const SERVICE: Shape = Shape {
    what: "a service",
    required: &["name", "cluster", "addresses", "port", "kind"],
    optional: &["backends", "affinity", "names"],
};
const NAME: Shape = Shape {
    what: "a name",
    required: &["name"],
    optional: &["addresses", "clusters"],
};
const LINK: Shape = Shape {
    what: "a link",
    required: &["source", "target"],
    optional: &[],
};
const OBJECTIVES: Shape = Shape {
    what: "objectives",
    required: &[],
    optional: &[
        "loss",
        "connect_success",
        "latency_p99",
        "ndvi_success",
        "ndvi_round_trip",
        "mtu",
        "throughput",
        "jitter_p99",
        "coverage",
        "confidence",
        "links",
    ],
};
const LINK_OBJECTIVE: Shape = Shape {
    what: "the objective of a link",
    required: &["source", "target", "latency_p99"],
    optional: &[],
};
const TLS: Shape = Shape {
    what: "TLS settings",
    required: &["ca", "cert", "key"],
    optional: &[],
};

pub(crate) fn spec(report: &mut Report, document: Value) -> Spec {
    let fields = &mut Fields::new(report, document, "", &MESH);
    Spec {
        name: fields.text(report, "mesh", dns_label),
        max_connected_clusters: max_connected_clusters(report, fields),
        clusters: fields.list(report, "clusters", "clusters", cluster),
        clients: fields.list(report, "clients", "clients", client),
        services: fields.list(report, "services", "services", service),
        links: links(report, fields),
        objectives: objectives(report, fields),
        accept: fields.list(report, "accept", "accepted findings", rules::waiver),
        severity: rules::severity(report, fields),
        policies: fields.list(report, "policies", "policies", |report, value, path| {
            let fields = &mut Fields::new(report, value, &path, &rules::POLICY);
            let link = link(report, fields);
            Some((link, fields.text(report, "access", rules::access)))
        }),
        tls: fields
            .take(report, "tls")
            .map(|(value, path)| tls(report, value, &path)),
    }
}

fn max_connected_clusters(report: &mut Report, fields: &mut Fields) -> u16 {
    let problems = report.problems.len();
    match fields.integer(report, "max_connected_clusters", 255..=511) {
        Some(read) if matches!(read.value, 255 | 511) => return read.value,
        Some(read) => {
            let message = format!("Cilium knows 255 and 511, not {}", read.value);
            report.push(read.at, &read.path, message);
        }
        None if report.problems.len() == problems => return 255,
        None => {}
    }
    // Not readable: no id is to be blamed for it.
    511
}

fn cluster(report: &mut Report, value: Value, path: String) -> Option<ClusterSpec> {
    let fields = &mut Fields::new(report, value, &path, &CLUSTER);
    Some(ClusterSpec {
        name: fields.text(report, "name", cluster_name),
        id: fields.integer(report, "id", 1..=511),
        context: fields.text(report, "context", not_empty),
        node_networks: fields.list(report, "node_networks", "networks", network),
        pod_cidrs: fields.list(report, "pod_cidrs", "networks", network),
        service_cidrs: fields.list(report, "service_cidrs", "networks", network),
        dns_server: fields
            .take(report, "dns_server")
            .and_then(|(value, path)| address(report, value, path)),
        nodes: fields.list(report, "nodes", "nodes", node),
    })
}

fn node(report: &mut Report, value: Value, path: String) -> Option<NodeSpec> {
    let fields = &mut Fields::new(report, value, &path, &NODE);
    Some(NodeSpec {
        name: fields.text(report, "name", dns_name),
        addresses: fields.list(report, "addresses", "addresses", address),
        agent_pod: fields.list(report, "agent_pod", "addresses", address),
        agent: fields.text(report, "agent", endpoint),
        agent_node_plane: fields.text(report, "agent_node_plane", endpoint),
    })
}

fn client(report: &mut Report, value: Value, path: String) -> Option<ClientSpec> {
    let fields = &mut Fields::new(report, value, &path, &CLIENT);
    Some(ClientSpec {
        name: fields.text(report, "name", dns_label),
        prefixes: fields.list(report, "prefixes", "networks", network),
    })
}

fn service(report: &mut Report, value: Value, path: String) -> Option<ServiceSpec> {
    let fields = &mut Fields::new(report, value, &path, &SERVICE);
    Some(ServiceSpec {
        name: fields.text(report, "name", dns_label),
        cluster: fields.text(report, "cluster", not_empty),
        backends: fields.list(report, "backends", "clusters", |report, value, path| {
            fields::text(report, value, path, not_empty)
        }),
        affinity: fields.text(report, "affinity", affinity),
        addresses: fields.list(report, "addresses", "addresses", address),
        port: fields.integer(report, "port", 1..=u16::MAX),
        kind: fields.text(report, "kind", service_kind),
        names: fields.list(report, "names", "names", service_name),
    })
}

fn service_name(report: &mut Report, value: Value, path: String) -> Option<NameSpec> {
    let fields = &mut Fields::new(report, value, &path, &NAME);
    Some(NameSpec {
        name: fields.text(report, "name", dns_name),
        addresses: fields.list(report, "addresses", "addresses", address),
        clusters: fields.list(report, "clusters", "clusters", |report, value, path| {
            fields::text(report, value, path, not_empty)
        }),
    })
}

fn links(report: &mut Report, fields: &mut Fields) -> Option<List<LinkSpec>> {
    let (value, path) = fields.take(report, "links")?;
    if matches!(&value.kind, Kind::Text(text) if text == "all") {
        return None;
    }
    let what = "links, or `all`";
    Some(list(report, value, path, what, |report, value, path| {
        let fields = &mut Fields::new(report, value, &path, &LINK);
        Some(link(report, fields))
    }))
}

fn link(report: &mut Report, fields: &mut Fields) -> LinkSpec {
    LinkSpec {
        source: fields.text(report, "source", not_empty),
        target: fields.text(report, "target", not_empty),
        at: fields.at(),
        path: fields.path().to_owned(),
    }
}

fn objectives(report: &mut Report, fields: &mut Fields) -> ObjectivesSpec {
    let nothing = |at| Value {
        at,
        kind: Kind::Map(Vec::new()),
    };
    let (value, path) = fields
        .take(report, "objectives")
        .unwrap_or_else(|| (nothing(fields.at()), "objectives".to_owned()));
    let fields = &mut Fields::new(report, value, &path, &OBJECTIVES);
    let item = |report: &mut Report, value, path: String| {
        let fields = &mut Fields::new(report, value, &path, &LINK_OBJECTIVE);
        let link = link(report, fields);
        Some((link, fields.text(report, "latency_p99", duration)))
    };
    ObjectivesSpec {
        loss: fields.share(report, "loss"),
        connect_success: fields.share(report, "connect_success"),
        latency_p99: fields.text(report, "latency_p99", duration),
        ndvi_success: fields.share(report, "ndvi_success"),
        ndvi_round_trip: fields.text(report, "ndvi_round_trip", duration),
        mtu: fields.integer(report, "mtu", crate::check::MTU),
        throughput: fields.text(report, "throughput", rate),
        jitter_p99: fields.text(report, "jitter_p99", duration),
        coverage: fields.share(report, "coverage"),
        confidence: fields.share(report, "confidence"),
        links: fields.list(report, "links", "links with an objective", item),
    }
}

fn tls(report: &mut Report, value: Value, path: &str) -> TlsSpec {
    let fields = &mut Fields::new(report, value, path, &TLS);
    TlsSpec {
        ca: fields.text(report, "ca", not_empty),
        cert: fields.text(report, "cert", not_empty),
        key: fields.text(report, "key", not_empty),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reader and the schema must know the same keys, and require the same.
    #[test]
    fn reader_and_schema_agree_on_keys() {
        let schema = crate::json_schema();
        let root = schema.as_value();
        let definitions = root["$defs"].as_object().unwrap();
        let shapes = [
            ("Cluster", &CLUSTER),
            ("Node", &NODE),
            ("Client", &CLIENT),
            ("Service", &SERVICE),
            ("ServiceName", &NAME),
            ("Link", &LINK),
            ("Objectives", &OBJECTIVES),
            ("LinkObjective", &LINK_OBJECTIVE),
            ("Waiver", &rules::WAIVER),
            ("WaiverScope", &rules::SCOPE),
            ("Policy", &rules::POLICY),
            ("Tls", &TLS),
        ];
        let check = |name: &str, object: &serde_json::Value, shape: &Shape| {
            let sorted = |mut keys: Vec<String>| {
                keys.sort_unstable();
                keys
            };
            let properties = object["properties"].as_object().unwrap();
            let known = sorted(properties.keys().cloned().collect());
            let required = object.get("required").map_or(vec![], |required| {
                serde_json::from_value::<Vec<String>>(required.clone()).unwrap()
            });
            let own = |keys: &[&str]| sorted(keys.iter().map(|k| (*k).to_owned()).collect());
            assert_eq!(
                known,
                own(&[shape.required, shape.optional].concat()),
                "{name}"
            );
            assert_eq!(sorted(required), own(shape.required), "{name}");
            assert_eq!(object["additionalProperties"], false, "{name}");
        };
        check("mesh", root, &MESH);
        for (name, shape) in shapes {
            check(name, &definitions[name], shape);
        }
        let objects = definitions
            .values()
            .filter(|definition| definition.get("properties").is_some());
        assert_eq!(objects.count(), shapes.len());
    }
}
