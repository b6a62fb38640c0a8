//! Puts a network of external clients behind a cluster: its packets enter and leave through that cluster's side.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::addresses::host;
use super::plan::check;
use super::{Topology, Uplink, netns_prefix};

/// Routers of the fabric hold the first addresses of every node network; this one takes the next free.
const FIRST_ROUTER: u128 = 6;

/// Puts the clients `client` behind `cluster`.
///
/// # Errors
/// If there is no such client or cluster, or no address for the router between them.
pub fn put_behind(topology: &mut Topology, client: &str, cluster: &str) -> Result<(), String> {
    let Some(net) = topology.clusters.iter().find(|c| c.name == cluster) else {
        let known: Vec<_> = topology.clusters.iter().map(|c| c.name.as_str()).collect();
        return Err(format!(
            "there is no cluster `{cluster}` to put `{client}` behind; there are: {}",
            known.join(", ")
        ));
    };
    let Some(index) = topology.clients.iter().position(|c| c.name == client) else {
        let known: Vec<_> = topology.clients.iter().map(|c| c.name.as_str()).collect();
        return Err(format!(
            "there are no external clients `{client}` to put behind `{cluster}`; there are: {}",
            known.join(", ")
        ));
    };
    let mut taken: BTreeSet<IpAddr> = net.gateways.iter().copied().collect();
    let nodes = net.nodes.iter().flat_map(|n| &n.addresses);
    taken.extend(nodes.map(IpNet::addr));
    let others = topology.uplinks().flat_map(|(_, u)| &u.addresses);
    taken.extend(others.map(IpNet::addr));
    let mut addresses = Vec::new();
    for prefix in &topology.clients[index].prefixes {
        let v6 = prefix.addr().is_ipv6();
        let free = net
            .node_networks
            .iter()
            .filter(|n| n.addr().is_ipv6() == v6)
            .find_map(|n| {
                let found = (FIRST_ROUTER..FIRST_ROUTER + 250)
                    .chain(1..FIRST_ROUTER)
                    .filter_map(|i| host(*n, i))
                    .find(|a| !taken.contains(a))?;
                IpNet::new(found, n.prefix_len()).ok()
            });
        addresses.push(free.ok_or_else(|| {
            format!(
                "no node network of `{cluster}` has an address left for the router of `{prefix}`"
            )
        })?);
    }
    let name = format!("{client}-router");
    topology.clients[index].uplink = Some(Uplink {
        cluster: cluster.to_owned(),
        netns: format!("{}{name}", netns_prefix(&topology.lab)),
        port: format!("u{}", index + 1),
        addresses,
        name,
    });
    check(topology)
}
