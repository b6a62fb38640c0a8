//! Measurements of a path: searches that are asked for, one at a time, never in the background.

mod path_mtu;
mod search;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mesh::measurement::{MeasureKind, MeasureOutcome, PathDirection};
use probe_api::measure::{Figure, MeasurePlan, MeasureTarget, Measurement};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::prober::Ports;

/// Source ports tried before giving up.
const PORT_ATTEMPTS: u32 = 64;

/// What was measured since the start.
#[derive(Debug, Default)]
pub struct MeasureStats {
    /// Path directions with a figure, and without.
    pub path_mtu_ok: AtomicU64,
    pub path_mtu_failed: AtomicU64,
    /// Calls refused because another one was going on.
    pub busy: AtomicU64,
}

/// Why a measurement is not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MeasureRefusal {
    #[error("another measurement is going on\nhint: ask again when it has ended")]
    Busy,
}

/// Measures, one plan at a time.
#[derive(Clone)]
pub struct Measurer {
    one: Arc<Semaphore>,
    ports: Arc<Mutex<Ports>>,
    stats: Arc<MeasureStats>,
}

impl Measurer {
    #[must_use]
    pub fn new(ports: Ports) -> Self {
        Self {
            one: Arc::new(Semaphore::new(1)),
            ports: Arc::new(Mutex::new(ports)),
            stats: Arc::default(),
        }
    }

    #[must_use]
    pub fn stats(&self) -> &MeasureStats {
        &self.stats
    }

    /// Starts a plan. Results arrive in its order; dropping the receiver stops it.
    pub fn submit(
        &self,
        plan: MeasurePlan,
    ) -> Result<mpsc::Receiver<(u32, Measurement)>, MeasureRefusal> {
        let Ok(permit) = Arc::clone(&self.one).try_acquire_owned() else {
            self.stats.busy.fetch_add(1, Ordering::Relaxed);
            return Err(MeasureRefusal::Busy);
        };
        let (results, receiver) = mpsc::channel(2 * plan.targets.len());
        tokio::spawn(self.clone().run(plan, results, permit));
        Ok(receiver)
    }

    async fn run(
        self,
        plan: MeasurePlan,
        results: mpsc::Sender<(u32, Measurement)>,
        _permit: OwnedSemaphorePermit,
    ) {
        for (index, target) in (0_u32..).zip(&plan.targets) {
            let measured = tokio::select! {
                measured = self.measure(target) => measured,
                () = results.closed() => return,
            };
            for measurement in measured {
                self.count(target.kind, &measurement);
                if results.send((index, measurement)).await.is_err() {
                    return;
                }
            }
        }
    }

    async fn measure(&self, target: &MeasureTarget) -> [Measurement; 2] {
        match target.kind {
            MeasureKind::PathMtu => path_mtu::measure(target, &self.ports).await,
        }
    }

    fn count(&self, kind: MeasureKind, measurement: &Measurement) {
        let ok = measurement.outcome == MeasureOutcome::Ok;
        let counter = match (kind, ok) {
            (MeasureKind::PathMtu, true) => &self.stats.path_mtu_ok,
            (MeasureKind::PathMtu, false) => &self.stats.path_mtu_failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The next free source port of the reserved range, as `bind` finds it.
fn with_port<T>(
    ports: &Mutex<Ports>,
    mut bind: impl FnMut(u16) -> std::io::Result<T>,
) -> std::io::Result<(T, u16)> {
    let mut last = std::io::Error::from(std::io::ErrorKind::AddrInUse);
    for _ in 0..PORT_ATTEMPTS {
        let port = ports.lock().unwrap_or_else(PoisonError::into_inner).take();
        match bind(port) {
            Ok(bound) => return Ok((bound, port)),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// Both directions failed alike.
fn both(outcome: MeasureOutcome, source_port: u16) -> [Measurement; 2] {
    [PathDirection::Forward, PathDirection::Return]
        .map(|direction| failed(direction, outcome, source_port))
}

fn failed(direction: PathDirection, outcome: MeasureOutcome, source_port: u16) -> Measurement {
    Measurement {
        direction,
        outcome,
        source_port,
        responder: None,
        figure: None::<Figure>,
    }
}
