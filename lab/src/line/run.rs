//! The coat of I/O: one thread that reads a tun device, lets the pipeline decide, and writes each packet back when it
//! is due. It holds no rule of its own.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

use super::config::{ConfigError, LineConfig, Timing};
use super::control::{Reply, Request, answer};
use super::effect::Nanos;
use super::pipeline::Pipeline;
use super::server::{Inbox, serve};
use super::sys;

/// `--tun NAME --config FILE --control SOCKET`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub tun: String,
    pub config: PathBuf,
    pub control: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum LineError {
    #[error("usage: `line --tun NAME --config FILE --control SOCKET`: {0}")]
    Usage(String),
    #[error("line configuration")]
    Config(#[from] ConfigError),
    #[error("cannot attach to tun device `{name}`{}", hint(source))]
    Tun {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot serve the control socket `{path}`")]
    Control {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot wait for packets")]
    Poll(#[source] nix::Error),
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => "\nhint: attaching needs CAP_NET_ADMIN in the namespace of the device",
        Some(libc::EBUSY) => "\nhint: another line is attached to it",
        Some(libc::EINVAL) => {
            "\nhint: it exists, but is not a tun device without packet information"
        }
        Some(libc::ENOENT) => "\nhint: /dev/net/tun is missing; load the kernel module `tun`",
        _ => "",
    }
}

impl Options {
    pub fn from_args<I: IntoIterator<Item = String>>(args: I) -> Result<Self, LineError> {
        let (mut tun, mut config, mut control) = (None, None, None);
        let mut args = args.into_iter();
        while let Some(key) = args.next() {
            let slot = match key.as_str() {
                "--tun" => &mut tun,
                "--config" => &mut config,
                "--control" => &mut control,
                _ => return Err(LineError::Usage(format!("unknown argument `{key}`"))),
            };
            *slot = Some(
                args.next()
                    .ok_or_else(|| LineError::Usage(format!("`{key}` needs a value")))?,
            );
        }
        let needed = |value: Option<String>, key: &str| {
            value.ok_or_else(|| LineError::Usage(format!("`{key}` is missing")))
        };
        Ok(Self {
            tun: needed(tun, "--tun")?,
            config: needed(config, "--config")?.into(),
            control: needed(control, "--control")?.into(),
        })
    }
}

/// The kernel's own default of 500 packets is 25 ms at 20 000 packets a second.
const DEVICE_QUEUE: i32 = 5000;

/// Runs the line in the current network namespace. Returns only with an error; the control socket appears when packets
/// flow.
pub fn run(options: &Options) -> Result<std::convert::Infallible, LineError> {
    let config = LineConfig::read(&options.config)?;
    let timing = config.timing;
    let pipeline = Pipeline::new(config)?;
    let tun = sys::open_tun(&options.tun).map_err(|source| LineError::Tun {
        name: options.tun.clone(),
        source,
    })?;
    if let Err(error) = sys::set_queue_length(&options.tun, DEVICE_QUEUE) {
        tracing::warn!(%error, "the device keeps its short queue");
    }
    let inbox = serve(&options.control).map_err(|source| LineError::Control {
        path: options.control.clone(),
        source,
    })?;
    prepare_thread(&timing);
    let mut line = Line {
        pipeline,
        tun,
        inbox,
        timing,
        schedstat: Schedstat::open(),
        device: options.tun.clone(),
        dropped_before: device_drops(Path::new(NET_DEV), &options.tun),
        buffer: vec![0; MAX_PACKET],
        heartbeat: now(),
    };
    loop {
        line.turn()?;
    }
}

/// Only the line's thread; the control threads, started before, stay ordinary.
fn prepare_thread(timing: &Timing) {
    if let Err(error) = nix::sys::prctl::set_timerslack(1) {
        tracing::warn!(%error, "timers keep their slack");
    }
    if timing.fifo_priority > 0
        && let Err(error) = sys::set_fifo(timing.fifo_priority)
    {
        tracing::warn!(%error, "no real-time priority: the line is less punctual when the machine is busy");
    }
}

const NET_DEV: &str = "/proc/thread-self/net/dev";
const MAX_PACKET: usize = 65_536;
/// Packets read before due ones are written again.
const BATCH: usize = 64;

struct Line {
    pipeline: Pipeline,
    tun: File,
    inbox: Inbox,
    timing: Timing,
    schedstat: Schedstat,
    device: String,
    /// What the device had dropped when nobody was attached yet.
    dropped_before: Option<u64>,
    buffer: Vec<u8>,
    /// When the next look at our own punctuality is planned.
    heartbeat: Nanos,
}

impl Line {
    fn turn(&mut self) -> Result<(), LineError> {
        self.write_due();
        let more = self.read_batch();
        self.write_due();
        if more {
            self.answer_jobs();
            return Ok(());
        }
        self.wait()
    }

    /// True if the device may hold more.
    fn read_batch(&mut self) -> bool {
        for _ in 0..BATCH {
            match (&self.tun).read(&mut self.buffer) {
                Ok(0) => return false,
                Ok(length) => {
                    self.pipeline.push(now(), self.buffer[..length].to_vec());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.pipeline.read_failed(format!("read: {error}"));
                    return false;
                }
            }
        }
        true
    }

    fn write_due(&mut self) {
        while let Some(departure) = self.pipeline.pop_due(now()) {
            let at = now();
            match (&self.tun).write(&departure.packet) {
                Ok(length) if length == departure.packet.len() => {
                    self.pipeline.written(&departure, at)
                }
                Ok(length) => self
                    .pipeline
                    .write_failed(&departure, format!("write: took only {length} bytes")),
                Err(error) => self
                    .pipeline
                    .write_failed(&departure, format!("write: {error}")),
            }
        }
    }

    fn answer_jobs(&mut self) {
        self.inbox.silence();
        while let Some(job) = self.inbox.next() {
            let stats = matches!(job.request, Request::Stats);
            let mut reply = answer(&mut self.pipeline, job.request, now());
            if let (true, Reply::Stats { stats }) = (stats, &mut reply) {
                stats.device_dropped = device_drops(Path::new(NET_DEV), &self.device)
                    .zip(self.dropped_before)
                    .map(|(now, before)| now.saturating_sub(before));
            }
            // The client may have given up; its reply is then nobody's.
            let _ = job.reply.try_send(reply);
        }
    }

    fn wait(&mut self) -> Result<(), LineError> {
        let before = now();
        let heartbeat = self.next_heartbeat(before);
        let spin = self.timing.spin_us * 1000;
        let due = self.pipeline.next_due().map(|due| due.saturating_sub(spin));
        let wake_at = match (due, heartbeat) {
            (Some(due), Some(beat)) => Some(due.min(beat)),
            (due, beat) => due.or(beat),
        };
        let timeout = wake_at.map(|at| at.saturating_sub(before));
        let mut fds = [
            PollFd::new(self.tun.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.inbox.bell.as_fd(), PollFlags::POLLIN),
        ];
        let ready = match ppoll(&mut fds, timeout.map(timespec), None) {
            Ok(ready) => ready,
            Err(nix::Error::EINTR) => return Ok(()),
            Err(error) => return Err(LineError::Poll(error)),
        };
        let broken = fds[0]
            .revents()
            .is_some_and(|events| events.intersects(PollFlags::POLLERR | PollFlags::POLLNVAL));
        let rung = fds[1].any() == Some(true);
        let after = now();
        let waited = self.schedstat.waited_since_last();
        match wake_at {
            Some(at) if ready == 0 => self.pipeline.woke(at, after),
            // Woken by a packet, which may have come any time while we waited for a CPU.
            _ => self
                .pipeline
                .woke(after.saturating_sub(waited.unwrap_or(0)), after),
        }
        if broken {
            self.pipeline
                .read_failed("the tun device is gone or down".to_owned());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        if rung {
            self.answer_jobs();
        }
        let ahead = |line: &Self| line.pipeline.next_due()?.checked_sub(now());
        while ahead(self).is_some_and(|ahead| (1..=spin).contains(&ahead)) {
            std::hint::spin_loop();
        }
        Ok(())
    }

    fn next_heartbeat(&mut self, now: Nanos) -> Option<Nanos> {
        let period = self.timing.heartbeat_us * 1000;
        if period == 0 {
            return None;
        }
        if self.heartbeat <= now {
            self.heartbeat = now + period;
        }
        Some(self.heartbeat)
    }
}

fn timespec(nanos: Nanos) -> TimeSpec {
    TimeSpec::new(
        (nanos / 1_000_000_000) as i64,
        (nanos % 1_000_000_000) as i64,
    )
}

/// CLOCK_MONOTONIC.
pub fn now() -> Nanos {
    // CLOCK_MONOTONIC exists on every Linux; its values are never negative.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        time.tv_sec() as Nanos * 1_000_000_000 + time.tv_nsec() as Nanos
    })
}

/// How long this thread was ready to run but did not, by the kernel's own account.
struct Schedstat {
    file: Option<File>,
    last: Nanos,
}

impl Schedstat {
    fn open() -> Self {
        let mut schedstat = Self {
            file: File::open("/proc/thread-self/schedstat").ok(),
            last: 0,
        };
        schedstat.waited_since_last();
        schedstat
    }

    fn waited_since_last(&mut self) -> Option<Nanos> {
        let mut bytes = [0; 96];
        let length = self.file.as_ref()?.read_at(&mut bytes, 0).ok()?;
        let total = parse_schedstat(&bytes[..length])?;
        let waited = total.saturating_sub(self.last);
        self.last = total;
        Some(waited)
    }
}

/// The second of three numbers: time spent waiting on a run queue, in nanoseconds.
fn parse_schedstat(text: &[u8]) -> Option<Nanos> {
    std::str::from_utf8(text)
        .ok()?
        .split_ascii_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

fn device_drops(path: &Path, device: &str) -> Option<u64> {
    parse_device_drops(&std::fs::read_to_string(path).ok()?, device)
}

/// Transmit drops in the format of `/proc/net/dev`: what the kernel sent to the device and nobody read.
fn parse_device_drops(table: &str, device: &str) -> Option<u64> {
    const TRANSMIT_DROPPED: usize = 11;
    let row = table
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'))?;
    row.split_ascii_whitespace()
        .nth(TRANSMIT_DROPPED)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_tables() {
        assert_eq!(parse_schedstat(b"280983227 2928741 6\n"), Some(2_928_741));
        assert_eq!(parse_schedstat(b"1\n"), None);
        let table = "Inter-|   Receive                            |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    lo:       1       2    0    0    0     0          0         0        3       4    0    5    0     0       0          0\n line0: 100 200 0 7 0 0 0 0 300 400 0 9 0 0 0 0\n";
        assert_eq!(parse_device_drops(table, "line0"), Some(9));
        assert_eq!(parse_device_drops(table, "lo"), Some(5));
        assert_eq!(parse_device_drops(table, "line"), None);
    }

    #[test]
    fn arguments_are_named_when_wrong() {
        let parse = |text: &str| Options::from_args(text.split_whitespace().map(str::to_owned));
        let options = parse("--tun line0 --config /a --control /b").unwrap();
        assert_eq!(
            (options.tun.as_str(), options.config.to_str()),
            ("line0", Some("/a"))
        );
        for (text, part) in [
            ("--tun", "needs a value"),
            ("--tun a --config b", "--control"),
            ("--what x", "--what"),
        ] {
            assert!(
                parse(text).unwrap_err().to_string().contains(part),
                "{text}"
            );
        }
    }
}
