//! The kernel's witness: the maps, pinned or handed over, what the mesh declares in them, and the records from the ring.
//!
//! An agent without maps runs and says why it has none.

pub mod declare;
pub mod egress;
mod source;
pub mod store;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh::{Mesh, Remote};
use probe_common::{ClassId, GlobalCounter, Origin, RemoteId, SeriesKey};
use tokio::sync::watch;

use crate::hold::client::Lease;
use crate::sys::events::EventStream;
use crate::sys::maps::{Maps, MapsError, ProgramState, SeriesData, ServicePort};
use declare::Declared;
use egress::{Seen, Turn, Watch};
pub use source::MapSource;
use source::{OpenError, ended};
use store::Store;

/// Events taken from the ring at one time.
const BATCH: usize = 512;
/// How often missing pins are looked for.
const RETRY: Duration = Duration::from_secs(1);
/// How soon a holder is asked again, and the longest that doubling this comes to.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// One series with its names.
#[derive(Clone, Debug)]
pub struct NamedSeries {
    pub key: SeriesKey,
    pub remote: String,
    pub class: String,
    pub data: SeriesData,
}

/// Everything the maps hold at one moment.
#[derive(Clone, Debug)]
pub struct Reading {
    pub series: Vec<NamedSeries>,
    pub counters: Vec<(GlobalCounter, u64)>,
    pub programs: Vec<ProgramState>,
    pub egress_rests: bool,
}

#[derive(Debug, Default)]
pub struct KernelStats {
    pub events_received: AtomicU64,
    /// Failures and outliers of users' connections.
    pub traffic_events: AtomicU64,
    pub decode_errors: AtomicU64,
    /// Times that the mesh was written into the maps.
    pub mesh_writes: AtomicU64,
    pub read_errors: AtomicU64,
    pub write_errors: AtomicU64,
    /// Times that a holder ended, and all counts with it.
    pub holders_lost: AtomicU64,
    /// Times that a holder was asked for the maps and did not give them.
    pub requests_failed: AtomicU64,
}

struct State {
    maps: Option<Maps>,
    /// Why there are no maps, or why they are not up to date.
    problem: Option<String>,
}

/// A handle on the maps, shared by everyone who reads them.
#[derive(Clone)]
pub struct Kernel {
    source: Option<MapSource>,
    /// How long nothing must be found before `egress` rests; `None`: it never does.
    egress_quiet: Option<Duration>,
    state: Arc<Mutex<State>>,
    store: Arc<Mutex<Store>>,
    stats: Arc<KernelStats>,
}

fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl Kernel {
    /// `None`: this process does not read maps, as the node plane's does not.
    #[must_use]
    pub fn new(source: Option<MapSource>, egress_quiet: Option<Duration>) -> Self {
        let problem = match &source {
            None => "no --pin-dir and no --maps-from: this process reads no kernel maps".to_owned(),
            Some(source) => {
                let place = source.path().display();
                format!("the maps of `{place}` are not open yet")
            }
        };
        Self {
            source,
            egress_quiet,
            state: Arc::new(Mutex::new(State {
                maps: None,
                problem: Some(problem),
            })),
            store: Arc::default(),
            stats: Arc::default(),
        }
    }

    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.source.is_some()
    }

    #[must_use]
    pub fn stats(&self) -> &KernelStats {
        &self.stats
    }

    pub fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the kernel does not witness, if it does not.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.state().problem.clone()
    }

    /// Reads everything; `None` without maps. A failed read is counted and becomes the problem.
    #[must_use]
    pub fn read(&self) -> Option<Reading> {
        let mut state = self.state();
        let result = read(state.maps.as_ref()?);
        match result {
            Ok(reading) => Some(reading),
            Err(error) => {
                self.stats.read_errors.fetch_add(1, Ordering::Relaxed);
                state.problem = Some(text(&error));
                None
            }
        }
    }

    /// Whether the kernel witnesses, and the rung of every program or the reason.
    #[must_use]
    pub fn witness(&self) -> (bool, String) {
        let state = self.state();
        if let Some(problem) = &state.problem {
            return (false, problem.clone());
        }
        let Some(maps) = &state.maps else {
            return (false, "the maps are not open".to_owned());
        };
        match maps.attach_state() {
            Ok(programs) => rungs(&programs),
            Err(error) => (false, text(&error)),
        }
    }

    /// Keeps the maps open and in step with the mesh, and takes events from the ring, for ever.
    pub async fn run(self, mut mesh: watch::Receiver<Arc<Mesh>>) -> std::io::Result<()> {
        let Some(source) = self.source.clone() else {
            return std::future::pending().await;
        };
        let mut pause = ASK_AGAIN.0;
        loop {
            let declared = Declared::of(&mesh.borrow_and_update());
            let begun = tokio::time::Instant::now();
            let (mut ring, lease) = match self.open(&source, &declared).await {
                Ok(opened) => opened,
                Err(error) => {
                    self.set_problem(Some(text(&error)));
                    match error {
                        OpenError::Maps(_) => tokio::time::sleep(RETRY).await,
                        OpenError::Ask(_) => {
                            self.stats.requests_failed.fetch_add(1, Ordering::Relaxed);
                            tokio::time::sleep(pause).await;
                            pause = (pause * 2).min(ASK_AGAIN.1);
                        }
                    }
                    continue;
                }
            };
            self.set_problem(None);
            pause = ASK_AGAIN.0;
            tracing::info!("kernel maps open");
            let mut batch = Vec::with_capacity(BATCH);
            let mut egress = self.egress_quiet.map(Watch::new);
            let mut tick = tokio::time::interval(egress::TICK);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    taken = ring.next_batch(&mut batch, BATCH) => {
                        taken.map_err(std::io::Error::other)?;
                        self.take(&batch);
                        self.stats.decode_errors.store(ring.decode_errors(), Ordering::Relaxed);
                        batch.clear();
                    }
                    now = tick.tick() => {
                        if let Some(egress) = &mut egress {
                            self.watch_over(egress, now.duration_since(begun));
                        }
                    }
                    changed = mesh.changed() => {
                        if changed.is_err() {
                            return Ok(());
                        }
                        let declared = Declared::of(&mesh.borrow_and_update());
                        self.apply(&declared);
                    }
                    () = ended(lease.as_ref()) => break,
                }
            }
            self.forget(&source);
            tokio::time::sleep(pause).await;
        }
    }

    /// The holder ended, and what its maps count has no end any more: nothing of it is told from now on.
    fn forget(&self, source: &MapSource) {
        self.state().maps = None;
        self.stats.holders_lost.fetch_add(1, Ordering::SeqCst);
        self.set_problem(Some(format!(
            "the holder at `{}` ended, and with it the kernel programs and all that they had counted; asking for a new one",
            source.path().display()
        )));
    }

    /// How often the counts began anew since this process started.
    #[must_use]
    pub fn holders_lost(&self) -> u64 {
        self.stats.holders_lost.load(Ordering::SeqCst)
    }

    /// Lets `egress` watch or rest. What cannot be read or written is counted, and tried again.
    fn watch_over(&self, watch: &mut Watch, now: Duration) {
        let mut state = self.state();
        let Some(maps) = state.maps.as_mut() else {
            return;
        };
        let seen = match egress_seen(maps) {
            Ok(Some(seen)) => seen,
            Ok(None) => return,
            Err(_) => {
                self.stats.read_errors.fetch_add(1, Ordering::Relaxed);
                return;
            }
        };
        let Some(turn) = watch.turn(now, seen) else {
            return;
        };
        match turn {
            Turn::Rest { left } => {
                tracing::info!(old_connections_left = left, "`egress` rests");
            }
            Turn::Wake => tracing::warn!(
                sockets = seen.lost,
                "another owner's program overwrites our callback flags: `egress` watches"
            ),
            Turn::Look => tracing::debug!("`egress` looks for old sockets"),
        }
        if maps
            .set_egress_rests(matches!(turn, Turn::Rest { .. }))
            .is_err()
        {
            self.stats.write_errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn set_problem(&self, problem: Option<String>) {
        let mut state = self.state();
        if problem.is_some() && state.problem != problem {
            tracing::warn!(problem = problem.as_deref(), "no kernel witness");
        }
        state.problem = problem;
    }

    async fn open(
        &self,
        source: &MapSource,
        declared: &Declared,
    ) -> Result<(EventStream, Option<Lease>), OpenError> {
        let (mut maps, lease) = source.open().await?;
        declare(&mut maps, declared)?;
        self.stats.mesh_writes.fetch_add(1, Ordering::Relaxed);
        let events = maps.events()?.into_stream()?;
        self.state().maps = Some(maps);
        Ok((events, lease))
    }

    /// A changed mesh. What cannot be written stays as it was and is said.
    fn apply(&self, declared: &Declared) {
        let mut state = self.state();
        let Some(maps) = state.maps.as_mut() else {
            return;
        };
        let result = declare(maps, declared);
        state.problem = match result {
            Ok(()) => {
                self.stats.mesh_writes.fetch_add(1, Ordering::Relaxed);
                None
            }
            Err(error) => {
                self.stats.write_errors.fetch_add(1, Ordering::Relaxed);
                Some(text(&error))
            }
        };
    }

    fn take(&self, events: &[probe_common::Event]) {
        let mut store = self.store();
        self.stats
            .events_received
            .fetch_add(events.len() as u64, Ordering::Relaxed);
        for event in events {
            if event.origin != Origin::Traffic as u8 {
                store.push(event);
            } else {
                self.stats.traffic_events.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(
                    outcome = event.outcome,
                    remote = event.remote_id,
                    "traffic event"
                );
            }
        }
    }
}

/// Puts what is declared into the maps: names first, so that no id is without one.
pub(crate) fn declare(maps: &mut Maps, declared: &Declared) -> Result<(), MapsError> {
    let remotes = maps
        .remotes()
        .assign(declared.remotes.iter().map(String::as_str))?;
    let classes = maps
        .classes()
        .assign(declared.classes.iter().map(String::as_str))?;
    let prefixes: Vec<_> = declared
        .prefixes
        .iter()
        .map(|(net, remote)| {
            let id = match remote {
                Remote::Cluster(name) | Remote::Client(name) => remotes
                    .get(name)
                    .map_or(RemoteId::AMBIGUOUS, |id| RemoteId(*id)),
                Remote::Vip => RemoteId::VIP,
                Remote::Ambiguous => RemoteId::AMBIGUOUS,
                Remote::World => RemoteId::WORLD,
            };
            (*net, id)
        })
        .collect();
    let services: Vec<_> = declared
        .services
        .iter()
        .map(|(address, port, class)| ServicePort {
            address: Some(*address),
            port: *port,
            class: classes
                .get(class)
                .and_then(|id| u8::try_from(*id).ok())
                .map_or(ClassId::OTHER, ClassId),
        })
        .collect();
    let prefixes = maps.set_prefixes(&prefixes)?;
    let services = maps.set_service_ports(&services)?;
    tracing::info!(?prefixes, ?services, "mesh written to the kernel maps");
    Ok(())
}

fn read(maps: &Maps) -> Result<Reading, MapsError> {
    let series = maps
        .series()?
        .into_iter()
        .map(|(key, data)| {
            let remote = maps.remote_name(key.remote())?;
            let class = maps.class_name(key.class())?;
            Ok(NamedSeries {
                key,
                // Names are written before their first use, so a missing one was not written by us.
                remote: remote.unwrap_or_else(|| "~unnamed".to_owned()),
                class: class.unwrap_or_else(|| "~unnamed".to_owned()),
                data,
            })
        })
        .collect::<Result<_, MapsError>>()?;
    Ok(Reading {
        series,
        counters: maps.counters()?,
        programs: maps.attach_state()?,
        egress_rests: maps.egress_rests()?,
    })
}

/// What decides whether `egress` may rest; `None` where it is not attached.
fn egress_seen(maps: &Maps) -> Result<Option<Seen>, MapsError> {
    let attached = maps
        .attach_state()?
        .iter()
        .any(|state| state.program == "egress" && state.refused.is_none());
    if !attached {
        return Ok(None);
    }
    Ok(Some(Seen {
        rests: maps.egress_rests()?,
        found: maps.counter(GlobalCounter::OldSocketsSeen)?,
        open: maps.open_adopted()?,
        lost: maps.counter(GlobalCounter::FlagsLost)?,
    }))
}

/// Without `sock_ops` nothing is witnessed; the others are rungs.
fn rungs(programs: &[ProgramState]) -> (bool, String) {
    let witness = programs
        .iter()
        .any(|state| state.program == "sock_ops" && state.refused.is_none());
    let detail = programs
        .iter()
        .map(|state| match &state.refused {
            None => format!("{}: attached", state.program),
            Some(reason) => format!("{}: not attached ({reason})", state.program),
        })
        .collect::<Vec<_>>()
        .join(", ");
    (witness, detail)
}

#[cfg(test)]
#[path = "../kernel_tests.rs"]
mod tests;
