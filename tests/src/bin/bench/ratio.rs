//! Connections per second of a storm with the agent and without, interleaved: none, agent in its steady state, none,
//! agent just after the load, none, … Each agent arm is compared with the mean of the arms around it, and the arms
//! without an agent with each other: that is the noise floor.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;
use tests::agent::Loaded;
use tests::probe::Probe;
use tests::rig::Rig;
use tests::storm::ClientPlan;

use crate::report::{Goal, Report};
use crate::{Args, median, quantile, rig};

const CONNECTIONS: u64 = 10_000;
/// Median difference between neighbouring bare arms below which 0.98 can be told from 1.
const QUIET: f64 = 0.05;
/// Above this not even 0.95 can: the figure is printed and not judged.
const DEAF: f64 = 0.10;

/// What runs beside a storm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Bare,
    /// `egress` watches for sockets older than the probe, as after every load.
    JustLoaded,
    /// `egress` rests, as nothing needs it.
    Steady,
}

#[derive(Serialize)]
struct Arm {
    agent: State,
    per_second: f64,
    cpu_us: f64,
    connect_p50_us: f64,
    connect_p99_us: f64,
}

pub(crate) fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let rig = rig("ratio")?;
    storm(&rig, State::Bare)?;
    let mut bare = vec![storm(&rig, State::Bare)?];
    let mut with = Vec::new();
    for _ in 0..args.pairs {
        for state in [State::Steady, State::JustLoaded] {
            with.push(beside_agent(&rig, state)?);
            bare.push(storm(&rig, State::Bare)?);
        }
    }
    let ratios = |state: State, field: fn(&Arm) -> f64| -> Vec<f64> {
        with.iter()
            .zip(bare.windows(2))
            .filter(|(with, _)| with.agent == state)
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
    let rate = ratios(State::Steady, |arm| arm.per_second);
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
    let cpu_floor = median(&floor(|arm| arm.cpu_us));
    let mut note = |what: &str, ratios: Vec<f64>, more: String| {
        report.note(
            what,
            median(&ratios),
            "",
            format!("{}{more}", spread(&ratios)),
        );
    };
    note(
        "· just after the load, while `egress` watches",
        ratios(State::JustLoaded, |arm| arm.per_second),
        String::new(),
    );
    for (state, when) in [
        (State::Steady, ""),
        (State::JustLoaded, ", while `egress` watches"),
    ] {
        note(
            &format!("CPU of client and server per connection, with / bare{when}"),
            ratios(state, |arm| arm.cpu_us),
            format!("; floor {cpu_floor:.3}"),
        );
        note(
            &format!("connect p50, with / bare{when}"),
            ratios(state, |arm| arm.connect_p50_us),
            String::new(),
        );
    }
    report.raw(
        "ratio_arms",
        bare.into_iter().chain(with).collect::<Vec<_>>(),
    )
}

/// For `egress` to rest when nothing needs it.
const REST: Duration = Duration::from_secs(20);

fn beside_agent(rig: &Rig, state: State) -> Result<Arm> {
    let loaded = Loaded::load(rig)?;
    let quiet = match state {
        State::Steady => "1ms",
        _ => "off",
    };
    let agent = loaded.run_with(&rig.client, &["--egress-quiet", quiet])?;
    let probe = Probe::open(loaded.pins())?;
    let deadline = Instant::now() + REST;
    while state == State::Steady && !probe.maps.egress_rests()? {
        ensure!(Instant::now() < deadline, "`egress` does not rest");
        thread::sleep(Duration::from_millis(20));
    }
    let arm = storm(rig, state)?;
    ensure!(
        probe.maps.egress_rests()? == (state == State::Steady),
        "`egress` changed during a storm"
    );
    agent.kill()?;
    Ok(arm)
}

fn storm(rig: &Rig, agent: State) -> Result<Arm> {
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
