//! Connections that succeed: counts, bytes, round trips, resets, records, and to whom they belong.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};

use anyhow::{Result, ensure};
use probe_common::{ClassId, Counter, Direction, HistogramKind, Origin, Outcome, RemoteId};
use probe_user::sys::maps::{ServicePort, from_address};

use super::{Place, Stage, eventually, wire};

const BOTH: [Direction; 2] = [Direction::Initiator, Direction::Acceptor];

/// IPv4, IPv6 and v4-mapped, closed in every order, with every byte accounted for.
pub(super) fn counted(place: &Place) -> Result<()> {
    let mut stage = Stage::new(place, "count")?;
    let ids = stage.probe.maps.remotes().assign(["four", "six"])?;
    stage.probe.maps.set_prefixes(&[
        ("127.0.0.0/8".parse()?, RemoteId(ids["four"])),
        ("::1/128".parse()?, RemoteId(ids["six"])),
    ])?;
    let listener = wire::listen_dual()?;
    let port = listener.local_addr()?.port();
    let four = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mapped = SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), port));
    let six = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    let (mut up, mut down) = (0, 0);
    for round in 0..24_usize {
        let to = [four, six, mapped, six][round % 4];
        let (mut client, mut server) = wire::pair(&listener, to)?;
        let (there, back) = (1 + 977 * round, 100_000 + round);
        wire::transfer(&mut client, &mut server, there)?;
        wire::transfer(&mut server, &mut client, back)?;
        up += there as u64;
        down += back as u64;
        match round % 3 {
            0 => {
                drop(client);
                wire::at_end(&server)?;
            }
            1 => {
                drop(server);
                wire::at_end(&client)?;
            }
            _ => wire::half_close(client, server)?,
        }
    }
    stage.expect(
        Direction::Initiator,
        Origin::Traffic,
        &[
            (Counter::Attempts, 24),
            (Counter::Established, 24),
            (Counter::Closed, 24),
            (Counter::BytesSent, up),
            (Counter::BytesReceived, down),
        ],
    )?;
    stage.expect(
        Direction::Acceptor,
        Origin::Traffic,
        &[
            (Counter::Established, 24),
            (Counter::Closed, 24),
            (Counter::BytesSent, down),
            (Counter::BytesReceived, up),
        ],
    )?;
    for direction in BOTH {
        let sum = stage.sum(direction, Origin::Traffic)?;
        for (kind, count) in [
            (HistogramKind::Handshake, 24),
            (HistogramKind::Minimum, 24),
            (
                HistogramKind::Connect,
                if direction == Direction::Initiator {
                    24
                } else {
                    0
                },
            ),
        ] {
            ensure!(
                sum.histogram(kind).count() == count,
                "{direction:?} {}: {} samples instead of {count}",
                kind.name(),
                sum.histogram(kind).count()
            );
        }
        ensure!(
            sum.histogram(HistogramKind::AckLatency).count() >= 24,
            "{direction:?}: too few ACK latencies"
        );
    }
    for (name, count) in [("four", 12), ("six", 12)] {
        for direction in BOTH {
            let seen = stage
                .probe
                .sum(direction, Some(name))?
                .count(Counter::Established);
            ensure!(seen == count, "{direction:?} `{name}`: {seen} of {count}");
        }
    }
    stage.nothing_lost()
}

/// The gauge of open connections.
pub(super) fn open(place: &Place) -> Result<()> {
    let stage = Stage::new(place, "open")?;
    let listener = wire::listen4()?;
    let to = listener.local_addr()?;
    let mut held: Vec<(TcpStream, TcpStream)> = (0..10)
        .map(|_| wire::pair(&listener, to))
        .collect::<Result<_>>()?;
    for expected in [10, 4, 0] {
        held.truncate(expected);
        eventually(|| {
            for direction in BOTH {
                let open = stage.probe.sum(direction, None)?.open();
                ensure!(
                    open == expected as u64,
                    "{direction:?}: {open} open instead of {expected}"
                );
            }
            Ok(())
        })?;
    }
    stage.nothing_lost()
}

/// Resets by each side, and none for an ordinary end.
pub(super) fn resets(place: &Place) -> Result<()> {
    let stage = Stage::new(place, "reset")?;
    let listener = wire::listen4()?;
    let to = listener.local_addr()?;
    for round in 0..5 {
        let (client, server) = wire::pair(&listener, to)?;
        match round {
            0 | 1 => wire::reset(client, &server)?,
            2..4 => wire::reset(server, &client)?,
            _ => drop((client, server)),
        }
    }
    // The peer closed first, then a reset out of CLOSE_WAIT.
    let (client, server) = wire::pair(&listener, to)?;
    client.shutdown(std::net::Shutdown::Write)?;
    wire::at_end(&server)?;
    wire::reset(server, &client)?;
    drop(client);
    stage.expect(
        Direction::Initiator,
        Origin::Traffic,
        &[
            (Counter::Attempts, 6),
            (Counter::Established, 6),
            (Counter::Closed, 6),
            (Counter::ResetLocal, 2),
            (Counter::ResetPeer, 2),
        ],
    )?;
    stage.expect(
        Direction::Acceptor,
        Origin::Traffic,
        &[
            (Counter::Established, 6),
            (Counter::Closed, 6),
            (Counter::ResetLocal, 3),
            (Counter::ResetPeer, 2),
        ],
    )?;
    stage.nothing_lost()
}

/// Our own probes: recognised and told apart by the source port, a record at each step, no resets counted.
pub(super) fn probe_records(place: &Place) -> Result<()> {
    let mut stage = Stage::new(place, "probe")?;
    let listener = wire::listen_dual()?;
    let port = listener.local_addr()?.port();
    let (v4, v6) = (
        IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::from(Ipv6Addr::LOCALHOST),
    );
    for (ip, own, origin) in [
        (v4, 61_000, Origin::Probe),
        (v6, 61_499, Origin::Probe),
        (v6, 61_500, Origin::Burst),
        (v4, 65_535, Origin::Burst),
    ] {
        let to = SocketAddr::from((ip, port));
        let (client, server) = wire::pair_from(&listener, to, own)?;
        wire::reset(client, &server)?;
        drop(server);
        let events = stage.events(3)?;
        let find = |outcome, direction| {
            events.iter().find(move |event| {
                event.outcome() == Some(outcome) && event.direction == direction as u8
            })
        };
        for (outcome, direction, local, remote) in [
            (Outcome::SynSeen, Direction::Acceptor, port, own),
            (Outcome::Established, Direction::Initiator, own, port),
            (Outcome::Established, Direction::Acceptor, port, own),
        ] {
            let Some(event) = find(outcome, direction) else {
                anyhow::bail!("no {outcome:?} as {direction:?} among {events:#?}");
            };
            ensure!(
                (event.local_port, event.remote_port) == (local, remote)
                    && from_address(event.local) == ip
                    && from_address(event.remote) == ip
                    && event.origin == origin as u8
                    && event.netns_cookie != 0
                    && event.at_ns != 0,
                "{event:#?}"
            );
            let established = outcome == Outcome::Established;
            ensure!((event.handshake_rtt_us > 0) == established, "{event:#?}");
            let initiator = direction == Direction::Initiator;
            ensure!((event.connect_ns > 0) == initiator, "{event:#?}");
        }
    }
    let refused = wire::bound(([127, 0, 0, 1], 1).into(), 61_100)?;
    ensure!(
        refused
            .connect(&SocketAddr::from(([127, 0, 0, 1], 1)).into())
            .is_err(),
        "port 1 answered"
    );
    drop(refused);
    let event = stage.events(1)?[0];
    ensure!(event.outcome() == Some(Outcome::Refused), "{event:#?}");
    stage.expect(
        Direction::Initiator,
        Origin::Probe,
        &[
            (Counter::Attempts, 3),
            (Counter::Established, 2),
            (Counter::Closed, 2),
            (Counter::FailedRefused, 1),
        ],
    )?;
    let two = [(Counter::Established, 2), (Counter::Closed, 2)];
    stage.expect(Direction::Acceptor, Origin::Probe, &two)?;
    stage.expect(Direction::Acceptor, Origin::Burst, &two)?;
    stage.expect(
        Direction::Initiator,
        Origin::Burst,
        &[
            (Counter::Attempts, 2),
            (Counter::Established, 2),
            (Counter::Closed, 2),
        ],
    )?;
    stage.expect(Direction::Initiator, Origin::Traffic, &[])?;
    stage.nothing_lost()
}

/// The map of prefixes is replaced while connections are made; each belongs to one of the two sets.
pub(super) fn prefixes(place: &Place) -> Result<()> {
    let mut stage = Stage::new(place, "prefix")?;
    let ids = stage.probe.maps.remotes().assign(["wide", "narrow"])?;
    let (wide, narrow) = (RemoteId(ids["wide"]), RemoteId(ids["narrow"]));
    let listener = wire::listen4()?;
    let to = listener.local_addr()?;
    let one = || -> Result<()> {
        drop(wire::pair(&listener, to)?);
        Ok(())
    };
    one()?;
    let first = stage
        .probe
        .maps
        .set_prefixes(&[("127.0.0.0/8".parse()?, wide)])?;
    ensure!((first.written, first.removed) == (1, 0), "{first:?}");
    one()?;
    one()?;
    let second = stage.probe.maps.set_prefixes(&[
        ("127.0.0.1/32".parse()?, narrow),
        ("127.0.0.0/8".parse()?, RemoteId::AMBIGUOUS),
    ])?;
    ensure!((second.written, second.removed) == (2, 0), "{second:?}");
    for _ in 0..3 {
        one()?;
    }
    let third = stage
        .probe
        .maps
        .set_prefixes(&[("127.0.0.0/8".parse()?, RemoteId::AMBIGUOUS)])?;
    ensure!((third.written, third.removed) == (0, 1), "{third:?}");
    for _ in 0..4 {
        one()?;
    }
    for (name, count) in [("world", 1), ("wide", 2), ("narrow", 3), ("ambiguous", 4)] {
        for direction in BOTH {
            let seen = stage
                .probe
                .sum(direction, Some(name))?
                .count(Counter::Established);
            ensure!(
                seen == count,
                "{direction:?} `{name}`: {seen} instead of {count}"
            );
        }
    }
    // A name once given keeps its id, also for the next agent.
    let again = probe_user::sys::maps::Maps::open(stage.probe.pins())?
        .remotes()
        .assign(["zulu", "wide", "alpha"])?;
    ensure!(
        again["wide"] == wide.0 && again["narrow"] == narrow.0,
        "{again:?}"
    );
    stage.nothing_lost()
}

/// A declared port gives its class at both ends; one shared by two services asks the address.
pub(super) fn classes(place: &Place) -> Result<()> {
    let mut stage = Stage::new(place, "class")?;
    let alone = wire::listen4()?;
    let shared = wire::listen_dual()?;
    let ids = stage
        .probe
        .maps
        .classes()
        .assign(["ndvi", "left", "right"])?;
    let class = |name: &str| ClassId(ids[name] as u8);
    let port = shared.local_addr()?.port();
    let at = |last: u8| IpAddr::from([127, 0, 0, last]);
    stage.probe.maps.set_service_ports(&[
        ServicePort {
            address: Some("10.96.0.10".parse()?),
            port: alone.local_addr()?.port(),
            class: class("ndvi"),
        },
        ServicePort {
            address: Some(at(2)),
            port,
            class: class("left"),
        },
        ServicePort {
            address: Some(at(3)),
            port,
            class: class("right"),
        },
    ])?;
    drop(wire::pair(&alone, alone.local_addr()?)?);
    for last in [2, 2, 3, 4] {
        drop(wire::pair(&shared, (at(last), port).into())?);
    }
    for (name, count) in [("ndvi", 1), ("left", 2), ("right", 1), ("other", 1)] {
        let mut seen = [0, 0];
        for (key, data) in stage.probe.maps.series()? {
            if stage.probe.maps.class_name(key.class())?.as_deref() == Some(name) {
                seen[key.direction() as usize] += data.counter(Counter::Established);
            }
        }
        ensure!(
            seen == [count, count],
            "class `{name}`: {seen:?} instead of {count} each"
        );
    }
    stage.nothing_lost()
}
