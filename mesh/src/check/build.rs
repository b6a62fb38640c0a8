//! A [`Spec`] in which everything fits becomes a [`Mesh`].

use std::net::IpAddr;

use crate::model::{
    Cluster, ExternalClient, Link, Mesh, Node, Objectives, Service, ServiceName, Tls,
};
use crate::spec::{
    At, ClientSpec, ClusterSpec, LinkSpec, List, NameSpec, NodeSpec, ServiceSpec, Spec, WaiverSpec,
};
use crate::{PolicyRule, Rules, Waiver, WaiverScope};

/// Only for a spec without problems: `None` would mean that something was left out without a report.
pub(super) fn mesh(spec: &Spec) -> Option<Mesh> {
    let clusters = spec.clusters.items.iter();
    let clusters: Vec<Cluster> = clusters.map(cluster).collect::<Option<_>>()?;
    let client = |client: &ClientSpec| {
        Some(ExternalClient {
            name: value(&client.name)?,
            prefixes: values(&client.prefixes),
        })
    };
    let name = |name: &NameSpec| {
        Some(ServiceName {
            name: value(&name.name)?,
            addresses: ipv4_first(&name.addresses),
            clusters: values(&name.clusters),
        })
    };
    let service = |service: &ServiceSpec| {
        Some(Service {
            name: value(&service.name)?,
            backends: if service.backends.items.is_empty() {
                vec![value(&service.cluster)?]
            } else {
                values(&service.backends)
            },
            cluster: value(&service.cluster)?,
            affinity: value(&service.affinity).unwrap_or_default(),
            addresses: ipv4_first(&service.addresses),
            port: value(&service.port)?,
            kind: value(&service.kind)?,
            names: service
                .names
                .items
                .iter()
                .map(name)
                .collect::<Option<_>>()?,
        })
    };
    let objectives = &spec.objectives;
    let default = Objectives::default();
    let or = |given: &Option<At<f64>>, default| value(given).unwrap_or(default);
    Some(Mesh {
        name: value(&spec.name)?,
        clients: spec
            .clients
            .items
            .iter()
            .map(client)
            .collect::<Option<_>>()?,
        services: spec
            .services
            .items
            .iter()
            .map(service)
            .collect::<Option<_>>()?,
        links: match &spec.links {
            Some(links) => links.items.iter().map(link).collect::<Option<_>>()?,
            None => all_links(&clusters),
        },
        clusters,
        objectives: Objectives {
            loss: or(&objectives.loss, default.loss),
            connect_success: or(&objectives.connect_success, default.connect_success),
            latency_p99_seconds: value(&objectives.latency_p99),
            latency_p99_by_link: objectives
                .links
                .items
                .iter()
                .map(|(pair, seconds)| Some((link(pair)?, value(seconds)?)))
                .collect::<Option<_>>()?,
            ndvi_round_trip_seconds: or(
                &objectives.ndvi_round_trip,
                default.ndvi_round_trip_seconds,
            ),
            ndvi_success: or(&objectives.ndvi_success, default.ndvi_success),
            mtu_bytes: value(&objectives.mtu),
            throughput_bits_per_second: value(&objectives.throughput),
            jitter_p99_seconds: value(&objectives.jitter_p99),
            coverage: or(&objectives.coverage, default.coverage),
            confidence: or(&objectives.confidence, default.confidence),
        },
        rules: Rules {
            accept: spec
                .accept
                .items
                .iter()
                .map(waiver)
                .collect::<Option<_>>()?,
            policies: spec
                .policies
                .items
                .iter()
                .map(|(pair, access)| {
                    Some(PolicyRule {
                        link: link(pair)?,
                        access: value(access)?,
                    })
                })
                .collect::<Option<_>>()?,
            severity: {
                let named = spec.severity.iter();
                let mut all: Vec<_> = named
                    .map(|(check, gravity)| (check.value.clone(), gravity.value))
                    .collect();
                all.sort();
                all
            },
        },
        tls: match &spec.tls {
            Some(tls) => Some(Tls {
                ca: value(&tls.ca)?,
                cert: value(&tls.cert)?,
                key: value(&tls.key)?,
            }),
            None => None,
        },
    })
}

fn cluster(spec: &ClusterSpec) -> Option<Cluster> {
    let node = |node: &NodeSpec| {
        Some(Node {
            name: value(&node.name)?,
            addresses: ipv4_first(&node.addresses),
            agent_pod: ipv4_first(&node.agent_pod),
            agent: value(&node.agent),
            agent_node_plane: value(&node.agent_node_plane),
        })
    };
    Some(Cluster {
        name: value(&spec.name)?,
        id: value(&spec.id)?,
        node_networks: values(&spec.node_networks),
        pod_cidrs: values(&spec.pod_cidrs),
        service_cidrs: values(&spec.service_cidrs),
        dns_server: value(&spec.dns_server),
        nodes: spec.nodes.items.iter().map(node).collect::<Option<_>>()?,
        context: value(&spec.context),
    })
}

fn waiver(spec: &WaiverSpec) -> Option<Waiver> {
    Some(Waiver {
        check: value(&spec.check)?,
        scope: WaiverScope {
            source: value(&spec.source),
            target: value(&spec.target),
            node: value(&spec.node),
        },
        reason: value(&spec.reason)?,
        until: value(&spec.until)?,
    })
}

fn link(spec: &LinkSpec) -> Option<Link> {
    Some(Link {
        source: value(&spec.source)?,
        target: value(&spec.target)?,
    })
}

fn value<T: Clone>(at: &Option<At<T>>) -> Option<T> {
    at.as_ref().map(|at| at.value.clone())
}

fn values<T: Clone>(list: &List<At<T>>) -> Vec<T> {
    list.items.iter().map(|at| at.value.clone()).collect()
}

fn ipv4_first(list: &List<At<IpAddr>>) -> Vec<IpAddr> {
    let mut addresses = values(list);
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses
}

/// Every ordered pair of clusters in declaration order, or the one cluster towards itself.
pub(crate) fn all_links(clusters: &[Cluster]) -> Vec<Link> {
    let names: Vec<&str> = clusters.iter().map(|c| c.name.as_str()).collect();
    let link = |source: &str, target: &str| Link {
        source: source.to_owned(),
        target: target.to_owned(),
    };
    if let [only] = names[..] {
        return vec![link(only, only)];
    }
    let pairs = names.iter().flat_map(|s| names.iter().map(move |t| (s, t)));
    pairs
        .filter(|(source, target)| source != target)
        .map(|(source, target)| link(source, target))
        .collect()
}
