//! The instruments against each other: what a storm says it did is what the referee saw.

use std::time::Instant;

use anyhow::Result;
use tests::netns::{missing, skip};
use tests::referee::{Referee, Totals};
use tests::rig::{CLOSED_PORT, Rig};
use tests::storm::ClientPlan;

#[test]
fn storm_and_referee_agree() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let rig = Rig::new("storm", 2)?;
    let mut plan = ClientPlan::new(rig.targets(7000), 10_000);
    plan.refuse_every = Some(10);
    plan.reset_every = Some(7);
    plan.closed = rig.targets(CLOSED_PORT);
    let begun = Instant::now();
    let referee = Referee::start(&rig.client, "eth0")?;
    let (report, served) = rig.storm(&plan)?;
    let capture = referee.stop()?;
    capture.ensure_complete()?;
    let totals = capture.totals();

    assert_eq!(report.attempted, plan.connections, "{report:?}");
    assert_eq!(report.refused, plan.connections / 10, "{report:?}");
    assert_eq!(report.established, report.exchanged, "{report:?}");
    assert!(report.errors.is_empty(), "{report:?}");
    assert!(served.errors.is_empty(), "{served:?}");
    assert_eq!(served.accepted, report.established);
    assert_eq!(served.resets, report.resets_sent);
    assert_eq!(
        totals,
        Totals {
            syn_segments: totals.syn_segments,
            syn_ack_segments: totals.syn_ack_segments,
            rst_segments: report.refused + report.resets_sent,
            attempts: report.attempted,
            retransmitted: totals.retransmitted,
            answered: report.established,
            refused: report.refused,
            reset_by_client: report.resets_sent,
            reset_by_server: 0,
            stray_resets: 0,
        }
    );
    // The kernel's stamps lie within the test, in order, and the client cannot have been faster.
    let attempts = capture.attempts();
    let first = attempts.iter().map(|a| a.syn_ns).min().unwrap_or(0);
    let last = attempts.iter().map(|a| a.syn_ns).max().unwrap_or(0);
    assert!(u128::from(last - first) <= begun.elapsed().as_nanos());
    let mut round_trips: Vec<u64> = attempts
        .iter()
        .filter_map(|a| Some(a.syn_ack_ns?.checked_sub(a.syn_ns).unwrap_or(u64::MAX)))
        .collect();
    round_trips.sort_unstable();
    let median_us = round_trips[round_trips.len() / 2] as f64 / 1000.0;
    assert!(
        median_us <= report.connect_p50_us,
        "{median_us} > {}",
        report.connect_p50_us
    );
    Ok(())
}
