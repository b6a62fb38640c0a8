//! Measurements over the wire: what comes back whole, and what a hostile agent may not claim.

use super::*;

fn plan() -> MeasurePlan {
    MeasurePlan {
        targets: vec![
            MeasureTarget {
                node: NodeRef {
                    cluster: "talos-west".into(),
                    node: "cp-w-1".into(),
                },
                address: "10.245.0.5:7411".parse().unwrap(),
                kind: MeasureKind::PathMtu,
            },
            MeasureTarget {
                node: NodeRef {
                    cluster: "talos-west".into(),
                    node: "cp-w-1".into(),
                },
                address: "[fd00::5]:7411".parse().unwrap(),
                kind: MeasureKind::PathMtu,
            },
        ],
        transfer: TransferCaps::default(),
    }
}

fn mtu() -> PathMtu {
    PathMtu {
        bytes: 1_400,
        limit: MtuLimit::PacketTooBig,
        local_bytes: 1_500,
        route_before: Some(1_500),
        route_after: Some(1_400),
        reported: Some(PacketTooBig {
            mtu: 1_400,
            hop: "192.0.2.1".parse().unwrap(),
        }),
        fragments_pass: Some(false),
        sized: Sent {
            sent: 12,
            answered: 3,
        },
        small: Sent {
            sent: 13,
            answered: 13,
        },
    }
}

fn measured(direction: PathDirection) -> Measurement {
    Measurement {
        direction,
        outcome: MeasureOutcome::Ok,
        source_port: 61_000,
        responder: Some(plan().targets[0].node.clone()),
        figure: Some(Figure::PathMtu(mtu())),
    }
}

#[test]
fn a_plan_and_its_results_survive_the_wire() {
    let request = wire::MeasureRequest::from(&plan());
    assert_eq!(MeasurePlan::try_from(&request), Ok(plan()));
    let mut checker = MeasureChecker::new(&plan());
    for target in [1, 0] {
        for direction in [PathDirection::Return, PathDirection::Forward] {
            let mut measurement = measured(direction);
            if target == 1 {
                measurement.figure = Some(Figure::PathMtu(PathMtu {
                    fragments_pass: None,
                    ..mtu()
                }));
            }
            let wired = measure_result(target, &measurement);
            assert_eq!(checker.accept(wired), Ok((target as usize, measurement)));
        }
    }
    assert_eq!(checker.missing(), 0);
    let mut failed = measured(PathDirection::Forward);
    (failed.outcome, failed.figure) = (MeasureOutcome::Undecided, None);
    (failed.responder, failed.source_port) = (None, 0);
    let mut checker = MeasureChecker::new(&plan());
    let wired = measure_result(0, &failed);
    assert_eq!(checker.accept(wired), Ok((0, failed)));
    assert_eq!(checker.missing(), 3);
}

#[test]
fn each_bound_of_a_plan_is_held() {
    type Edit = fn(&mut wire::MeasureRequest);
    let cases: &[(Edit, &str)] = &[
        (|r| r.targets.clear(), "no targets"),
        (
            |r| r.targets = vec![r.targets[0].clone(); 65],
            "65 paths, at most 64 are measured in one call",
        ),
        (
            |r| r.targets[1].address = "[::]:7411".into(),
            "target 1: `[::]:7411` is not an address with a port",
        ),
        (
            |r| r.targets[0].address = "10.0.0.1:0".into(),
            "target 0: `10.0.0.1:0` is not an address with a port",
        ),
        (
            |r| r.targets[0].kind = "tcp".into(),
            "target 0: unknown kind `tcp`",
        ),
        (
            |r| r.targets[0].node = String::new(),
            "target 0: `` is not a name",
        ),
        (
            |r| r.transfer_bytes = 67_108_865,
            "a transfer of 67108865 bytes in 2s, must be 262144 to 67108864 bytes in 100ms to 5s",
        ),
        (
            |r| r.transfer_bytes = 0,
            "a transfer of 0 bytes in 2s, must be 262144 to 67108864 bytes in 100ms to 5s",
        ),
        (
            |r| r.transfer_ms = 5_001,
            "a transfer of 16000000 bytes in 5.001s, must be 262144 to 67108864 bytes in 100ms to 5s",
        ),
        (
            |r| {
                r.targets[0].kind = "throughput".into();
                r.targets = vec![r.targets[0].clone(); 40];
            },
            "the plan may need 1520000000 bytes, at most 1073741824 are measured in one call",
        ),
    ];
    for (edit, expected) in cases {
        let mut request = wire::MeasureRequest::from(&plan());
        edit(&mut request);
        let refusal = MeasurePlan::try_from(&request).expect_err(expected);
        assert_eq!(refusal.to_string(), *expected);
    }
    assert_eq!(plan().most_bytes(), 12_000_000);
}

fn moved() -> Throughput {
    Throughput {
        bytes: 16_000_000,
        duration_ns: 1_500_000_000,
        by_time: false,
        retransmits: Some(3),
        min_rtt_us: Some(2_100),
        rtt: Some(LoadedRtt {
            idle_min_ns: 2_000_000,
            loaded_p50_ns: 30_000_000,
            loaded_p99_ns: 42_000_000,
            idle: 20,
            loaded: 150,
            lost: 1,
        }),
    }
}

fn transfer_plan() -> MeasurePlan {
    let mut plan = plan();
    plan.targets.truncate(1);
    plan.targets[0].kind = MeasureKind::Throughput;
    plan
}

fn transferred(found: Throughput) -> wire::MeasureResult {
    let measurement = Measurement {
        figure: Some(Figure::Throughput(found)),
        ..measured(PathDirection::Forward)
    };
    measure_result(0, &measurement)
}

#[test]
fn a_transfer_survives_the_wire() {
    assert_eq!(transfer_plan().most_bytes(), 38_000_000);
    for found in [
        moved(),
        Throughput {
            by_time: true,
            retransmits: None,
            min_rtt_us: None,
            rtt: None,
            ..moved()
        },
    ] {
        let mut checker = MeasureChecker::new(&transfer_plan());
        let (_, accepted) = checker.accept(transferred(found.clone())).expect("honest");
        assert_eq!(accepted.figure, Some(Figure::Throughput(found)));
    }
    assert_eq!(moved().rtt.map(|rtt| rtt.queueing_ns()), Some(40_000_000));
    assert!((moved().bits_per_second() - 85_333_333.3).abs() < 1.0);
}

#[test]
fn a_transfer_may_not_claim_what_cannot_be() {
    type Edit = fn(&mut wire::Throughput);
    fn rtt(found: &mut wire::Throughput) -> &mut wire::LoadedRtt {
        found.rtt.as_mut().unwrap()
    }
    let cases: &[(Edit, &str)] = &[
        (|t| t.bytes = 0, "moved nothing"),
        (|t| t.duration_ns = 0, "took no time"),
        (|t| t.bytes = 16_000_001, "moved more than was asked"),
        (|t| t.bytes = u64::MAX, "moved more than was asked"),
        (|t| t.duration_ns = u64::MAX, "took longer than it may"),
        (
            |t| rtt(t).loaded_p50_ns = u64::MAX,
            "has round trips that cannot be",
        ),
        (|t| rtt(t).idle = 0, "has round trips that cannot be"),
        (|t| rtt(t).loaded = 0, "has round trips that cannot be"),
    ];
    for (edit, why) in cases {
        let mut result = transferred(moved());
        edit(result.throughput.as_mut().unwrap());
        let mut checker = MeasureChecker::new(&transfer_plan());
        let refusal = checker.accept(result).expect_err(why);
        assert_eq!(
            refusal.to_string(),
            format!("the forward measurement of target 0 {why}")
        );
    }
    // A figure of another kind is none.
    let mut checker = MeasureChecker::new(&transfer_plan());
    let other = measure_result(0, &measured(PathDirection::Forward));
    assert!(checker.accept(other).is_err());
}

#[test]
fn hostile_results_are_refused() {
    type Edit = fn(&mut wire::MeasureResult);
    fn of(result: &mut wire::MeasureResult) -> &mut wire::PathMtu {
        result.path_mtu.as_mut().unwrap()
    }
    let said = |why: &str| format!("the forward measurement of target 0 {why}");
    let cases: &[(Edit, String)] = &[
        (
            |r| r.target = 2,
            "result for target 2, but 2 were asked".into(),
        ),
        (
            |r| r.direction = "up".into(),
            "field `direction` is `up`".into(),
        ),
        (
            |r| r.outcome = "fine".into(),
            "field `outcome` is `fine`".into(),
        ),
        (
            |r| r.outcome = "timeout".into(),
            said("failed, but has a figure"),
        ),
        (|r| r.source_port = 0, said("has no source port")),
        (
            |r| r.source_port = 65_536,
            "field `source_port` is `65536`".into(),
        ),
        (|r| r.path_mtu = None, said("has no figure")),
        (
            |r| r.responder_node = "wrk-w-1".into(),
            said("was answered by another"),
        ),
        (
            |r| (r.responder_cluster, r.responder_node) = (String::new(), String::new()),
            said("names nobody as the responder"),
        ),
        (|r| of(r).bytes = 67, said("is below what IP allows")),
        (|r| of(r).bytes = 70_000, "field `bytes` is `70000`".into()),
        (
            |r| of(r).bytes = 1_501,
            said("is larger than what the sender can send"),
        ),
        (|r| of(r).bytes = 1_500, said("contradicts its limit")),
        (
            |r| of(r).limit = "local".into(),
            said("contradicts its limit"),
        ),
        (
            |r| of(r).limit = "ceiling".into(),
            said("contradicts its limit"),
        ),
        (
            |r| of(r).limit = "magic".into(),
            "field `limit` is `magic`".into(),
        ),
        (
            |r| of(r).reported_mtu = None,
            said("names a hop's error, but no hop"),
        ),
        (
            |r| of(r).reported_hop = "\u{1b}[31m".into(),
            "field `reported_hop` is `\\u{1b}[31m`".into(),
        ),
        (
            |r| (of(r).limit, of(r).route_after) = ("absorbed".into(), None),
            said("says that the kernel has learnt, but not what"),
        ),
        (
            |r| of(r).sized_answered = 13,
            said("has more answers than questions"),
        ),
        (
            |r| of(r).small_answered = 14,
            said("has more answers than questions"),
        ),
        (|r| of(r).small_answered = 0, said("was not measured")),
    ];
    for (edit, expected) in cases {
        let mut result = measure_result(0, &measured(PathDirection::Forward));
        edit(&mut result);
        let mut checker = MeasureChecker::new(&plan());
        let refusal = checker.accept(result).expect_err(expected);
        assert_eq!(refusal.to_string(), *expected);
        assert_eq!(checker.missing(), 4);
    }
    let mut checker = MeasureChecker::new(&plan());
    let result = measure_result(0, &measured(PathDirection::Forward));
    checker.accept(result.clone()).expect("once");
    let refusal = checker.accept(result).expect_err("twice");
    assert_eq!(refusal.to_string(), said("came twice"));
    // Routers do not fragment IPv6.
    let result = measure_result(1, &measured(PathDirection::Return));
    let refusal = checker.accept(result).expect_err("fragments");
    assert_eq!(
        refusal.to_string(),
        "the return measurement of target 1 has fragments where there are none"
    );
}
