//! What happens at the limits: too many series, a full ring, a dead reader, a foreign program.

use std::collections::BTreeSet;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener};

use anyhow::{Result, ensure};
use probe_common::maps::SOCKET_TABLE;
use probe_common::{Counter, Direction, GlobalCounter, Origin, RemoteId};
use socket2::{Domain, Socket, Type};

use super::{Place, Stage, eventually, wire};
use crate::foreign::Foreign;

/// Two series fit; what comes after is `~other`, and no connection or byte is missing from the totals.
pub(super) fn series_cap(place: &Place) -> Result<()> {
    let mut stage = Stage::with(place, "cap", |options| options.series_cap = 2)?;
    let names: Vec<String> = (2..8).map(|last| format!("peer-{last}")).collect();
    let ids = stage
        .probe
        .maps
        .remotes()
        .assign(names.iter().map(String::as_str))?;
    let mut prefixes = Vec::new();
    for (last, name) in (2..8).zip(&names) {
        let net = IpAddr::from([127, 0, 0, last]).into();
        prefixes.push((net, RemoteId(ids[name])));
    }
    stage.probe.maps.set_prefixes(&prefixes)?;
    let listener = wire::listen_dual()?;
    let port = listener.local_addr()?.port();
    for last in (2..8).chain(2..8) {
        let to = SocketAddr::from(([127, 0, 0, last], port));
        let (mut client, mut server) = wire::pair(&listener, to)?;
        wire::transfer(&mut client, &mut server, 1000)?;
        drop(client);
        wire::at_end(&server)?;
    }
    stage.expect(
        Direction::Initiator,
        Origin::Traffic,
        &[
            (Counter::Attempts, 12),
            (Counter::Established, 12),
            (Counter::Closed, 12),
            (Counter::BytesSent, 12_000),
        ],
    )?;
    stage.expect(
        Direction::Acceptor,
        Origin::Traffic,
        &[
            (Counter::Established, 12),
            (Counter::Closed, 12),
            (Counter::BytesReceived, 12_000),
        ],
    )?;
    // The first connect takes a slot for `peer-2` and its accept one for `world`.
    let series = stage.probe.maps.series()?;
    let other: u64 = series
        .iter()
        .filter(|(key, _)| key.remote() == RemoteId::OTHER)
        .map(|(_, data)| data.counter(Counter::Established))
        .sum();
    ensure!(other == 10, "{other} connections of `~other` instead of 10");
    ensure!(series.len() == 3, "{} series instead of 3", series.len());
    let full = stage.global(GlobalCounter::SeriesFull)?;
    ensure!(full == 10, "{full} counted as not fitting, instead of 10");
    Ok(())
}

/// Connections, failures and resets are the same whether their states have entries of the table or not, and no
/// entry stays behind.
pub(super) fn table(place: &Place) -> Result<()> {
    for states in [SOCKET_TABLE, 1] {
        let stage = Stage::with(place, "states", |options| options.states = states)?;
        let listener = wire::listen_dual()?;
        let to = SocketAddr::from(([127, 0, 0, 1], listener.local_addr()?.port()));
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        for _ in 0..4 {
            let (mut client, mut server) = wire::pair(&listener, to)?;
            wire::transfer(&mut client, &mut server, 1000)?;
            drop(client);
            wire::at_end(&server)?;
            let (client, server) = wire::pair(&listener, to)?;
            wire::reset(client, &server)?;
            // Neither a failure nor a second connection of the same socket leaves anything.
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            ensure!(socket.connect(&nobody.into()).is_err(), "port 1 answered");
            socket.connect(&to.into())?;
            let (accepted, _) = listener.accept()?;
            drop((socket, accepted));
        }
        stage.expect(
            Direction::Initiator,
            Origin::Traffic,
            &[
                (Counter::Attempts, 16),
                (Counter::Established, 12),
                (Counter::FailedRefused, 4),
                (Counter::Closed, 12),
                (Counter::ResetLocal, 4),
                (Counter::BytesSent, 4000),
            ],
        )?;
        stage.expect(
            Direction::Acceptor,
            Origin::Traffic,
            &[
                (Counter::Established, 12),
                (Counter::Closed, 12),
                (Counter::ResetPeer, 4),
                (Counter::BytesReceived, 4000),
            ],
        )?;
        stage.nothing_lost()?;
        let elsewhere = stage.global(GlobalCounter::TableTaken)?;
        // 12 sockets that connect and 12 that are accepted; one cookie in 16384 finds the only entry.
        ensure!(
            if states == 1 {
                elsewhere >= 23
            } else {
                elsewhere == 0
            },
            "{elsewhere} states beyond a table of {states}"
        );
        eventually(|| {
            let taken = stage.probe.entries_taken()?;
            ensure!(taken == 0, "{taken} entries of {states} stay taken");
            Ok(())
        })?;
    }
    Ok(())
}

/// Probe connections, which always make records.
fn probes(listener: &TcpListener, ports: std::ops::Range<u16>) -> Result<()> {
    let to = listener.local_addr()?;
    for port in ports {
        let (client, server) = wire::pair_from(listener, to, port)?;
        wire::reset(client, &server)?;
        drop(server);
    }
    Ok(())
}

/// Nobody reads: what fits is delivered later, the rest is counted, and the sum is exact.
pub(super) fn ring_overflow(place: &Place) -> Result<()> {
    let mut stage = Stage::with(place, "ring", |options| options.ring_bytes = 4096)?;
    let listener = wire::listen4()?;
    probes(&listener, 61_000..61_100)?;
    let mut delivered = 0;
    while stage.events.try_next().is_some() {
        delivered += 1;
    }
    let produced = stage.global(GlobalCounter::EventsProduced)?;
    let lost = stage.global(GlobalCounter::EventsLost)?;
    ensure!(produced == 300, "{produced} records instead of 300");
    ensure!(
        lost > 200 && delivered + lost == produced,
        "{delivered} delivered + {lost} lost ≠ {produced}"
    );
    // The counts do not depend on the ring.
    stage.expect(
        Direction::Acceptor,
        Origin::Probe,
        &[(Counter::Established, 100), (Counter::Closed, 100)],
    )?;
    // Room again: nothing more is lost.
    probes(&listener, 61_100..61_110)?;
    stage.events(30)?;
    ensure!(
        stage.global(GlobalCounter::EventsLost)? == lost,
        "lost although there was room"
    );
    Ok(())
}

/// A reader goes away between two records; the next one goes on where it stopped.
pub(super) fn reader_dies(place: &Place) -> Result<()> {
    let mut stage = Stage::new(place, "reader")?;
    let listener = wire::listen4()?;
    probes(&listener, 61_000..61_020)?;
    let mut ports = BTreeSet::new();
    let mut total = 0;
    for _ in 0..7 {
        if let Some(event) = stage.events.try_next() {
            ports.insert(event.local_port.max(event.remote_port));
            total += 1;
        }
    }
    stage.events = stage.probe.maps.events()?;
    probes(&listener, 61_020..61_040)?;
    while let Some(event) = stage.events.try_next() {
        ports.insert(event.local_port.max(event.remote_port));
        total += 1;
    }
    ensure!(total == 120, "{total} records instead of 120");
    ensure!(
        ports == (61_000..61_040).collect(),
        "not every probe was recorded"
    );
    stage.nothing_lost()
}

/// Users' failures are limited per second, so that they never take the ring from the probes; what
/// is held back is counted, and its series has it.
pub(super) fn event_budget(place: &Place) -> Result<()> {
    let mut stage = Stage::with(place, "budget", |options| options.events_per_second = 5)?;
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    for _ in 0..200 {
        ensure!(
            std::net::TcpStream::connect(nobody).is_err(),
            "port 1 answered"
        );
    }
    let suppressed = stage.global(GlobalCounter::EventsSuppressed)?;
    let produced = stage.global(GlobalCounter::EventsProduced)?;
    ensure!(
        produced + suppressed == 200 && suppressed >= 100,
        "{produced} produced + {suppressed} suppressed"
    );
    stage.events(produced as usize)?;
    stage.expect(
        Direction::Initiator,
        Origin::Traffic,
        &[(Counter::Attempts, 200), (Counter::FailedRefused, 200)],
    )?;
    stage.nothing_lost()
}

/// Another owner sets the callback flags to 0 at every establishment. Connects are counted all the
/// same, ends are counted by other hooks, and every socket concerned is reported.
pub(super) fn flags_overwritten(place: &Place) -> Result<()> {
    let stage = Stage::new(place, "flags")?;
    let foreign = Foreign::clears_flags(stage.inside.cgroup.path())?;
    let listener = wire::listen4()?;
    let to = listener.local_addr()?;
    for round in 0..12 {
        let (mut client, mut server) = wire::pair(&listener, to)?;
        wire::transfer(&mut client, &mut server, 500)?;
        match round % 4 {
            0 => {
                drop(client);
                wire::at_end(&server)?;
                drop(server);
            }
            1 => {
                drop(server);
                wire::at_end(&client)?;
                drop(client);
            }
            2 => {
                // Its account is closed with its FIN; what it acknowledges later makes it no old socket.
                client.shutdown(Shutdown::Write)?;
                wire::at_end(&server)?;
                wire::transfer(&mut server, &mut client, 500)?;
                drop(server);
                wire::at_end(&client)?;
            }
            _ => {
                wire::reset(client, &server)?;
                drop(server);
            }
        }
    }
    eventually(|| {
        for direction in [Direction::Initiator, Direction::Acceptor] {
            let sum = stage.sum(direction, Origin::Traffic)?;
            for counter in [Counter::Established, Counter::Closed] {
                ensure!(
                    sum.counter(counter) == 12,
                    "{direction:?} `{}`: {} instead of 12",
                    counter.name(),
                    sum.counter(counter)
                );
            }
        }
        let lost = stage.global(GlobalCounter::FlagsLost)?;
        ensure!(lost == 24, "{lost} lost flags instead of 24");
        let taken = stage.probe.entries_taken()?;
        ensure!(taken == 0, "{taken} entries of the table stay taken");
        Ok(())
    })?;
    drop(foreign);
    // Alone again, nothing more is lost.
    drop(wire::pair(&listener, to)?);
    let lost = stage.global(GlobalCounter::FlagsLost)?;
    ensure!(lost == 24, "{lost} lost flags after the other owner left");
    let seen = stage.global(GlobalCounter::OldSocketsSeen)?;
    ensure!(seen == 0, "{seen} were taken for old sockets");
    Ok(())
}
