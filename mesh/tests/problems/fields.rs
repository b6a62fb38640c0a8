//! Keys, types, names and ids.

use crate::{GOOD, check, problems};

#[test]
fn keys() {
    check(
        "pod_cidrs: [10.244",
        "pod_cidr: [10.244",
        &[
            "3:5 clusters[0].pod_cidrs: `pod_cidrs` is missing | add `pod_cidrs: …`",
            "6:5 clusters[0].pod_cidr: `pod_cidr` is not a key of a cluster | did you mean `pod_cidrs`?",
        ],
    );
    check(
        "service_cidrs: [10.96",
        "serviceCIDRs: [10.96",
        &[
            "7:5 clusters[0].serviceCIDRs: `serviceCIDRs` is not a key of a cluster | did you mean `service_cidrs`?",
        ],
    );
    check(
        "links: all",
        "colour: red",
        &[
            "26:1 colour: `colour` is not a key of a mesh | its keys are `mesh`, `clusters`, \
         `max_connected_clusters`, `clients`, `services`, `links`, `objectives`, `accept`, `severity`, `policies`, `tls`",
        ],
    );
    check(
        "links: all",
        "links: all\nlinks: all",
        &[
            "27:1 links: `links` is given twice | 26:1 links: the first one is here | keep one of them",
        ],
    );
    check(
        "links: all",
        "7: all",
        &["26:1 : a key is text, this is the number 7"],
    );
    check(
        "mesh: m\n",
        "",
        &["1:1 mesh: `mesh` is missing | add `mesh: …`"],
    );
}

#[test]
fn types() {
    check(
        "id: 1\n",
        "id: \"1\"\n",
        &[
            "4:9 clusters[0].id: expected a number from 1 to 511, saw the text `1` | write it without quotes",
        ],
    );
    check(
        "id: 1\n",
        "id: 1.5\n",
        &["4:9 clusters[0].id: expected a number from 1 to 511, saw the number 1.5"],
    );
    check(
        "name: east",
        "name: 17",
        &[
            "3:11 clusters[0].name: expected text, saw the number 17 | put it in quotes if it is meant as text",
        ],
    );
    check(
        "name: east",
        "name: true",
        &[
            "3:11 clusters[0].name: expected text, saw `true` | put it in quotes if it is meant as text",
        ],
    );
    check(
        "[10.244.0.0/16]",
        "10.244.0.0/16",
        &[
            "6:16 clusters[0].pod_cidrs: expected a list of networks, saw the text `10.244.0.0/16` | write `[10.244.0.0/16]`",
        ],
    );
    check(
        "links: all",
        "links:",
        &[
            "26:6 links: expected a list of links, or `all`, saw nothing | give it a value or remove the key",
        ],
    );
    check(
        "objectives: {loss: 1%}",
        "objectives: strict",
        &[
            "27:13 objectives: expected objectives with the keys `loss`, `connect_success`, `latency_p99`, \
         `ndvi_success`, `ndvi_round_trip`, `mtu`, `throughput`, `jitter_p99`, `coverage`, `confidence`, `links`, saw the text `strict`",
        ],
    );
    check(
        "      - name: b\n        addresses: [192.168.20.21]\n",
        "      - b\n",
        &[
            "19:9 clusters[1].nodes[0]: expected a node with the keys `name`, `addresses`, `agent_pod`, `agent`, \
         `agent_node_plane`, saw the text `b`",
        ],
    );
    check(
        "agent: unix:/run/a.sock",
        "agent:",
        &[
            "12:14 clusters[0].nodes[0].agent: expected text, saw nothing | give it a value or remove the key",
        ],
    );
}

#[test]
fn names() {
    check(
        "mesh: m\n",
        "mesh: My_Mesh\n",
        &["1:7 mesh: `My_Mesh` is not a DNS label | write `my-mesh`"],
    );
    check(
        "name: east",
        "name: []",
        &["3:11 clusters[0].name: expected text, saw a list"],
    );
    check(
        "name: east",
        "name: piCluster",
        &["3:11 clusters[0].name: `piCluster` is not a DNS label | write `picluster`"],
    );
    check(
        "name: drones",
        "name: Dröhnen",
        &[
            "22:11 clients[0].name: `Dröhnen` is not a DNS label | use lower-case letters, digits and `-` inside, at most 63 characters",
        ],
    );
    check(
        "name: west",
        "name: west-12345678901234567890123456789",
        &[
            "13:11 clusters[1].name: `west-12345678901234567890123456789` has 34 characters; Cilium allows a cluster name 32",
        ],
    );
    check(
        "name: west",
        "name: east",
        &[
            "13:11 clusters[1].name: the name `east` is given twice | 3:11 clusters[0].name: the first one is here",
        ],
    );
    check(
        "name: drones",
        "name: east",
        &[
            "22:11 clients[0].name: the name `east` is given twice | 3:11 clusters[0].name: the first one is here",
        ],
    );
    check(
        "name: drones",
        "name: world",
        &[
            "22:11 clients[0].name: `world` already has a meaning of its own in metrics | choose another name",
        ],
    );
    check(
        "{name: ndvi,",
        "{name: other,",
        &[
            "25:12 services[0].name: `other` already has a meaning of its own in metrics | choose another name",
        ],
    );
    check(
        "      - name: b\n",
        "      - {name: b, addresses: [192.168.20.9]}\n      - name: b\n",
        &[
            "20:15 clusters[1].nodes[1].name: the node name `b` is given twice | 19:16 clusters[1].nodes[0].name: the first one is here",
        ],
    );
    check(
        "name: b\n",
        "name: node_b\n",
        &[
            "19:15 clusters[1].nodes[0].name: `node_b` is not a DNS name | use labels of lower-case letters, digits and `-`, joined by dots",
        ],
    );
    // The same node name in two clusters, and a name with dots, are as in real life.
    check("name: b\n", "name: a\n", &[]);
    check(
        "name: b\n",
        "name: ip-10-0-0-1.eu-west-1.compute.internal\n",
        &[],
    );
}

#[test]
fn ids() {
    check(
        "id: 2\n",
        "id: 1\n",
        &[
            "14:9 clusters[1].id: the cluster id `1` is given twice | 4:9 clusters[0].id: the first one is here",
        ],
    );
    check(
        "id: 2\n",
        "id: 0\n",
        &["14:9 clusters[1].id: 0 is not within 1 to 511"],
    );
    check(
        "id: 2\n",
        "id: 512\n",
        &["14:9 clusters[1].id: 512 is not within 1 to 511"],
    );
    check(
        "id: 2\n",
        "id: -3\n",
        &["14:9 clusters[1].id: -3 is not within 1 to 511"],
    );
    check(
        "id: 2\n",
        "id: 256\n",
        &[
            "14:9 clusters[1].id: 256 is above 255, the largest id of this mesh | choose a smaller id, or set \
         `max_connected_clusters: 511` here and in Cilium on every cluster",
        ],
    );
    let wide = GOOD.replace("id: 2\n", "id: 511\n");
    assert_eq!(
        problems(&format!("{wide}max_connected_clusters: 511\n")),
        [] as [&str; 0]
    );
    assert_eq!(
        problems(&format!("{wide}max_connected_clusters: 300\n")),
        ["28:25 max_connected_clusters: Cilium knows 255 and 511, not 300",]
    );
    assert_eq!(
        problems(&format!("{wide}max_connected_clusters: many\n")),
        ["28:25 max_connected_clusters: expected a number from 255 to 511, saw the text `many`",]
    );
}
