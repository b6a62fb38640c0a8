//! Verdicts of `aggrik8s verify` on a real lab and the seconds that each takes: healthy, and under six faults.

use anyhow::Result;
use serde_json::json;
use tests::faults::{self, Objections, SIX};
use tests::lab_rig::Lab;
use tests::verify_rig::{Verdict, verify, word};

use crate::report::{Goal, Report};
use crate::{Args, median, quantile};

/// Longest that verify may take on the default lab, s.
const MOST_SECONDS: f64 = 20.0;

pub(crate) fn healthy(args: &Args, report: &mut Report) -> Result<()> {
    let lab = Lab::up(&[])?;
    let mut runs = Vec::new();
    for _ in 0..args.runs {
        let verdict = verify(&lab, &[])?;
        let found = faults::healthy(&verdict);
        runs.push((verdict, found));
    }
    let right = |(_, found): &&(Verdict, Objections)| found.none();
    report.judge(
        "healthy runs that are READY",
        runs.iter().filter(right).count() as f64,
        "runs",
        Goal::AtLeast(f64::from(args.runs)),
        format!("of {} on one lab", args.runs),
    );
    let seconds: Vec<f64> = runs.iter().map(|(verdict, _)| verdict.seconds).collect();
    report.judge(
        "verify of the default lab",
        quantile(&seconds, 1.0),
        "s",
        Goal::AtMost(MOST_SECONDS),
        format!("slowest; median {:.1} s", median(&seconds)),
    );
    let all: Vec<_> = runs
        .iter()
        .map(|(verdict, found)| raw(verdict, found))
        .collect();
    report.raw("healthy_runs", all)
}

pub(crate) fn faults(_: &Args, report: &mut Report) -> Result<()> {
    let lab = Lab::up(&[])?;
    let mut all = Vec::new();
    for fault in &SIX {
        lab.ok("fault", fault.args)?;
        let verdict = verify(&lab, &[])?;
        lab.ok("fault", &["clear", "--all"])?;
        let found = fault.objections(&verdict);
        let top = &verdict.report["causes"][0];
        let mut note = format!(
            "{}, exit {}: {}",
            verdict.result(),
            verdict.exit.unwrap_or(-1),
            word(&top["summary"])
        );
        for objection in found.wrong.iter().chain(&found.starved) {
            note += &format!("; {objection}");
        }
        report.judge(
            format!("fault named: {}", fault.name),
            f64::from(u8::from(found.none())),
            "of 1",
            Goal::AtLeast(1.0),
            format!("{:.1} s, {note}", verdict.seconds),
        );
        all.push(json!({ "fault": fault.name, "run": raw(&verdict, &found) }));
    }
    report.raw("six_faults", all)
}

fn raw(verdict: &Verdict, found: &Objections) -> serde_json::Value {
    json!({
        "result": verdict.result(),
        "exit": verdict.exit,
        "seconds": verdict.seconds,
        "wrong": found.wrong,
        "starved": found.starved,
    })
}
