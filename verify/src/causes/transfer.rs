//! Paths that carry too little, or deliver unevenly.

use mesh::Link;

use super::loss::scope_of;
use super::{Case, cause, direction, example, on, reverse, rival};
use crate::checks::{JITTER_PATH, THROUGHPUT_TCP};
use crate::rows::throughput::{self, Carried};
use crate::tally::Scope;

pub(super) fn find(case: &mut Case<'_, '_>) {
    for link in case.view.mesh.links.clone() {
        if case.open(THROUGHPUT_TCP, &link) {
            slow(case, &link);
        }
        if case.open(JITTER_PATH, &link) {
            uneven(case, &link);
        }
    }
}

fn slow(case: &mut Case<'_, '_>, path: &Link) {
    let Some(check) = case.check(THROUGHPUT_TCP, path) else {
        return;
    };
    let scope = scope_of(check, path, case);
    let found = throughput::found(case.view, path);
    let slow = throughput::slow(case.view, &found);
    let least = |slowest: bool| {
        let mut of: Vec<&Carried> = found
            .figures
            .iter()
            .filter(|(cell, _)| slow.contains(*cell) == slowest)
            .map(|(_, carried)| carried)
            .collect();
        of.sort_by(|a, b| a.bits.total_cmp(&b.bits));
        of.first().map(|carried| (*carried).clone())
    };
    let Some(worst) = least(true) else { return };
    let name = direction(path, &scope);
    let carries = format!("path {name} carries {}", throughput::rate(worst.bits));
    let than = match (
        least(false),
        case.view.mesh.objectives.throughput_bits_per_second,
    ) {
        (Some(sibling), _) => format!(", its siblings at least {}", throughput::rate(sibling.bits)),
        (None, Some(declared)) => format!(", declared is {}", throughput::rate(declared)),
        (None, None) => String::new(),
    };
    let at = example(case.view, path, &scope);
    // The end that the slow pairs have in common is the one to look at.
    let node = match &scope {
        Scope::Node(crate::verdict::Side::Target, _) => &at.target_node,
        _ => &at.source_node,
    };
    let mut found_cause = if let (true, Some(rtt)) = (worst.queues(), worst.rtt) {
        let summary = format!(
            "{carries}{than}, and its round trip grows from {:.1} to {:.1} ms under load: a slow port or a shaper",
            rtt.idle_min_ns as f64 * 1e-6,
            rtt.loaded_p99_ns as f64 * 1e-6
        );
        let hint = format!(
            "speed and duplex of the ports from `{node}` on (`ethtool`, the switch's side, the bridge of its host), rate limits and shapers (`tc -s qdisc`), drops (`ip -s link`)"
        );
        let mut found = cause("path.slow_port", path, &scope, summary, hint);
        found.rivals = vec![rival(
            "other traffic fills the path",
            "the ports' own counters while verify runs, and a run at a quiet hour",
        )];
        found
    } else {
        let summary = format!("{carries}{than}, without packets waiting for each other");
        let hint = format!(
            "on `{}` and `{}`: CPU pressure, socket buffers (`sysctl net.ipv4.tcp_rmem net.ipv4.tcp_wmem`), encryption without offload; loss shows as segments sent again",
            at.source_node, at.target_node
        );
        let mut found = cause("path.thin", path, &scope, summary, hint);
        found.rivals = vec![
            rival(
                "small windows or a busy sender",
                "several connections at once",
            ),
            rival("loss", "`loss.*`, and the segments sent again"),
        ];
        found
    };
    found_cause.evidence = throughput::lines(&found);
    let path = path.clone();
    case.name(found_cause, |check| {
        matches!(check.id.as_str(), THROUGHPUT_TCP | JITTER_PATH) && on(check, &path)
    });
}

fn uneven(case: &mut Case<'_, '_>, path: &Link) {
    let Some(check) = case.check(JITTER_PATH, path) else {
        return;
    };
    let scope = scope_of(check, path, case);
    let name = direction(path, &scope);
    let observed = &check.observed;
    let ms = |q: &Option<crate::quantile::Quantile>| {
        let seconds = q.as_ref().and_then(|q| q.seconds);
        seconds.map_or_else(
            || "an unknown time".to_owned(),
            |s| format!("{:.1} ms", s * 1e3),
        )
    };
    let summary = format!(
        "path {name} delivers unevenly: one packet in a hundred takes {} longer than the fastest",
        ms(&observed.p99)
    );
    let mut evidence = vec![format!(
        "{} of {} packets were later than the fastest by more than {:.1} ms; half of them by less than {}",
        observed.bad.unwrap_or(0),
        observed.n.unwrap_or(0),
        check.expected.threshold_seconds.unwrap_or(0.0) * 1e3,
        ms(&observed.p50)
    )];
    let back = reverse(path);
    if let Some(other) = case.check(JITTER_PATH, &back) {
        evidence.push(format!(
            "the way back: {} of {}",
            other.observed.bad.unwrap_or(0),
            other.observed.n.unwrap_or(0)
        ));
    }
    let at = example(case.view, path, &scope);
    let hint = format!(
        "queues, shapers and radio links from `{}` to `{}`; load of both nodes",
        at.source_node, at.target_node
    );
    let mut found = cause("path.jitter", path, &scope, summary, hint);
    found.evidence = evidence;
    found.rivals = vec![rival(
        "a node that takes its packets late",
        "its CPU pressure, and the same path from another node",
    )];
    let path = path.clone();
    case.name(found, |check| check.id == JITTER_PATH && on(check, &path));
}
