//! Hostile and honest replies.

use std::time::Duration;

use mesh::observation::{Outcome, ProbeKind, ProbeTarget, Sample};

use super::*;
use crate::request::{PlannedTarget, ProbePlan};
use crate::results::{ResultChecker, probe_result};

fn plan(kind: ProbeKind) -> ProbePlan {
    ProbePlan {
        targets: vec![PlannedTarget {
            target: ProbeTarget {
                cluster: "west".into(),
                node: Some("w-1".into()),
                service: None,
                address: "10.1.0.1:7411".parse().unwrap(),
                question: None,
            },
            kind,
            count: 2,
        }],
        interval: Duration::from_millis(10),
        timeout: Duration::from_secs(1),
    }
}

fn ok_sample() -> Sample {
    Sample {
        sequence: 0,
        source_port: 61_000,
        sent_ns: 5,
        delay_ns: 1,
        outcome: Outcome::Ok,
        connect_ns: Some(1_000),
        round_trip_ns: Some(2_000),
        responder: Some(NodeRef {
            cluster: "west".into(),
            node: "w-1".into(),
        }),
        receiver_count: Some(1),
        starved: false,
    }
}

#[test]
fn an_honest_sample_survives_the_wire() {
    let mut checker = ResultChecker::new(&plan(ProbeKind::Tcp));
    assert_eq!(checker.missing(), 2);
    let accepted = checker.accept(probe_result(0, &ok_sample()));
    assert_eq!(accepted, Ok((0, ok_sample())));
    assert_eq!(checker.missing(), 1);
}

#[test]
fn a_result_that_contradicts_itself_or_the_plan_is_refused() {
    type Edit = fn(&mut wire::ProbeResult);
    let cases: &[(ProbeKind, Edit, &str)] = &[
        (
            ProbeKind::Tcp,
            |r| r.target = 1,
            "result for target 1, but 1 were asked",
        ),
        (
            ProbeKind::Tcp,
            |r| r.sequence = 2,
            "result 2 of target 0, but 2 probes were asked",
        ),
        (
            ProbeKind::Tcp,
            |r| r.outcome = "OK".into(),
            "field `outcome` is `OK`",
        ),
        (
            ProbeKind::Tcp,
            |r| r.outcome = String::new(),
            "field `outcome` is ``",
        ),
        (
            ProbeKind::Tcp,
            |r| r.source_port = 65_536,
            "field `source_port` is `65536`",
        ),
        (
            ProbeKind::Tcp,
            |r| r.connect_ns = None,
            "result 0 of target 0 says `ok`, but it has no connect time",
        ),
        (
            ProbeKind::Tcp,
            |r| r.round_trip_ns = None,
            "result 0 of target 0 says `ok`, but it has no round trip",
        ),
        (
            ProbeKind::Udp,
            |r| r.receiver_count = None,
            "result 0 of target 0 says `ok`, but it has no receiver's count",
        ),
        (
            ProbeKind::Tcp,
            |r| r.responder_node = "w-2".into(),
            "result 0 of target 0 says `ok`, but somebody else answered",
        ),
        (
            ProbeKind::Http,
            |r| {
                r.responder_node.clear();
                r.responder_cluster.clear();
            },
            "result 0 of target 0 says `ok`, but nobody is named as the responder",
        ),
        (
            ProbeKind::Tcp,
            |r| r.responder_cluster = "\u{1b}]0;x".into(),
            "field `responder_cluster` is `\\u{1b}]0;x`",
        ),
        (
            ProbeKind::Tcp,
            |r| r.source_port = 0,
            "result 0 of target 0 says `ok`, but it has no source port",
        ),
    ];
    for (kind, edit, expected) in cases {
        let mut checker = ResultChecker::new(&plan(*kind));
        let mut result = probe_result(0, &ok_sample());
        edit(&mut result);
        let refusal = checker.accept(result).expect_err(expected);
        assert_eq!(refusal.to_string(), *expected);
        assert_eq!(checker.missing(), 2, "a refused result counts for nothing");
    }
}

#[test]
fn a_result_counts_once() {
    let mut checker = ResultChecker::new(&plan(ProbeKind::Tcp));
    checker.accept(probe_result(0, &ok_sample())).unwrap();
    assert_eq!(
        checker.accept(probe_result(0, &ok_sample())),
        Err(WireError::Twice {
            target: 0,
            sequence: 0
        })
    );
}

#[test]
fn a_failed_probe_needs_no_figures() {
    let failed = Sample {
        outcome: Outcome::Timeout,
        connect_ns: None,
        round_trip_ns: None,
        responder: None,
        receiver_count: None,
        ..ok_sample()
    };
    let mut checker = ResultChecker::new(&plan(ProbeKind::Tcp));
    assert_eq!(
        checker.accept(probe_result(0, &failed)),
        Ok((0, failed.clone()))
    );
}

#[test]
fn histograms_must_be_sparse_ascending_pairs() {
    let good = Histogram {
        buckets: vec![(3, 1), (9, u64::MAX)],
        sum_ns: 7,
    };
    let wired = wire::Histogram::from(&good);
    assert_eq!(histogram("connect", &wired), Ok(good.clone()));
    assert_eq!(good.count(), u64::MAX, "a sum never wraps");
    for (index, count) in [
        (vec![1, 2], vec![1]),
        (vec![2, 1], vec![1, 1]),
        (vec![1, 1], vec![1, 1]),
        (vec![70_000], vec![1]),
    ] {
        let bad = wire::Histogram {
            index,
            count,
            sum_ns: 0,
        };
        assert!(histogram("connect", &bad).is_err(), "{bad:?}");
    }
}

#[test]
fn the_account_is_the_difference_and_sees_a_clock_step() {
    let identity = Identity {
        node: NodeRef {
            cluster: "east".into(),
            node: "e-1".into(),
        },
        plane: Plane::Pod,
        boot_id: "a1".into(),
        version: "0".into(),
        kernel_witness: false,
        kernel_detail: "no pins".into(),
        wall_ns: 0,
        monotonic_ns: 0,
    };
    let at = |produced: u64, wall_ns: u64, monotonic_ns: u64| Observation {
        boot_id: "a1".into(),
        layout: 1,
        series: vec![],
        counters: BTreeMap::from([(EVENTS_PRODUCED.to_owned(), produced)]),
        received: BTreeMap::from([("10.0.0.1".parse().expect("an address"), produced)]),
        wall_ns,
        monotonic_ns,
    };
    let account = at(15, 9_000_000_000, 3_000_000_000)
        .account_since(&at(5, 1_000_000_000, 1_000_000_000), &identity);
    assert_eq!(account.events_produced, 10);
    let node = NodeRef {
        cluster: "east".into(),
        node: "e-1".into(),
    };
    let received = at(15, 0, 0).received_since(&at(5, 0, 0), &node);
    assert_eq!((received.len(), received[0].datagrams), (1, 10));
    assert_eq!(account.kernel_witness.as_deref(), Some("no pins"));
    assert!((account.clock_step_seconds - 6.0).abs() < 1e-9);
}

#[test]
fn foreign_text_cannot_steer_a_terminal() {
    assert_eq!(
        printable("a\u{1b}[2J\u{202e}b", 80),
        "a\\u{1b}[2J\\u{202e}b"
    );
    assert_eq!(printable("aaaa", 2), "aa…");
}
