//! Meshes as values: the example of the repository, writing and reading back, and whose an address is.

use std::net::IpAddr;

use ipnet::IpNet;
use mesh::{
    Affinity, AgentEndpoint, Cluster, ExternalClient, Link, Mesh, Node, Objectives, Remote,
    Service, ServiceKind, ServiceName, Tls,
};
use proptest::prelude::*;

const EXAMPLE: &str = include_str!("../../examples/aggrik8s-net.yaml");

fn example() -> Mesh {
    Mesh::parse("aggrik8s-net.yaml", EXAMPLE).unwrap_or_else(|e| panic!("{}", e.render(EXAMPLE)))
}

#[test]
fn the_example_is_the_organisation() {
    let mesh = example();
    assert_eq!(mesh.name, "aggrik8s-net");
    let clusters: Vec<_> = mesh
        .clusters
        .iter()
        .map(|c| {
            let nets = |nets: &[IpNet]| nets.iter().map(ToString::to_string).collect::<String>();
            (
                c.name.as_str(),
                c.id,
                nets(&c.node_networks),
                nets(&c.pod_cidrs),
                nets(&c.service_cidrs),
                c.nodes.len(),
            )
        })
        .collect();
    let row = |name, id, node: &str, pod: &str, service: &str, nodes| {
        (
            name,
            id,
            node.to_owned(),
            pod.to_owned(),
            service.to_owned(),
            nodes,
        )
    };
    assert_eq!(
        clusters,
        [
            row(
                "talos-east",
                1,
                "192.168.15.0/24",
                "10.244.0.0/16",
                "10.96.0.0/12",
                6
            ),
            row(
                "talos-west",
                2,
                "192.168.20.0/24",
                "10.245.0.0/16",
                "10.112.0.0/12",
                6
            ),
            row(
                "picluster",
                3,
                "192.168.10.0/24",
                "10.246.0.0/16",
                "10.128.0.0/12",
                5
            ),
        ]
    );
    let links: Vec<_> = mesh
        .links
        .iter()
        .map(|l| (l.source.as_str(), l.target.as_str()))
        .collect();
    assert_eq!(
        links,
        [
            ("talos-east", "talos-west"),
            ("talos-east", "picluster"),
            ("talos-west", "talos-east"),
            ("talos-west", "picluster"),
            ("picluster", "talos-east"),
            ("picluster", "talos-west"),
        ]
    );
    assert_eq!(mesh.objectives, Objectives::default());
    assert_eq!(mesh.services[0].kind, ServiceKind::Ndvi);
}

#[test]
fn one_cluster_is_linked_to_itself() {
    let mut mesh = example();
    mesh.clusters.truncate(1);
    let to_itself = Link {
        source: "talos-east".to_owned(),
        target: "talos-east".to_owned(),
    };
    for links in [
        "",
        "links: all\n",
        "links: [{source: talos-east, target: talos-east}]\n",
    ] {
        let yaml = mesh.to_yaml();
        let start = yaml.find("links:").unwrap();
        let end = yaml.find("clients:").unwrap().min(start);
        let yaml = format!("{}{links}", &yaml[..end]);
        let parsed = Mesh::parse("one", &yaml).unwrap_or_else(|e| panic!("{}", e.render(&yaml)));
        assert_eq!(parsed.links, std::slice::from_ref(&to_itself));
    }
}

#[test]
fn addresses_are_sorted_ipv4_first() {
    let yaml = EXAMPLE
        .replace("[192.168.15.0/24]", "[\"fd15::/64\", 192.168.15.0/24]")
        .replace("[192.168.15.21]", "[\"fd15::21\", 192.168.15.21]");
    let mesh = Mesh::parse("v6", &yaml).unwrap_or_else(|e| panic!("{}", e.render(&yaml)));
    let addresses = &mesh.cluster("talos-east").unwrap().nodes[0].addresses;
    assert_eq!(
        addresses
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        ["192.168.15.21", "fd15::21"]
    );
}

#[test]
fn classify_names_the_owner_or_admits_that_it_cannot() {
    let mut mesh = example();
    let cluster = |name: &str| Remote::Cluster(name.to_owned());
    let check = |mesh: &Mesh, address: &str, expected: Remote| {
        assert_eq!(
            mesh.classify(address.parse().unwrap()),
            expected,
            "{address}"
        );
    };
    check(&mesh, "192.168.15.21", cluster("talos-east"));
    check(&mesh, "10.245.3.4", cluster("talos-west"));
    check(&mesh, "::ffff:10.245.3.4", cluster("talos-west"));
    check(&mesh, "192.168.50.255", Remote::Client("drones".to_owned()));
    check(&mesh, "10.96.15.1", Remote::Vip);
    check(&mesh, "10.143.255.255", Remote::Vip);
    check(&mesh, "10.144.0.0", Remote::World);
    check(&mesh, "8.8.8.8", Remote::World);
    check(&mesh, "fd15::1", Remote::World);
    check(&mesh, "127.0.0.1", Remote::World);

    // What validation would refuse is still never guessed: the control plane of a live mesh may say it.
    mesh.clusters[1].pod_cidrs = vec!["10.244.64.0/18".parse().unwrap()];
    mesh.clusters[2].pod_cidrs = vec!["10.96.0.0/12".parse().unwrap()];
    mesh.clusters[2]
        .node_networks
        .push("192.168.10.128/25".parse().unwrap());
    check(&mesh, "10.244.63.255", cluster("talos-east"));
    check(&mesh, "10.244.64.0", Remote::Ambiguous);
    check(&mesh, "10.96.15.1", Remote::Ambiguous);
    check(&mesh, "192.168.10.200", cluster("picluster"));
    // Two clusters with the same service CIDR both mean "some service".
    mesh.clusters[1].service_cidrs = vec!["10.128.0.0/12".parse().unwrap()];
    check(&mesh, "10.128.0.1", Remote::Vip);
}

#[test]
fn labels_of_remotes() {
    let labels = [
        Remote::Cluster("c".to_owned()),
        Remote::Client("d".to_owned()),
        Remote::Vip,
        Remote::Ambiguous,
        Remote::World,
    ]
    .map(|remote| remote.label().to_owned());
    assert_eq!(labels, ["c", "d", "vip", "ambiguous", "world"]);
}

/// A mesh of up to four clusters with everything that can be written, valid by construction.
fn any_mesh() -> impl Strategy<Value = Mesh> {
    let label = "[a-z][a-z0-9-]{0,10}[a-z0-9]";
    let path = "[ -~]{1,20}";
    let cluster = (
        label,
        1..=4usize,
        any::<[bool; 5]>(),
        proptest::option::of("[ -~äß✓]{1,20}"),
    );
    let objectives = (
        (
            0.000_11..0.5f64,
            0.5..0.9998f64,
            0.5..0.9998f64,
            0.5..=1.0f64,
            0.8..0.999f64,
        ),
        proptest::option::of(0.0001..60.0f64),
        0.001..600.0f64,
        any::<bool>(),
    );
    (
        label,
        proptest::collection::vec(cluster, 1..=4),
        proptest::collection::vec(label, 0..3),
        proptest::collection::vec((label, 1u16..=7000, 0..3usize), 0..3),
        any::<u16>(),
        proptest::option::of(objectives),
        proptest::option::of((path, path, path)),
        any::<bool>(),
    )
        .prop_map(
            |(name, clusters, clients, services, some_links, objectives, tls, wide)| {
                let clusters: Vec<Cluster> = clusters
                    .into_iter()
                    .enumerate()
                    .map(
                        |(n, (name, nodes, [v6, agent, node_plane, https, vips], context))| {
                            let ip = |text: String| text.parse::<IpAddr>().unwrap();
                            let net = |text: String| text.parse::<IpNet>().unwrap();
                            let both = |v4: String, v6_text: String| {
                                let mut texts = vec![v4];
                                texts.extend(v6.then_some(v6_text));
                                texts
                            };
                            let endpoint = |plane: &str, node: usize| {
                                let text = if https && tls.is_some() {
                                    format!("https://{plane}{node}.c{n}.example:7400")
                                } else {
                                    format!("unix:/run/{n}/{plane} {node}.sock")
                                };
                                text.parse::<AgentEndpoint>().unwrap()
                            };
                            Cluster {
                                name: format!("{name}{n}"),
                                id: if wide { 500 + n as u16 } else { 1 + n as u16 },
                                node_networks: both(
                                    format!("192.168.{n}.0/24"),
                                    format!("fd{n}0::/64"),
                                )
                                .into_iter()
                                .map(net)
                                .collect(),
                                pod_cidrs: both(
                                    format!("10.{}.0.0/16", 200 + n),
                                    format!("fd{n}1::/64"),
                                )
                                .into_iter()
                                .map(net)
                                .collect(),
                                service_cidrs: if vips {
                                    vec![net("172.16.0.0/16".to_owned())]
                                } else {
                                    vec![]
                                },
                                dns_server: vips.then(|| "172.16.0.10".parse().unwrap()),
                                nodes: (0..nodes)
                                    .map(|node| Node {
                                        name: format!("node-{node}.{n}"),
                                        addresses: both(
                                            format!("192.168.{n}.{}", node + 1),
                                            format!("fd{n}0::{node}"),
                                        )
                                        .into_iter()
                                        .map(ip)
                                        .collect(),
                                        agent_pod: both(
                                            format!("10.{}.0.{}", 200 + n, node + 1),
                                            format!("fd{n}1::{node}"),
                                        )
                                        .into_iter()
                                        .map(ip)
                                        .collect(),
                                        agent: agent.then(|| endpoint("pod", node)),
                                        agent_node_plane: node_plane
                                            .then(|| endpoint("node", node)),
                                    })
                                    .collect(),
                                context,
                            }
                        },
                    )
                    .collect();
                let all: Vec<Link> = clusters
                    .iter()
                    .flat_map(|s| clusters.iter().map(move |t| (s, t)))
                    .filter(|(s, t)| s.name != t.name || clusters.len() == 1)
                    .map(|(s, t)| Link {
                        source: s.name.clone(),
                        target: t.name.clone(),
                    })
                    .collect();
                let mut links: Vec<Link> = all
                    .iter()
                    .enumerate()
                    .filter(|(n, _)| some_links >> n & 1 == 1)
                    .map(|(_, link)| link.clone())
                    .collect();
                if links.is_empty() {
                    links = all;
                }
                let objectives = objectives.map_or_else(
                    Objectives::default,
                    |((loss, connect, ndvi, coverage, confidence), p99, trip, by_link)| {
                        Objectives {
                            loss,
                            connect_success: connect,
                            latency_p99_seconds: p99,
                            latency_p99_by_link: if by_link {
                                links
                                    .iter()
                                    .map(|link| (link.clone(), trip / 10.0 + 0.0001))
                                    .collect()
                            } else {
                                vec![]
                            },
                            ndvi_round_trip_seconds: trip,
                            ndvi_success: ndvi,
                            mtu_bytes: p99.map(|_| 1_420),
                            throughput_bits_per_second: p99.map(|_| 2.5e7),
                            jitter_p99_seconds: p99.map(|_| 0.005),
                            coverage,
                            confidence,
                        }
                    },
                );
                Mesh {
                    name,
                    clients: clients
                        .into_iter()
                        .enumerate()
                        .map(|(n, name)| ExternalClient {
                            name: format!("x-{name}{n}"),
                            prefixes: vec![format!("100.64.{n}.0/24").parse().unwrap()],
                        })
                        .collect(),
                    services: services
                        .into_iter()
                        .enumerate()
                        .map(|(n, (name, port, kind))| Service {
                            name: format!("{name}{n}"),
                            cluster: clusters[0].name.clone(),
                            // The more clusters, the more services are global.
                            backends: clusters[..=n % clusters.len()]
                                .iter()
                                .map(|cluster| cluster.name.clone())
                                .collect(),
                            affinity: match n % clusters.len() {
                                0 => Affinity::None,
                                _ => [Affinity::None, Affinity::Local, Affinity::Remote][kind],
                            },
                            addresses: vec![format!("10.200.9.{n}").parse().unwrap()],
                            port,
                            kind: [ServiceKind::Tcp, ServiceKind::Http, ServiceKind::Ndvi][kind],
                            names: (0..kind)
                                .map(|at| ServiceName {
                                    name: format!("s{at}.default.svc.cluster.local"),
                                    addresses: vec![format!("10.9.9.{at}").parse().unwrap(); at],
                                    clusters: clusters[..at.min(clusters.len())]
                                        .iter()
                                        .map(|c| c.name.clone())
                                        .collect(),
                                })
                                .collect(),
                        })
                        .collect(),
                    links,
                    objectives,
                    rules: mesh::Rules::default(),
                    tls: tls.map(|(ca, cert, key)| Tls { ca, cert, key }),
                    clusters,
                }
            },
        )
}

/// YAML-like text: pieces of real files in any order.
fn any_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("mesh: m\n".to_owned()),
        Just("clusters:\n".to_owned()),
        Just("  - name: a\n".to_owned()),
        Just("    id: 1\n".to_owned()),
        Just("    pod_cidrs: [10.0.0.0/8, fd00::/8]\n".to_owned()),
        Just("    node_networks: [10.0.0.0/8]\n".to_owned()),
        Just("    nodes: [{name: n, addresses: [10.0.0.1], agent: 'unix:/a'}]\n".to_owned()),
        Just("links: [{source: a, target: a}]\n".to_owned()),
        Just(
            "objectives: {loss: 1%, links: [{source: a, target: b, latency_p99: 1s}]}\n".to_owned()
        ),
        Just(
            "services: [{name: s, cluster: a, addresses: [10.0.0.1], port: 1, kind: tcp}]\n"
                .to_owned()
        ),
        "[ -~\n]{0,12}",
        any::<String>(),
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn what_is_written_reads_back_equal(mesh in any_mesh()) {
        let yaml = mesh.to_yaml();
        match Mesh::parse("written", &yaml) {
            Ok(read) => prop_assert_eq!(read, mesh),
            Err(errors) => prop_assert!(false, "{}\n{}", errors.render(&yaml), yaml),
        }
    }

    #[test]
    fn arbitrary_text_never_panics(text in any_text(), name in any::<String>()) {
        if let Err(errors) = Mesh::parse(&name, &text) {
            prop_assert!(!errors.problems().is_empty());
            prop_assert!(errors.problems().windows(2).all(|w| w[0].at <= w[1].at));
            let rendered = errors.render(&text);
            prop_assert!(rendered.lines().count() > 2 * errors.problems().len());
        }
    }

    /// A kernel map filled with `prefixes` gives the answer of the definition: the meanings of all declared
    /// prefixes around an address, if they agree.
    #[test]
    fn prefixes_answer_as_the_declarations_say(
        owners in proptest::collection::vec((0..5usize, 0u8..4, 28u8..=32), 0..12),
        last in 0u8..64,
    ) {
        let mut mesh = example();
        for cluster in &mut mesh.clusters {
            (cluster.node_networks, cluster.pod_cidrs, cluster.service_cidrs) = Default::default();
        }
        mesh.clients[0].prefixes.clear();
        let mut declared = Vec::new();
        for (owner, block, length) in owners {
            let net = IpNet::new(IpAddr::from([10, 0, 0, block * 16]), length).unwrap().trunc();
            let (list, meaning) = match owner {
                0 => (&mut mesh.clusters[0].node_networks, Remote::Cluster("talos-east".to_owned())),
                1 => (&mut mesh.clusters[1].pod_cidrs, Remote::Cluster("talos-west".to_owned())),
                2 => (&mut mesh.clusters[0].pod_cidrs, Remote::Cluster("talos-east".to_owned())),
                3 => (&mut mesh.clusters[2].service_cidrs, Remote::Vip),
                _ => (&mut mesh.clients[0].prefixes, Remote::Client("drones".to_owned())),
            };
            list.push(net);
            declared.push((net, meaning));
        }
        let address = IpAddr::from([10, 0, 0, last]);
        let around: std::collections::BTreeSet<_> =
            declared.iter().filter(|(net, _)| net.contains(&address)).map(|(_, m)| m.clone()).collect();
        let expected = match around.len() {
            0 => Remote::World,
            1 => around.into_iter().next().unwrap(),
            _ => Remote::Ambiguous,
        };
        prop_assert_eq!(mesh.classify(address), expected);
        let prefixes = mesh.prefixes();
        prop_assert!(prefixes.windows(2).all(|w| w[0].0 < w[1].0), "{:?}", prefixes);
    }
}
