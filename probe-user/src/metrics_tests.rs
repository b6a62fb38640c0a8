//! The exposition: names and labels are a contract, and no sum counts a connection twice.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use mesh::observation::{ProbeKind, Sample};
use probe_common::{ClassId, RemoteId, SeriesKey, Slot};

use super::definitions::{ALL, Definition, Kind};
use super::*;
use crate::probe_counts::ProbeCounts;
use crate::sys::maps::{ProgramState, SeriesData};

const MESH: &str = "
mesh: test
clusters:
  - name: east
    id: 1
    node_networks: [192.168.15.0/24]
    pod_cidrs: [10.244.0.0/16]
    nodes: [{name: e-1, addresses: [192.168.15.11]}]
  - name: west
    id: 2
    node_networks: [192.168.20.0/24]
    pod_cidrs: [10.245.0.0/16]
    nodes: [{name: w-1, addresses: [192.168.20.11]}]
  - name: pi
    id: 3
    node_networks: [192.168.10.0/24]
    pod_cidrs: [10.246.0.0/16]
    nodes: [{name: p-1, addresses: [192.168.10.11]}]
clients:
  - {name: drones, prefixes: [192.168.50.0/24]}
";

fn series(remote: &str, direction: Direction, origin: Origin, established: u64) -> NamedSeries {
    let mut slot = Box::new(Slot::EMPTY);
    slot.counters[Counter::Established as usize] = established;
    slot.counters[Counter::FailedTimeout as usize] = 1;
    slot.counters[Counter::Closed as usize] = 2;
    for _ in 0..established {
        slot.histograms[HistogramKind::Connect as usize].record(40_000_000);
        slot.histograms[HistogramKind::Handshake as usize].record(20_000_000);
    }
    NamedSeries {
        key: SeriesKey::new(RemoteId(8), direction, ClassId::OTHER, origin),
        remote: remote.to_owned(),
        class: "other".to_owned(),
        data: SeriesData { slot },
    }
}

fn reading() -> Reading {
    Reading {
        series: vec![
            series("west", Direction::Initiator, Origin::Probe, 5),
            series("west", Direction::Acceptor, Origin::Probe, 7),
            series("drones", Direction::Acceptor, Origin::Traffic, 3),
            series("west", Direction::Unknown, Origin::Traffic, 0),
        ],
        counters: GlobalCounter::ALL.iter().map(|c| (*c, 4)).collect(),
        programs: vec![ProgramState {
            program: "sock_ops",
            refused: None,
        }],
        egress_rests: true,
    }
}

fn exposition(reading: Option<&Reading>) -> String {
    let counts = ProbeCounts::default();
    counts.declare(ProbeKind::NdviTile, "west");
    let sample = Sample {
        sequence: 0,
        source_port: 61_000,
        sent_ns: 0,
        delay_ns: 0,
        outcome: Outcome::Ok,
        connect_ns: Some(1),
        round_trip_ns: Some(1_000_000),
        responder: None,
        receiver_count: None,
        starved: false,
    };
    counts.background(ProbeKind::NdviTile, "west", &sample);
    counts.burst(ProbeKind::Udp, &sample);
    let me = NodeRef {
        cluster: "east".into(),
        node: "e-1".into(),
    };
    let mesh = Mesh::parse("test", MESH).unwrap_or_else(|e| panic!("{}", e.render(MESH)));
    let own = ALL
        .iter()
        .filter_map(|definition| match definition.labels {
            ["source_cluster"] => Some((*definition, None, 9)),
            ["source_cluster", _] if *definition != &d::PROGRAM => {
                Some((*definition, Some("x"), 9))
            }
            _ => None,
        })
        .filter(|(definition, ..)| {
            // Those come from elsewhere.
            ![&d::WITNESS, &d::SERIES_FULL].contains(definition) && !GLOBAL.contains(definition)
        })
        .collect();
    collect(&Inputs {
        me: &me,
        plane: Plane::Pod,
        mesh: &mesh,
        reading,
        background: counts.background_series(),
        bursts: counts.burst_probes(),
        own,
        measured: vec![
            LatestFigure {
                cluster: "west".into(),
                direction: PathDirection::Return,
                path_mtu: Some(1_450),
                goodput_bytes_per_second: None,
            },
            LatestFigure {
                cluster: "pi".into(),
                direction: PathDirection::Forward,
                path_mtu: None,
                goodput_bytes_per_second: Some(1_200_000),
            },
        ],
        witness: reading.is_some(),
        process: Process::default(),
    })
    .into_text()
    .expect("encodes")
}

static GLOBAL: &[&Definition] = &[
    &d::EVENTS_PRODUCED,
    &d::EVENTS_LOST,
    &d::EVENTS_SUPPRESSED,
    &d::STORAGE_FAILED,
    &d::TABLE_TAKEN,
    &d::FLAGS_LOST,
    &d::FLAGS_REFUSED,
    &d::OLD_SEEN,
    &d::OLD_COVERED,
    &d::RTT_UNRECOVERED,
];

/// Name, labels and value of every sample.
fn parse(text: &str) -> Vec<(String, BTreeMap<String, String>, f64)> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (id, value) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = id.split_once('{').unwrap_or((id, "}"));
            let labels = labels
                .trim_end_matches('}')
                .split("\",")
                .filter_map(|pair| pair.split_once("=\""))
                .map(|(k, v)| (k.to_owned(), v.trim_end_matches('"').to_owned()))
                .collect();
            (name.to_owned(), labels, value.parse().expect("a number"))
        })
        .collect()
}

fn sum(text: &str, name: &str, matchers: &[(&str, &str)]) -> f64 {
    parse(text)
        .iter()
        .filter(|(sample, labels, _)| {
            sample == name
                && matchers
                    .iter()
                    .all(|(k, v)| labels.get(*k).is_some_and(|found| found == v))
        })
        .map(|(_, _, value)| value)
        .sum()
}

#[test]
fn the_slo_rules_find_what_they_select() {
    let text = exposition(Some(&reading()));
    let samples = parse(&text);
    let selectors = include_str!("../testdata/slo-selectors.txt");
    let mut checked = 0;
    for line in selectors.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split(' ');
        match words.next().unwrap() {
            "-" => {
                let absent = words.next().unwrap();
                assert!(
                    !samples.iter().any(|(name, ..)| name == absent),
                    "{absent} is exported, so say so"
                );
            }
            name => {
                let matchers: Vec<_> = words
                    .next()
                    .unwrap()
                    .split(',')
                    .filter_map(|pair| pair.split_once('='))
                    .collect();
                let by: Vec<_> = words.next().unwrap().split(',').collect();
                let found = samples.iter().any(|(sample, labels, _)| {
                    sample == name
                        && matchers.iter().all(|(k, v)| {
                            labels.get(*k).map(String::as_str) == Some(v.trim_matches('"'))
                        })
                        && by.iter().all(|label| labels.contains_key(*label))
                });
                assert!(found, "nothing matches `{line}` in\n{text}");
                checked += 1;
            }
        }
    }
    assert_eq!(checked, 10);
}

#[test]
fn a_connect_counts_once_and_for_the_right_pair() {
    let text = exposition(Some(&reading()));
    let connects = "aggrik8s_tcp_connects_total";
    assert_eq!(
        sum(
            &text,
            connects,
            &[("origin", "probe"), ("outcome", "established")]
        ),
        5.0,
        "the seven accepted ones are not connects of ours"
    );
    assert_eq!(
        sum(
            &text,
            connects,
            &[("source_cluster", "east"), ("target_cluster", "west")]
        ),
        6.0
    );
    let accepts = "aggrik8s_tcp_accepts_total";
    assert_eq!(
        sum(
            &text,
            accepts,
            &[("source_cluster", "west"), ("target_cluster", "east")]
        ),
        7.0
    );
    assert_eq!(
        sum(
            &text,
            accepts,
            &[("source_cluster", "external"), ("client", "drones")]
        ),
        3.0
    );
    let open = "aggrik8s_tcp_open_connections";
    assert_eq!(sum(&text, open, &[("direction", "initiator")]), 3.0);
    let within = "aggrik8s_tcp_connect_duration_seconds_bucket";
    assert_eq!(sum(&text, within, &[("le", "0.05")]), 5.0);
    assert_eq!(sum(&text, within, &[("le", "0.025")]), 0.0);
}

#[test]
fn what_will_be_probed_exists_at_zero() {
    let text = exposition(Some(&reading()));
    let zero = parse(&text).into_iter().find(|(name, labels, _)| {
        name == "aggrik8s_tcp_connects_total"
            && labels["target_cluster"] == "pi"
            && labels["outcome"] == "timeout"
    });
    assert_eq!(zero.expect("the link to `pi`").2, 0.0);
}

#[test]
fn without_a_kernel_witness_loss_counters_exist_and_nothing_is_claimed() {
    let text = exposition(None);
    assert_eq!(sum(&text, "aggrik8s_kernel_witness", &[]), 0.0);
    assert!(text.contains("aggrik8s_events_lost_total{source_cluster=\"east\"} 0\n"));
    // The way back: from the other cluster to ours. What was not measured is not there.
    let samples = |name: &str| {
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.collect::<Vec<_>>().join("\n")
    };
    assert_eq!(
        samples("aggrik8s_path_mtu_bytes"),
        "aggrik8s_path_mtu_bytes{source_cluster=\"west\",target_cluster=\"east\",plane=\"pod\"} 1450"
    );
    assert_eq!(
        samples("aggrik8s_path_goodput"),
        "aggrik8s_path_goodput_bytes_per_second{source_cluster=\"east\",target_cluster=\"pi\",plane=\"pod\"} 1200000"
    );
    assert!(!text.contains("aggrik8s_tcp_"), "{text}");
}

#[test]
fn every_family_is_exposed_once_and_named_by_the_rules() {
    let text = exposition(Some(&reading()));
    for definition in ALL {
        let line = format!("# TYPE {} ", definition.name);
        assert_eq!(text.matches(&line).count(), 1, "{}", definition.name);
        assert!(
            !definition.name.ends_with("_total"),
            "the encoder adds the suffix: {}",
            definition.name
        );
        assert!(definition.help.ends_with('.'), "{}", definition.name);
        if definition.kind == Kind::Histogram {
            assert!(definition.name.ends_with("_seconds"));
        }
        for label in definition.labels {
            assert!(
                label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') && *label != "le",
                "{label}"
            );
        }
    }
    let mut names: Vec<_> = ALL.iter().map(|definition| definition.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), ALL.len());
}

/// docs/metrics.md, from the table.
fn reference() -> String {
    let mut text = String::from(include_str!("metrics/reference_head.md"));
    for definition in ALL {
        let kind = match definition.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let labels = definition
            .labels
            .iter()
            .map(|label| format!("`{label}`"))
            .collect::<Vec<_>>()
            .join(", ");
        let _ = writeln!(
            text,
            "| `{}` | {kind} | {} | {} |",
            definition.exposed_name(),
            if labels.is_empty() { "–" } else { &labels },
            definition.help
        );
    }
    text
}

#[test]
fn the_reference_is_current() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let fresh = reference();
    if std::fs::read_to_string(&path).unwrap_or_default() != fresh {
        std::fs::write(&path, &fresh).expect("write docs/metrics.md");
        panic!("docs/metrics.md was stale; rewritten, commit it");
    }
}
