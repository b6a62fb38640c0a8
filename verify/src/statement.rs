//! One claim about one set of trials: its p-values on either side and its bounds, over all looks.

use crate::dependence::Bursts;
use crate::looks::{confidence_at, over_looks};
use crate::rows::{Spent, Test};
use crate::short::Subject;
use crate::stats::{
    Count, lower_bound_in_bursts, p_too_few_in_bursts, p_too_many_in_bursts, upper_bound_in_bursts,
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
}

impl Statement {
    fn of(subject: Subject, p0: f64, spent: Spent, looks: &[Known], confidence: f64) -> Self {
        let effect = |known: &Known| known.bursts.design_effect();
        let over = |p: &dyn Fn(&Known) -> f64| over_looks(looks.iter().map(p));
        let bound = |bound: fn(Count, f64, f64) -> f64, of: fn(Trials) -> Count, spent: f64| {
            let at = |(look, known): (usize, &Known)| {
                bound(
                    of(known.trials),
                    effect(known),
                    confidence_at(look, (confidence + spent).min(1.0)),
                )
            };
            looks.iter().enumerate().map(at).collect::<Vec<f64>>()
        };
        let last = looks.last().copied().unwrap_or_default();
        Self {
            p_bad: (spent.bad
                + over(&|known| p_too_many_in_bursts(known.trials.best(), effect(known), p0)))
            .min(1.0),
            p_good: (spent.good
                + over(&|known| p_too_few_in_bursts(known.trials.worst(), effect(known), p0)))
            .min(1.0),
            lower: bound(lower_bound_in_bursts, Trials::best, spent.bad)
                .into_iter()
                .fold(0.0, f64::max),
            upper: bound(upper_bound_in_bursts, Trials::worst, spent.good)
                .into_iter()
                .fold(1.0, f64::min),
            subject,
            trials: last.trials,
            bursts: last.bursts,
            looks: looks.len(),
        }
    }
}

/// The pooled statement of `test`, then those of its sources, then those of its targets.
pub(crate) fn statements(test: &Test, confidence: f64) -> Vec<Statement> {
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
            _ => Statement::of(subject, test.p0, test.spent, &known, confidence),
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
                let bursts = Bursts::default();
                looks.push(Known { trials, bursts });
            }
            let statement = Statement::of(None, p0, Spent::default(), &looks, confidence);
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
        };
        let first = Statement::of(None, 0.01, Spent::default(), &[at(486, 1)], 0.95);
        assert!(first.p_good <= 0.05 && first.upper <= 0.01, "{first:?}");
        let later = Statement::of(
            None,
            0.01,
            Spent::default(),
            &[at(486, 1), at(972, 12)],
            0.95,
        );
        assert_eq!((later.p_good, later.looks), (first.p_good, 2));
        assert_eq!(later.trials.known.bad, 12);
    }
}
