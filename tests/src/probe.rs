//! The kernel programs attached to a scratch cgroup for the length of a test, and sums over what
//! they counted.

use std::fmt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use aya::maps::{Array, Map, MapData};
use probe_common::maps::{SOCKET_BYTES, names};
use probe_common::{Counter, Direction, GlobalCounter, HistogramKind, Origin, RemoteId, Slot};
use probe_ebpf::word::{self, LET_GO_UNITS};
use probe_user::sys::loader::{self, Options};
use probe_user::sys::maps::Maps;

use crate::leftovers;
use crate::rig::Rig;

/// The pinned programs' counts; where we loaded them, unloaded on drop.
pub struct Probe {
    pins: PathBuf,
    pub maps: Maps,
    ours: bool,
}

impl Probe {
    /// Attaches to `cgroup`, with the options changed by `adjust`. The environment variable
    /// `AGGRIK8S_OBJECT` names an object to try instead of the committed one.
    pub fn load(cgroup: &Path, adjust: impl FnOnce(&mut Options)) -> Result<Self> {
        let pins = leftovers::pins();
        let mut options = Options::new(cgroup);
        if let Some(object) = std::env::var_os("AGGRIK8S_OBJECT") {
            options.object = std::fs::read(object)?.into();
        }
        adjust(&mut options);
        let report = loader::load(&options, &pins).context("load the kernel programs")?;
        let probe = Self {
            maps: Maps::open(&pins)?,
            pins,
            ours: true,
        };
        for program in report.programs {
            if let Some(reason) = program.refused
                && options.old_sockets
            {
                bail!("program `{}` is not attached: {reason}", program.program);
            }
        }
        Ok(probe)
    }

    /// Reads what somebody else loaded.
    pub fn open(pins: &Path) -> Result<Self> {
        Ok(Self {
            maps: Maps::open(pins)?,
            pins: pins.to_owned(),
            ours: false,
        })
    }

    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// Declares the networks of a rig's client (`near`) and remotes (`far-1` …).
    pub fn declare(&mut self, remotes: u8) -> Result<()> {
        let names: Vec<String> = (0..=remotes).map(remote_name).collect();
        let ids = self
            .maps
            .remotes()
            .assign(names.iter().map(String::as_str))?;
        let mut prefixes = Vec::new();
        for index in 0..=remotes {
            let id = RemoteId(ids[&remote_name(index)]);
            let (v4, v6) = Rig::networks(index);
            prefixes.push((v4.parse()?, id));
            prefixes.push((v6.parse()?, id));
        }
        self.maps.set_prefixes(&prefixes)?;
        Ok(())
    }

    /// Sum over all series of a direction, of one remote or of all.
    pub fn sum(&self, direction: Direction, remote: Option<&str>) -> Result<Sum> {
        let mut sum = Sum(Box::new(Slot::EMPTY));
        for (key, data) in self.maps.series()? {
            if key.direction() != direction {
                continue;
            }
            if let Some(wanted) = remote
                && self.maps.remote_name(key.remote())?.as_deref() != Some(wanted)
            {
                continue;
            }
            sum.0.merge(&data.slot);
        }
        Ok(sum)
    }

    /// Names of the remotes for which anything was counted.
    pub fn remotes_seen(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for (key, _) in self.maps.series()? {
            let name = self
                .maps
                .remote_name(key.remote())?
                .unwrap_or_else(|| format!("id {}", key.remote().0));
            if !names.contains(&name) && key.origin() == Origin::Traffic {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Waits until no connection is open any more: what closes last (an orphan waiting for its
    /// peer's FIN) does so after both processes are gone.
    pub fn settle(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let (initiator, acceptor) = (
                self.sum(Direction::Initiator, None)?,
                self.sum(Direction::Acceptor, None)?,
            );
            if initiator.open() == 0 && acceptor.open() == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("connections stayed open:\ninitiator {initiator}\nacceptor {acceptor}");
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Entries of the table of states that belong to a connection which has not ended.
    pub fn entries_taken(&self) -> Result<u64> {
        let data = MapData::from_pin(self.pins.join(names::TABLE))?;
        let table: Array<_, [u64; SOCKET_BYTES / 8]> = Array::try_from(Map::Array(data))?;
        let mut taken = 0;
        for entry in table.iter() {
            let [word, ..] = entry?;
            taken += u64::from(!word::is_free(word, LET_GO_UNITS));
        }
        Ok(taken)
    }

    /// The global counters that tell of anything lost.
    pub fn losses(&self) -> Result<Vec<(GlobalCounter, u64)>> {
        let quiet = [
            GlobalCounter::EventsProduced,
            GlobalCounter::EventsSuppressed,
            GlobalCounter::TableTaken,
            GlobalCounter::OldSocketsSeen,
            GlobalCounter::OldSocketsCovered,
        ];
        let mut all = self.maps.counters()?;
        all.retain(|(counter, count)| *count != 0 && !quiet.contains(counter));
        Ok(all)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = loader::unload(&self.pins)
        {
            tracing::warn!(%error, pins = %self.pins.display(), "probe not unloaded");
        }
    }
}

/// Counters and histograms added up.
pub struct Sum(Box<Slot>);

impl Sum {
    pub fn count(&self, counter: Counter) -> u64 {
        self.0.counter(counter)
    }

    pub fn samples(&self, kind: HistogramKind) -> u64 {
        self.0.histogram(kind).count()
    }

    pub fn open(&self) -> u64 {
        (self.count(Counter::Established) + self.count(Counter::Adopted))
            .wrapping_sub(self.count(Counter::Closed))
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counters = Counter::ALL.iter().filter(|c| self.count(**c) != 0);
        for (i, counter) in counters.enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            write!(f, "{separator}{} {}", counter.name(), self.count(*counter))?;
        }
        Ok(())
    }
}

/// `near` for 0, `far-<index>` otherwise.
pub fn remote_name(index: u8) -> String {
    match index {
        0 => "near".to_owned(),
        _ => format!("far-{index}"),
    }
}

/// Why the kernel programs cannot be tested here, with the fix.
pub fn missing() -> Option<String> {
    crate::netns::missing().or_else(|| {
        match probe_user::sys::cgroup::bpffs_mount() {
            Ok(Some(_)) => None,
            _ => Some("no bpffs; mount -t bpf bpf /sys/fs/bpf".into()),
        }
        .or_else(|| crate::cgroup::mount().err().map(|e| format!("{e:#}")))
    })
}
