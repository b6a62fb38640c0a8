//! Connections that do not come about, each for its own reason.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use probe_common::{Counter, Direction, GlobalCounter, HistogramKind, Origin, Outcome};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Place, Stage, wire};

/// Every reason, a known number of times, and one connect that needs a second SYN.
pub(super) fn every_reason(place: &Place) -> Result<()> {
    let mut stage = Stage::new(place, "fail")?;
    let deaf = wire::listen4()?;
    wire::deafen(&deaf)?;
    let silent = deaf.local_addr()?;

    // The slow ones begin first and fail while the others are tried.
    let timeouts = [wire::begin(silent)?, wire::begin(silent)?];

    let refused: SocketAddr = ([127, 0, 0, 1], 1).into();
    for _ in 0..3 {
        ensure!(
            connect_error(refused)? == Some(libc::ECONNREFUSED),
            "not refused"
        );
    }

    for _ in 0..4 {
        let socket = wire::begin(silent)?;
        thread::sleep(Duration::from_millis(20));
        drop(socket);
    }

    // A port of its own: no SYN that the slow ones send again is answered by mistake.
    let beyond = wire::listen4()?;
    wire::deafen(&beyond)?;
    let beyond = beyond.local_addr()?;
    let router = wire::Router::new()?;
    for _ in 0..2 {
        let socket = wire::begin(beyond)?;
        router.refuse_next_syn(beyond.port())?;
        let error = wire::wait_for_error(&socket)?;
        ensure!(
            error.raw_os_error() == Some(libc::EHOSTUNREACH),
            "ICMP gave {error}"
        );
    }

    for address in ["192.0.2.1:9", "[2001:db8::1]:9", "192.0.2.1:9"] {
        ensure!(
            connect_error(address.parse()?)? == Some(libc::ENETUNREACH),
            "{address} had a route"
        );
    }
    // The same socket may try again: each try counts.
    let again = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    for _ in 0..2 {
        ensure!(
            again
                .connect(&SocketAddr::from(([192, 0, 2, 1], 9)).into())
                .is_err(),
            "connected to nowhere"
        );
    }
    drop(again);

    let late = wire::listen4()?;
    wire::deafen(&late)?;
    let second_syn = wire::begin(late.local_addr()?)?;
    thread::sleep(Duration::from_millis(50));
    wire::undeafen(&late)?;
    let accepted = late.accept()?;
    for socket in &timeouts {
        let error = wire::wait_for_error(socket)?;
        ensure!(
            error.raw_os_error() == Some(libc::ETIMEDOUT),
            "silence gave {error}"
        );
    }
    drop((second_syn, accepted, timeouts));

    stage.expect(
        Direction::Initiator,
        Origin::Traffic,
        &[
            (Counter::Attempts, 12),
            (Counter::Established, 1),
            (Counter::EstablishedAfterRetransmit, 1),
            (Counter::SynRetransmits, retransmits(&stage)?),
            (Counter::FailedRefused, 3),
            (Counter::FailedTimeout, 2),
            (Counter::FailedAborted, 4),
            (Counter::FailedIcmp, 2),
            (Counter::FailedLocal, 5),
            (Counter::Closed, 1),
        ],
    )?;
    let sum = stage.sum(Direction::Initiator, Origin::Traffic)?;
    ensure!(
        sum.histogram(HistogramKind::Connect).count() == 1
            && sum.histogram(HistogramKind::Connect).sum_ns > 900_000_000,
        "the connect with a second SYN must take a second"
    );
    ensure!(
        sum.histogram(HistogramKind::Handshake).count() == 0,
        "a handshake RTT of a retransmitted SYN"
    );
    records(&mut stage)?;
    stage.nothing_lost()
}

/// Each of the three silent attempts sends its SYN again: once, or more on kernels whose first
/// timeouts are linear (6.5 and later, `tcp_syn_linear_timeouts`).
fn retransmits(stage: &Stage) -> Result<u64> {
    let count = stage
        .sum(Direction::Initiator, Origin::Traffic)?
        .counter(Counter::SynRetransmits);
    ensure!((3..=15).contains(&count), "{count} SYN retransmits");
    Ok(count)
}

fn records(stage: &mut Stage) -> Result<()> {
    // 3 refused, 4 aborted, 2 ICMP, 5 local, 2 timeouts, and 1 slow connect above the outlier limit.
    let slow = stage.probe.maps.config()?.outlier_connect_ns < 1_000_000_001;
    let expected = [
        (Outcome::Refused, 3),
        (Outcome::AbortedByApplication, 4),
        (Outcome::IcmpError, 2),
        (Outcome::Local, 5),
        (Outcome::Timeout, 2),
        (Outcome::SlowConnect, usize::from(slow)),
    ];
    let total = expected.iter().map(|(_, count)| count).sum();
    let events = stage.events(total)?;
    for (outcome, count) in expected {
        let seen = events
            .iter()
            .filter(|event| event.outcome() == Some(outcome))
            .count();
        ensure!(
            seen == count,
            "{seen} records of {outcome:?} instead of {count}"
        );
    }
    for event in &events {
        if event.outcome() == Some(Outcome::AbortedByApplication)
            && (event.local_port == 0 || event.connect_ns < 15_000_000)
        {
            bail!("{event:#?}");
        }
    }
    ensure!(
        stage.global(GlobalCounter::EventsProduced)? == total as u64,
        "produced and delivered differ"
    );
    Ok(())
}

/// `errno` of a blocking connect.
fn connect_error(to: SocketAddr) -> Result<Option<i32>> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    match socket.connect(&to.into()) {
        Ok(()) => bail!("{to} answered"),
        Err(error) => Ok(error.raw_os_error()),
    }
}

/// The SYN arrives and the answer is lost: the target has seen it, the initiator times out.
pub(super) fn syn_only(place: &Place) -> Result<()> {
    let mut stage = Stage::new(place, "syn")?;
    let listener = wire::listen4()?;
    let to = listener.local_addr()?;
    let client = wire::bound(to, 62_000)?;
    wire::deafen(&client)?;
    wire::start(&client, to)?;
    let error = wire::wait_for_error(&client)?;
    ensure!(error.raw_os_error() == Some(libc::ETIMEDOUT), "{error}");
    drop(client);
    let events = stage.events(2)?;
    ensure!(
        events[0].outcome() == Some(Outcome::SynSeen)
            && events[0].direction == Direction::Acceptor as u8
            && events[0].remote_port == 62_000,
        "{events:#?}"
    );
    ensure!(
        events[1].outcome() == Some(Outcome::Timeout) && events[1].syn_retransmits > 0,
        "{events:#?}"
    );
    let sum = stage.sum(Direction::Acceptor, Origin::Burst)?;
    ensure!(
        sum.counter(Counter::Established) == 0,
        "the acceptor counted a connection"
    );
    stage.nothing_lost()
}
