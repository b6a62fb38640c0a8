//! Networks that do not overlap, and addresses within them: every address has one meaning in the mesh.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{cluster_names, nodes, unique};
use crate::read::fields::Report;
use crate::spec::{At, List, Spec};

/// One declared network and whose it is.
struct Declared<'a> {
    net: &'a At<IpNet>,
    /// Name of the cluster or client, as far as known.
    owner: &'a str,
    kind: Kind,
    /// Position of the cluster in the file.
    cluster: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Node,
    Pod,
    Service,
    Client,
}

impl Kind {
    fn describe(self, owner: &str) -> String {
        match self {
            Self::Node => format!("the node network of `{owner}`"),
            Self::Pod => format!("the pod CIDR of `{owner}`"),
            Self::Service => format!("the service CIDR of `{owner}`"),
            Self::Client => format!("the prefix of client `{owner}`"),
        }
    }
}

pub(super) fn check(report: &mut Report, spec: &Spec) {
    let declared = declared(spec);
    overlaps(report, &declared);
    for (cluster, node) in nodes(spec) {
        contained(
            report,
            &node.addresses,
            &cluster.node_networks,
            "`node_networks` of its cluster",
        );
        contained(
            report,
            &node.agent_pod,
            &cluster.pod_cidrs,
            "`pod_cidrs` of its cluster",
        );
    }
    let addresses =
        nodes(spec).flat_map(|(_, node)| node.addresses.items.iter().chain(&node.agent_pod.items));
    unique(
        report,
        "the address",
        addresses.map(|address| (address.value, address)),
    );
    service_addresses(report, spec, &declared);
}

fn declared(spec: &Spec) -> Vec<Declared<'_>> {
    fn name(name: &Option<At<String>>) -> &str {
        name.as_ref().map_or("?", |name| &name.value)
    }
    let mut all = Vec::new();
    for (index, cluster) in spec.clusters.items.iter().enumerate() {
        for (kind, list) in [
            (Kind::Node, &cluster.node_networks),
            (Kind::Pod, &cluster.pod_cidrs),
            (Kind::Service, &cluster.service_cidrs),
        ] {
            all.extend(list.items.iter().map(|net| Declared {
                net,
                owner: name(&cluster.name),
                kind,
                cluster: Some(index),
            }));
        }
    }
    for client in &spec.clients.items {
        all.extend(client.prefixes.items.iter().map(|net| Declared {
            net,
            owner: name(&client.name),
            kind: Kind::Client,
            cluster: None,
        }));
    }
    all
}

/// Service CIDRs of different clusters may be the same: a cluster address means something only inside
/// its cluster, and every peer seen at one is counted as `vip` whichever cluster it is.
fn may_overlap(a: &Declared<'_>, b: &Declared<'_>) -> bool {
    a.kind == Kind::Service && b.kind == Kind::Service && a.cluster != b.cluster
}

fn overlaps(report: &mut Report, declared: &[Declared<'_>]) {
    let mut sorted: Vec<&Declared<'_>> = declared.iter().collect();
    // A network comes before those that it contains.
    sorted.sort_by_key(|d| (d.net.value.addr(), d.net.value.prefix_len(), d.net.at));
    let mut around: Vec<&Declared<'_>> = Vec::new();
    for inner in sorted {
        while around
            .pop_if(|outer| !outer.net.value.contains(&inner.net.value))
            .is_some()
        {}
        if let Some(outer) = around.iter().rev().find(|outer| !may_overlap(outer, inner)) {
            let (first, second) = if outer.net.at <= inner.net.at {
                (*outer, inner)
            } else {
                (inner, *outer)
            };
            let message = format!(
                "`{}` overlaps `{}`, {}",
                second.net.value,
                first.net.value,
                first.kind.describe(first.owner)
            );
            report
                .push(second.net.at, &second.net.path, message)
                .related(first.net.at, &first.net.path, "declared here")
                .hint("every address must belong to one cluster and one purpose");
        }
        around.push(inner);
    }
}

fn contained(
    report: &mut Report,
    addresses: &List<At<IpAddr>>,
    nets: &List<At<IpNet>>,
    what: &str,
) {
    if !nets.complete {
        return;
    }
    for address in &addresses.items {
        if !nets.items.iter().any(|n| n.value.contains(&address.value)) {
            let nets: Vec<String> = nets.items.iter().map(|n| n.value.to_string()).collect();
            let problem = report.push(
                address.at,
                &address.path,
                format!("`{}` is not within {what}", address.value),
            );
            if (1..=8).contains(&nets.len()) {
                problem.hint(format!("they are {}", nets.join(", ")));
            }
        }
    }
}

/// A service's address belongs to its cluster or to nobody, and to no more than one service CIDR.
fn service_addresses(report: &mut Report, spec: &Spec, declared: &[Declared<'_>]) {
    let Some(names) = cluster_names(spec) else {
        return;
    };
    for service in &spec.services.items {
        let known = |cluster: &&At<String>| names.contains(&cluster.value.as_str());
        let Some(cluster) = service.cluster.as_ref().filter(known) else {
            continue;
        };
        for address in &service.addresses.items {
            let around: Vec<&Declared<'_>> = declared
                .iter()
                .filter(|d| d.net.value.contains(&address.value))
                .collect();
            let foreign = around.iter().find(|d| d.owner != cluster.value);
            let Some(foreign) = foreign else { continue };
            let owner = foreign.kind.describe(foreign.owner);
            let message = if around.iter().any(|d| d.owner == cluster.value) {
                format!("`{}` is ambiguous: it also lies in {owner}", address.value)
            } else {
                format!(
                    "`{}` lies in {owner}, but the service is said to run in `{}`",
                    address.value, cluster.value
                )
            };
            report.push(address.at, &address.path, message).related(
                foreign.net.at,
                &foreign.net.path,
                "declared here",
            );
        }
    }
}
