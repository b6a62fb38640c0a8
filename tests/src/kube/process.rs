//! A server that a test runs: its output in a file, its end with the test's process, and what it said in every error.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Sender};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};
use std::{io, thread};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::sys;

/// Last lines of the output that an error quotes.
const QUOTED: usize = 30;

/// Killed on drop, and when the process that started it dies.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; what it prints goes to `<folder>/<name>.log`, after what an earlier one wrote there.
    pub fn start(name: &str, mut command: Command, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("open `{}`", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let child = spawn(command).with_context(|| format!("start `{name}`"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Polls `probe` until it succeeds. An error quotes its last answer and the end of the output.
    pub fn ready(&mut self, limit: Duration, mut probe: impl FnMut() -> Result<()>) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let answer = probe();
            if answer.is_ok() {
                return Ok(());
            }
            let why = if let Some(status) = self.child.try_wait()? {
                format!("ended: {status}")
            } else if Instant::now() > deadline {
                format!("was not ready in {} s", limit.as_secs())
            } else {
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            return answer
                .with_context(|| format!("`{}` {why}; it said:\n{}", self.name, self.said()));
        }
    }

    /// Asks it to end, and kills it if it does not.
    pub fn stop(mut self, limit: Duration) -> Result<()> {
        kill(
            Pid::from_raw(self.child.id().cast_signed()),
            Signal::SIGTERM,
        )?;
        let deadline = Instant::now() + limit;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("`{}` did not end; it said:\n{}", self.name, self.said());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The end of what it printed.
    pub fn said(&self) -> String {
        end_of(&self.log)
    }
}

/// The last lines of a log.
pub fn end_of(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(QUOTED)..].join("\n")
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command to start, and where its process is awaited.
type Order = (Command, Sender<io::Result<Child>>);

/// Starts a process that is killed when this one ends, however it ends. The kernel binds that to the thread that
/// started it, so one that outlives every test does.
fn spawn(mut command: Command) -> Result<Child> {
    static STARTER: LazyLock<Mutex<Sender<Order>>> = LazyLock::new(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, outbox) in inbox {
                let _ = outbox.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    sys::die_with_starter(&mut command);
    let (outbox, child) = mpsc::channel();
    let orders = STARTER.lock().unwrap_or_else(|e| e.into_inner()).clone();
    orders
        .send((command, outbox))
        .context("the starter is gone")?;
    Ok(child.recv().context("the starter is gone")??)
}
