//! One node at the root of what was found on every path that touches it: one cause instead of one per path.

use std::collections::BTreeSet;

use super::{Case, elsewhere, rival};
use crate::tally::Scope;
use crate::verdict::{Cause, Side, Status};

/// What single paths suffer, the id of the node's cause, and its words.
const KINDS: [(&[&str], &str, &str); 3] = [
    (
        &["path.blackhole", "path.unanswered", "path.return"],
        "node.cut_off",
        "drop everything",
    ),
    (
        &["path.loss", "loss.undirected", "loss.tcp_only"],
        "node.lossy",
        "lose packets",
    ),
    (&["path.longer", "path.queueing"], "node.slow", "are slow"),
];

/// Replaces causes of one kind that are confined to one node, and that together meet every other cluster in scope.
pub(super) fn merge(case: &mut Case<'_, '_>) {
    let clusters: Vec<(String, Vec<String>)> = case
        .view
        .mesh
        .clusters
        .iter()
        .map(|cluster| {
            let nodes = cluster.nodes.iter().map(|node| node.name.clone());
            (cluster.name.clone(), nodes.collect())
        })
        .collect();
    for (cluster, nodes) in &clusters {
        let others = others(case, cluster);
        if others.len() < 2 {
            continue;
        }
        for node in nodes {
            for (ids, id, words) in KINDS {
                let (members, met): (Vec<usize>, BTreeSet<&str>) = case
                    .causes
                    .iter()
                    .enumerate()
                    .filter(|(_, found)| ids.contains(&found.id.as_str()))
                    .filter_map(|(index, found)| {
                        let (source, target) = (
                            found.source_cluster.as_deref()?,
                            found.target_cluster.as_deref()?,
                        );
                        let other = match &found.scope {
                            Scope::Node(Side::Source, at) if at == node && source == cluster => {
                                target
                            }
                            Scope::Node(Side::Target, at) if at == node && target == cluster => {
                                source
                            }
                            _ => return None,
                        };
                        Some((index, other))
                    })
                    .unzip();
                if met == others.iter().map(String::as_str).collect() {
                    replace(case, &members, (cluster, node), id, words);
                }
            }
        }
    }
}

/// Clusters that have a link with `cluster`.
fn others(case: &Case<'_, '_>, cluster: &str) -> BTreeSet<String> {
    case.view
        .mesh
        .links
        .iter()
        .filter(|link| link.source != link.target)
        .filter_map(|link| {
            if link.source == cluster {
                Some(link.target.clone())
            } else if link.target == cluster {
                Some(link.source.clone())
            } else {
                None
            }
        })
        .collect()
}

fn replace(
    case: &mut Case<'_, '_>,
    members: &[usize],
    (cluster, node): (&String, &String),
    id: &str,
    words: &str,
) {
    let summary = format!(
        "paths of node `{cluster}/{node}` {words}, to or from every other cluster, and those of its neighbours do not: the node or what it hangs on"
    );
    let hint = format!(
        "on `{node}`: interface errors, speed and duplex (`ip -s link`, `ethtool`), CPU pressure, the CNI's tunnel and keys; then its port on the fabric. Compare with another node of `{cluster}`"
    );
    let mut evidence: Vec<String> = Vec::new();
    let mut explains = Vec::new();
    for index in members {
        evidence.push(case.causes[*index].summary.clone());
    }
    for index in members {
        let found = &mut case.causes[*index];
        evidence.append(&mut found.evidence);
        explains.append(&mut found.explains);
    }
    let at = case.causes.len();
    for (check, explained) in case.checks.iter_mut().zip(&mut case.explained) {
        if !explained.is_some_and(|by| members.contains(&by)) {
            continue;
        }
        *explained = Some(at);
        if check.status == Status::Fail {
            check.cause = Some(summary.clone());
            check.hint = Some(hint.clone());
        }
    }
    case.causes.push(elsewhere(Cause {
        id: id.to_owned(),
        summary,
        source_cluster: Some(cluster.clone()),
        target_cluster: None,
        node: Some(node.clone()),
        plane: None,
        evidence,
        rivals: vec![rival(
            "what the node hangs on: its port, its cable, its host",
            "other machines at the same switch or host",
        )],
        hint,
        explains,
    }));
}
