//! From a mesh to the addresses and names of its lab.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use mesh::{Cluster, ExternalClient, Mesh, Node, Service};

use super::addresses::{host, part, v4_first};
use super::{
    Backend, ClientHost, ClientNet, ClusterNet, Fabric, NameNet, NodeNet, Pod, PodRole, ServiceNet,
    Topology, netns_prefix,
};

const DEFAULT_NODES: usize = 2;
const CLIENT_HOSTS: usize = 2;
/// As the fabric's DHCP pools do, nodes begin here in their network.
const FIRST_NODE: u128 = 20;
/// Pods of a node begin here; 1 is the node itself.
const FIRST_POD: u128 = 10;
/// Virtual addresses begin here in the service prefix.
const FIRST_VIRTUAL: u128 = 80;
const FIRST_NODE_PORT: u16 = 30_080;

/// Plans lab `lab` of `mesh`. Clusters that list no node get two.
///
/// # Errors
/// What in this mesh cannot be built on one machine, and why.
pub fn plan(lab: &str, mesh: &Mesh) -> Result<Topology, String> {
    let mut clusters = Vec::new();
    for (index, cluster) in mesh.clusters.iter().enumerate() {
        clusters.push(plan_cluster(lab, mesh, index, cluster)?);
    }
    let mut clients = Vec::new();
    for (index, client) in mesh.clients.iter().enumerate() {
        clients.push(plan_clients(lab, index, client)?);
    }
    let mut topology = Topology {
        lab: lab.into(),
        mesh: mesh.name.clone(),
        fabric: Fabric {
            netns: format!("{}fabric", netns_prefix(lab)),
        },
        clusters,
        clients,
        services: Vec::new(),
    };
    for service in &mesh.services {
        plan_service(&mut topology, service)?;
    }
    check(&topology)?;
    Ok(topology)
}

fn plan_cluster(
    lab: &str,
    mesh: &Mesh,
    index: usize,
    cluster: &Cluster,
) -> Result<ClusterNet, String> {
    let name = &cluster.name;
    if cluster.node_networks.is_empty() {
        return Err(format!("cluster `{name}` has no node network"));
    }
    let generated: Vec<Node>;
    let nodes = if cluster.nodes.is_empty() {
        generated = (1..=DEFAULT_NODES)
            .map(|n| bare_node(format!("{name}-{n}")))
            .collect();
        &generated
    } else {
        &cluster.nodes
    };
    let mut taken: BTreeSet<IpAddr> = nodes.iter().flat_map(|n| n.addresses.clone()).collect();
    let mut gateways = Vec::new();
    for &net in &cluster.node_networks {
        // The fabric's routers hold .2 and up in every network of the organisation.
        let gateway = (2..6)
            .chain([1])
            .filter_map(|i| host(net, i))
            .find(|a| !taken.contains(a));
        let gateway = gateway
            .ok_or_else(|| format!("node network `{net}` has no room for the fabric's gateway"))?;
        taken.insert(gateway);
        gateways.push(gateway);
    }
    let mut planned = Vec::new();
    for (position, node) in nodes.iter().enumerate() {
        let shared = mesh
            .clusters
            .iter()
            .any(|c| c.name != *name && c.nodes.iter().any(|n| n.name == node.name));
        let key = if shared {
            format!("{name}.{}", node.name)
        } else {
            node.name.clone()
        };
        planned.push(NodeNet {
            name: node.name.clone(),
            netns: format!("{}{key}", netns_prefix(lab)),
            port: format!("n{}-{position}", index + 1),
            addresses: node_addresses(cluster, node, position, &mut taken)?,
            pod_networks: pod_networks(cluster, position, nodes.len())?,
            pod_gateways: Vec::new(),
            vxlan_mac: format!(
                "0a:58:{:02x}:{:02x}:{:02x}:01",
                index + 1,
                position >> 8,
                position & 0xff
            ),
            pods: Vec::new(),
            key,
        });
    }
    for node in &mut planned {
        node.pod_gateways = node
            .pod_networks
            .iter()
            .filter_map(|&n| host(n, 1))
            .collect();
        add_pod(lab, node, PodRole::Agent, "agent")?;
        add_pod(lab, node, PodRole::Client, "client")?;
    }
    let first = planned
        .first_mut()
        .ok_or_else(|| format!("cluster `{name}` has no node"))?;
    add_pod(lab, first, PodRole::Dns, "dns")?;
    Ok(ClusterNet {
        name: name.clone(),
        id: cluster.id,
        bridge: format!("br{}", index + 1),
        node_networks: cluster.node_networks.clone(),
        gateways,
        pod_cidrs: cluster.pod_cidrs.clone(),
        service_cidrs: cluster.service_cidrs.clone(),
        dns_pod: planned[0]
            .pod(PodRole::Dns)
            .map(|p| p.name.clone())
            .unwrap_or_default(),
        nodes: planned,
    })
}

fn bare_node(name: String) -> Node {
    Node {
        name,
        addresses: Vec::new(),
        agent_pod: Vec::new(),
        agent: None,
        agent_node_plane: None,
    }
}

/// One address of the node in every node network: the declared one, else the next free one.
fn node_addresses(
    cluster: &Cluster,
    node: &Node,
    position: usize,
    taken: &mut BTreeSet<IpAddr>,
) -> Result<Vec<IpNet>, String> {
    let declared = |net: &IpNet| node.addresses.iter().copied().find(|a| net.contains(a));
    if let Some(stray) = node
        .addresses
        .iter()
        .find(|a| !cluster.node_networks.iter().any(|n| n.contains(*a)))
    {
        return Err(format!(
            "address `{stray}` of node `{}` is in no node network of `{}`",
            node.name, cluster.name
        ));
    }
    let mut addresses = Vec::new();
    for &net in &cluster.node_networks {
        // With declared addresses, networks that the node is not in are left alone.
        if !node.addresses.is_empty() && declared(&net).is_none() {
            continue;
        }
        let first = FIRST_NODE + position as u128;
        let address = declared(&net)
            .or_else(|| {
                (first..first + 200)
                    .chain(3..FIRST_NODE)
                    .filter_map(|i| host(net, i))
                    .find(|a| !taken.contains(a))
            })
            .ok_or_else(|| format!("node network `{net}` is full at node `{}`", node.name))?;
        taken.insert(address);
        addresses.push(IpNet::new(address, net.prefix_len()).map_err(|e| e.to_string())?);
    }
    v4_first(&mut addresses, IpNet::addr);
    Ok(addresses)
}

fn pod_networks(cluster: &Cluster, position: usize, nodes: usize) -> Result<Vec<IpNet>, String> {
    let mut networks = Vec::new();
    for v6 in [false, true] {
        let Some(&cidr) = cluster.pod_cidrs.iter().find(|c| c.addr().is_ipv6() == v6) else {
            continue;
        };
        networks.push(part(cidr, position, nodes).ok_or_else(|| {
            format!(
                "pod CIDR `{cidr}` of `{}` is too small for {nodes} nodes of 14 pods",
                cluster.name
            )
        })?);
    }
    if networks.is_empty() {
        return Err(format!("cluster `{}` has no pod CIDR", cluster.name));
    }
    Ok(networks)
}

fn add_pod(lab: &str, node: &mut NodeNet, role: PodRole, prefix: &str) -> Result<String, String> {
    let name = format!("{prefix}-{}", node.key);
    let index = FIRST_POD + node.pods.len() as u128;
    let index_small = 2 + node.pods.len() as u128;
    let addresses: Option<Vec<_>> = node
        .pod_networks
        .iter()
        .map(|&net| host(net, index).or_else(|| host(net, index_small)))
        .collect();
    let addresses = addresses.ok_or_else(|| format!("no address left for pod `{name}`"))?;
    node.pods.push(Pod {
        netns: format!("{}{name}", netns_prefix(lab)),
        port: format!("pod{}", node.pods.len()),
        name: name.clone(),
        role,
        addresses,
    });
    Ok(name)
}

fn plan_clients(lab: &str, index: usize, client: &ExternalClient) -> Result<ClientNet, String> {
    let name = &client.name;
    // A namespace has one network of each family; further prefixes of a client stay unused.
    let prefixes: Vec<IpNet> = [false, true]
        .into_iter()
        .filter_map(|v6| {
            client
                .prefixes
                .iter()
                .copied()
                .find(|p| p.addr().is_ipv6() == v6)
        })
        .collect();
    let no_room = |net: &IpNet| {
        format!(
            "prefix `{net}` of external client `{name}` has no room for a gateway and {CLIENT_HOSTS} hosts"
        )
    };
    let gateways: Option<Vec<_>> = prefixes.iter().map(|&net| host(net, 1)).collect();
    let gateways = gateways
        .ok_or_else(|| format!("a prefix of external client `{name}` has no room for a gateway"))?;
    let singular = name.strip_suffix('s').unwrap_or(name);
    let mut hosts = Vec::new();
    for number in 0..CLIENT_HOSTS {
        let mut addresses = Vec::new();
        for net in &prefixes {
            let address = [FIRST_NODE, 2]
                .into_iter()
                .find_map(|first| host(*net, first + number as u128));
            let address = address.ok_or_else(|| no_room(net))?;
            addresses.push(IpNet::new(address, net.prefix_len()).map_err(|e| e.to_string())?);
        }
        let host_name = format!("{singular}-{}", number + 1);
        hosts.push(ClientHost {
            netns: format!("{}{host_name}", netns_prefix(lab)),
            port: format!("c{}-{number}", index + 1),
            name: host_name,
            addresses,
        });
    }
    Ok(ClientNet {
        name: name.clone(),
        bridge: format!("bc{}", index + 1),
        prefixes,
        gateways,
        hosts,
        uplink: None,
    })
}

fn plan_service(topology: &mut Topology, service: &Service) -> Result<(), String> {
    let index = topology.services.len();
    let lab = topology.lab.clone();
    let cluster = topology
        .clusters
        .iter_mut()
        .find(|c| c.name == service.cluster)
        .ok_or_else(|| {
            format!(
                "service `{}` is in cluster `{}`, which does not exist",
                service.name, service.cluster
            )
        })?;
    let mut addresses = service.addresses.clone();
    if addresses.is_empty() {
        let virtual_index = FIRST_VIRTUAL + index as u128;
        let cidrs = [false, true].into_iter().filter_map(|v6| {
            cluster
                .service_cidrs
                .iter()
                .find(|c| c.addr().is_ipv6() == v6)
        });
        addresses = cidrs.filter_map(|&net| host(net, virtual_index)).collect();
    }
    v4_first(&mut addresses, |a| *a);
    // What every cluster's pods speak decides which addresses are of use.
    let pod_v6: Vec<bool> = cluster
        .nodes
        .last()
        .ok_or_else(|| format!("cluster `{}` has no node", cluster.name))?
        .pod_networks
        .iter()
        .map(|n| n.addr().is_ipv6())
        .collect();
    addresses.retain(|a| pod_v6.contains(&a.is_ipv6()));
    if addresses.is_empty() {
        return Err(format!(
            "service `{}` has no address, and its cluster no service CIDR to take one from",
            service.name
        ));
    }
    let abroad = service.backends.iter().filter(|c| **c != service.cluster);
    let mut backends = Vec::new();
    for name in std::iter::once(&service.cluster).chain(abroad) {
        backends.push(backend(topology, &lab, name, &service.name)?);
    }
    let names = service.names.iter().map(|name| NameNet {
        name: name.name.clone(),
        addresses: if name.addresses.is_empty() {
            addresses.clone()
        } else {
            name.addresses.clone()
        },
        clusters: name.clusters.clone(),
    });
    let names = names.collect();
    topology.services.push(ServiceNet {
        name: service.name.clone(),
        cluster: service.cluster.clone(),
        kind: service.kind.into(),
        addresses,
        port: service.port,
        node_port: FIRST_NODE_PORT + u16::try_from(index).unwrap_or(0),
        backends,
        affinity: service.affinity.into(),
        names,
    });
    Ok(())
}

/// A pod for the service on the cluster's last node.
fn backend(
    topology: &mut Topology,
    lab: &str,
    cluster: &str,
    service: &str,
) -> Result<Backend, String> {
    let node = topology
        .clusters
        .iter_mut()
        .find(|c| c.name == cluster)
        .and_then(|c| c.nodes.last_mut())
        .ok_or_else(|| {
            format!("service `{service}` has backends in `{cluster}`, which has no node")
        })?;
    Ok(Backend {
        cluster: cluster.to_owned(),
        pod: add_pod(lab, node, PodRole::Backend, service)?,
        node: node.key.clone(),
    })
}

/// What single parts cannot see: the whole must route.
pub(super) fn check(topology: &Topology) -> Result<(), String> {
    let families: BTreeSet<bool> = topology
        .nodes()
        .map(|(_, n)| n.underlay().is_ipv6())
        .collect();
    if families.len() > 1 {
        return Err(
            "some nodes have an IPv4 address and some have none: VXLAN needs one family for all"
                .into(),
        );
    }
    let mut networks: Vec<(&str, IpNet)> = Vec::new();
    networks.extend(
        topology
            .clusters
            .iter()
            .flat_map(|c| c.node_networks.iter().map(move |&n| (c.name.as_str(), n))),
    );
    networks.extend(
        topology
            .clients
            .iter()
            .flat_map(|c| c.prefixes.iter().map(move |&n| (c.name.as_str(), n))),
    );
    for (i, (name, net)) in networks.iter().enumerate() {
        for (other, other_net) in &networks[i + 1..] {
            if net.contains(other_net) || other_net.contains(net) {
                return Err(format!(
                    "networks `{net}` of `{name}` and `{other_net}` of `{other}` overlap: nothing could route between them"
                ));
            }
        }
    }
    let mut seen = BTreeSet::new();
    for name in topology.netns_names() {
        if !seen.insert(name) {
            return Err(format!("two parts of the lab would be called `{name}`"));
        }
    }
    // The path of an agent's socket, which has at most 107 bytes, contains the name.
    if let Some((_, node)) = topology.nodes().find(|(_, n)| n.key.len() > 48) {
        return Err(format!(
            "node name `{}` is longer than 48 characters",
            node.key
        ));
    }
    Ok(())
}
