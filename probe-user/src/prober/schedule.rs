//! When each probe of a run is due: targets interleaved, each at its own phase of the interval.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use probe_api::ProbePlan;

/// One probe to send, due at `at` after the start of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Due {
    pub at: Duration,
    pub target: u32,
    pub sequence: u32,
}

/// Every probe of a plan in the order of their times.
#[derive(Debug)]
pub(super) struct Schedule {
    interval: Duration,
    counts: Vec<u32>,
    heap: BinaryHeap<Reverse<Due>>,
}

impl Schedule {
    pub(super) fn new(plan: &ProbePlan) -> Self {
        let targets = plan.targets.len().max(1);
        let phase = plan.interval.div_f64(targets as f64);
        let heap = (0_u32..)
            .zip(&plan.targets)
            .filter(|(_, planned)| planned.count > 0)
            .map(|(target, _)| {
                Reverse(Due {
                    at: phase.saturating_mul(target),
                    target,
                    sequence: 0,
                })
            })
            .collect();
        Self {
            interval: plan.interval,
            counts: plan.targets.iter().map(|planned| planned.count).collect(),
            heap,
        }
    }

    pub(super) fn next_at(&self) -> Option<Duration> {
        self.heap.peek().map(|Reverse(due)| due.at)
    }

    /// The first probe that is due at `elapsed`, if any.
    pub(super) fn pop(&mut self, elapsed: Duration) -> Option<Due> {
        let Reverse(due) = *self.heap.peek()?;
        if due.at > elapsed {
            return None;
        }
        self.heap.pop();
        let sequence = due.sequence + 1;
        if self
            .counts
            .get(due.target as usize)
            .is_some_and(|count| sequence < *count)
        {
            self.heap.push(Reverse(Due {
                at: due.at.saturating_add(self.interval),
                target: due.target,
                sequence,
            }));
        }
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use mesh::observation::{ProbeKind, ProbeTarget};
    use probe_api::PlannedTarget;
    use proptest::prelude::*;

    use super::*;

    fn plan(counts: &[u32], interval: Duration) -> ProbePlan {
        ProbePlan {
            targets: counts
                .iter()
                .map(|count| PlannedTarget {
                    target: ProbeTarget {
                        cluster: "c".into(),
                        node: Some("n".into()),
                        service: None,
                        address: "127.0.0.1:1".parse().unwrap(),
                        question: None,
                    },
                    kind: ProbeKind::Tcp,
                    count: *count,
                })
                .collect(),
            interval,
            timeout: Duration::from_secs(1),
        }
    }

    #[test]
    fn targets_take_turns() {
        let mut schedule = Schedule::new(&plan(&[2, 1, 2], Duration::from_millis(30)));
        let mut order = Vec::new();
        while let Some(due) = schedule.pop(Duration::MAX) {
            order.push((due.at.as_millis(), due.target, due.sequence));
        }
        assert_eq!(
            order,
            [(0, 0, 0), (10, 1, 0), (20, 2, 0), (30, 0, 1), (50, 2, 1)]
        );
        assert_eq!(schedule.next_at(), None);
    }

    #[test]
    fn nothing_comes_before_its_time() {
        let mut schedule = Schedule::new(&plan(&[2], Duration::from_millis(10)));
        assert!(schedule.pop(Duration::ZERO).is_some());
        assert_eq!(schedule.pop(Duration::from_micros(9_999)), None);
        assert!(schedule.pop(Duration::from_millis(10)).is_some());
    }

    proptest! {
        #[test]
        fn every_probe_comes_exactly_once_and_times_never_go_back(
            counts in proptest::collection::vec(1_u32..20, 1..10),
            interval in 200_u64..1_000_000,
        ) {
            let mut schedule = Schedule::new(&plan(&counts, Duration::from_micros(interval)));
            let mut next = vec![0_u32; counts.len()];
            let mut last = Duration::ZERO;
            while let Some(due) = schedule.pop(Duration::MAX) {
                prop_assert!(due.at >= last);
                last = due.at;
                prop_assert_eq!(next[due.target as usize], due.sequence);
                next[due.target as usize] += 1;
            }
            prop_assert_eq!(next, counts);
        }
    }
}
