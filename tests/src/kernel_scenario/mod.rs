//! What the kernel programs must count, over loopback alone, so that it also runs in a bare VM: every
//! check has a network namespace, a cgroup and pins of its own, and exact expectations.

mod connections;
mod failures;
mod lifecycle;
mod limits;
mod resting;
pub mod wire;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use caps::{CapSet, Capability, CapsHashSet};
use nix::sched::{CloneFlags, unshare};
use probe_common::{Counter, Direction, Event, GlobalCounter, Origin, Slot};
use probe_user::sys::OBJECT;
use probe_user::sys::events::Events;
use probe_user::sys::loader::Options;

use crate::cgroup::{self, Cgroup};
use crate::probe::Probe;

/// A claim and how it is tried.
pub struct Check {
    pub name: &'static str,
    run: fn(&Place) -> Result<()>,
}

/// Every check, the slow ones last.
pub const CHECKS: &[Check] = &[
    Check {
        name: "connections_and_bytes",
        run: connections::counted,
    },
    Check {
        name: "open_connections",
        run: connections::open,
    },
    Check {
        name: "resets",
        run: connections::resets,
    },
    Check {
        name: "probe_records",
        run: connections::probe_records,
    },
    Check {
        name: "prefixes_change_at_run_time",
        run: connections::prefixes,
    },
    Check {
        name: "service_classes",
        run: connections::classes,
    },
    Check {
        name: "series_beyond_the_cap",
        run: limits::series_cap,
    },
    Check {
        name: "states_beyond_the_table",
        run: limits::table,
    },
    Check {
        name: "ring_overflow",
        run: limits::ring_overflow,
    },
    Check {
        name: "reader_dies",
        run: limits::reader_dies,
    },
    Check {
        name: "event_budget",
        run: limits::event_budget,
    },
    Check {
        name: "flags_overwritten",
        run: limits::flags_overwritten,
    },
    Check {
        name: "old_sockets",
        run: lifecycle::old_sockets,
    },
    Check {
        name: "bytes_stay_fresh",
        run: resting::bytes_stay_fresh,
    },
    Check {
        name: "old_sockets_while_egress_rests",
        run: resting::old_sockets,
    },
    Check {
        name: "flags_lost_while_egress_rests",
        run: resting::lost_flags,
    },
    Check {
        name: "load_again",
        run: lifecycle::load_again,
    },
    Check {
        name: "refusals",
        run: lifecycle::refusals,
    },
    Check {
        name: "self_check",
        run: lifecycle::self_check,
    },
    Check {
        name: "held_programs",
        run: lifecycle::held,
    },
    Check {
        name: "failed_connects",
        run: failures::every_reason,
    },
    Check {
        name: "syn_only",
        run: failures::syn_only,
    },
];

/// Where checks make their cgroups.
pub struct Place {
    parent: PathBuf,
}

impl Place {
    pub fn new(parent: &Path) -> Self {
        Self {
            parent: parent.to_owned(),
        }
    }
}

/// Runs one check. The calling process must have a single thread: it changes its network namespace
/// and its cgroup.
pub fn run(check: &Check, place: &Place) -> Result<()> {
    namespace()?;
    (check.run)(place)
}

/// A new network namespace with loopback and quick SYN timeouts.
fn namespace() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
    let status = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()
        .context("run `ip`")?;
    ensure!(status.success(), "`ip link set lo up` failed");
    set("net/ipv4/tcp_syn_retries", "1")
}

/// `RetransSegs` of this network namespace.
fn segments_sent_again() -> Result<u64> {
    let text = fs::read_to_string("/proc/net/snmp").context("read /proc/net/snmp")?;
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let names = lines.next().context("no names of TCP counters")?;
    let values = lines.next().context("no TCP counters")?;
    let mut pairs = names.split(' ').zip(values.split(' '));
    let found = pairs.find(|(name, _)| *name == "RetransSegs");
    let (_, value) = found.context("no `RetransSegs`")?;
    value
        .parse()
        .with_context(|| format!("`RetransSegs` is `{value}`"))
}

/// Sets a sysctl of this network namespace.
fn set(key: &str, value: &str) -> Result<()> {
    fs::write(format!("/proc/sys/{key}"), value).with_context(|| format!("set `{key}`"))
}

/// The process inside a cgroup of its own, where the programs may be attached.
struct Inside {
    cgroup: Cgroup,
    parent: PathBuf,
}

impl Inside {
    fn enter(place: &Place, label: &str) -> Result<Self> {
        let cgroup = Cgroup::below(&place.parent, label)?;
        cgroup::join(cgroup.path(), std::process::id())?;
        Ok(Self {
            cgroup,
            parent: place.parent.clone(),
        })
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if let Err(error) = cgroup::join(&self.parent, std::process::id()) {
            tracing::warn!(%error, "cannot leave the scratch cgroup");
        }
    }
}

/// The programs attached around this process.
struct Stage {
    probe: Probe,
    events: Events,
    // Left after the programs are gone.
    inside: Inside,
}

impl Stage {
    fn new(place: &Place, label: &str) -> Result<Self> {
        Self::with(place, label, |_| ())
    }

    fn with(place: &Place, label: &str, adjust: impl FnOnce(&mut Options)) -> Result<Self> {
        let inside = Inside::enter(place, label)?;
        Self::around(inside, adjust)
    }

    /// Loads with exactly the capabilities that the loader is said to need; the committed object, or
    /// the one that `KERNEL_OBJECT` names, so that a changed program can be tried before it is committed.
    fn around(inside: Inside, adjust: impl FnOnce(&mut Options)) -> Result<Self> {
        let object = match std::env::var_os("KERNEL_OBJECT") {
            Some(path) => fs::read(path).context("read `KERNEL_OBJECT`")?.into(),
            None => OBJECT.into(),
        };
        let probe = with_capabilities(&[Capability::CAP_BPF, Capability::CAP_NET_ADMIN], || {
            Probe::load(inside.cgroup.path(), |options| {
                options.object = object;
                adjust(options);
            })
        })??;
        let events = probe.maps.events()?;
        Ok(Self {
            probe,
            events,
            inside,
        })
    }

    /// Sum over the series of a direction and an origin.
    fn sum(&self, direction: Direction, origin: Origin) -> Result<Box<Slot>> {
        let mut sum = Box::new(Slot::EMPTY);
        for (key, data) in self.probe.maps.series()? {
            if key.direction() == direction && key.origin() == origin {
                sum.merge(&data.slot);
            }
        }
        Ok(sum)
    }

    fn global(&self, counter: GlobalCounter) -> Result<u64> {
        Ok(self.probe.maps.counter(counter)?)
    }

    /// Requires these counts and 0 of everything else, and nothing lost anywhere; the histograms'
    /// kinds are not counters and are asked for by the checks. The kernel may be a moment late with
    /// the last packets of a closed connection.
    fn expect(
        &self,
        direction: Direction,
        origin: Origin,
        wanted: &[(Counter, u64)],
    ) -> Result<()> {
        let mut all: Vec<(Counter, u64)> = Counter::ALL.iter().map(|c| (*c, 0)).collect();
        for (counter, count) in wanted {
            all[*counter as usize].1 = *count;
        }
        eventually(|| {
            let sum = self.sum(direction, origin)?;
            for (counter, count) in &all {
                // Timers of the handshake's own retransmits are counted where they are the matter.
                if *counter == Counter::Rtos {
                    continue;
                }
                // A machine that stands still makes the kernel send again: what it says of itself is the bound.
                if *counter == Counter::Retransmits
                    && *count == 0
                    && sum.counter(*counter) <= segments_sent_again()?
                {
                    continue;
                }
                ensure!(
                    sum.counter(*counter) == *count,
                    "{direction:?} {origin:?}: `{}` is {}, expected {count}",
                    counter.name(),
                    sum.counter(*counter)
                );
            }
            Ok(())
        })
    }

    /// Waits until so many connections older than the probe were found, and all of them have ended.
    fn old_ones_ended(&self, count: u64) -> Result<()> {
        eventually(|| {
            let sum = self.sum(Direction::Unknown, Origin::Traffic)?;
            let (adopted, closed) = (sum.counter(Counter::Adopted), sum.counter(Counter::Closed));
            ensure!(
                (adopted, closed) == (count, count),
                "{adopted} adopted, {closed} closed, expected {count}"
            );
            Ok(())
        })
    }

    fn nothing_lost(&self) -> Result<()> {
        let losses = self.probe.losses()?;
        ensure!(losses.is_empty(), "lost: {losses:?}");
        Ok(())
    }

    /// All events until there are `count`.
    fn events(&mut self, count: usize) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while events.len() < count {
            match self.events.try_next() {
                Some(event) => events.push(event),
                None if Instant::now() > deadline => {
                    bail!("{} events instead of {count}: {events:#?}", events.len());
                }
                None => thread::sleep(Duration::from_millis(5)),
            }
        }
        ensure!(self.events.try_next().is_none(), "more than {count} events");
        Ok(events)
    }
}

/// For what must become true without our doing.
const PATIENCE: Duration = Duration::from_secs(20);

/// Tries again until it holds; the last failure is the answer.
fn eventually(mut check: impl FnMut() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match check() {
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(10)),
            Ok(()) => return Ok(()),
        }
    }
}

/// Runs with only these capabilities in effect.
fn with_capabilities<T>(only: &[Capability], work: impl FnOnce() -> T) -> Result<T> {
    let before = caps::read(None, CapSet::Effective)?;
    let only: CapsHashSet = only.iter().copied().collect();
    caps::set(None, CapSet::Effective, &only)?;
    let result = work();
    caps::set(None, CapSet::Effective, &before)?;
    Ok(result)
}
