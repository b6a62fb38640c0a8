//! Whether the parts of a [`Spec`] fit together; only then does it become a [`Mesh`].

use std::collections::HashMap;
use std::hash::Hash;

use crate::errors::{Position, shown};
use crate::model::Mesh;
use crate::read::fields::Report;
use crate::spec::{At, ClusterSpec, LinkSpec, List, NodeSpec, ServiceSpec, Spec};
use crate::{
    Affinity, AgentEndpoint, PROBE_SOURCE_PORTS, RESPONDER_ECHO_PORT, RESPONDER_HTTP_PORT,
};

mod build;
mod networks;
mod objectives;
mod rules;

pub(crate) use objectives::MTU;

pub(crate) use build::all_links;

const MAX_CLUSTERS: usize = 256;
const MAX_NODES: usize = 10_000;
/// All networks of a mesh together.
const MAX_NETWORKS: usize = 10_000;
/// Clients, and services.
const MAX_PEERS: usize = 1_000;
/// Of one node, agent or service.
const MAX_ADDRESSES: usize = 16;

/// What metrics call peers that are neither a cluster nor a client, and services that are none.
const RESERVED_PEERS: [&str; 4] = ["world", "vip", "ambiguous", "other"];
const RESERVED_SERVICES: [&str; 1] = ["other"];

pub(crate) fn mesh(
    report: &mut Report,
    spec: &Spec,
    checks: Option<&[crate::KnownCheck<'_>]>,
) -> Option<Mesh> {
    if !limits(report, spec) {
        return None;
    }
    scope(report, spec);
    names(report, spec);
    ids(report, spec);
    networks::check(report, spec);
    agents(report, spec);
    services(report, spec);
    links(report, spec);
    objectives::check(report, spec);
    rules::check(report, spec, checks);
    if report.problems.is_empty() {
        build::mesh(spec)
    } else {
        None
    }
}

/// Sizes within which every later check is quick. False when one is exceeded.
fn limits(report: &mut Report, spec: &Spec) -> bool {
    let before = report.problems.len();
    let clusters = &spec.clusters;
    let mut limit = |at, path: &str, count: usize, limit: usize, what: &str| {
        if count > limit {
            report.push(at, path, format!("{count} {what} are more than {limit}"));
        }
    };
    fn list<T>(list: &List<T>) -> (Position, &str, usize) {
        (list.at, &list.path, list.items.len())
    }
    let mut networks = 0;
    let (at, path, count) = list(clusters);
    limit(at, path, count, MAX_CLUSTERS, "clusters");
    let nodes_in_all = nodes(spec).count();
    limit(at, path, nodes_in_all, MAX_NODES, "nodes");
    for cluster in &clusters.items {
        networks += [
            &cluster.node_networks,
            &cluster.pod_cidrs,
            &cluster.service_cidrs,
        ]
        .map(|list| list.items.len())
        .iter()
        .sum::<usize>();
        for node in &cluster.nodes.items {
            for addresses in [&node.addresses, &node.agent_pod] {
                let (at, path, count) = list(addresses);
                limit(at, path, count, MAX_ADDRESSES, "addresses");
            }
        }
    }
    let (at, path, count) = list(&spec.clients);
    limit(at, path, count, MAX_PEERS, "clients");
    let (at, path, count) = list(&spec.policies);
    limit(at, path, count, MAX_CLUSTERS * MAX_CLUSTERS, "policies");
    let (at, path, count) = list(&spec.accept);
    limit(at, path, count, MAX_PEERS, "accepted findings");
    let (at, path, count) = list(&spec.services);
    limit(at, path, count, MAX_PEERS, "services");
    for service in &spec.services.items {
        let (at, path, count) = list(&service.addresses);
        limit(at, path, count, MAX_ADDRESSES, "addresses");
        let (at, path, count) = list(&service.names);
        limit(at, path, count, MAX_ADDRESSES, "names");
    }
    networks += spec
        .clients
        .items
        .iter()
        .map(|c| c.prefixes.items.len())
        .sum::<usize>();
    limit(
        clusters.at,
        &clusters.path,
        networks,
        MAX_NETWORKS,
        "networks",
    );
    report.problems.len() == before
}

fn scope(report: &mut Report, spec: &Spec) {
    let clusters = &spec.clusters;
    if clusters.items.is_empty() && clusters.complete {
        report
            .push(
                clusters.at,
                &clusters.path,
                "empty scope: no cluster is declared",
            )
            .hint("declare at least one cluster");
    }
    for cluster in &clusters.items {
        not_empty(report, &cluster.node_networks, "network");
        not_empty(report, &cluster.pod_cidrs, "network");
        for node in &cluster.nodes.items {
            not_empty(report, &node.addresses, "address");
        }
    }
    for client in &spec.clients.items {
        not_empty(report, &client.prefixes, "network");
    }
    for service in &spec.services.items {
        not_empty(report, &service.addresses, "address");
    }
}

fn not_empty<T>(report: &mut Report, list: &List<T>, what: &str) {
    if list.items.is_empty() && list.complete {
        report.push(
            list.at,
            &list.path,
            format!("at least one {what} is needed"),
        );
    }
}

/// Reports every item whose key came before; `what` is the kind of key, as in "node name".
fn unique<'a, K, T>(
    report: &mut Report,
    what: &str,
    items: impl IntoIterator<Item = (K, &'a At<T>)>,
) where
    K: Eq + Hash + std::fmt::Display,
    T: 'a,
{
    let mut first: HashMap<K, &At<T>> = HashMap::new();
    for (key, item) in items {
        if let Some(earlier) = first.get(&key) {
            report
                .push(
                    item.at,
                    &item.path,
                    format!("{what} `{key}` is given twice"),
                )
                .related(earlier.at, &earlier.path, "the first one is here");
        } else {
            first.insert(key, item);
        }
    }
}

fn names(report: &mut Report, spec: &Spec) {
    let clusters = spec.clusters.items.iter().filter_map(|c| c.name.as_ref());
    let clients = spec.clients.items.iter().filter_map(|c| c.name.as_ref());
    let peers: Vec<&At<String>> = clusters.chain(clients).collect();
    let keyed = |name: &&'_ At<String>| name.value.clone();
    unique(
        report,
        "the name",
        peers.iter().map(|name| (keyed(name), *name)),
    );
    for name in &peers {
        reserved(report, name, &RESERVED_PEERS);
    }
    for cluster in &spec.clusters.items {
        let nodes = cluster.nodes.items.iter().filter_map(|n| n.name.as_ref());
        unique(
            report,
            "the node name",
            nodes.map(|name| (keyed(&name), name)),
        );
    }
    let services = || spec.services.items.iter().filter_map(|s| s.name.as_ref());
    unique(
        report,
        "the service name",
        services().map(|name| (keyed(&name), name)),
    );
    for name in services() {
        reserved(report, name, &RESERVED_SERVICES);
    }
}

fn reserved(report: &mut Report, name: &At<String>, reserved: &[&str]) {
    if reserved.contains(&name.value.as_str()) {
        let message = format!(
            "`{}` already has a meaning of its own in metrics",
            name.value
        );
        report
            .push(name.at, &name.path, message)
            .hint("choose another name");
    }
}

fn ids(report: &mut Report, spec: &Spec) {
    let ids = || spec.clusters.items.iter().filter_map(|c| c.id.as_ref());
    unique(report, "the cluster id", ids().map(|id| (id.value, id)));
    for id in ids().filter(|id| id.value > spec.max_connected_clusters) {
        let message = format!(
            "{} is above {}, the largest id of this mesh",
            id.value, spec.max_connected_clusters
        );
        report.push(id.at, &id.path, message).hint(
            "choose a smaller id, or set `max_connected_clusters: 511` here and in Cilium on every cluster",
        );
    }
}

fn nodes(spec: &Spec) -> impl Iterator<Item = (&ClusterSpec, &NodeSpec)> {
    let clusters = spec.clusters.items.iter();
    clusters.flat_map(|cluster| cluster.nodes.items.iter().map(move |node| (cluster, node)))
}

fn agents(report: &mut Report, spec: &Spec) {
    let endpoints = || {
        nodes(spec)
            .flat_map(|(_, node)| [&node.agent, &node.agent_node_plane].into_iter().flatten())
    };
    unique(
        report,
        "the agent",
        endpoints().map(|agent| (agent.value.to_string(), agent)),
    );
    let https = |agent: &&At<AgentEndpoint>| matches!(agent.value, AgentEndpoint::Https { .. });
    if spec.tls.is_none()
        && let Some(agent) = endpoints().find(https)
    {
        report
            .push(
                agent.at,
                &agent.path,
                "an `https` agent accepts only clients with a certificate, and none is declared",
            )
            .hint("add `tls: {ca: …, cert: …, key: …}`");
    }
    for (_, node) in nodes(spec) {
        if let Some(agent) = &node.agent
            && node.agent_pod.items.is_empty()
            && node.agent_pod.complete
        {
            report
                .push(
                    agent.at,
                    &agent.path,
                    "an agent without `agent_pod` cannot be the target of pod probes",
                )
                .hint("add the addresses of the agent's pod as `agent_pod: […]`");
        }
    }
}

/// Names of all clusters; `None` when one of them could not be read, so that nothing can be called unknown.
fn cluster_names(spec: &Spec) -> Option<Vec<&str>> {
    if !spec.clusters.complete {
        return None;
    }
    let names = spec.clusters.items.iter();
    names
        .map(|c| c.name.as_ref().map(|name| name.value.as_str()))
        .collect()
}

fn known_cluster(report: &mut Report, names: Option<&[&str]>, name: &At<String>) {
    let Some(names) = names else { return };
    if names.contains(&name.value.as_str()) {
        return;
    }
    let seen = shown(&name.value);
    let explains = report.explains();
    let problem = report.push(
        name.at,
        &name.path,
        format!("no cluster is called `{seen}`"),
    );
    let nearest = if explains { names } else { &[] };
    let nearest = nearest
        .iter()
        .min_by_key(|known| strsim::osa_distance(known, &seen));
    match nearest {
        Some(nearest) if strsim::osa_distance(nearest, &seen) <= 1 + nearest.len() / 3 => {
            problem.hint(format!("did you mean `{nearest}`?"));
        }
        _ if (1..=10).contains(&names.len()) => {
            problem.hint(format!("the clusters are `{}`", names.join("`, `")));
        }
        _ => {}
    }
}

fn services(report: &mut Report, spec: &Spec) {
    let names = cluster_names(spec);
    for service in &spec.services.items {
        if let Some(cluster) = &service.cluster {
            known_cluster(report, names.as_deref(), cluster);
        }
        backends(report, names.as_deref(), service);
        dns_names(report, names.as_deref(), service);
        let Some(port) = &service.port else { continue };
        let ours = if PROBE_SOURCE_PORTS.contains(&port.value) {
            "where our probes come from"
        } else if [RESPONDER_ECHO_PORT, RESPONDER_HTTP_PORT].contains(&port.value) {
            "where the agents answer probes"
        } else {
            continue;
        };
        let message = format!(
            "port {} is {ours}, so its traffic could not be told from probes",
            port.value
        );
        report.push(port.at, &port.path, message);
    }
    let sockets = spec.services.items.iter().flat_map(|service| {
        let port = service.port.iter();
        port.flat_map(|port| {
            let addresses = service.addresses.items.iter();
            addresses.map(|a| (std::net::SocketAddr::new(a.value, port.value), a))
        })
    });
    unique(report, "the service address", sockets);
}

/// Clusters that exist, each once, the service's own among them; an affinity has to have something to choose from.
fn backends(report: &mut Report, names: Option<&[&str]>, service: &ServiceSpec) {
    let listed = &service.backends;
    for cluster in &listed.items {
        known_cluster(report, names, cluster);
    }
    let each = listed.items.iter();
    unique(
        report,
        "the cluster with backends",
        each.map(|cluster| (cluster.value.clone(), cluster)),
    );
    if let Some(own) = &service.cluster
        && listed.complete
        && !listed.items.is_empty()
        && listed.items.iter().all(|other| other.value != own.value)
    {
        let message = format!(
            "the service is said to run in `{}`, which is not among its backends' clusters",
            shown(&own.value)
        );
        report
            .push(listed.at, &listed.path, message)
            .related(own.at, &own.path, "said here");
    }
    if let Some(affinity) = &service.affinity
        && affinity.value != Affinity::None
        && listed.complete
        && listed.items.len() < 2
    {
        report
            .push(
                affinity.at,
                &affinity.path,
                "an affinity chooses between clusters, and all backends are in one",
            )
            .hint("list the clusters that run backends as `backends: […]`");
    }
}

/// Names that can be asked for, each once in a cluster.
fn dns_names(report: &mut Report, names: Option<&[&str]>, service: &ServiceSpec) {
    for name in &service.names.items {
        for cluster in &name.clusters.items {
            known_cluster(report, names, cluster);
        }
        if let Some(name) = &name.name
            && !name.value.contains('.')
        {
            report
                .push(
                    name.at,
                    &name.path,
                    format!(
                        "`{}` is no complete name: search lists are not used",
                        shown(&name.value)
                    ),
                )
                .hint("write it whole, such as `ndvi.default.svc.cluster.local`");
        }
    }
    let in_each = service.names.items.iter().filter_map(|name| {
        let at = name.name.as_ref()?;
        let clusters: Vec<&str> = name
            .clusters
            .items
            .iter()
            .map(|c| c.value.as_str())
            .collect();
        Some((at, clusters))
    });
    let mut keys: Vec<(String, &At<String>)> = Vec::new();
    for (at, clusters) in in_each {
        let clusters = if clusters.is_empty() {
            vec!["*"]
        } else {
            clusters
        };
        keys.extend(
            clusters
                .iter()
                .map(|c| (format!("{}` in `{c}", at.value), at)),
        );
    }
    unique(report, "the name", keys);
}

fn links(report: &mut Report, spec: &Spec) {
    let Some(links) = &spec.links else { return };
    if links.items.is_empty() && links.complete {
        report
            .push(links.at, &links.path, "empty scope: no link is listed")
            .hint("write `links: all`, or name at least one link");
    }
    let names = cluster_names(spec);
    link_list(report, names.as_deref(), links.items.iter());
    for link in &links.items {
        if let Some((source, target)) = link.ends()
            && source.value == target.value
            && spec.clusters.items.len() > 1
        {
            report
                .push(
                    link.at,
                    &link.path,
                    "a cluster is linked to itself although there are others",
                )
                .hint(
                    "links inside a cluster are measured anyway, as the control; remove this one",
                );
        }
    }
}

/// What holds for any list of links: clusters that exist, and no link twice.
fn link_list<'a>(
    report: &mut Report,
    names: Option<&[&str]>,
    links: impl Iterator<Item = &'a LinkSpec> + Clone,
) {
    for link in links.clone() {
        for end in [&link.source, &link.target].into_iter().flatten() {
            known_cluster(report, names, end);
        }
    }
    let pairs = links.filter_map(LinkSpec::ends);
    let pairs = pairs.map(|(source, target)| {
        let name = format!("{} → {}", shown(&source.value), shown(&target.value));
        (name, source)
    });
    unique(report, "the link", pairs);
}
