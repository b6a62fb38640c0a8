//! Causes in three parts: what was seen, why we think so, what to do next. Then what could not be decided.

use std::fmt::Write;

use anstyle::AnsiColor;
use verify::{Cause, Report, Status};

use super::clean;
use super::style::Style;

/// Evidence lines and claimed checks beyond this many are in the JSON.
const MOST_LINES: usize = 8;

pub(super) fn write(out: &mut String, report: &Report, style: Style) {
    for cause in &report.causes {
        one(out, report, cause, style);
    }
    orphans(out, report, style);
}

fn one(out: &mut String, report: &Report, cause: &Cause, style: Style) {
    let say = |text: &str| style.plain(&clean(text));
    let failing = |label: &str| {
        report.checks.iter().any(|check| {
            check.status == Status::Fail
                && label.starts_with(&check.id)
                && check.cause.as_ref() == Some(&cause.summary)
        })
    };
    let proven = cause.explains.iter().any(|label| failing(label));
    let status = if proven {
        Status::Fail
    } else {
        Status::Undecided
    };
    let _ = writeln!(
        out,
        "{} {}  {}",
        style.status(status, 0),
        style.bold(&say(&cause.summary)),
        style.paint(&format!("[{}]", clean(&cause.id)), AnsiColor::Cyan, false)
    );
    let _ = writeln!(out, "    seen: {}", say(&listed(&cause.explains)));
    for (at, line) in cause.evidence.iter().take(MOST_LINES).enumerate() {
        let label = if at == 0 { "why: " } else { "     " };
        let _ = writeln!(out, "    {label} {}", say(line));
    }
    if cause.evidence.len() > MOST_LINES {
        let _ = writeln!(
            out,
            "          and {} more lines in -o json",
            cause.evidence.len() - MOST_LINES
        );
    }
    for rival in &cause.rivals {
        let _ = writeln!(
            out,
            "    or:   {}; told apart by: {}",
            say(&rival.summary),
            say(&rival.separated_by)
        );
    }
    let _ = writeln!(out, "    next: {}", say(&cause.hint));
    out.push('\n');
}

/// "reach.pod_tcp a→b, b→a; loss.udp a→b".
fn listed(labels: &[String]) -> String {
    let mut grouped: Vec<(&str, Vec<&str>)> = Vec::new();
    for label in labels {
        let (id, place) = label.split_once(' ').unwrap_or((label, ""));
        match grouped.iter_mut().find(|(known, _)| *known == id) {
            Some((_, places)) => places.push(place),
            None => grouped.push((id, vec![place])),
        }
    }
    let parts: Vec<String> = grouped
        .iter()
        .take(MOST_LINES)
        .map(|(id, places)| format!("{id} {}", places.join(", ")).trim_end().to_owned())
        .collect();
    let more = grouped.len().saturating_sub(MOST_LINES);
    let tail = if more > 0 {
        format!("; {more} more kinds of checks")
    } else {
        String::new()
    };
    parts.join("; ") + &tail
}

/// Undecided checks that no cause accounts for, grouped by what they lack.
fn orphans(out: &mut String, report: &Report, style: Style) {
    let claimed = |id: &str, place: &str| {
        report.causes.iter().any(|cause| {
            cause
                .explains
                .iter()
                .any(|label| label == &format!("{id} {place}"))
        })
    };
    let mut grouped: Vec<(String, Vec<String>, Option<&str>)> = Vec::new();
    for check in report
        .checks
        .iter()
        .filter(|check| check.status == Status::Undecided)
    {
        let end = |name: &Option<String>| name.clone().unwrap_or_default();
        let place = match &check.target_cluster {
            Some(target) => format!("{}→{target}", end(&check.source_cluster)),
            None => end(&check.source_cluster),
        };
        if claimed(&check.id, &place) {
            continue;
        }
        let lack = check.cause.clone().unwrap_or_default();
        let label = format!("{} {place}", check.id);
        match grouped.iter_mut().find(|(known, ..)| *known == lack) {
            Some((_, labels, _)) => labels.push(label),
            None => grouped.push((lack, vec![label], check.hint.as_deref())),
        }
    }
    for (lack, labels, hint) in grouped {
        let say = |text: &str| style.plain(&clean(text));
        let _ = writeln!(
            out,
            "{} {}",
            style.status(Status::Undecided, 0),
            style.bold(&say(&lack))
        );
        let _ = writeln!(out, "    seen: {}", say(&listed(&labels)));
        let next =
            hint.unwrap_or("run verify again, with a longer --window for more samples per node");
        let _ = writeln!(out, "    next: {}", say(next));
        out.push('\n');
    }
}
