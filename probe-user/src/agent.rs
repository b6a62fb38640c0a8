//! What every part of a running agent shares: who it is, the mesh in force, its counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mesh::Mesh;
use mesh::observation::{NodeRef, Plane};
use nix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

use crate::admission::AdmissionStats;
use crate::kernel::Kernel;
use crate::measure::Measurer;
use crate::probe_counts::ProbeCounts;
use crate::prober::Prober;
use crate::responder::ResponderStats;

/// One running agent.
pub struct Agent {
    pub me: NodeRef,
    pub plane: Plane,
    /// Random per start.
    pub start_id: u64,
    /// Why this process has more rights than it needs, if it was allowed to.
    pub privileged: Option<String>,
    pub mesh: watch::Receiver<Arc<Mesh>>,
    pub reloads: Arc<ReloadStats>,
    pub kernel: Kernel,
    pub prober: Prober,
    pub measurer: Measurer,
    pub responder: Arc<ResponderStats>,
    pub probes: ProbeCounts,
    pub api: ApiStats,
    pub http: HttpStats,
}

/// Readings of `mesh.yaml` after the first.
#[derive(Debug, Default)]
pub struct ReloadStats {
    pub applied: AtomicU64,
    pub refused: AtomicU64,
    /// Why the file as it is now is not in force.
    pub problem: std::sync::Mutex<Option<String>>,
}

/// Calls of the API.
#[derive(Debug, Default)]
pub struct ApiStats {
    pub identity: AtomicU64,
    pub observe: AtomicU64,
    pub probe: AtomicU64,
    pub connections: AtomicU64,
    pub measure: AtomicU64,
    /// Probe runs and measurements that were not started.
    pub refused: AtomicU64,
    /// Connections that were not served.
    pub admission: Arc<AdmissionStats>,
    /// Probe runs and measurements of callers that are going on.
    pub active: Arc<AtomicU64>,
}

/// A probe run of a caller, as long as it lives.
#[derive(Debug)]
pub struct ActiveRun(Arc<AtomicU64>);

impl ApiStats {
    #[must_use]
    pub fn begin_run(&self) -> ActiveRun {
        self.active.fetch_add(1, Ordering::SeqCst);
        ActiveRun(Arc::clone(&self.active))
    }
}

impl Drop for ActiveRun {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Connections to the metrics server that got no answer.
#[derive(Debug, Default)]
pub struct HttpStats {
    pub refused: AtomicU64,
}

impl Agent {
    /// Names what this agent counts: another one after a restart, and after its kernel counts began anew.
    #[must_use]
    pub fn boot_id(&self) -> String {
        let id = self.start_id.wrapping_add(self.kernel.holders_lost());
        format!("{id:016x}")
    }

    #[must_use]
    pub fn mesh(&self) -> Arc<Mesh> {
        Arc::clone(&self.mesh.borrow())
    }
}

fn nanos(clock: ClockId) -> u64 {
    // Both clocks exist on every Linux; 0 would be seen as a clock step.
    let Ok(time) = clock_gettime(clock) else {
        return 0;
    };
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec()).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// `CLOCK_REALTIME` and `CLOCK_MONOTONIC` now, ns.
#[must_use]
pub fn clocks() -> (u64, u64) {
    (
        nanos(ClockId::CLOCK_REALTIME),
        nanos(ClockId::CLOCK_MONOTONIC),
    )
}
