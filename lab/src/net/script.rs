//! What to type into which namespace. Pure: commands as text, from the topology.

use std::net::IpAddr;

use ipnet::IpNet;

use super::services::{self, Services};
use crate::topology::{ClientHost, ClientNet, ClusterNet, NodeNet, Pod, Topology, Uplink};

/// Whether VXLAN's outer packets may be fragmented on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OuterDf {
    #[default]
    Set,
    Clear,
}

/// Commands for one namespace, run in the order of the fields.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Script {
    pub(super) netns: String,
    pub(super) ip: Vec<String>,
    pub(super) ip6: Vec<String>,
    pub(super) fdb: Vec<String>,
    pub(super) nft: String,
}

/// The tun device that leads to the line.
pub(super) const LINE: &str = "line0";
const UNDERLAY_MTU: u16 = 1500;
const VXLAN_PORT: u16 = 8472;
/// Link-local address of every node on the cables to its pods.
const POD_ROUTER_V6: &str = "fe80::1";

impl Script {
    fn new(netns: &str) -> Self {
        Self {
            netns: netns.to_owned(),
            ..Self::default()
        }
    }

    fn ip(&mut self, line: String) {
        self.ip.push(line);
    }

    /// A route or a rule, filed under its family.
    fn routing(&mut self, family_of: IpAddr, line: String) {
        if family_of.is_ipv6() {
            self.ip6.push(line)
        } else {
            self.ip.push(line)
        }
    }
}

pub(super) fn fabric(topology: &Topology) -> Script {
    let mut script = Script::new(&topology.fabric.netns);
    script.ip("link set lo up".into());
    script.ip(format!("tuntap add dev {LINE} mode tun"));
    script.ip(format!(
        "link set {LINE} addrgenmode none mtu {UNDERLAY_MTU} txqueuelen 5000 up"
    ));
    let mut sides: Vec<(&str, Vec<IpNet>)> = Vec::new();
    for cluster in &topology.clusters {
        let behind: Vec<_> = topology
            .uplinks()
            .filter(|(_, u)| u.cluster == cluster.name)
            .collect();
        let nodes = cluster.nodes.iter().map(|n| (&n.port, &n.netns));
        let routers = behind.iter().map(|(_, u)| (&u.port, &u.netns));
        bridge(
            &mut script,
            &cluster.bridge,
            &cluster.node_networks,
            &cluster.gateways,
            nodes.chain(routers),
        );
        let mut own = cluster.node_networks.clone();
        for (client, uplink) in behind {
            for (prefix, router) in client.prefixes.iter().zip(&uplink.addresses) {
                let (router, device) = (router.addr(), &cluster.bridge);
                script.routing(
                    router,
                    format!("route add {prefix} via {router} dev {device}"),
                );
            }
            own.extend(&client.prefixes);
        }
        sides.push((&cluster.bridge, own));
    }
    for client in topology.clients.iter().filter(|c| c.uplink.is_none()) {
        client_bridge(&mut script, client);
        sides.push((&client.bridge, client.prefixes.clone()));
    }
    // What comes from one side for another goes to the line; what comes back from the line is
    // routed by the main table.
    for (index, (bridge, own)) in sides.iter().enumerate() {
        let table = 101 + index;
        for unspecified in [IpAddr::from([0; 4]), IpAddr::from([0; 16])] {
            script.routing(
                unspecified,
                format!("rule add pref {table} iif {bridge} lookup {table}"),
            );
        }
        let others = sides
            .iter()
            .filter(|(other, _)| other != bridge)
            .flat_map(|(_, nets)| nets);
        for net in others.filter(|net| !own.contains(net)) {
            script.routing(
                net.addr(),
                format!("route add {net} dev {LINE} table {table}"),
            );
        }
    }
    script
}

fn client_bridge(script: &mut Script, client: &ClientNet) {
    let cables = client.hosts.iter().map(|h| (&h.port, &h.netns));
    bridge(
        script,
        &client.bridge,
        &client.prefixes,
        &client.gateways,
        cables,
    );
}

/// The router between external clients and the node networks of the cluster that they lie behind.
pub(super) fn router(cluster: &ClusterNet, client: &ClientNet, uplink: &Uplink) -> Script {
    let mut script = Script::new(&uplink.netns);
    script.ip("link set lo up".into());
    script.ip(format!("link set eth0 mtu {UNDERLAY_MTU} up"));
    for net in &uplink.addresses {
        script.ip(address(net.addr(), net.prefix_len(), "eth0"));
        let gateways = cluster.node_networks.iter().zip(&cluster.gateways);
        for (_, gateway) in gateways.filter(|(n, _)| n.contains(&net.addr())) {
            script.routing(
                *gateway,
                format!("route add default via {gateway} dev eth0"),
            );
        }
    }
    client_bridge(&mut script, client);
    script
}

fn bridge<'a>(
    script: &mut Script,
    name: &str,
    networks: &[IpNet],
    gateways: &[IpAddr],
    cables: impl Iterator<Item = (&'a String, &'a String)>,
) {
    // Without a querier, snooping would lose neighbour solicitations.
    script.ip(format!("link add {name} type bridge mcast_snooping 0"));
    script.ip(format!("link set {name} mtu {UNDERLAY_MTU} up"));
    for (net, gateway) in networks.iter().zip(gateways) {
        script.ip(address(*gateway, net.prefix_len(), name));
    }
    for (port, netns) in cables {
        script.ip(format!(
            "link add {port} type veth peer name eth0 netns {netns}"
        ));
        script.ip(format!("link set {port} master {name} addrgenmode none up"));
    }
}

fn address(address: IpAddr, length: u8, device: &str) -> String {
    let nodad = if address.is_ipv6() { " nodad" } else { "" };
    format!("address add {address}/{length} dev {device}{nodad}")
}

fn host_length(address: IpAddr) -> u8 {
    if address.is_ipv6() { 128 } else { 32 }
}

/// MTU inside VXLAN: outer IP, UDP, VXLAN and inner Ethernet header come off.
fn overlay_mtu(node: &NodeNet) -> u16 {
    UNDERLAY_MTU - if node.underlay().is_ipv6() { 70 } else { 50 }
}

pub(super) fn node(
    topology: &Topology,
    cluster: &ClusterNet,
    node: &NodeNet,
    df: OuterDf,
    services: Services,
) -> Script {
    let mut script = Script::new(&node.netns);
    script.ip("link set lo up".into());
    script.ip(format!("link set eth0 mtu {UNDERLAY_MTU} up"));
    for net in &node.addresses {
        script.ip(address(net.addr(), net.prefix_len(), "eth0"));
    }
    for (net, gateway) in cluster.node_networks.iter().zip(&cluster.gateways) {
        if node.addresses.iter().any(|a| net.contains(&a.addr())) {
            script.routing(
                *gateway,
                format!("route replace default via {gateway} dev eth0"),
            );
        }
    }
    let mtu = overlay_mtu(node);
    let df = match df {
        OuterDf::Set => "set",
        OuterDf::Clear => "unset",
    };
    script.ip(format!(
        "link add vx0 address {} type vxlan id 1 dstport {VXLAN_PORT} local {} df {df} nolearning",
        node.vxlan_mac,
        node.underlay()
    ));
    script.ip(format!("link set vx0 addrgenmode none mtu {mtu} up"));
    for gateway in &node.pod_gateways {
        script.ip(address(*gateway, host_length(*gateway), "vx0"));
    }
    for pod in &node.pods {
        script.ip(format!(
            "link add {} type veth peer name eth0 netns {}",
            pod.port, pod.netns
        ));
        script.ip(format!(
            "link set {} addrgenmode none mtu {mtu} up",
            pod.port
        ));
        script.ip(format!(
            "address add {POD_ROUTER_V6}/64 dev {} nodad",
            pod.port
        ));
        for pod_address in &pod.addresses {
            let source = own_gateway(node, *pod_address);
            let length = host_length(*pod_address);
            script.routing(
                *pod_address,
                format!("route add {pod_address}/{length} dev {}{source}", pod.port),
            );
        }
    }
    for (_, peer) in topology.nodes().filter(|(_, n)| n.key != node.key) {
        script.fdb.push(format!(
            "fdb add {} dev vx0 dst {}",
            peer.vxlan_mac,
            peer.underlay()
        ));
        for (net, gateway) in peer.pod_networks.iter().zip(&peer.pod_gateways) {
            let source = own_gateway(node, *gateway);
            if source.is_empty() {
                continue; // This node has no address of that family.
            }
            script.routing(
                *gateway,
                format!(
                    "neigh add {gateway} lladdr {} dev vx0 nud permanent",
                    peer.vxlan_mac
                ),
            );
            script.routing(
                *gateway,
                format!("route add {net} via {gateway} dev vx0{source} onlink"),
            );
        }
    }
    script.nft = services::rules(topology, &cluster.name, node, services, &[]);
    script
}

/// ` src …`: as what address the node speaks to pods of `peer`'s family.
fn own_gateway(node: &NodeNet, peer: IpAddr) -> String {
    let own = node
        .pod_gateways
        .iter()
        .find(|g| g.is_ipv6() == peer.is_ipv6());
    own.map(|g| format!(" src {g}")).unwrap_or_default()
}

pub(super) fn pod(node: &NodeNet, pod: &Pod) -> Script {
    let mut script = Script::new(&pod.netns);
    script.ip("link set lo up".into());
    script.ip(format!("link set eth0 mtu {} up", overlay_mtu(node)));
    for pod_address in &pod.addresses {
        script.ip(address(*pod_address, host_length(*pod_address), "eth0"));
        if pod_address.is_ipv6() {
            script
                .ip6
                .push(format!("route add default via {POD_ROUTER_V6} dev eth0"));
            continue;
        }
        for gateway in node.pod_gateways.iter().filter(|g| g.is_ipv4()) {
            script.ip(format!("route add {gateway}/32 dev eth0 scope link"));
            script.ip(format!("route add default via {gateway} dev eth0"));
        }
    }
    script
}

pub(super) fn host(client: &ClientNet, host: &ClientHost) -> Script {
    let mut script = Script::new(&host.netns);
    script.ip("link set lo up".into());
    script.ip(format!("link set eth0 mtu {UNDERLAY_MTU} up"));
    for net in &host.addresses {
        script.ip(address(net.addr(), net.prefix_len(), "eth0"));
    }
    for gateway in &client.gateways {
        script.routing(
            *gateway,
            format!("route add default via {gateway} dev eth0"),
        );
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{PodRole, default_mesh, plan};

    #[test]
    fn what_vxlan_adds_comes_off_the_mtu_of_pods() {
        let mut mesh = default_mesh(2, 2).unwrap();
        for (v6_only, expected) in [(false, "mtu 1450"), (true, "mtu 1430")] {
            if v6_only {
                for cluster in &mut mesh.clusters {
                    cluster.node_networks.retain(|n| n.addr().is_ipv6());
                }
            }
            let lab = plan("t", &mesh).unwrap();
            let (cluster, own) = lab.nodes().next().unwrap();
            let in_pod = pod(own, own.pod(PodRole::Agent).unwrap());
            let on_node = node(&lab, cluster, own, OuterDf::Set, Services::Dnat);
            for (script, device) in [(in_pod, "set eth0"), (on_node, "set vx0")] {
                let line = script.ip.iter().find(|line| line.contains(device)).unwrap();
                assert!(line.contains(expected), "{line}");
            }
        }
    }
}
