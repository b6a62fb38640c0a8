//! The answer for a person: links, checks, failures with what was seen, why, and what to do; the result last.

use std::fmt::Write;

use verify::checks::{CHECKS, CheckSpec, Severity};
use verify::quantile::Quantile;
use verify::waivers::Waived;
use verify::{Check, Outcome, Report, Status};

use super::causes;
use super::style::Style;
use super::{clean, paragraph};

/// Links, one line per kind of check, causes, result.
pub fn table(report: &Report, style: Style) -> String {
    let mut out = String::new();
    if measured_anything(report) {
        links(&mut out, report, style);
    }
    checks(&mut out, report, style);
    causes::write(&mut out, report, style);
    result(&mut out, report, style);
    out
}

/// Objectives to paste into mesh.yaml, below the table.
pub fn proposal(block: &str) -> String {
    format!(
        "\n# mesh.yaml declares no objectives; these, from this run with head-room, notice when it gets worse:\n{block}"
    )
}

/// Only what is wrong, and the result.
pub fn short(report: &Report, style: Style) -> String {
    let mut out = String::new();
    let links = report.links.iter().filter(|_| measured_anything(report));
    for row in links.filter(|row| row.result != Outcome::Ready || row.path_result != Outcome::Ready)
    {
        let _ = writeln!(
            out,
            "{} {} {}: link {}, path {}",
            clean(&row.source_cluster),
            style.arrow(),
            clean(&row.target_cluster),
            style.outcome(row.result, 0),
            style.outcome(row.path_result, 0)
        );
    }
    causes::write(&mut out, report, style);
    result(&mut out, report, style);
    out
}

/// `verify --contexts` takes no look at any sample.
fn measured_anything(report: &Report) -> bool {
    report.confidence.looks > 0
}

/// Rows that wait for agents to be installed: they stand in one line, not in one each.
fn waits(report: &Report, check: &Check) -> bool {
    let label = check.label();
    let absent = |cause: &&verify::Cause| cause.id == "agent.absent";
    let mut causes = report.causes.iter().filter(absent);
    causes.any(|cause| cause.explains.contains(&label))
}

fn links(out: &mut String, report: &Report, style: Style) {
    let names: Vec<String> = report
        .links
        .iter()
        .map(|row| {
            format!(
                "{} {} {}",
                clean(&row.source_cluster),
                style.arrow(),
                clean(&row.target_cluster)
            )
        })
        .collect();
    let width = names
        .iter()
        .map(|name| name.chars().count())
        .max()
        .unwrap_or(4)
        .max(4);
    let upper = if style.ascii { "loss<=" } else { "loss ≤" };
    let header = format!(
        "{:width$}  {:>6} {:>6}  {upper:>7}  {:>12} {:>12}  {:11} {:11}",
        "link", "probes", "failed", "conn p50/p99", "rtt p50/p99", "path", "verdict"
    );
    let _ = writeln!(out, "{}", style.bold(header.trim_end()));
    for (row, name) in report.links.iter().zip(names) {
        let pad = width - name.chars().count();
        let _ = writeln!(
            out,
            "{name}{:pad$}  {:>6} {:>6}  {:>7}  {:>12} {:>12}  {} {}",
            "",
            row.n,
            row.failed,
            row.loss_upper.map_or_else(|| "-".to_owned(), share),
            both(row.connect_p50_seconds, row.connect_p99_seconds),
            both(row.handshake_rtt_p50_seconds, row.handshake_rtt_p99_seconds),
            style.outcome(row.path_result, 11),
            style.outcome(row.result, 0)
        );
    }
    out.push('\n');
}

/// "4.55/4.91 ms".
fn both(median: Option<f64>, tail: Option<f64>) -> String {
    match (median, tail) {
        (None, None) => "-".to_owned(),
        (median, tail) => {
            let number = |seconds| {
                let text = milliseconds(seconds);
                text.trim_end_matches(" ms").to_owned()
            };
            format!("{}/{} ms", number(median), number(tail))
        }
    }
}

fn checks(out: &mut String, report: &Report, style: Style) {
    let width = CHECKS.iter().map(|spec| spec.id.len()).max().unwrap_or(0);
    let mut family = "";
    for spec in CHECKS {
        let rows: Vec<&Check> = report
            .checks
            .iter()
            .filter(|check| check.id == spec.id)
            .filter(|check| measured_anything(report) || !waits(report, check))
            .collect();
        if rows.is_empty() {
            continue;
        }
        if spec.family() != family {
            family = spec.family();
            let _ = writeln!(out, "{}", style.bold(family));
        }
        let symbol = if style.ascii { 2 } else { 1 };
        let text = style.plain(&clean(&summary(spec, &rows)));
        let _ = writeln!(
            out,
            "  {}  {:width$}  {}",
            mark(&rows, style),
            spec.id,
            paragraph(&text, 14 + symbol + width, style.columns)
        );
    }
    if !measured_anything(report) {
        waiting(out, report, style, width);
    }
    out.push('\n');
}

fn waiting(out: &mut String, report: &Report, style: Style, width: usize) {
    let rows = report.checks.iter().filter(|check| waits(report, check));
    let ids: std::collections::BTreeSet<&str> = rows.map(|check| check.id.as_str()).collect();
    if ids.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "{}\n  {}  {:width$}  not measured: {} checks of {} links wait for agents",
        style.bold("data plane"),
        style.status(Status::Undecided, 7),
        "*",
        ids.len(),
        report.links.len()
    );
}

fn mark(rows: &[&Check], style: Style) -> String {
    let worst = rows
        .iter()
        .filter(|check| check.waived.is_none())
        .map(|check| check.status)
        .max_by_key(|status| match status {
            Status::Fail => 3,
            Status::Undecided => 2,
            Status::Pass => 1,
            Status::Info => 0,
        })
        .unwrap_or(Status::Undecided);
    let gates = |check: &&Check| check.status == Status::Fail && check.severity == Severity::Gate;
    let accepted = rows.iter().any(|check| check.waived.is_some());
    match worst {
        // Without a row that nobody waived, `worst` stands for none.
        _ if rows.iter().all(|check| check.waived.is_some()) => style.waived(7),
        Status::Pass | Status::Info if accepted => style.waived(7),
        Status::Fail if !rows.iter().any(gates) => style.warning(7),
        worst => style.status(worst, 7),
    }
}

/// "6 of 6 links · worst bad share ≤ 0.5 %".
fn summary(spec: &CheckSpec, rows: &[&Check]) -> String {
    let good = rows
        .iter()
        .filter(|check| check.status == Status::Pass)
        .count();
    if rows
        .iter()
        .all(|check| check.status == Status::Info && check.observed.n.is_some())
    {
        return figures(rows);
    }
    let unit = match (
        rows[0].source_cluster.is_some(),
        rows[0].target_cluster.is_some(),
    ) {
        (true, true) => "links",
        (true, false) if rows[0].category == "evidence" && rows[0].node.is_some() => "agents",
        (true, false) if rows[0].node.is_none() && rows[0].service.is_none() => "clusters",
        (true, false) => "agents",
        (false, true) => return rows[0].evidence.join("; "),
        (false, false) => {
            return rows[0]
                .cause
                .clone()
                .unwrap_or_else(|| rows[0].expected.text.clone());
        }
    };
    let unit = if spec.id == "config.clock" {
        "nodes"
    } else {
        unit
    };
    let mut text = if rows.iter().all(|check| check.status == Status::Info) {
        format!("{} {unit}", rows.len())
    } else {
        format!("{good} of {} {unit}", rows.len())
    };
    let worst =
        |of: fn(&Check) -> Option<f64>| rows.iter().filter_map(|check| of(check)).reduce(f64::max);
    if let Some(upper) = worst(|check| check.observed.rate_upper) {
        text += &format!(", bad share at most {}", share(upper));
        if let Some(expected) = rows[0].expected.rate_at_most {
            text += &format!(" (objective {})", share(expected));
        }
    }
    measured(&mut text, rows);
    grown(&mut text, rows);
    if let Some(threshold) = worst(|check| check.expected.threshold_seconds)
        && spec.id != "config.clock"
    {
        text += &format!(", threshold {}", milliseconds(Some(threshold)));
    }
    if let Some(offset) = worst(|check| check.observed.offset_seconds.map(f64::abs)) {
        let bound = worst(|check| check.observed.offset_bound_seconds);
        text += &format!(
            ", largest offset {} ± {}",
            milliseconds(Some(offset)),
            milliseconds(bound)
        );
    }
    if let Some(delay) = worst(|check| check.observed.user_space_delay_seconds) {
        text += &format!(", user-space delay at most {}", milliseconds(Some(delay)));
    }
    let sum =
        |of: fn(&Check) -> Option<u64>| rows.iter().filter_map(|check| of(check)).sum::<u64>();
    let mut accepted: Vec<&Waived> = rows
        .iter()
        .filter_map(|check| check.waived.as_ref())
        .collect();
    let waived = accepted.len();
    accepted.dedup();
    if waived > 0 {
        let reasons: Vec<String> = accepted
            .iter()
            .map(|waived| format!("{} (until {})", waived.reason, waived.until))
            .collect();
        text += &format!(", {waived} waived: {}", reasons.join("; "));
    }
    let starved = sum(|check| check.observed.starved);
    if starved > 0 {
        text += &format!(", {starved} samples while starved");
    }
    let stalled = sum(|check| check.observed.excluded_stalled);
    if stalled > 0 {
        text += &format!(", {stalled} void near stalls");
    }
    text
}

/// ", handshake p99 of a→b grew most: 20.1 → 22.1 ms", and of how many links nothing is known.
fn grown(text: &mut String, rows: &[&Check]) {
    let all = rows.iter().flat_map(|check| {
        check
            .observed
            .growth
            .iter()
            .map(move |growth| (*check, growth))
    });
    let seconds = |of: &Option<Quantile>| of.as_ref().and_then(|q| q.seconds);
    let most = all
        .filter_map(|(check, growth)| Some((growth.grew_seconds?, check, growth)))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let Some((_, check, growth)) = most else {
        return;
    };
    *text += &format!(
        ", {} of {} grew most: {} → {}",
        growth.name(),
        check.place(),
        milliseconds(seconds(&growth.baseline)),
        milliseconds(seconds(&growth.now))
    );
    let without = rows
        .iter()
        .filter(|check| check.status == Status::Info)
        .count();
    if without > 0 {
        *text += &format!(", {without} without a baseline");
    }
}

/// "0 of 360 probes failed inside 3 clusters, half of them within 0.31 ms".
fn figures(rows: &[&Check]) -> String {
    let sum =
        |of: fn(&Check) -> Option<u64>| rows.iter().filter_map(|check| of(check)).sum::<u64>();
    let (n, bad) = (
        sum(|check| check.observed.n),
        sum(|check| check.observed.bad),
    );
    let mut text = format!("{bad} of {n} probes failed inside {} clusters", rows.len());
    let medians = rows
        .iter()
        .filter_map(|check| check.observed.p50.as_ref().and_then(|q| q.seconds));
    if let Some(slowest) = medians.reduce(f64::max) {
        text += &format!(", median at most {}", milliseconds(Some(slowest)));
    }
    let failing = rows
        .iter()
        .filter(|check| check.observed.bad.is_some_and(|bad| bad > 0))
        .map(|check| {
            format!(
                "{} in `{}`",
                check.observed.bad.unwrap_or(0),
                check.place().split('→').next().unwrap_or_default()
            )
        });
    let failing: Vec<String> = failing.collect();
    if !failing.is_empty() {
        text += &format!(": {}", failing.join(", "));
    }
    text
}

/// The smallest figures of measured paths.
fn measured(text: &mut String, rows: &[&Check]) {
    let bytes = rows.iter().filter_map(|check| check.observed.mtu_bytes);
    if let Some(bytes) = bytes.min() {
        *text += &format!(", smallest {bytes} bytes");
    }
    let declared = rows
        .iter()
        .find_map(|check| check.expected.mtu_bytes_at_least);
    if let (Some(declared), "mtu.path") = (declared, rows[0].id.as_str()) {
        *text += &format!(" (objective {declared})");
    }
    let bits = rows
        .iter()
        .filter_map(|check| check.observed.goodput_bits_per_second);
    if let Some(bits) = bits.reduce(f64::min) {
        *text += &format!(", slowest {:.0} Mbit/s", bits / 1e6);
    }
    let declared = rows
        .iter()
        .find_map(|check| check.expected.goodput_bits_per_second_at_least);
    if let Some(declared) = declared {
        *text += &format!(" (objective {:.0} Mbit/s)", declared / 1e6);
    }
    let queueing = rows
        .iter()
        .filter_map(|check| check.observed.queueing_seconds)
        .reduce(f64::max);
    if let Some(queueing) = queueing {
        *text += &format!(
            ", load adds at most {} to the round trip",
            milliseconds(Some(queueing))
        );
    }
}

fn result(out: &mut String, report: &Report, style: Style) {
    let counted = |status| {
        report
            .checks
            .iter()
            .filter(|check| check.gates() && check.status == status)
            .count()
    };
    let sure = |confidence: Option<f64>| {
        let confidence = confidence.map_or_else(|| "unknown".to_owned(), floor_percent);
        match measured_anything(report) {
            true => format!("with {confidence} confidence: "),
            false => String::new(),
        }
    };
    let detail = match report.result {
        Outcome::Ready if !measured_anything(report) => {
            "every check that was asked for holds".to_owned()
        }
        Outcome::Ready => format!(
            "{}every objective of every link and node holds{}",
            sure(report.confidence.ready),
            report
                .confidence
                .burst_seconds
                .map_or_else(String::new, |seconds| format!(
                    ", losses in bursts of up to {} ms on average included",
                    (seconds * 1_000.0).floor()
                ))
        ),
        Outcome::NotReady => format!(
            "{}{} of {} checks failed, {} undecided",
            sure(report.confidence.not_ready),
            counted(Status::Fail),
            report.checks.len(),
            counted(Status::Undecided)
        ),
        Outcome::Undecided => format!(
            "{} of {} checks lack evidence, nothing failed",
            counted(Status::Undecided),
            report.checks.len()
        ),
    };
    let waived = report.checks.iter().filter(|c| c.waived.is_some()).count();
    let detail = match waived {
        0 => detail,
        1 => format!("{detail}, but for 1 waived finding"),
        many => format!("{detail}, but for {many} waived findings"),
    };
    let text = format!("{detail} ({:.1} s)", report.duration_seconds);
    let _ = writeln!(
        out,
        "{} {}",
        style.outcome(report.result, 0),
        paragraph(&text, 13, style.columns)
    );
}

/// Rounded down: a confidence is never overstated.
fn floor_percent(share: f64) -> String {
    format!("{:.1} %", (share * 1_000.0 + 1e-9).floor() / 10.0)
}

/// A share in per cent with three significant digits.
fn share(share: f64) -> String {
    let percent = share * 100.0;
    let digits = if percent >= 10.0 {
        1
    } else if percent >= 1.0 {
        2
    } else {
        3
    };
    format!("{percent:.digits$} %")
}

fn milliseconds(seconds: Option<f64>) -> String {
    let Some(seconds) = seconds else {
        return "-".to_owned();
    };
    let ms = seconds * 1e3;
    let digits = if ms >= 100.0 {
        0
    } else if ms >= 10.0 {
        1
    } else {
        2
    };
    format!("{ms:.digits$} ms")
}
