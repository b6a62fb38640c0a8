//! Loads, attaches and pins the programs; replaces them under running traffic; removes them.
//!
//! Needs uid 0 with CAP_BPF and CAP_NET_ADMIN and nothing else, for as long as a call takes.

use std::{borrow::Cow, fmt, ops::RangeInclusive, path::PathBuf};

use super::{
    maps::{MapsError, ProgramState},
    memory::{DEFAULT_RING_BYTES, DEFAULT_SERIES_CAP, Memory},
    preflight::PreflightError,
};

/// Everything that `load` may be told.
#[derive(Clone, Debug)]
pub struct Options {
    /// The eBPF object; by default the committed one.
    pub object: Cow<'static, [u8]>,
    /// Folder of the cgroup (v2) whose sockets are watched, those of its descendants included.
    pub cgroup: PathBuf,
    /// Folder below a bpffs for the pins; made if missing, its parents too.
    pub pin_dir: PathBuf,
    /// Group of the pins: the agent's. `None`: our own.
    pub gid: Option<u32>,
    /// Most series.
    pub series_cap: u32,
    /// Shards per series; `None`: by the number of CPUs. A power of two.
    pub shards: Option<u32>,
    /// Bytes of the ring buffer: a power of two and a multiple of the page size.
    pub ring_bytes: u32,
    /// Source ports of our own probes.
    pub probe_ports: RangeInclusive<u16>,
    /// Traffic connects slower than this make an event, ns; 0: none.
    pub outlier_connect_ns: u64,
    /// Failures and outliers of traffic that may make an event, per second.
    pub events_per_second: u32,
    /// Whether to attach `egress`, which covers sockets older than the probe and repairs lost flags.
    pub old_sockets: bool,
}

impl Options {
    /// Defaults for a cgroup and a pin folder.
    pub fn new(cgroup: impl Into<PathBuf>, pin_dir: impl Into<PathBuf>) -> Self {
        Self {
            object: Cow::Borrowed(super::OBJECT),
            cgroup: cgroup.into(),
            pin_dir: pin_dir.into(),
            gid: None,
            series_cap: DEFAULT_SERIES_CAP,
            shards: None,
            ring_bytes: DEFAULT_RING_BYTES,
            probe_ports: mesh::PROBE_SOURCE_PORTS,
            outlier_connect_ns: 1_000_000_000,
            events_per_second: 100,
            old_sockets: true,
        }
    }
}

/// What `load` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing was there.
    Loaded,
    /// The same object was already attached; nothing was changed, the counts go on.
    Kept,
    /// Another object of the same layout was attached; each program was replaced in place, the counts go on.
    Replaced,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loaded => "loaded",
            Self::Kept => "kept",
            Self::Replaced => "replaced",
        })
    }
}

/// The result of a load.
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
    #[error("`{}` holds pins that are not ours or not whole", path.display())]
    ForeignPins { path: PathBuf, source: MapsError },
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
    #[error("invalid option: {0}")]
    Option(String),
}

// `load(&Options) -> Result<LoadReport, LoadError>` and `unload(&Path) -> Result<bool, LoadError>` follow with the object.
