//! Trials per pair of nodes, and their sums: pooled, per source node, per target node.

use std::collections::{BTreeMap, BTreeSet};

use crate::stats::Count;
use crate::verdict::Side;

/// Trials between two nodes. `unresolved` ones may or may not have been bad.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trials {
    pub(crate) known: Count,
    pub(crate) unresolved: u64,
}

impl Trials {
    pub(crate) fn of(n: u64, bad: u64) -> Self {
        Self {
            known: Count::new(n, bad),
            unresolved: 0,
        }
    }

    /// As bad as it can be: decides READY.
    pub(crate) fn worst(self) -> Count {
        Count {
            n: self.known.n + self.unresolved,
            bad: self.known.bad + self.unresolved,
        }
    }

    /// As good as it can be: decides NOT READY.
    pub(crate) fn best(self) -> Count {
        Count {
            n: self.known.n + self.unresolved,
            bad: self.known.bad,
        }
    }
}

impl std::ops::AddAssign for Trials {
    fn add_assign(&mut self, other: Self) {
        self.known += other.known;
        self.unresolved += other.unresolved;
    }
}

/// Trials by (source node, target node or service).
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tally {
    cells: BTreeMap<(String, String), Trials>,
}

impl Tally {
    pub(crate) fn cell(&mut self, cell: (String, String)) -> &mut Trials {
        self.cells.entry(cell).or_default()
    }

    pub(crate) fn cells(&self) -> impl Iterator<Item = (&(String, String), Trials)> {
        self.cells.iter().map(|(cell, trials)| (cell, *trials))
    }

    pub(crate) fn pooled(&self) -> Trials {
        self.sum(|_| true)
    }

    pub(crate) fn marginal(&self, side: Side, node: &str) -> Trials {
        self.sum(|(source, target)| match side {
            Side::Source => source == node,
            Side::Target => target == node,
        })
    }

    pub(crate) fn sum(&self, within: impl Fn(&(String, String)) -> bool) -> Trials {
        let mut sum = Trials::default();
        for (cell, trials) in &self.cells {
            if within(cell) {
                sum += *trials;
            }
        }
        sum
    }

    pub(crate) fn names(&self, side: Side) -> BTreeSet<&str> {
        self.cells
            .keys()
            .map(|(source, target)| match side {
                Side::Source => source.as_str(),
                Side::Target => target.as_str(),
            })
            .collect()
    }
}

/// Where in a link the bad trials sit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    Everywhere,
    Node(Side, String),
    Pair(String, String),
}

impl Scope {
    pub(crate) fn covers(&self, cell: &(String, String)) -> bool {
        match self {
            Self::Everywhere => true,
            Self::Node(Side::Source, node) => &cell.0 == node,
            Self::Node(Side::Target, node) => &cell.1 == node,
            Self::Pair(source, target) => (&cell.0, &cell.1) == (source, target),
        }
    }

    /// As the `node` of a check.
    pub(crate) fn node(&self) -> Option<String> {
        match self {
            Self::Everywhere => None,
            Self::Node(_, node) => Some(node.clone()),
            Self::Pair(source, target) => Some(format!("{source} → {target}")),
        }
    }

    pub(crate) fn mirrored(&self) -> Self {
        match self {
            Self::Everywhere => Self::Everywhere,
            Self::Node(Side::Source, node) => Self::Node(Side::Target, node.clone()),
            Self::Node(Side::Target, node) => Self::Node(Side::Source, node.clone()),
            Self::Pair(source, target) => Self::Pair(target.clone(), source.clone()),
        }
    }
}

/// Chooses the scope whose two rates, inside and outside, explain the cells best: maximum
/// likelihood with the Bayesian information criterion as the price of the second rate.
pub(crate) fn localise(tally: &Tally) -> Scope {
    let total = tally.pooled().known;
    let mut best = (log_likelihood(total), Scope::Everywhere);
    if total.n == 0 {
        return Scope::Everywhere;
    }
    let price = 0.5 * (total.n as f64).ln();
    let mut candidates = Vec::new();
    for side in [Side::Source, Side::Target] {
        let names = tally.names(side);
        if names.len() > 1 {
            candidates.extend(
                names
                    .into_iter()
                    .map(|name| Scope::Node(side, name.to_owned())),
            );
        }
    }
    let (sources, targets) = (
        tally.names(Side::Source).len(),
        tally.names(Side::Target).len(),
    );
    if sources > 1 && targets > 1 {
        candidates.extend(
            tally
                .cells()
                .map(|((s, t), _)| Scope::Pair(s.clone(), t.clone())),
        );
    }
    for scope in candidates {
        let inside = tally.sum(|cell| scope.covers(cell)).known;
        let outside = tally.sum(|cell| !scope.covers(cell)).known;
        if inside.rate() <= outside.rate() {
            continue;
        }
        let score = log_likelihood(inside) + log_likelihood(outside) - price;
        if score > best.0 {
            best = (score, scope);
        }
    }
    best.1
}

/// Binomial log-likelihood at the observed rate.
fn log_likelihood(count: Count) -> f64 {
    let part = |k: u64| {
        if k == 0 {
            0.0
        } else {
            k as f64 * (k as f64 / count.n as f64).ln()
        }
    };
    part(count.bad) + part(count.n - count.bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows are sources a, b, …; columns targets x, y, …; 160 trials a cell.
    fn tally(bad: &[&[u64]]) -> Tally {
        let mut tally = Tally::default();
        for (s, row) in bad.iter().enumerate() {
            for (t, bad) in row.iter().enumerate() {
                let name = |base: u8, i: usize| char::from(base + i as u8).to_string();
                *tally.cell((name(b'a', s), name(b'x', t))) = Trials::of(160, *bad);
            }
        }
        tally
    }

    #[test]
    fn scopes_are_found() {
        let node = |side, name: &str| Scope::Node(side, name.to_owned());
        let cases = [
            (tally(&[&[160, 160], &[160, 160]]), Scope::Everywhere),
            (tally(&[&[9, 7], &[6, 10]]), Scope::Everywhere),
            (tally(&[&[0, 0], &[0, 0]]), Scope::Everywhere),
            (tally(&[&[160, 160], &[0, 1]]), node(Side::Source, "a")),
            (tally(&[&[0, 9], &[0, 8]]), node(Side::Target, "y")),
            (
                tally(&[&[0, 0], &[160, 0]]),
                Scope::Pair("b".into(), "x".into()),
            ),
            (
                tally(&[&[0, 0], &[12, 0]]),
                Scope::Pair("b".into(), "x".into()),
            ),
            // One of six nodes losing 5 % is 0.8 % pooled.
            (
                tally(&[&[0, 0], &[0, 1], &[8, 9], &[1, 0], &[0, 0], &[0, 0]]),
                node(Side::Source, "c"),
            ),
        ];
        for (tally, expected) in cases {
            assert_eq!(localise(&tally), expected, "{tally:?}");
        }
    }

    #[test]
    fn unresolved_trials_count_against_both_sides() {
        let trials = Trials {
            known: Count::new(100, 2),
            unresolved: 5,
        };
        assert_eq!(trials.worst(), Count::new(105, 7));
        assert_eq!(trials.best(), Count::new(105, 2));
    }
}
