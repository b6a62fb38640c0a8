//! BPF run time per connection with both ends on this machine. The kernel's own accounting costs
//! about as much as a small program, so an empty program sits at every hook in the same run and is
//! subtracted run for run: callback flags belong to the socket, so it runs exactly as often.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData};
use aya::programs::{ProgramFd, ProgramInfo, loaded_programs};
use aya::sys::{Stats, enable_stats};
use probe_common::AttachState;
use probe_common::maps::{PROGRAMS, names};
use serde::Serialize;
use tests::foreign::{Foreign, Hook, RunStats, run_stats};
use tests::probe::Probe;
use tests::storm::ClientPlan;

use crate::report::{Goal, Report};
use crate::{Args, median, quantile, rig};

const CONNECTIONS: u64 = 10_000;
const OLD_SOCKETS: &str = "egress";

struct Pair {
    name: &'static str,
    ours: ProgramFd,
    empty: Foreign,
}

impl Pair {
    fn read(&self) -> Result<(RunStats, RunStats)> {
        Ok((
            run_stats(self.ours.as_fd().as_raw_fd())?,
            self.empty.stats()?,
        ))
    }
}

/// One program in one window, per connection.
#[derive(Clone, Copy, Debug, Serialize)]
struct Figure {
    runs: f64,
    gross_us: f64,
    net_us: f64,
}

pub(crate) fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let rig = rig("cost")?;
    let mut probe = Probe::load(rig.cgroup.path(), |_| ())?;
    probe.declare(crate::REMOTES)?;
    let pairs = pairs(&probe, rig.cgroup.path())?;
    // Ends with its descriptor, however this program ends.
    let _stats = enable_stats(Stats::RunTime).context("enable run-time statistics")?;
    let plan = ClientPlan::new(rig.targets(7000), CONNECTIONS);
    rig.storm(&plan)?;
    let mut windows: Vec<BTreeMap<&str, Figure>> = Vec::new();
    for _ in 0..args.windows {
        let before = pairs.iter().map(Pair::read).collect::<Result<Vec<_>>>()?;
        let (client, _) = rig.storm(&plan)?;
        ensure!(client.errors.is_empty(), "{client:?}");
        let mut window = BTreeMap::new();
        for (pair, before) in pairs.iter().zip(before) {
            let (ours, empty) = pair.read()?;
            let per_connection = |ns: u64| ns as f64 / 1000.0 / client.established as f64;
            let runs = ours.runs - before.0.runs;
            let gross = per_connection(ours.nanoseconds - before.0.nanoseconds);
            let empty_runs = empty.runs - before.1.runs;
            ensure!(
                empty_runs.abs_diff(runs) * 100 <= runs,
                "`{}` ran {runs} times, the empty program {empty_runs} times",
                pair.name
            );
            let empty_us = per_connection(empty.nanoseconds - before.1.nanoseconds);
            window.insert(
                pair.name,
                Figure {
                    runs: runs as f64 / client.established as f64,
                    gross_us: gross,
                    net_us: gross - empty_us,
                },
            );
        }
        windows.push(window);
    }
    let losses = probe.losses()?;
    ensure!(losses.is_empty(), "lost while measuring: {losses:?}");

    let sum = |keep: fn(&str) -> bool, field: fn(&Figure) -> f64| -> Vec<f64> {
        windows
            .iter()
            .map(|w| {
                w.iter()
                    .filter(|(n, _)| keep(n))
                    .map(|(_, f)| field(f))
                    .sum()
            })
            .collect()
    };
    let spread = |values: &[f64]| {
        format!(
            "median of {} windows, {:.2}–{:.2}",
            values.len(),
            quantile(values, 0.0),
            quantile(values, 1.0)
        )
    };
    let net = sum(|name| name != OLD_SOCKETS, |f| f.net_us);
    report.judge(
        "BPF time per connection, both ends, net",
        median(&net),
        "µs",
        Goal::AtMost(2.6),
        spread(&net),
    );
    let gross = sum(|name| name != OLD_SOCKETS, |f| f.gross_us);
    report.note("the same, gross", median(&gross), "µs", spread(&gross));
    let old = sum(|name| name == OLD_SOCKETS, |f| f.net_us);
    report.note(
        "old-socket rung (`egress`), net",
        median(&old),
        "µs",
        spread(&old),
    );
    for name in PROGRAMS {
        let of = |field: fn(&Figure) -> f64| -> f64 {
            median(&windows.iter().map(|w| field(&w[name])).collect::<Vec<_>>())
        };
        let (runs, net, gross) = (of(|f| f.runs), of(|f| f.net_us), of(|f| f.gross_us));
        if runs > 0.0 {
            report.note(
                format!("· `{name}`, net"),
                net,
                "µs",
                format!("{runs:.1} runs, gross {gross:.2} µs"),
            );
        }
    }
    report.raw("cost_windows", &windows)
}

fn pairs(probe: &Probe, cgroup: &std::path::Path) -> Result<Vec<Pair>> {
    let hooks = [
        Hook::SockOps,
        Hook::SockRelease,
        Hook::Connect4,
        Hook::Connect6,
        Hook::SkbEgress,
    ];
    programs(probe)?
        .into_iter()
        .zip(hooks)
        .map(|((name, info), hook)| {
            Ok(Pair {
                name,
                ours: info.fd()?,
                empty: Foreign::empty(hook, cgroup)?,
            })
        })
        .collect()
}

/// The attached programs, in the order of [`PROGRAMS`].
pub(crate) fn programs(probe: &Probe) -> Result<Vec<(&'static str, ProgramInfo)>> {
    let data = MapData::from_pin(probe.pins().join(names::ATTACH))?;
    let states: Array<_, AttachState> = Array::try_from(Map::Array(data))?;
    (0..)
        .zip(PROGRAMS)
        .map(|(index, name)| {
            let id = states.get(&index, 0)?.program_id;
            let info = loaded_programs()
                .filter_map(Result::ok)
                .find(|info| info.id() == id)
                .with_context(|| format!("program `{name}` (id {id}) is not loaded"))?;
            Ok((name, info))
        })
        .collect()
}
