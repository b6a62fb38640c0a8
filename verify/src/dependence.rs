//! Losses come in bursts: how many independent trials a series of dependent ones is worth. Pure.

/// One trial in time: look, ns since the start of its run, whether it was bad.
pub(crate) type Event = (u32, u64, bool);

/// Bad trials with no more than this many good ones between them belong to one burst: one that lets some through.
const LET_THROUGH: u64 = 3;
/// Longest burst that counts as one, ns. What lasts longer is a state of the link and counts once for each of these.
pub(crate) const LONGEST_BURST_NS: u64 = 1_000_000_000;
/// A shorter look has shorter bursts, so that a link that is dead throughout counts this often.
const BURSTS_OF_A_LOOK: u64 = 12;

/// Longest burst for trials that are spread over `span_ns`.
pub(crate) fn longest_burst_ns(span_ns: u64) -> u64 {
    LONGEST_BURST_NS.min(span_ns / BURSTS_OF_A_LOOK)
}

/// Bad trials and the bursts in which they came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bursts {
    pub(crate) bad: u64,
    pub(crate) bursts: u64,
    /// Sum of the squared sizes.
    squares: u64,
}

impl Bursts {
    /// `series` ascends in time; no burst is longer than `longest_ns`.
    pub(crate) fn of<'e>(series: impl IntoIterator<Item = &'e Event>, longest_ns: u64) -> Self {
        let mut sum = Self::default();
        let (mut size, mut good) = (0_u64, 0_u64);
        let mut began = (0, 0);
        for &(look, at, bad) in series {
            if !bad {
                good += 1;
                continue;
            }
            let same = size > 0
                && good <= LET_THROUGH
                && look == began.0
                && at.saturating_sub(began.1) <= longest_ns;
            if !same {
                sum.close(size);
                size = 0;
                began = (look, at);
            }
            size += 1;
            good = 0;
        }
        sum.close(size);
        sum
    }

    fn close(&mut self, size: u64) {
        self.bad += size;
        self.bursts += u64::from(size > 0);
        self.squares += size * size;
    }

    /// By how much the variance of the count exceeds that of independent trials: E\[S²\]/E\[S\] of the burst
    /// sizes S, the variance of a compound Poisson sum in units of its mean. At least 1.
    pub(crate) fn design_effect(self) -> f64 {
        if self.bad == 0 {
            1.0
        } else {
            self.squares as f64 / self.bad as f64
        }
    }

    /// Mean size of geometric bursts with this [`Self::design_effect`].
    pub(crate) fn mean(self) -> f64 {
        0.5 * (self.design_effect() + 1.0)
    }
}

impl std::ops::AddAssign for Bursts {
    fn add_assign(&mut self, other: Self) {
        self.bad += other.bad;
        self.bursts += other.bursts;
        self.squares += other.squares;
    }
}

/// Wald–Wolfowitz: the chance of so few runs of like trials if their order were random; normal approximation
/// with continuity correction. `None` when all are alike, where no order can be told.
pub(crate) fn runs_test(series: &[Event]) -> Option<f64> {
    let bad = series.iter().filter(|event| event.2).count() as f64;
    let good = series.len() as f64 - bad;
    if bad == 0.0 || good == 0.0 {
        return None;
    }
    let runs = 1.0 + series.windows(2).filter(|w| w[0].2 != w[1].2).count() as f64;
    let n = bad + good;
    let mean = 1.0 + 2.0 * bad * good / n;
    let variance = (mean - 1.0) * (mean - 2.0) / (n - 1.0);
    if variance <= 0.0 {
        return Some(1.0);
    }
    let z = (runs + 0.5 - mean) / variance.sqrt();
    Some(0.5 * statrs::function::erf::erfc(-z / std::f64::consts::SQRT_2))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `x` is bad; 25 ms apart.
    fn series(text: &str) -> Vec<Event> {
        text.chars()
            .enumerate()
            .map(|(at, c)| (0, at as u64 * 25_000_000, c == 'x'))
            .collect()
    }

    #[test]
    fn bursts_and_what_they_are_worth() {
        for (text, bad, bursts, effect) in [
            ("......", 0, 0, 1.0),
            ("..x.....x..", 2, 2, 1.0),
            ("..xxxx.....x..", 5, 2, 17.0 / 5.0),
            // A burst that lets some through is one burst.
            ("..x.x..x.....", 3, 1, 3.0),
            ("x...x....x", 3, 2, 5.0 / 3.0),
        ] {
            let found = Bursts::of(&series(text), LONGEST_BURST_NS);
            assert_eq!((found.bad, found.bursts), (bad, bursts), "{text}");
            assert!((found.design_effect() - effect).abs() < 1e-12, "{text}");
        }
    }

    #[test]
    fn what_lasts_counts_more_than_once() {
        // Ten seconds without an answer: 41 trials a second, so about ten bursts.
        let found = Bursts::of(&series(&"x".repeat(400)), LONGEST_BURST_NS);
        assert_eq!((found.bad, found.bursts), (400, 10));
        // A new look begins a new burst.
        let found = Bursts::of(&[(0, 5, true), (1, 6, true)], LONGEST_BURST_NS);
        // A short look that is bad throughout is as bad as a long one.
        assert_eq!(longest_burst_ns(600_000_000), 50_000_000);
        assert_eq!(longest_burst_ns(60_000_000_000), LONGEST_BURST_NS);
        assert_eq!(found.bursts, 2);
    }

    #[test]
    fn order_is_told_from_disorder() {
        let clustered = format!("{}{}", "x".repeat(10), ".".repeat(90));
        let p = runs_test(&series(&clustered)).expect("two kinds");
        assert!(p < 1e-6, "{p}");
        let alternating = "x.".repeat(50);
        assert!(runs_test(&series(&alternating)).expect("two kinds") > 0.999);
        // 10 bad among 90 good, spread evenly: no fewer runs than chance gives.
        let spread = "x.........".repeat(10);
        assert!(runs_test(&series(&spread)).expect("two kinds") > 0.5);
        assert_eq!(runs_test(&series("....")), None);
        // By hand: 3 bad and 5 good in 3 runs: mean 4.75, variance 3.75 · 2.75 / 7 = 1.4732, z = −1.0298.
        let p = runs_test(&series("..xxx...")).expect("two kinds");
        assert!((p - 0.1515).abs() < 5e-4, "{p}");
    }
}
