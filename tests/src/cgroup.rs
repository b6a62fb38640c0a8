//! Scratch cgroups (v2) for tests, removed on drop.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::leftovers;

/// A cgroup without controllers: enough to attach programs to.
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Directly below the mount of cgroup v2.
    pub fn create(label: &str) -> Result<Self> {
        Self::below(&mount()?, label)
    }

    /// A child of `parent`.
    pub fn below(parent: &Path, label: &str) -> Result<Self> {
        let path = parent.join(leftovers::name(label));
        fs::create_dir(&path).with_context(|| format!("create cgroup `{}`", path.display()))?;
        Ok(Self { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves a whole process in. Sockets belong to the cgroup their creator was in at that moment.
    pub fn add(&self, pid: u32) -> Result<()> {
        join(&self.path, pid)
    }
}

/// Moves process `pid` into the cgroup at `path`.
pub fn join(path: &Path, pid: u32) -> Result<()> {
    let file = path.join("cgroup.procs");
    fs::write(&file, pid.to_string())
        .with_context(|| format!("move process {pid} into `{}`", path.display()))
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A child that was just reaped can hold its cgroup for a moment longer.
        let deadline = Instant::now() + Duration::from_secs(5);
        while let Err(error) = fs::remove_dir(&self.path) {
            if !self.path.exists() {
                return;
            }
            if Instant::now() > deadline {
                tracing::warn!(%error, path = %self.path.display(), "cgroup not removed");
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Where cgroup v2 is mounted, from /proc/self/mounts.
pub fn mount() -> Result<PathBuf> {
    let found = mounts("cgroup2")?.into_iter().next();
    found.context("no cgroup v2 mount (hint: mount -t cgroup2 none /sys/fs/cgroup/unified)")
}

/// Where cgroups are mounted: version 2, then each hierarchy of version 1.
pub fn hierarchies() -> Result<Vec<PathBuf>> {
    let mut all = mounts("cgroup2")?;
    all.extend(mounts("cgroup")?);
    Ok(all)
}

fn mounts(kind: &str) -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    Ok(mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .filter(|fields| fields.get(2) == Some(&kind))
        .map(|fields| PathBuf::from(fields[1]))
        .collect())
}
