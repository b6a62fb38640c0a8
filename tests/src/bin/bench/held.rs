//! Memory with many connections held at once: the agent's, the maps', and the kernel's storage per
//! socket.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result, ensure};
use aya::maps::MapInfo;
use probe_common::maps::SOCKET_TABLE;
use probe_common::{Counter, Direction, HistogramKind};
use probe_user::sys::memory::{
    DEFAULT_RING_BYTES, DEFAULT_SERIES_CAP, Memory, SOCKET_STORAGE_BYTES, shards_for,
};
use tests::agent::Loaded;
use tests::foreign::fdinfo;
use tests::probe::Probe;
use tests::rig::Rig;
use tests::storm::{ClientPlan, Process};

use crate::cost::programs;
use crate::report::{Goal, Report};
use crate::{Args, rig};

/// Connections per pair of processes: each end needs a descriptor, of which a process has 20 000
/// at the least generous limit we know.
const PER_PAIR: u64 = 16_700;
const MIB: f64 = 1024.0 * 1024.0;

pub(crate) fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let bare = slab_growth(false)?;
    let counted = slab_growth(true)?;
    let rig = rig("held")?;
    let loaded = Loaded::load(&rig)?;
    let agent = loaded.run(&rig.client)?;
    agent.metrics(&rig.client)?;
    let idle = agent.memory_kib("VmRSS")?;
    let held = hold(&rig, args.held)?;
    for _ in 0..3 {
        agent.metrics(&rig.client)?;
    }
    let (rss, peak) = (agent.memory_kib("VmRSS")?, agent.memory_kib("VmHWM")?);
    report.judge(
        format!("agent RSS with {} connections held", args.held),
        rss as f64 / 1024.0,
        "MiB",
        Goal::AtMost(20.0),
        format!(
            "idle {:.1}, peak {:.1} MiB",
            idle as f64 / 1024.0,
            peak as f64 / 1024.0
        ),
    );
    let probe = Probe::open(loaded.pins())?;
    let mut wrong = 0;
    for direction in [Direction::Initiator, Direction::Acceptor] {
        let sum = probe.sum(direction, None)?;
        wrong += sum.open().abs_diff(args.held);
        wrong += sum.count(Counter::Established).abs_diff(args.held);
        let clean = args.held - sum.count(Counter::EstablishedAfterRetransmit);
        wrong += sum.samples(HistogramKind::Handshake).abs_diff(clean);
    }
    let losses = probe.losses()?;
    wrong += losses.iter().map(|(_, count)| count).sum::<u64>();
    report.judge(
        "open connections miscounted, and anything lost",
        wrong as f64,
        "",
        Goal::AtMost(0.0),
        format!("of {}, both ends; {losses:?}", args.held),
    );
    maps(&probe, report)?;
    let sockets = 2.0 * PER_PAIR as f64;
    report.note(
        "socket storage per connection end",
        (counted - bare) / sockets,
        "B",
        format!("growth of the kernel's slabs; formula {SOCKET_STORAGE_BYTES} B"),
    );
    for (server, client) in held {
        client.release()?;
        server.release()?;
    }
    probe.settle()
}

/// Opens `total` connections in as many pairs of processes as it takes and keeps them.
fn hold(rig: &Rig, total: u64) -> Result<Vec<(Process, Process)>> {
    let mut held = Vec::new();
    let mut left = total;
    while left > 0 {
        let part = left.min(PER_PAIR);
        let port = 7100 + u16::try_from(held.len())?;
        let server = rig.serve(port, 8, true)?;
        let mut plan = ClientPlan::new(rig.targets(port), part);
        plan.hold = true;
        let mut client = rig.connect(&plan)?;
        client.go()?;
        let report = client.client_report()?;
        ensure!(report.exchanged == part, "{report:?}");
        held.push((server, client));
        left -= part;
    }
    Ok(held)
}

/// How much the kernel's slabs grow, in bytes, while one pair of processes holds its connections.
fn slab_growth(counted: bool) -> Result<f64> {
    let rig = rig("slab")?;
    let _probe = counted
        .then(|| Probe::load(rig.cgroup.path(), |_| ()))
        .transpose()?;
    let before = slab()?;
    let held = hold(&rig, PER_PAIR)?;
    let growth = slab()? - before;
    for (server, client) in held {
        client.release()?;
        server.release()?;
    }
    Ok(growth)
}

fn slab() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("SUnreclaim:"));
    let kib: f64 = line
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .context("no `SUnreclaim` in /proc/meminfo")?;
    Ok(kib * 1024.0)
}

fn maps(probe: &Probe, report: &mut Report) -> Result<()> {
    let mut total = 0;
    let mut parts = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (_, program) in programs(probe)? {
        seen.extend(
            program
                .map_ids()?
                .context("the kernel does not tell a program's maps")?,
        );
    }
    for id in seen {
        let info = MapInfo::from_id(id)?;
        let name = info.name_as_str().context("map without a name")?.to_owned();
        let bytes = fdinfo(info.fd()?.as_fd().as_raw_fd(), "memlock")?;
        total += bytes;
        parts.insert(name, bytes);
    }
    let meta = probe.maps.meta();
    let here = Memory {
        series_cap: meta.series_cap,
        shards: meta.shards,
        states: meta.states,
        ring_bytes: DEFAULT_RING_BYTES,
    };
    report.note(
        "map memory, measured (`memlock`)",
        total as f64 / 1e6,
        "MB",
        format!(
            "{} shards; formula {:.2} MB",
            meta.shards,
            here.total_bytes() as f64 / 1e6
        ),
    );
    let sixteen = Memory {
        series_cap: DEFAULT_SERIES_CAP,
        shards: shards_for(16),
        states: SOCKET_TABLE,
        ring_bytes: DEFAULT_RING_BYTES,
    };
    report.judge(
        "map memory at 4 remotes on 16 CPUs, by formula",
        sixteen.total_bytes() as f64 / 1e6,
        "MB",
        Goal::AtMost(12.0),
        sixteen.formula(),
    );
    report.note("the same", sixteen.total_bytes() as f64 / MIB, "MiB", "");
    report.raw("map_memlock_bytes", parts)
}
