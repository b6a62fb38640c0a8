//! While `egress` rests: bytes stay fresh all the same, and whatever is missed is counted.

use std::net::{Shutdown, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use probe_common::maps::SOCKET_TABLE;
use probe_common::{Counter, Direction, GlobalCounter, Origin};
use probe_ebpf::decide::LAG;
use probe_ebpf::word::ABANDONED_UNITS;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{Inside, Place, Stage, eventually, wire};
use crate::foreign::Foreign;

/// For a connection to be given up and its entry to be taken by another.
const GIVEN_UP: Duration = Duration::from_secs(60);

impl Stage {
    fn let_egress_rest(&mut self, rests: bool) -> Result<()> {
        Ok(self.probe.maps.set_egress_rests(rests)?)
    }

    fn expect_globals(&self, wanted: &[(GlobalCounter, u64)]) -> Result<()> {
        eventually(|| {
            for (counter, count) in wanted {
                let now = self.global(*counter)?;
                ensure!(
                    now == *count,
                    "`{}` is {now}, expected {count}",
                    counter.name()
                );
            }
            Ok(())
        })
    }

    /// Waits until the bytes of an open connection lag by no more than they may.
    fn expect_fresh(&self, direction: Direction, counter: Counter, total: u64) -> Result<()> {
        eventually(|| {
            let added = self.sum(direction, Origin::Traffic)?.counter(counter);
            ensure!(
                added <= total && added + LAG > total,
                "{direction:?} `{}`: {added} of {total} bytes",
                counter.name()
            );
            Ok(())
        })
    }
}

/// Round trips tell the bytes of open connections, and the end tells all of them exactly.
pub(super) fn bytes_stay_fresh(place: &Place) -> Result<()> {
    const UP: usize = 1_000_000;
    const REST: usize = 60_000;
    const DOWN: usize = 300_000;
    let mut stage = Stage::new(place, "fresh")?;
    stage.let_egress_rest(true)?;
    let listener = wire::listen4()?;
    let to = listener.local_addr()?;
    let (mut client, mut server) = wire::pair(&listener, to)?;
    wire::transfer(&mut client, &mut server, UP)?;
    stage.expect_fresh(Direction::Initiator, Counter::BytesSent, UP as u64)?;
    // Who only receives hears no round trip; what it sends brings the account up to date.
    let only_received = stage.sum(Direction::Acceptor, Origin::Traffic)?;
    ensure!(
        only_received.counter(Counter::BytesReceived) == 0,
        "told by whom?"
    );
    wire::transfer(&mut server, &mut client, 1)?;
    stage.expect_fresh(Direction::Acceptor, Counter::BytesReceived, UP as u64)?;
    // The peer's FIN is among what was received by then, and is no payload.
    wire::transfer(&mut client, &mut server, REST)?;
    client.shutdown(Shutdown::Write)?;
    wire::at_end(&server)?;
    wire::transfer(&mut server, &mut client, DOWN)?;
    stage.expect_fresh(Direction::Acceptor, Counter::BytesSent, DOWN as u64 + 1)?;
    drop(server);
    wire::at_end(&client)?;
    drop(client);
    let (up, down) = ((UP + REST) as u64, DOWN as u64 + 1);
    stage.expect(
        Direction::Initiator,
        Origin::Traffic,
        &[
            (Counter::Attempts, 1),
            (Counter::Established, 1),
            (Counter::Closed, 1),
            (Counter::BytesSent, up),
            (Counter::BytesReceived, down),
        ],
    )?;
    stage.expect(
        Direction::Acceptor,
        Origin::Traffic,
        &[
            (Counter::Established, 1),
            (Counter::Closed, 1),
            (Counter::BytesSent, down),
            (Counter::BytesReceived, up),
        ],
    )?;
    stage.nothing_lost()
}

/// An old socket that was found ends, one that never was is counted as missed, and one that wakes with `egress` is found.
pub(super) fn old_sockets(place: &Place) -> Result<()> {
    use GlobalCounter::{BytesUnknown, OldSocketsMissed, OldSocketsSeen};
    let inside = Inside::enter(place, "rest")?;
    let listener = wire::listen4()?;
    let to = listener.local_addr()?;
    let (mut client, mut server) = wire::pair(&listener, to)?;
    let silent = wire::pair(&listener, to)?;
    let (mut late, mut late_peer) = wire::pair(&listener, to)?;
    let mut stage = Stage::around(inside, |_| ())?;
    wire::transfer(&mut client, &mut server, 300)?;
    stage.expect_globals(&[(OldSocketsSeen, 2)])?;
    stage.let_egress_rest(true)?;

    // Nobody sees its packets; its release tells.
    wire::transfer(&mut client, &mut server, 300)?;
    drop(client);
    wire::at_end(&server)?;
    drop(server);
    stage.expect_globals(&[
        (OldSocketsSeen, 2),
        (BytesUnknown, 2),
        (OldSocketsMissed, 0),
    ])?;
    stage.old_ones_ended(2)?;

    let (first, second) = silent;
    drop(first);
    wire::at_end(&second)?;
    drop(second);
    stage.expect_globals(&[(OldSocketsMissed, 2)])?;
    // What is no connection, and what is known, is not missed.
    drop(Socket::new(
        Domain::IPV4,
        Type::STREAM,
        Some(Protocol::TCP),
    )?);
    drop(wire::listen4()?);
    drop(wire::pair(&listener, to)?);
    stage.expect(
        Direction::Acceptor,
        Origin::Traffic,
        &[(Counter::Established, 1), (Counter::Closed, 1)],
    )?;
    stage.expect_globals(&[
        (OldSocketsMissed, 2),
        (OldSocketsSeen, 2),
        (BytesUnknown, 2),
    ])?;

    stage.let_egress_rest(false)?;
    wire::transfer(&mut late, &mut late_peer, 300)?;
    drop(late);
    wire::at_end(&late_peer)?;
    drop(late_peer);
    stage.expect_globals(&[
        (OldSocketsMissed, 2),
        (OldSocketsSeen, 4),
        (BytesUnknown, 2),
    ])?;
    let sum = || stage.sum(Direction::Unknown, Origin::Traffic);
    eventually(|| {
        let closed = sum()?.counter(Counter::Closed);
        ensure!(closed == 4, "{closed} closed");
        Ok(())
    })
}

/// Another owner clears the callback flags: every end is counted all the same, that of a client which closes first
/// when its place in the table is wanted.
pub(super) fn lost_flags(place: &Place) -> Result<()> {
    use GlobalCounter::{BytesUnknown, FlagsLost, OldSocketsMissed, OldSocketsSeen};
    let mut stage = Stage::new(place, "restlost")?;
    stage.let_egress_rest(true)?;
    let foreign = Foreign::clears_flags(stage.inside.cgroup.path())?;
    let listener = wire::listen4()?;
    let to = listener.local_addr()?;
    let closed = |initiators, acceptors| {
        eventually(|| {
            for (direction, count) in [
                (Direction::Initiator, initiators),
                (Direction::Acceptor, acceptors),
            ] {
                let sum = stage.sum(direction, Origin::Traffic)?;
                let now = sum.counter(Counter::Closed);
                ensure!(
                    now == count,
                    "{direction:?}: {now} closed, expected {count}"
                );
            }
            Ok(())
        })
    };
    let (mut client, mut server) = wire::pair(&listener, to)?;
    wire::transfer(&mut client, &mut server, 500)?;
    drop(server);
    wire::at_end(&client)?;
    drop(client);
    closed(1, 1)?;
    stage.expect_globals(&[(FlagsLost, 2), (BytesUnknown, 2)])?;

    let (client, server) = wire::pair(&listener, to)?;
    let cookie = SockRef::from(&client).cookie()?;
    drop(client);
    wire::at_end(&server)?;
    drop(server);
    closed(1, 2)?;
    stage.expect_globals(&[(FlagsLost, 3), (BytesUnknown, 3)])?;
    drop(foreign);
    // Before that it cannot be; then each try takes thousands of sockets.
    thread::sleep(Duration::from_nanos(u64::from(ABANDONED_UNITS) << 30));
    let deadline = Instant::now() + GIVEN_UP;
    while stage.global(FlagsLost)? == 3 {
        ensure!(Instant::now() < deadline, "the connection was not given up");
        thread::sleep(Duration::from_secs(1));
        let heir = heir(cookie)?;
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        ensure!(heir.connect(&nobody.into()).is_err(), "port 1 answered");
    }
    closed(2, 2)?;
    stage.expect_globals(&[(FlagsLost, 4), (BytesUnknown, 4)])?;
    let taken = stage.probe.entries_taken()?;
    ensure!(taken == 0, "{taken} entries of the table stay taken");
    stage.expect_globals(&[(OldSocketsSeen, 0), (OldSocketsMissed, 0)])
}

/// A socket whose state belongs in the same entry of the table.
fn heir(cookie: u64) -> Result<Socket> {
    let table = u64::from(SOCKET_TABLE);
    // Cookies count up, on each CPU by itself and with gaps.
    for _ in 0..16 * table {
        let before = Socket::new(Domain::UNIX, Type::DGRAM, None)?.cookie()?;
        if (before + 1) % table != cookie % table {
            continue;
        }
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        if socket.cookie()? % table == cookie % table {
            return Ok(socket);
        }
    }
    None.context("no socket got a fitting cookie")
}
