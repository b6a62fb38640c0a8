//! What is known of a lab between commands: `state.json`, and the lock that keeps two commands
//! from changing one lab at once.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{During, LabError, Result};
use crate::fault::Fault;
use crate::net::{OuterDf, Services};
use crate::paths::RunDir;
use crate::process::Process;
use crate::topology::Topology;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Being built; found without a holder of the lock, it was abandoned.
    Building,
    Up,
    /// Built, but never became ready.
    Failed,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    pub phase: Phase,
    pub topology: Topology,
    pub outer_df: OuterDf,
    pub services: Services,
    /// Network only: no agents, no traffic.
    pub bare: bool,
    pub bpffs: PathBuf,
    pub processes: Vec<Process>,
    pub faults: Vec<Fault>,
    /// Number of the next fault.
    pub next_fault: u32,
}

impl State {
    /// # Errors
    /// [`LabError::NoSuchLab`] without a state, [`LabError::State`] if it cannot be understood.
    pub fn read(run: &RunDir) -> Result<Self> {
        let text = match fs::read_to_string(run.state()) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(LabError::NoSuchLab(run.lab().into()));
            }
            Err(source) => {
                return Err(LabError::Io {
                    what: format!("read {}", run.state().display()),
                    source,
                });
            }
        };
        serde_json::from_str(&text).map_err(|e| LabError::State {
            lab: run.lab().into(),
            message: e.to_string(),
        })
    }

    /// Replaces the file in one step.
    pub(crate) fn write(&self, run: &RunDir) -> Result<()> {
        let new = run.state().with_extension("new");
        let text = serde_json::to_string_pretty(self).map_err(|e| LabError::State {
            lab: run.lab().into(),
            message: e.to_string(),
        })?;
        fs::write(&new, text).during(|| format!("write {}", new.display()))?;
        fs::rename(&new, run.state()).during(|| format!("write {}", run.state().display()))
    }

    pub fn process(&self, name: &str) -> Option<&Process> {
        self.processes.iter().find(|p| p.spec.name == name)
    }

    /// Whether somebody may still be using it. The line is the last thing to go: without it
    /// nothing crosses between clusters.
    pub fn running(&self) -> bool {
        self.phase == Phase::Up && self.process(LINE).is_some_and(Process::alive)
    }
}

/// Name of the line's process.
pub(crate) const LINE: &str = "line";

/// Held while a command changes a lab; the kernel lets go of it with its holder. A lab that is gone
/// leaves no lock.
pub(crate) struct Lock {
    _file: File,
    run: RunDir,
}

impl Lock {
    pub(crate) fn take(run: &RunDir) -> Result<Self> {
        let path = run.lock();
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).during(|| format!("create {}", dir.display()))?;
        }
        let open = || File::create(&path).during(|| format!("open {}", path.display()));
        let mut file = open()?;
        // A holder that was killed between fork and exec leaves a child that holds it for a moment.
        let patience = Instant::now() + Duration::from_secs(1);
        loop {
            match file.try_lock() {
                Ok(()) if is_at(&file, &path) => {
                    return Ok(Self {
                        _file: file,
                        run: run.clone(),
                    });
                }
                // Its last holder removed the file between our opening and locking it.
                Ok(()) => file = open()?,
                Err(TryLockError::WouldBlock) if Instant::now() < patience => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(TryLockError::WouldBlock) => return Err(LabError::Locked(run.lab().into())),
                Err(TryLockError::Error(source)) => {
                    return Err(LabError::Io {
                        what: format!("lock {}", path.display()),
                        source,
                    });
                }
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if !self.run.dir().exists() {
            // Still held: whoever waits for it sees that the file is another one, or none.
            let _ = fs::remove_file(self.run.lock());
        }
    }
}

/// Whether `file` is what `path` leads to.
fn is_at(file: &File, path: &Path) -> bool {
    let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    matches!((file.metadata(), fs::metadata(path)), (Ok(a), Ok(b)) if same(&a, &b))
}
