//! What must hold before the loader touches anything; each failure is named with its fix.

use std::{
    io,
    path::{Path, PathBuf},
};

use caps::{CapSet, Capability};
use nix::sys::statfs;

/// What the default set of programs needs, and nothing else.
pub const CAPABILITIES: [Capability; 2] = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN];

/// Why loading cannot even be tried.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    #[error("loading needs uid 0, this is uid {uid}")]
    NotRoot { uid: u32 },
    #[error("missing {}", join(missing))]
    Capability { missing: Vec<Capability> },
    #[error("cannot read this process's capabilities")]
    ReadCapabilities(#[source] caps::errors::CapsError),
    #[error("`{}` is not a folder of a cgroup v2 mount", path.display())]
    NotCgroup2 {
        path: PathBuf,
        source: Option<io::Error>,
    },
    #[error("no bpffs at `{}`", path.display())]
    NoBpffs { path: PathBuf },
    #[error("cannot look at `{}`", path.display())]
    Look { path: PathBuf, source: io::Error },
}

fn join(missing: &[Capability]) -> String {
    let names: Vec<String> = missing.iter().map(|c| format!("`{c}`")).collect();
    names.join(" and ")
}

impl PreflightError {
    /// What to do next.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotRoot { .. } => {
                "run the loader as root (in Kubernetes: `runAsUser: 0`); only `run` is unprivileged"
            }
            Self::Capability { .. } => {
                "give the loader exactly BPF and NET_ADMIN (`securityContext.capabilities.add`, or `setpriv --bounding-set`)"
            }
            Self::ReadCapabilities(_) => "is /proc mounted?",
            Self::NotCgroup2 { .. } => {
                "name a folder below the cgroup2 mount (`grep cgroup2 /proc/self/mounts`); a v1-only machine must boot with `systemd.unified_cgroup_hierarchy=1`"
            }
            Self::NoBpffs { .. } => {
                "mount one: `mount -t bpf bpf /sys/fs/bpf`, and put the pin folder below it (in Kubernetes: a hostPath of /sys/fs/bpf)"
            }
            Self::Look { .. } => "check the path and its permissions",
        }
    }
}

/// Checks identity, capabilities, cgroup and, where something is to be pinned, bpffs, in this order.
pub fn check(cgroup: &Path, pin_dir: Option<&Path>) -> Result<(), PreflightError> {
    let uid = nix::unistd::geteuid().as_raw();
    if uid != 0 {
        return Err(PreflightError::NotRoot { uid });
    }
    let effective =
        caps::read(None, CapSet::Effective).map_err(PreflightError::ReadCapabilities)?;
    let missing: Vec<Capability> = CAPABILITIES
        .into_iter()
        .filter(|capability| !effective.contains(capability))
        .collect();
    if !missing.is_empty() {
        return Err(PreflightError::Capability { missing });
    }
    check_cgroup(cgroup)?;
    pin_dir.map_or(Ok(()), check_bpffs)
}

fn check_cgroup(path: &Path) -> Result<(), PreflightError> {
    let not = |source| PreflightError::NotCgroup2 {
        path: path.to_owned(),
        source,
    };
    let kind = statfs::statfs(path).map_err(|errno| not(Some(errno.into())))?;
    if kind.filesystem_type() != statfs::CGROUP2_SUPER_MAGIC || !path.is_dir() {
        return Err(not(None));
    }
    Ok(())
}

/// The nearest ancestor that exists must lie in a bpffs.
fn check_bpffs(pin_dir: &Path) -> Result<(), PreflightError> {
    let existing = pin_dir
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    let kind = statfs::statfs(existing).map_err(|errno| PreflightError::Look {
        path: existing.to_owned(),
        source: errno.into(),
    })?;
    if kind.filesystem_type() != statfs::BPF_FS_MAGIC {
        return Err(PreflightError::NoBpffs {
            path: existing.to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_folder_is_neither_cgroup_nor_bpffs() {
        let dir = std::env::temp_dir();
        assert!(matches!(
            check_cgroup(&dir),
            Err(PreflightError::NotCgroup2 { source: None, .. })
        ));
        assert!(matches!(
            check_cgroup(&dir.join("does-not-exist")),
            Err(PreflightError::NotCgroup2 {
                source: Some(_),
                ..
            })
        ));
        let wanted = dir.join("no/such/folder");
        match check_bpffs(&wanted) {
            Err(PreflightError::NoBpffs { path }) => assert!(wanted.starts_with(path)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn missing_capabilities_are_all_named() {
        let error = PreflightError::Capability {
            missing: CAPABILITIES.to_vec(),
        };
        assert_eq!(error.to_string(), "missing `CAP_BPF` and `CAP_NET_ADMIN`");
    }
}
