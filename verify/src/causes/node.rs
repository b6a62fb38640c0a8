//! One node at the root of what was found on every path that touches it: one cause instead of one per path.

use std::collections::BTreeSet;

use super::control::{self, Control, Trouble};
use super::{Case, elsewhere, rival};
use crate::tally::Scope;
use crate::verdict::{Cause, Side, Status};

/// What single paths suffer, the id of the node's cause, and its words.
const KINDS: [(&[&str], &str, &str, Trouble); 5] = [
    (
        &["path.blackhole", "path.unanswered", "path.return"],
        "node.cut_off",
        "drop everything",
        Trouble::CutOff,
    ),
    (
        &[
            "path.loss",
            "path.flows",
            "loss.undirected",
            "loss.tcp_only",
        ],
        "node.lossy",
        "lose packets",
        Trouble::Lossy,
    ),
    (
        &["path.longer", "path.queueing"],
        "node.slow",
        "are slow",
        Trouble::Slow,
    ),
    (
        &["mtu.black_hole", "mtu.ignored"],
        "node.mtu",
        "drop large packets",
        Trouble::Unprobed,
    ),
    (
        &["path.slow_port"],
        "node.slow_port",
        "carry far less than others, and queue",
        Trouble::Unprobed,
    ),
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
        for node in nodes {
            for (ids, id, words, trouble) in KINDS {
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
                if members.is_empty() || met != others.iter().map(String::as_str).collect() {
                    continue;
                }
                let control = control::of(case.view, cluster, node, trouble);
                // Between two clusters the node and the path look alike, unless its neighbours suffer as well.
                if others.len() >= 2 || matches!(control, Control::Broken(_)) {
                    replace(case, &members, (cluster, node), (id, words), control);
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
    (id, words): (&str, &str),
    control: Control,
) {
    let by_hand = "interface errors, speed and duplex (`ip -s link`, `ethtool`), CPU pressure";
    let (place, hint, rivals) = match &control {
        Control::Broken(_) => (
            "and to or from its neighbours as well: the node itself is broken, not the mesh",
            format!(
                "on `{node}`: {by_hand}; its port, cable and host. Compare with another node of `{cluster}`"
            ),
            vec![rival(
                "its port, its cable, its host",
                "other machines at the same switch or host",
            )],
        ),
        Control::Fine(_) => (
            "and those of its neighbours do not; its neighbours reach it as they should, so it is what joins this node to the other clusters",
            format!(
                "on `{node}`: routes and tunnel endpoints of the other clusters, the CNI's keys and identities of their nodes; then rules for this node on the fabric between the clusters"
            ),
            vec![rival(
                "rules or a port of the fabric that only traffic between clusters meets",
                "counters of the fabric for this node's address",
            )],
        ),
        Control::Unknown => (
            "and those of its neighbours do not: the node or what it hangs on",
            format!(
                "on `{node}`: {by_hand}, the CNI's tunnel and keys; then its port on the fabric. Compare with another node of `{cluster}`"
            ),
            vec![rival(
                "what the node hangs on: its port, its cable, its host",
                "other machines at the same switch or host",
            )],
        ),
    };
    let summary = format!(
        "paths of node `{cluster}/{node}` {words}, to or from every other cluster, {place}"
    );
    let mut evidence: Vec<String> = match control {
        Control::Broken(line) | Control::Fine(line) => vec![line],
        Control::Unknown => Vec::new(),
    };
    let mut explains = Vec::new();
    for index in members {
        evidence.push(case.causes[*index].summary.clone());
    }
    for index in members {
        let found = &mut case.causes[*index];
        evidence.append(&mut found.evidence);
        explains.append(&mut found.explains);
    }
    debug_assert!(super::table::find(id).is_some(), "`{id}`");
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
        rivals,
        hint,
        explains,
    }));
}
