//! The probe's counts against the wire: every SYN, SYN-ACK and RST that the referee saw is counted,
//! none twice, at thousands of connections per second on every CPU, whoever else is killed or
//! attached meanwhile.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use probe_common::maps::SOCKET_TABLE;
use probe_common::{Counter, Direction, GlobalCounter, HistogramKind};
use tests::agent::{Loaded, metric};
use tests::foreign::Foreign;
use tests::netns::skip;
use tests::probe::{Probe, Sum, missing, remote_name};
use tests::referee::{Capture, Referee, Totals};
use tests::rig::{CLOSED_PORT, Rig};
use tests::storm::{ClientPlan, ClientReport, MESSAGE};

const REMOTES: u8 = 3;
/// Connections per second that a round must reach in its best second.
const RATE: u64 = 5_000;
const ROUNDS: u32 = 5;

/// Expected and counted, by name, so that a failure shows every difference at once.
#[derive(Default)]
struct Ledger(Vec<(String, u64, u64)>);

impl Ledger {
    fn check(&mut self, name: impl Into<String>, wire: u64, counted: u64) {
        self.0.push((name.into(), wire, counted));
    }

    fn close(self, context: &str) -> Result<()> {
        let wrong: Vec<String> = self
            .0
            .iter()
            .filter(|(_, wire, counted)| wire != counted)
            .map(|(name, wire, counted)| format!("{name}: wire {wire}, probe {counted}"))
            .collect();
        ensure!(wrong.is_empty(), "{}\n{context}", wrong.join("\n"));
        Ok(())
    }
}

fn storm_plan(rig: &Rig, connections: u64) -> ClientPlan {
    let mut plan = ClientPlan::new(rig.targets(7000), connections);
    plan.refuse_every = Some(10);
    plan.reset_every = Some(7);
    plan.closed = rig.targets(CLOSED_PORT);
    plan
}

/// What must hold between the wire and the counts, whatever became of the callback flags later.
fn check_openings(ledger: &mut Ledger, wire: &Totals, initiator: &Sum, acceptor: &Sum) {
    use Counter::{Attempts, Established, FailedRefused, SynRetransmits};
    let syn = initiator.count(Attempts) + initiator.count(SynRetransmits);
    let syn_ack = acceptor.count(Established) + acceptor.count(SynRetransmits);
    ledger.check("SYN", wire.syn_segments, syn);
    ledger.check("SYN-ACK", wire.syn_ack_segments, syn_ack);
    ledger.check("attempts", wire.attempts, initiator.count(Attempts));
    ledger.check(
        "established (initiator)",
        wire.answered,
        initiator.count(Established),
    );
    ledger.check(
        "established (acceptor)",
        wire.answered,
        acceptor.count(Established),
    );
    ledger.check("refused", wire.refused, initiator.count(FailedRefused));
    for counter in [
        Counter::FailedTimeout,
        Counter::FailedAborted,
        Counter::FailedIcmp,
        Counter::FailedLocal,
        Counter::FailedUnknown,
    ] {
        for sum in [initiator, acceptor] {
            ledger.check(counter.name(), 0, sum.count(counter));
        }
    }
}

/// What needs the callback flags until the end of the connection.
fn check_endings(
    ledger: &mut Ledger,
    wire: &Totals,
    client: &ClientReport,
    initiator: &Sum,
    acceptor: &Sum,
) {
    let rst = initiator.count(Counter::FailedRefused)
        + initiator.count(Counter::ResetLocal)
        + acceptor.count(Counter::ResetLocal);
    ledger.check("RST", wire.rst_segments, rst);
    ledger.check(
        "resets by the client, its side",
        wire.reset_by_client,
        initiator.count(Counter::ResetLocal),
    );
    ledger.check(
        "resets by the client, the server's side",
        wire.reset_by_client,
        acceptor.count(Counter::ResetPeer),
    );
    ledger.check(
        "resets by the server",
        wire.reset_by_server,
        acceptor.count(Counter::ResetLocal),
    );
    for sum in [initiator, acceptor] {
        ledger.check("closed", wire.answered, sum.count(Counter::Closed));
        ledger.check("open", 0, sum.open());
        ledger.check("adopted", 0, sum.count(Counter::Adopted));
    }
    let bytes = client.exchanged * MESSAGE as u64;
    ledger.check("bytes sent", bytes, initiator.count(Counter::BytesSent));
    ledger.check(
        "bytes received",
        bytes,
        initiator.count(Counter::BytesReceived),
    );
    ledger.check(
        "bytes received (server)",
        bytes,
        acceptor.count(Counter::BytesReceived),
    );
    let connects = initiator.samples(HistogramKind::Connect);
    ledger.check("connect samples", wire.answered, connects);
    let handshakes = initiator.samples(HistogramKind::Handshake);
    let clean = wire.answered - initiator.count(Counter::EstablishedAfterRetransmit);
    ledger.check("handshake samples", clean, handshakes);
}

fn check_remotes(ledger: &mut Ledger, capture: &Capture, probe: &Probe) -> Result<()> {
    let mut by_remote: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for attempt in capture.attempts() {
        let index = (1..=REMOTES)
            .find(|i| {
                let (v4, v6) = Rig::addresses(*i);
                [IpAddr::from(v4), v6.into()].contains(&attempt.server.ip())
            })
            .context("a server that is no remote")?;
        let (attempts, answered) = by_remote.entry(remote_name(index)).or_default();
        *attempts += 1;
        *answered += u64::from(attempt.syn_ack_ns.is_some());
    }
    let mut seen = vec![remote_name(0)];
    for (name, (attempts, answered)) in by_remote {
        let sum = probe.sum(Direction::Initiator, Some(&name))?;
        ledger.check(
            format!("attempts to {name}"),
            attempts,
            sum.count(Counter::Attempts),
        );
        ledger.check(
            format!("established to {name}"),
            answered,
            sum.count(Counter::Established),
        );
        seen.push(name);
    }
    let near = probe.sum(Direction::Acceptor, Some(&remote_name(0)))?;
    ledger.check(
        "accepted from near",
        capture.totals().answered,
        near.count(Counter::Established),
    );
    seen.sort();
    ensure!(
        probe.remotes_seen()? == seen,
        "remotes {:?}",
        probe.remotes_seen()?
    );
    Ok(())
}

/// Kills and restarts the agent, over and over, until told to stop.
fn kill_agents(loaded: &Loaded, rig: &Rig, stop: &AtomicBool) -> Result<u32> {
    let mut killed = 0;
    while !stop.load(Ordering::Relaxed) {
        let agent = loaded.run(&rig.client)?;
        // Ready and read from, so that no kill comes before there is anything to lose.
        agent.metrics(&rig.client)?;
        agent.kill()?;
        killed += 1;
    }
    Ok(killed)
}

/// What the last agent exports is what the wire saw, however many agents died before it.
fn check_metrics(ledger: &mut Ledger, wire: &Totals, exposition: &str) -> Result<()> {
    for (sample, label, expected) in [
        (
            "aggrik8s_tcp_connects_total",
            "outcome=\"established\"",
            wire.answered,
        ),
        (
            "aggrik8s_tcp_connects_total",
            "outcome=\"refused\"",
            wire.refused,
        ),
        (
            "aggrik8s_tcp_accepts_total",
            "target_cluster=\"near\"",
            wire.answered,
        ),
        (
            "aggrik8s_tcp_resets_total",
            "by=\"local\"",
            wire.reset_by_client,
        ),
        (
            "aggrik8s_tcp_resets_total",
            "by=\"peer\"",
            wire.reset_by_client,
        ),
    ] {
        let labels = ["origin=\"traffic\"", label];
        ledger.check(
            format!("/metrics: {sample}{{{label}}}"),
            expected,
            metric(exposition, sample, &labels)?,
        );
    }
    Ok(())
}

#[test]
fn counts_equal_the_wire_while_agents_are_killed() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let mut best = 0;
    for _ in 0..ROUNDS {
        let rig = Rig::new("exact", REMOTES)?;
        let loaded = Loaded::load(&rig)?;
        // The first agent declares the networks; from then on none is needed.
        loaded.run(&rig.client)?.kill()?;
        let probe = Probe::open(loaded.pins())?;
        let referee = Referee::start(&rig.client, "eth0")?;
        let stop = AtomicBool::new(false);
        let (storm, killed) = thread::scope(|scope| {
            let killer = scope.spawn(|| kill_agents(&loaded, &rig, &stop));
            let storm = rig.storm(&storm_plan(&rig, 30_000));
            stop.store(true, Ordering::Relaxed);
            (storm, killer.join())
        });
        let (client, server) = storm?;
        let killed = killed.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        probe.settle()?;
        let capture = referee.stop()?;
        capture.ensure_complete()?;
        let wire = capture.totals();

        let (initiator, acceptor) = both(&probe)?;
        let context =
            format!("{wire:?}\n{client:?}\n{server:?}\ninitiator {initiator}\nacceptor {acceptor}");
        let mut ledger = Ledger::default();
        check_openings(&mut ledger, &wire, &initiator, &acceptor);
        check_endings(&mut ledger, &wire, &client, &initiator, &acceptor);
        check_remotes(&mut ledger, &capture, &probe)?;
        let agent = loaded.run(&rig.client)?;
        check_metrics(&mut ledger, &wire, &agent.metrics(&rig.client)?)?;
        ledger.check("attempted by the client", client.attempted, wire.attempts);
        ledger.close(&context)?;
        ensure!(probe.losses()?.is_empty(), "lost: {:?}", probe.losses()?);
        ensure!(probe.entries_taken()? == 0, "entries stay taken: {context}");
        ensure!(client.errors.is_empty(), "{context}");
        ensure!(killed > 0, "no agent was killed");
        ensure!(client.by_cpu.values().filter(|n| **n > 0).count() == client.by_cpu.len());
        best = best.max(client.best_second);
        if best >= RATE && client.by_cpu.len() > 1 {
            report(&format!(
                "{} connections, best second {best}/s, CPUs {:?}, {killed} agents killed, referee dropped 0",
                client.attempted, client.by_cpu
            ));
            return Ok(());
        }
    }
    bail!(
        "every count was exact, but no round reached {RATE} connections in a second (best {best}) on two CPUs"
    )
}

/// Where the other owner's program sits. The last one that runs decides about the flags, and
/// programs of a child run before those of its parent.
#[derive(Clone, Copy, Debug)]
enum Other {
    SameCgroupLater,
    Parent,
    Child,
}

#[test]
fn flags_overwritten_by_another_owner_are_counted() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    for other in [Other::SameCgroupLater, Other::Parent, Other::Child] {
        let (_rig, wire, client, probe) = storm_beside(other, true, 10_000)?;
        let (initiator, acceptor) = both(&probe)?;
        let mut ledger = Ledger::default();
        check_openings(&mut ledger, &wire, &initiator, &acceptor);
        let lost = probe.maps.counter(GlobalCounter::FlagsLost)?;
        if matches!(other, Other::Child) {
            // We run after it and ask again: its harm is seen once, at the initiator, and undone.
            ledger.check("flags lost", wire.answered, lost);
            check_endings(&mut ledger, &wire, &client, &initiator, &acceptor);
        } else {
            // Both ends of every established connection lose their flags, and nothing else does.
            ledger.check("flags lost", 2 * wire.answered, lost);
            // Without callbacks the release hook and the packets still tell every end, and our own resets.
            for sum in [&initiator, &acceptor] {
                ledger.check("closed", wire.answered, sum.count(Counter::Closed));
            }
            ledger.check(
                "RST sent",
                wire.reset_by_client,
                initiator.count(Counter::ResetLocal),
            );
            // What cannot be counted any more, and is what `flags_lost` warns of.
            ledger.check("RST received", 0, acceptor.count(Counter::ResetPeer));
            ledger.check(
                "round trips",
                0,
                initiator.samples(HistogramKind::AckLatency),
            );
        }
        ledger.check("entries still taken", 0, probe.entries_taken()?);
        ledger.close(&format!(
            "{other:?}\n{wire:?}\ninitiator {initiator}\nacceptor {acceptor}"
        ))?;
        report(&format!(
            "{other:?}: {lost} flags lost and counted; acceptor {acceptor}"
        ));
    }
    Ok(())
}

#[test]
fn without_egress_lost_flags_are_counted_at_the_release_or_when_the_entry_is_wanted() -> Result<()>
{
    if skip(missing())? {
        return Ok(());
    }
    // Few enough to have an entry of the table each, on a machine with few CPUs.
    let (rig, wire, _, probe) = storm_beside(Other::SameCgroupLater, false, 3_000)?;
    let (initiator, acceptor) = both(&probe)?;
    let mut ledger = Ledger::default();
    check_openings(&mut ledger, &wire, &initiator, &acceptor);
    // The server learns of the client's end before it releases its socket: a change that nobody
    // reported. A client that closes first sees no such change.
    ledger.check(
        "closed (acceptor)",
        wire.answered,
        acceptor.count(Counter::Closed),
    );
    let lost = probe.maps.counter(GlobalCounter::FlagsLost)?;
    let given_up = initiator.count(Counter::Closed);
    ledger.check("flags lost", wire.answered + given_up, lost);
    ledger.close(&format!(
        "{wire:?}\ninitiator {initiator}\nacceptor {acceptor}"
    ))?;

    // Its entry tells when another connection wants it; those that never had one are lost for good.
    let elsewhere = probe.maps.counter(GlobalCounter::TableTaken)?;
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut others = 0;
    let open = loop {
        let (client, _) = rig.storm(&ClientPlan::new(rig.targets(7000), 9_000))?;
        others += client.established;
        let (initiator, acceptor) = both(&probe)?;
        // The last ends of this storm may still be on their way.
        if acceptor.open() == 0 && initiator.open() <= elsewhere {
            break initiator.open();
        }
        ensure!(
            Instant::now() < deadline,
            "{elsewhere} elsewhere\ninitiator {initiator}\nacceptor {acceptor}"
        );
    };
    let (initiator, acceptor) = both(&probe)?;
    let mut ledger = Ledger::default();
    let lost = probe.maps.counter(GlobalCounter::FlagsLost)?;
    ledger.check("flags lost in the end", 2 * wire.answered - open, lost);
    let unknown = probe.maps.counter(GlobalCounter::BytesUnknown)?;
    ledger.check("ends with unknown bytes", lost, unknown);
    for sum in [&initiator, &acceptor] {
        let all = wire.answered + others;
        ledger.check("established", all, sum.count(Counter::Established));
    }
    ledger.check("entries still taken", 0, probe.entries_taken()?);
    ledger.close(&format!("initiator {initiator}\nacceptor {acceptor}"))?;
    report(&format!(
        "{lost} of {} lost flags were counted",
        2 * wire.answered
    ));
    Ok(())
}

/// The agent's own part: `egress` rests when nothing needs it, and watches again once flags are lost.
#[test]
fn lost_flags_wake_egress() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let rig = Rig::new("wake", 1)?;
    let loaded = Loaded::load(&rig)?;
    let agent = loaded.run_with(&rig.client, &["--egress-quiet", "4s"])?;
    let probe = Probe::open(loaded.pins())?;
    let until = |rests: bool| -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while probe.maps.egress_rests()? != rests {
            ensure!(Instant::now() < deadline, "`egress` rests: {}", !rests);
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    };
    until(true)?;
    let exposition = agent.metrics(&rig.client)?;
    ensure!(metric(&exposition, "aggrik8s_egress_resting", &[])? == 1);
    let foreign = Foreign::clears_flags(rig.cgroup.path())?;
    let storm = || rig.storm(&ClientPlan::new(rig.targets(7000), 200));
    let (before, _) = storm()?;
    until(false)?;
    // Every server told, and the clients that closed after it woke.
    let lost = probe.maps.counter(GlobalCounter::FlagsLost)?;
    ensure!(
        (before.established..=2 * before.established).contains(&lost),
        "{lost} lost flags"
    );
    // Watched again, both ends tell, also of clients that close first.
    let (after, _) = storm()?;
    let deadline = Instant::now() + Duration::from_secs(20);
    let wanted = lost + 2 * after.established;
    while probe.maps.counter(GlobalCounter::FlagsLost)? != wanted {
        let lost = probe.maps.counter(GlobalCounter::FlagsLost)?;
        ensure!(Instant::now() < deadline, "{lost} lost flags, not {wanted}");
        thread::sleep(Duration::from_millis(20));
    }
    drop(foreign);
    until(true)
}

/// A storm under the probe and under a program that overwrites the callback flags.
fn storm_beside(
    other: Other,
    egress: bool,
    connections: u64,
) -> Result<(Rig, Totals, ClientReport, Probe)> {
    let rig = Rig::new("flags", REMOTES)?;
    let (ours, theirs) = match other {
        Other::SameCgroupLater => (&rig.cgroup, &rig.cgroup),
        Other::Parent => (&rig.inner, &rig.cgroup),
        Other::Child => (&rig.cgroup, &rig.inner),
    };
    let mut probe = Probe::load(ours.path(), |options| options.old_sockets = egress)?;
    probe.declare(REMOTES)?;
    let foreign = Foreign::clears_flags(theirs.path())?;
    let referee = Referee::start(&rig.client, "eth0")?;
    let (client, _) = rig.storm(&storm_plan(&rig, connections))?;
    let capture = referee.stop()?;
    capture.ensure_complete()?;
    if egress {
        probe.settle()?;
    }
    drop(foreign);
    Ok((rig, capture.totals(), client, probe))
}

/// Connections whose entry is taken, or that have none, are counted like the others.
#[test]
fn a_table_that_is_too_small_changes_no_count() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    for states in [SOCKET_TABLE / 2, 1] {
        let rig = Rig::new("states", REMOTES)?;
        let mut probe = Probe::load(rig.cgroup.path(), |options| options.states = states)?;
        probe.declare(REMOTES)?;
        let referee = Referee::start(&rig.client, "eth0")?;
        // Every cookie of the table's length comes by.
        let (client, _) = rig.storm(&storm_plan(&rig, 12_000))?;
        probe.settle()?;
        let capture = referee.stop()?;
        capture.ensure_complete()?;
        let wire = capture.totals();
        let (initiator, acceptor) = both(&probe)?;
        let mut ledger = Ledger::default();
        check_openings(&mut ledger, &wire, &initiator, &acceptor);
        check_endings(&mut ledger, &wire, &client, &initiator, &acceptor);
        check_remotes(&mut ledger, &capture, &probe)?;
        ledger.check("entries still taken", 0, probe.entries_taken()?);
        let elsewhere = probe.maps.counter(GlobalCounter::TableTaken)?;
        ledger.close(&format!(
            "{states} entries, {elsewhere} ends went elsewhere\n{wire:?}\ninitiator {initiator}\nacceptor {acceptor}"
        ))?;
        ensure!(probe.losses()?.is_empty(), "lost: {:?}", probe.losses()?);
        let ends = wire.attempts + wire.answered;
        let range = match states {
            1 => ends - 10..=ends,
            _ => ends / 4..=ends * 3 / 4,
        };
        ensure!(
            range.contains(&elsewhere),
            "{elsewhere} of {ends} ends went to socket storage with {states} entries"
        );
        report(&format!(
            "{states} entries: {elsewhere} of {ends} ends in socket storage, every count equals the wire"
        ));
    }
    Ok(())
}

/// Sums of all series: initiators, acceptors.
fn both(probe: &Probe) -> Result<(Sum, Sum)> {
    Ok((
        probe.sum(Direction::Initiator, None)?,
        probe.sum(Direction::Acceptor, None)?,
    ))
}

#[test]
fn produced_events_are_delivered_or_counted_as_lost() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let rig = Rig::new("ring", 1)?;
    let mut losses = Vec::new();
    // Pauses of the reader after each event, µs: none, some, and so long that nearly all is lost.
    for pause_us in [0, 100, 20_000] {
        let mut probe = Probe::load(rig.cgroup.path(), |options| {
            options.ring_bytes = 4096;
            options.events_per_second = u32::MAX;
            options.outlier_connect_ns = 1;
        })?;
        probe.declare(1)?;
        let mut events = probe.maps.events()?;
        let stop = AtomicBool::new(false);
        // Three rounds within one TIME_WAIT must fit into the ephemeral ports of the targets.
        let plan = ClientPlan::new(rig.targets(7000), 8_000);
        let (storm, delivered) = thread::scope(|scope| {
            let stop = &stop;
            let reader = scope.spawn(move || {
                let mut delivered = 0_u64;
                loop {
                    let ending = stop.load(Ordering::Acquire);
                    match events.try_next() {
                        Some(_) => {
                            delivered += 1;
                            if pause_us > 0 && !ending {
                                thread::sleep(Duration::from_micros(pause_us));
                            }
                        }
                        // Only what was empty after the last event was written is empty for good.
                        None if ending => return (delivered, events.decode_errors()),
                        None => thread::sleep(Duration::from_micros(50)),
                    }
                }
            });
            let storm = rig.storm(&plan);
            let settled = probe.settle();
            stop.store(true, Ordering::Release);
            (storm.and_then(|s| settled.map(|()| s)), reader.join())
        });
        let (client, _) = storm?;
        let (delivered, undecodable) =
            delivered.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let produced = probe.maps.counter(GlobalCounter::EventsProduced)?;
        let lost = probe.maps.counter(GlobalCounter::EventsLost)?;
        let suppressed = probe.maps.counter(GlobalCounter::EventsSuppressed)?;
        let mut ledger = Ledger::default();
        ledger.check("produced", client.established, produced);
        ledger.check("delivered + lost", produced, delivered + lost);
        ledger.check("suppressed", 0, suppressed);
        ledger.check("undecodable", 0, undecodable);
        ledger.close(&format!("{client:?}"))?;
        report(&format!(
            "pause {pause_us} µs: produced {produced}, delivered {delivered}, lost {lost}"
        ));
        losses.push(lost as f64 / produced as f64);
    }
    ensure!(losses[2] > 0.5, "the ring was never overloaded: {losses:?}");
    Ok(())
}

#[allow(
    clippy::print_stderr,
    reason = "figures of a test, shown with --nocapture"
)]
fn report(text: &str) {
    eprintln!("{text}");
}
