//! Slow although nothing is lost: a longer path, a queue, or a starved user space.

use mesh::Link;

use super::facts::{connect_seconds, one_way_seconds};
use super::loss::scope_of;
use super::{Case, cause, direction, example, is_latency, on, pairs, reverse, rival};
use crate::checks::{LATENCY_CONNECT, LATENCY_HANDSHAKE};
use crate::tally::Scope;
use crate::verdict::{Check, Status};

/// The shortest time is this near to the threshold: even an undisturbed packet is too late.
const PATH_SHARE: f64 = 0.7;

pub(super) fn find(case: &mut Case<'_, '_>) {
    for link in pairs(case.view) {
        let back = reverse(&link);
        let slow = |case: &Case<'_, '_>, link: &Link| {
            case.open(LATENCY_CONNECT, link) || case.open(LATENCY_HANDSHAKE, link)
        };
        let (forth, other) = (slow(case, &link), back != link && slow(case, &back));
        if !forth && !other {
            continue;
        }
        let slower = if forth { &link } else { &back };
        if long_path(case, slower) {
            longer(case, slower, forth && other);
        } else {
            for link in [&link, &back] {
                if slow(case, link) {
                    queueing(case, link);
                }
            }
        }
    }
}

/// The failing check that is nearer to the wire.
fn nearest<'c>(case: &'c Case<'_, '_>, link: &Link) -> Option<&'c Check> {
    [LATENCY_HANDSHAKE, LATENCY_CONNECT]
        .into_iter()
        .filter_map(|id| case.check(id, link))
        .find(|check| check.status == Status::Fail)
}

/// Whether even an undisturbed packet is too late where the link is slow: its other nodes may well be near.
fn long_path(case: &Case<'_, '_>, link: &Link) -> bool {
    nearest(case, link).is_some_and(|check| {
        let scope = scope_of(check, link, case);
        match (
            connect_seconds(case.view, link, &scope),
            check.expected.threshold_seconds,
        ) {
            (Some((shortest, _)), Some(threshold)) => shortest > PATH_SHARE * threshold,
            _ => false,
        }
    })
}

fn longer(case: &mut Case<'_, '_>, link: &Link, both: bool) {
    let back = reverse(link);
    let scope = nearest(case, link).map_or(Scope::Everywhere, |check| scope_of(check, link, case));
    let mut evidence = Vec::new();
    let mirrored = scope.mirrored();
    for (link, scope) in [(link, &scope), (&back, &mirrored)] {
        evidence.extend(times(case, link, scope));
    }
    // Which direction is the long one shows only where the clocks of both ends are known well enough.
    let (there, here) = (
        one_way_seconds(case.view, link, &scope),
        one_way_seconds(case.view, &back, &mirrored),
    );
    let mut path = link.clone();
    let mut scope = scope;
    let mut named = false;
    if let (Some((there, a)), Some((here, b))) = (there, here) {
        evidence.push(format!(
            "one way, by the clocks of both ends: {} {:.1} ms ± {:.1}, {} {:.1} ms ± {:.1}",
            direction(link, &scope),
            there * 1e3,
            a * 1e3,
            direction(&back, &mirrored),
            here * 1e3,
            b * 1e3
        ));
        let (more, less) = (there.max(here), there.min(here));
        named = more - less > (a + b).max(0.25 * more);
        if named && here > there {
            scope = scope.mirrored();
            path = back.clone();
        }
    }
    let name = direction(&path, &scope);
    let at = example(case.view, &path, &scope);
    let shortest = connect_seconds(case.view, &path, &scope)
        .or_else(|| connect_seconds(case.view, link, &Scope::Everywhere))
        .map_or(0.0, |(minimum, _)| minimum * 1e3);
    let summary = if named {
        format!(
            "path {name} is too long: even the fastest connect takes {shortest:.1} ms, and the delay is in this direction"
        )
    } else {
        format!(
            "the round trip {name} and back is too long: even the fastest connect takes {shortest:.1} ms"
        )
    };
    let hint = format!(
        "on `{}`: `ip route get {}`; has the route changed, does traffic take a detour (`tracepath`)?",
        at.source_node, at.target_address
    );
    let mut found = cause("path.longer", &path, &scope, summary, hint);
    found.evidence = evidence;
    found.rivals = vec![rival(
        "a queue that is never empty",
        "the minimum at a quiet hour, or with the load off",
    )];
    if !named {
        found.rivals.push(rival(
            "either direction, or both",
            "one-way times with synchronised clocks",
        ));
    }
    let links = if both {
        vec![link.clone(), back]
    } else {
        vec![link.clone()]
    };
    case.name(found, |check| {
        is_latency(check) && links.iter().any(|link| on(check, link))
    });
}

fn times(case: &Case<'_, '_>, link: &Link, scope: &Scope) -> Option<String> {
    let (minimum, median) = connect_seconds(case.view, link, scope)?;
    let p99 = case
        .check(LATENCY_CONNECT, link)
        .and_then(|check| check.observed.p99.as_ref()?.seconds)
        .map_or_else(
            || "among the failed".to_owned(),
            |s| format!("{:.1} ms", s * 1e3),
        );
    Some(format!(
        "connects of {}: shortest {:.1} ms, median {:.1} ms; p99 of the whole link {p99}",
        direction(link, scope),
        minimum * 1e3,
        median * 1e3
    ))
}

fn queueing(case: &mut Case<'_, '_>, link: &Link) {
    let Some(check) = nearest(case, link) else {
        return;
    };
    let scope = scope_of(check, link, case);
    let name = direction(link, &scope);
    let kernel_fine = check.id == LATENCY_CONNECT
        && case
            .check(LATENCY_HANDSHAKE, link)
            .is_some_and(|check| check.status == Status::Pass);
    let (n, bad) = (
        check.observed.n.unwrap_or(0),
        check.observed.bad.unwrap_or(0),
    );
    let threshold = check.expected.threshold_seconds.unwrap_or(0.0) * 1e3;
    let mut evidence = vec![format!(
        "{bad} of {n} took longer than {threshold:.1} ms or failed"
    )];
    evidence.extend(times(case, link, &scope));
    let at = example(case.view, link, &scope);
    let (id, summary, hint) = if kernel_fine {
        (
            "node.starved",
            format!(
                "connects of {name} are slow for the prober but not for its kernel: user space on the source is starved"
            ),
            format!(
                "CPU pressure on the nodes of `{}` (`cat /proc/pressure/cpu`), limits of the agent's pod",
                link.source
            ),
        )
    } else {
        (
            "path.queueing",
            format!(
                "{name} has slow connects although the path itself is short: packets wait in a queue"
            ),
            format!(
                "queues and rate limits between `{}` and `{}`, load of both nodes",
                at.source_node, at.target_node
            ),
        )
    };
    let mut found = cause(id, link, &scope, summary, hint);
    found.evidence = evidence;
    found.rivals = vec![
        rival("a busy target node", "its CPU pressure during the run"),
        rival("loss repaired below IP", "the link layer's retry counters"),
    ];
    let link = link.clone();
    case.name(found, |check| is_latency(check) && on(check, &link));
}
