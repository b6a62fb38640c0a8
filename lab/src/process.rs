//! The lab's long-running processes: how they are started, recognised and ended.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::error::{During, LabError, Result};
use crate::sys::Place;

/// Whom the agent runs as.
pub(crate) const AGENT_ID: u32 = 65_532;

/// Everything needed to start a process, and to start it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// Unique within the lab, e.g. `agent-cp-e-1`; also the name of its log.
    pub name: String,
    pub program: PathBuf,
    pub args: Vec<String>,
    /// Namespace by name; `None` is the host's.
    pub netns: Option<String>,
    pub cgroup: PathBuf,
    pub unprivileged: bool,
    /// What it sees as `/etc/resolv.conf`; `None` is the host's.
    pub resolv_conf: Option<PathBuf>,
    /// Before all that else runs on the machine: a node of a lab stands for a machine of its own,
    /// and must not be starved by its neighbours here.
    pub realtime: bool,
    pub log: PathBuf,
}

/// A started process. The start time tells it from a later owner of the same pid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process {
    pub spec: ProcessSpec,
    pub pid: i32,
    /// Clock ticks after boot, field 22 of /proc/PID/stat.
    pub started: u64,
}

impl ProcessSpec {
    fn command(&self, detached: bool) -> Result<Command> {
        let place = Place {
            netns: self.netns.as_deref().map(crate::net::netns_path),
            cgroup: Some(self.cgroup.clone()),
            unprivileged: self.unprivileged.then_some(AGENT_ID),
            realtime: self.realtime,
            detached,
            resolv_conf: self.resolv_conf.clone(),
        };
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .during(|| format!("open {}", self.log.display()))?;
        let errors = log
            .try_clone()
            .during(|| format!("open {}", self.log.display()))?;
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .current_dir("/");
        place
            .prepare(&mut command)
            .during(|| format!("find the place of `{}`", self.name))?;
        Ok(command)
    }

    /// Starts the process; it outlives the caller.
    pub(crate) fn start(&self) -> Result<Process> {
        let child = self
            .command(true)?
            .spawn()
            .map_err(|e| LabError::Exec(self.to_string(), e))?;
        let pid = i32::try_from(child.id()).unwrap_or(0);
        let started = start_ticks(pid).unwrap_or(0);
        // The caller waits for the end of children that it outlives, so that none stays a zombie.
        std::thread::spawn(move || {
            let mut child = child;
            let _ = child.wait();
        });
        Ok(Process {
            spec: self.clone(),
            pid,
            started,
        })
    }

    /// Runs the process to its end. Its last words are part of the error.
    pub(crate) fn run(&self, deadline: Duration) -> Result<()> {
        let failed = |message: String| LabError::Tool {
            command: self.to_string(),
            message,
        };
        let mut child = self
            .command(true)?
            .spawn()
            .map_err(|e| LabError::Exec(self.to_string(), e))?;
        let end = Instant::now() + deadline;
        loop {
            match child
                .try_wait()
                .during(|| format!("wait for `{}`", self.name))?
            {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(failed(format!("{status}: {}", last_words(&self.log)))),
                None if Instant::now() > end => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(failed(format!(
                        "no end after {deadline:?}: {}",
                        last_words(&self.log)
                    )));
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl std::fmt::Display for ProcessSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let program = self
            .program
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        write!(f, "{program} {}", self.args.join(" "))
    }
}

impl Process {
    pub fn alive(&self) -> bool {
        start_ticks(self.pid) == Some(self.started)
    }

    /// UDP sockets at this port in the process's network namespace.
    pub(crate) fn listening(&self, port: u16) -> usize {
        let at = format!(":{port:04X}");
        ["udp", "udp6"]
            .iter()
            .filter_map(|table| fs::read_to_string(format!("/proc/{}/net/{table}", self.pid)).ok())
            .flat_map(|text| {
                let local = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
                text.lines().filter_map(local).collect::<Vec<_>>()
            })
            .filter(|local| local.ends_with(&at))
            .count()
    }

    /// Sends a signal, unless the process has ended.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        if !self.alive() {
            return Ok(());
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => {
                Err(error).during(|| format!("signal `{}` (pid {})", self.spec.name, self.pid))
            }
        }
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn end(&self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.alive() {
            if Instant::now() > deadline {
                let source = std::io::Error::from(std::io::ErrorKind::TimedOut);
                return Err(LabError::Io {
                    what: format!("end `{}` (pid {})", self.spec.name, self.pid),
                    source,
                });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

/// Start time of a process that lives; `None` for none, and for a zombie.
pub(crate) fn start_ticks(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name may hold spaces and brackets; what follows its last bracket is plain.
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// The end of a log, for an error message.
pub(crate) fn last_words(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    if lines.is_empty() {
        return format!("it said nothing ({} is empty)", log.display());
    }
    lines[lines.len().saturating_sub(4)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_owner_of_the_pid_is_somebody_else() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let spec = ProcessSpec {
            name: "own".into(),
            program: "/bin/true".into(),
            args: Vec::new(),
            netns: None,
            cgroup: PathBuf::new(),
            unprivileged: false,
            resolv_conf: None,
            realtime: false,
            log: PathBuf::new(),
        };
        let started = start_ticks(pid).unwrap();
        let process = |started| Process {
            spec: spec.clone(),
            pid,
            started,
        };
        assert!(process(started).alive());
        let other = process(started + 1);
        assert!(!other.alive());
        // This test would not survive it.
        other.end().unwrap();
    }
}
