//! Starves processes of the processor: stops them for most of every period, for a bounded time.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Arguments, RoleError};
use crate::process::start_ticks;

const ROLE: &str = "starve";
const PERIOD: Duration = Duration::from_millis(200);

/// A process by pid and start time, written `PID:TICKS`.
struct Victim {
    pid: i32,
    started: u64,
}

impl std::str::FromStr for Victim {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (pid, started) = text.split_once(':').ok_or(())?;
        Ok(Self {
            pid: pid.parse().map_err(|_| ())?,
            started: started.parse().map_err(|_| ())?,
        })
    }
}

/// `--process PID:TICKS` (any number), `--share RUNNING`, `--seconds N`.
pub(super) fn main(args: &[String]) -> Result<(), RoleError> {
    let args = Arguments::parse(ROLE, args, &["process", "share", "seconds"])?;
    let mut victims: Vec<Victim> = args.all("process")?;
    let share: f64 = args.one("share")?;
    let end = Instant::now() + Duration::from_secs(args.one("seconds")?);
    let running = PERIOD.mul_f64(share.clamp(0.0, 1.0));
    while Instant::now() < end && !victims.is_empty() {
        victims.retain(|v| send(v, Signal::SIGSTOP));
        std::thread::sleep(PERIOD - running);
        if !running.is_zero() {
            victims.retain(|v| send(v, Signal::SIGCONT));
            std::thread::sleep(running);
        }
    }
    for victim in &victims {
        send(victim, Signal::SIGCONT);
    }
    Ok(())
}

/// Whether the process was still there.
fn send(victim: &Victim, signal: Signal) -> bool {
    start_ticks(victim.pid) == Some(victim.started)
        && kill(Pid::from_raw(victim.pid), signal) != Err(Errno::ESRCH)
}
