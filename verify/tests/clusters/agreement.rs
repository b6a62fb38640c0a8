//! What clusters have to agree on, and the versions they run.

use verify::Status;
use verify::control::ClusterView;

use super::world::*;

fn broken(change: impl FnOnce(&mut Vec<ClusterView>)) -> verify::Verdict {
    let mut views = healthy();
    change(&mut views);
    judged(views)
}

/// One value in one cluster, the check that fails by it, and words of the cause.
#[test]
fn every_facet_is_compared() {
    let cases: [(&str, Option<&str>, &str, &str, &str); 12] = [
        (
            "max-connected-clusters",
            Some("511"),
            "config.mesh_size",
            "config.mesh_size_differs",
            "`east` and `west` differ in maxConnectedClusters: 255 here, 511 there",
        ),
        (
            "routing-mode",
            Some("native"),
            "config.routing",
            "config.routing_differs",
            "a vxlan tunnel on port 8472 here, native routing there",
        ),
        (
            "tunnel-protocol",
            Some("geneve"),
            "config.routing",
            "config.routing_differs",
            "a geneve tunnel on port 6081 there",
        ),
        (
            "tunnel-port",
            Some("8473"),
            "config.routing",
            "config.routing_differs",
            "port 8473 there",
        ),
        (
            "enable-wireguard",
            None,
            "config.encryption",
            "config.encryption_differs",
            "wireguard here, no encryption there",
        ),
        (
            "encrypt-node",
            Some("true"),
            "config.encryption",
            "config.encryption_differs",
            "wireguard with node encryption there",
        ),
        (
            "mtu",
            Some("1400"),
            "config.mtu",
            "config.mtu_differs",
            "1450 here, 1400 there",
        ),
        (
            "cluster-id",
            Some("1"),
            "config.ids",
            "config.shared_id",
            "`east` and `west` both have cluster-id 1",
        ),
        (
            "cluster-id",
            Some("0"),
            "config.ids",
            "config.name",
            "cluster-id 0",
        ),
        (
            "cluster-id",
            Some("512"),
            "config.ids",
            "config.name",
            "cluster-id 512",
        ),
        (
            "cluster-id",
            None,
            "config.ids",
            "config.name",
            "cluster-id 0",
        ),
        (
            "cluster-name",
            Some("default"),
            "config.ids",
            "config.name",
            "called `default`",
        ),
    ];
    for (key, value, label, id, words) in cases {
        let verdict = broken(|views| set(views, "west", key, value));
        assert_eq!(statuses(&verdict, label), [Status::Fail], "{key} {value:?}");
        let cause = cause(&verdict, id);
        assert!(cause.summary.contains(words), "{}", cause.summary);
        assert!(cause.summary.contains("`west`"), "{}", cause.summary);
        assert!(!cause.hint.is_empty());
    }
}

#[test]
fn defaults_are_what_cilium_takes() {
    // Not set here is the same as set to the default there.
    for (key, context) in [
        ("max-connected-clusters", "west"),
        ("routing-mode", "pi"),
        ("tunnel-protocol", "east"),
    ] {
        let verdict = broken(|views| set(views, context, key, None));
        assert_eq!(failed(&verdict), [""; 0], "{key}");
    }
    // Up to 1.13 one key said both.
    let verdict = broken(|views| {
        set(views, "west", "routing-mode", None);
        set(views, "west", "tunnel-protocol", None);
        set(views, "west", "tunnel", Some("vxlan"));
    });
    assert_eq!(failed(&verdict), [""; 0]);
    let verdict = broken(|views| {
        set(views, "west", "routing-mode", None);
        set(views, "west", "tunnel", Some("disabled"));
    });
    assert_eq!(failed(&verdict), ["config.routing"]);
}

#[test]
fn an_mtu_that_nobody_set_is_undecided() {
    for value in [None, Some("0")] {
        let verdict = broken(|views| set(views, "west", "mtu", value));
        assert_eq!(statuses(&verdict, "config.mtu"), [Status::Undecided]);
    }
}

#[test]
fn the_same_name_twice() {
    let verdict = broken(|views| {
        set(views, "west", "cluster-name", Some("talos-east"));
    });
    assert_eq!(statuses(&verdict, "config.ids"), [Status::Fail]);
    assert!(
        cause(&verdict, "config.shared_id")
            .summary
            .contains("`east` and `west` are both called `talos-east`")
    );
}

type Change = fn(&mut Vec<ClusterView>);

#[test]
fn ranges_that_overlap() {
    let cases: [(Change, &str, &str); 6] = [
        (
            |v| {
                facts(v, "west").nodes.as_mut().unwrap()[0].pod_cidrs =
                    vec!["10.244.1.0/24".parse().unwrap()]
            },
            "pod CIDR 10.244.1.0/24 of `east` overlaps pod CIDR 10.244.1.0/24 of `west`",
            "podSubnets",
        ),
        (
            |v| facts(v, "west").pod_cidrs = Ok(vec!["10.244.0.0/16".parse().unwrap()]),
            "pod CIDR 10.244.0.0/16 of `west` overlaps pod CIDR 10.244.1.0/24 of `east`",
            "renumber the pods of",
        ),
        (
            |v| facts(v, "west").nodes.as_mut().unwrap()[0].addresses = vec![ip("192.168.15.11")],
            "node address 192.168.15.11 of `east` overlaps node address 192.168.15.11 of `west`",
            "another address",
        ),
        (
            |v| facts(v, "west").nodes.as_mut().unwrap()[0].addresses = vec![ip("10.244.2.9")],
            "pod CIDR 10.244.2.0/24 of `east` overlaps node address 10.244.2.9 of `west`",
            "renumber the pods of `east`",
        ),
        (
            |v| facts(v, "west").service_cidrs = Ok(vec!["192.168.15.0/24".parse().unwrap()]),
            "service CIDR 192.168.15.0/24 of `west` overlaps node address 192.168.15.11 of `east`",
            "serviceSubnets",
        ),
        (
            |v| {
                set(v, "west", "ipam", Some("cluster-pool"));
                set(v, "west", "cluster-pool-ipv4-cidr", Some("10.0.0.0/8"));
            },
            "pod CIDR 10.0.0.0/8 of `west` overlaps",
            "clusterPoolIPv4PodCIDRList",
        ),
    ];
    for (change, summary, hint) in cases {
        let verdict = broken(change);
        assert_eq!(
            statuses(&verdict, "config.cidrs"),
            [Status::Fail],
            "{summary}"
        );
        let cause = cause(&verdict, "config.overlap");
        let all = format!("{}\n{}", cause.summary, cause.evidence.join("\n"));
        assert!(all.contains(summary), "{all}");
        assert!(cause.hint.contains(hint), "{}", cause.hint);
    }
    // Service CIDRs are not routed: the same one everywhere is fine.
    let verdict = broken(|views| {
        for context in ["west", "pi"] {
            facts(views, context).service_cidrs = Ok(vec!["10.96.0.0/12".parse().unwrap()]);
        }
    });
    assert_eq!(failed(&verdict), [""; 0]);
    // A pool that Cilium does not use is nobody's.
    let verdict = broken(|views| set(views, "west", "cluster-pool-ipv4-cidr", Some("10.0.0.0/8")));
    assert_eq!(failed(&verdict), [""; 0]);
}

/// Against a comparison of all pairs, on ranges drawn by a fixed rule.
#[test]
fn no_overlap_is_missed() {
    let mut state = 7_u32;
    let mut draw = |below: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % below
    };
    let (mut with, mut without) = (0, 0);
    for _ in 0..400 {
        let mut views = healthy();
        let mut nets: Vec<(usize, ipnet::IpNet)> = Vec::new();
        for (at, view) in views.iter_mut().enumerate() {
            let facts = view.state.as_mut().unwrap();
            facts.nodes = Ok(Vec::new());
            facts.service_cidrs = Ok(Vec::new());
            let of: Vec<ipnet::IpNet> = (0..2)
                .map(|_| {
                    format!("10.{}.{}.0/{}", draw(6), draw(256), 16 + draw(9))
                        .parse::<ipnet::IpNet>()
                        .unwrap()
                        .trunc()
                })
                .collect();
            nets.extend(of.iter().map(|net| (at, *net)));
            facts.pod_cidrs = Ok(of);
        }
        let expected = nets
            .iter()
            .any(|(a, one)| nets.iter().any(|(b, other)| a != b && one.contains(other)));
        let found = statuses(&judged(views), "config.cidrs") == [Status::Fail];
        assert_eq!(found, expected, "{nets:?}");
        *(if expected { &mut with } else { &mut without }) += 1;
    }
    assert!(with > 50 && without > 50, "{with} with, {without} without");
}

#[test]
fn versions_outside_the_matrix() {
    let with = |kubernetes: &'static str, cilium: &'static str| {
        broken(move |views| {
            for context in ["east", "west", "pi"] {
                facts(views, context).kubernetes = kubernetes.to_owned();
                facts(views, context)
                    .agents
                    .as_mut()
                    .unwrap()
                    .as_mut()
                    .unwrap()
                    .version = Some(cilium.to_owned());
            }
        })
    };
    for (kubernetes, cilium, status) in [
        ("v1.30.0", "v1.18.5", Status::Pass),
        ("v1.29.9", "v1.18.5", Status::Fail),
        ("v1.33.4+rke2r1", "v1.18.5", Status::Pass),
        ("v1.34.4", "v1.18.5", Status::Fail),
        ("v1.32.0", "v1.19.0", Status::Pass),
        ("v1.31.0", "v1.19.0", Status::Fail),
        ("v1.35.1", "v1.19.0", Status::Pass),
        ("v1.36.0", "v1.19.0", Status::Fail),
        ("v1.36.0", "v1.20.0", Status::Pass),
        ("v1.32.0", "v1.20.0", Status::Fail),
        ("v1.34.0", "v1.21.0", Status::Undecided),
        ("v1.34.0", "v1.17.9", Status::Undecided),
        ("v1.34.0", "latest", Status::Undecided),
        ("unknown", "v1.18.5", Status::Undecided),
    ] {
        assert_eq!(
            statuses(&with(kubernetes, cilium), "version.support east"),
            [status],
            "{kubernetes} {cilium}"
        );
    }
    let verdict = with("v1.34.4", "v1.18.5");
    let found = check(&verdict, "version.support west");
    assert_eq!(
        found.cause.as_deref(),
        Some(
            "`west` runs Cilium 1.18.5 on Kubernetes 1.34.4; Cilium 1.18 is tested with 1.30 to 1.33"
        )
    );
    let hint = found.hint.as_ref().unwrap();
    assert!(
        hint.contains("upgrade Cilium of `west` to 1.19")
            && hint.contains("--kube-context west")
            && hint.contains("--version '~1.19'"),
        "{hint}"
    );
    // It warns: nothing shows that it breaks.
    assert_eq!(verdict.result, verify::Outcome::Undecided);
    let hint = check(&with("v1.29.0", "v1.18.5"), "version.support west")
        .hint
        .clone()
        .unwrap();
    assert!(
        hint.contains("upgrade Kubernetes of `west` to 1.30"),
        "{hint}"
    );
    let hint = check(&with("v1.37.0", "v1.20.0"), "version.support west")
        .hint
        .clone()
        .unwrap();
    assert!(hint.contains("no Cilium of this program's list"), "{hint}");
}

#[test]
fn versions_too_far_apart() {
    let with = |cilium: &'static str| {
        broken(move |views| {
            facts(views, "west")
                .agents
                .as_mut()
                .unwrap()
                .as_mut()
                .unwrap()
                .version = Some(cilium.to_owned());
        })
    };
    assert_eq!(statuses(&with("v1.19.5"), "version.skew"), [Status::Pass]);
    assert_eq!(statuses(&with("v1.17.0"), "version.skew"), [Status::Pass]);
    for far in ["v1.20.0", "v1.16.0", "v2.0.0"] {
        assert_eq!(
            statuses(&with(far), "version.skew"),
            [Status::Fail],
            "{far}"
        );
    }
    let verdict = with("v1.20.0");
    let cause = cause(&verdict, "version.far_apart");
    assert_eq!(
        cause.summary,
        "Cilium is 1.18.5 on `east` and 1.20.0 on `west`: more than one minor version apart"
    );
    assert_eq!(
        statuses(&with("latest"), "version.skew"),
        [Status::Undecided]
    );
}

#[test]
fn kube_proxy_beside_its_replacement() {
    let verdict =
        broken(|views| facts(views, "pi").kube_proxy = Ok(vec!["kube-proxy-x1".to_owned()]));
    assert_eq!(failed(&verdict), ["config.kube_proxy pi"]);
    let found = cause(&verdict, "config.two_proxies");
    assert!(
        found.hint.contains("cluster.proxy.disabled: true")
            && found.evidence[1].contains("kube-proxy-x1")
    );
    let verdict = broken(|views| {
        facts(views, "pi").kube_proxy = Ok(vec!["kube-proxy-x1".to_owned()]);
        set(views, "pi", "kube-proxy-replacement", Some("false"));
    });
    assert_eq!(failed(&verdict), [""; 0]);
}

#[test]
fn the_policy_default_matters_only_to_policies_that_name_no_cluster() {
    let policy = |views: &mut Vec<ClusterView>| {
        facts(views, "west").open_policies = Ok(vec!["CiliumNetworkPolicy ndvi/tiles".to_owned()]);
    };
    let verdict = broken(policy);
    assert_eq!(failed(&verdict), ["config.policy_default"]);
    let trap = cause(&verdict, "config.policy_default_differs");
    assert!(
        trap.summary
            .contains("the upgrade to Cilium 1.19 cuts off what policies of `west`"),
        "{}",
        trap.summary
    );
    assert!(trap.evidence[0].contains("CiliumNetworkPolicy ndvi/tiles"));
    assert!(
        trap.hint
            .contains("`clustermesh.policyDefaultLocalCluster: false`"),
        "{}",
        trap.hint
    );
    let newer = |views: &mut Vec<ClusterView>, context: &str, value: Option<&str>| {
        facts(views, context)
            .agents
            .as_mut()
            .unwrap()
            .as_mut()
            .unwrap()
            .version = Some("v1.19.0".to_owned());
        set(views, context, "policy-default-local-cluster", value);
    };
    // One cluster upgraded: the same policy means two things.
    let verdict = broken(|views| {
        policy(views);
        newer(views, "east", None);
    });
    let differs = cause(&verdict, "config.policy_default_differs");
    assert!(
        differs
            .summary
            .contains("selects `east` alone there, and all clusters on `west`"),
        "{}",
        differs.summary
    );
    // All upgraded and all the same.
    for value in [None, Some("true"), Some("false")] {
        let verdict = broken(|views| {
            policy(views);
            for context in ["east", "west", "pi"] {
                newer(views, context, value);
            }
        });
        assert_eq!(failed(&verdict), [""; 0], "{value:?}");
    }
    // Without such a policy nothing is said.
    let verdict = broken(|views| newer(views, "east", None));
    assert_eq!(failed(&verdict), [""; 0]);
}
