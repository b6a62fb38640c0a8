//! JUnit XML, as CI systems read it: a suite per family of checks, a case per check and place.

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event};
use verify::{Check, Outcome, Report, Status};

use super::clean;

/// What a check is to a CI system.
enum Case {
    Passed,
    /// A gate failed.
    Failure,
    /// A gate is undecided: no evidence is never a pass.
    Error,
    /// Decides nothing; the reason.
    Skipped(String),
}

fn case(check: &Check) -> Case {
    if let Some(waived) = &check.waived {
        let reason = format!("waived until {}: {}", waived.until, waived.reason);
        return Case::Skipped(reason);
    }
    match (check.status, check.gates()) {
        (Status::Pass, _) => Case::Passed,
        (Status::Info, _) => Case::Skipped("a figure without a judgement".to_owned()),
        (Status::Fail, true) => Case::Failure,
        (Status::Undecided, true) => Case::Error,
        (Status::Fail | Status::Undecided, false) => {
            let why = check.cause.as_deref().unwrap_or("no cause is known");
            Case::Skipped(format!("a warning that decides nothing: {why}"))
        }
    }
}

/// The whole report. `time` is 0 for each case: all checks are judged from the same run, whose seconds the root has.
pub fn junit(report: &Report) -> String {
    let mut families: Vec<(&str, Vec<&Check>)> = Vec::new();
    for check in &report.checks {
        match families
            .iter_mut()
            .find(|(name, _)| *name == check.category)
        {
            Some((_, checks)) => checks.push(check),
            None => families.push((&check.category, vec![check])),
        }
    }
    let mut xml = Writer::new_with_indent(Vec::new(), b' ', 2);
    let written = write(&mut xml, report, &families);
    // A vector takes every byte.
    debug_assert!(written.is_ok(), "{written:?}");
    String::from_utf8_lossy(&xml.into_inner()).into_owned() + "\n"
}

type Xml = Writer<Vec<u8>>;

fn write(xml: &mut Xml, report: &Report, families: &[(&str, Vec<&Check>)]) -> std::io::Result<()> {
    xml.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let all: Vec<&Check> = report.checks.iter().collect();
    let mut root = counted(
        "testsuites",
        &format!("aggrik8s verify {}", report.mesh),
        &all,
    );
    root.push_attribute(("time", format!("{:.3}", report.duration_seconds).as_str()));
    xml.write_event(Event::Start(root))?;
    for (name, checks) in families {
        let mut suite = counted("testsuite", name, checks);
        suite.push_attribute(("timestamp", clean(&report.started_at).as_str()));
        suite.push_attribute(("time", "0"));
        xml.write_event(Event::Start(suite))?;
        for check in checks {
            one(xml, report, check)?;
        }
        xml.write_event(Event::End(BytesEnd::new("testsuite")))?;
    }
    xml.write_event(Event::End(BytesEnd::new("testsuites")))
}

fn counted(element: &'static str, name: &str, checks: &[&Check]) -> BytesStart<'static> {
    let count = |of: fn(&Case) -> bool| checks.iter().filter(|check| of(&case(check))).count();
    let mut start = BytesStart::new(element);
    let numbers = [
        ("tests", checks.len()),
        ("failures", count(|case| matches!(case, Case::Failure))),
        ("errors", count(|case| matches!(case, Case::Error))),
        ("skipped", count(|case| matches!(case, Case::Skipped(_)))),
    ];
    start.push_attribute(("name", clean(name).as_str()));
    for (key, number) in numbers {
        start.push_attribute((key, number.to_string().as_str()));
    }
    start
}

fn one(xml: &mut Xml, report: &Report, check: &Check) -> std::io::Result<()> {
    let place = check.place();
    let name = match (place.as_str(), check.plane) {
        ("", _) => check.id.clone(),
        // Both agents of a node are checked in the same place.
        (place, Some(plane)) if check.category == "evidence" && check.node.is_some() => {
            format!("{} {place} {plane:?}", check.id).to_lowercase()
        }
        (place, _) => format!("{} {place}", check.id),
    };
    let mut start = BytesStart::new("testcase");
    start.push_attribute(("classname", clean(&check.id).as_str()));
    start.push_attribute(("name", clean(&name).as_str()));
    start.push_attribute(("time", "0"));
    let (element, message) = match case(check) {
        Case::Passed => return xml.write_event(Event::Empty(start)),
        Case::Failure => ("failure", check.cause.clone()),
        Case::Error => ("error", check.cause.clone()),
        Case::Skipped(reason) => ("skipped", Some(reason)),
    };
    xml.write_event(Event::Start(start))?;
    let mut inner = BytesStart::new(element);
    let message = message.unwrap_or_else(|| "no cause is known".to_owned());
    inner.push_attribute(("message", clean(&message).as_str()));
    if element == "skipped" {
        xml.write_event(Event::Empty(inner))?;
    } else {
        let id = cause(report, check).map_or("undecided", |cause| cause.id.as_str());
        inner.push_attribute(("type", clean(id).as_str()));
        xml.write_event(Event::Start(inner))?;
        xml.write_event(Event::Text(BytesText::new(&lines(report, check))))?;
        xml.write_event(Event::End(BytesEnd::new(element)))?;
    }
    xml.write_event(Event::End(BytesEnd::new("testcase")))
}

fn cause<'r>(report: &'r Report, check: &Check) -> Option<&'r verify::Cause> {
    let label = check.label();
    report
        .causes
        .iter()
        .find(|cause| cause.explains.contains(&label))
}

/// What was seen, why we think so, what to do next.
fn lines(report: &Report, check: &Check) -> String {
    let observed = &check.observed;
    let seen = match (observed.bad, observed.n) {
        (Some(bad), Some(n)) => format!("{bad} of {n} bad; expected: {}", check.expected.text),
        _ => format!(
            "{}; expected: {}",
            check.cause.as_deref().unwrap_or("nothing"),
            check.expected.text
        ),
    };
    let cause = cause(report, check);
    let why = match cause {
        Some(cause) if !cause.evidence.is_empty() => cause.evidence.join("; "),
        _ if !check.evidence.is_empty() => check.evidence.join("; "),
        _ => check.cause.clone().unwrap_or_default(),
    };
    let next = cause
        .map(|cause| cause.hint.as_str())
        .or(check.hint.as_deref());
    format!(
        "seen: {}\nwhy:  {}\nnext: {}",
        clean(&seen),
        clean(&why),
        clean(next.unwrap_or(match report.result {
            Outcome::Ready => "-",
            _ => "verify again",
        }))
    )
}
