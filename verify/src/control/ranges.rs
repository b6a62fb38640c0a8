//! `config.cidrs` as the clusters have them: node addresses, pod CIDRs, service CIDRs.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::agree::silent;
use super::finding::{Finding, Place, Problem, Rows};
use super::view::Unread;
use super::world::{Cluster, World};
use crate::checks::CONFIG_CIDRS;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Node,
    Pod,
    Service,
}

impl Kind {
    fn words(self) -> &'static str {
        match self {
            Self::Node => "node address",
            Self::Pod => "pod CIDR",
            Self::Service => "service CIDR",
        }
    }
}

#[derive(Clone, Copy)]
struct Range<'a> {
    net: IpNet,
    kind: Kind,
    cluster: Cluster<'a>,
}

pub(super) fn find(world: &World<'_>, rows: &mut Rows) {
    rows.add(CONFIG_CIDRS, Place::Mesh, overlaps(world));
}

fn overlaps(world: &World<'_>) -> Finding {
    let mut ranges = Vec::new();
    let mut open = None;
    for cluster in world.clusters() {
        for unread in gather(cluster, &mut ranges) {
            let why = format!("{}: `{}`", unread.words(), cluster.context);
            open = open.or(Some((why, unread.hint().to_owned())));
        }
    }
    let found = compare(&mut ranges);
    if let Some((summary, _, hint)) = found.first().cloned() {
        return Finding::Fail(Problem {
            cause: "config.overlap",
            summary,
            evidence: found
                .into_iter()
                .map(|(summary, count, _)| match count {
                    1 => summary,
                    more => format!("{summary}, and {} more like it", more - 1),
                })
                .collect(),
            hint,
        });
    }
    match open.or_else(|| silent(world)) {
        Some((why, hint)) => Finding::Undecided(why, hint),
        None => Finding::Pass(format!("{} ranges and addresses compared", ranges.len())),
    }
}

/// Adds what `cluster` has and answers what of it could not be read.
fn gather<'a>(cluster: Cluster<'a>, ranges: &mut Vec<Range<'a>>) -> Vec<Unread> {
    let facts = cluster.facts;
    let mut unread = Vec::new();
    let mut add = |net: IpNet, kind| {
        ranges.push(Range {
            net: net.trunc(),
            kind,
            cluster,
        });
    };
    match &facts.nodes {
        Ok(nodes) => {
            for node in nodes {
                node.addresses
                    .iter()
                    .for_each(|&ip| add(ip.into(), Kind::Node));
                node.pod_cidrs.iter().for_each(|&net| add(net, Kind::Pod));
            }
        }
        Err(why) => unread.push(why.clone()),
    }
    match &facts.pod_cidrs {
        Ok(nets) => nets.iter().for_each(|&net| add(net, Kind::Pod)),
        Err(why) => unread.push(why.clone()),
    }
    match &facts.service_cidrs {
        Ok(nets) => nets.iter().for_each(|&net| add(net, Kind::Service)),
        Err(why) => unread.push(why.clone()),
    }
    match cluster.value("ipam") {
        // Whole pools: the next node may get any of it.
        Ok(Some("cluster-pool")) => {
            for key in ["cluster-pool-ipv4-cidr", "cluster-pool-ipv6-cidr"] {
                let pools = cluster.value(key).ok().flatten().unwrap_or_default();
                let nets = pools.split([' ', ',']).filter_map(|net| net.parse().ok());
                nets.for_each(|net| add(net, Kind::Pod));
            }
        }
        Ok(_) => {}
        Err(why) => unread.push(why),
    }
    unread
}

type Overlap = (String, usize, String);

/// The first overlap of every pair of clusters and kinds, and how many there are like it.
fn compare(ranges: &mut Vec<Range<'_>>) -> Vec<Overlap> {
    let key = |range: &Range<'_>| (first(range.net), last(range.net));
    // Outer before inner, so that those still open enclose the next.
    ranges.sort_by(|a, b| {
        let ((a_first, a_last), (b_first, b_last)) = (key(a), key(b));
        (a_first, std::cmp::Reverse(a_last), a.kind).cmp(&(
            b_first,
            std::cmp::Reverse(b_last),
            b.kind,
        ))
    });
    ranges.dedup_by(|a, b| {
        a.net == b.net && a.kind == b.kind && a.cluster.context == b.cluster.context
    });
    let mut open: Vec<Range<'_>> = Vec::new();
    let mut found: BTreeMap<(String, String, Kind, Kind), Overlap> = BTreeMap::new();
    for &range in ranges.iter() {
        open.retain(|outer| outer.net.contains(&range.net));
        for outer in &open {
            let services = outer.kind == Kind::Service && range.kind == Kind::Service;
            if outer.cluster.context == range.cluster.context || services {
                continue;
            }
            let place = (
                outer.cluster.context.to_owned(),
                range.cluster.context.to_owned(),
                outer.kind,
                range.kind,
            );
            let overlap = found
                .entry(place)
                .or_insert_with(|| describe(*outer, range));
            overlap.1 += 1;
        }
        open.push(range);
    }
    found.into_values().collect()
}

fn describe(outer: Range<'_>, inner: Range<'_>) -> Overlap {
    let side = |range: Range<'_>| {
        let net = match range.kind {
            Kind::Node => range.net.addr().to_string(),
            _ => range.net.to_string(),
        };
        format!(
            "{} {net} of `{}`",
            range.kind.words(),
            range.cluster.context
        )
    };
    let summary = format!("{} overlaps {}", side(outer), side(inner));
    let hint = match (outer.kind, inner.kind) {
        (Kind::Node, Kind::Node) => {
            format!(
                "give the node of `{}` another address; in one mesh an address belongs to one node",
                inner.cluster.context
            )
        }
        (Kind::Pod, _) | (_, Kind::Pod) => {
            let of = if inner.kind == Kind::Pod {
                inner.cluster
            } else {
                outer.cluster
            };
            format!(
                "renumber the pods of `{}`: Talos `cluster.network.podSubnets`, RKE2 `cluster-cidr`, kubeadm `podSubnet`, or with Cilium's own pool `ipam.operator.clusterPoolIPv4PodCIDRList`; nodes keep their old CIDR until they are made anew",
                of.context
            )
        }
        _ => {
            let of = if inner.kind == Kind::Service {
                inner.cluster
            } else {
                outer.cluster
            };
            format!(
                "renumber the services of `{}`: Talos `cluster.network.serviceSubnets`, RKE2 `service-cidr`, kubeadm `serviceSubnet`",
                of.context
            )
        }
    };
    (summary, 0, hint)
}

fn first(net: IpNet) -> IpAddr {
    net.network()
}

fn last(net: IpNet) -> IpAddr {
    net.broadcast()
}
