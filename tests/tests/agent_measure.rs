//! Path measurements of unprivileged agents over real packets: the line sets floors, loss and limits per direction.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use mesh::measurement::{
    MeasureKind, MeasureOutcome, MtuLimit, PathDirection, PathMtu, Throughput,
};
use probe_api::measure::{Figure, Measurement};
use probe_api::{Client, MeasurePlan, MeasureTarget, TransferCaps};
use tests::line_agents::LineAgents;
use tests::line_rig::{LineRig, missing};
use tests::netns::skip;

/// One rig at a time: they share two CPUs.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn plan(rig: &LineRig, kind: MeasureKind, ipv6: bool) -> MeasurePlan {
    MeasurePlan {
        targets: vec![MeasureTarget {
            node: LineAgents::far_node(),
            address: rig.server_at(ipv6, mesh::RESPONDER_ECHO_PORT),
            kind,
        }],
        transfer: TransferCaps::default(),
    }
}

/// Forward and return.
fn measure(agents: &LineAgents, plan: &MeasurePlan) -> Result<[Measurement; 2]> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let client = Client::connect(&agents.near(), None).await?;
        let mut stream = client.measure(plan).await?;
        let mut found = Vec::new();
        while let Some((_, measurement)) = stream.next().await? {
            found.push(measurement);
        }
        found.sort_by_key(|measurement| measurement.direction);
        found
            .try_into()
            .map_err(|found| anyhow::anyhow!("not two results: {found:?}"))
    })
}

fn mtu(measurement: &Measurement) -> Result<&PathMtu> {
    match &measurement.figure {
        Some(Figure::PathMtu(mtu)) => Ok(mtu),
        _ => bail!("no figure: {measurement:?}"),
    }
}

fn path_mtus(rig: &LineRig, agents: &LineAgents, ipv6: bool) -> Result<[PathMtu; 2]> {
    let [forward, back] = measure(agents, &plan(rig, MeasureKind::PathMtu, ipv6))?;
    ensure!((forward.direction, back.direction) == (PathDirection::Forward, PathDirection::Return));
    Ok([mtu(&forward)?.clone(), mtu(&back)?.clone()])
}

/// The kernels forget what they have learnt of the path.
fn forget(rig: &LineRig) -> Result<()> {
    for namespace in [&rig.client, &rig.server] {
        namespace.ip(&["-4", "route", "flush", "cache"])?;
        namespace.ip(&["-6", "route", "flush", "cache"])?;
    }
    Ok(())
}

#[test]
fn the_path_mtu_is_exact_in_each_direction_and_its_kind_is_told() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let _alone = alone();
    let mut rig = LineRig::new(|_| {})?;
    let agents = LineAgents::start(&rig)?;
    for (capabilities, uids) in agents.privileges()? {
        assert_eq!(capabilities, "0000000000000000");
        assert!(!uids.split_whitespace().any(|uid| uid == "0"), "{uids}");
    }
    let router: [IpAddr; 2] = ["192.0.2.1".parse()?, "2001:db8::1".parse()?];
    // Rule out, rule back, and for both what must be found: bytes, kind, whether fragments pass (IPv4).
    type Expected = (u16, MtuLimit, Option<bool>);
    let cases: [(&str, &str, [Expected; 2]); 6] = [
        (
            "",
            "",
            [
                (1_500, MtuLimit::Local, None),
                (1_500, MtuLimit::Local, None),
            ],
        ),
        (
            "mtu=1450:ptb",
            "",
            [
                (1_450, MtuLimit::PacketTooBig, Some(true)),
                (1_500, MtuLimit::Local, None),
            ],
        ),
        (
            "",
            "mtu=1400:silent",
            [
                (1_500, MtuLimit::Local, None),
                (1_400, MtuLimit::Silent, Some(false)),
            ],
        ),
        (
            "mtu=1281:ptb-drop",
            "mtu=1280:ptb",
            [
                (1_281, MtuLimit::PacketTooBig, Some(false)),
                (1_280, MtuLimit::PacketTooBig, Some(true)),
            ],
        ),
        (
            "mtu=1499:fragment",
            "mtu=1373:silent",
            [
                (1_499, MtuLimit::Silent, Some(true)),
                (1_373, MtuLimit::Silent, Some(false)),
            ],
        ),
        (
            "mtu=1400:silent",
            "mtu=1450:ptb-drop",
            [
                (1_400, MtuLimit::Silent, Some(false)),
                (1_450, MtuLimit::PacketTooBig, Some(false)),
            ],
        ),
    ];
    for (out, back, expected) in cases {
        for ipv6 in [false, true] {
            rig.clear()?;
            forget(&rig)?;
            for (id, rule) in [("out", out), ("back", back)] {
                match (rule, id) {
                    ("", _) => {}
                    (rule, "out") => rig.set_out(id, rule)?,
                    (rule, _) => rig.set_back(id, rule)?,
                }
            }
            let context = || format!("out `{out}`, back `{back}`, IPv6 {ipv6}");
            let found = path_mtus(&rig, &agents, ipv6).with_context(context)?;
            for (mtu, (bytes, limit, fragments)) in found.iter().zip(expected) {
                assert_eq!(
                    (mtu.bytes, mtu.limit),
                    (bytes, limit),
                    "{}: {mtu:?}",
                    context()
                );
                assert_eq!(mtu.local_bytes, 1_500, "{}: {mtu:?}", context());
                let fragments = if ipv6 { None } else { fragments };
                assert_eq!(mtu.fragments_pass, fragments, "{}: {mtu:?}", context());
                if limit == MtuLimit::PacketTooBig {
                    let reported = mtu.reported.context("who said so")?;
                    assert_eq!(
                        (reported.mtu, reported.hop),
                        (bytes, router[usize::from(ipv6)])
                    );
                } else {
                    assert_eq!(mtu.reported, None, "{}", context());
                }
            }
        }
    }
    rig.ensure_sound()
}

#[test]
fn loss_is_not_taken_for_an_mtu_and_an_outage_gives_no_figure() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let _alone = alone();
    let mut rig = LineRig::new(|_| {})?;
    let agents = LineAgents::start(&rig)?;
    rig.set_out("loss", "loss=2%")?;
    rig.set_back("loss-back", "loss=2%")?;
    rig.set_out("floor", "mtu=1450:silent")?;
    for ipv6 in [false, true, false] {
        let [forward, back] = path_mtus(&rig, &agents, ipv6)?;
        assert_eq!((forward.bytes, forward.limit), (1_450, MtuLimit::Silent));
        assert_eq!((back.bytes, back.limit), (1_500, MtuLimit::Local));
    }
    // The search runs again although the kernel has learnt the path's MTU meanwhile.
    rig.clear()?;
    rig.set_out("floor", "mtu=1400:ptb")?;
    for _ in 0..2 {
        assert_eq!(path_mtus(&rig, &agents, false)?[0].bytes, 1_400);
    }
    let learnt = path_mtus(&rig, &agents, false)?;
    assert_eq!(learnt[0].route_before, Some(1_400), "{learnt:?}");
    rig.clear()?;
    let healed = path_mtus(&rig, &agents, false)?;
    assert_eq!((healed[0].bytes, healed[0].limit), (1_500, MtuLimit::Local));

    for (rule, back) in [("blackhole", false), ("blackhole", true)] {
        rig.clear()?;
        if back {
            rig.set_back("dead", rule)?;
        } else {
            rig.set_out("dead", rule)?;
        }
        for measurement in measure(&agents, &plan(&rig, MeasureKind::PathMtu, false))? {
            assert_eq!(
                measurement.outcome,
                MeasureOutcome::Timeout,
                "{measurement:?}"
            );
            assert_eq!(measurement.figure, None);
        }
    }
    Ok(())
}

/// A VXLAN between the rig's ends, `df` as for `ip link`; overlay addresses 10.73.0.2 and 10.74.0.2.
fn tunnel(rig: &LineRig, df: &str) -> Result<()> {
    for (namespace, own, other, inner, peers) in [
        (
            &rig.client,
            "10.71.0.2",
            "10.72.0.2",
            "10.73.0.2",
            "10.74.0.0/24",
        ),
        (
            &rig.server,
            "10.72.0.2",
            "10.71.0.2",
            "10.74.0.2",
            "10.73.0.0/24",
        ),
    ] {
        let link = format!(
            "link add vx0 mtu 1450 type vxlan id 42 local {own} remote {other} dev eth0 dstport 4789 df {df}"
        );
        let route = format!("route add {peers} dev vx0 src {inner}");
        let address = format!("addr add {inner}/32 dev vx0");
        for line in [link.as_str(), "link set vx0 up", &address, &route] {
            namespace.ip(&line.split(' ').collect::<Vec<_>>())?;
        }
    }
    Ok(())
}

#[test]
fn through_a_tunnel_the_inner_mtu_is_found_and_what_the_tunnel_hides_is_told() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let _alone = alone();
    for df in ["set", "unset"] {
        let mut rig = LineRig::new(|_| {})?;
        tunnel(&rig, df)?;
        let (near, far): (IpAddr, IpAddr) = ("10.73.0.2".parse()?, "10.74.0.2".parse()?);
        let outer = [rig.client_address(false), rig.server_address(false)];
        let agents = LineAgents::start_at(&rig, &[near, outer[0]], &[far, outer[1]])?;
        let mut inner = plan(&rig, MeasureKind::PathMtu, false);
        let node_plane = inner.clone();
        inner.targets[0].address.set_ip(far);
        let find = |plan: &MeasurePlan| -> Result<[PathMtu; 2]> {
            let [forward, back] = measure(&agents, plan)?;
            Ok([mtu(&forward)?.clone(), mtu(&back)?.clone()])
        };
        for found in find(&inner)? {
            assert_eq!(
                (found.bytes, found.limit),
                (1_450, MtuLimit::Local),
                "df {df}"
            );
        }
        // The outer packets are 50 bytes longer.
        rig.set_out("floor", "mtu=1400:ptb")?;
        let [forward, back] = find(&inner)?;
        assert_eq!(
            (back.bytes, back.limit),
            (1_450, MtuLimit::Local),
            "df {df}"
        );
        if df == "set" {
            // The error goes to the tunnel's own address: the socket hears nothing of it.
            assert_eq!(
                (forward.bytes, forward.limit),
                (1_350, MtuLimit::Absorbed),
                "{forward:?}"
            );
            assert_eq!(forward.route_after, Some(1_350), "{forward:?}");
        } else {
            // Cut and put together again: invisible from inside, and plain from the node's own address.
            assert_eq!(
                (forward.bytes, forward.limit),
                (1_450, MtuLimit::Local),
                "{forward:?}"
            );
        }
        let [underlay, _] = find(&node_plane)?;
        assert_eq!(underlay.bytes, 1_400);
        rig.clear()?;
        rig.set_back("floor", "mtu=1390:silent")?;
        let [_, back] = find(&inner)?;
        assert_eq!(
            (back.bytes, back.limit),
            (1_340, MtuLimit::Silent),
            "{back:?}"
        );
    }
    Ok(())
}

fn moved(measurement: &Measurement) -> Result<&Throughput> {
    match &measurement.figure {
        Some(Figure::Throughput(found)) => Ok(found),
        _ => bail!("no figure: {measurement:?}"),
    }
}

#[test]
fn goodput_and_queueing_are_those_of_the_limit_in_each_direction() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let _alone = alone();
    let mut rig = LineRig::new(|_| {})?;
    let agents = LineAgents::start(&rig)?;
    for (out, back) in [(10.0, 100.0), (100.0, 10.0)] {
        rig.clear()?;
        rig.set_out("limit", &format!("rate={out}mbit"))?;
        rig.set_back("limit-back", &format!("rate={back}mbit"))?;
        let found = measure(&agents, &plan(&rig, MeasureKind::Throughput, out > 50.0))?;
        for (measurement, limit) in found.iter().zip([out, back]) {
            let throughput = moved(measurement)?;
            // Headers are about 4 % of a full packet; the rest is left to a busy machine.
            let share = throughput.bits_per_second() / (limit * 1e6);
            assert!(
                (0.6..=1.0).contains(&share),
                "{share} of {limit}: {measurement:?}"
            );
            // Two seconds of 10 Mbit/s are far fewer than 16 MB.
            if limit < 50.0 {
                assert!(throughput.by_time, "{measurement:?}");
            }
            assert!(throughput.retransmits.is_some(), "{measurement:?}");
            assert!(throughput.bytes <= TransferCaps::default().bytes);
            if limit < 50.0
                && let Some(rtt) = throughput.rtt
            {
                // The limit's queue holds 48 KiB: 39 ms at 10 Mbit/s.
                let queueing = rtt.queueing_ns() / 1_000_000;
                assert!((10..=500).contains(&queueing), "{queueing} ms: {rtt:?}");
            }
        }
        let heard = found.iter().filter_map(|m| moved(m).ok()?.rtt).count();
        ensure!(
            heard > 0,
            "no echo was heard beside any transfer: {found:?}"
        );
    }
    Ok(())
}
