//! Samples that arrived whole but cannot be true. An agent that sends one is believed in nothing.

use std::time::Duration;

use mesh::PROBE_SOURCE_PORTS;
use mesh::observation::{Outcome, Sample};

/// What an agent may be late by against our own clock while it is starved.
const SLACK: Duration = Duration::from_secs(2);

/// Why `sample` cannot be true, if the whole stream took us `elapsed`.
pub(super) fn absurd(sample: &Sample, elapsed: Duration) -> Option<String> {
    let most = u64::try_from((elapsed + SLACK).as_nanos()).unwrap_or(u64::MAX);
    let sequence = sample.sequence;
    let times = [
        ("sent_ns", Some(sample.sent_ns)),
        ("delay_ns", Some(sample.delay_ns)),
        ("connect_ns", sample.connect_ns),
        ("round_trip_ns", sample.round_trip_ns),
    ];
    for (name, value) in times {
        if value.is_some_and(|ns| ns > most) {
            return Some(format!(
                "result {sequence}: `{name}` is longer than the whole run"
            ));
        }
    }
    if sample.connect_ns == Some(0) || sample.round_trip_ns == Some(0) {
        return Some(format!("result {sequence}: an answer in no time at all"));
    }
    if sample.receiver_count == Some(0) {
        return Some(format!(
            "result {sequence}: echoed by a receiver that counted nothing"
        ));
    }
    if sample.outcome != Outcome::LocalError && !PROBE_SOURCE_PORTS.contains(&sample.source_port) {
        return Some(format!(
            "result {sequence}: source port {} is not a probe's",
            sample.source_port
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Sample {
        Sample {
            sequence: 7,
            source_port: 61_500,
            sent_ns: 1_000_000_000,
            delay_ns: 10,
            outcome: Outcome::Ok,
            connect_ns: Some(1_000),
            round_trip_ns: Some(2_000),
            responder: None,
            receiver_count: Some(1),
            starved: false,
        }
    }

    #[test]
    fn each_impossibility_is_named() {
        type Edit = fn(&mut Sample);
        let elapsed = Duration::from_secs(10);
        assert_eq!(absurd(&sample(), elapsed), None);
        let cases: &[(Edit, &str)] = &[
            (|s| s.sent_ns = 12_000_000_001, "`sent_ns`"),
            (|s| s.delay_ns = u64::MAX, "`delay_ns`"),
            (|s| s.connect_ns = Some(13_000_000_000), "`connect_ns`"),
            (|s| s.round_trip_ns = Some(u64::MAX), "`round_trip_ns`"),
            (|s| s.connect_ns = Some(0), "no time"),
            (|s| s.round_trip_ns = Some(0), "no time"),
            (|s| s.receiver_count = Some(0), "counted nothing"),
            (|s| s.source_port = 40_000, "source port 40000"),
        ];
        for (edit, expected) in cases {
            let mut wrong = sample();
            edit(&mut wrong);
            let found = absurd(&wrong, elapsed).unwrap_or_default();
            assert!(found.contains(expected), "{expected}: {found}");
        }
        let mut unsent = sample();
        (unsent.outcome, unsent.source_port) = (Outcome::LocalError, 0);
        assert_eq!(absurd(&unsent, elapsed), None);
    }
}
