//! Connection storms: a client and a server in processes of their own, so that each can live in a
//! chosen namespace and cgroup and can be counted from its own side. The processes are the binary
//! `storm`; one line of JSON carries the plan in, one carries the report out.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use crate::netns::Netns;

/// Bytes of each request and each reply.
pub const MESSAGE: usize = 64;

/// What a storm's process does.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Plan {
    Serve(ServerPlan),
    Connect(ClientPlan),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerPlan {
    pub listen: Vec<SocketAddr>,
    /// Accepting threads per listener; each serves one connection at a time.
    pub threads: usize,
    /// Keep connections open after the first exchange, until the server ends.
    pub hold: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClientPlan {
    /// Taken in turn.
    pub targets: Vec<SocketAddr>,
    pub connections: u64,
    /// Threads, pinned to the CPUs in turn.
    pub threads: usize,
    /// Connections per second over all threads; `None`: as fast as possible.
    pub rate: Option<f64>,
    /// Every n-th connection goes to `closed`, where nobody listens.
    pub refuse_every: Option<u64>,
    pub closed: Vec<SocketAddr>,
    /// Every n-th established connection is closed with RST.
    pub reset_every: Option<u64>,
    /// Keep connections open until the client is released.
    pub hold: bool,
    /// Give up a connect after this long, as applications do.
    pub give_up_ms: Option<u64>,
}

impl ClientPlan {
    /// A plain storm: connect, 64 B there, 64 B back, close.
    pub fn new(targets: Vec<SocketAddr>, connections: u64) -> Self {
        Self {
            targets,
            connections,
            threads: 8,
            rate: None,
            refuse_every: None,
            closed: Vec::new(),
            reset_every: None,
            hold: false,
            give_up_ms: None,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerReport {
    pub accepted: u64,
    pub exchanged: u64,
    /// Connections that ended in RST.
    pub resets: u64,
    pub errors: BTreeMap<String, u64>,
    /// User and system time of the server process.
    pub cpu_s: f64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClientReport {
    pub attempted: u64,
    pub established: u64,
    pub exchanged: u64,
    pub refused: u64,
    pub gave_up: u64,
    pub resets_sent: u64,
    pub errors: BTreeMap<String, u64>,
    pub elapsed_s: f64,
    /// Connections established in the busiest whole second.
    pub best_second: u64,
    /// Connections established from each CPU.
    pub by_cpu: BTreeMap<usize, u64>,
    pub connect_p50_us: f64,
    pub connect_p99_us: f64,
    /// User and system time of the client process.
    pub cpu_s: f64,
}

impl ClientReport {
    pub fn rate(&self) -> f64 {
        self.established as f64 / self.elapsed_s
    }
}

/// A storm's process as its parent sees it. Killed and reaped on drop.
pub struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// Starts the process in `namespace` (the caller's own where `None`) and in the cgroup at
    /// `cgroup`; when this returns it is ready to accept, or waits for [`Process::go`].
    pub fn start(namespace: Option<&Netns>, cgroup: Option<&Path>, plan: &Plan) -> Result<Self> {
        let binary = binary()?;
        let spawn = || {
            let mut command = Command::new(&binary);
            if let Some(cgroup) = cgroup {
                command.arg(cgroup);
            }
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
        };
        // A child inherits the namespace of the thread that spawned it.
        let child = match namespace {
            Some(namespace) => namespace.run(spawn)?,
            None => spawn(),
        };
        let mut child = child.with_context(|| format!("start `{}`", binary.display()))?;
        let output = BufReader::new(child.stdout.take().context("storm without stdout")?);
        let mut process = Self { child, output };
        process.say(&serde_json::to_string(plan)?)?;
        let ready = process.line()?;
        ensure!(ready == "ready", "storm did not get ready: `{ready}`");
        Ok(process)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets a client begin.
    pub fn go(&mut self) -> Result<()> {
        self.say("go")
    }

    /// Waits for a client to finish its plan. One that holds its connections still does.
    pub fn client_report(&mut self) -> Result<ClientReport> {
        self.report()
    }

    /// Ends a server and returns its counts.
    pub fn server_report(&mut self) -> Result<ServerReport> {
        drop(self.child.stdin.take());
        self.report()
    }

    /// Lets the process close what it holds and end.
    pub fn release(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait()?;
        ensure!(status.success(), "storm ended with {status}");
        Ok(())
    }

    fn report<T: DeserializeOwned>(&mut self) -> Result<T> {
        let line = self.line()?;
        serde_json::from_str(&line).with_context(|| format!("report of a storm: `{line}`"))
    }

    fn say(&mut self, line: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().context("storm already ended")?;
        writeln!(input, "{line}")?;
        Ok(input.flush()?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already reaped after `release`; then both are harmless.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary `storm` beside the running test or bench.
fn binary() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("storm"))
        .find(|path| path.is_file())
        .with_context(|| format!("no binary `storm` beside `{}`", own.display()))
}

/// Body of the server process: serves until `input` ends, then reports.
pub fn serve(plan: &ServerPlan, input: &mut impl Read, output: &mut impl Write) -> Result<()> {
    let counts = Arc::new(Mutex::new(ServerReport::default()));
    let held = Arc::new(Mutex::new(Vec::new()));
    for address in &plan.listen {
        let socket = Socket::new(Domain::for_address(*address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket
            .bind(&(*address).into())
            .with_context(|| format!("bind `{address}`"))?;
        socket.listen(4096)?;
        let listener = Arc::new(std::net::TcpListener::from(socket));
        for _ in 0..plan.threads {
            let (listener, counts, held) = (
                Arc::clone(&listener),
                Arc::clone(&counts),
                Arc::clone(&held),
            );
            let hold = plan.hold;
            thread::Builder::new()
                .stack_size(128 << 10)
                .spawn(move || {
                    loop {
                        let accepted = listener.accept();
                        let outcome = accepted.map_err(|e| (false, e)).and_then(|(mut s, _)| {
                            let outcome = answer(&mut s, hold).map_err(|e| (true, e));
                            if hold && outcome.is_ok() {
                                held.lock().unwrap_or_else(|e| e.into_inner()).push(s);
                            }
                            outcome
                        });
                        let mut counts = counts.lock().unwrap_or_else(|e| e.into_inner());
                        match outcome {
                            Ok(exchanged) => {
                                counts.accepted += 1;
                                counts.exchanged += u64::from(exchanged);
                            }
                            Err((accepted, error)) => {
                                counts.accepted += u64::from(accepted);
                                // Only the wait for the client's end follows the exchange.
                                if error.kind() == ErrorKind::ConnectionReset {
                                    counts.resets += 1;
                                } else {
                                    *counts.errors.entry(error.to_string()).or_default() += 1;
                                }
                            }
                        }
                    }
                })?;
        }
    }
    writeln!(output, "ready")?;
    output.flush()?;
    io::copy(input, &mut io::sink())?;
    let mut report = counts.lock().unwrap_or_else(|e| e.into_inner()).clone();
    report.cpu_s = cpu_seconds()?;
    writeln!(output, "{}", serde_json::to_string(&report)?)?;
    Ok(())
}

/// Answers one request and, unless the connection is to be held, waits for the client's end.
fn answer(stream: &mut TcpStream, hold: bool) -> io::Result<bool> {
    let mut message = [0; MESSAGE];
    match stream.read_exact(&mut message) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(false),
        other => other?,
    }
    stream.write_all(&message)?;
    if !hold {
        stream.read_exact(&mut message[..1]).or_else(|error| {
            if error.kind() == ErrorKind::UnexpectedEof {
                Ok(())
            } else {
                Err(error)
            }
        })?;
    }
    Ok(true)
}

#[derive(Default)]
struct Tally {
    report: ClientReport,
    connect_ns: Vec<u32>,
    by_second: BTreeMap<u64, u64>,
    held: Vec<TcpStream>,
}

/// Body of the client process: runs the plan after `go`, reports, and holds until `input` ends.
pub fn connect(plan: &ClientPlan, input: &mut impl BufRead, output: &mut impl Write) -> Result<()> {
    ensure!(!plan.targets.is_empty(), "a storm needs a target");
    ensure!(
        plan.refuse_every.is_none() || !plan.closed.is_empty(),
        "`refuse_every` needs an address in `closed`"
    );
    writeln!(output, "ready")?;
    output.flush()?;
    let mut line = String::new();
    input.read_line(&mut line)?;
    ensure!(line.trim() == "go", "expected `go`, got `{}`", line.trim());

    let cpus = thread::available_parallelism()?.get();
    let next = AtomicU64::new(0);
    let start = Instant::now();
    let tallies: Vec<Tally> = thread::scope(|scope| {
        let threads: Vec<_> = (0..plan.threads)
            .map(|index| {
                let next = &next;
                scope.spawn(move || work(plan, index % cpus, next, start))
            })
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p)))
            .collect::<Result<_>>()
    })?;
    let elapsed_s = start.elapsed().as_secs_f64();
    let (report, held) = merge(tallies, elapsed_s)?;
    writeln!(output, "{}", serde_json::to_string(&report)?)?;
    output.flush()?;
    io::copy(input, &mut io::sink())?;
    drop(held);
    Ok(())
}

fn work(plan: &ClientPlan, cpu: usize, next: &AtomicU64, start: Instant) -> Result<Tally> {
    let mut set = nix::sched::CpuSet::new();
    set.set(cpu)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)
        .with_context(|| format!("pin to CPU {cpu}"))?;
    let mut tally = Tally::default();
    let nth = |every: Option<u64>, n: u64| every.is_some_and(|e| n % e == e - 1);
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        if n >= plan.connections {
            return Ok(tally);
        }
        if let Some(rate) = plan.rate {
            let due = start + Duration::from_secs_f64(n as f64 / rate);
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        let list = if nth(plan.refuse_every, n) {
            &plan.closed
        } else {
            &plan.targets
        };
        let target = list[n as usize % list.len()];
        tally.report.attempted += 1;
        let begun = Instant::now();
        let connected = match plan.give_up_ms {
            Some(ms) => TcpStream::connect_timeout(&target, Duration::from_millis(ms)),
            None => TcpStream::connect(target),
        };
        let outcome = connected.and_then(|stream| {
            let took = begun.elapsed();
            tally
                .connect_ns
                .push(took.as_nanos().min(u128::from(u32::MAX)) as u32);
            tally.report.established += 1;
            *tally.report.by_cpu.entry(cpu).or_default() += 1;
            *tally
                .by_second
                .entry(start.elapsed().as_secs())
                .or_default() += 1;
            exchange(stream, plan, nth(plan.reset_every, n), &mut tally)
        });
        if let Err(error) = outcome {
            let report = &mut tally.report;
            match error.kind() {
                ErrorKind::ConnectionRefused => report.refused += 1,
                ErrorKind::TimedOut if plan.give_up_ms.is_some() => report.gave_up += 1,
                _ => *report.errors.entry(error.to_string()).or_default() += 1,
            }
        }
    }
}

fn exchange(
    mut stream: TcpStream,
    plan: &ClientPlan,
    reset: bool,
    tally: &mut Tally,
) -> io::Result<()> {
    let mut message = [0x5a; MESSAGE];
    stream.write_all(&message)?;
    stream.read_exact(&mut message)?;
    tally.report.exchanged += 1;
    if plan.hold {
        tally.held.push(stream);
    } else if reset {
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        tally.report.resets_sent += 1;
    }
    Ok(())
}

fn merge(tallies: Vec<Tally>, elapsed_s: f64) -> Result<(ClientReport, Vec<TcpStream>)> {
    let mut total = Tally::default();
    for tally in tallies {
        let (sum, part) = (&mut total.report, tally.report);
        sum.attempted += part.attempted;
        sum.established += part.established;
        sum.exchanged += part.exchanged;
        sum.refused += part.refused;
        sum.gave_up += part.gave_up;
        sum.resets_sent += part.resets_sent;
        for (error, count) in part.errors {
            *sum.errors.entry(error).or_default() += count;
        }
        for (cpu, count) in part.by_cpu {
            *sum.by_cpu.entry(cpu).or_default() += count;
        }
        for (second, count) in tally.by_second {
            *total.by_second.entry(second).or_default() += count;
        }
        total.connect_ns.extend(tally.connect_ns);
        total.held.extend(tally.held);
    }
    total.connect_ns.sort_unstable();
    let quantile = |q: f64| {
        let last = total.connect_ns.len().saturating_sub(1);
        let at = (last as f64 * q).round() as usize;
        f64::from(total.connect_ns.get(at).copied().unwrap_or(0)) / 1000.0
    };
    let report = ClientReport {
        elapsed_s,
        best_second: total.by_second.values().copied().max().unwrap_or(0),
        connect_p50_us: quantile(0.5),
        connect_p99_us: quantile(0.99),
        cpu_s: cpu_seconds()?,
        ..total.report
    };
    Ok((report, total.held))
}

/// What this process spent on CPUs so far.
fn cpu_seconds() -> Result<f64> {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF)?;
    let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}
