//! One claim about one set of trials: its p-values on either side and its bounds, over all looks.

use crate::dependence::Bursts;
use crate::looks::{confidence_at, over_looks, share};
use crate::rows::{Spent, Test};
use crate::short::Subject;
use crate::stats::{
    longest_burst_excluded, lower_bound_in_bursts, p_too_few_in_bursts, p_too_many_in_bursts,
    upper_bound_in_bursts,
};
use crate::tally::{CellName, Known, Trials};
use crate::verdict::Side;

/// "At most `p0` of the trials of `subject` are bad", tested.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Statement {
    pub(crate) subject: Subject,
    /// Chance of what was seen, or worse, at any look if the claim held.
    pub(crate) p_bad: f64,
    /// Chance of what was seen, or better, at any look if the claim did not hold.
    pub(crate) p_good: f64,
    /// All trials of the looks that all cells took part in.
    pub(crate) trials: Trials,
    pub(crate) bursts: Bursts,
    pub(crate) looks: usize,
    /// Bounds that hold at all looks together: `upper` is at most `p0` exactly when `p_good` is at most α.
    pub(crate) lower: f64,
    pub(crate) upper: f64,
    /// Mean bursts of the bad trials that the claim rests on: what was met, or what has to be reckoned with.
    pub(crate) burst: f64,
    /// Longest mean of such bursts, ns, up to which a share above `p0` is disproved at one of the looks. `None`: it is
    /// not, bursts are none of the claim's business, or the trials' places in time are not known.
    pub(crate) longest_burst_ns: Option<f64>,
}

/// What is claimed of some trials.
#[derive(Clone, Copy)]
struct Claim {
    p0: f64,
    burst: f64,
    spent: Spent,
    confidence: f64,
}

impl Statement {
    fn of(subject: Subject, claim: Claim, looks: &[Known]) -> Self {
        let Claim {
            p0,
            burst,
            spent,
            confidence,
        } = claim;
        let effect = |known: &Known| known.bursts.design_effect();
        let burst = |known: &Known| known.bursts.mean().max(burst);
        let over = |p: &dyn Fn(&Known) -> f64| over_looks(looks.iter().map(p));
        let at_looks = |bound: &dyn Fn(&Known, f64) -> f64, spent: f64| {
            let at = |(look, known): (usize, &Known)| {
                bound(known, confidence_at(look, (confidence + spent).min(1.0)))
            };
            looks.iter().enumerate().map(at).collect::<Vec<f64>>()
        };
        let lower = |known: &Known, confidence| {
            lower_bound_in_bursts(known.trials.best(), effect(known), confidence)
        };
        let upper = |known: &Known, confidence| {
            upper_bound_in_bursts(known.trials.worst(), burst(known), confidence)
        };
        let last = looks.last().copied().unwrap_or_default();
        Self {
            p_bad: (spent.bad
                + over(&|known| p_too_many_in_bursts(known.trials.best(), effect(known), p0)))
            .min(1.0),
            p_good: (spent.good
                + over(&|known| p_too_few_in_bursts(known.trials.worst(), burst(known), p0)))
            .min(1.0),
            lower: at_looks(&lower, spent.bad).into_iter().fold(0.0, f64::max),
            upper: at_looks(&upper, spent.good).into_iter().fold(1.0, f64::min),
            subject,
            trials: last.trials,
            bursts: last.bursts,
            looks: looks.len(),
            burst: burst(&last),
            longest_burst_ns: longest_burst_ns(claim, looks),
        }
    }
}

fn longest_burst_ns(claim: Claim, looks: &[Known]) -> Option<f64> {
    if claim.burst <= 1.0 {
        return None;
    }
    let alpha = (1.0 - claim.confidence - claim.spent.good).max(0.0);
    let at = |(look, known): (usize, &Known)| {
        longest_burst_excluded(known.trials.worst(), claim.p0, alpha * share(look))
    };
    let longest = looks.iter().enumerate().filter_map(at).reduce(f64::max)?;
    let spacing = looks.first()?.spacing_ns;
    (spacing > 0).then_some(longest * spacing as f64)
}

/// The pooled statement of `test`, then those of its sources, then those of its targets.
pub(crate) fn statements(test: &Test, confidence: f64) -> Vec<Statement> {
    let claim = Claim {
        p0: test.p0,
        burst: test.burst,
        spent: test.spent,
        confidence,
    };
    let mut all: Vec<Statement> = Vec::new();
    let mut last: Vec<Known> = Vec::new();
    let mut add = |subject: Subject, within: &dyn Fn(&CellName) -> bool| {
        let known = test.tally.by_look(within);
        // A side with a single node says what the pooled trials say.
        let statement = match all.last() {
            Some(same) if known == last => Statement {
                subject,
                ..same.clone()
            },
            _ => Statement::of(subject, claim, &known),
        };
        last = known;
        all.push(statement);
    };
    add(None, &|_| true);
    for node in &test.sources {
        add(Some((Side::Source, node.clone())), &|cell| &cell.0 == node);
    }
    for node in &test.targets {
        add(Some((Side::Target, node.clone())), &|cell| &cell.1 == node);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::looks;

    /// splitmix64.
    struct Random(u64);

    impl Random {
        fn chance(&mut self, p: f64) -> bool {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64) < p
        }
    }

    fn claim(p0: f64, confidence: f64) -> Claim {
        Claim {
            p0,
            burst: 1.0,
            spent: Spent::default(),
            confidence,
        }
    }

    /// Never stopping is the worst case: every look gets its chance to be wrong.
    #[test]
    fn both_p_values_hold_over_all_looks_together() {
        let (p0, confidence, first, links) = (0.01, 0.95, 486, 3_000);
        let mut random = Random(3);
        let (mut rejected, mut proven, mut once) = (0, 0, 0);
        for _ in 0..links {
            let mut looks = Vec::new();
            let (mut trials, mut n) = (Trials::default(), 0);
            for look in 0..looks::MOST {
                while n < first * looks::times(look) {
                    trials.known.add(random.chance(p0));
                    n += 1;
                }
                looks.push(Known {
                    trials,
                    bursts: Bursts::default(),
                    spacing_ns: 0,
                });
            }
            let statement = Statement::of(None, claim(p0, confidence), &looks);
            rejected += u32::from(statement.p_bad <= 0.05);
            proven += u32::from(statement.p_good <= 0.05);
            let at_any = |known: &Known| p_too_few_in_bursts(known.trials.worst(), 1.0, p0) <= 0.05;
            once += u32::from(looks.iter().any(at_any));
            assert_eq!(
                statement.p_good <= 0.05,
                statement.upper <= p0,
                "{statement:?}"
            );
            assert_eq!(
                statement.p_bad <= 0.05,
                statement.lower >= p0,
                "{statement:?}"
            );
        }
        let share = |part: u32| f64::from(part) / f64::from(links);
        let most = 0.05 + 3.0 * (0.05 * 0.95 / f64::from(links)).sqrt();
        assert!(share(rejected) <= most, "{rejected} of {links} rejected");
        assert!(share(proven) <= most, "{proven} of {links} proven");
        assert!(share(proven) > 0.02, "the test would not notice: {proven}");
        assert!(
            share(once) > most,
            "a test that spends everything at every look is wrong: {once}"
        );
    }

    #[test]
    fn a_decision_of_an_earlier_look_stands() {
        let at = |n, bad| Known {
            trials: Trials::of(n, bad),
            bursts: Bursts::default(),
            spacing_ns: 25_000_000,
        };
        let first = Statement::of(None, claim(0.01, 0.95), &[at(486, 1)]);
        assert!(first.p_good <= 0.05 && first.upper <= 0.01, "{first:?}");
        let later = Statement::of(None, claim(0.01, 0.95), &[at(486, 1), at(972, 12)]);
        assert_eq!((later.p_good, later.looks), (first.p_good, 2));
        assert_eq!(later.trials.known.bad, 12);
    }

    /// A burst that was not met leaves no trace: a claim about packets has to reckon with it.
    #[test]
    fn packets_are_lost_in_bursts_whether_met_or_not() {
        let clean = |n| Known {
            trials: Trials::of(n, 0),
            bursts: Bursts::default(),
            spacing_ns: 25_000_000,
        };
        let packets = Claim {
            burst: 1.5,
            ..claim(0.01, 0.95)
        };
        let of = |claim, n| Statement::of(None, claim, &[clean(n)]);
        assert!(of(claim(0.01, 0.95), 330).p_good <= 0.05);
        assert_eq!(of(claim(0.01, 0.95), 330).longest_burst_ns, None);
        let short = of(packets, 330);
        assert!(short.p_good > 0.05 && short.upper > 0.01, "{short:?}");
        let enough = of(packets, 486);
        assert!(enough.p_good <= 0.05 && enough.upper <= 0.01, "{enough:?}");
        // 4.86 / ln(1 / 0.045) probes of 25 ms.
        let longest = enough.longest_burst_ns.expect("a clean run excludes some");
        assert!((longest - 39.18e6).abs() < 0.05e6, "{longest}");
        let long = of(packets, 4_860)
            .longest_burst_ns
            .expect("and a longer one more");
        assert!((long / longest - 10.0).abs() < 0.01, "{long}");
    }
}
