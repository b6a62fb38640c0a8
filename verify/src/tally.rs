//! Trials per pair of nodes, and their sums: pooled, per source node, per target node.

use std::collections::{BTreeMap, BTreeSet};

use crate::dependence::{Bursts, Event, LONGEST_BURST_NS, longest_burst_ns};
use crate::looks;
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

/// Source node and target node or service.
pub(crate) type CellName = (String, String);

/// What happened between two nodes.
#[derive(Clone, Debug, Default, PartialEq)]
struct Cell {
    /// Trials of each look.
    looks: Vec<Trials>,
    /// Single trials in the order in which they were added, for those that are known one by one.
    events: Vec<Event>,
}

impl Cell {
    fn look(&mut self, look: u32) -> &mut Trials {
        let look = (look as usize).min(looks::MOST - 1);
        if self.looks.len() <= look {
            self.looks.resize(look + 1, Trials::default());
        }
        &mut self.looks[look]
    }
}

/// Trials by pair of nodes and look.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tally {
    cells: BTreeMap<CellName, Cell>,
}

impl Tally {
    /// Trials of the first look.
    pub(crate) fn cell(&mut self, cell: CellName) -> &mut Trials {
        self.at_look(cell, 0)
    }

    pub(crate) fn at_look(&mut self, cell: CellName, look: u32) -> &mut Trials {
        self.cells.entry(cell).or_default().look(look)
    }

    /// One trial whose place in time is known.
    pub(crate) fn add(&mut self, cell: &CellName, event: Event) {
        self.known(cell, |cell| {
            cell.look(event.0).known.add(event.2);
            cell.events.push(event);
        });
    }

    /// The place in time of a trial that is counted elsewhere.
    pub(crate) fn note(&mut self, cell: &CellName, event: Event) {
        self.known(cell, |cell| cell.events.push(event));
    }

    /// Most trials meet a cell that is there already: no name has to be copied.
    fn known(&mut self, name: &CellName, edit: impl FnOnce(&mut Cell)) {
        match self.cells.get_mut(name) {
            Some(cell) => edit(cell),
            None => edit(self.cells.entry(name.clone()).or_default()),
        }
    }

    /// Forgets what is known of `cell`.
    pub(crate) fn clear(&mut self, cell: &CellName) {
        self.cells.remove(cell);
    }

    pub(crate) fn cells(&self) -> impl Iterator<Item = (&CellName, Trials)> {
        self.cells
            .iter()
            .map(|(name, cell)| (name, total(&cell.looks)))
    }

    pub(crate) fn pooled(&self) -> Trials {
        self.sum(|_| true)
    }

    /// Of all looks.
    pub(crate) fn sum(&self, within: impl Fn(&CellName) -> bool) -> Trials {
        let mut sum = Trials::default();
        for (name, cell) in &self.cells {
            if within(name) {
                sum += total(&cell.looks);
            }
        }
        sum
    }

    /// What was known at each look. A look counts only if all cells took part: more samples of the suspicious
    /// cells alone would weigh them more than the others.
    pub(crate) fn by_look(&self, within: impl Fn(&CellName) -> bool) -> Vec<Known> {
        let cells: Vec<&Cell> = self
            .cells
            .iter()
            .filter(|(name, _)| within(name))
            .map(|(_, cell)| cell)
            .collect();
        let takes_part = |cell: &Cell, look: usize| {
            cell.looks
                .get(look)
                .is_some_and(|trials| trials.worst().n > 0)
        };
        let full = (1..looks::MOST)
            .take_while(|look| !cells.is_empty() && cells.iter().all(|c| takes_part(c, *look)))
            .count();
        let mut all: Vec<Event> = Vec::new();
        if cells.len() > 1 {
            all = cells
                .iter()
                .flat_map(|cell| &cell.events)
                .copied()
                .collect();
            all.sort_by_key(|event| (event.0, event.1));
        }
        let first = || {
            cells
                .iter()
                .flat_map(|cell| &cell.events)
                .filter(|e| e.0 == 0)
        };
        let ends = (first().map(|e| e.1).min(), first().map(|e| e.1).max());
        let (longest, spacing_ns) = match ends {
            (Some(from), Some(to)) => {
                let gaps = first().count().saturating_sub(1).max(1) as u64;
                (longest_burst_ns(to - from), (to - from) / gaps)
            }
            _ => (LONGEST_BURST_NS, 0),
        };
        let mut trials = Trials::default();
        (0..=full)
            .map(|look| {
                for cell in &cells {
                    trials += cell.looks.get(look).copied().unwrap_or_default();
                }
                let upto = |event: &&Event| event.0 as usize <= look;
                let mut bursts = Bursts::default();
                for cell in &cells {
                    bursts += Bursts::of(cell.events.iter().filter(upto), longest);
                }
                let together = Bursts::of(all.iter().filter(upto), longest);
                Known {
                    trials,
                    spacing_ns,
                    bursts: if together.design_effect() > bursts.design_effect() {
                        together
                    } else {
                        bursts
                    },
                }
            })
            .collect()
    }

    /// Single trials within one cell in time, cell by cell.
    pub(crate) fn series(&self) -> impl Iterator<Item = &[Event]> {
        self.cells.values().map(|cell| cell.events.as_slice())
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

fn total(looks: &[Trials]) -> Trials {
    let mut sum = Trials::default();
    for trials in looks {
        sum += *trials;
    }
    sum
}

/// The trials up to a look, and how the bad ones hang together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Known {
    pub(crate) trials: Trials,
    pub(crate) bursts: Bursts,
    /// From one trial to the next during the first look, on average; 0 where their places in time are not known.
    pub(crate) spacing_ns: u64,
}

/// Where in a link the bad trials sit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    Everywhere,
    Node(Side, String),
    Pair(String, String),
}

impl Scope {
    pub(crate) fn covers(&self, cell: &CellName) -> bool {
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
    fn only_looks_that_all_cells_took_part_in_count() {
        let mut tally = tally(&[&[1, 0]]);
        let known = |tally: &Tally, within: fn(&CellName) -> bool| -> Vec<Count> {
            let looks = tally.by_look(within);
            looks.iter().map(|known| known.trials.known).collect()
        };
        *tally.at_look(("a".into(), "x".into()), 1) = Trials::of(160, 5);
        assert_eq!(known(&tally, |_| true), [Count::new(320, 1)]);
        let x = [Count::new(160, 1), Count::new(320, 6)];
        assert_eq!(known(&tally, |(_, t)| t == "x"), x);
        *tally.at_look(("a".into(), "y".into()), 1) = Trials::of(160, 0);
        let both = [Count::new(320, 1), Count::new(640, 6)];
        assert_eq!(known(&tally, |_| true), both);
        assert_eq!(known(&tally, |(_, t)| t == "z"), [Count::default()]);
    }

    #[test]
    fn bursts_are_found_within_cells_and_across_them() {
        let cell = |t: &str| ("a".to_owned(), t.to_owned());
        let effect = |tally: &Tally| {
            let looks = tally.by_look(|_| true);
            looks[0].bursts.design_effect()
        };
        // One burst of four, half of it in each cell.
        let mut across = Tally::default();
        for at in 0..40 {
            let bad = (20..24).contains(&at);
            across.add(
                &cell(if at % 2 == 0 { "x" } else { "y" }),
                (0, at * 25_000_000, bad),
            );
        }
        assert_eq!(effect(&across), 4.0);
        // The same in one cell among forty of which the others are well.
        let mut within = Tally::default();
        for at in 0..4_000 {
            let (target, bad) = (at % 40, (2_000..2_160).contains(&at));
            within.add(
                &cell(&target.to_string()),
                (0, at * 25_000_000 / 40, bad && target == 7),
            );
        }
        assert_eq!(effect(&within), 4.0);
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
