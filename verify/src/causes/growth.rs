//! Slower than a run that was kept: a longer path, a queue, or a starved user space.

use mesh::Link;

use super::{Case, cause, direction, example, on, pairs, reverse, rival};
use crate::checks::LATENCY_BASELINE;
use crate::tally::Scope;
use crate::verdict::{Check, Growth, Status, TimedName};

/// The shortest time grew by at least this share of what the median grew by: the path is longer, not the queue.
const OF_THE_MEDIAN: f64 = 0.5;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Longer,
    Queue,
    UserSpace,
}

pub(super) fn find(case: &mut Case<'_, '_>) {
    for link in pairs(case.view) {
        let mut both = vec![link.clone(), reverse(&link)];
        both.dedup();
        both.retain(|link| case.open(LATENCY_BASELINE, link));
        for wanted in [Kind::Longer, Kind::Queue, Kind::UserSpace] {
            let links: Vec<Link> = both
                .iter()
                .filter(|link| case.check(LATENCY_BASELINE, link).and_then(kind) == Some(wanted))
                .cloned()
                .collect();
            if !links.is_empty() {
                name(case, wanted, &links);
            }
        }
    }
}

/// What the figures look like; `None` where probes failed rather than took long.
fn kind(check: &Check) -> Option<Kind> {
    let failing = |growth: &&Growth| growth.status == Status::Fail;
    let failed = check.observed.failures.get("failed").copied().unwrap_or(0);
    let growth = &check.observed.growth;
    let worst = growth.iter().filter(failing).map(|g| g.bad).max()?;
    if 2 * failed > worst {
        return None;
    }
    let of_kernel = |growth: &&Growth| growth.time == TimedName::HandshakeRtt;
    if !growth.iter().filter(failing).any(|g| of_kernel(&g)) {
        return Some(Kind::UserSpace);
    }
    let median = growth
        .iter()
        .filter(of_kernel)
        .find(|growth| growth.quantile < 0.9)?;
    let longer = median.status == Status::Fail
        && matches!(
            (median.shortest_grew_seconds, median.grew_seconds),
            (Some(shortest), Some(grew)) if shortest >= OF_THE_MEDIAN * grew
        );
    Some(if longer { Kind::Longer } else { Kind::Queue })
}

fn name(case: &mut Case<'_, '_>, kind: Kind, links: &[Link]) {
    let Some(first) = links.first() else { return };
    let scope = Scope::Everywhere;
    let at = example(case.view, first, &scope);
    let name = direction(first, &scope);
    let grew = links
        .iter()
        .filter_map(|link| case.check(LATENCY_BASELINE, link))
        .flat_map(|check| &check.observed.growth)
        .filter(|growth| growth.status == Status::Fail)
        .filter_map(|growth| growth.grew_seconds)
        .fold(0.0, f64::max)
        * 1e3;
    let (id, summary, hint) = match kind {
        Kind::Longer => (
            "path.longer",
            format!(
                "the round trip {name} and back became {grew:.1} ms longer than in the baseline, its shortest as well"
            ),
            format!(
                "on `{}`: `ip route get {}`; has the route changed since the baseline, does traffic take a detour (`tracepath`)?",
                at.source_node, at.target_address
            ),
        ),
        Kind::Queue => (
            "path.queueing",
            format!(
                "{name} has slower connects than in the baseline, by up to {grew:.1} ms, although the shortest are as short: packets wait in a queue"
            ),
            format!(
                "queues and rate limits between `{}` and `{}`, load of both nodes, compared with the time of the baseline",
                at.source_node, at.target_node
            ),
        ),
        Kind::UserSpace => (
            "node.starved",
            format!(
                "connects of {name} became slower for the prober, by up to {grew:.1} ms, but not for its kernel: user space on the source is starved"
            ),
            format!(
                "CPU pressure on the nodes of `{}` (`cat /proc/pressure/cpu`), limits of the agent's pod",
                first.source
            ),
        ),
    };
    let mut found = cause(id, first, &scope, summary, hint);
    for link in links {
        let growth = case
            .check(LATENCY_BASELINE, link)
            .map(|check| check.observed.growth.as_slice())
            .unwrap_or_default();
        found.evidence.extend(
            growth
                .iter()
                .map(|g| format!("{}: {}", direction(link, &scope), g.words())),
        );
        if let Some(shortest) = growth.iter().find_map(|g| g.shortest_grew_seconds) {
            found.evidence.push(format!(
                "{}: the shortest grew by {:.2} ms",
                direction(link, &scope),
                shortest * 1e3
            ));
        }
    }
    found.rivals = match kind {
        Kind::Longer => vec![
            rival(
                "a queue that is never empty",
                "the minimum at a quiet hour, or with the load off",
            ),
            rival(
                "either direction, or both",
                "one-way times with synchronised clocks, compared with those of then",
            ),
        ],
        Kind::Queue => vec![
            rival("a busy target node", "its CPU pressure during the run"),
            rival(
                "either direction, or both",
                "jitter.path of both directions",
            ),
        ],
        Kind::UserSpace => Vec::new(),
    };
    let links = links.to_vec();
    case.name(found, |check| {
        check.id == LATENCY_BASELINE && links.iter().any(|link| on(check, link))
    });
}
