//! The organisation in small: the mesh that a lab builds when none is given.

use std::net::IpAddr;

use ipnet::IpNet;
use mesh::{Cluster, ExternalClient, Link, Mesh, Node, Objectives, Service, ServiceKind};

struct Site {
    name: &'static str,
    /// Third part of the node network's address, as the fabric numbers it.
    network: u8,
    pods: u8,
    services: u8,
    control_plane: &'static str,
    worker: &'static str,
    two_digits: bool,
}

const SITES: [Site; 3] = [
    Site {
        name: "talos-east",
        network: 15,
        pods: 244,
        services: 96,
        control_plane: "cp-e",
        worker: "wrk-e",
        two_digits: false,
    },
    Site {
        name: "talos-west",
        network: 20,
        pods: 245,
        services: 112,
        control_plane: "cp-w",
        worker: "wrk-w",
        two_digits: false,
    },
    Site {
        name: "picluster",
        network: 10,
        pods: 246,
        services: 128,
        control_plane: "pi-master",
        worker: "pi-worker",
        two_digits: true,
    },
];

/// Client and cluster: the drones fly at the edge, beyond the Raspberry Pis.
pub const DEFAULT_BEHIND: (&str, &str) = ("drones", "picluster");

/// The first `clusters` (1–3) of the organisation's clusters with `nodes` nodes in all, spread
/// evenly, and the drones. Addresses of nodes are left for [`fn@super::plan`] to choose.
///
/// # Errors
/// What is wrong with the numbers.
pub fn default_mesh(clusters: usize, nodes: usize) -> Result<Mesh, String> {
    if !(1..=SITES.len()).contains(&clusters) {
        return Err(format!(
            "the default mesh has 1 to {} clusters, not {clusters}",
            SITES.len()
        ));
    }
    if nodes < clusters || nodes > 60 {
        return Err(format!(
            "{clusters} clusters need {clusters} to 60 nodes, not {nodes}"
        ));
    }
    let clusters: Vec<_> = SITES[..clusters]
        .iter()
        .enumerate()
        .map(|(i, site)| {
            cluster(
                site,
                i,
                nodes / clusters + usize::from(i < nodes % clusters),
            )
        })
        .collect();
    let links = all_links(&clusters);
    Ok(Mesh {
        name: "aggrik8s-net".into(),
        clients: vec![ExternalClient {
            name: "drones".into(),
            prefixes: vec![v4(192, 168, 50, 0, 24), v6(&format!("{ULA}:0:50::/64"))],
        }],
        services: vec![Service {
            name: "ndvi".into(),
            cluster: clusters[0].name.clone(),
            backends: vec![clusters[0].name.clone()],
            affinity: mesh::Affinity::None,
            addresses: Vec::new(),
            port: 8080,
            kind: ServiceKind::Ndvi,
            names: ["svc.cluster.local", "svc.clusterset.local"]
                .map(|domain| mesh::ServiceName {
                    name: format!("ndvi.default.{domain}"),
                    addresses: Vec::new(),
                    clusters: Vec::new(),
                })
                .into(),
        }],
        clusters,
        links,
        // Declared, since the default follows the path it measures and would not notice a longer one.
        objectives: Objectives {
            latency_p99_seconds: Some(0.045),
            ..Objectives::default()
        },
        rules: mesh::Rules::default(),
        tls: None,
    })
}

const ULA: &str = "fd41:6b38";

fn cluster(site: &Site, index: usize, nodes: usize) -> Cluster {
    let name = |number: usize| {
        let (role, number) = if number == 0 {
            (site.control_plane, 1)
        } else {
            (site.worker, number)
        };
        if site.two_digits {
            format!("{role}-{number:02}")
        } else {
            format!("{role}-{number}")
        }
    };
    Cluster {
        name: site.name.into(),
        id: u16::try_from(index + 1).unwrap_or(u16::MAX),
        node_networks: vec![
            v4(192, 168, site.network, 0, 24),
            v6(&format!("{ULA}:0:{}::/64", site.network)),
        ],
        pod_cidrs: vec![
            v4(10, site.pods, 0, 0, 16),
            v6(&format!("{ULA}:{}::/48", site.pods)),
        ],
        service_cidrs: vec![
            v4(10, site.services, 0, 0, 12),
            v6(&format!("{ULA}:0:f{}::/112", site.services)),
        ],
        dns_server: None,
        nodes: (0..nodes)
            .map(|n| Node {
                name: name(n),
                addresses: Vec::new(),
                agent_pod: Vec::new(),
                agent: None,
                agent_node_plane: None,
            })
            .collect(),
        context: None,
    }
}

fn all_links(clusters: &[Cluster]) -> Vec<Link> {
    let names: Vec<_> = clusters.iter().map(|c| &c.name).collect();
    let link = |source: &String, target: &String| Link {
        source: source.clone(),
        target: target.clone(),
    };
    if let [only] = names[..] {
        return vec![link(only, only)];
    }
    names
        .iter()
        .flat_map(|s| {
            names
                .iter()
                .filter(move |t| t != &s)
                .map(move |t| link(s, t))
        })
        .collect()
}

fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> IpNet {
    IpNet::new_assert(IpAddr::from([a, b, c, d]), length)
}

fn v6(text: &str) -> IpNet {
    text.parse().expect("a constant prefix of this file")
}
