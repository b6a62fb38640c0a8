//! Loads and attaches the programs. What keeps them attached is either a folder of pins ([`load`]), under which they
//! can be replaced while traffic runs, or this process ([`hold`]): then they end with it, however it ends.
//!
//! Needs uid 0 with CAP_BPF and CAP_NET_ADMIN and nothing else, for as long as a call takes.

mod install;
mod pins;
mod setup;

pub(crate) use pins::take_group;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    ops::RangeInclusive,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use probe_common::maps::SOCKET_TABLE;
use sha2::{Digest as _, Sha256};

use super::{
    maps::{Maps, MapsError, ProgramState},
    memory::{DEFAULT_RING_BYTES, DEFAULT_SERIES_CAP, Memory, shards_for},
    preflight::{self, PreflightError},
    raw,
};

/// What is loaded, and where it is attached.
#[derive(Clone, Debug)]
pub struct Options {
    /// The eBPF object; by default the committed one.
    pub object: Cow<'static, [u8]>,
    /// Folder of the cgroup (v2) whose sockets are watched, those of its descendants included.
    pub cgroup: PathBuf,
    /// Group of the pins: the agent's. `None`: our own.
    pub gid: Option<u32>,
    /// Most series.
    pub series_cap: u32,
    /// Shards per series; `None`: by the number of CPUs. A power of two.
    pub shards: Option<u32>,
    /// Most connections whose state lies in the table; that of others lies in socket storage, which costs more.
    /// At most [`SOCKET_TABLE`].
    pub states: u32,
    /// Bytes of the ring buffer: a power of two and a multiple of the page size.
    pub ring_bytes: u32,
    /// Source ports of our own probes.
    pub probe_ports: RangeInclusive<u16>,
    /// The first of them from which requested probes come.
    pub burst_port_first: u16,
    /// Traffic connects slower than this make an event, ns; 0: none.
    pub outlier_connect_ns: u64,
    /// Failures and outliers of traffic that may make an event, per second.
    pub events_per_second: u32,
    /// Whether to attach `egress`, which covers sockets older than the probe and repairs lost flags.
    pub old_sockets: bool,
}

impl Options {
    /// Defaults for a cgroup.
    pub fn new(cgroup: impl Into<PathBuf>) -> Self {
        Self {
            object: Cow::Borrowed(super::OBJECT),
            cgroup: cgroup.into(),
            gid: None,
            series_cap: DEFAULT_SERIES_CAP,
            shards: None,
            states: SOCKET_TABLE,
            ring_bytes: DEFAULT_RING_BYTES,
            probe_ports: mesh::PROBE_SOURCE_PORTS,
            burst_port_first: *mesh::BURST_SOURCE_PORTS.start(),
            outlier_connect_ns: 1_000_000_000,
            events_per_second: 100,
            old_sockets: true,
        }
    }
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing was there.
    Loaded,
    /// Loaded, and attached as long as this process lives.
    Held,
    /// The same object was already attached; nothing was changed, the counts go on.
    Kept,
    /// Another object of the same layout was attached; each program was replaced in place, the counts go on.
    Replaced,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loaded => "loaded",
            Self::Held => "held",
            Self::Kept => "kept",
            Self::Replaced => "replaced",
        })
    }
}

/// How it went.
#[derive(Clone, Debug)]
pub struct LoadReport {
    pub action: Action,
    /// SHA-256 of the object, hex.
    pub object: String,
    pub programs: Vec<ProgramState>,
    pub memory: Memory,
    /// What was asked for and not done, because the pins that are kept say otherwise.
    pub notes: Vec<String>,
}

/// Why nothing could be loaded. Nothing is left behind but what was there before.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    #[error("cannot make the pin folder `{}`", path.display())]
    PinDir {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("cannot load the eBPF object")]
    Object(#[source] Box<aya::EbpfError>),
    #[error("the kernel refuses program `{program}`")]
    Program {
        program: &'static str,
        source: Box<aya::programs::ProgramError>,
    },
    #[error("the eBPF object lacks {what} `{name}`")]
    Missing {
        what: &'static str,
        name: &'static str,
    },
    #[error("cannot attach `{program}` to `{}`", cgroup.display())]
    Attach {
        program: &'static str,
        cgroup: PathBuf,
        source: std::io::Error,
    },
    #[error("`{}` is taken: another owner attached a program there exclusively", cgroup.display())]
    Exclusive { cgroup: PathBuf },
    #[error("cannot pin `{}`", path.display())]
    Pin {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("`{}` holds pins that are not ours, not whole, or of another version", path.display())]
    ForeignPins {
        path: PathBuf,
        source: Box<MapsError>,
    },
    #[error("`{}` lies in the pin folder and is not ours", path.display())]
    ForeignEntry { path: PathBuf },
    #[error("cannot use the maps just loaded")]
    Held { source: Box<MapsError> },
    #[error("cannot set up map `{map}`")]
    Setup {
        map: &'static str,
        source: Box<aya::maps::MapError>,
    },
    #[error("cannot remove `{}`", path.display())]
    Remove {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("cannot make files for group {gid}")]
    Group { gid: u32, source: std::io::Error },
    #[error("invalid option: {0}")]
    Option(String),
}

impl LoadError {
    /// What to do next, if we know.
    pub fn hint(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Preflight(error) => Some(error.hint().into()),
            Self::Exclusive { cgroup } => Some(
                format!(
                    "`bpftool cgroup tree {}` names it; an owner that attaches with `multi` (or by link) leaves room for others",
                    cgroup.display()
                )
                .into(),
            ),
            Self::ForeignPins { source, .. } => source.hint().map(Cow::from).or_else(|| {
                Some("look with `ls`; if nobody else uses it: `aggrik8s-probe unload` with this pin folder, then `load`".into())
            }),
            Self::Group { gid, .. } => Some(
                format!("run the loader with group {gid} (`runAsGroup: {gid}`, `setpriv --regid {gid}`), or give it SETGID").into(),
            ),
            Self::Program { .. } => Some(
                "the whole verdict of the verifier is in the error's cause; kernels from 5.12 on should take it: please report it".into(),
            ),
            _ => None,
        }
    }
}

/// Loads, attaches and pins, or keeps or replaces what is pinned. Blocks for well under a second.
/// `pin_dir` lies below a bpffs; it is made if missing, its parents too.
pub fn load(options: &Options, pin_dir: &Path) -> Result<LoadReport, LoadError> {
    let memory = check_options(options)?;
    preflight::check(&options.cgroup, Some(pin_dir))?;
    let object: [u8; 32] = Sha256::digest(&options.object).into();
    let _group = take_group(options.gid)?;
    let mut present = pins::present(pin_dir)?;
    let action = match &mut present {
        None => {
            setup::fresh(options, &memory, object, pin_dir)?;
            Action::Loaded
        }
        Some(maps) if maps.meta().object == object && install::is_whole(options, pin_dir)? => {
            Action::Kept
        }
        Some(maps) => {
            setup::replace(options, maps, object, pin_dir)?;
            Action::Replaced
        }
    };
    let maps = Maps::open(pin_dir).map_err(|source| foreign(pin_dir, source))?;
    report(action, memory, &maps).map_err(|source| foreign(pin_dir, source))
}

/// Programs that are attached as long as this value lives. Nothing of it is in any file system.
pub struct Held {
    pub report: LoadReport,
    links: Vec<OwnedFd>,
    maps: BTreeMap<&'static str, OwnedFd>,
}

/// Loads and attaches, and pins nothing. Blocks for well under a second.
pub fn hold(options: &Options) -> Result<Held, LoadError> {
    let memory = check_options(options)?;
    preflight::check(&options.cgroup, None)?;
    let object: [u8; 32] = Sha256::digest(&options.object).into();
    let (ebpf, links) = setup::build(options, &memory, object, None)?;
    let maps = setup::descriptors(&ebpf)?;
    let cannot = |source| LoadError::Held {
        source: Box::new(source),
    };
    let opened = open(&maps).map_err(cannot)?;
    Ok(Held {
        report: report(Action::Held, memory, &opened).map_err(cannot)?,
        links,
        maps,
    })
}

fn open(maps: &BTreeMap<&'static str, OwnedFd>) -> Result<Maps, MapsError> {
    let copies = maps
        .iter()
        .map(|(name, fd)| Ok(((*name).to_owned(), fd.try_clone()?)))
        .collect::<Result<_, std::io::Error>>()
        .map_err(MapsError::Descriptor)?;
    Maps::handed(Path::new("the maps just loaded"), copies)
}

impl Held {
    /// The maps, opened anew.
    pub fn maps(&self) -> Result<Maps, MapsError> {
        open(&self.maps)
    }

    /// Those maps that an agent needs, by name. Never a link or a program.
    pub fn descriptors(&self) -> impl Iterator<Item = (&'static str, BorrowedFd<'_>)> {
        self.maps.iter().map(|(name, fd)| (*name, fd.as_fd()))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for link in &self.links {
            // Closing it detaches as well, if perhaps a moment later.
            if let Err(error) = raw::detach(link) {
                tracing::debug!(%error, "a link is closed without having been detached");
            }
        }
    }
}

fn report(action: Action, memory: Memory, maps: &Maps) -> Result<LoadReport, MapsError> {
    let meta = *maps.meta();
    let mut notes = Vec::new();
    if matches!(action, Action::Kept | Action::Replaced) {
        for (what, asked, kept) in [
            ("series cap", memory.series_cap, meta.series_cap),
            ("shards", memory.shards, meta.shards),
            ("states", memory.states, meta.states),
        ] {
            if asked != kept {
                notes.push(format!(
                    "{what} stays {kept}: {asked} needs `unload`, which ends the counts"
                ));
            }
        }
    }
    Ok(LoadReport {
        action,
        object: meta.object.iter().map(|b| format!("{b:02x}")).collect(),
        programs: maps.attach_state()?,
        memory: Memory {
            series_cap: meta.series_cap,
            shards: meta.shards,
            states: meta.states,
            ..memory
        },
        notes,
    })
}

/// Detaches everything pinned in `pin_dir` and removes the pins; the counts end. False if nothing was there.
pub fn unload(pin_dir: &Path) -> Result<bool, LoadError> {
    pins::remove(pin_dir)
}

fn foreign(path: &Path, source: MapsError) -> LoadError {
    LoadError::ForeignPins {
        path: path.to_owned(),
        source: Box::new(source),
    }
}

fn check_options(options: &Options) -> Result<Memory, LoadError> {
    let invalid = |text: &str| Err(LoadError::Option(text.to_owned()));
    if !(1..=65_536).contains(&options.series_cap) {
        return invalid("`series-cap` must be 1 to 65536");
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let shards = options.shards.unwrap_or_else(|| shards_for(cpus));
    if !shards.is_power_of_two() || shards > 64 {
        return invalid("shards must be a power of two, at most 64");
    }
    if !options.ring_bytes.is_power_of_two() || options.ring_bytes < 4096 {
        return invalid("the ring's size must be a power of two, at least 4096");
    }
    if !(1..=SOCKET_TABLE).contains(&options.states) {
        return invalid("the states must be 1 to 16384");
    }
    if options.probe_ports.is_empty() {
        return invalid("the range of probe ports is empty");
    }
    Ok(Memory {
        series_cap: options.series_cap,
        shards,
        states: options.states,
        ring_bytes: options.ring_bytes,
    })
}
