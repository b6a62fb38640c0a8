//! `accept`, `severity`, `policies`: findings that are waived, what the failure of a check does, who is meant to reach whom.

use super::fields::{Fields, Refusal, Report, Shape, text};
use super::scalars::not_empty;
use crate::errors::shown;
use crate::spec::{At, WaiverSpec};
use crate::tree::{Kind, Value};
use crate::{Access, Day, Gravity};

pub(super) const WAIVER: Shape = Shape {
    what: "an accepted finding",
    required: &["check", "reason", "until"],
    optional: &["scope"],
};
pub(super) const SCOPE: Shape = Shape {
    what: "the scope of an accepted finding",
    required: &[],
    optional: &["source", "target", "node"],
};

pub(super) const POLICY: Shape = Shape {
    what: "a policy",
    required: &["source", "target", "access"],
    optional: &[],
};

pub(super) fn access(text: &str) -> Result<Access, Refusal> {
    match text {
        "allow" => Ok(Access::Allow),
        "deny" => Ok(Access::Deny),
        _ => Err(Refusal::with_hint(
            format!("`{}` is neither `allow` nor `deny`", shown(text)),
            "write `access: deny` for connections that must not come through",
        )),
    }
}

pub(super) fn waiver(report: &mut Report, value: Value, path: String) -> Option<WaiverSpec> {
    let fields = &mut Fields::new(report, value, &path, &WAIVER);
    let mut spec = WaiverSpec {
        check: fields.text(report, "check", not_empty),
        reason: fields.text(report, "reason", not_empty),
        until: fields.text(report, "until", day),
        source: None,
        target: None,
        node: None,
    };
    if let Some((scope, path)) = fields.take(report, "scope") {
        let scope = &mut Fields::new(report, scope, &path, &SCOPE);
        spec.source = scope.text(report, "source", not_empty);
        spec.target = scope.text(report, "target", not_empty);
        spec.node = scope.text(report, "node", not_empty);
    }
    Some(spec)
}

fn day(text: &str) -> Result<Day, Refusal> {
    Day::parse(text).ok_or_else(|| {
        Refusal::with_hint(
            format!("`{}` is not a day", shown(text)),
            "write the last day on which it is accepted, such as `2026-12-31`",
        )
    })
}

pub(super) fn severity(report: &mut Report, fields: &mut Fields) -> Vec<(At<String>, At<Gravity>)> {
    let Some((value, path)) = fields.take(report, "severity") else {
        return Vec::new();
    };
    let Kind::Map(entries) = value.kind else {
        let message = format!(
            "expected a mapping of checks to severities, saw {}",
            value.saw()
        );
        report
            .push(value.at, &path, message)
            .hint("write `severity: {loss.tcp_syn: warn}`");
        return Vec::new();
    };
    let mut read: Vec<(At<String>, At<Gravity>)> = Vec::new();
    for (key, value) in entries {
        let Some(check) = text(report, key, path.clone(), not_empty) else {
            continue;
        };
        let path = format!("{path}.{}", shown(&check.value));
        let check = At { path, ..check };
        if let Some((first, _)) = read.iter().find(|(known, _)| known.value == check.value) {
            let message = format!("`{}` is given twice", shown(&check.value));
            report
                .push(check.at, &check.path, message)
                .related(first.at, &first.path, "the first one is here")
                .hint("keep one of them");
            continue;
        }
        if let Some(gravity) = text(report, value, check.path.clone(), gravity) {
            read.push((check, gravity));
        }
    }
    read
}

fn gravity(text: &str) -> Result<Gravity, Refusal> {
    match text {
        "gate" => Ok(Gravity::Gate),
        "warn" => Ok(Gravity::Warn),
        "info" => Ok(Gravity::Info),
        _ => Err(Refusal::with_hint(
            format!("`{}` is not a severity", shown(text)),
            "the severities are `gate`, `warn` and `info`",
        )),
    }
}
