//! Exact statistics of a proportion: Clopper–Pearson bounds, one-sided tests, sample sizes, Holm.
//!
//! Every objective is "at most `p0` of the trials are bad", so this is all the statistics there is.

use statrs::function::beta::{beta_reg, inv_beta_reg};

/// `bad` of `n` trials, `bad <= n`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub n: u64,
    pub bad: u64,
}

impl Count {
    pub fn new(n: u64, bad: u64) -> Self {
        Self { n, bad: bad.min(n) }
    }

    pub fn add(&mut self, bad: bool) {
        self.n += 1;
        self.bad += u64::from(bad);
    }

    /// Observed share; 0 without trials.
    pub fn rate(self) -> f64 {
        if self.n == 0 {
            0.0
        } else {
            self.bad as f64 / self.n as f64
        }
    }
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.n += other.n;
        self.bad += other.bad;
    }
}

/// One-sided upper Clopper–Pearson bound of the share at `confidence`; 1 without trials.
pub fn upper_bound(count: Count, confidence: f64) -> f64 {
    let Count { n, bad } = count;
    if n == 0 || bad >= n {
        return 1.0;
    }
    if bad == 0 {
        return 1.0 - (1.0 - confidence).powf(1.0 / n as f64);
    }
    inv_beta_reg((bad + 1) as f64, (n - bad) as f64, confidence)
}

/// One-sided lower Clopper–Pearson bound of the share at `confidence`; 0 without trials.
pub fn lower_bound(count: Count, confidence: f64) -> f64 {
    let Count { n, bad } = count;
    if n == 0 || bad == 0 {
        return 0.0;
    }
    if bad >= n {
        return (1.0 - confidence).powf(1.0 / n as f64);
    }
    inv_beta_reg(bad as f64, (n - bad + 1) as f64, 1.0 - confidence)
}

/// P(X ≤ bad) for X ~ Binomial(n, p0): the chance of so few bad trials if the share were `p0`.
/// At most α exactly when [`upper_bound`] at 1 − α is at most `p0`.
pub fn p_too_few(count: Count, p0: f64) -> f64 {
    let Count { n, bad } = count;
    if bad >= n {
        return 1.0;
    }
    if p0 <= 0.0 {
        return 1.0;
    }
    if p0 >= 1.0 {
        return 0.0;
    }
    beta_reg((n - bad) as f64, (bad + 1) as f64, 1.0 - p0)
}

/// P(X ≥ bad) for X ~ Binomial(n, p0): the chance of so many bad trials if the share were `p0`.
/// At most α exactly when [`lower_bound`] at 1 − α is at least `p0`.
pub fn p_too_many(count: Count, p0: f64) -> f64 {
    let Count { n, bad } = count;
    if bad == 0 || p0 >= 1.0 {
        return 1.0;
    }
    if p0 <= 0.0 {
        return 0.0;
    }
    beta_reg(bad as f64, (n - bad + 1) as f64, p0)
}

/// Up to this many bad trials [`p_too_few_in_bursts`] is exact; beyond, [`p_too_few`] of as many trials as the
/// dependent ones are worth is as good.
const EXACT_UP_TO: u64 = 200;

/// [`p_too_few`] of trials whose bad ones come in bursts of geometric size, `mean` of them on average: P(X ≤ bad) for
/// X ~ Pólya–Aeppli, the sum of Poisson(n · p0 / mean) many such bursts. A burst that was not met leaves no trace, so
/// this, unlike the number of independent trials that the dependent ones are worth, needs no bad one to be right.
/// Recurrence: Johnson, Kemp, Kotz, Univariate Discrete Distributions, 9.7.
pub fn p_too_few_in_bursts(count: Count, mean: f64, p0: f64) -> f64 {
    let Count { n, bad } = count;
    if mean <= 1.0 || bad >= n || !(0.0..1.0).contains(&p0) || p0 <= 0.0 {
        return p_too_few(count, p0);
    }
    if bad > EXACT_UP_TO {
        let worth = 1.0 / (2.0 * mean - 1.0);
        let (good, bad) = ((n - bad) as f64 * worth, bad as f64 * worth);
        return beta_reg(good, bad + 1.0, 1.0 - p0);
    }
    let (bursts, another) = (n as f64 * p0 / mean, 1.0 - 1.0 / mean);
    // In units of the chance of no burst at all, which may be too small for a number; `scale` keeps them bearable.
    let (mut before, mut here, mut sum, mut scale) = (0.0, 1.0, 1.0, 0.0);
    for k in 1..=bad {
        let next = if k == 1 {
            bursts * (1.0 - another)
        } else {
            let k = k as f64;
            ((bursts * (1.0 - another) + 2.0 * another * (k - 1.0)) * here
                - another * another * (k - 2.0) * before)
                / k
        };
        (before, here) = (here, next);
        sum += here;
        if sum > 1e200 {
            (before, here, sum, scale) = (before / sum, here / sum, 1.0, scale + sum.ln());
        }
    }
    (sum.ln() + scale - bursts).exp().min(1.0)
}

/// [`p_too_many`] of dependent trials: `count` is worth `1 / effect` times as many independent ones.
pub fn p_too_many_in_bursts(count: Count, effect: f64, p0: f64) -> f64 {
    if effect <= 1.0 || count.bad == 0 || !(0.0..1.0).contains(&p0) || p0 <= 0.0 {
        return p_too_many(count, p0);
    }
    let (good, bad) = (
        (count.n - count.bad) as f64 / effect,
        count.bad as f64 / effect,
    );
    beta_reg(bad, good + 1.0, p0)
}

/// [`upper_bound`] of trials whose bad ones come in bursts as in [`p_too_few_in_bursts`]: the share for which that is
/// 1 − `confidence`.
pub fn upper_bound_in_bursts(count: Count, mean: f64, confidence: f64) -> f64 {
    if mean <= 1.0 || count.bad >= count.n {
        return upper_bound(count, confidence);
    }
    let (mut low, mut high) = (count.rate(), 1.0);
    for _ in 0..50 {
        let middle = 0.5 * (low + high);
        if p_too_few_in_bursts(count, mean, middle) > 1.0 - confidence {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// Longest mean of bursts at which so few bad trials are still as unlikely as `chance` if the share were `p0`: of longer
/// ones a link at `p0` may have shown no more. `None` if not even independent ones are.
pub fn longest_burst_excluded(count: Count, p0: f64, chance: f64) -> Option<f64> {
    let excluded = |mean: f64| p_too_few_in_bursts(count, mean, p0) <= chance;
    if !excluded(1.0) {
        return None;
    }
    let (mut low, mut high) = (1.0, (count.n as f64).max(2.0));
    for _ in 0..50 {
        let middle = 0.5 * (low + high);
        if excluded(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    Some(low)
}

/// [`lower_bound`] of dependent trials.
pub fn lower_bound_in_bursts(count: Count, effect: f64, confidence: f64) -> f64 {
    if effect <= 1.0 || count.bad == 0 {
        return lower_bound(count, confidence);
    }
    let (good, bad) = (
        (count.n - count.bad) as f64 / effect,
        count.bad as f64 / effect,
    );
    inv_beta_reg(bad, good + 1.0, 1.0 - confidence)
}

/// Largest sample that [`samples_needed`] names; beyond it the answer is "more than any run can send".
pub const SAMPLES_CAP: u64 = 10_000_000;

/// Smallest number of trials that decides the objective `p0` in one look, if the observed share
/// stays `rate`; a pass reckons with bursts of `mean` bad trials. `None` when no number up to [`SAMPLES_CAP`] does: the share is too close to `p0`.
pub fn samples_needed(p0: f64, confidence: f64, rate: f64, mean: f64) -> Option<u64> {
    if !(p0 > 0.0 && p0 < 1.0 && confidence > 0.0 && confidence < 1.0) {
        return None;
    }
    let alpha = 1.0 - confidence;
    if rate < p0 {
        // For k bad trials, the fewest trials that still prove the objective.
        let fewest = |k: u64| samples_tolerating(p0, confidence, k, mean);
        let k = smallest(0, SAMPLES_CAP / 100, |k| {
            fewest(k).is_none_or(|n| k as f64 >= rate * n as f64)
        })?;
        fewest(k)
    } else if rate > p0 {
        let k = smallest(1, SAMPLES_CAP, |k| {
            let n = ((k as f64 / rate).ceil() as u64).max(k);
            p_too_many(Count::new(n, k), p0) <= alpha
        })?;
        let n = ((k as f64 / rate).ceil() as u64).max(k);
        (n <= SAMPLES_CAP).then_some(n)
    } else {
        None
    }
}

/// Fewest trials that prove the objective `p0` although `bad` of them were bad, in bursts of `mean`.
pub fn samples_tolerating(p0: f64, confidence: f64, bad: u64, mean: f64) -> Option<u64> {
    smallest(bad + 1, SAMPLES_CAP, |n| {
        p_too_few_in_bursts(Count::new(n, bad), mean, p0) <= 1.0 - confidence
    })
}

/// Smallest x in `from..=to` with `holds(x)`, for a condition that stays true once it is.
fn smallest(from: u64, to: u64, holds: impl Fn(u64) -> bool) -> Option<u64> {
    let (mut low, mut step) = (from, 1);
    let mut high = from;
    while !holds(high) {
        if high >= to {
            return None;
        }
        low = high + 1;
        high = (high + step).min(to);
        step *= 2;
    }
    Some(bisect(low, high, holds))
}

/// First x in `low..high` with `holds(x)`, for a condition that stays true once it is; `high` if there is none.
pub(crate) fn bisect(mut low: u64, mut high: u64, holds: impl Fn(u64) -> bool) -> u64 {
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

/// Holm's step-down procedure: which of the hypotheses with these p-values are rejected so that
/// the chance of any false rejection is at most `alpha`, whatever their dependence.
pub fn holm(p_values: &[f64], alpha: f64) -> Vec<bool> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|a, b| p_values[*a].total_cmp(&p_values[*b]));
    let mut rejected = vec![false; p_values.len()];
    for (rank, index) in order.into_iter().enumerate() {
        if p_values[index] > alpha / (p_values.len() - rank) as f64 {
            break;
        }
        rejected[index] = true;
    }
    rejected
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Binomial lower tail summed term by term in logarithms: shares no code with the above.
    fn tail_by_sum(n: u64, k: u64, p: f64) -> f64 {
        let mut term = n as f64 * (1.0 - p).ln();
        let mut sum = term.exp();
        for i in 1..=k {
            term += ((n - i + 1) as f64 / i as f64).ln() + (p / (1.0 - p)).ln();
            sum += term.exp();
        }
        sum
    }

    fn bound_by_bisection(n: u64, k: u64, tail: f64) -> f64 {
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..80 {
            let middle = 0.5 * (low + high);
            if tail_by_sum(n, k, middle) > tail {
                low = middle;
            } else {
                high = middle;
            }
        }
        high
    }

    #[test]
    fn bounds_agree_with_published_tables() {
        // Two-sided 95 % intervals (one-sided 97.5 %): 0/10, 1/10, 5/10 and 10/100.
        let table = [
            (10, 0, 0.0, 0.3085),
            (10, 1, 0.002_529, 0.445_0),
            (10, 5, 0.187_1, 0.812_9),
            (100, 10, 0.049_0, 0.176_2),
        ];
        for (n, bad, low, high) in table {
            let count = Count::new(n, bad);
            assert!((lower_bound(count, 0.975) - low).abs() < 5e-5, "{count:?}");
            assert!((upper_bound(count, 0.975) - high).abs() < 5e-5, "{count:?}");
        }
    }

    #[test]
    fn bounds_agree_with_an_independent_computation() {
        for n in [1, 2, 7, 40, 299, 320, 640, 2_995] {
            for bad in [0, 1, 2, 3, 9, 31, n / 2, n - 1, n] {
                if bad > n {
                    continue;
                }
                let count = Count::new(n, bad);
                for confidence in [0.9, 0.95, 0.999] {
                    let upper = if bad == n {
                        1.0
                    } else {
                        bound_by_bisection(n, bad, 1.0 - confidence)
                    };
                    assert!(
                        (upper_bound(count, confidence) - upper).abs() < 1e-9,
                        "upper {count:?} {confidence}"
                    );
                    // The lower bound of `bad` is the complement of the upper bound of the good ones.
                    let lower = if bad == 0 {
                        0.0
                    } else {
                        1.0 - bound_by_bisection(n, n - bad, 1.0 - confidence)
                    };
                    assert!(
                        (lower_bound(count, confidence) - lower).abs() < 1e-9,
                        "lower {count:?} {confidence}"
                    );
                }
            }
        }
    }

    #[test]
    fn tests_and_bounds_decide_alike() {
        for n in [5, 50, 298, 299, 320, 473, 640, 1_280] {
            for bad in 0..=n.min(40) {
                let count = Count::new(n, bad);
                for p0 in [0.001, 0.01, 0.05] {
                    assert_eq!(
                        p_too_few(count, p0) <= 0.05,
                        upper_bound(count, 0.95) <= p0,
                        "{count:?} {p0}"
                    );
                    assert_eq!(
                        p_too_many(count, p0) <= 0.05,
                        lower_bound(count, 0.95) >= p0,
                        "{count:?} {p0}"
                    );
                }
            }
        }
    }

    #[test]
    fn clean_samples_needed_are_the_known_ones() {
        assert_eq!(samples_needed(0.01, 0.95, 0.0, 1.0), Some(299));
        assert_eq!(samples_needed(0.001, 0.95, 0.0, 1.0), Some(2_995));
        assert_eq!(samples_needed(0.05, 0.95, 0.0, 1.0), Some(59));
        assert_eq!(samples_tolerating(0.01, 0.95, 0, 1.0), Some(299));
        assert_eq!(samples_tolerating(0.01, 0.95, 1, 1.0), Some(473));
        assert_eq!(samples_tolerating(0.01, 0.95, 2, 1.0), Some(628));
        assert!(upper_bound(Count::new(299, 0), 0.95) <= 0.01);
        assert!(upper_bound(Count::new(298, 0), 0.95) > 0.01);
    }

    #[test]
    fn samples_needed_really_decide() {
        for rate in [0.0005, 0.002, 0.003_125, 0.005, 0.008] {
            let n = samples_needed(0.01, 0.95, rate, 1.0).expect("decidable");
            let bad = (rate * n as f64).floor() as u64;
            assert!(upper_bound(Count::new(n, bad), 0.95) <= 0.01, "{rate} {n}");
        }
        for rate in [0.02, 0.05, 0.3, 1.0] {
            let n = samples_needed(0.01, 0.95, rate, 1.0).expect("decidable");
            let bad = (rate * n as f64).ceil() as u64;
            assert!(lower_bound(Count::new(n, bad), 0.95) >= 0.01, "{rate} {n}");
        }
        assert_eq!(samples_needed(0.01, 0.95, 0.01, 1.0), None);
        assert_eq!(samples_needed(0.0, 0.95, 0.0, 1.0), None);
        assert_eq!(samples_needed(0.01, 0.95, 1.0, 1.0), Some(1));
    }

    #[test]
    fn more_evidence_narrows_and_more_failures_widen() {
        for n in 1..200 {
            for bad in 0..n {
                let here = Count::new(n, bad);
                assert!(upper_bound(Count::new(n, bad + 1), 0.95) > upper_bound(here, 0.95));
                assert!(upper_bound(Count::new(n + 1, bad), 0.95) < upper_bound(here, 0.95));
                assert!(lower_bound(Count::new(n, bad + 1), 0.95) > lower_bound(here, 0.95));
                assert!(upper_bound(here, 0.99) > upper_bound(here, 0.95));
                assert!(
                    lower_bound(here, 0.95) <= here.rate()
                        && here.rate() <= upper_bound(here, 0.95)
                );
            }
        }
    }

    #[test]
    fn bursts_weaken_both_answers() {
        // 20 bad of 2 000 in bursts of five are worth 4 of 400.
        let (count, worth) = (Count::new(2_000, 20), Count::new(400, 4));
        for p0 in [0.002, 0.01, 0.03] {
            let many = p_too_many_in_bursts(count, 5.0, p0);
            assert!((many - p_too_many(worth, p0)).abs() < 1e-12);
            assert_eq!(p_too_few_in_bursts(count, 1.0, p0), p_too_few(count, p0));
        }
        let mut before = p_too_few(Count::new(2_000, 8), 0.01);
        for mean in [1.5, 2.0, 3.0, 6.0] {
            let here = p_too_few_in_bursts(Count::new(2_000, 8), mean, 0.01);
            assert!(here > before, "{mean}: {here}");
            before = here;
        }
        let all = Count::new(480, 480);
        assert!((p_too_many_in_bursts(all, 40.0, 0.01) - 1e-24).abs() < 1e-30);
        assert_eq!(p_too_few_in_bursts(all, 40.0, 0.01), 1.0);
    }

    /// Every number of bursts with every way to fill them, term by term: shares no code with the recurrence.
    fn bursts_by_sum(n: u64, bad: u64, mean: f64, p0: f64) -> f64 {
        let (rate, stop) = (n as f64 * p0 / mean, 1.0 / mean);
        let mut chance = 0.0;
        for bursts in 0..=bad {
            let many = -rate + bursts as f64 * rate.ln()
                - (1..=bursts).map(|i| (i as f64).ln()).sum::<f64>();
            // Sizes of `bursts` bursts that add up to at most `bad`: negative binomial, by repeated convolution.
            let mut sizes = vec![0.0; bad as usize + 1];
            sizes[0] = 1.0;
            for _ in 0..bursts {
                let mut next = vec![0.0; sizes.len()];
                for (sum, p) in sizes.iter().enumerate() {
                    for size in 1..next.len() - sum {
                        next[sum + size] += p * stop * (1.0 - stop).powi(size as i32 - 1);
                    }
                }
                sizes = next;
            }
            chance += many.exp() * sizes.iter().sum::<f64>();
        }
        chance
    }

    #[test]
    fn few_bursts_agree_with_an_independent_computation() {
        for mean in [1.2, 1.5, 3.0, 8.0] {
            for (n, bad) in [(486, 0), (486, 1), (486, 2), (972, 5), (3_888, 12)] {
                for p0 in [0.002, 0.01, 0.05] {
                    let count = Count::new(n, bad);
                    let (ours, sum) = (
                        p_too_few_in_bursts(count, mean, p0),
                        bursts_by_sum(n, bad, mean, p0),
                    );
                    assert!(
                        (ours - sum).abs() < 1e-10,
                        "{count:?} {mean} {p0}: {ours} {sum}"
                    );
                }
            }
        }
        // None of 486 at 1 % in bursts of 1.5: e^−3.24.
        let none = p_too_few_in_bursts(Count::new(486, 0), 1.5, 0.01);
        assert!((none - 0.039_163_9).abs() < 1e-6, "{none}");
        // Chances too small for a number are 0, not nonsense; the two ways of counting meet.
        assert_eq!(
            p_too_few_in_bursts(Count::new(1_000_000, 150), 1.5, 0.5),
            0.0
        );
        for (mean, p0) in [(1.5, 0.011), (1.5, 0.012), (4.0, 0.011), (4.0, 0.013)] {
            let at = |bad| p_too_few_in_bursts(Count::new(20_000, bad), mean, p0);
            let (exact, worth) = (at(EXACT_UP_TO), at(EXACT_UP_TO + 1));
            let careful = worth > exact && worth < exact + 0.04;
            assert!(careful, "{mean} {p0}: {exact} {worth}");
        }
    }

    #[test]
    fn bounds_in_bursts_decide_as_their_test_does() {
        for bad in [0, 1, 2, 5, 12] {
            for mean in [1.5, 2.5] {
                let count = Count::new(972, bad);
                let upper = upper_bound_in_bursts(count, mean, 0.95);
                assert!(upper > upper_bound(count, 0.95), "{count:?} {mean}");
                for p0 in [0.003, 0.006, 0.01, 0.02] {
                    assert_eq!(
                        p_too_few_in_bursts(count, mean, p0) <= 0.05,
                        upper <= p0,
                        "{count:?} {mean} {p0}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_longest_burst_that_a_clean_run_excludes() {
        // e^(−n p0 / m) = chance: m = 4.86 / ln 20.
        let longest = longest_burst_excluded(Count::new(486, 0), 0.01, 0.05).expect("clean");
        assert!((longest - 4.86 / 20.0_f64.ln()).abs() < 1e-6, "{longest}");
        let one = longest_burst_excluded(Count::new(972, 1), 0.01, 0.05).expect("nearly clean");
        assert!(one < longest * 2.0 && one > 1.0, "{one}");
        assert_eq!(longest_burst_excluded(Count::new(298, 0), 0.01, 0.05), None);
    }

    #[test]
    fn no_trials_prove_nothing() {
        let none = Count::default();
        assert_eq!(none.rate(), 0.0);
        assert_eq!(
            (lower_bound(none, 0.95), upper_bound(none, 0.95)),
            (0.0, 1.0)
        );
        assert_eq!((p_too_few(none, 0.01), p_too_many(none, 0.01)), (1.0, 1.0));
        // That nothing at all is ever bad, no number of clean trials proves; one bad trial disproves it.
        assert_eq!(p_too_few(Count::new(1_000_000, 0), 0.0), 1.0);
        assert_eq!(p_too_many(Count::new(1_000_000, 1), 0.0), 0.0);
    }

    #[test]
    fn holm_matches_a_worked_example() {
        // 0.005 ≤ 0.05/4, 0.01 ≤ 0.05/3, 0.03 > 0.05/2: the last two stand.
        assert_eq!(
            holm(&[0.01, 0.04, 0.03, 0.005], 0.05),
            [true, false, false, true]
        );
        // 0.02 > 0.05/3, but what was rejected before it makes room: 0.02 ≤ 0.05/2.
        assert_eq!(holm(&[0.01, 0.02, 0.06], 0.05), [true, true, false]);
        assert_eq!(holm(&[0.05], 0.05), [true]);
        assert!(holm(&[], 0.05).is_empty());
    }

    #[test]
    fn holm_stops_at_the_first_that_stands() {
        assert_eq!(holm(&[0.03, 0.03], 0.05), [false, false]);
    }
}
