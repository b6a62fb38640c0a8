//! Measurements of a path: searches and transfers that are asked for, one at a time, never in the background.

mod path_mtu;
mod search;
mod throughput;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mesh::measurement::{MeasureKind, MeasureOutcome, PathDirection};
use mesh::observation::NodeRef;
use probe_api::measure::{Figure, MeasurePlan, MeasureTarget, Measurement, TransferCaps};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::prober::{Ports, Prober};

/// Source ports tried before giving up.
const PORT_ATTEMPTS: u32 = 64;

/// Path-MTU searches at one time.
const SEARCHES: usize = 8;

/// What was measured since the start.
#[derive(Debug, Default)]
pub struct MeasureStats {
    /// Path directions with a figure, and without.
    pub path_mtu_ok: AtomicU64,
    pub path_mtu_failed: AtomicU64,
    pub throughput_ok: AtomicU64,
    pub throughput_failed: AtomicU64,
    /// Calls refused because another one was going on.
    pub busy: AtomicU64,
}

/// Path MTU in bytes, goodput in bytes per second.
type Figures = (Option<u16>, Option<u64>);

/// What the last measurements found.
#[derive(Debug, Default)]
struct Latest {
    /// By remote node and direction.
    known: Mutex<BTreeMap<(NodeRef, PathDirection), Figures>>,
}

/// Of the paths between this node and the nodes of `cluster` in one direction, the smallest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatestFigure {
    pub cluster: String,
    pub direction: PathDirection,
    pub path_mtu: Option<u16>,
    pub goodput_bytes_per_second: Option<u64>,
}

/// The smaller of what there is.
fn least<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

impl Latest {
    /// A measurement without a figure takes the one before away: it is not true any more.
    fn note(&self, node: &NodeRef, kind: MeasureKind, measurement: &Measurement) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = known
            .entry((node.clone(), measurement.direction))
            .or_default();
        match (kind, &measurement.figure) {
            (MeasureKind::PathMtu, Some(Figure::PathMtu(mtu))) => entry.0 = Some(mtu.bytes),
            (MeasureKind::PathMtu, _) => entry.0 = None,
            (MeasureKind::Throughput, Some(Figure::Throughput(found))) => {
                let rate =
                    u128::from(found.bytes) * 1_000_000_000 / u128::from(found.duration_ns.max(1));
                entry.1 = Some(u64::try_from(rate).unwrap_or(u64::MAX));
            }
            (MeasureKind::Throughput, _) => entry.1 = None,
        }
    }

    fn figures(&self) -> Vec<LatestFigure> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut figures = BTreeMap::<_, Figures>::new();
        for ((node, direction), (mtu, goodput)) in &*known {
            let entry = figures
                .entry((node.cluster.clone(), *direction))
                .or_default();
            *entry = (least(entry.0, *mtu), least(entry.1, *goodput));
        }
        figures
            .into_iter()
            .map(|((cluster, direction), (path_mtu, goodput))| LatestFigure {
                cluster,
                direction,
                path_mtu,
                goodput_bytes_per_second: goodput,
            })
            .collect()
    }
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
    /// For the echoes beside a transfer.
    prober: Prober,
    latest: Arc<Latest>,
    stats: Arc<MeasureStats>,
}

impl Measurer {
    #[must_use]
    pub fn new(ports: Ports, prober: Prober) -> Self {
        Self {
            one: Arc::new(Semaphore::new(1)),
            ports: Arc::new(Mutex::new(ports)),
            prober,
            latest: Arc::default(),
            stats: Arc::default(),
        }
    }

    #[must_use]
    pub fn stats(&self) -> &MeasureStats {
        &self.stats
    }

    /// The smallest figures of the last measurements per remote cluster and direction.
    #[must_use]
    pub fn latest(&self) -> Vec<LatestFigure> {
        self.latest.figures()
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
        let mut index = 0_u32;
        for together in together(&plan.targets) {
            let measured = tokio::select! {
                measured = self.measure(together, plan.transfer) => measured,
                () = results.closed() => return,
            };
            for (target, measured) in together.iter().zip(measured) {
                for measurement in measured {
                    self.count(target.kind, &measurement);
                    self.latest.note(&target.node, target.kind, &measurement);
                    if results.send((index, measurement)).await.is_err() {
                        return;
                    }
                }
                index += 1;
            }
        }
    }

    /// The targets of one group at the same time; results in their order. One of a task that ended badly says so.
    async fn measure(
        &self,
        together: &[MeasureTarget],
        caps: TransferCaps,
    ) -> Vec<[Measurement; 2]> {
        if let [target] = together
            && target.kind == MeasureKind::Throughput
        {
            return vec![throughput::measure(target, caps, &self.ports, &self.prober).await];
        }
        let mut searches = JoinSet::new();
        for (at, target) in together.iter().enumerate() {
            let (target, ports) = (target.clone(), Arc::clone(&self.ports));
            searches.spawn(async move { (at, path_mtu::measure(&target, &ports).await) });
        }
        let mut measured = vec![both(MeasureOutcome::LocalError, 0); together.len()];
        while let Some(done) = searches.join_next().await {
            match done {
                Ok((at, found)) => measured[at] = found,
                Err(error) => tracing::error!(%error, "a path MTU search ended badly"),
            }
        }
        measured
    }

    fn count(&self, kind: MeasureKind, measurement: &Measurement) {
        let ok = measurement.outcome == MeasureOutcome::Ok;
        let counter = match (kind, ok) {
            (MeasureKind::PathMtu, true) => &self.stats.path_mtu_ok,
            (MeasureKind::PathMtu, false) => &self.stats.path_mtu_failed,
            (MeasureKind::Throughput, true) => &self.stats.throughput_ok,
            (MeasureKind::Throughput, false) => &self.stats.throughput_failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// What is measured at the same time: a few searches, which send little, or one transfer.
fn together(targets: &[MeasureTarget]) -> impl Iterator<Item = &[MeasureTarget]> {
    targets
        .chunk_by(|a, b| a.kind == MeasureKind::PathMtu && b.kind == MeasureKind::PathMtu)
        .flat_map(|alike| alike.chunks(SEARCHES))
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

#[cfg(test)]
mod tests {
    use mesh::measurement::{MtuLimit, PathMtu, Sent, Throughput};

    use super::*;

    fn measured(figure: Option<Figure>) -> Measurement {
        Measurement {
            figure,
            ..failed(PathDirection::Forward, MeasureOutcome::Undecided, 0)
        }
    }

    fn mtu(bytes: u16) -> Measurement {
        measured(Some(Figure::PathMtu(PathMtu {
            bytes,
            limit: MtuLimit::Silent,
            local_bytes: 1_500,
            route_before: None,
            route_after: None,
            reported: None,
            fragments_pass: None,
            sized: Sent::default(),
            small: Sent::default(),
        })))
    }

    fn goodput(bytes: u64) -> Measurement {
        measured(Some(Figure::Throughput(Throughput {
            bytes,
            duration_ns: 2_000_000_000,
            by_time: true,
            retransmits: None,
            min_rtt_us: None,
            rtt: None,
        })))
    }

    #[test]
    fn searches_go_on_together_and_a_transfer_alone() {
        let target = |kind| MeasureTarget {
            node: NodeRef {
                cluster: "west".into(),
                node: "w-1".into(),
            },
            address: ([127, 0, 0, 1], 7_411).into(),
            kind,
        };
        let sizes = |kinds: &str| -> Vec<usize> {
            let targets: Vec<MeasureTarget> = kinds
                .chars()
                .map(|kind| {
                    target(if kind == 'm' {
                        MeasureKind::PathMtu
                    } else {
                        MeasureKind::Throughput
                    })
                })
                .collect();
            together(&targets).map(<[_]>::len).collect()
        };
        assert_eq!(sizes("mmm"), [3]);
        assert_eq!(sizes("tt"), [1, 1]);
        assert_eq!(sizes("mmttmt"), [2, 1, 1, 1, 1]);
        assert_eq!(sizes("mmmmmmmmmmm"), [8, 3]);
        assert!(sizes("").is_empty());
    }

    #[test]
    fn the_latest_figures_are_the_smallest_of_a_cluster_and_a_failure_takes_one_away() {
        let latest = Latest::default();
        let node = |name: &str| NodeRef {
            cluster: "west".into(),
            node: name.into(),
        };
        let only = || {
            let figures = latest.figures();
            assert_eq!(figures.len(), 1);
            (figures[0].path_mtu, figures[0].goodput_bytes_per_second)
        };
        for (name, bytes) in [("w-1", 1_450), ("w-2", 1_400), ("w-3", 1_500)] {
            latest.note(&node(name), MeasureKind::PathMtu, &mtu(bytes));
        }
        assert_eq!(only(), (Some(1_400), None));
        for (name, bytes) in [("w-1", 8_000_000), ("w-2", 6_000_000)] {
            latest.note(&node(name), MeasureKind::Throughput, &goodput(bytes));
        }
        assert_eq!(only(), (Some(1_400), Some(3_000_000)));
        latest.note(&node("w-2"), MeasureKind::PathMtu, &measured(None));
        assert_eq!(only(), (Some(1_450), Some(3_000_000)));
        latest.note(&node("w-2"), MeasureKind::Throughput, &measured(None));
        assert_eq!(only(), (Some(1_450), Some(4_000_000)));
    }
}
