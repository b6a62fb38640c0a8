//! What can go wrong with a lab, told as: what was seen, why, what to do next.

use std::io;

/// Every failure of the lab's public functions.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    #[error("the lab needs root: it makes network namespaces and cgroups")]
    NotRoot,
    #[error("tool `{tool}` is not installed")]
    ToolMissing {
        tool: &'static str,
        package: &'static str,
    },
    #[error("no cgroup v2 hierarchy is mounted")]
    NoCgroup2,
    #[error(
        "`{0}` is not a lab name: 1 to 20 of a-z, 0-9 and `-`, beginning and ending with a letter or digit"
    )]
    BadName(String),
    #[error("lab `{0}` is already up")]
    AlreadyUp(String),
    #[error("another command is changing lab `{0}`")]
    Locked(String),
    #[error("there is no lab `{0}`")]
    NoSuchLab(String),
    #[error("there is no {kind} `{name}` in lab `{lab}`; there are: {known}")]
    NoSuchThing {
        kind: &'static str,
        name: String,
        lab: String,
        known: String,
    },
    #[error("mesh cannot be built as a lab: {0}")]
    Mesh(String),
    #[error("nothing between `{0}` and `{1}` crosses the line")]
    NotCrossed(String, String),
    #[error("invalid fault: {0}")]
    Fault(String),
    #[error("`{command}` failed: {message}")]
    Tool { command: String, message: String },
    #[error("failed to {what}")]
    Io { what: String, source: io::Error },
    #[error("the program that translates services at connect(2) was refused")]
    Translation(#[source] io::Error),
    #[error("failed to run `{0}`")]
    Exec(String, #[source] io::Error),
    #[error("agent binary `aggrik8s-probe` was not found beside `{0}`")]
    NoProbe(String),
    #[error("bpffs path `{0}` is not a mounted bpffs")]
    NoBpffs(String),
    #[error("lab `{lab}` was not ready after {seconds:.0} s: {last}")]
    NotReady {
        lab: String,
        seconds: f64,
        last: String,
    },
    #[error("state of lab `{lab}` cannot be read: {message}")]
    State { lab: String, message: String },
    #[error("line: {0}")]
    Line(String),
    #[error("interrupted by signal {0}; what had been built was removed")]
    Interrupted(i32),
}

impl LabError {
    /// What the person should do next.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotRoot => "run it as root, e.g. `sudo aggrik8s lab up`".into(),
            Self::ToolMissing { package, .. } => format!("install it: `apt-get install {package}`"),
            Self::NoCgroup2 => {
                "looked for a `cgroup2` line in /proc/self/mounts; mount one: `mount -t cgroup2 none /sys/fs/cgroup`".into()
            }
            Self::AlreadyUp(name) => format!(
                "look at it with `aggrik8s lab status --name {name}`, remove it with `aggrik8s lab down --name {name}`, or choose another `--name`"
            ),
            Self::Locked(name) => format!(
                "wait for it to end; the lock is /run/aggrik8s/lab/.{name}.lock and goes away with its holder"
            ),
            Self::NoSuchLab(name) => format!("bring it up with `aggrik8s lab up --name {name}`"),
            Self::NoProbe(_) => {
                "build it (`cargo build -p probe-user`) or name it in AGGRIK8S_PROBE; `--bare` brings up the network alone".into()
            }
            Self::NoBpffs(path) => format!("mount one: `mount -t bpf bpffs {path}`, or leave `--bpffs` out: the lab then mounts its own"),
            Self::NotCrossed(a, b) if a == b => {
                "the line is between clusters; inside of one, packets go from node to node".into()
            }
            Self::NotCrossed(a, b) => format!("one of `{a}` and `{b}` lies behind the other; `lab up --behind` decides that"),
            Self::Translation(_) => {
                "the kernel needs CONFIG_CGROUP_BPF and Linux 5.10 or later; `--services dnat` does without".into()
            }
            Self::NotReady { lab, .. } => format!("the logs are in /run/aggrik8s/lab/{lab}/log; the lab was left for you to look at, `aggrik8s lab down --name {lab}` removes it"),
            Self::State { lab, .. } => format!("`aggrik8s lab down --name {lab}` removes whatever is left of it"),
            _ => return None,
        })
    }

    /// Exit code of the CLI for this error (see docs: 2 usage or unexpected, 3 not ready, 5 lock held).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Locked(_) => 5,
            Self::NotReady { .. } => 3,
            Self::Interrupted(signal) => 128u8.saturating_add(u8::try_from(*signal).unwrap_or(0)),
            _ => 2,
        }
    }
}

pub(crate) type Result<T> = std::result::Result<T, LabError>;

/// Names what was being done when an I/O error came up.
pub(crate) trait During<T> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> During<T> for std::result::Result<T, E> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| LabError::Io {
            what: what(),
            source: e.into(),
        })
    }
}
