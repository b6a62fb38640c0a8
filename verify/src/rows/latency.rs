//! `latency.*`: the share of connects and handshakes above the threshold. Failed ones are above it.

use std::collections::{BTreeMap, BTreeSet};

use mesh::Link;
use mesh::observation::{KernelOutcome, NodeRef, Outcome, Plane, ProbeKind};

use super::{Draft, Trial, count, percent, unwitnessed};
use crate::checks::{LATENCY_CONNECT, LATENCY_HANDSHAKE};
use crate::quantile::quantile;
use crate::tally::CellName;
use crate::view::{Probe, View};

/// The share that may exceed the threshold: the objective is a p99.
const EXCEEDING: f64 = 0.01;
/// Default threshold of a node pair: this many of its shortest times, plus the head-room.
const DEFAULT_FACTOR: f64 = 3.0;
const DEFAULT_HEADROOM_SECONDS: f64 = 0.020;

/// What is timed of a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timed {
    /// By the prober.
    Connect,
    /// By the source's kernel.
    Handshake,
}

impl Timed {
    pub(crate) const ALL: [Self; 2] = [Self::Connect, Self::Handshake];

    fn id(self) -> &'static str {
        match self {
            Self::Connect => LATENCY_CONNECT,
            Self::Handshake => LATENCY_HANDSHAKE,
        }
    }

    fn read(self, probe: &Probe<'_>) -> Reading {
        match self {
            Self::Connect => connect(probe),
            Self::Handshake => handshake(probe),
        }
    }

    /// Whose kernels have to testify.
    pub(super) fn unwitnessed(self, view: &View<'_>, link: &Link) -> Vec<String> {
        match self {
            Self::Connect => Vec::new(),
            Self::Handshake => unwitnessed(view, &link.source),
        }
    }
}

fn handshake(probe: &Probe<'_>) -> Reading {
    // Coverage speaks of connections without a record.
    let Some(record) = probe.source else {
        return Reading::Nothing;
    };
    match (record.outcome, record.handshake_rtt_us) {
        (KernelOutcome::Local, _) => Reading::Nothing,
        (KernelOutcome::Established, Some(us)) => Reading::Seconds(f64::from(us) * 1e-6),
        (KernelOutcome::Established, None) => Reading::Nothing,
        _ => Reading::Failed,
    }
}

fn connect(probe: &Probe<'_>) -> Reading {
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
}

pub(super) fn rows(view: &View<'_>, link: &Link) -> Vec<Draft> {
    Timed::ALL.map(|timed| row(view, link, timed)).into()
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

pub(crate) enum Reading {
    Seconds(f64),
    /// A stall only ever makes it longer.
    AtMost(f64),
    Failed,
    Doubtful,
    Nothing,
}

/// The times of one link, with what stalls of their sources void.
pub(crate) struct Times<'v, 'a> {
    view: &'v View<'a>,
    link: &'v Link,
    timed: Timed,
    /// By the pair's first look, so that later samples do not move the threshold under the earlier ones.
    shortest: BTreeMap<CellName, (u32, f64)>,
    pub(crate) minimum: Option<f64>,
    declared: Option<f64>,
    stalls: BTreeMap<(&'a str, u32), Stalls>,
}

impl<'v, 'a> Times<'v, 'a> {
    pub(crate) fn of(view: &'v View<'a>, link: &'v Link, timed: Timed) -> Self {
        let looks: BTreeSet<u32> = view.observations.runs.iter().map(|run| run.look).collect();
        let stalls = view
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
        let mut times = Self {
            view,
            link,
            timed,
            shortest: BTreeMap::new(),
            minimum: None,
            declared: declared(view, link),
            stalls,
        };
        times.find_shortest();
        times
    }

    fn find_shortest(&mut self) {
        let sent = |probe: &&Probe<'_>| probe.sample.outcome != Outcome::LocalError;
        for probe in self
            .view
            .of(self.link, Plane::Pod, ProbeKind::Tcp)
            .filter(sent)
        {
            if let Reading::Seconds(seconds) = self.timed.read(probe) {
                self.minimum = Some(self.minimum.map_or(seconds, |least| least.min(seconds)));
                let look = probe.run.look;
                let known = self.shortest.entry(probe.cell()).or_insert((look, seconds));
                if look < known.0 {
                    *known = (look, seconds);
                } else if look == known.0 {
                    known.1 = known.1.min(seconds);
                }
            }
        }
    }

    pub(crate) fn probes(&self) -> impl Iterator<Item = &'v Probe<'a>> + use<'v, 'a> {
        self.view.of(self.link, Plane::Pod, ProbeKind::Tcp)
    }

    fn threshold(&self, cell: &CellName) -> f64 {
        let shortest = self.shortest.get(cell).map_or(0.0, |(_, seconds)| *seconds);
        self.declared
            .unwrap_or(DEFAULT_FACTOR * shortest + DEFAULT_HEADROOM_SECONDS)
    }

    /// `None` of a sample that a stall of its source voids, whatever became of it.
    pub(crate) fn read(&self, probe: &Probe<'_>) -> Option<Reading> {
        let reading = self.timed.read(probe);
        if matches!(reading, Reading::Nothing) {
            return Some(reading);
        }
        let from = probe.sample.sent_ns as f64 * 1e-9;
        let window = self.threshold(&probe.cell()).min(LONGEST_WINDOW_SECONDS);
        let stalled = self
            .stalls
            .get(&(probe.run.source.node.as_str(), probe.run.look))
            .is_some_and(|stalls| stalls.meets(from, from + window));
        (!stalled).then_some(reading)
    }
}

/// Samples near a stall of their source, by its name.
#[derive(Default)]
pub(super) struct Voided(pub(super) BTreeMap<String, u64>);

impl Voided {
    pub(super) fn add(&mut self, probe: &Probe<'_>) {
        let source = &probe.run.source.node;
        match self.0.get_mut(source) {
            Some(n) => *n += 1,
            None => drop(self.0.insert(source.clone(), 1)),
        }
    }

    pub(super) fn all(&self) -> Option<u64> {
        Some(self.0.values().sum()).filter(|n| *n > 0)
    }
}

fn row(view: &View<'_>, link: &Link, timed: Timed) -> Draft {
    let times = Times::of(view, link, timed);
    let mut values = Vec::new();
    let mut failed = 0;
    let mut voided = Voided::default();
    let counted = count(times.probes(), |probe| {
        let Some(reading) = times.read(probe) else {
            voided.add(probe);
            return Trial::Skip;
        };
        match reading {
            Reading::Nothing => Trial::Skip,
            Reading::Doubtful => Trial::Doubtful,
            Reading::Failed => {
                failed += 1;
                Trial::Bad("failed")
            }
            Reading::AtMost(seconds) if seconds > times.threshold(&probe.cell()) => Trial::Doubtful,
            Reading::AtMost(_) => Trial::Good,
            Reading::Seconds(seconds) => {
                values.push(seconds);
                if seconds > times.threshold(&probe.cell()) {
                    Trial::Bad("slow")
                } else {
                    Trial::Good
                }
            }
        }
    });
    let mut draft = counted.draft(view, timed.id(), link, Plane::Pod, EXCEEDING);
    let confidence = view.mesh.objectives.confidence;
    let observed = &mut draft.check.observed;
    observed.excluded_stalled = voided.all();
    observed.minimum_seconds = times.minimum;
    observed.p50 = quantile(&values, failed, 0.5, confidence);
    observed.p99 = quantile(&values, failed, 0.99, confidence);
    let declared = times.declared;
    let largest = times
        .shortest
        .keys()
        .map(|cell| times.threshold(cell))
        .reduce(f64::max)
        .or(declared);
    if let Some(test) = &mut draft.test {
        test.stalled = voided.0;
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
    if let Some(test) = &mut draft.test {
        test.missing.extend(timed.unwitnessed(view, link));
    }
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
