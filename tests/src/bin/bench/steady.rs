//! The agent under 20 000 connections per second: its CPU with one scrape every 15 s, and that
//! nothing is lost.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use probe_common::{Counter, Direction};
use tests::agent::Loaded;
use tests::probe::Probe;
use tests::storm::ClientPlan;

use crate::report::{Goal, Report};
use crate::{Args, rig};

const RATE: f64 = 20_000.0;
/// A usual scrape interval; one scrape falls into the window.
const WINDOW: Duration = Duration::from_secs(15);

pub(crate) fn measure(_: &Args, report: &mut Report) -> Result<()> {
    let rig = rig("steady")?;
    let loaded = Loaded::load(&rig)?;
    let agent = loaded.run(&rig.client)?;
    let mut plan = ClientPlan::new(
        rig.targets(7000),
        (RATE * (WINDOW.as_secs_f64() + 1.0)) as u64,
    );
    plan.rate = Some(RATE);
    let (cpu, seconds, storm) = thread::scope(|scope| {
        let storm = scope.spawn(|| rig.storm(&plan));
        thread::sleep(Duration::from_millis(500));
        let window = || -> Result<(u64, f64)> {
            let (before, begun) = (agent.cpu_ns()?, Instant::now());
            thread::sleep(WINDOW / 2);
            agent.metrics(&rig.client)?;
            thread::sleep(WINDOW / 2);
            Ok((agent.cpu_ns()? - before, begun.elapsed().as_secs_f64()))
        };
        let window = window();
        let storm = storm
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        window.and_then(|(cpu, seconds)| Ok((cpu, seconds, storm?)))
    })?;
    let (client, _) = storm;
    ensure!(client.errors.is_empty(), "{client:?}");
    let share = cpu as f64 / 1e9 / seconds * 100.0;
    report.judge(
        "agent CPU in the storm, one scrape per 15 s",
        share,
        "% of a core",
        Goal::AtMost(0.5),
        format!("at {:.0} conn/s (20 000 offered)", client.rate()),
    );

    let (before, begun) = (agent.cpu_ns()?, Instant::now());
    let body = agent.metrics(&rig.client)?;
    report.note(
        "one scrape",
        (agent.cpu_ns()? - before) as f64 / 1e6,
        "ms CPU",
        format!(
            "{} bytes in {:.1} ms",
            body.len(),
            begun.elapsed().as_secs_f64() * 1e3
        ),
    );

    let probe = Probe::open(loaded.pins())?;
    probe.settle()?;
    let mut missing = 0;
    for direction in [Direction::Initiator, Direction::Acceptor] {
        let sum = probe.sum(direction, None)?;
        missing += sum.count(Counter::Established).abs_diff(client.established);
        missing += sum.count(Counter::Closed).abs_diff(client.established);
    }
    let losses = probe.losses()?;
    let lost: u64 = losses.iter().map(|(_, count)| count).sum();
    report.judge(
        "connections miscounted, and anything lost",
        (missing + lost) as f64,
        "",
        Goal::AtMost(0.0),
        format!(
            "of {} connections, both ends; {losses:?}",
            client.established
        ),
    );
    report.raw("steady", client)
}
