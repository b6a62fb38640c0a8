//! What the line counted, per path direction and in all, and how punctual it was.

use std::collections::{BTreeMap, VecDeque};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::book::PathId;
use super::effect::Nanos;
use super::fault::EndpointRef;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LineStats {
    /// CLOCK_MONOTONIC, as all times here.
    pub now_ns: Nanos,
    /// Path directions that carried packets.
    pub paths: Vec<PathStats>,
    pub counters: Counters,
    pub queued_packets: u64,
    pub queued_bytes: u64,
    /// Packets the kernel dropped since the line's start because it did not read them in time; `None` if the device does
    /// not say.
    pub device_dropped: Option<u64>,
    /// Written against due, all packets.
    pub lateness: Lateness,
    /// Every time the line was woken: how long it then waited for a CPU.
    pub wakeups: Lateness,
    pub starved: Starved,
}

/// Packets of no path direction, and failures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Source or target belongs to nobody.
    pub unknown: u64,
    /// Multicast and link-local packets of the namespace itself, which no router forwards.
    pub link_scope: u64,
    pub malformed: u64,
    /// No room among the packets under way (unknown ones that pass, and answers).
    pub overflow: u64,
    pub write_errors: u64,
    pub read_errors: u64,
    /// The last error of either kind, in words.
    pub last_error: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathStats {
    pub source: EndpointRef,
    pub target: EndpointRef,
    #[serde(flatten)]
    pub counts: PathCounts,
    pub lateness: Lateness,
}

/// At rest: `packets + duplicated + fragments − fragmented = delivered + dropped.total()`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathCounts {
    pub packets: u64,
    pub bytes: u64,
    pub delivered: u64,
    pub delivered_bytes: u64,
    pub dropped: Drops,
    /// Left later than they came.
    pub delayed: u64,
    pub reordered: u64,
    /// Extra copies.
    pub duplicated: u64,
    /// Payload changed; TCP segments made resets.
    pub corrupted: u64,
    pub reset: u64,
    /// Packets that were cut, and the pieces they became.
    pub fragmented: u64,
    pub fragments: u64,
    /// "Packet too big" errors sent back.
    pub too_big_sent: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    pub blackhole: u64,
    pub loss: u64,
    pub rate: u64,
    pub mtu: u64,
    /// No room among the packets under way: the line's own limit, not a fault.
    pub overflow: u64,
    pub write_error: u64,
}

impl Drops {
    pub fn total(&self) -> u64 {
        self.blackhole + self.loss + self.rate + self.mtu + self.overflow + self.write_error
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lateness {
    pub count: u64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
}

/// When the line did not get to run in time. A measurement that overlaps an interval is void.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Starved {
    pub count: u64,
    pub total_ns: u64,
    /// The latest ones, oldest first.
    pub intervals: Vec<Interval>,
    /// Older intervals that are no longer listed.
    pub forgotten: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interval {
    pub from_ns: Nanos,
    pub to_ns: Nanos,
}

impl Starved {
    /// True if any interval touches `from … to`, or if it might have been one of the forgotten.
    pub fn overlaps(&self, from: Nanos, to: Nanos) -> bool {
        let forgotten = self.forgotten > 0
            && self
                .intervals
                .first()
                .is_none_or(|first| from <= first.from_ns);
        forgotten
            || self
                .intervals
                .iter()
                .any(|interval| interval.from_ns <= to && from <= interval.to_ns)
    }
}

/// Up to 60 s, three parts in a thousand.
pub(super) struct Recorder(Histogram<u32>);

impl Recorder {
    pub(super) fn new() -> Self {
        // The bounds are constants that hdrhistogram accepts.
        Self(Histogram::new_with_bounds(1, 60_000_000_000, 2).expect("valid bounds"))
    }

    pub(super) fn record(&mut self, late: Nanos) {
        self.0.saturating_record(late);
    }

    pub(super) fn summary(&self) -> Lateness {
        if self.0.is_empty() {
            return Lateness::default();
        }
        let us = |ns: u64| ns as f64 / 1e3;
        Lateness {
            count: self.0.len(),
            p50_us: us(self.0.value_at_quantile(0.5)),
            p99_us: us(self.0.value_at_quantile(0.99)),
            max_us: us(self.0.max()),
        }
    }
}

const KEPT_INTERVALS: usize = 1024;

#[derive(Default)]
pub(super) struct StarvedLog {
    intervals: VecDeque<Interval>,
    count: u64,
    total: u64,
    forgotten: u64,
}

impl StarvedLog {
    /// Overlapping intervals count once.
    pub(super) fn add(&mut self, from: Nanos, to: Nanos) {
        if let Some(last) = self.intervals.back_mut()
            && from <= last.to_ns
        {
            let start = last.from_ns.min(from);
            let end = last.to_ns.max(to);
            self.total += (end - start) - (last.to_ns - last.from_ns);
            *last = Interval {
                from_ns: start,
                to_ns: end,
            };
            return;
        }
        self.count += 1;
        self.total += to - from;
        if self.intervals.len() == KEPT_INTERVALS {
            self.intervals.pop_front();
            self.forgotten += 1;
        }
        self.intervals.push_back(Interval {
            from_ns: from,
            to_ns: to,
        });
    }

    pub(super) fn snapshot(&self) -> Starved {
        Starved {
            count: self.count,
            total_ns: self.total,
            intervals: self.intervals.iter().copied().collect(),
            forgotten: self.forgotten,
        }
    }
}

pub(super) struct PathRecord {
    pub(super) counts: PathCounts,
    pub(super) lateness: Recorder,
}

/// Records appear with the first packet of their path direction.
#[derive(Default)]
pub(super) struct PathRecords(BTreeMap<PathId, PathRecord>);

impl PathRecords {
    pub(super) fn of(&mut self, path: PathId) -> &mut PathRecord {
        self.0.entry(path).or_insert_with(|| PathRecord {
            counts: PathCounts::default(),
            lateness: Recorder::new(),
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PathId, &PathRecord)> {
        self.0.iter().map(|(path, record)| (*path, record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_starvation_counts_once() {
        let mut log = StarvedLog::default();
        log.add(100, 200);
        log.add(150, 250);
        log.add(50, 120);
        log.add(400, 500);
        let starved = log.snapshot();
        assert_eq!((starved.count, starved.total_ns), (2, 300));
        assert!(
            starved.overlaps(0, 60) && starved.overlaps(240, 300) && starved.overlaps(450, 460)
        );
        assert!(
            !starved.overlaps(260, 390) && !starved.overlaps(0, 40) && !starved.overlaps(501, 600)
        );
    }

    #[test]
    fn forgotten_intervals_void_what_they_might_have_touched() {
        let mut log = StarvedLog::default();
        for index in 0..KEPT_INTERVALS as u64 + 10 {
            log.add(index * 100, index * 100 + 1);
        }
        let starved = log.snapshot();
        assert_eq!(
            (starved.forgotten, starved.intervals.len()),
            (10, KEPT_INTERVALS)
        );
        assert!(starved.overlaps(50, 60));
        assert!(!starved.overlaps(2_050, 2_060));
    }

    #[test]
    fn quantiles_are_in_microseconds() {
        let mut recorder = Recorder::new();
        assert_eq!(recorder.summary(), Lateness::default());
        (1..=1000).for_each(|ns| recorder.record(ns * 1000));
        let summary = recorder.summary();
        assert!(
            (summary.p50_us - 500.0).abs() < 6.0 && (summary.p99_us - 990.0).abs() < 11.0,
            "{summary:?}"
        );
        assert!(summary.max_us >= 1000.0 && summary.count == 1000);
    }
}
