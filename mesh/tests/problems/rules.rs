//! Accepted findings and severities.

use mesh::{Gravity, KnownCheck, Mesh};

use crate::GOOD;

const CHECKS: &[KnownCheck<'_>] = &[
    KnownCheck {
        id: "loss.udp",
        fixed: None,
    },
    KnownCheck {
        id: "loss.tcp_syn",
        fixed: None,
    },
    KnownCheck {
        id: "evidence.agents",
        fixed: Some("the others rest on it"),
    },
];

fn parse(more: &str) -> Result<Mesh, Vec<String>> {
    Mesh::parse_knowing("mesh.yaml", &format!("{GOOD}{more}"), Some(CHECKS)).map_err(|errors| {
        let line = |p: &mesh::Problem| {
            let hint = p.hint.as_deref().unwrap_or("-");
            format!("{} {}: {} | {hint}", p.at, p.path, p.message)
        };
        errors.problems().iter().map(line).collect()
    })
}

#[track_caller]
fn refused(more: &str, expected: &[&str]) {
    assert_eq!(parse(more).expect_err("refused"), expected);
}

#[test]
fn they_are_read_and_written_back() {
    let mesh = parse(
        "accept:
  - check: loss.udp
    scope: {source: east, target: west, node: b}
    reason: the radio at the barn
    until: 2026-12-31
  - {check: 'loss.*', reason: \"#7\", until: \"2027-01-31\"}
severity: {loss.tcp_syn: warn, loss.*: info}
",
    )
    .expect("good");
    let rules = &mesh.rules;
    assert_eq!(rules.accept.len(), 2);
    let first = &rules.accept[0];
    assert_eq!(
        (first.check.as_str(), first.reason.as_str()),
        ("loss.udp", "the radio at the barn")
    );
    assert_eq!(first.until.to_string(), "2026-12-31");
    let scope = &first.scope;
    assert_eq!(
        (
            scope.source.as_deref(),
            scope.target.as_deref(),
            scope.node.as_deref()
        ),
        (Some("east"), Some("west"), Some("b"))
    );
    assert_eq!(rules.accept[1].scope, mesh::WaiverScope::default());
    // The longest pattern counts.
    assert_eq!(rules.gravity("loss.tcp_syn"), Some(Gravity::Warn));
    assert_eq!(rules.gravity("loss.udp"), Some(Gravity::Info));
    assert_eq!(rules.gravity("reach.pod_tcp"), None);
    assert_eq!(Mesh::parse("again", &mesh.to_yaml()).expect("good"), mesh);
}

#[test]
fn unknown_checks_bring_the_nearest() {
    refused(
        "accept: [{check: los.upd, reason: r, until: 2026-12-31}]\n",
        &["28:18 accept[0].check: no check is called `los.upd` | did you mean `loss.udp`?"],
    );
    refused(
        "severity: {loss.tcpsyn: warn, nothing.*: warn}\n",
        &[
            "28:12 severity.loss.tcpsyn: no check is called `loss.tcpsyn` | did you mean `loss.tcp_syn`?",
            "28:31 severity.nothing.*: no check is called `nothing.*` | `aggrik8s explain` lists all checks; `family.*` names a whole family",
        ],
    );
}

#[test]
fn a_waiver_has_a_reason_an_end_and_a_place_that_exists() {
    refused(
        "accept: [{check: loss.udp}]\n",
        &[
            "28:10 accept[0].reason: `reason` is missing | add `reason: …`",
            "28:10 accept[0].until: `until` is missing | add `until: …`",
        ],
    );
    refused(
        "accept: [{check: loss.udp, reason: r, until: 2026-02-30, scope: {source: eats, node: c}}]\n",
        &[
            "28:46 accept[0].until: `2026-02-30` is not a day | write the last day on which it is accepted, such as `2026-12-31`",
            "28:74 accept[0].scope.source: no cluster is called `eats` | did you mean `east`?",
            "28:86 accept[0].scope.node: no node is called `c` | -",
        ],
    );
    refused(
        "accept: [{check: loss.udp, reason: r, until: 2026-12-31, scope: {cluster: east}}]\n",
        &[
            "28:66 accept[0].scope.cluster: `cluster` is not a key of the scope of an accepted finding | its keys are `source`, `target`, `node`",
        ],
    );
}

#[test]
fn what_the_others_rest_on_cannot_be_made_weaker() {
    refused(
        "severity: {evidence.agents: warn}\n",
        &[
            "28:12 severity.evidence.agents: `evidence.agents` cannot be made `warn`: the others rest on it | -",
        ],
    );
    refused(
        "severity: {'evidence.*': info, loss.udp: never}\n",
        &[
            "28:12 severity.evidence.*: `evidence.agents` cannot be made `info`: the others rest on it | -",
            "28:42 severity.loss.udp: `never` is not a severity | the severities are `gate`, `warn` and `info`",
        ],
    );
    // A pattern that names others as well leaves it alone.
    assert!(parse("severity: {'*': info}\n").is_ok());
    refused(
        "severity: {loss.udp: warn, loss.udp: info}\n",
        &["28:28 severity.loss.udp: `loss.udp` is given twice | keep one of them"],
    );
}

#[test]
fn policies_are_of_links_in_scope() {
    let mesh = parse("policies: [{source: west, target: east, access: deny}]\n").expect("good");
    let link = |source: &str, target: &str| mesh::Link {
        source: source.to_owned(),
        target: target.to_owned(),
    };
    assert!(mesh.rules.denies(&link("west", "east")));
    assert_eq!(mesh.rules.access(&link("east", "west")), None);
    assert_eq!(Mesh::parse("again", &mesh.to_yaml()).expect("good"), mesh);
    refused(
        "policies: [{source: west, target: eats, access: forbid}, {source: east, target: east, access: deny}]\n",
        &[
            "28:35 policies[0].target: no cluster is called `eats` | did you mean `east`?",
            "28:49 policies[0].access: `forbid` is neither `allow` nor `deny` | write `access: deny` for connections that must not come through",
            "28:58 policies[1]: east → east is not in scope | add it to `links`, or remove its policy",
        ],
    );
}
