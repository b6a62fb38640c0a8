//! Causes in three parts: what was seen, why we think so, what to do next. Then what could not be decided.

use anstyle::AnsiColor;
use verify::waivers::{WaiverRow, WaiverState};
use verify::{Cause, Check, Report, Status};

use super::style::Style;
use super::{clean, paragraph};

/// Evidence lines and kinds of places beyond this many are in the JSON.
const MOST_LINES: usize = 8;

pub(super) fn write(out: &mut String, report: &Report, style: Style) {
    for cause in &report.causes {
        one(out, report, cause, style);
    }
    for lack in lacks(report) {
        lack.write(out, style);
    }
    for waiver in &report.waivers {
        self::waiver(out, waiver, style);
    }
    if report
        .waivers
        .iter()
        .any(|waiver| waiver.state != WaiverState::Used)
    {
        out.push('\n');
    }
}

/// Those that did what they are for are told of where they did it.
fn waiver(out: &mut String, waiver: &WaiverRow, style: Style) {
    let scope = match waiver.scope.as_str() {
        "" => String::new(),
        scope => format!(" {scope}"),
    };
    let what = format!("accepted {}{scope} ({})", waiver.check, waiver.reason);
    let text = match (waiver.state, waiver.findings) {
        (WaiverState::Used, _) => return,
        (WaiverState::Unused, _) => {
            format!("{what}: nothing of this run needs it; remove it from `accept`")
        }
        (WaiverState::Expired, 0) => {
            format!(
                "{what}: expired after {}, and nothing needs it",
                waiver.until
            )
        }
        (WaiverState::Expired, findings) => format!(
            "{what}: expired after {}, so {} again; mend what it covers, or give it a later `until`",
            waiver.until,
            if findings == 1 {
                "1 finding counts".to_owned()
            } else {
                format!("{findings} findings count")
            }
        ),
    };
    let mark = style.warning(0);
    let text = paragraph(
        &style.plain(&clean(&text)),
        style.warning_width() + 1,
        style.columns,
    );
    out.push_str(&format!("{mark} {text}\n"));
}

fn one(out: &mut String, report: &Report, cause: &Cause, style: Style) {
    let proven = report.checks.iter().any(|check| {
        check.status == Status::Fail
            && check.cause.as_ref() == Some(&cause.summary)
            && cause.explains.contains(&check.label())
    });
    let mark = match (weight(report, cause), proven) {
        (Weight::Waived, _) => Mark::Waived,
        (Weight::Warning, true) => Mark::Warning,
        (_, true) => Mark::Status(Status::Fail),
        (_, false) => Mark::Status(Status::Undecided),
    };
    headline(out, mark, &cause.summary, style);
    item(out, "seen", &listed(&cause.explains), style);
    lines_after(out, "why", &cause.evidence, style);
    for rival in &cause.rivals {
        let text = format!("{}; told apart by: {}", rival.summary, rival.separated_by);
        item(out, "or", &text, style);
    }
    item(out, "next", &cause.hint, style);
    let id = style.paint(&clean(&cause.id), AnsiColor::Cyan, false);
    out.push_str(&format!("    id:   {id}\n\n"));
}

/// What the checks that a cause explains weigh in the verdict.
#[derive(Clone, Copy, PartialEq)]
enum Weight {
    /// At least one decides.
    Gate,
    /// None decides, and not all are accepted.
    Warning,
    /// mesh.yaml accepts all of them.
    Waived,
}

fn weight(report: &Report, cause: &Cause) -> Weight {
    let explained = |check: &&Check| cause.explains.contains(&check.label());
    let explained: Vec<&Check> = report.checks.iter().filter(explained).collect();
    if explained.is_empty() || explained.iter().any(|check| check.gates()) {
        Weight::Gate
    } else if explained.iter().all(|check| check.waived.is_some()) {
        Weight::Waived
    } else {
        Weight::Warning
    }
}

#[derive(Clone, Copy)]
enum Mark {
    Status(Status),
    Warning,
    Waived,
}

fn headline(out: &mut String, mark: Mark, text: &str, style: Style) {
    let (mark, width) = match mark {
        Mark::Status(status) => (style.status(status, 0), style.status_width(status)),
        Mark::Warning => {
            let text = style.warning(0);
            (text, style.warning_width())
        }
        Mark::Waived => (style.waived(0), "~ waived".len()),
    };
    let text = paragraph(&style.plain(&clean(text)), width + 1, style.columns);
    let lines: Vec<String> = text.lines().map(|line| style.bold(line)).collect();
    out.push_str(&format!("{mark} {}\n", lines.join("\n")));
}

/// "    label: text", further lines below the text.
fn item(out: &mut String, label: &str, text: &str, style: Style) {
    let label = if label.is_empty() {
        String::new()
    } else {
        format!("{label}:")
    };
    let text = paragraph(&style.plain(&clean(text)), 10, style.columns);
    out.push_str(&format!("    {label:5} {text}\n"));
}

fn lines_after(out: &mut String, label: &str, lines: &[String], style: Style) {
    for (at, line) in lines.iter().take(MOST_LINES).enumerate() {
        item(out, if at == 0 { label } else { "" }, line, style);
    }
    if lines.len() > MOST_LINES {
        let more = format!("and {} more lines in -o json", lines.len() - MOST_LINES);
        item(out, "", &more, style);
    }
}

/// "a→b, b→a: reach.pod_tcp, reach.pod_udp; a→b: loss.udp".
fn listed(labels: &[String]) -> String {
    let mut by_check: Vec<(&str, Vec<&str>)> = Vec::new();
    for label in labels {
        let (id, place) = label.split_once(' ').unwrap_or((label, "the mesh"));
        match by_check.iter_mut().find(|(known, _)| *known == id) {
            Some((_, places)) if places.contains(&place) => {}
            Some((_, places)) => places.push(place),
            None => by_check.push((id, vec![place])),
        }
    }
    let mut by_places: Vec<(Vec<&str>, Vec<&str>)> = Vec::new();
    for (id, places) in by_check {
        match by_places.iter_mut().find(|(known, _)| *known == places) {
            Some((_, ids)) => ids.push(id),
            None => by_places.push((places, vec![id])),
        }
    }
    let more = by_places.len().saturating_sub(MOST_LINES);
    let mut parts: Vec<String> = by_places
        .iter()
        .take(MOST_LINES)
        .map(|(places, ids)| format!("{}: {}", places.join(", "), ids.join(", ")))
        .collect();
    if more > 0 {
        parts.push(format!("{more} more in -o json"));
    }
    parts.join("; ")
}

/// Undecided checks that no cause accounts for and that lack the same.
struct Lack<'r> {
    what: &'r str,
    /// The figures, if any, and the checks that have them.
    figures: Vec<(&'r str, Vec<String>)>,
    hints: Vec<&'r str>,
}

fn lacks(report: &Report) -> Vec<Lack<'_>> {
    let mut lacks: Vec<Lack<'_>> = Vec::new();
    let open = |check: &&Check| {
        check.status == Status::Undecided
            && check.gates()
            && !report
                .causes
                .iter()
                .any(|cause| cause.explains.contains(&check.label()))
    };
    for check in report.checks.iter().filter(open) {
        let text = check.cause.as_deref().unwrap_or("nothing is known of it");
        // What is lacking stands before the colon, the figures of the one check after it.
        let (what, figures) = text.split_once(": ").unwrap_or((text, ""));
        let at = lacks.iter().position(|lack| lack.what == what);
        let at = at.unwrap_or_else(|| {
            lacks.push(Lack {
                what,
                figures: Vec::new(),
                hints: Vec::new(),
            });
            lacks.len() - 1
        });
        let lack = &mut lacks[at];
        match lack.figures.iter_mut().find(|(known, _)| *known == figures) {
            Some((_, labels)) => labels.push(check.label()),
            None => lack.figures.push((figures, vec![check.label()])),
        }
        if let Some(hint) = check.hint.as_deref()
            && !lack.hints.contains(&hint)
        {
            lack.hints.push(hint);
        }
    }
    lacks
}

impl Lack<'_> {
    fn write(&self, out: &mut String, style: Style) {
        headline(out, Mark::Status(Status::Undecided), self.what, style);
        let lines: Vec<String> = self
            .figures
            .iter()
            .map(|(figures, labels)| match (*figures, listed(labels)) {
                ("", labels) => labels,
                (figures, labels) => format!("{figures} ({labels})"),
            })
            .collect();
        lines_after(out, "seen", &lines, style);
        // Hints that differ only in a number: the largest, which serves all, sorts by length and then by text.
        let hint = self.hints.iter().max_by_key(|hint| (hint.len(), **hint));
        item(out, "next", hint.unwrap_or(&"verify again"), style);
        out.push('\n');
    }
}
