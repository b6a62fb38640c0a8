//! A mesh and what API servers say of it: nodes and agents are filled in, declared values win, contradictions are named.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mesh::discovered::{CiliumName, Discovered, Effective, FoundAgent, FoundNode, Why};
use mesh::observation::Plane;
use mesh::{AgentEndpoint, Mesh};

const MESH: &str = "
mesh: test
clusters:
  - name: east
    id: 1
    node_networks: [192.168.15.0/24]
    pod_cidrs: [10.244.0.0/16]
  - name: west
    id: 2
    node_networks: [192.168.20.0/24]
    pod_cidrs: [10.245.0.0/16]
    service_cidrs: [10.112.0.0/12]
    nodes:
      - {name: w-1, addresses: [192.168.20.21], agent_pod: [10.245.0.5], agent: \"unix:/run/w-1.sock\"}
      - {name: w-2, addresses: [192.168.20.22]}
clients:
  - {name: drones, prefixes: [10.97.0.0/16]}
";

fn mesh() -> Mesh {
    Mesh::parse("mesh.yaml", MESH).unwrap_or_else(|errors| panic!("{}", errors.render(MESH)))
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn node(name: &str, address: &str) -> FoundNode {
    FoundNode {
        name: name.to_owned(),
        addresses: vec![ip(address)],
        ready: true,
        unschedulable: false,
    }
}

fn agent(node: &str, address: &str) -> FoundAgent {
    FoundAgent {
        node: node.to_owned(),
        plane: Plane::Pod,
        namespace: "aggrik8s".to_owned(),
        pod: format!("aggrik8s-{node}"),
        addresses: vec![ip(address)],
        ready: true,
        image: "aggrik8s:1".to_owned(),
        port: 7410,
        tls: false,
    }
}

fn nothing() -> Discovered {
    Discovered {
        cilium: Ok(CiliumName::default()),
        nodes: Ok(Vec::new()),
        agents: Ok(Vec::new()),
        pod_cidrs: Ok(Vec::new()),
        service_cidrs: Ok(Vec::new()),
        mesh_yaml: Ok(None),
    }
}

fn east() -> Discovered {
    Discovered {
        nodes: Ok(vec![
            node("e-2", "192.168.15.12"),
            node("e-1", "192.168.15.11"),
        ]),
        agents: Ok(vec![agent("e-1", "10.244.1.7")]),
        ..nothing()
    }
}

fn merged(cluster: &str, found: Discovered) -> Effective {
    mesh().with_discovered(&BTreeMap::from([(cluster.to_owned(), found)]))
}

fn conflicts(effective: &Effective) -> Vec<String> {
    effective
        .conflicts
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn nodes_and_agents_come_from_the_api_server_where_none_are_declared() {
    let effective = merged("east", east());
    assert_eq!(conflicts(&effective), [""; 0]);
    assert_eq!((&effective.left_out, &effective.unread), (&vec![], &vec![]));
    let [first, second] = &effective.mesh.clusters[0].nodes[..] else {
        panic!("{effective:#?}");
    };
    assert_eq!((&*first.name, &*second.name), ("e-1", "e-2"));
    assert_eq!(first.addresses, [ip("192.168.15.11")]);
    assert_eq!(first.agent_pod, [ip("10.244.1.7")]);
    assert_eq!(
        first.agent,
        Some(AgentEndpoint::Pod {
            namespace: "aggrik8s".to_owned(),
            pod: "aggrik8s-e-1".to_owned(),
            port: 7410,
            tls: false,
        })
    );
    // Its agent is missing, and it stays in scope.
    assert_eq!((&second.agent, &second.agent_pod[..]), (&None, &[][..]));
    // Nobody asked about the other cluster.
    assert_eq!(effective.mesh.clusters[1], mesh().clusters[1]);
}

#[test]
fn the_agents_of_both_planes_are_told_apart() {
    let mut found = east();
    let mut other = agent("e-1", "192.168.15.11");
    (other.plane, other.port, other.tls) = (Plane::Node, 7414, true);
    found.agents = Ok(vec![other, agent("e-1", "10.244.1.7")]);
    let effective = merged("east", found);
    let node = &effective.mesh.clusters[0].nodes[0];
    assert_eq!(node.agent_pod, [ip("10.244.1.7")]);
    let port = |endpoint: &Option<AgentEndpoint>| match endpoint {
        Some(AgentEndpoint::Pod { port, tls, .. }) => Some((*port, *tls)),
        _ => None,
    };
    assert_eq!(port(&node.agent), Some((7410, false)));
    assert_eq!(port(&node.agent_node_plane), Some((7414, true)));
}

#[test]
fn of_two_pods_on_a_node_the_one_that_is_ready_counts() {
    let mut found = east();
    let mut old = agent("e-1", "10.244.1.6");
    (old.pod, old.ready) = ("a-old".to_owned(), false);
    let mut starting = agent("e-1", "10.244.1.8");
    (starting.pod, starting.addresses) = ("b-new".to_owned(), Vec::new());
    found.agents = Ok(vec![old, agent("e-1", "10.244.1.7"), starting]);
    let node = merged("east", found).mesh.clusters[0].nodes[0].clone();
    assert_eq!(node.agent_pod, [ip("10.244.1.7")]);
}

#[test]
fn cordoned_nodes_and_those_that_are_not_ready_leave_the_scope_visibly() {
    let mut found = east();
    let mut nodes = vec![
        node("e-1", "192.168.15.11"),
        node("e-2", "192.168.15.12"),
        node("e-3", "192.168.15.13"),
    ];
    nodes[1].unschedulable = true;
    nodes[2].ready = false;
    found.nodes = Ok(nodes);
    let effective = merged("east", found);
    let names = |effective: &Effective| -> Vec<String> {
        let nodes = effective.mesh.clusters[0].nodes.iter();
        nodes.map(|node| node.name.clone()).collect()
    };
    assert_eq!(names(&effective), ["e-1"]);
    let left_out: Vec<_> = effective
        .left_out
        .iter()
        .map(|l| (&*l.node.node, l.why))
        .collect();
    assert_eq!(left_out, [("e-2", Why::Cordoned), ("e-3", Why::NotReady)]);

    // Declared or not.
    let mut down = node("w-2", "192.168.20.22");
    down.ready = false;
    let found = Discovered {
        nodes: Ok(vec![node("w-1", "192.168.20.21"), down]),
        ..nothing()
    };
    let effective = merged("west", found);
    assert_eq!(effective.mesh.clusters[1].nodes.len(), 1);
    assert_eq!(effective.left_out.len(), 1);
    assert_eq!(conflicts(&effective), [""; 0]);
}

#[test]
fn what_is_declared_wins_and_what_contradicts_it_is_named() {
    let found = Discovered {
        cilium: Ok(CiliumName {
            name: Some("pi".to_owned()),
            id: Some(7),
        }),
        nodes: Ok(vec![
            node("w-1", "192.168.20.99"),
            node("w-3", "192.168.20.23"),
        ]),
        agents: Ok(vec![agent("w-1", "10.245.9.9"), agent("w-2", "10.245.2.2")]),
        pod_cidrs: Ok(vec![
            "10.245.3.0/24".parse().unwrap(),
            "10.1.0.0/24".parse().unwrap(),
        ]),
        service_cidrs: Ok(vec!["10.96.0.0/12".parse().unwrap()]),
        ..nothing()
    };
    let effective = merged("west", found);
    assert_eq!(
        conflicts(&effective),
        [
            "cluster name of `west`: mesh.yaml says west, the API server pi",
            "cluster id of `west`: mesh.yaml says 2, the API server 7",
            "pod CIDR of `west`: mesh.yaml says 10.245.0.0/16, the API server 10.1.0.0/24",
            "service CIDR of `west`: mesh.yaml says 10.112.0.0/12, the API server 10.96.0.0/12",
            "the nodes of `west`: mesh.yaml says w-2, the API server w-3",
            "the node's address of `west/w-1`: mesh.yaml says 192.168.20.21, the API server 192.168.20.99",
            "the agent's pod of `west/w-1`: mesh.yaml says 10.245.0.5, the API server 10.245.9.9",
        ]
    );
    let mut wanted = mesh();
    // Nothing was declared of this agent.
    let second = &mut wanted.clusters[1].nodes[1];
    second.agent_pod = vec![ip("10.245.2.2")];
    second.agent = Some(AgentEndpoint::Pod {
        namespace: "aggrik8s".to_owned(),
        pod: "aggrik8s-w-2".to_owned(),
        port: 7410,
        tls: false,
    });
    assert_eq!(effective.mesh, wanted);
}

#[test]
fn addresses_outside_of_the_declared_prefixes_are_not_used() {
    let found = Discovered {
        nodes: Ok(vec![node("e-1", "172.16.0.1")]),
        agents: Ok(vec![agent("e-1", "10.200.0.1")]),
        ..nothing()
    };
    let effective = merged("east", found);
    assert_eq!(
        conflicts(&effective),
        [
            "the node's address of `east/e-1`: mesh.yaml says 192.168.15.0/24, the API server 172.16.0.1",
            "the agent's pod of `east/e-1`: mesh.yaml says 10.244.0.0/16, the API server 10.200.0.1",
        ]
    );
    let node = &effective.mesh.clusters[0].nodes[0];
    assert_eq!((node.addresses.len(), node.agent_pod.len()), (0, 0));

    // A node may have more addresses than the mesh knows networks.
    let mut found = east();
    let mut two = self::node("e-1", "192.168.15.11");
    two.addresses.insert(0, ip("172.16.0.1"));
    found.nodes = Ok(vec![two]);
    let effective = merged("east", found);
    assert_eq!(conflicts(&effective), [""; 0]);
    let node = &effective.mesh.clusters[0].nodes[0];
    assert_eq!(node.addresses, [ip("192.168.15.11")]);
}

#[test]
fn service_cidrs_are_filled_in_unless_they_mean_something_already() {
    let with = |net: &str| Discovered {
        service_cidrs: Ok(vec![net.parse().unwrap()]),
        ..east()
    };
    let effective = merged("east", with("10.112.0.0/12"));
    assert_eq!(conflicts(&effective), [""; 0], "clusters may share them");
    let filled = &effective.mesh.clusters[0].service_cidrs;
    assert_eq!(filled, &["10.112.0.0/12".parse().unwrap()]);

    for (net, said) in [
        (
            "10.244.128.0/20",
            "service CIDR of `east`: mesh.yaml says that 10.244.0.0/16 is of `east`, the API server 10.244.128.0/20",
        ),
        (
            "10.96.0.0/12",
            "service CIDR of `east`: mesh.yaml says that 10.97.0.0/16 is of `drones`, the API server 10.96.0.0/12",
        ),
    ] {
        let effective = merged("east", with(net));
        assert_eq!(conflicts(&effective), [said]);
        assert_eq!(effective.mesh.clusters[0].service_cidrs, []);
    }
}

#[test]
fn what_could_not_be_read_is_said_and_nothing_is_made_up() {
    let no = |what: &str| Err(format!("not allowed to list {what}"));
    let found = Discovered {
        cilium: Err("no config".to_owned()),
        nodes: Err("not allowed to list nodes".to_owned()),
        agents: Err("not allowed to list pods".to_owned()),
        pod_cidrs: no("ciliumnodes").map(|()| Vec::new()),
        service_cidrs: no("servicecidrs").map(|()| Vec::new()),
        mesh_yaml: Ok(None),
    };
    for cluster in ["east", "west"] {
        let effective = merged(cluster, found.clone());
        assert_eq!(effective.mesh, mesh());
        assert_eq!(conflicts(&effective), [""; 0]);
        let whys: Vec<&str> = effective.unread.iter().map(|(_, why)| &**why).collect();
        assert_eq!(
            whys,
            [
                "no config",
                "not allowed to list ciliumnodes",
                "not allowed to list servicecidrs",
                "not allowed to list pods",
                "not allowed to list nodes",
            ]
        );
    }
}

#[test]
fn a_mesh_may_leave_its_nodes_to_be_discovered_and_stays_so_when_written() {
    let mesh = mesh();
    assert_eq!(mesh.clusters[0].nodes, []);
    let text = mesh.to_yaml();
    let again = Mesh::parse("again", &text).unwrap_or_else(|e| panic!("{}", e.render(&text)));
    assert_eq!(again, mesh);
    let empty = MESH.replacen(
        "    pod_cidrs: [10.244.0.0/16]\n",
        "    pod_cidrs: [10.244.0.0/16]\n    nodes: []\n",
        1,
    );
    assert_eq!(
        Mesh::parse("empty", &empty).expect("an empty list is none"),
        mesh
    );
}
