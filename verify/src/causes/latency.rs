//! Slow although nothing is lost: a longer path, a queue, or a starved user space.

use mesh::Link;

use super::facts::{connect_seconds, echo_seconds, one_way};
use super::loss::scope_of;
use super::{Case, cause, direction, example, is_latency, on, pairs, reverse, rival};
use crate::checks::{JITTER_PATH, LATENCY_CONNECT, LATENCY_HANDSHAKE};
use crate::tally::Scope;
use crate::verdict::{Check, Status};

/// The shortest time is this near to the threshold: even an undisturbed packet is too late.
const PATH_SHARE: f64 = 0.7;

pub(super) fn find(case: &mut Case<'_, '_>) {
    for link in pairs(case.view) {
        let back = reverse(&link);
        let (forth, other) = (slow(case, &link), back != link && slow(case, &back));
        if !forth && !other {
            continue;
        }
        let slower = if forth { &link } else { &back };
        if long_path(case, slower) {
            if !only_first(case, slower) {
                longer(case, slower, forth && other);
            }
            continue;
        }
        let mut queued = Vec::new();
        for (link, slow) in [(&link, forth), (&back, other)] {
            if slow && user_space(case, link) {
                starved(case, link);
            } else if slow {
                queued.push(link.clone());
            }
        }
        queueing(case, &queued);
    }
}

/// Whether a latency check of the link fails for what was late, not for what failed.
fn slow(case: &Case<'_, '_>, link: &Link) -> bool {
    let late = |id: &str| {
        let Some(Check { observed, .. }) = case.check(id, link) else {
            return false;
        };
        let bad = observed.bad.unwrap_or(0);
        let failed = observed.failures.get("failed").copied().unwrap_or(0);
        case.open(id, link) && 2 * failed <= bad
    };
    late(LATENCY_CONNECT) || late(LATENCY_HANDSHAKE)
}

/// Whether an open connection answers much faster than one is opened: then the path is not the long one.
fn only_first(case: &Case<'_, '_>, link: &Link) -> bool {
    let scope = nearest(case, link).map_or(Scope::Everywhere, |check| scope_of(check, link, case));
    let connect = connect_seconds(case.view, link, &scope);
    let echo = echo_seconds(case.view, link, &scope);
    matches!((connect, echo), (Some((connect, _)), Some((echo, _))) if 2.0 * echo < connect)
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
        one_way(case.view, link, &scope),
        one_way(case.view, &back, &mirrored),
    );
    let mut path = link.clone();
    let mut scope = scope;
    let mut named = false;
    if let (Some(there), Some(here)) = (there, here) {
        let (a, b) = (there.bound, here.bound);
        let (there, here) = (there.median, here.median);
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

/// Slow for the prober, not for its kernel.
fn user_space(case: &Case<'_, '_>, link: &Link) -> bool {
    let passes = |id| {
        case.check(id, link)
            .is_some_and(|check| check.status == Status::Pass)
    };
    nearest(case, link).is_some_and(|check| check.id == LATENCY_CONNECT)
        && passes(LATENCY_HANDSHAKE)
}

fn exceedances(check: &Check) -> String {
    format!(
        "{} of {} took longer than {:.1} ms or failed",
        check.observed.bad.unwrap_or(0),
        check.observed.n.unwrap_or(0),
        check.expected.threshold_seconds.unwrap_or(0.0) * 1e3
    )
}

fn starved(case: &mut Case<'_, '_>, link: &Link) {
    let Some(check) = nearest(case, link) else {
        return;
    };
    let scope = scope_of(check, link, case);
    let summary = format!(
        "connects of {} are slow for the prober but not for its kernel: user space on the source is starved",
        direction(link, &scope)
    );
    let hint = format!(
        "CPU pressure on the nodes of `{}` (`cat /proc/pressure/cpu`), limits of the agent's pod",
        link.source
    );
    let mut found = cause("node.starved", link, &scope, summary, hint);
    found.evidence = vec![exceedances(check)];
    found.evidence.extend(times(case, link, &scope));
    let link = link.clone();
    case.name(found, |check| is_latency(check) && on(check, &link));
}

/// `links`: the initiators of one pair that are slow.
fn queueing(case: &mut Case<'_, '_>, links: &[Link]) {
    let Some(first) = links.first() else { return };
    let Some(check) = nearest(case, first) else {
        return;
    };
    let scope = scope_of(check, first, case);
    let (mut path, mut on_path) = (first.clone(), scope.clone());
    let mut evidence = Vec::new();
    for link in links {
        let scope = if link == first {
            scope.clone()
        } else {
            scope.mirrored()
        };
        if let Some(check) = nearest(case, link) {
            evidence.push(format!(
                "{}: {}",
                direction(link, &scope),
                exceedances(check)
            ));
        }
        evidence.extend(times(case, link, &scope));
    }
    // A handshake crosses both directions; how far its last packet's one-way times lie apart belongs to one.
    let (back, mirrored) = (reverse(first), scope.mirrored());
    let mut named = false;
    if let (Some(there), Some(here)) = (
        one_way(case.view, first, &scope),
        one_way(case.view, &back, &mirrored),
    ) {
        evidence.push(format!(
            "one way, 99 % arrive within {:.1} ms of the fastest on {}, within {:.1} ms on {}",
            there.spread * 1e3,
            direction(first, &scope),
            here.spread * 1e3,
            direction(&back, &mirrored)
        ));
        named = there.spread.max(here.spread) > 3.0 * there.spread.min(here.spread);
        if named && here.spread > there.spread {
            (path, on_path) = (back, mirrored);
        }
    }
    let name = direction(&path, &on_path);
    let at = example(case.view, &path, &on_path);
    let summary = if named {
        format!("packets wait in a queue on path {name}: it is short, but some arrive late")
    } else {
        format!(
            "{name} has slow connects although the path itself is short: packets wait in a queue"
        )
    };
    let hint = format!(
        "queues and rate limits between `{}` and `{}`, load of both nodes",
        at.source_node, at.target_node
    );
    let mut found = cause("path.queueing", &path, &on_path, summary, hint);
    found.evidence = evidence;
    found.rivals = vec![
        rival("a busy target node", "its CPU pressure during the run"),
        rival("loss repaired below IP", "the link layer's retry counters"),
    ];
    if !named {
        found.rivals.push(rival(
            "either direction, or both",
            "one-way times of connections in both roles",
        ));
    }
    let (links, back) = (links.to_vec(), reverse(first));
    let first = first.clone();
    case.name(found, |check| {
        let uneven = check.id == JITTER_PATH && (on(check, &first) || on(check, &back));
        uneven || (is_latency(check) && links.iter().any(|link| on(check, link)))
    });
}
