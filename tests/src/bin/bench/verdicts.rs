//! Verdicts of `aggrik8s verify` on real labs and the seconds that each takes: healthy, and under every kind of fault.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;

use anyhow::{Result, anyhow};
use serde_json::json;
use tests::faults::{self, Case, Objections, every_case};
use tests::lab_rig::Lab;
use tests::verify_rig::{Verdict, verify, word};

use crate::report::{Goal, Report};
use crate::{Args, median, quantile};

/// Longest that verify may take on the default lab, s.
const MOST_SECONDS: f64 = 20.0;
/// Smallest share of faults with the right verdict, cause, direction and node.
const NAMED_SHARE: f64 = 0.95;

pub(crate) fn healthy(args: &Args, report: &mut Report) -> Result<()> {
    let runs = healthy_runs(args.labs, args.runs, &[])?;
    let all = runs.len() as f64;
    let of = |result: &str| {
        let is = |(verdict, _): &&(Verdict, Objections)| verdict.result() == result;
        runs.iter().filter(is).count() as f64
    };
    report.judge(
        "healthy runs that are NOT READY",
        of("NOT_READY"),
        "runs",
        Goal::AtMost(0.0),
        format!("of {all}, {} labs side by side", args.labs),
    );
    report.judge(
        "healthy runs that are READY",
        of("READY"),
        "runs",
        Goal::AtLeast(all),
        format!("of {all}"),
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

pub(crate) fn faults(args: &Args, report: &mut Report) -> Result<()> {
    let mut cases = every_case(args.places as usize, args.seed);
    if !args.kind.is_empty() {
        cases.retain(|case| args.kind.iter().any(|kind| kind == case.kind));
    }
    // What needs the same lab comes together, what leaves none that is of use last.
    cases.sort_by_key(|case| (case.lab, case.remembered));
    let lab_of = |case: &Case| (case.lab, case.remembered);
    let runs = side_by_side(args.labs, &cases, lab_of, |lab, case: &Case| {
        lab.break_by(case)?;
        let verdict = verify(lab, &[])?;
        lab.mend(case)?;
        let found = case.objections(&verdict);
        Ok((verdict, found))
    })?;
    let each = || cases.iter().zip(&runs);
    let share = |right: usize, of: usize| right as f64 / of.max(1) as f64;

    let right = each().filter(|(_, (_, found))| found.wrong.is_empty());
    let right = right.count();
    report.judge(
        "faults with the right verdict, causes, directions and nodes",
        share(right, cases.len()),
        "",
        Goal::AtLeast(NAMED_SHARE),
        format!("{right} of {}", cases.len()),
    );
    let undecided: usize = runs.iter().map(|(_, found)| found.starved.len()).sum();
    let rows: usize = runs
        .iter()
        .map(|(verdict, _)| 2 * verdict.list("links").len())
        .sum();
    report.judge(
        "links and paths that no fault touched and that came out UNDECIDED",
        undecided as f64,
        "",
        Goal::AtMost(0.0),
        format!("of {rows} links and paths in all, for want of processor"),
    );
    let unknown: Vec<_> = each().filter(|(case, _)| case.unknown()).collect();
    let misnamed = unknown
        .iter()
        .filter(|(case, (verdict, _))| !case.named(verdict))
        .count();
    report.judge(
        "faults of an unknown kind that are given a name",
        misnamed as f64,
        "",
        Goal::AtMost(0.0),
        format!("of {}", unknown.len()),
    );
    let ready = each()
        .filter(|(case, (verdict, _))| case.exit == 1 && verdict.result() == "READY")
        .count();
    report.judge(
        "faults that are READY",
        ready as f64,
        "",
        Goal::AtMost(0.0),
        format!("of {}", cases.len()),
    );
    for (case, (verdict, found)) in each().filter(|(_, (_, found))| !found.none()) {
        let objections: Vec<&str> = found
            .wrong
            .iter()
            .chain(&found.starved)
            .map(String::as_str)
            .collect();
        report.note(
            format!("objections to {}", case.name()),
            objections.len() as f64,
            "",
            format!("{}: {}", verdict.result(), objections.join("; ")),
        );
    }
    report.text(confusion(&cases, &runs)?);
    let all: Vec<_> = each()
        .map(|(case, (verdict, found))| {
            let causes: Vec<&str> = verdict
                .list("causes")
                .iter()
                .map(|c| word(&c["id"]))
                .collect();
            json!({ "fault": case.name(), "causes": causes, "run": raw(verdict, found) })
        })
        .collect();
    report.raw("faults", all)
}

/// A row per kind: what was named first, how often, and how many of the runs were right in everything.
fn confusion(cases: &[Case], runs: &[(Verdict, Objections)]) -> Result<String> {
    type Row<'a> = (BTreeMap<&'a str, usize>, usize, usize);
    let mut rows: Vec<(&str, String, Row)> = Vec::new();
    for (case, (verdict, found)) in cases.iter().zip(runs) {
        if rows.last().is_none_or(|(kind, ..)| *kind != case.kind) {
            let expected: Vec<&str> = case.causes.iter().map(|cause| cause.id).collect();
            rows.push((case.kind, expected.join(" + "), Row::default()));
        }
        let Some((_, _, (named, right, all))) = rows.last_mut() else {
            continue;
        };
        *named
            .entry(word(&verdict.report["causes"][0]["id"]))
            .or_default() += 1;
        *right += usize::from(found.none());
        *all += 1;
    }
    let mut out = String::from("| fault | is | named first | right |\n|---|---|---|---|\n");
    for (kind, expected, (named, right, all)) in rows {
        let named: Vec<String> = named.iter().map(|(id, n)| format!("{id} {n}")).collect();
        writeln!(
            out,
            "| {kind} | {expected} | {} | {right} of {all} |",
            named.join(", ")
        )?;
    }
    Ok(out)
}

fn healthy_runs(
    labs: u32,
    runs: u32,
    options: &'static [&'static str],
) -> Result<Vec<(Verdict, Objections)>> {
    let items = vec![(); runs as usize];
    side_by_side(
        labs,
        &items,
        |()| (options, false),
        |lab, ()| {
            let verdict = verify(lab, &[])?;
            let found = faults::healthy(&verdict);
            Ok((verdict, found))
        },
    )
}

/// Three times as many nodes in as many clusters.
pub(crate) fn six_nodes(args: &Args, report: &mut Report) -> Result<()> {
    let runs = args.runs.min(3);
    let seconds = |runs: &[(Verdict, Objections)]| -> Vec<f64> {
        runs.iter().map(|(verdict, _)| verdict.seconds).collect()
    };
    let two = healthy_runs(1, runs, &[])?;
    let six = healthy_runs(1, runs, &["--nodes", "18"])?;
    let (short, long) = (median(&seconds(&two)), median(&seconds(&six)));
    report.judge(
        "verify with six nodes a cluster / with two",
        long / short,
        "",
        Goal::AtMost(2.0),
        format!("medians of {runs}: {long:.1} s / {short:.1} s"),
    );
    let ready = six
        .iter()
        .filter(|(verdict, _)| verdict.result() == "READY");
    report.judge(
        "healthy runs with six nodes a cluster that are READY",
        ready.count() as f64,
        "runs",
        Goal::AtLeast(f64::from(runs)),
        format!("of {runs}"),
    );
    let all: Vec<_> = six
        .iter()
        .map(|(verdict, found)| raw(verdict, found))
        .collect();
    report.raw("six_nodes", all)
}

/// Does `work` for every item, each of `labs` labs taking the next, built anew where its options are other ones or the last
/// item left none that is of use; answers in the order of the items.
fn side_by_side<T: Sync, R: Send>(
    labs: u32,
    items: &[T],
    lab_of: impl Fn(&T) -> (&'static [&'static str], bool) + Sync,
    work: impl Fn(&Lab, &T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let next = Mutex::new(items.iter().enumerate());
    let done = Mutex::new(BTreeMap::new());
    let worker = || -> Result<()> {
        let mut up: Option<(&[&str], Lab)> = None;
        loop {
            let item = next
                .lock()
                .map_err(|_| anyhow!("another lab failed"))?
                .next();
            let Some((index, item)) = item else {
                return Ok(());
            };
            let (wanted, spoilt) = lab_of(item);
            if up.as_ref().is_none_or(|(options, _)| *options != wanted) {
                drop(up.take());
                up = Some((wanted, Lab::up(wanted)?));
            }
            let Some((_, lab)) = &up else { continue };
            let answer = work(lab, item)?;
            if spoilt {
                up = None;
            }
            done.lock()
                .map_err(|_| anyhow!("another lab failed"))?
                .insert(index, answer);
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..labs).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker
                .join()
                .unwrap_or_else(|_| Err(anyhow!("a lab's thread ended badly")))
        })
    })?;
    let done = done.into_inner().map_err(|_| anyhow!("a lab failed"))?;
    Ok(done.into_values().collect())
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
