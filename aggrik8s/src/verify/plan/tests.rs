//! The plan: enough for every node, no more than asked for, within its budgets.

use super::*;

#[test]
fn every_node_has_enough_partners() {
    for (sources, targets, same) in [
        (2, 2, false),
        (1, 1, false),
        (6, 2, false),
        (3, 40, false),
        (100, 60, false),
        (2, 2, true),
        (5, 5, true),
        (50, 50, true),
    ] {
        let pairs = pairs(sources, targets, same);
        let small = sources.min(targets) - usize::from(same);
        assert!(
            least_partners(&pairs, sources, targets) >= small.min(PARTNERS - 1),
            "{sources} {targets} {same}"
        );
        assert!(pairs.len() <= sources.max(targets) * PARTNERS);
        let mut unique = pairs.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), pairs.len());
        assert!(!same || pairs.iter().all(|(s, t)| s != t));
    }
}

#[test]
fn byte_sizes() {
    assert_eq!(parse_bytes("5MB"), Ok(5_000_000));
    assert_eq!(parse_bytes("200 kB"), Ok(200_000));
    assert_eq!(parse_bytes("1.5k"), Ok(1_500));
    assert_eq!(parse_bytes("77"), Ok(77));
    for wrong in ["", "MB", "-1MB", "0", "5 parsec", "1e400"] {
        assert!(parse_bytes(wrong).is_err(), "{wrong}");
    }
}

pub(super) fn mesh(nodes: usize) -> Mesh {
    let cluster = |c: u8, name: &str| mesh::Cluster {
        name: name.to_owned(),
        id: c.into(),
        node_networks: Vec::new(),
        pod_cidrs: Vec::new(),
        service_cidrs: Vec::new(),
        dns_server: None,
        nodes: (0..nodes as u8)
            .map(|n| Node {
                name: format!("{name}{n}"),
                addresses: vec![[192, 168, c, n + 1].into()],
                agent_pod: vec![[10, c, n, 1].into()],
                agent: None,
                agent_node_plane: None,
            })
            .collect(),
        context: None,
    };
    let link = |s: &str, t: &str| Link {
        source: s.to_owned(),
        target: t.to_owned(),
    };
    Mesh {
        name: "m".to_owned(),
        clusters: vec![cluster(1, "a"), cluster(2, "b")],
        clients: Vec::new(),
        services: vec![mesh::Service {
            name: "ndvi".to_owned(),
            cluster: "a".to_owned(),
            backends: vec!["a".to_owned()],
            affinity: mesh::Affinity::None,
            addresses: vec![[172, 16, 0, 1].into()],
            port: 8080,
            kind: ServiceKind::Ndvi,
            names: Vec::new(),
        }],
        links: vec![link("a", "b"), link("b", "a")],
        objectives: mesh::Objectives::default(),
        rules: mesh::Rules::default(),
        tls: None,
    }
}

/// Probes of a kind by node, as source and as target.
fn marginals(plan: &Plan, plane: Plane, kind: ProbeKind) -> Vec<u64> {
    marginals_of(&plan.first(), plane, kind)
        .into_values()
        .collect()
}

fn marginals_of(round: &Round, plane: Plane, kind: ProbeKind) -> BTreeMap<(bool, String), u64> {
    let mut sums: BTreeMap<(bool, String), u64> = BTreeMap::new();
    for stream in round.streams.iter().filter(|stream| stream.plane == plane) {
        for target in stream
            .plan
            .targets
            .iter()
            .filter(|target| target.kind == kind)
            .filter(|target| target.target.cluster != stream.source.cluster)
        {
            *sums.entry((true, stream.source.node.clone())).or_default() += u64::from(target.count);
            let node = target.target.node.clone().unwrap_or_default();
            *sums.entry((false, node)).or_default() += u64::from(target.count);
        }
    }
    sums
}

#[test]
fn every_node_can_prove_one_percent_with_one_bad_probe() {
    for nodes in [1, 2, 6] {
        let plan = Plan::new(
            &mesh(nodes),
            &Policy::default(),
            Duration::from_secs(12),
            None,
        );
        for kind in [ProbeKind::Tcp, ProbeKind::Udp] {
            let marginals = marginals(&plan, Plane::Pod, kind);
            assert_eq!(marginals.len(), 4 * nodes);
            assert!(
                marginals.iter().all(|n| (486..=516).contains(n)),
                "{nodes} {kind:?} {marginals:?}"
            );
        }
        for (plane, kind) in [(Plane::Pod, ProbeKind::Http), (Plane::Node, ProbeKind::Tcp)] {
            let sum: u64 = marginals(&plan, plane, kind).iter().sum();
            // Both links, each counted by source and by target.
            assert!(sum >= 4 * 486, "{nodes} {kind:?} {sum}");
        }
        for stream in &plan.first().streams {
            stream.plan.check().expect("an agent accepts it");
            assert!(
                stream.plan.longest() <= Duration::from_secs(15),
                "{stream:?}"
            );
        }
    }
}

#[test]
fn a_longer_window_sends_more_and_a_shorter_one_no_fewer() {
    let probes = |seconds| {
        let window = Duration::from_secs(seconds);
        Plan::new(&mesh(2), &Policy::default(), window, None)
            .first()
            .probes()
    };
    assert_eq!(probes(3), probes(12));
    let times = probes(36) as f64 / probes(12) as f64;
    assert!((2.97..=3.0).contains(&times), "{times}");
}

#[test]
fn where_one_side_is_denied_the_other_sends_its_datagrams() {
    let mut mesh = mesh(2);
    mesh.rules.policies = vec![mesh::PolicyRule {
        link: mesh.links[0].clone(),
        access: mesh::Access::Deny,
    }];
    let plan = Plan::new(&mesh, &Policy::default(), WINDOW, None);
    let sum = |source: &str, target: &str, plane, kind| -> u64 {
        let round = plan.first();
        let of = round
            .streams
            .iter()
            .filter(|s| s.source.cluster == source && s.plane == plane);
        of.flat_map(|stream| &stream.plan.targets)
            .filter(|t| t.kind == kind && t.target.cluster == target && t.target.node.is_some())
            .map(|t| u64::from(t.count))
            .sum()
    };
    use ProbeKind::{Http, Tcp, Udp};
    assert_eq!(sum("a", "b", Plane::Pod, Tcp), 120);
    assert_eq!(sum("a", "b", Plane::Pod, Udp), 0);
    assert_eq!(sum("a", "b", Plane::Pod, Http), 0);
    assert!(sum("a", "b", Plane::Node, Tcp) >= 473);
    assert!(sum("b", "a", Plane::Pod, Udp) >= 4 * 473);
    assert!(sum("b", "a", Plane::Pod, Tcp) < 3 * 473);
}

#[test]
fn a_byte_budget_is_kept() {
    let full = Plan::new(&mesh(2), &Policy::default(), Duration::from_secs(12), None);
    let most = |plan: &Plan| plan.first().most(|cost| cost.bytes);
    let small = Plan::new(
        &mesh(2),
        &Policy::default(),
        Duration::from_secs(12),
        Some(most(&full) / 4),
    );
    assert!(
        most(&small) <= most(&full) / 4 + 40_000,
        "{} {}",
        most(&small),
        most(&full)
    );
    assert!(small.budget().contains("25 %"), "{}", small.budget());
    assert!(!full.budget().contains("note"));
}

fn open(check: &str, source: &str, target: &str, more: Option<u64>) -> Open {
    Open {
        check: check.to_owned(),
        link: Link {
            source: source.to_owned(),
            target: target.to_owned(),
        },
        plane: None,
        samples: 486,
        more,
    }
}

const MINUTE: Duration = Duration::from_secs(60);

/// No measurement took bytes.
fn nothing() -> BTreeMap<NodeRef, u64> {
    BTreeMap::new()
}

#[test]
fn a_later_look_probes_what_is_open_and_nothing_else() {
    let plan = Plan::new(&mesh(2), &Policy::default(), WINDOW, None);
    let mut done = vec![plan.first()];
    assert_eq!(plan.next(&done, &nothing(), &[], MINUTE), None);
    let latency = [open(checks::LATENCY_CONNECT, "a", "b", Some(400))];
    let mut sent = marginals_of(&done[0], Plane::Pod, ProbeKind::Tcp);
    for look in 1..looks::MOST {
        let round = plan
            .next(&done, &nothing(), &latency, MINUTE)
            .expect("a look");
        assert_eq!(round.look, look);
        for stream in &round.streams {
            assert_eq!(
                (stream.source.cluster.as_str(), stream.plane),
                ("a", Plane::Pod)
            );
            for target in &stream.plan.targets {
                assert_eq!(
                    (target.target.cluster.as_str(), target.kind),
                    ("b", ProbeKind::Tcp)
                );
            }
            stream.plan.check().expect("an agent accepts it");
        }
        for (node, n) in marginals_of(&round, Plane::Pod, ProbeKind::Tcp) {
            *sent.get_mut(&node).expect("known") += n;
        }
        let a0 = sent[&(true, "a0".to_owned())];
        assert!(
            a0 >= 486 * looks::times(look) && a0 <= 490 * looks::times(look),
            "{a0}"
        );
        done.push(round);
    }
    assert_eq!(plan.next(&done, &nothing(), &latency, MINUTE), None);
}

#[test]
fn echoes_of_both_sides_settle_a_path() {
    let plan = Plan::new(&mesh(2), &Policy::default(), WINDOW, None);
    let path = [open(checks::LOSS_UDP, "a", "b", Some(400))];
    let round = plan
        .next(&[plan.first()], &nothing(), &path, MINUTE)
        .expect("a look");
    let sources: Vec<_> = round
        .streams
        .iter()
        .map(|s| s.source.node.as_str())
        .collect();
    assert_eq!(sources, ["a0", "a1", "b0", "b1"]);
    let kinds = round.streams.iter().flat_map(|s| &s.plan.targets);
    assert!(kinds.map(|t| t.kind).all(|kind| kind == ProbeKind::Udp));
}

#[test]
fn looks_end_with_hope_time_and_bytes() {
    let plan = Plan::new(&mesh(2), &Policy::default(), WINDOW, None);
    let first = plan.first();
    // The nodes of `b` have the most to send: tiles as well.
    let close = [open(checks::POD_TCP, "b", "a", None)];
    let second = plan
        .next(std::slice::from_ref(&first), &nothing(), &close, MINUTE)
        .expect("a chance");
    assert_eq!(
        plan.next(&[first.clone(), second], &nothing(), &close, MINUTE),
        None
    );
    assert_eq!(
        plan.next(
            std::slice::from_ref(&first),
            &nothing(),
            &close,
            Duration::from_secs(3)
        ),
        None
    );
    let bytes = first.most(|cost| cost.bytes);
    let tight = Plan::new(&mesh(2), &Policy::default(), WINDOW, Some(bytes + 1_000));
    assert_eq!(
        tight.next(&[tight.first()], &nothing(), &close, MINUTE),
        None
    );
    let ample = Plan::new(&mesh(2), &Policy::default(), WINDOW, Some(2 * bytes));
    assert!(
        ample
            .next(&[ample.first()], &nothing(), &close, MINUTE)
            .is_some()
    );
    // What measurements took of a node's bytes is gone.
    let node = ample
        .first()
        .per_node()
        .into_keys()
        .next()
        .cloned()
        .expect("a node");
    let beside = BTreeMap::from([(node, 2 * bytes)]);
    assert_eq!(ample.next(&[ample.first()], &beside, &close, MINUTE), None);
}

#[test]
fn many_probes_take_a_longer_window() {
    let window = |nodes: usize, loss: f64| {
        let mut mesh = mesh(nodes);
        mesh.objectives.loss = loss;
        Plan::new(&mesh, &Policy::default(), WINDOW, None).window()
    };
    assert_eq!(window(2, 0.01), WINDOW);
    assert!(window(2, 0.000_2) > 2 * WINDOW);
    assert!(window(40, 0.01) > 2 * WINDOW);
}

#[test]
fn only_what_is_asked_for_is_probed() {
    let only = |glob: &str| {
        let policy = Policy {
            only: vec![glob.to_owned()],
            ..Policy::default()
        };
        let plan = Plan::new(&mesh(2), &policy, Duration::from_secs(12), None);
        let mut kinds: Vec<_> = plan
            .first()
            .streams
            .iter()
            .map(|stream| (stream.plane, stream.plan.targets[0].kind))
            .collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    };
    assert_eq!(only("latency.*"), [(Plane::Pod, ProbeKind::Tcp)]);
    assert_eq!(
        only("loss.udp"),
        [(Plane::Pod, ProbeKind::Tcp), (Plane::Pod, ProbeKind::Udp)]
    );
    assert_eq!(only("*").len(), 5);
}

#[test]
fn a_budget_that_cannot_prove_an_objective_is_told_beforehand() {
    let refused = |mesh: &Mesh, only: &[&str], budget: u64| {
        let policy = Policy {
            only: only.iter().map(|glob| (*glob).to_owned()).collect(),
            ..Policy::default()
        };
        let plan = Plan::new(mesh, &policy, WINDOW, Some(budget));
        let refused = plan.provable(mesh, &policy).err();
        refused.map(|error| (error.to_string(), error.hint()))
    };
    for nodes in [1, 2, 6] {
        let mesh = mesh(nodes);
        let whole = Plan::new(&mesh, &Policy::default(), WINDOW, None).most_bytes();
        // 435 of 486 prove 1 % of the packets, if none is lost.
        assert_eq!(refused(&mesh, &[], whole), None);
        assert_eq!(refused(&mesh, &[], whole * 92 / 100), None, "{nodes}");
        let (why, hint) = refused(&mesh, &[], whole / 2).expect("too little");
        assert!(
            why.contains("takes 435 probes") && why.contains("cannot be proven"),
            "{why}"
        );
        // What it asks for is enough, and not much more than that.
        let (_, enough) = hint.split_once("--budget ").expect("a budget");
        let enough = enough.split_once('`').expect("its end").0;
        let enough = parse_bytes(enough).expect("bytes");
        assert_eq!(refused(&mesh, &[], enough), None, "{nodes} {hint}");
        assert!(
            refused(&mesh, &[], enough * 8 / 10).is_some(),
            "{nodes} {hint}"
        );
    }
    // Tighter objectives need more, and are the ones that are named.
    let mut tight = mesh(2);
    tight.objectives.loss = 0.002;
    let whole = Plan::new(&tight, &Policy::default(), WINDOW, None).most_bytes();
    assert_eq!(refused(&tight, &[], whole), None);
    let loss = &["loss.tcp_syn"];
    let whole = |mesh: &Mesh| {
        let policy = Policy {
            only: vec!["loss.tcp_syn".to_owned()],
            ..Policy::default()
        };
        Plan::new(mesh, &policy, WINDOW, None).most_bytes()
    };
    let (why, hint) = refused(&tight, loss, whole(&tight) / 2).expect("too little");
    assert!(
        why.starts_with("objective `loss`")
            && why.contains("at most 0.2 % are bad takes 2171 probes"),
        "{why}"
    );
    assert!(hint.contains("declare `loss: 0.3"), "{hint}");
    // What decides nothing is not worth refusing a run.
    tight.rules.severity = vec![("loss.tcp_syn".to_owned(), mesh::Gravity::Warn)];
    assert_eq!(refused(&tight, loss, whole(&tight) / 2), None);
    assert_eq!(refused(&mesh(2), &["config.*"], 50_000), None);
}
