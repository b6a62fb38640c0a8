//! The plan of labs of several shapes.

use super::*;

fn topology(clusters: usize, nodes: usize) -> Topology {
    plan("t", &default_mesh(clusters, nodes).unwrap()).unwrap()
}

#[test]
fn the_default_lab_is_the_organisation_in_small() {
    let lab = topology(3, 6);
    let nodes: Vec<_> = lab
        .nodes()
        .map(|(c, n)| (c.name.as_str(), n.name.as_str(), n.underlay().to_string()))
        .collect();
    let expected = [
        ("talos-east", "cp-e-1", "192.168.15.20"),
        ("talos-east", "wrk-e-1", "192.168.15.21"),
        ("talos-west", "cp-w-1", "192.168.20.20"),
        ("talos-west", "wrk-w-1", "192.168.20.21"),
        ("picluster", "pi-master-01", "192.168.10.20"),
        ("picluster", "pi-worker-01", "192.168.10.21"),
    ];
    assert_eq!(nodes, expected.map(|(c, n, a)| (c, n, a.to_string())));
    assert_eq!(
        lab.pod("agent-wrk-w-1").unwrap().2.addresses[0].to_string(),
        "10.245.1.10"
    );
    let ndvi = &lab.services[0];
    assert_eq!(
        (
            ndvi.cluster.as_str(),
            ndvi.backends[0].pod.as_str(),
            ndvi.port
        ),
        ("talos-east", "ndvi-wrk-e-1", 8080)
    );
    assert_eq!(ndvi.addresses[0].to_string(), "10.96.0.80");
    assert_eq!(
        lab.hosts()
            .map(|(_, h)| h.name.as_str())
            .collect::<Vec<_>>(),
        ["drone-1", "drone-2"]
    );
}

#[test]
fn every_address_is_used_once_and_lies_in_its_network() {
    let lab = topology(3, 11);
    let mut seen = std::collections::BTreeSet::new();
    for (cluster, node) in lab.nodes() {
        for address in &node.addresses {
            assert!(
                cluster.node_networks.contains(&address.trunc()),
                "{address}"
            );
            assert!(seen.insert(address.addr()), "{address} twice");
        }
        for pod in &node.pods {
            for address in &pod.addresses {
                assert!(
                    cluster.pod_cidrs.iter().any(|c| c.contains(address)),
                    "{address}"
                );
                assert!(
                    node.pod_networks.iter().any(|n| n.contains(address)),
                    "{address}"
                );
                assert!(seen.insert(*address), "{address} twice");
            }
        }
        assert!(cluster.gateways.iter().all(|g| !seen.contains(g)));
    }
    assert_eq!(lab.nodes().count(), 11);
    assert!(lab.netns_names().iter().all(|n| n.starts_with("ak-t.")));
}

#[test]
fn interface_names_fit_the_kernel() {
    let lab = topology(3, 60);
    let ports = lab
        .nodes()
        .map(|(_, n)| &n.port)
        .chain(lab.pods().map(|(_, _, p)| &p.port));
    assert!(
        ports
            .chain(lab.hosts().map(|(_, h)| &h.port))
            .all(|p| p.len() <= 15)
    );
}

#[test]
fn equal_node_names_in_two_clusters_are_told_apart() {
    let mut mesh = default_mesh(2, 2).unwrap();
    mesh.clusters[0].nodes[0].name = "node-1".into();
    mesh.clusters[1].nodes[0].name = "node-1".into();
    let lab = plan("t", &mesh).unwrap();
    let keys: Vec<_> = lab.nodes().map(|(_, n)| n.key.as_str()).collect();
    assert_eq!(keys, ["talos-east.node-1", "talos-west.node-1"]);
    assert_eq!(
        lab.node("talos-west/node-1").unwrap().1.key,
        "talos-west.node-1"
    );
}

#[test]
fn what_cannot_be_built_is_said_with_its_name() {
    type Change = fn(&mut mesh::Mesh);
    let cases: [(Change, &str); 6] = [
        (
            |m| m.clusters[0].nodes[0].addresses = vec!["172.16.0.1".parse().unwrap()],
            "address `172.16.0.1` of node `cp-e-1`",
        ),
        (
            |m| m.clusters[1].node_networks = m.clusters[0].node_networks.clone(),
            "overlap",
        ),
        (
            |m| m.clusters[1].pod_cidrs = vec!["10.9.0.0/29".parse().unwrap()],
            "pod CIDR `10.9.0.0/29`",
        ),
        (
            |m| m.clients[0].prefixes = vec!["203.0.113.7/32".parse().unwrap()],
            "external client `drones`",
        ),
        (
            |m| m.services[0].cluster = "nowhere".into(),
            "cluster `nowhere`",
        ),
        (|m| m.clusters[0].node_networks.clear(), "no node network"),
    ];
    for (change, expected) in cases {
        let mut mesh = default_mesh(2, 2).unwrap();
        change(&mut mesh);
        let message = plan("t", &mesh).unwrap_err();
        assert!(
            message.contains(expected),
            "`{message}` should contain `{expected}`"
        );
    }
}

#[test]
fn clients_behind_a_cluster_get_a_router_with_free_addresses_there() {
    let mut lab = topology(3, 6);
    put_behind(&mut lab, "drones", "picluster").unwrap();
    let (client, uplink) = lab.uplinks().next().unwrap();
    let addresses: Vec<_> = uplink.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["192.168.10.6/24", "fd41:6b38:0:10::6/64"]);
    assert_eq!(
        (client.name.as_str(), uplink.cluster.as_str()),
        ("drones", "picluster")
    );
    assert!(lab.netns_names().contains(&uplink.netns.as_str()));

    let mut mesh = default_mesh(3, 6).unwrap();
    mesh.clusters[2].nodes[0].addresses = vec!["192.168.10.6".parse().unwrap()];
    let mut lab = plan("t", &mesh).unwrap();
    put_behind(&mut lab, "drones", "picluster").unwrap();
    let (_, uplink) = lab.uplinks().next().unwrap();
    assert_eq!(uplink.addresses[0].to_string(), "192.168.10.7/24");

    for (client, cluster, expected) in [
        ("drones", "mars", "talos-east, talos-west, picluster"),
        ("rovers", "picluster", "drones"),
    ] {
        let message = put_behind(&mut lab, client, cluster).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
    let mut mesh = default_mesh(3, 6).unwrap();
    mesh.clusters[2].node_networks.truncate(1);
    let mut lab = plan("t", &mesh).unwrap();
    let message = put_behind(&mut lab, "drones", "picluster").unwrap_err();
    assert!(message.contains("fd41:6b38:0:50::/64"), "{message}");
}
