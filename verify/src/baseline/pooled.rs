//! Samples of several pairs of nodes in one, and where their quantiles lie.

use std::collections::BTreeMap;

use crate::quantile::{Quantile, quantile, rank_above, rank_below};
use crate::tally::CellName;

/// Samples of several pairs in one, each with its pair's median taken off.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pooled {
    /// Median and shortest of each pair, s.
    pub(crate) pairs: BTreeMap<CellName, (f64, f64)>,
    /// s beyond the pair's median, ascending.
    pub(super) beyond: Vec<f64>,
    /// As they were, s, in no order.
    pub(super) seconds: Vec<f64>,
    pub(crate) failed: u64,
    pub(super) p50_design_effect: f64,
    pub(super) p99_design_effect: f64,
}

impl Pooled {
    pub(crate) fn n(&self) -> u64 {
        self.beyond.len() as u64 + self.failed
    }

    fn rank(&self, q: f64) -> u64 {
        (q * self.n() as f64).ceil() as u64
    }

    /// The value of a rank, from 1; `None` among the failed ones.
    fn at(&self, rank: u64) -> Option<f64> {
        self.beyond.get(rank.checked_sub(1)? as usize).copied()
    }

    /// The `q`-quantile with its interval, for a person.
    pub(crate) fn shown(&self, q: f64, confidence: f64) -> Option<Quantile> {
        quantile(&self.seconds, self.failed, q, confidence)
    }

    /// The `q`-quantile beyond the pair's median, s.
    pub(crate) fn estimate(&self, q: f64) -> Option<f64> {
        self.at(self.rank(q))
    }

    /// What the samples are worth.
    pub(crate) fn independent(&self, q: f64) -> u64 {
        let effect = if q < 0.9 {
            self.p50_design_effect
        } else {
            self.p99_design_effect
        };
        (self.n() as f64 / effect.max(1.0)).floor() as u64
    }

    /// A value that the `q`-quantile beyond the pair's median is below with a chance of at most `error`; `None` where
    /// so few samples do not tell, or where it lies among the failed ones.
    pub(crate) fn at_least(&self, q: f64, error: f64) -> Option<f64> {
        let worth = self.independent(q);
        let rank = rank_below(worth, q, error)?;
        // A share of the samples that is no larger.
        let rank = (rank as f64 / worth as f64 * self.n() as f64).floor() as u64;
        self.at(rank.max(1))
    }

    /// The same above it.
    pub(crate) fn at_most(&self, q: f64, error: f64) -> Option<f64> {
        let worth = self.independent(q);
        let rank = rank_above(worth, q, error)?;
        let rank = (rank as f64 / worth as f64 * self.n() as f64).ceil() as u64;
        self.at(rank.min(self.n()))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use crate::baseline::{Distribution, PairTimes};

    /// Source node, failed probes, samples.
    type Pair<'a> = (&'a str, u64, &'a [(u32, u64)]);

    pub(in crate::baseline) fn distribution(pairs: &[Pair<'_>]) -> Distribution {
        let pairs: Vec<PairTimes> = pairs
            .iter()
            .map(|(name, failed, samples)| PairTimes {
                source_node: (*name).to_owned(),
                target_node: "t".to_owned(),
                failed: *failed,
                samples_us: samples.to_vec(),
            })
            .collect();
        let taken = |pair: &PairTimes| pair.samples_us.iter().map(|(_, c)| c).sum::<u64>();
        let failed: u64 = pairs.iter().map(|pair| pair.failed).sum();
        Distribution {
            n: pairs.iter().map(taken).sum::<u64>() + failed,
            failed,
            p50_design_effect: 1.0,
            p99_design_effect: 1.0,
            pairs,
        }
    }

    #[test]
    fn pairs_at_different_distances_are_no_noise() {
        let near: Vec<(u32, u64)> = (0..100).map(|i| (10_000 + i, 1)).collect();
        let far: Vec<(u32, u64)> = (0..100).map(|i| (20_000 + i, 1)).collect();
        let pooled = distribution(&[("a", 0, &near), ("b", 0, &far)]).pooled(|_| true);
        assert_eq!(pooled.n(), 200);
        let (low, high) = (pooled.at_least(0.5, 0.005), pooled.at_most(0.5, 0.005));
        let (low, high) = (low.expect("bounded"), high.expect("bounded"));
        assert!(
            -15e-6 < low && low < 0.0 && 0.0 < high && high < 15e-6,
            "{low} {high}"
        );
        let medians: Vec<f64> = pooled.pairs.values().map(|(middle, _)| *middle).collect();
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(near(medians[0], 0.010_049) && near(medians[1], 0.020_049));
    }

    #[test]
    fn failed_ones_are_slower_than_everything() {
        let samples: Vec<(u32, u64)> = (0..97).map(|i| (1_000 + i, 1)).collect();
        let pooled = distribution(&[("a", 3, &samples)]).pooled(|_| true);
        assert_eq!(pooled.estimate(0.99), None);
        assert!(pooled.estimate(0.5).is_some());
        // Where most failed, no time can be held against others.
        let dead = distribution(&[("a", 200, &samples), ("b", 0, &samples)]).pooled(|_| true);
        assert_eq!((dead.n(), dead.pairs.len()), (97, 1));
    }

    #[test]
    fn dependent_samples_are_worth_less() {
        let samples: Vec<(u32, u64)> = (0..10_000).map(|i| (10_000 + i, 1)).collect();
        let mut whole = distribution(&[("a", 0, &samples)]);
        let width = |of: &Distribution| {
            let pooled = of.pooled(|_| true);
            let ends = (pooled.at_least(0.99, 0.005), pooled.at_most(0.99, 0.005));
            ends.1.expect("bounded") - ends.0.expect("bounded")
        };
        let alone = width(&whole);
        // ± 2.6 standard errors of the rank, 9.9 each.
        assert!((45e-6..60e-6).contains(&alone), "{alone}");
        whole.p99_design_effect = 4.0;
        let together = width(&whole);
        assert!((1.8..2.3).contains(&(together / alone)), "{together}");
    }

    #[test]
    fn few_samples_leave_ends_open() {
        let samples: Vec<(u32, u64)> = (0..300).map(|i| (10_000 + i, 1)).collect();
        let pooled = distribution(&[("a", 0, &samples)]).pooled(|_| true);
        assert_eq!(pooled.at_most(0.99, 0.025), None);
        assert!(pooled.at_most(0.5, 0.025).is_some());
    }
}
