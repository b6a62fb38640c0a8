//! Some packets are lost: on one path direction, on both, or only for one protocol.

use mesh::Link;

use super::facts::Flows;
use super::{Case, cause, direction, example, is_latency, is_ndvi, on, pairs, reverse, rival};
use crate::checks::{
    JITTER_PATH, LOSS_TCP_SYN, LOSS_UDP, NODE_TCP, POD_HTTP, POD_TCP, POD_UDP, THROUGHPUT_TCP,
};
use crate::rows::percent;
use crate::tally::Scope;
use crate::verdict::{Check, Side, Status};

pub(super) fn find(case: &mut Case<'_, '_>) {
    for link in pairs(case.view) {
        let back = reverse(&link);
        let syns = case.open(LOSS_TCP_SYN, &link) || case.open(LOSS_TCP_SYN, &back);
        let open: Vec<Link> = [&link, &back]
            .into_iter()
            .filter(|path| case.open(LOSS_UDP, path) || (syns && leaning(case, path)))
            .cloned()
            .collect();
        for path in &open {
            lossy_path(case, path);
        }
        for link in [&link, &back] {
            if case.open(LOSS_TCP_SYN, link) {
                tcp_only(case, link);
            }
        }
    }
}

/// Too few datagrams to fail the path by itself among all that was tested, enough to point at it
/// once connects are known to suffer.
fn leaning(case: &Case<'_, '_>, path: &Link) -> bool {
    case.check(LOSS_UDP, path).is_some_and(|check| {
        let objective = check.expected.rate_at_most.unwrap_or(1.0);
        check.status == Status::Undecided
            && check.observed.rate_lower.is_some_and(|low| low > objective)
    })
}

fn lossy_path(case: &mut Case<'_, '_>, path: &Link) {
    let Some(check) = case.check(LOSS_UDP, path) else {
        return;
    };
    let scope = scope_of(check, path, case);
    let name = direction(path, &scope);
    let observed = &check.observed;
    let (n, bad) = (observed.n.unwrap_or(0), observed.bad.unwrap_or(0));
    let (low, high) = (
        observed.rate_lower.unwrap_or(0.0),
        observed.rate_upper.unwrap_or(1.0),
    );
    let share = |n: u64, bad: u64| percent(round(bad as f64 / n.max(1) as f64));
    // What is lost where it is lost, not diluted by the nodes that lose nothing.
    let inside = match &scope {
        Scope::Everywhere => Some((n, bad)),
        Scope::Node(side, node) => observed
            .marginals
            .iter()
            .find(|m| m.side == *side && &m.node == node)
            .map(|m| (m.n, m.bad)),
        Scope::Pair(..) => None,
    };
    let loses = inside.map_or_else(
        || "packets".to_owned(),
        |(n, bad)| format!("{} of the packets", share(n, bad)),
    );
    let mut evidence = vec![format!(
        "receivers counted {} of the {n} datagrams that path `{}` → `{}` was given: {} lost (between {} and {})",
        n - bad,
        path.source,
        path.target,
        share(n, bad),
        percent(round(low)),
        percent(round(high))
    )];
    for marginal in observed
        .marginals
        .iter()
        .filter(|m| m.status == Status::Fail)
    {
        let end = if marginal.side == Side::Source {
            "from"
        } else {
            "to"
        };
        evidence.push(format!(
            "{end} `{}`: {} of {} lost",
            marginal.node, marginal.bad, marginal.n
        ));
    }
    let back = reverse(path);
    if let Some(other) = case.check(LOSS_UDP, &back) {
        evidence.push(format!(
            "the way back, `{}` → `{}`, lost {} of {}",
            back.source,
            back.target,
            other.observed.bad.unwrap_or(0),
            other.observed.n.unwrap_or(0)
        ));
    }
    for link in [path, &back] {
        if let Some(syn) = case.check(LOSS_TCP_SYN, link) {
            evidence.push(format!(
                "{} of {} connects of `{}` → `{}` needed a SYN retransmit",
                syn.observed.bad.unwrap_or(0),
                syn.observed.n.unwrap_or(0),
                link.source,
                link.target
            ));
        }
    }
    let at = example(case.view, path, &scope);
    let hint = format!(
        "interface error and drop counters from `{}` to `{}` (`ip -s link`, the fabric's ports); duplex, queue limits, rate limits in that direction",
        at.source_node, at.target_node
    );
    let bursts = observed.bursts.unwrap_or(bad);
    let one_long_outage = 4 * bursts < bad;
    let flows = flows(case, path, &scope);
    let mut found = if flows.some_always_fail() && !one_long_outage {
        evidence.push(format!(
            "{} of the {} connects whose first SYN was lost stayed unanswered when it was sent again: {}",
            flows.given_up,
            flows.first_lost,
            flows.examples.join(", ")
        ));
        let mut found = cause(
            "path.flows",
            path,
            &scope,
            format!("path {name} loses {loses}: some flows always fail, the others never"),
            format!(
                "the members of every ECMP or LAG group between `{}` and `{}`, and the queues of the NICs: one of them is dead; replay the ports named above to find it",
                at.source_node, at.target_node
            ),
        );
        found.rivals = vec![rival(
            "outages of a second or more that spare other flows by chance",
            "whether the same ports fail again",
        )];
        found
    } else {
        let mut found = cause(
            "path.loss",
            path,
            &scope,
            format!("path {name} loses {loses}"),
            hint,
        );
        found.rivals = vec![rival(
            "congestion or a rate limit rather than a bad link",
            "loss and latency under a higher and a lower load",
        )];
        let recovered = flows.first_lost - flows.given_up;
        if 2 * recovered > flows.first_lost {
            evidence.push(format!(
                "{recovered} of the {} connects whose first SYN was lost got through when it was sent again: all flows fail sometimes, none always",
                flows.first_lost
            ));
        } else {
            found.rivals.push(rival(
                "a bad member of an ECMP group",
                "whether the same 5-tuples always fail",
            ));
        }
        found
    };
    found.evidence = evidence;
    // TCP needs both directions: either initiator suffers from one lossy path.
    let links = [path.clone(), back];
    let late = late_by_loss(case, &links);
    let path = path.clone();
    case.name(found, |check| {
        let path_itself = matches!(check.id.as_str(), LOSS_UDP | JITTER_PATH | THROUGHPUT_TCP)
            && on(check, &path);
        let suffers = matches!(
            check.id.as_str(),
            POD_TCP | POD_UDP | POD_HTTP | NODE_TCP | LOSS_TCP_SYN
        ) || late.contains(&check.label())
            || (is_ndvi(check) && !check.observed.failures.contains_key("refused"));
        path_itself || (suffers && links.iter().any(|link| on(check, link)))
    });
}

/// The connects of both initiators that cross `scope` of `path`.
fn flows(case: &Case<'_, '_>, path: &Link, scope: &Scope) -> Flows {
    let mirrored = scope.mirrored();
    Flows::of(case.view, &[path.clone(), reverse(path)], |link, probe| {
        let within = if link == path { scope } else { &mirrored };
        within.covers(&probe.cell())
    })
}

fn tcp_only(case: &mut Case<'_, '_>, link: &Link) {
    let Some(check) = case.check(LOSS_TCP_SYN, link) else {
        return;
    };
    let scope = scope_of(check, link, case);
    let name = direction(link, &scope);
    let (n, bad) = (
        check.observed.n.unwrap_or(0),
        check.observed.bad.unwrap_or(0),
    );
    let mut evidence = vec![format!(
        "{bad} of {n} connects of {name} needed a SYN retransmit"
    )];
    for path in [link.clone(), reverse(link)] {
        if let Some(udp) = case.check(LOSS_UDP, &path) {
            evidence.push(format!(
                "datagrams of `{}` → `{}`: {} of {} lost",
                path.source,
                path.target,
                udp.observed.bad.unwrap_or(0),
                udp.observed.n.unwrap_or(0)
            ));
        }
    }
    let datagrams_pass = [link.clone(), reverse(link)].iter().all(|path| {
        case.check(LOSS_UDP, path)
            .is_some_and(|check| check.status == Status::Pass)
    });
    let mut found = if datagrams_pass {
        let hint = format!(
            "SYN rate limits, conntrack limits and accept queues towards `{}` (`nstat -az | grep -i listen` on the target node)",
            link.target
        );
        let summary =
            format!("{bad} of {n} SYNs of {name} had to be sent again while datagrams pass");
        let mut found = cause("loss.tcp_only", link, &scope, summary, hint);
        found.rivals = vec![
            rival(
                "the target's accept queue overflows",
                "its listen overflow counters",
            ),
            rival("loss that datagrams did not meet", "a longer run"),
        ];
        found
    } else {
        let summary = format!(
            "{bad} of {n} SYNs of {name} or their answers were lost; too few datagrams tell in which direction"
        );
        let hint = "run `aggrik8s verify --only 'loss.*'` with a longer --window".to_owned();
        let mut found = cause("loss.undirected", link, &scope, summary, hint);
        found.rivals = vec![rival(
            "either path direction loses packets",
            "the receivers' counts of a longer run",
        )];
        found
    };
    found.evidence = evidence;
    let link = link.clone();
    let late = late_by_loss(case, std::slice::from_ref(&link));
    case.name(found, |check| {
        late.contains(&check.label())
            || (on(check, &link)
                && (matches!(check.id.as_str(), LOSS_TCP_SYN | POD_TCP | POD_HTTP)
                    || is_ndvi(check)))
    });
}

/// Latency checks of `links` whose late connects are those that lost a SYN: what is late by itself has another cause.
fn late_by_loss(case: &Case<'_, '_>, links: &[Link]) -> Vec<String> {
    let bad = |check: &Check| {
        let growth = check.observed.growth.iter();
        let failing = growth.filter(|growth| growth.status == Status::Fail);
        let grown = failing.map(|growth| growth.bad).max();
        check.observed.bad.or(grown).unwrap_or(0)
    };
    let mut late = Vec::new();
    for link in links {
        let lost = case.check(LOSS_TCP_SYN, link).map(bad);
        let of_link = case.checks.iter().filter(|check| on(check, link));
        let by_loss = of_link
            .filter(|check| is_latency(check))
            .filter(|check| lost.is_none_or(|lost| bad(check) <= 2 * lost));
        late.extend(by_loss.map(Check::label));
    }
    late
}

/// The scope that the check was confined to.
pub(super) fn scope_of(check: &Check, link: &Link, case: &Case<'_, '_>) -> Scope {
    let Some(node) = &check.node else {
        return Scope::Everywhere;
    };
    if let Some((source, target)) = node.split_once(" → ") {
        return Scope::Pair(source.to_owned(), target.to_owned());
    }
    let has = |cluster: &str| case.view.nodes(cluster).iter().any(|n| &n.name == node);
    // Two clusters may use the same node names; the worse marginal tells the side.
    let worst = check
        .observed
        .marginals
        .iter()
        .filter(|m| &m.node == node)
        .max_by(|a, b| a.rate_lower.total_cmp(&b.rate_lower))
        .map(|m| m.side);
    match worst {
        Some(side) => Scope::Node(side, node.clone()),
        None if has(&link.target) => Scope::Node(Side::Target, node.clone()),
        None => Scope::Node(Side::Source, node.clone()),
    }
}

/// Three significant digits are enough for a sentence.
fn round(share: f64) -> f64 {
    if share == 0.0 {
        return 0.0;
    }
    let scale = 10_f64.powi(2 - share.abs().log10().floor() as i32);
    (share * scale).round() / scale
}
