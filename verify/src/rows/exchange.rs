//! What checks of questions and their answers share: that they are answered, and that the round trip is within a limit.

use mesh::observation::Outcome;

use super::{Counted, Trial, count, outcome_word};
use crate::quantile::quantile;
use crate::verdict::Observed;
use crate::view::Probe;

pub(super) fn answered<'p, 'a: 'p>(probes: impl Iterator<Item = &'p Probe<'a>>) -> Counted {
    count(probes, |probe| match probe.sample.outcome {
        Outcome::Ok => Trial::Good,
        _ if probe.doubtful() => Trial::Doubtful,
        outcome => Trial::Bad(outcome_word(outcome)),
    })
}

/// Round trips, s, and how many questions had none.
pub(super) struct RoundTrips {
    values: Vec<f64>,
    failed: u64,
}

/// What took longer than `limit`, s, or failed, is bad.
pub(super) fn in_time<'p, 'a: 'p>(
    probes: impl Iterator<Item = &'p Probe<'a>>,
    limit: f64,
) -> (Counted, RoundTrips) {
    let mut values = Vec::new();
    let mut failed = 0;
    let counted = count(probes, |probe| {
        match (probe.sample.outcome, probe.sample.round_trip_ns) {
            (Outcome::Ok, Some(ns)) => {
                let seconds = ns as f64 * 1e-9;
                values.push(seconds);
                match seconds > limit {
                    false => Trial::Good,
                    true if probe.sample.starved => Trial::Doubtful,
                    true => Trial::Bad("slow"),
                }
            }
            _ if probe.doubtful() => Trial::Doubtful,
            _ => {
                failed += 1;
                Trial::Bad("failed")
            }
        }
    });
    (counted, RoundTrips { values, failed })
}

impl RoundTrips {
    pub(super) fn show(&self, observed: &mut Observed, confidence: f64) {
        let Self { values, failed } = self;
        observed.minimum_seconds = values.iter().copied().reduce(f64::min);
        observed.p50 = quantile(values, *failed, 0.5, confidence);
        observed.p99 = quantile(values, *failed, 0.99, confidence);
    }
}
