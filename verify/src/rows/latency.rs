//! `latency.*`: the share of connects and handshakes above the threshold. Failed ones are above it.

use std::collections::{BTreeMap, BTreeSet};

use mesh::Link;
use mesh::observation::{KernelOutcome, NodeRef, Outcome, Plane, ProbeKind};

use super::{Draft, Trial, count, percent, unwitnessed};
use crate::checks::{LATENCY_CONNECT, LATENCY_HANDSHAKE};
use crate::quantile::quantile;
use crate::view::{Probe, View};

/// The share that may exceed the threshold: the objective is a p99.
const EXCEEDING: f64 = 0.01;
/// Default threshold of a node pair: this many of its shortest times, plus the head-room.
const DEFAULT_FACTOR: f64 = 3.0;
const DEFAULT_HEADROOM_SECONDS: f64 = 0.020;

pub(super) fn rows(view: &View<'_>, link: &Link) -> Vec<Draft> {
    let mut handshake = row(view, link, LATENCY_HANDSHAKE, |probe| {
        match probe.source {
            // Coverage speaks of connections without a record.
            None => Reading::Nothing,
            Some(record) => match (record.outcome, record.handshake_rtt_us) {
                (KernelOutcome::Local, _) => Reading::Nothing,
                (KernelOutcome::Established, Some(us)) => Reading::Seconds(f64::from(us) * 1e-6),
                (KernelOutcome::Established, None) => Reading::Nothing,
                _ => Reading::Failed,
            },
        }
    });
    if let Some(test) = &mut handshake.test {
        test.missing.extend(unwitnessed(view, &link.source));
    }
    let connect = row(view, link, LATENCY_CONNECT, |probe| {
        match (probe.sample.outcome, probe.sample.connect_ns) {
            (Outcome::Ok, Some(ns)) if probe.sample.starved => {
                // The kernel's time of the same connect is free of the prober's stall.
                let kernel = probe.source.and_then(|record| record.connect_ns);
                match kernel {
                    Some(ns) => Reading::Seconds(ns as f64 * 1e-9),
                    None => Reading::AtMost(ns as f64 * 1e-9),
                }
            }
            (Outcome::Ok, Some(ns)) => Reading::Seconds(ns as f64 * 1e-9),
            _ if probe.doubtful() => Reading::Doubtful,
            _ => Reading::Failed,
        }
    });
    vec![connect, handshake]
}

/// A send that was late by more than this shows that the source was stalled.
const STALL_SECONDS: f64 = 0.005;
/// Longest time after sending in which a stall voids a sample's time.
const LONGEST_WINDOW_SECONDS: f64 = 0.1;

/// When the source's TCP prober was stalled in one look, s since the start of its run, merged and ascending.
///
/// Read from late *sends* alone: whether a send is late does not depend on how any probe ends, so voiding
/// every sample near a stall, good or bad, cannot favour either.
struct Stalls(Vec<(f64, f64)>);

impl Stalls {
    fn of(view: &View<'_>, source: &NodeRef, look: u32) -> Self {
        let mut intervals: Vec<(f64, f64)> = view
            .observations
            .runs
            .iter()
            .filter(|run| {
                &run.source == source
                    && run.kind == ProbeKind::Tcp
                    && run.plane == Plane::Pod
                    && run.look == look
            })
            .flat_map(|run| &run.samples)
            .map(|sample| (sample.sent_ns as f64 * 1e-9, sample.delay_ns as f64 * 1e-9))
            .filter(|(_, delay)| *delay > STALL_SECONDS)
            .map(|(sent, delay)| (sent - delay, sent))
            .collect();
        intervals.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut merged: Vec<(f64, f64)> = Vec::new();
        for (start, end) in intervals {
            match merged.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => merged.push((start, end)),
            }
        }
        Self(merged)
    }

    fn meets(&self, from: f64, to: f64) -> bool {
        let next = self.0.partition_point(|(_, end)| *end < from);
        self.0.get(next).is_some_and(|(start, _)| *start <= to)
    }
}

enum Reading {
    Seconds(f64),
    /// A stall only ever makes it longer.
    AtMost(f64),
    Failed,
    Doubtful,
    Nothing,
}

fn row(view: &View<'_>, link: &Link, id: &str, read: impl Fn(&Probe<'_>) -> Reading) -> Draft {
    let probes = || view.of(link, Plane::Pod, ProbeKind::Tcp);
    let sent = |probe: &&Probe<'_>| probe.sample.outcome != Outcome::LocalError;
    // By the pair's first look, so that later samples do not move the threshold under the earlier ones.
    let mut shortest: BTreeMap<(String, String), (u32, f64)> = BTreeMap::new();
    let mut minimum: Option<f64> = None;
    for probe in probes().filter(sent) {
        if let Reading::Seconds(seconds) = read(probe) {
            minimum = Some(minimum.map_or(seconds, |least| least.min(seconds)));
            let look = probe.run.look;
            let known = shortest.entry(probe.cell()).or_insert((look, seconds));
            if look < known.0 {
                *known = (look, seconds);
            } else if look == known.0 {
                known.1 = known.1.min(seconds);
            }
        }
    }
    let declared = declared(view, link);
    let threshold = |cell: &(String, String)| {
        let shortest = shortest.get(cell).map_or(0.0, |(_, seconds)| *seconds);
        declared.unwrap_or(DEFAULT_FACTOR * shortest + DEFAULT_HEADROOM_SECONDS)
    };
    let looks: BTreeSet<u32> = view.observations.runs.iter().map(|run| run.look).collect();
    let stalls: BTreeMap<(&str, u32), Stalls> = view
        .nodes(&link.source)
        .iter()
        .flat_map(|node| looks.iter().map(move |look| (node, *look)))
        .map(|(node, look)| {
            let source = NodeRef {
                cluster: link.source.clone(),
                node: node.name.clone(),
            };
            let stalls = Stalls::of(view, &source, look);
            ((node.name.as_str(), look), stalls)
        })
        .collect();
    let stalled = |probe: &Probe<'_>| {
        let from = probe.sample.sent_ns as f64 * 1e-9;
        let window = threshold(&probe.cell()).min(LONGEST_WINDOW_SECONDS);
        stalls
            .get(&(probe.run.source.node.as_str(), probe.run.look))
            .is_some_and(|stalls| stalls.meets(from, from + window))
    };
    let mut values = Vec::new();
    let mut failed = 0;
    let mut voided: BTreeMap<String, u64> = BTreeMap::new();
    let counted = count(probes(), |probe| {
        let reading = read(probe);
        if !matches!(reading, Reading::Nothing) && stalled(probe) {
            let source = &probe.run.source.node;
            match voided.get_mut(source) {
                Some(n) => *n += 1,
                None => drop(voided.insert(source.clone(), 1)),
            }
            return Trial::Skip;
        }
        match reading {
            Reading::Nothing => Trial::Skip,
            Reading::Doubtful => Trial::Doubtful,
            Reading::Failed => {
                failed += 1;
                Trial::Bad("failed")
            }
            Reading::AtMost(seconds) if seconds > threshold(&probe.cell()) => Trial::Doubtful,
            Reading::AtMost(_) => Trial::Good,
            Reading::Seconds(seconds) => {
                values.push(seconds);
                if seconds > threshold(&probe.cell()) {
                    Trial::Bad("slow")
                } else {
                    Trial::Good
                }
            }
        }
    });
    let mut draft = counted.draft(view, id, link, Plane::Pod, EXCEEDING);
    let confidence = view.mesh.objectives.confidence;
    let observed = &mut draft.check.observed;
    observed.excluded_stalled = Some(voided.values().sum()).filter(|n| *n > 0);
    observed.minimum_seconds = minimum;
    observed.p50 = quantile(&values, failed, 0.5, confidence);
    observed.p99 = quantile(&values, failed, 0.99, confidence);
    let largest = shortest
        .keys()
        .map(&threshold)
        .reduce(f64::max)
        .or(declared);
    if let Some(test) = &mut draft.test {
        test.stalled = voided;
    }
    draft.check.expected.threshold_seconds = largest;
    let rule = if declared.is_some() {
        "declared"
    } else {
        "3 × the node pair's shortest + 20 ms"
    };
    draft.check.expected.text = match largest {
        Some(seconds) => format!(
            "at most {} of them take longer than {:.1} ms ({rule})",
            percent(EXCEEDING),
            seconds * 1e3
        ),
        None => format!(
            "at most {} of them take longer than {rule}",
            percent(EXCEEDING)
        ),
    };
    draft
}

fn declared(view: &View<'_>, link: &Link) -> Option<f64> {
    let objectives = &view.mesh.objectives;
    objectives
        .latency_p99_by_link
        .iter()
        .find(|(of, _)| of == link)
        .map(|(_, seconds)| *seconds)
        .or(objectives.latency_p99_seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalls_void_what_they_touch() {
        let stalls = Stalls(vec![(1.0, 1.1), (2.0, 2.5)]);
        let cases = [
            (0.0, 0.9, false),
            (0.9, 1.0, true),
            (1.05, 1.06, true),
            (1.11, 1.99, false),
            (1.11, 3.0, true),
            (2.5, 2.6, true),
            (2.6, 9.0, false),
        ];
        for (from, to, expected) in cases {
            assert_eq!(stalls.meets(from, to), expected, "{from} {to}");
        }
        assert!(!Stalls(Vec::new()).meets(0.0, 9.0));
    }
}
