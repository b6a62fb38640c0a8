//! How many distinct datagrams of each run arrived: bounded in runs and in memory.

use std::collections::HashMap;

use probe_api::MAX_COUNT;

const MAX_RUNS: usize = 1_024;
/// 64 sequences each; 2 MiB in all.
const MAX_WORDS: usize = 262_144;

#[derive(Debug, Default)]
struct Run {
    seen: Vec<u64>,
    count: u32,
    last_use: u64,
}

/// A datagram among those of its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counted {
    /// Distinct ones so far, this one included.
    pub(super) total: u32,
    /// It had not come before.
    pub(super) first: bool,
}

/// Runs by their id; the one unused for the longest time makes room.
#[derive(Debug, Default)]
pub(super) struct Runs {
    runs: HashMap<u64, Run>,
    words: usize,
    clock: u64,
    pub evicted: u64,
}

impl Runs {
    /// Counts one datagram, duplicates once. `None` for a sequence that no plan has.
    pub(super) fn count(&mut self, run: u64, sequence: u32) -> Option<Counted> {
        if sequence >= MAX_COUNT {
            return None;
        }
        self.clock += 1;
        let (word, bit) = (sequence as usize / 64, sequence % 64);
        let grow = (word + 1).saturating_sub(self.runs.get(&run).map_or(0, |r| r.seen.len()));
        while (!self.runs.contains_key(&run) && self.runs.len() >= MAX_RUNS)
            || self.words + grow > MAX_WORDS
        {
            self.evict_other_than(run)?;
        }
        let entry = self.runs.entry(run).or_default();
        if grow > 0 {
            entry.seen.resize(word + 1, 0);
            self.words += grow;
        }
        entry.last_use = self.clock;
        let first = entry.seen[word] & (1 << bit) == 0;
        entry.seen[word] |= 1 << bit;
        entry.count += u32::from(first);
        Some(Counted {
            total: entry.count,
            first,
        })
    }

    fn evict_other_than(&mut self, keep: u64) -> Option<()> {
        let oldest = self
            .runs
            .iter()
            .filter(|(id, _)| **id != keep)
            .min_by_key(|(_, run)| run.last_use)
            .map(|(id, _)| *id)?;
        let run = self.runs.remove(&oldest)?;
        self.words -= run.seen.len();
        self.evicted += 1;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(runs: &mut Runs, run: u64, sequence: u32) -> Option<u32> {
        runs.count(run, sequence).map(|counted| counted.total)
    }

    #[test]
    fn a_duplicate_counts_once_and_order_does_not_matter() {
        let mut runs = Runs::default();
        assert_eq!(total(&mut runs, 7, 0), Some(1));
        assert_eq!(total(&mut runs, 7, 70), Some(2));
        assert_eq!(total(&mut runs, 7, 0), Some(2));
        assert_eq!(total(&mut runs, 7, 3), Some(3));
        assert!(!runs.count(7, 3).expect("counted").first);
        assert!(runs.count(7, 4).expect("counted").first);
        assert_eq!(
            total(&mut runs, 8, 3),
            Some(1),
            "each run has its own count"
        );
        assert_eq!(total(&mut runs, 7, MAX_COUNT), None);
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes_first() {
        let mut runs = Runs::default();
        for run in 0..1_024 {
            runs.count(run, 0);
        }
        runs.count(0, 1);
        assert_eq!(runs.evicted, 0);
        runs.count(5_000, 0);
        assert_eq!((runs.evicted, runs.runs.len()), (1, 1_024));
        assert_eq!(total(&mut runs, 0, 2), Some(3), "in use, so kept");
        assert_eq!(total(&mut runs, 1, 0), Some(1), "forgotten");

        for run in 10_000..12_000 {
            runs.count(run, MAX_COUNT - 1);
            assert!(runs.words <= MAX_WORDS, "{}", runs.words);
        }
        let held: usize = runs.runs.values().map(|run| run.seen.len()).sum();
        assert_eq!(held, runs.words);
    }
}
