//! Connections per second of a storm with the agent and without, interleaved: none, agent, none, …
//! Each agent arm is compared with the mean of the arms around it, and the arms without an agent
//! with each other: that is the noise floor.

use anyhow::{Result, ensure};
use serde::Serialize;
use tests::agent::Loaded;
use tests::rig::Rig;
use tests::storm::{ClientPlan, ClientReport};

use crate::report::{Goal, Report};
use crate::{Args, median, quantile, rig};

const CONNECTIONS: u64 = 20_000;
/// Above this median noise the machine cannot tell 0.98 from 1.
const NOISY: f64 = 0.05;

#[derive(Serialize)]
struct Arm {
    agent: bool,
    #[serde(flatten)]
    client: ClientReport,
}

pub(crate) fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let rig = rig("ratio")?;
    storm(&rig)?;
    let mut bare = vec![storm(&rig)?];
    let mut with = Vec::new();
    for _ in 0..args.pairs {
        {
            let loaded = Loaded::load(&rig)?;
            let agent = loaded.run(&rig.client)?;
            with.push(storm(&rig)?);
            agent.kill()?;
        }
        bare.push(storm(&rig)?);
    }
    let between =
        |i: usize, field: fn(&ClientReport) -> f64| (field(&bare[i]) + field(&bare[i + 1])) / 2.0;
    let ratios = |field: fn(&ClientReport) -> f64| -> Vec<f64> {
        (0..with.len())
            .map(|i| field(&with[i]) / between(i, field))
            .collect()
    };
    let floor: Vec<f64> = bare
        .windows(2)
        .map(|pair| (pair[1].rate() / pair[0].rate() - 1.0).abs())
        .collect();
    let noise = median(&floor);
    let rates: Vec<f64> = bare.iter().map(ClientReport::rate).collect();
    report.note(
        "bare connect storm",
        median(&rates),
        "conn/s",
        format!("{} arms of {CONNECTIONS} connections", bare.len()),
    );
    report.note(
        "noise floor, bare against the next bare",
        noise,
        "",
        format!("median; p90 {:.3}", quantile(&floor, 0.9)),
    );
    let rate = ratios(ClientReport::rate);
    let goal = if noise < NOISY { 0.98 } else { 0.95 };
    report.judge(
        "connect storm, with the agent / bare",
        median(&rate),
        "",
        Goal::AtLeast(goal),
        format!(
            "median of {} pairs, quartiles {:.3}–{:.3}",
            rate.len(),
            quantile(&rate, 0.25),
            quantile(&rate, 0.75)
        ),
    );
    let connect = ratios(|client| client.connect_p50_us);
    report.note("connect p50, with / bare", median(&connect), "", "");
    let arms: Vec<Arm> = bare
        .into_iter()
        .map(|client| Arm {
            agent: false,
            client,
        })
        .chain(with.into_iter().map(|client| Arm {
            agent: true,
            client,
        }))
        .collect();
    report.raw("ratio_arms", arms)
}

fn storm(rig: &Rig) -> Result<ClientReport> {
    let (client, _) = rig.storm(&ClientPlan::new(rig.targets(7000), CONNECTIONS))?;
    ensure!(client.errors.is_empty(), "{client:?}");
    Ok(client)
}
