//! Takes a lab down, also one of which only pieces are left.

use std::fs;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use crate::cgroup;
use crate::error::{During, LabError, Result};
use crate::net;
use crate::paths::RunDir;
use crate::state::{Lock, State};
use crate::up::check_machine;

/// Removes the lab `name`. A lab that is not there is no error; returns whether anything was.
///
/// # Errors
/// If another command holds the lab, or something of it cannot be removed.
pub fn down(name: &str) -> Result<bool> {
    let run = RunDir::new(name)?;
    check_machine()?;
    let _lock = Lock::take(&run)?;
    Ok(sweep(&run)? > 0)
}

/// Removes everything under the lab's name, whatever its state: processes, namespaces, pins, files.
/// Returns how many things there were.
pub(crate) fn sweep(run: &RunDir) -> Result<usize> {
    let foreign_bpffs = State::read(run)
        .ok()
        .map(|s| s.bpffs)
        .filter(|path| *path != run.bpffs());
    let mut count = cgroup::kill_and_remove(run.lab())?;
    count += net::remove(run.lab())?;
    if let Some(bpffs) = foreign_bpffs {
        let pins = bpffs.join("aggrik8s").join(run.lab());
        count += remove_tree(&pins)?;
        // Only if this was the last lab that pinned there.
        let _ = fs::remove_dir(bpffs.join("aggrik8s"));
    }
    // Taking the bpffs away frees its pins, and with them detaches the programs.
    for path in [run.bpffs(), run.probe()] {
        unmount(&path)?;
    }
    count += remove_tree(run.dir())?;
    Ok(count)
}

/// Until nothing is mounted there: an abandoned lab may have been built over another.
fn unmount(path: &Path) -> Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(error) => return Err(error).during(|| format!("unmount {}", path.display())),
        }
    }
}

fn remove_tree(dir: &Path) -> Result<usize> {
    match fs::remove_dir_all(dir) {
        Ok(()) => Ok(1),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(source) => Err(LabError::Io {
            what: format!("remove {}", dir.display()),
            source,
        }),
    }
}
