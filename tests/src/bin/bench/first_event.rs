//! From the start of `aggrik8s-probe load` to the first counted connection.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use probe_common::{Counter, Direction};
use tests::agent::Loaded;
use tests::probe::Probe;
use tests::storm::ClientPlan;

use crate::report::{Goal, Report};
use crate::{Args, median, quantile, rig};

const ROUNDS: usize = 5;

pub(crate) fn measure(_: &Args, report: &mut Report) -> Result<()> {
    let rig = rig("first")?;
    let plan = ClientPlan::new(rig.targets(7000), 1);
    let mut seconds = Vec::new();
    for _ in 0..ROUNDS {
        let mut server = rig.serve(7000, 1, false)?;
        let mut client = rig.connect(&plan)?;
        let loaded = Loaded::prepare(&rig)?;
        let begun = Instant::now();
        loaded.attach(&rig)?;
        client.go()?;
        let probe = Probe::open(loaded.pins())?;
        while probe
            .sum(Direction::Initiator, None)?
            .count(Counter::Established)
            == 0
        {
            ensure!(
                begun.elapsed() < Duration::from_secs(20),
                "nothing was counted"
            );
            thread::sleep(Duration::from_millis(1));
        }
        seconds.push(begun.elapsed().as_secs_f64());
        client.client_report()?;
        client.release()?;
        server.server_report()?;
        server.release()?;
    }
    report.judge(
        "`load` to the first counted connection",
        median(&seconds),
        "s",
        Goal::AtMost(1.0),
        format!("median of {ROUNDS}, worst {:.2} s", quantile(&seconds, 1.0)),
    );
    report.raw("first_event_s", seconds)
}
