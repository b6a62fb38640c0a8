//! Connections per second of a storm with the agent and without, interleaved: none, agent, none, …
//! Each agent arm is compared with the mean of the arms around it, and the arms without an agent
//! with each other: that is the noise floor.

use anyhow::{Result, ensure};
use serde::Serialize;
use tests::agent::Loaded;
use tests::rig::Rig;
use tests::storm::ClientPlan;

use crate::report::{Goal, Report};
use crate::{Args, median, quantile, rig};

const CONNECTIONS: u64 = 10_000;
/// Median difference between neighbouring bare arms below which 0.98 can be told from 1.
const QUIET: f64 = 0.05;
/// Above this not even 0.95 can: the figure is printed and not judged.
const DEAF: f64 = 0.10;

#[derive(Serialize)]
struct Arm {
    agent: bool,
    per_second: f64,
    cpu_us: f64,
    connect_p50_us: f64,
    connect_p99_us: f64,
}

pub(crate) fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let rig = rig("ratio")?;
    storm(&rig, false)?;
    let mut bare = vec![storm(&rig, false)?];
    let mut with = Vec::new();
    for _ in 0..args.pairs {
        {
            let loaded = Loaded::load(&rig)?;
            let agent = loaded.run(&rig.client)?;
            with.push(storm(&rig, true)?);
            agent.kill()?;
        }
        bare.push(storm(&rig, false)?);
    }
    let ratios = |field: fn(&Arm) -> f64| -> Vec<f64> {
        with.iter()
            .zip(bare.windows(2))
            .map(|(with, around)| field(with) * 2.0 / (field(&around[0]) + field(&around[1])))
            .collect()
    };
    let floor = |field: fn(&Arm) -> f64| -> Vec<f64> {
        bare.windows(2)
            .map(|pair| (field(&pair[1]) / field(&pair[0]) - 1.0).abs())
            .collect()
    };
    let spread = |values: &[f64]| {
        format!(
            "median of {} pairs, quartiles {:.3}–{:.3}",
            values.len(),
            quantile(values, 0.25),
            quantile(values, 0.75)
        )
    };
    let rates: Vec<f64> = bare.iter().map(|arm| arm.per_second).collect();
    let arms = format!("{} arms of {CONNECTIONS} connections", bare.len());
    report.note("bare connect storm", median(&rates), "conn/s", arms);
    let noise = floor(|arm| arm.per_second);
    report.note(
        "noise floor, bare against the next bare",
        median(&noise),
        "",
        format!("median; p90 {:.3}", quantile(&noise, 0.9)),
    );
    let what = "connect storm, with the agent / bare";
    let rate = ratios(|arm| arm.per_second);
    match median(&noise) {
        n if n < QUIET => report.judge(what, median(&rate), "", Goal::AtLeast(0.98), spread(&rate)),
        n if n < DEAF => report.judge(what, median(&rate), "", Goal::AtLeast(0.95), spread(&rate)),
        _ => report.note(
            what,
            median(&rate),
            "",
            format!("not judged, too noisy; {}", spread(&rate)),
        ),
    }
    let cpu = ratios(|arm| arm.cpu_us);
    report.note(
        "CPU of client and server per connection, with / bare",
        median(&cpu),
        "",
        format!(
            "{}; floor {:.3}",
            spread(&cpu),
            median(&floor(|arm| arm.cpu_us))
        ),
    );
    let connect = ratios(|arm| arm.connect_p50_us);
    report.note(
        "connect p50, with / bare",
        median(&connect),
        "",
        spread(&connect),
    );
    report.raw(
        "ratio_arms",
        bare.into_iter().chain(with).collect::<Vec<_>>(),
    )
}

fn storm(rig: &Rig, agent: bool) -> Result<Arm> {
    let (client, server) = rig.storm(&ClientPlan::new(rig.targets(7000), CONNECTIONS))?;
    ensure!(client.errors.is_empty(), "{client:?}");
    Ok(Arm {
        agent,
        per_second: client.rate(),
        cpu_us: (client.cpu_s + server.cpu_s) * 1e6 / client.established as f64,
        connect_p50_us: client.connect_p50_us,
        connect_p99_us: client.connect_p99_us,
    })
}
