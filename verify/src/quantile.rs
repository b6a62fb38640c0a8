//! Quantiles with distribution-free intervals from order statistics; failed probes count as infinitely slow.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use statrs::function::beta::beta_reg;

use crate::stats::bisect;

/// A quantile of durations, s, with its interval. A missing value lies among the failed probes;
/// a missing end of the interval is not bounded by that many samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Quantile {
    pub seconds: Option<f64>,
    pub low_seconds: Option<f64>,
    pub high_seconds: Option<f64>,
}

/// The `q`-quantile of `values` (any order) plus `failed` values above all of them, with the
/// two-sided order-statistic interval at `confidence`. `None` without any value.
pub fn quantile(values: &[f64], failed: u64, q: f64, confidence: f64) -> Option<Quantile> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len() as u64 + failed;
    if n == 0 || !(q > 0.0 && q < 1.0) {
        return None;
    }
    // Rank r counts from 1; the r-th order statistic is at or below the quantile when fewer than
    // r values lie above it, and their number is binomial.
    let at = |rank: u64| sorted.get(rank.checked_sub(1)? as usize).copied();
    let half = 0.5 * (1.0 - confidence);
    let rank = ((q * n as f64).ceil() as u64).clamp(1, n);
    let (low, high) = (rank_below(n, q, half), rank_above(n, q, half));
    Some(Quantile {
        seconds: at(rank),
        low_seconds: low.and_then(at),
        high_seconds: high.and_then(at),
    })
}

/// The largest rank, from 1, whose order statistic of `n` independent values exceeds their `q`-quantile with a chance of
/// at most `error`; `None` when even the first does.
pub(crate) fn rank_below(n: u64, q: f64, error: f64) -> Option<u64> {
    let rank = bisect(1, n + 1, |r| at_most(r - 1, n, q) > error) - 1;
    (rank > 0).then_some(rank)
}

/// The smallest rank whose order statistic falls below the quantile with a chance of at most `error`; `None` when even
/// the last does.
pub(crate) fn rank_above(n: u64, q: f64, error: f64) -> Option<u64> {
    let rank = bisect(1, n + 1, |r| at_most(r - 1, n, q) >= 1.0 - error);
    (rank <= n).then_some(rank)
}

/// P(X ≤ k) for X ~ Binomial(n, q).
fn at_most(k: u64, n: u64, q: f64) -> f64 {
    if k >= n {
        1.0
    } else {
        beta_reg((n - k) as f64, (k + 1) as f64, 1.0 - q)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(n: u64) -> Vec<f64> {
        (1..=n).rev().map(|i| i as f64).collect()
    }

    #[test]
    fn median_of_100_has_the_known_ranks() {
        // Order-statistic interval of the median of 100: ranks 40 and 61 (95 %).
        let got = quantile(&ramp(100), 0, 0.5, 0.95).expect("values");
        assert_eq!(
            (got.seconds, got.low_seconds, got.high_seconds),
            (Some(50.0), Some(40.0), Some(61.0))
        );
    }

    #[test]
    fn too_few_samples_leave_the_upper_end_open() {
        let got = quantile(&ramp(100), 0, 0.99, 0.95).expect("values");
        assert_eq!((got.seconds, got.high_seconds), (Some(99.0), None));
        // 0.99^n ≤ 0.025 from n = 368 on.
        assert_eq!(
            quantile(&ramp(367), 0, 0.99, 0.95).and_then(|q| q.high_seconds),
            None
        );
        assert_eq!(
            quantile(&ramp(368), 0, 0.99, 0.95).and_then(|q| q.high_seconds),
            Some(368.0)
        );
    }

    #[test]
    fn failed_probes_are_slow_probes() {
        let got = quantile(&ramp(97), 3, 0.99, 0.95).expect("values");
        assert_eq!(got.seconds, None);
        let got = quantile(&ramp(97), 3, 0.5, 0.95).expect("values");
        assert_eq!(got.seconds, Some(50.0));
        assert_eq!(
            quantile(&[], 5, 0.5, 0.95)
                .expect("failed ones count")
                .seconds,
            None
        );
        assert_eq!(quantile(&[], 0, 0.5, 0.95), None);
    }

    #[test]
    fn the_interval_covers_as_often_as_it_says() {
        let mut state = 7_u64;
        let mut uniform = move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        let runs = 2_000;
        let mut covered = 0;
        for _ in 0..runs {
            let values: Vec<f64> = (0..200).map(|_| uniform()).collect();
            let got = quantile(&values, 0, 0.9, 0.95).expect("values");
            let (low, high) = (
                got.low_seconds.expect("bounded"),
                got.high_seconds.expect("bounded"),
            );
            covered += u32::from(low <= 0.9 && 0.9 <= high);
        }
        assert!(
            f64::from(covered) / f64::from(runs) >= 0.94,
            "covered {covered} of {runs}"
        );
    }
}
