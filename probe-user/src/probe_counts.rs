//! What the background probes found, per kind and target cluster, and how many probes bursts sent.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use mesh::observation::{Outcome, ProbeKind, Sample};
use probe_api::words::Word;
use probe_common::Histogram;

/// Of one kind of probe towards one cluster.
#[derive(Clone, Debug)]
pub struct ProbeSeries {
    /// Probes that decide something: all but the excluded.
    pub attempts: u64,
    pub outcomes: BTreeMap<&'static str, u64>,
    /// First packet to full reply of `ok` probes.
    pub durations: Box<Histogram>,
    pub starved: u64,
    pub local_errors: u64,
}

impl Default for ProbeSeries {
    fn default() -> Self {
        let outcomes = Outcome::ALL
            .iter()
            .filter(|(outcome, _)| {
                !matches!(
                    outcome,
                    Outcome::LocalError
                        // No background probe asks for names.
                        | Outcome::NoSuchName
                        | Outcome::ServerFailure
                        | Outcome::WrongAddress
                )
            })
            .map(|(_, word)| (*word, 0))
            .collect();
        Self {
            attempts: 0,
            outcomes,
            durations: Box::new(Histogram::EMPTY),
            starved: 0,
            local_errors: 0,
        }
    }
}

/// Kind of probe and target cluster.
pub type ProbeKey = (&'static str, String);

#[derive(Debug, Default)]
struct Counts {
    background: BTreeMap<ProbeKey, ProbeSeries>,
    bursts: BTreeMap<(&'static str, &'static str), u64>,
    skipped: u64,
}

/// Shared between the prober's users and the metrics.
#[derive(Debug, Default)]
pub struct ProbeCounts {
    counts: Mutex<Counts>,
}

impl ProbeCounts {
    /// Makes the series exist at 0, so that a rate sees the first probe.
    pub fn declare(&self, kind: ProbeKind, target_cluster: &str) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts
            .background
            .entry((kind.word(), target_cluster.to_owned()))
            .or_default();
    }

    /// Counts one background probe. A sample that says nothing about the mesh is no attempt.
    pub fn background(&self, kind: ProbeKind, target_cluster: &str, sample: &Sample) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let series = counts
            .background
            .entry((kind.word(), target_cluster.to_owned()))
            .or_default();
        if sample.outcome == Outcome::LocalError {
            series.local_errors += 1;
            return;
        }
        if sample.starved {
            series.starved += 1;
            return;
        }
        series.attempts += 1;
        *series.outcomes.entry(sample.outcome.word()).or_default() += 1;
        if sample.outcome == Outcome::Ok {
            let connect = sample.connect_ns.unwrap_or(0);
            let round_trip = sample.round_trip_ns.unwrap_or(0);
            series.durations.record(connect.saturating_add(round_trip));
        }
    }

    /// Background probes that were not sent because bursts held the budget.
    pub fn skipped(&self, probes: u64) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.skipped += probes;
    }

    #[must_use]
    pub fn skipped_probes(&self) -> u64 {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.skipped
    }

    /// Counts one probe of a run that somebody asked for.
    pub fn burst(&self, kind: ProbeKind, sample: &Sample) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts
            .bursts
            .entry((kind.word(), sample.outcome.word()))
            .or_default() += 1;
    }

    #[must_use]
    pub fn background_series(&self) -> BTreeMap<ProbeKey, ProbeSeries> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.background.clone()
    }

    /// By kind and outcome.
    #[must_use]
    pub fn burst_probes(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.bursts.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(outcome: Outcome, starved: bool) -> Sample {
        Sample {
            sequence: 0,
            source_port: 61_000,
            sent_ns: 0,
            delay_ns: 0,
            outcome,
            connect_ns: Some(40_000_000),
            round_trip_ns: Some(60_000_000),
            responder: None,
            receiver_count: None,
            starved,
        }
    }

    #[test]
    fn only_probes_that_say_something_are_attempts() {
        let counts = ProbeCounts::default();
        for (outcome, starved) in [
            (Outcome::Ok, false),
            (Outcome::Timeout, false),
            (Outcome::Ok, true),
            (Outcome::LocalError, false),
        ] {
            counts.background(ProbeKind::Tcp, "west", &sample(outcome, starved));
        }
        let all = counts.background_series();
        let series = &all[&("tcp", "west".to_owned())];
        assert_eq!(series.attempts, 2);
        assert_eq!(series.outcomes["ok"], 1);
        assert_eq!(series.outcomes["timeout"], 1);
        assert_eq!(series.outcomes["refused"], 0, "exists at 0");
        assert_eq!((series.starved, series.local_errors), (1, 1));
        assert_eq!(series.durations.sum_ns, 100_000_000);
        assert_eq!(series.durations.count(), 1);
    }
}
