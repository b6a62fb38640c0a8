//! The prober: sends probes at their times and measures the answers.
//!
//! One thread owns every socket. It takes one timestamp when the poller returns and one around each
//! `connect` or `send`, so no other task sits between the kernel and the clock. What is sent and how an
//! answer is judged is pure ([`exchange`], [`outcome`], [`schedule`]).

mod budget;
mod dns;
mod engine;
mod exchange;
mod flight;
mod outcome;
mod ports;
mod schedule;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc as std_mpsc;

use mesh::observation::{ProbeKind, Sample};
use probe_api::ProbePlan;
use tokio::sync::{mpsc, oneshot};

pub use budget::{Limits, Refusal};
pub use engine::STALL_LIMIT;
pub use exchange::TileSide;
pub use ports::{Ports, Purpose, SourcePorts};

use budget::Budget;
use engine::Engine;

/// Names the resolver that processes beside the agent use.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What the prober did, since its start.
#[derive(Debug, Default)]
pub struct Stats {
    /// A reserved source port was taken by somebody else.
    pub ports_in_use: AtomicU64,
    /// Datagrams on a probe's socket that did not answer it.
    pub stray_datagrams: AtomicU64,
    /// The prober's thread was not run when it should have been.
    pub stalls: AtomicU64,
    pub starved_samples: AtomicU64,
    /// Results that nobody waited for any more.
    pub abandoned: AtomicU64,
}

impl Stats {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

/// One run: a plan, and where its results go.
struct Job {
    plan: ProbePlan,
    tile: TileSide,
    purpose: Purpose,
    results: mpsc::Sender<(u32, Sample)>,
    /// Holds the run's share of the budget until the run is over.
    _permit: budget::Permit,
}

/// A handle on the prober's thread. The thread ends when the last handle is gone.
#[derive(Clone)]
pub struct Prober {
    jobs: std_mpsc::SyncSender<Job>,
    waker: Arc<mio::Waker>,
    budget: Budget,
    stats: Arc<Stats>,
}

/// Why the prober could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot make a poller")]
    Poller(#[source] std::io::Error),
    #[error("cannot start the prober's thread")]
    Thread(#[source] std::io::Error),
}

impl Prober {
    /// Starts the thread. The receiver resolves when it has ended, which it does by itself only through a fault.
    pub fn start(
        limits: Limits,
        ports: SourcePorts,
    ) -> Result<(Self, oneshot::Receiver<std::io::Error>), StartError> {
        let poll = mio::Poll::new().map_err(StartError::Poller)?;
        let waker = mio::Waker::new(poll.registry(), engine::WAKER).map_err(StartError::Poller)?;
        let (jobs, queue) = std_mpsc::sync_channel(limits.runs);
        let stats = Arc::new(Stats::default());
        let (ended, end) = oneshot::channel();
        let mut engine = Engine::new(poll, queue, ports, Arc::clone(&stats));
        std::thread::Builder::new()
            .name("prober".into())
            .spawn(move || {
                if let Err(error) = engine.run() {
                    let _ = ended.send(error);
                }
            })
            .map_err(StartError::Thread)?;
        let prober = Self {
            jobs,
            waker: Arc::new(waker),
            budget: Budget::new(limits),
            stats,
        };
        Ok((prober, end))
    }

    /// Starts a run. Results arrive in the order in which they are known; dropping the receiver stops the run.
    /// `tile` is the side of NDVI tiles.
    pub fn submit(
        &self,
        mut plan: ProbePlan,
        tile: TileSide,
        purpose: Purpose,
    ) -> Result<mpsc::Receiver<(u32, Sample)>, Refusal> {
        plan.check().map_err(Refusal::Plan)?;
        for planned in &mut plan.targets {
            let address = &mut planned.target.address;
            if planned.kind == ProbeKind::Dns && address.ip().is_unspecified() {
                // Read anew for each run: whoever manages the file changes it when it likes.
                let text = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
                if let Some(resolver) = dns::first_resolver(&text) {
                    address.set_ip(resolver);
                }
            }
        }
        let permit = self.budget.take(&plan)?;
        // As long as the run, so that a slow reader never blocks or loses a sample; memory is only used when it lags.
        let capacity = usize::try_from(plan.probes()).unwrap_or(usize::MAX);
        let (results, receiver) = mpsc::channel(capacity.min(tokio::sync::Semaphore::MAX_PERMITS));
        let job = Job {
            plan,
            tile,
            purpose,
            results,
            _permit: permit,
        };
        self.jobs.try_send(job).map_err(|_| Refusal::Stopped)?;
        self.waker.wake().map_err(|_| Refusal::Stopped)?;
        Ok(receiver)
    }

    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        // The thread notices on its next round that no handle is left.
        let _ = self.waker.wake();
    }
}

#[cfg(test)]
#[path = "../prober_tests/mod.rs"]
mod tests;
