//! A service fails while its cluster is reachable: backend, translation, answers or speed.

use mesh::observation::{Plane, ProbeKind};
use mesh::{Link, Service, ServiceKind};

use super::facts::Facts;
use super::{Case, cause, on, rival};
use crate::checks::{NDVI_ROUND_TRIP, NDVI_SUCCESS, POD_HTTP, POD_TCP, SERVICE_REACH};
use crate::tally::Scope;
use crate::verdict::{Check, Status};

pub(super) fn find(case: &mut Case<'_, '_>) {
    let services: Vec<Service> = case.view.mesh.services.clone();
    for service in services
        .iter()
        .filter(|service| service.kind == ServiceKind::Ndvi && !service.is_global())
    {
        let open: Vec<Link> = case
            .view
            .mesh
            .links
            .iter()
            .filter(|link| link.target == service.cluster)
            .filter(|link| case.open(NDVI_SUCCESS, link) || case.open(NDVI_ROUND_TRIP, link))
            .filter(|link| !shared(case, link))
            .cloned()
            .collect();
        let mut groups: Vec<(&'static str, Vec<Link>)> = Vec::new();
        for link in open {
            let kind = kind(case, &link);
            match groups.iter_mut().find(|(known, _)| *known == kind) {
                Some((_, links)) => links.push(link),
                None => groups.push((kind, vec![link])),
            }
        }
        for (kind, links) in groups {
            name(case, service, kind, &links);
        }
    }
    for service in &services {
        reach(case, service);
    }
}

/// Rows of `service.reach` that ask for `service`.
fn asks(check: &Check, service: &Service) -> bool {
    check.id == SERVICE_REACH && check.service.as_ref() == Some(&service.name)
}

/// What the service's own cluster sees of it, in words.
fn at_home(case: &Case<'_, '_>, service: &Service) -> Option<String> {
    let home = case.checks.iter().find(|check| {
        asks(check, service) && check.source_cluster.as_ref() == Some(&service.cluster)
    })?;
    let (n, bad) = (home.observed.n?, home.observed.bad?);
    Some(format!(
        "from inside `{}`: {bad} of {n} requests to `{}` failed",
        service.cluster, service.name
    ))
}

/// Clusters that a service fails for, and that no other cause accounts for.
fn reach(case: &mut Case<'_, '_>, service: &Service) {
    let mut groups: Vec<(&'static str, Vec<Link>)> = Vec::new();
    for (check, explained) in case.checks.iter().zip(&case.explained) {
        if explained.is_some() || check.status != Status::Fail || !asks(check, service) {
            continue;
        }
        let Some(source) = check.source_cluster.clone() else {
            continue;
        };
        let of = |words: &[&str]| -> u64 {
            let failures = check.observed.failures.iter();
            failures
                .filter(|(word, _)| words.contains(&word.as_str()))
                .map(|(_, n)| *n)
                .sum()
        };
        let bad = check.observed.bad.unwrap_or(0);
        let kind = if 2 * of(&["refused"]) > bad {
            "service.no_backend"
        } else if 2 * of(&["reset"]) > bad {
            "service.resets"
        } else if 2 * of(&["wrong_responder", "bad_reply"]) > bad {
            "service.wrong_answer"
        } else {
            "service.unanswered"
        };
        let link = Link {
            source,
            target: service.cluster.clone(),
        };
        match groups.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, links)) => links.push(link),
            None => groups.push((kind, vec![link])),
        }
    }
    for (kind, links) in groups {
        name(case, service, kind, &links);
    }
}

fn facts(case: &Case<'_, '_>, link: &Link) -> Facts {
    Facts::of(
        case.view,
        link,
        Plane::Pod,
        ProbeKind::NdviTile,
        &Scope::Everywhere,
    )
}

/// What keeps the link's pods from answering keeps the service from it, and is no fault of the service; unless
/// the service refuses, which nothing on the path does.
fn shared(case: &Case<'_, '_>, link: &Link) -> bool {
    let facts = facts(case, link);
    let pods = [POD_TCP, POD_HTTP].iter().any(|id| case.failed(id, link));
    pods && !facts.mostly(facts.refused)
}

fn kind(case: &Case<'_, '_>, link: &Link) -> &'static str {
    let facts = facts(case, link);
    if case.failed(NDVI_SUCCESS, link) {
        if facts.mostly(facts.refused) {
            "service.no_backend"
        } else if facts.mostly(facts.reset) {
            "service.resets"
        } else if facts.mostly(facts.foreign) {
            "service.wrong_answer"
        } else {
            "service.unanswered"
        }
    } else {
        "service.slow"
    }
}

fn name(case: &mut Case<'_, '_>, service: &Service, kind: &'static str, links: &[Link]) {
    let sources: Vec<String> = links
        .iter()
        .map(|link| format!("`{}`", link.source))
        .collect();
    let asked_by = sources.join(", ");
    let (service_name, cluster) = (&service.name, &service.cluster);
    let address = service
        .addresses
        .first()
        .map_or_else(|| "?".to_owned(), |ip| format!("{ip}:{}", service.port));
    let (summary, hint, rivals) = match kind {
        "service.no_backend" => (
            format!(
                "service `{service_name}` in `{cluster}` refuses: no backend listens; its cluster is reachable from {asked_by}"
            ),
            format!(
                "in `{cluster}`: are the pods behind `{service_name}` running and ready, and do its endpoints list them?"
            ),
            vec![rival(
                "a reject rule for its port",
                "drop and reject counters on the nodes of the cluster",
            )],
        ),
        "service.resets" => (
            format!(
                "service `{service_name}` in `{cluster}` breaks off the connections of {asked_by}, although pods of that cluster do not"
            ),
            format!(
                "in `{cluster}`: does a pod behind `{service_name}` crash or restart (its log, its restart count), or a proxy before it time out?"
            ),
            vec![rival(
                "a device that lost the connection's state",
                "a request from inside its own cluster",
            )],
        ),
        "service.wrong_answer" => (
            format!("service `{service_name}` in `{cluster}` answers {asked_by} with wrong tiles"),
            format!(
                "in `{cluster}`: the version and the log of `{service_name}`; does {address} belong to it?"
            ),
            vec![rival(
                "another service at its address",
                "what answers there by hand",
            )],
        ),
        "service.unanswered" => (
            format!(
                "service `{service_name}` in `{cluster}` does not answer {asked_by}, although pods of that cluster do"
            ),
            format!(
                "the translation of {address} on the asking nodes (endpoints, `nft list ruleset`), and the service's own log"
            ),
            vec![
                rival("its backends hang", "a request from inside its own cluster"),
                rival(
                    "a policy for its port",
                    "drop counters on the nodes of the cluster",
                ),
            ],
        ),
        _ => (
            format!(
                "service `{service_name}` in `{cluster}` answers {asked_by} too late, although connects are fast"
            ),
            format!("load of the pods behind `{service_name}`: CPU, GPU queue, number of backends"),
            vec![rival(
                "throughput of the path",
                "a transfer of the tile's size by hand",
            )],
        ),
    };
    let first = &links[0];
    let mut found = cause(kind, first, &Scope::Everywhere, summary, hint);
    // The fault sits at the service, whoever asks.
    found.source_cluster = (links.len() == 1).then(|| first.source.clone());
    found.rivals = rivals;
    let abroad = links.iter().filter(|link| link.source != service.cluster);
    for link in abroad {
        let asked = case
            .checks
            .iter()
            .find(|check| asks(check, service) && on(check, link));
        if let Some(check) = asked
            && let (Some(n), Some(bad)) = (check.observed.n, check.observed.bad)
        {
            found.evidence.push(format!(
                "from `{}`: {bad} of {n} requests to `{service_name}` failed",
                link.source
            ));
            continue;
        }
        let facts = facts(case, link);
        found.evidence.push(format!(
            "tiles of `{}` → `{service_name}`: {} of {} failed{}",
            link.source,
            facts.failed,
            facts.n,
            if facts.failed > 0 {
                format!(" ({})", facts.kinds())
            } else {
                String::new()
            }
        ));
        if let Some(check) = case.check(NDVI_ROUND_TRIP, link)
            && let Some(p99) = check.observed.p99.as_ref().and_then(|q| q.seconds)
        {
            found
                .evidence
                .push(format!("p99 of the round trip {:.0} ms", p99 * 1e3));
        }
    }
    found.evidence.extend(at_home(case, service));
    let links = links.to_vec();
    let down = kind == "service.no_backend" || kind == "service.wrong_answer";
    let service = service.clone();
    case.name(found, |check| {
        let linked = links.iter().any(|link| {
            on(check, link)
                || (service.is_global() && check.source_cluster.as_ref() == Some(&link.source))
        });
        let tiles = matches!(check.id.as_str(), NDVI_SUCCESS | NDVI_ROUND_TRIP);
        // A service without a backend has none for anybody.
        (tiles && service.kind == ServiceKind::Ndvi && linked)
            || (asks(check, &service) && (linked || down))
    });
}
