//! The lab's part of the cgroup v2 hierarchy: a directory per lab, one below it per node.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{During, LabError, Result};

const OURS: &str = "aggrik8s";
/// Where processes of no node live: the line, clients. A node name never begins with `_`.
pub(crate) const OUTSIDE: &str = "_outside";

/// Mount point of the cgroup v2 hierarchy (in a hybrid layout it is not /sys/fs/cgroup).
pub(crate) fn mount_point() -> Result<PathBuf> {
    let mounts =
        fs::read_to_string("/proc/self/mounts").during(|| "read /proc/self/mounts".into())?;
    mounts
        .lines()
        .find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (path, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(path))
        })
        .ok_or(LabError::NoCgroup2)
}

/// Directory of a whole lab.
pub(crate) fn lab_dir(lab: &str) -> Result<PathBuf> {
    Ok(mount_point()?.join(OURS).join(lab))
}

pub(crate) fn create(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).during(|| format!("create cgroup {}", dir.display()))
}

/// Kills every process below the lab's directory and removes it. Returns how many processes
/// there were; a directory that does not exist is none.
pub(crate) fn kill_and_remove(lab: &str) -> Result<usize> {
    let dir = lab_dir(lab)?;
    if !dir.exists() {
        return Ok(0);
    }
    let mut dirs = vec![dir.clone()];
    let entries = fs::read_dir(&dir).during(|| format!("list cgroup {}", dir.display()))?;
    dirs.extend(
        entries
            .filter_map(|e| e.ok().map(|e| e.path()))
            .filter(|p| p.is_dir()),
    );
    let count = dirs.iter().map(|d| pids(d).len()).sum();
    let deadline = Instant::now() + Duration::from_secs(10);
    // Below 5.14 there is no cgroup.kill; killing one by one again and again ends the same way.
    let killed_at_once = fs::write(dir.join("cgroup.kill"), "1").is_ok();
    loop {
        let left: Vec<i32> = dirs.iter().flat_map(|d| pids(d)).collect();
        if left.is_empty() {
            break;
        }
        if !killed_at_once {
            for pid in &left {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(*pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
        }
        if Instant::now() > deadline {
            return Err(LabError::Io {
                what: format!("end processes {left:?} of lab `{lab}`"),
                source: io::Error::from(io::ErrorKind::TimedOut),
            });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    for dir in dirs.iter().rev() {
        remove_dir(dir, deadline)?;
    }
    Ok(count)
}

/// A directory stays busy for a moment after its last process has gone.
fn remove_dir(dir: &Path, deadline: Instant) -> Result<()> {
    loop {
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error)
                if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(source) => {
                return Err(LabError::Io {
                    what: format!("remove cgroup {}", dir.display()),
                    source,
                });
            }
        }
    }
}

pub(crate) fn pids(dir: &Path) -> Vec<i32> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}
