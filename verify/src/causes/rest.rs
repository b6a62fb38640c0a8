//! Causes that are not in the network: configuration, contradicting witnesses, silent agents; and what no rule knows.

use mesh::Link;

use super::facts::{connect_seconds, echo_seconds};
use super::{Case, cause, elsewhere, on, rival};
use crate::checks::{AGENTS, AGREEMENT, CONFIG_CIDRS, CONFIG_CLOCK, CONFIG_IDS};
use crate::tally::Scope;
use crate::verdict::{Cause, Check, Side, Status};

pub(super) fn config_and_evidence(case: &mut Case<'_, '_>) {
    let failed: Vec<Check> = case
        .checks
        .iter()
        .filter(|check| check.status == Status::Fail)
        .cloned()
        .collect();
    for check in failed {
        let id = match check.id.as_str() {
            CONFIG_IDS => "config.shared_id",
            CONFIG_CIDRS => "config.overlap",
            CONFIG_CLOCK => "node.clock",
            AGREEMENT => "evidence.contradiction",
            _ => continue,
        };
        let place = match (&check.source_cluster, &check.target_cluster, &check.node) {
            (Some(source), Some(target), _) => format!("`{source}` → `{target}`: "),
            (Some(cluster), None, Some(node)) => format!("`{cluster}/{node}`: "),
            _ => String::new(),
        };
        let why = check.cause.clone().unwrap_or_default();
        let found = elsewhere(Cause {
            id: id.to_owned(),
            summary: format!("{place}{why}"),
            source_cluster: check.source_cluster.clone(),
            target_cluster: check.target_cluster.clone(),
            node: check.node.clone(),
            plane: check.plane,
            evidence: check.evidence.clone(),
            rivals: Vec::new(),
            hint: check.hint.clone().unwrap_or_default(),
            explains: Vec::new(),
        });
        case.name(found, |other| {
            other.id == check.id
                && other.source_cluster == check.source_cluster
                && other.target_cluster == check.target_cluster
                && other.node == check.node
        });
    }
}

/// Agents without an answer: what is undecided at their node, they explain.
pub(super) fn agents(case: &mut Case<'_, '_>) {
    let silent: Vec<Check> = case
        .checks
        .iter()
        .filter(|check| check.id == AGENTS && check.status == Status::Undecided)
        .cloned()
        .collect();
    let mut done: Vec<(String, String)> = Vec::new();
    for check in &silent {
        let (Some(cluster), Some(node)) = (check.source_cluster.clone(), check.node.clone()) else {
            continue;
        };
        if done.contains(&(cluster.clone(), node.clone())) {
            continue;
        }
        done.push((cluster.clone(), node.clone()));
        let of_node: Vec<&Check> = silent
            .iter()
            .filter(|c| {
                c.source_cluster.as_ref() == Some(&cluster) && c.node.as_ref() == Some(&node)
            })
            .collect();
        let planes: Vec<String> = of_node
            .iter()
            .filter_map(|check| {
                let plane = match check.plane? {
                    crate::verdict::PlaneName::Pod => "pod",
                    crate::verdict::PlaneName::Node => "node",
                };
                Some(format!(
                    "{plane} agent: {}",
                    check.cause.clone().unwrap_or_default()
                ))
            })
            .collect();
        let found = elsewhere(Cause {
            id: "agent.unreachable".to_owned(),
            summary: format!(
                "no usable answer from the agent of `{cluster}/{node}`: its links are unknown, which says nothing about the network"
            ),
            source_cluster: Some(cluster.clone()),
            target_cluster: None,
            node: Some(node.clone()),
            plane: if of_node.len() == 1 {
                of_node[0].plane
            } else {
                None
            },
            evidence: planes,
            rivals: vec![rival(
                "the node is down",
                "its state in its cluster, a look at its console",
            )],
            hint: check.hint.clone().unwrap_or_default(),
            explains: Vec::new(),
        });
        case.name(found, |other| {
            let itself = other.id == AGENTS
                && other.source_cluster.as_ref() == Some(&cluster)
                && other.node.as_ref() == Some(&node);
            let touched = [&other.source_cluster, &other.target_cluster]
                .into_iter()
                .any(|c| c.as_ref() == Some(&cluster));
            let lacks_it = other.status == Status::Undecided
                && touched
                && (other
                    .cause
                    .as_ref()
                    .is_some_and(|cause| cause.contains(&format!("`{node}`")))
                    || other
                        .evidence
                        .iter()
                        .any(|line| line.contains(&format!("`{node}`"))));
            itself || lacks_it
        });
    }
}

/// Failures that no rule claimed, per link.
pub(super) fn unknown(case: &mut Case<'_, '_>) {
    let links: Vec<Link> = case.view.mesh.links.clone();
    for link in &links {
        let open: Vec<Check> = case
            .checks
            .iter()
            .zip(&case.explained)
            .filter(|(check, explained)| {
                explained.is_none() && check.status == Status::Fail && on(check, link)
            })
            .map(|(check, _)| check.clone())
            .collect();
        let Some(first) = open.first() else { continue };
        let same_place = open.iter().all(|check| check.node == first.node);
        let ids: Vec<&str> = open.iter().map(|check| check.id.as_str()).collect();
        let mut found = cause(
            "unknown",
            link,
            &Scope::Everywhere,
            format!(
                "`{}` → `{}` fails {} in a way that no known cause fits",
                link.source,
                link.target,
                ids.join(", ")
            ),
            format!(
                "run `aggrik8s verify --only '{}' -o json` and look at `observed.failures` and `marginals`",
                ids[0]
            ),
        );
        found.node = if same_place { first.node.clone() } else { None };
        for check in &open {
            let observed = &check.observed;
            let kinds: Vec<String> = observed
                .failures
                .iter()
                .map(|(kind, n)| format!("{n} {kind}"))
                .collect();
            found.evidence.push(format!(
                "{}: {} of {} bad ({})",
                check.id,
                observed.bad.unwrap_or(0),
                observed.n.unwrap_or(0),
                kinds.join(", ")
            ));
        }
        let late = open.iter().any(super::is_latency);
        found
            .evidence
            .extend(late.then(|| openings(case, link)).flatten());
        case.name(found, |check| {
            check.status == Status::Fail && on(check, link)
        });
    }
}

/// How long it takes to open a connection, and to use an open one.
fn openings(case: &Case<'_, '_>, link: &Link) -> Option<String> {
    let connect = connect_seconds(case.view, link, &Scope::Everywhere)?;
    let echo = echo_seconds(case.view, link, &Scope::Everywhere)?;
    Some(format!(
        "connects: shortest {:.1} ms, median {:.1} ms; echoes on open connections: shortest {:.1} ms, median {:.1} ms",
        connect.0 * 1e3,
        connect.1 * 1e3,
        echo.0 * 1e3,
        echo.1 * 1e3
    ))
}

/// Nodes so short of processor that fewer of their samples count than do not: what lacks only them, they explain.
pub(super) fn starved(case: &mut Case<'_, '_>) {
    let lacks =
        |check: &Check, node: &str| {
            check.status == Status::Undecided
                && check.observed.marginals.iter().any(|m| {
                    m.side == Side::Source && m.node == node && m.excluded_stalled > Some(m.n)
                })
        };
    for cluster in &case.view.mesh.clusters {
        let of = |check: &&Check| check.source_cluster.as_ref() == Some(&cluster.name);
        let nodes: Vec<&str> = cluster
            .nodes
            .iter()
            .map(|node| node.name.as_str())
            .filter(|node| {
                case.checks
                    .iter()
                    .any(|check| of(&check) && lacks(check, node))
            })
            .collect();
        let Some(first) = nodes.first() else { continue };
        let names = nodes
            .iter()
            .map(|node| format!("`{}/{node}`", cluster.name))
            .collect::<Vec<_>>()
            .join(", ");
        let evidence = case
            .checks
            .iter()
            .filter(|check| of(check) && nodes.iter().any(|node| lacks(check, node)))
            .map(|check| {
                format!(
                    "{}: {} samples void near stalls of their source",
                    check.label(),
                    check.observed.excluded_stalled.unwrap_or(0)
                )
            })
            .collect();
        let found = elsewhere(Cause {
            id: "agent.starved".to_owned(),
            summary: format!(
                "the agent of {names} hardly gets to run: its latencies cannot be told from its own delay"
            ),
            source_cluster: Some(cluster.name.clone()),
            target_cluster: None,
            node: (nodes.len() == 1).then(|| (*first).to_owned()),
            plane: None,
            evidence,
            rivals: vec![rival(
                "the whole node is overloaded",
                "its CPU pressure (`cat /proc/pressure/cpu`) with the agent off",
            )],
            hint: format!(
                "CPU limits of the agent's pod on {names}, and CPU pressure there; then run verify again"
            ),
            explains: Vec::new(),
        });
        case.name(found, |check| {
            check.source_cluster.as_ref() == Some(&cluster.name)
                && nodes.iter().any(|node| lacks(check, node))
        });
    }
}
