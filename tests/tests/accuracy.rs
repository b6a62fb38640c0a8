//! The kernel probe's connect latency and handshake RTT, connection by connection, against the kernel's packet stamps
//! of SYN and SYN-ACK at the client's veth: through the line at several delays, with a bimodal jitter, and with servers
//! that think. What crossed the line while it was starved is void, and counted.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::line::stats::Starved;
use probe_common::histogram::{Histogram, edge_ticks, index, midpoint_seconds, ticks_seconds};
use probe_common::{Direction, Event, GlobalCounter, HistogramKind, Origin, Outcome, RemoteId};
use probe_user::sys::maps::from_address;
use socket2::{Domain, Socket, Type};
use tests::cgroup::{Cgroup, join, mount};
use tests::line_rig::{LineRig, Quantiles, realtime_offset, starved_between};
use tests::netns::skip;
use tests::probe::{Probe, missing};
use tests::referee::{Attempt, Referee};

/// Beyond one bucket.
const ALLOWANCE_NS: u64 = 50_000;
const STEADY_US: f64 = 100.0;
/// Of the connections that are not void.
const SHARE: f64 = 0.99;
const CLIENTS: u16 = 4;
const FIRST_PORT: u16 = *mesh::PROBE_SOURCE_PORTS.start();

struct Condition {
    name: &'static str,
    out: &'static [&'static str],
    back: &'static [&'static str],
    connections: u16,
    /// What the server waits before an answer.
    think: Duration,
    /// Without any delay the figures are shown only: interrupts between the probe's hook and the wire weigh too much.
    judged: bool,
}

const CONDITIONS: [Condition; 8] = [
    plain("no delay", &[], &[], 400),
    plain("1 ms each way", &["delay=1ms"], &["delay=1ms"], 400),
    plain("5 ms each way", &["delay=5ms"], &["delay=5ms"], 400),
    plain("20 ms each way", &["delay=20ms"], &["delay=20ms"], 300),
    plain("80 ms each way", &["delay=80ms"], &["delay=80ms"], 200),
    plain(
        "2 ms, 30 % of packets 20 ms more",
        &["delay=2ms", "jitter=bimodal:20ms:30%"],
        &["delay=2ms"],
        300,
    ),
    thinking("2 ms each way, server thinks 15 ms", 15),
    thinking("2 ms each way, server thinks 60 ms", 60),
];

const fn plain(
    name: &'static str,
    out: &'static [&'static str],
    back: &'static [&'static str],
    connections: u16,
) -> Condition {
    Condition {
        name,
        out,
        back,
        connections,
        think: Duration::ZERO,
        judged: !out.is_empty(),
    }
}

const fn thinking(name: &'static str, think_ms: u64) -> Condition {
    let delay: &[&str] = &["delay=2ms"];
    Condition {
        name,
        out: delay,
        back: delay,
        connections: 200,
        think: Duration::from_millis(think_ms),
        judged: true,
    }
}

/// One connection as both saw it.
struct Pair {
    wire_ns: u64,
    connect_ns: u64,
    handshake_ns: u64,
}

/// A file in the cgroup for the life of the test, so that its sockets belong to it.
struct Inside {
    _cgroup: Cgroup,
    home: PathBuf,
}

impl Inside {
    fn enter() -> Result<Self> {
        let own = std::fs::read_to_string("/proc/self/cgroup")?;
        let home = own
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .context("no cgroup v2")?;
        let home = mount()?.join(home);
        let cgroup = Cgroup::create("accuracy")?;
        cgroup.add(std::process::id())?;
        Ok(Self {
            _cgroup: cgroup,
            home,
        })
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if let Err(error) = join(&self.home, std::process::id()) {
            tracing::warn!(%error, "still in the test's cgroup");
        }
    }
}

#[allow(
    clippy::print_stdout,
    reason = "the figures are what this test is read for"
)]
fn say(text: &str) {
    println!("{text}");
}

#[test]
fn per_connection_times_agree_with_the_wire() -> Result<()> {
    if skip(missing().or_else(tests::line_rig::missing))? {
        return Ok(());
    }
    // The line's process is started first: it stays outside the cgroup.
    let mut rig = LineRig::new(|_| {})?;
    let inside = Inside::enter()?;
    let mut probe = Probe::load(inside._cgroup.path(), |options| {
        options.ring_bytes = 8 << 20
    })?;
    declare(&mut probe)?;
    // Neighbours are resolved before anything is timed.
    for ipv6 in [false, true] {
        let listener = rig
            .server
            .run(|| TcpListener::bind(rig.server_at(ipv6, 0)))??;
        let address = listener.local_addr()?;
        rig.client.run(|| std::net::TcpStream::connect(address))??;
    }
    let mut failures = Vec::new();
    let mut next_port = 0;
    for condition in &CONDITIONS {
        rig.clear()?;
        for (index, rule) in condition.out.iter().enumerate() {
            rig.set_out(&format!("out-{index}"), rule)?;
        }
        for (index, rule) in condition.back.iter().enumerate() {
            rig.set_back(&format!("back-{index}"), rule)?;
        }
        for ipv6 in [false, true] {
            if let Err(error) = check(&mut rig, &probe, condition, ipv6, next_port) {
                failures.push(format!("{} (IPv6: {ipv6}): {error:#}", condition.name));
            }
        }
        next_port += condition.connections;
    }
    rig.ensure_sound()?;
    drop(probe);
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

fn declare(probe: &mut Probe) -> Result<()> {
    let names = probe.maps.remotes().assign(["near", "far"])?;
    let id = |name: &str| RemoteId(names[name]);
    let prefixes = [
        ("10.71.0.0/24", "near"),
        ("fd71::/64", "near"),
        ("10.72.0.0/24", "far"),
        ("fd72::/64", "far"),
    ];
    let prefixes: Vec<_> = prefixes
        .iter()
        .map(|(net, name)| Ok((net.parse()?, id(name))))
        .collect::<Result<_>>()?;
    probe.maps.set_prefixes(&prefixes)?;
    Ok(())
}

/// Histograms of our own probe connections as initiator.
fn histogram(probe: &Probe, kind: HistogramKind) -> Result<Histogram> {
    let mut sum = Histogram::EMPTY;
    for (key, data) in probe.maps.series()? {
        if key.direction() == Direction::Initiator && key.origin().is_ours() {
            sum.merge(data.histogram(kind));
        }
    }
    Ok(sum)
}

fn added(before: &Histogram, after: &Histogram) -> Vec<(usize, u64)> {
    let grown = after
        .buckets
        .iter()
        .zip(&before.buckets)
        .map(|(after, before)| after - before);
    grown.enumerate().filter(|(_, count)| *count > 0).collect()
}

fn check(
    rig: &mut LineRig,
    probe: &Probe,
    condition: &Condition,
    ipv6: bool,
    first: u16,
) -> Result<()> {
    let before = [
        HistogramKind::Connect,
        HistogramKind::Handshake,
        HistogramKind::AckLatency,
    ]
    .map(|kind| histogram(probe, kind));
    let (attempts, starved, offset, events) = measure(rig, probe, condition, ipv6, first)?;
    let after = [
        HistogramKind::Connect,
        HistogramKind::Handshake,
        HistogramKind::AckLatency,
    ]
    .map(|kind| histogram(probe, kind));
    let [connect, handshake, ack] = {
        let mut grown = before
            .into_iter()
            .zip(after)
            .map(|(before, after)| Ok(added(&before?, &after?)));
        [grown.next(), grown.next(), grown.next()]
            .map(|grown: Option<Result<Vec<(usize, u64)>>>| grown.unwrap_or(Ok(Vec::new())))
    };

    let mut pairs = Vec::new();
    let mut void = 0;
    for attempt in &attempts {
        let event = events
            .get(&(attempt.client, attempt.server))
            .with_context(|| format!("no record of {} -> {}", attempt.client, attempt.server))?;
        let answer = attempt.syn_ack_ns.context("connected without a SYN-ACK")?;
        ensure!(
            u32::from(event.syn_retransmits) == attempt.syns - 1,
            "{} SYNs, record {event:?}",
            attempt.syns
        );
        if attempt.syns > 1 || starved_between(&starved, offset, attempt.syn_ns, answer) {
            void += 1;
            continue;
        }
        pairs.push(Pair {
            wire_ns: answer - attempt.syn_ns,
            connect_ns: event.connect_ns,
            handshake_ns: u64::from(event.handshake_rtt_us) * 1000,
        });
    }

    // The histograms are the records, added up.
    let mut expected = Histogram::EMPTY;
    for event in events.values() {
        expected.record(event.connect_ns);
    }
    ensure!(
        connect? == added(&Histogram::EMPTY, &expected),
        "the connect histogram is not that of the records"
    );
    let handshakes: u64 = handshake?.iter().map(|(_, count)| count).sum();
    let clean = events
        .values()
        .filter(|event| event.syn_retransmits == 0)
        .count() as u64;
    ensure!(
        handshakes == clean,
        "{handshakes} handshake samples of {clean} connections"
    );

    let connect = judge(&pairs, |pair| pair.connect_ns);
    let handshake = judge(&pairs, |pair| pair.handshake_ns);
    say(&format!(
        "{:<36} {}: {:>3} connections, {void:>2} void; wire {}\n    connect   {connect}\n    handshake {handshake}",
        condition.name,
        if ipv6 { "IPv6" } else { "IPv4" },
        pairs.len(),
        Quantiles::of(pairs.iter().map(|pair| pair.wire_ns as f64 / 1e3).collect())
            .context("all void")?,
    ));
    ensure!(
        pairs.len() * 2 >= attempts.len(),
        "{void} of {} connections are void",
        attempts.len()
    );
    if !condition.judged {
        return Ok(());
    }
    // A bucket is 6 ms wide at 160 ms; a steady error would hide in it.
    for judged in [&connect, &handshake] {
        ensure!(
            judged.errors.p50 <= STEADY_US,
            "half of the connections differ: {judged}"
        );
    }
    ensure!(connect.share >= SHARE, "connect latency: {connect}");
    ensure!(handshake.share >= SHARE, "handshake RTT: {handshake}");
    if !condition.think.is_zero() {
        // The raw samples contain the server's delayed ACKs, at most 40 ms; the handshake's must not.
        let late = condition.think.min(Duration::from_millis(38)).as_secs_f64();
        let ack = ack?;
        let slow: u64 = ack
            .iter()
            .filter(|(bucket, _)| midpoint_seconds(*bucket) > late)
            .map(|(_, count)| count)
            .sum();
        ensure!(
            slow >= u64::from(condition.connections),
            "only {slow} ACK samples contain the server's thinking"
        );
    }
    Ok(())
}

struct Judged {
    share: f64,
    errors: Quantiles,
}

impl std::fmt::Display for Judged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.2} % within a bucket + 50 µs; |difference| {}",
            self.share * 100.0,
            self.errors
        )
    }
}

fn judge(pairs: &[Pair], of: impl Fn(&Pair) -> u64) -> Judged {
    let within = pairs
        .iter()
        .filter(|pair| of(pair).abs_diff(pair.wire_ns) <= bucket_ns(pair.wire_ns) + ALLOWANCE_NS);
    let share = within.count() as f64 / pairs.len().max(1) as f64;
    let errors = pairs
        .iter()
        .map(|pair| of(pair).abs_diff(pair.wire_ns) as f64 / 1e3)
        .collect();
    Judged {
        share,
        errors: Quantiles::of(errors).unwrap_or(Quantiles {
            count: 0,
            min: 0.0,
            p50: 0.0,
            p99: 0.0,
            max: 0.0,
        }),
    }
}

/// Width of the bucket that holds a sample.
fn bucket_ns(ns: u64) -> u64 {
    let bucket = index(ns);
    (ticks_seconds(edge_ticks(bucket + 1) - edge_ticks(bucket)) * 1e9) as u64
}

type Events = HashMap<(SocketAddr, SocketAddr), Event>;

/// Makes the connections, seen by referee and probe.
fn measure(
    rig: &mut LineRig,
    probe: &Probe,
    condition: &Condition,
    ipv6: bool,
    first: u16,
) -> Result<(Vec<Attempt>, Starved, i64, Events)> {
    let server = rig
        .server
        .run(|| TcpListener::bind(rig.server_at(ipv6, 0)))??;
    let address = server.local_addr()?;
    let client = rig.client_address(ipv6);
    let referee = Referee::start(&rig.client, "eth0")?;
    let stop = AtomicBool::new(false);
    let mut reader = probe.maps.events()?;
    std::thread::scope(|scope| -> Result<()> {
        let serving = scope.spawn(|| serve(&server, condition.think, &stop));
        let connecting = rig.client.run(|| {
            std::thread::scope(|scope| {
                // Threads start in the namespace of the one that starts them.
                let clients: Vec<_> = (0..CLIENTS)
                    .map(|number| {
                        let ports = (first..first + condition.connections)
                            .filter(move |port| port % CLIENTS == number);
                        scope.spawn(move || {
                            ports
                                .map(|port| {
                                    connect(client, FIRST_PORT + port, address, condition.think)
                                })
                                .collect::<Result<Vec<()>>>()
                        })
                    })
                    .collect();
                clients.into_iter().try_for_each(|client| {
                    client
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                        .map(drop)
                })
            })
        });
        stop.store(true, Ordering::Relaxed);
        serving
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        connecting?
    })?;
    let offset = realtime_offset()?;
    let capture = referee.stop()?;
    capture.ensure_complete()?;
    let attempts = capture.attempts();
    ensure!(
        attempts.len() == usize::from(condition.connections),
        "{} attempts seen",
        attempts.len()
    );

    let mut events = Events::new();
    let deadline = Instant::now() + Duration::from_secs(5);
    while events.len() < attempts.len() {
        ensure!(
            Instant::now() < deadline,
            "{} records of {} connections",
            events.len(),
            attempts.len()
        );
        let Some(event) = reader.try_next() else {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        let ours =
            event.direction == Direction::Initiator as u8 && event.origin != Origin::Traffic as u8;
        if ours && event.outcome() == Some(Outcome::Established) {
            let local = SocketAddr::new(from_address(event.local), event.local_port);
            let remote = SocketAddr::new(from_address(event.remote), event.remote_port);
            ensure!(
                events.insert((local, remote), event).is_none(),
                "two records of {local} -> {remote}"
            );
        }
    }
    let lost = probe.maps.counter(GlobalCounter::EventsLost)?;
    ensure!(lost == 0, "{lost} records were lost");
    Ok((attempts, rig.stats()?.starved, offset, events))
}

/// Answered at once, so that the server's kernel takes the connection for interactive and delays its ACKs.
const QUICK: usize = 4;
const THOUGHT_OVER: usize = 2;

fn connect(client: IpAddr, port: u16, server: SocketAddr, think: Duration) -> Result<()> {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    // Where a probe closes with a reset, no port waits.
    socket.set_linger(Some(Duration::ZERO))?;
    socket
        .bind(&SocketAddr::new(client, port).into())
        .with_context(|| format!("bind {port}"))?;
    socket.connect(&server.into())?;
    let mut stream = std::net::TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let exchanges = if think.is_zero() {
        1
    } else {
        QUICK + THOUGHT_OVER
    };
    for _ in 0..exchanges {
        stream.write_all(b"question")?;
        stream.read_exact(&mut [0; 6])?;
    }
    Ok(())
}

fn serve(listener: &TcpListener, think: Duration, stop: &AtomicBool) -> Result<()> {
    listener.set_nonblocking(true)?;
    std::thread::scope(|scope| {
        while !stop.load(Ordering::Relaxed) {
            let Ok((mut stream, _)) = listener.accept() else {
                std::thread::sleep(Duration::from_micros(200));
                continue;
            };
            scope.spawn(move || {
                // Ends with the client's reset.
                let _ = stream.set_nonblocking(false);
                let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
                for exchange in 0.. {
                    if stream.read_exact(&mut [0; 8]).is_err() {
                        break;
                    }
                    if exchange >= QUICK {
                        std::thread::sleep(think);
                    }
                    if stream.write_all(b"answer").is_err() {
                        break;
                    }
                }
            });
        }
    });
    Ok(())
}
