//! The plan of a round: bounded, fair, and within the rate of a pair of nodes.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

fn mesh(nodes: usize) -> Mesh {
    let cluster = |name: &str, id: u16, net: u8| {
        let nodes: String = (1..=nodes)
            .map(|n| {
                format!(
                    "      - {{name: {name}-{n}, addresses: [192.168.{net}.{n}], agent_pod: [10.{net}.0.{n}, 'fd00:{net}::{n}'], agent: 'unix:/run/{name}-{n}.sock'}}\n"
                )
            })
            .collect();
        format!(
            "  - name: {name}\n    id: {id}\n    node_networks: [192.168.{net}.0/24]\n    pod_cidrs: [10.{net}.0.0/16, 'fd00:{net}::/64']\n    service_cidrs: [10.{}.0.0/16]\n    nodes:\n{nodes}",
            net + 100
        )
    };
    let text = format!(
        "mesh: test\nclusters:\n{}{}{}services:\n  - {{name: ndvi, cluster: west, addresses: [10.120.0.9], port: 8080, kind: ndvi}}\n",
        cluster("east", 1, 10),
        cluster("west", 2, 20),
        cluster("pi", 3, 30)
    );
    Mesh::parse("test", &text).unwrap_or_else(|e| panic!("{}", e.render(&text)))
}

fn me(n: usize) -> NodeRef {
    NodeRef {
        cluster: "east".into(),
        node: format!("east-{n}"),
    }
}

const TEN: Duration = Duration::from_secs(10);

#[test]
fn a_round_asks_one_node_per_link_with_each_kind() {
    let plan = plan(&mesh(2), &me(1), Plane::Pod, 0, TEN);
    let asked: BTreeSet<_> = plan
        .iter()
        .map(|p| (p.target.cluster.as_str(), p.kind))
        .collect();
    let expected = BTreeSet::from([
        ("west", ProbeKind::Tcp),
        ("west", ProbeKind::Udp),
        ("west", ProbeKind::Http),
        ("west", ProbeKind::NdviTile),
        ("pi", ProbeKind::Tcp),
        ("pi", ProbeKind::Udp),
        ("pi", ProbeKind::Http),
    ]);
    assert_eq!(asked, expected);
    assert_eq!(plan.len(), expected.len());
    let request = ProbePlan {
        targets: plan,
        interval: TEN,
        timeout: TIMEOUT,
    };
    assert_eq!(request.check(), Ok(()));
}

#[test]
fn the_number_of_probes_does_not_grow_with_the_mesh_and_every_node_is_asked() {
    let mesh = mesh(40);
    let mut asked: BTreeMap<String, u32> = BTreeMap::new();
    for n in 1..=40 {
        let targets: BTreeSet<String> = (0..9)
            .flat_map(|round| plan(&mesh, &me(n), Plane::Pod, round, TEN))
            .filter(|p| p.target.cluster == "west")
            .filter_map(|p| p.target.node)
            .collect();
        assert_eq!(targets.len(), CANDIDATES, "east-{n}");
        for target in targets {
            *asked.entry(target).or_default() += 1;
        }
    }
    // 120 choices over 40 nodes: 3 each on average.
    assert!(asked.len() >= 34, "{} of 40 nodes are asked", asked.len());
    assert!(asked.values().all(|count| *count <= 10), "{asked:?}");
}

#[test]
fn a_pair_of_nodes_stays_within_its_rate() {
    for seconds in [4, 5, 10, 60] {
        let interval = Duration::from_secs(seconds);
        let mesh = mesh(1);
        let rounds = 2_400_u32;
        let bytes: f64 = (0..u64::from(rounds))
            .flat_map(|round| plan(&mesh, &me(1), Plane::Pod, round, interval))
            .filter(|p| p.target.cluster == "west")
            .map(|p| match p.kind {
                ProbeKind::Tcp => TCP_BYTES,
                ProbeKind::Udp => UDP_BYTES,
                ProbeKind::Http => HTTP_BYTES,
                ProbeKind::Dns => unreachable!("names are asked for on request only"),
                ProbeKind::NdviTile => NDVI_BYTES,
            })
            .sum();
        let rate = bytes / (f64::from(rounds) * interval.as_secs_f64());
        assert!(rate <= MAX_BYTES_PER_SECOND * 1.01, "{seconds} s: {rate}");
        assert!(rate > 0.0);
    }
}

#[test]
fn both_families_and_the_other_plane_have_their_turn() {
    let mesh = mesh(2);
    let addresses: BTreeSet<bool> = (0..12)
        .flat_map(|round| plan(&mesh, &me(1), Plane::Pod, round, TEN))
        .filter(|p| p.kind == ProbeKind::Tcp)
        .map(|p| p.target.address.is_ipv6())
        .collect();
    assert_eq!(addresses, BTreeSet::from([false, true]));
    assert_eq!(
        plan(&mesh, &me(1), Plane::Node, 0, TEN),
        [],
        "no agent is declared on the node plane"
    );
}

#[test]
fn a_single_cluster_probes_its_other_nodes() {
    let text = "
mesh: test
clusters:
  - name: east
    id: 1
    node_networks: [192.168.15.0/24]
    pod_cidrs: [10.244.0.0/16]
    nodes:
      - {name: east-1, addresses: [192.168.15.11], agent_pod: [10.244.0.1], agent: 'unix:/a'}
      - {name: east-2, addresses: [192.168.15.12], agent_pod: [10.244.0.2], agent: 'unix:/b'}
";
    let mesh = Mesh::parse("test", text).unwrap_or_else(|e| panic!("{}", e.render(text)));
    let plan = plan(&mesh, &me(1), Plane::Pod, 0, TEN);
    assert!(!plan.is_empty());
    assert!(
        plan.iter()
            .all(|p| p.target.node.as_deref() == Some("east-2"))
    );
}

#[test]
fn intervals_are_bounded() {
    assert_eq!("off".parse(), Ok(Interval::Off));
    assert_eq!("10s".parse(), Ok(Interval::Every(TEN)));
    assert_eq!(
        "4500ms".parse(),
        Ok(Interval::Every(Duration::from_millis(4_500)))
    );
    for wrong in [
        "",
        "10",
        "1s",
        "s",
        "-5s",
        "2h",
        "10 s",
        "99999999999999999999s",
    ] {
        assert!(wrong.parse::<Interval>().is_err(), "{wrong}");
    }
}
