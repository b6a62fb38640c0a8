//! Which pairs are measured, and by whom.

use mesh::observation::{ProbeTarget, Sample};
use mesh::{Cluster, Link, Node, Objectives};

use super::*;

fn mesh(sizes: &[usize], links: &[(usize, usize)]) -> Mesh {
    let name = |c: usize| ["a", "b", "c"][c].to_owned();
    let cluster = |(c, nodes): (usize, &usize)| Cluster {
        name: name(c),
        id: c as u16 + 1,
        node_networks: Vec::new(),
        pod_cidrs: Vec::new(),
        service_cidrs: Vec::new(),
        dns_server: None,
        nodes: (1..=*nodes as u8)
            .map(|n| Node {
                name: format!("{}{n}", name(c)),
                addresses: vec![[192, 168, c as u8, n].into()],
                agent_pod: vec![[10, c as u8, 0, n].into()],
                agent: None,
                agent_node_plane: None,
            })
            .collect(),
        context: None,
    };
    Mesh {
        name: "m".to_owned(),
        clusters: sizes.iter().enumerate().map(cluster).collect(),
        clients: Vec::new(),
        services: Vec::new(),
        links: links
            .iter()
            .map(|(s, t)| Link {
                source: name(*s),
                target: name(*t),
            })
            .collect(),
        objectives: Objectives::default(),
        rules: mesh::Rules::default(),
        tls: None,
    }
}

fn selecting(only: &[&str]) -> Policy {
    Policy {
        only: only.iter().map(|glob| (*glob).to_owned()).collect(),
        ..Policy::default()
    }
}

/// "a1-b1".
fn name(pair: &Pair) -> String {
    format!("{}-{}", pair.ends[0].node.node, pair.ends[1].node.node)
}

#[test]
fn every_node_has_two_partners_and_no_pair_comes_twice() {
    let both = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)];
    for (sizes, links, pairs_of_pods) in [
        (vec![2, 2, 2], &both[..], 12),
        (vec![1, 1], &both[..2], 1),
        (vec![6, 6, 6], &both[..], 36),
        (vec![6, 1], &both[..2], 6),
        // One direction in scope is measured in both all the same.
        (vec![2, 2], &both[..1], 4),
        (vec![2], &[(0, 0)][..], 1),
        (vec![5], &[(0, 0)][..], 10),
    ] {
        let mesh = mesh(&sizes, links);
        let measures = Measures::new(&mesh, &selecting(&["mtu.path"]), None);
        let mut names: Vec<String> = measures.searches.iter().map(name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), measures.searches.len(), "{sizes:?} {names:?}");
        assert_eq!(names.len(), pairs_of_pods, "{sizes:?} {names:?}");
        for (c, cluster) in mesh.clusters.iter().enumerate() {
            for node in &cluster.nodes {
                let partners = measures
                    .searches
                    .iter()
                    .filter(|pair| pair.ends.iter().any(|end| end.node.node == node.name))
                    .count();
                let others = if sizes.len() == 1 { sizes[0] - 1 } else { 1 };
                assert!(
                    partners >= PARTNERS.min(others),
                    "{sizes:?} {c} {}",
                    node.name
                );
            }
        }
    }
}

#[test]
fn only_what_is_asked_for_is_measured() {
    let mesh = mesh(&[2, 2], &[(0, 1), (1, 0)]);
    let planes = |only: &str| {
        let measures = Measures::new(&mesh, &selecting(&[only]), None);
        let planes: BTreeSet<Plane> = measures.searches.iter().map(|pair| pair.plane).collect();
        (measures.searches.len(), planes.len(), measures.budget())
    };
    assert_eq!(planes("reach.*"), (0, 0, None));
    let (searches, count, budget) = planes("mtu.path");
    assert_eq!((searches, count), (4, 1));
    let budget = budget.expect("a budget");
    assert!(
        budget.contains("4 path MTU searches") && budget.contains("120 kB"),
        "{budget}"
    );
    assert_eq!(planes("mtu.node_path").1, 1);
    assert_eq!(planes("mtu.underlay").0, 8);
    assert_eq!(planes("mtu.*").0, 8);
}

fn run(from: (&str, &str), to: (&str, &str), kind: ProbeKind, plane: Plane, ok: bool) -> ProbeRun {
    ProbeRun {
        source: NodeRef {
            cluster: from.0.to_owned(),
            node: from.1.to_owned(),
        },
        target: ProbeTarget {
            cluster: to.0.to_owned(),
            node: Some(to.1.to_owned()),
            service: None,
            address: ([10, 0, 0, 1], 7_411).into(),
            question: None,
        },
        kind,
        plane,
        look: 0,
        samples: vec![Sample {
            sequence: 0,
            source_port: 61_500,
            sent_ns: 0,
            delay_ns: 0,
            outcome: if ok { Outcome::Ok } else { Outcome::Timeout },
            connect_ns: None,
            round_trip_ns: None,
            responder: None,
            receiver_count: None,
            starved: false,
        }],
    }
}

#[test]
fn the_end_whose_datagrams_are_answered_measures() {
    let mesh = mesh(&[1, 1], &[(0, 1), (1, 0)]);
    let measures = Measures::new(&mesh, &selecting(&["mtu.path"]), None);
    let (a, b) = (("a", "a1"), ("b", "b1"));
    let by = |runs: &[ProbeRun], silent: &str| {
        let asks = |node: &NodeRef, _| node.node != silent;
        let (tasks, without) = assign(
            &measures.searches,
            MeasureKind::PathMtu,
            asks,
            &answered(runs),
        );
        assert_eq!(tasks.len() + without.len() / 2, 1);
        tasks.first().map(|task| task.by().node.node.clone())
    };
    let udp = |from, to, ok| run(from, to, ProbeKind::Udp, Plane::Pod, ok);
    assert_eq!(
        by(&[udp(a, b, true), udp(b, a, false)], ""),
        Some("a1".into())
    );
    assert_eq!(
        by(&[udp(a, b, false), udp(b, a, true)], ""),
        Some("b1".into())
    );
    assert_eq!(by(&[udp(a, b, false), udp(b, a, false)], ""), None);
    // Connects tell nothing of datagrams that were sent as well, and stand for those that were not.
    let tcp = run(a, b, ProbeKind::Tcp, Plane::Pod, true);
    assert_eq!(by(&[udp(a, b, false), tcp.clone()], ""), None);
    assert_eq!(by(std::slice::from_ref(&tcp), ""), Some("a1".into()));
    // Other planes do not count, and a silent agent is not asked, nor is anybody about it.
    assert_eq!(
        by(&[run(a, b, ProbeKind::Tcp, Plane::Node, true)], ""),
        None
    );
    assert_eq!(by(&[udp(a, b, true), udp(b, a, true)], "b1"), None);
}

#[test]
fn nodes_share_the_work_and_directions_keep_their_names() {
    let mesh = mesh(&[2, 2], &[(0, 1), (1, 0)]);
    let measures = Measures::new(&mesh, &selecting(&["mtu.path"]), None);
    let names = [("a", "a1"), ("a", "a2"), ("b", "b1"), ("b", "b2")];
    let runs: Vec<ProbeRun> = names
        .iter()
        .flat_map(|from| names.iter().map(move |to| (from, to)))
        .filter(|(from, to)| from.0 != to.0)
        .map(|(from, to)| run(*from, *to, ProbeKind::Udp, Plane::Pod, true))
        .collect();
    let (tasks, without) = assign(
        &measures.searches,
        MeasureKind::PathMtu,
        |_, _| true,
        &answered(&runs),
    );
    assert!(without.is_empty());
    let by: BTreeSet<&NodeRef> = tasks.iter().map(|task| &task.by().node).collect();
    assert_eq!((tasks.len(), by.len()), (4, 4));
    for task in &tasks {
        let [forward, back] = task.without(MeasureKind::PathMtu, "x");
        assert_eq!(
            (&forward.source, &forward.target),
            (&back.target, &back.source)
        );
        assert_eq!(forward.source, task.by().node);
        assert_eq!(forward.responder, task.other().responder);
    }
}

#[test]
fn transfers_touch_every_node_and_disturb_no_other() {
    let both = [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)];
    for (sizes, links, count, groups) in [
        (vec![2, 2, 2], &both[..], 6, 2),
        (vec![6, 6, 6], &both[..], 18, 6),
        (vec![2, 2], &both[..2], 4, 4),
        (vec![1, 1], &both[..2], 1, 1),
        (vec![3, 1, 2], &both[..], 8, 6),
        (vec![40, 40], &both[..2], 8, 8),
        (vec![3], &[(0, 0)][..], 3, 3),
    ] {
        let mesh = mesh(&sizes, links);
        let measures = Measures::new(&mesh, &selecting(&["throughput.*"]), None);
        assert!(measures.searches.is_empty());
        let mut names: Vec<String> = measures.transfers.iter().map(name).collect();
        names.sort();
        names.dedup();
        assert_eq!(
            (names.len(), measures.transfers.len()),
            (count, count),
            "{sizes:?} {names:?}"
        );
        let tasks: Vec<Task> = measures
            .transfers
            .iter()
            .map(|pair| Task {
                pair: pair.clone(),
                by: 0,
            })
            .collect();
        let rounds = rounds(&tasks);
        assert_eq!(rounds.iter().map(Vec::len).sum::<usize>(), count);
        assert!(rounds.len() <= groups, "{sizes:?}: {} rounds", rounds.len());
        for round in &rounds {
            let nodes: Vec<&NodeRef> = round
                .iter()
                .flat_map(|t| &t.pair.ends)
                .map(|e| &e.node)
                .collect();
            let unique: BTreeSet<&&NodeRef> = nodes.iter().collect();
            assert_eq!(unique.len(), nodes.len());
            let clusters: BTreeSet<[&str; 2]> = round.iter().map(Task::clusters).collect();
            assert_eq!(clusters.len(), round.len());
        }
        if count < 8 * links.len() / 2 {
            for node in mesh.clusters.iter().flat_map(|cluster| &cluster.nodes) {
                assert!(
                    names
                        .iter()
                        .any(|pair| pair.split('-').any(|n| n == node.name)),
                    "{}",
                    node.name
                );
            }
        }
    }
}

#[test]
fn transfers_keep_to_what_is_left_of_a_budget() {
    let mesh = mesh(&[2, 2], &[(0, 1), (1, 0)]);
    let policy = selecting(&["mtu.path", "throughput.*"]);
    let most = |left| {
        let measures = Measures::new(&mesh, &policy, left);
        let bytes = per_node(&measures.transfers, 2 * measures.wire_bytes());
        (
            measures.transfers.len(),
            bytes.values().copied().max().unwrap_or(0),
        )
    };
    assert_eq!(most(None), (4, 4 * (18_000_000 + BESIDE_BYTES)));
    for left in [10_000_000, 30_000_000] {
        let (transfers, bytes) = most(Some(left));
        assert_eq!(transfers, 4);
        assert!(bytes <= left && bytes > left / 2, "{left} {bytes}");
    }
    assert_eq!(most(Some(3_000_000)), (0, 0));
    let measures = Measures::new(&mesh, &policy, None);
    let budget = measures.budget().expect("a budget");
    assert!(
        budget.contains("4 transfers each way of at most 16.0 MB and 0.4 s")
            && budget.contains("at most 72.5 MB per node"),
        "{budget}"
    );
}

#[test]
fn what_falls_short_is_measured_again_and_holes_are_not_measured() {
    let mesh = mesh(&[3, 3], &[(0, 1), (1, 0)]);
    let measures = Measures::new(&mesh, &selecting(&["throughput.*"]), None);
    let tasks: Vec<Task> = measures
        .transfers
        .iter()
        .map(|pair| Task {
            pair: pair.clone(),
            by: 0,
        })
        .collect();
    let carried = |speed: &dyn Fn(&Task, PathDirection) -> u64| -> Vec<PathMeasurement> {
        let one = |task: &Task| {
            [PathDirection::Forward, PathDirection::Return].map(|direction| {
                let found = mesh::measurement::Throughput {
                    bytes: speed(task, direction),
                    duration_ns: 1_000_000_000,
                    by_time: true,
                    retransmits: None,
                    min_rtt_us: None,
                    rtt: None,
                };
                task.measurement(direction, 61_500, MeasuredPath::Throughput(Ok(found)))
            })
        };
        tasks.iter().flat_map(one).collect()
    };
    let slow = |task: &Task, way| {
        let of_a2 = task.by().node.node == "a2" && way == PathDirection::Return;
        if of_a2 { 5_000_000 } else { 10_000_000 }
    };
    let names = |tasks: Vec<Task>| -> BTreeSet<String> {
        tasks
            .iter()
            .map(|task| task.by().node.node.clone())
            .collect()
    };
    let carried_slow = carried(&slow);
    assert_eq!(
        names(again(&tasks, &carried_slow, None)),
        BTreeSet::from(["a2".to_owned()])
    );
    assert!(again(&tasks, &carried(&|_, _| 10_000_000), None).is_empty());
    // 80 Mbit/s is what the others carry.
    assert!(again(&tasks, &carried_slow, Some(40e6)).is_empty());
    assert_eq!(
        names(again(&tasks, &carried_slow, Some(41e6))),
        BTreeSet::from(["a2".to_owned()])
    );
    assert_eq!(again(&tasks, &carried_slow, Some(90e6)).len(), tasks.len());
    // Once measured again, the better figure counts, and nothing is measured a third time. What is now behind the others is.
    let of = |carried: &[PathMeasurement], node: &str| -> Vec<PathMeasurement> {
        let ends = |m: &&PathMeasurement| m.source.node == node || m.target.node == node;
        carried.iter().filter(ends).cloned().collect()
    };
    let mut better = carried_slow.clone();
    better.extend(of(&carried(&|_, _| 10_000_000), "a2"));
    assert!(again(&tasks, &better, None).is_empty());
    let mut faster = carried_slow.clone();
    faster.extend(of(&carried(&|_, _| 20_000_000), "a2"));
    let rest: BTreeSet<String> = names(tasks.clone())
        .into_iter()
        .filter(|node| node != "a2")
        .collect();
    assert_eq!(names(again(&tasks, &faster, None)), rest);

    let hole = PathMeasurement {
        result: MeasuredPath::PathMtu(Ok(mesh::measurement::PathMtu {
            bytes: 1_400,
            limit: mesh::measurement::MtuLimit::Silent,
            local_bytes: 1_450,
            route_before: None,
            route_after: None,
            reported: None,
            fragments_pass: None,
            sized: Default::default(),
            small: Default::default(),
        })),
        ..carried_slow[0].clone()
    };
    let found = holes(std::slice::from_ref(&hole));
    let falls: Vec<&Task> = tasks
        .iter()
        .filter(|task| task.falls_into(&found))
        .collect();
    assert_eq!(falls.len(), 1);
    let mut known = hole.clone();
    if let MeasuredPath::PathMtu(Ok(mtu)) = &mut known.result {
        mtu.route_after = Some(1_400);
    }
    assert!(holes(&[known]).is_empty());
    let of_nodes = PathMeasurement {
        plane: Plane::Node,
        ..hole
    };
    assert!(holes(&[of_nodes]).is_empty());
}

#[test]
fn what_was_measured_is_counted_at_both_ends() {
    let mesh = mesh(&[1, 1], &[(0, 1), (1, 0)]);
    let measures = Measures::new(&mesh, &selecting(&["throughput.*", "mtu.path"]), None);
    let task = |pair: &Pair| Task {
        pair: pair.clone(),
        by: 0,
    };
    let (search, transfer) = (task(&measures.searches[0]), task(&measures.transfers[0]));
    let carried = |bytes| {
        let found = mesh::measurement::Throughput {
            bytes,
            duration_ns: 1_000_000_000,
            by_time: true,
            retransmits: None,
            min_rtt_us: None,
            rtt: None,
        };
        MeasuredPath::Throughput(Ok(found))
    };
    let ended = || NoFigure::Ended(MeasureOutcome::Timeout);
    let (there, back) = (PathDirection::Forward, PathDirection::Return);
    let found = [
        search.measurement(there, 0, MeasuredPath::PathMtu(Err(ended()))),
        search.measurement(back, 0, MeasuredPath::PathMtu(Err(ended()))),
        transfer.measurement(there, 61_500, carried(8_000_000)),
        // It broke off: all that it may have sent.
        transfer.measurement(back, 61_500, MeasuredPath::Throughput(Err(ended()))),
    ];
    let each = 60_000 + (9_000_000 + 100_000) + (18_000_000 + 100_000);
    let spent = measures.spent(&found);
    assert_eq!(spent.into_values().collect::<Vec<_>>(), [each, each]);
    let never = transfer.without(MeasureKind::Throughput, "no time left");
    assert!(measures.spent(&never).into_values().all(|bytes| bytes == 0));
}
