//! `latency.*`: the share of connects and handshakes above the threshold. Failed ones are above it.

use std::collections::BTreeMap;

use mesh::Link;
use mesh::observation::{KernelOutcome, Outcome, Plane, ProbeKind};

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
    let usable = |probe: &&Probe<'_>| probe.sample.outcome != Outcome::LocalError;
    let mut minima: BTreeMap<(String, String), f64> = BTreeMap::new();
    let mut values = Vec::new();
    let mut failed = 0;
    for probe in probes().filter(usable) {
        match read(probe) {
            Reading::Seconds(seconds) => {
                let minimum = minima.entry(probe.cell()).or_insert(seconds);
                *minimum = minimum.min(seconds);
                values.push(seconds);
            }
            Reading::Failed => failed += 1,
            Reading::AtMost(_) | Reading::Doubtful | Reading::Nothing => {}
        }
    }
    let declared = declared(view, link);
    let threshold = |cell: &(String, String)| {
        let shortest = minima.get(cell).copied().unwrap_or(0.0);
        declared.unwrap_or(DEFAULT_FACTOR * shortest + DEFAULT_HEADROOM_SECONDS)
    };
    let counted = count(probes(), |probe| match read(probe) {
        Reading::Nothing => Trial::Skip,
        Reading::Failed => Trial::Bad("failed"),
        Reading::Seconds(seconds) if seconds > threshold(&probe.cell()) => Trial::Bad("slow"),
        Reading::AtMost(seconds) if seconds > threshold(&probe.cell()) => Trial::Doubtful,
        Reading::Seconds(_) | Reading::AtMost(_) => Trial::Good,
        Reading::Doubtful => Trial::Doubtful,
    });
    let mut draft = counted.draft(view, id, link, Plane::Pod, EXCEEDING);
    let confidence = view.mesh.objectives.confidence;
    let observed = &mut draft.check.observed;
    observed.minimum_seconds = minima.values().copied().reduce(f64::min);
    observed.p50 = quantile(&values, failed, 0.5, confidence);
    observed.p99 = quantile(&values, failed, 0.99, confidence);
    let largest = minima.keys().map(&threshold).reduce(f64::max).or(declared);
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
