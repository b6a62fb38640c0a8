//! What the prober takes on: bounded runs, rate and sockets, refused with the figure that was exceeded.

use std::sync::{Arc, Mutex, PoisonError};

use probe_api::{PlanError, ProbePlan};

/// Upper bounds over everything that runs at one time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    pub runs: usize,
    /// Probes of one run.
    pub probes: u64,
    /// Probes per second of all runs.
    pub rate: f64,
    /// Sockets waiting for an answer when nothing answers: rate × timeout of all runs.
    pub sockets: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            runs: 8,
            probes: 200_000,
            rate: 4_000.0,
            // Below the 4 036 source ports of requested runs.
            sockets: 4_000.0,
        }
    }
}

/// Why a run is not started.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    #[error("the plan is not valid")]
    Plan(#[source] PlanError),
    #[error("{0} probes are more than the {1} of one run")]
    Probes(u64, u64),
    #[error("{0} runs are going on, no more are taken")]
    Runs(usize),
    #[error("{asked:.0} probes/s asked, {free:.0} of {limit:.0} are free")]
    Rate { asked: f64, free: f64, limit: f64 },
    #[error("rate × timeout needs up to {asked:.0} sockets, {free:.0} of {limit:.0} are free")]
    Sockets { asked: f64, free: f64, limit: f64 },
    #[error("the prober has stopped")]
    Stopped,
}

#[derive(Debug, Default)]
struct Used {
    runs: usize,
    rate: f64,
    sockets: f64,
}

#[derive(Clone, Debug)]
pub(super) struct Budget {
    limits: Limits,
    used: Arc<Mutex<Used>>,
}

/// The share of one run; given back on drop.
#[derive(Debug)]
pub(super) struct Permit {
    rate: f64,
    sockets: f64,
    used: Arc<Mutex<Used>>,
}

impl Budget {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            used: Arc::default(),
        }
    }

    pub(super) fn take(&self, plan: &ProbePlan) -> Result<Permit, Refusal> {
        let limits = &self.limits;
        let probes = plan.probes();
        if probes > limits.probes {
            return Err(Refusal::Probes(probes, limits.probes));
        }
        let interval = plan.interval.as_secs_f64();
        let rate = plan.targets.len() as f64 / interval;
        // Probes that can wait at one time: each target has at most ⌈timeout / interval⌉, and never more than its count.
        let overlap = (plan.timeout.as_secs_f64() / interval).ceil().max(1.0);
        let sockets = plan
            .targets
            .iter()
            .map(|target| overlap.min(f64::from(target.count)))
            .sum::<f64>();

        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.runs >= limits.runs {
            return Err(Refusal::Runs(used.runs));
        }
        let over =
            |asked: f64, used: f64, limit: f64| (used + asked > limit).then_some(limit - used);
        if let Some(free) = over(rate, used.rate, limits.rate) {
            return Err(Refusal::Rate {
                asked: rate,
                free,
                limit: limits.rate,
            });
        }
        if let Some(free) = over(sockets, used.sockets, limits.sockets) {
            return Err(Refusal::Sockets {
                asked: sockets,
                free,
                limit: limits.sockets,
            });
        }
        used.runs += 1;
        used.rate += rate;
        used.sockets += sockets;
        Ok(Permit {
            rate,
            sockets,
            used: Arc::clone(&self.used),
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.runs -= 1;
        if used.runs == 0 {
            // Floating-point dust does not add up.
            *used = Used::default();
        } else {
            used.rate -= self.rate;
            used.sockets -= self.sockets;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mesh::observation::{ProbeKind, ProbeTarget};
    use probe_api::PlannedTarget;

    use super::*;

    fn plan(targets: usize, count: u32, interval_ms: u64, timeout_ms: u64) -> ProbePlan {
        ProbePlan {
            targets: vec![
                PlannedTarget {
                    target: ProbeTarget {
                        cluster: "c".into(),
                        node: Some("n".into()),
                        service: None,
                        address: "127.0.0.1:7411".parse().unwrap(),
                        question: None,
                    },
                    kind: ProbeKind::Tcp,
                    count,
                };
                targets
            ],
            interval: Duration::from_millis(interval_ms),
            timeout: Duration::from_millis(timeout_ms),
        }
    }

    #[test]
    fn each_limit_refuses_with_its_figure_and_a_finished_run_frees_its_share() {
        let budget = Budget::new(Limits {
            runs: 2,
            probes: 1_000,
            rate: 100.0,
            sockets: 150.0,
        });
        let text = |refusal: Result<Permit, Refusal>| refusal.err().map(|r| r.to_string());

        assert_eq!(
            text(budget.take(&plan(1, 1_001, 100, 100))).as_deref(),
            Some("1001 probes are more than the 1000 of one run")
        );
        assert_eq!(
            text(budget.take(&plan(11, 10, 100, 100))).as_deref(),
            Some("110 probes/s asked, 100 of 100 are free")
        );
        assert_eq!(
            text(budget.take(&plan(10, 100, 100, 1_600))).as_deref(),
            Some("rate × timeout needs up to 160 sockets, 150 of 150 are free")
        );
        // A short run cannot hold more sockets than it has probes.
        let first = budget.take(&plan(6, 10, 100, 30_000)).expect("fits");
        assert_eq!(
            text(budget.take(&plan(6, 10, 100, 100))).as_deref(),
            Some("60 probes/s asked, 40 of 100 are free")
        );
        let _second = budget.take(&plan(1, 1, 1_000, 100)).expect("fits");
        assert_eq!(
            text(budget.take(&plan(1, 1, 1_000, 100))).as_deref(),
            Some("2 runs are going on, no more are taken")
        );
        drop(first);
        budget.take(&plan(6, 10, 100, 100)).expect("free again");
    }
}
