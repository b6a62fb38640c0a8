//! `config.ids` as the clusters have them: Cilium's names and ids.

use super::agree::silent;
use super::finding::{Finding, Place, Problem, Rows};
use super::world::{Cluster, World};
use crate::checks::CONFIG_IDS;

pub(super) fn find(world: &World<'_>, rows: &mut Rows) {
    rows.add(CONFIG_IDS, Place::Mesh, ids(world));
}

fn ids(world: &World<'_>) -> Finding {
    let mut known: Vec<(Cluster<'_>, &str, &str)> = Vec::new();
    let mut open = None;
    for cluster in world.clusters().filter(|cluster| !cluster.lacks_cilium()) {
        match (cluster.name(), cluster.value("cluster-id")) {
            (Ok(name), Ok(id)) => known.push((cluster, name, id.unwrap_or("0"))),
            (Err(unread), _) | (_, Err(unread)) => {
                open = open.or(Some((
                    format!("{}: `{}`", unread.words(), cluster.context),
                    unread.hint().to_owned(),
                )));
            }
        }
    }
    let evidence: Vec<String> = known
        .iter()
        .map(|(cluster, name, id)| {
            format!(
                "cilium-config of `{}`: cluster-name {name}, cluster-id {id}",
                cluster.context
            )
        })
        .collect();
    let fail = |cause, summary, hint| {
        Finding::Fail(Problem {
            cause,
            summary,
            evidence: evidence.clone(),
            hint,
        })
    };
    // A single cluster needs neither.
    if world.views.len() > 1 {
        for &(cluster, name, id) in &known {
            let context = cluster.context;
            if name == "default" {
                let hint = cluster.set("cluster.name", "NAME");
                return fail(
                    "config.name",
                    format!(
                        "Cilium of `{context}` is called `default`, which no cluster of a mesh may be"
                    ),
                    hint,
                );
            }
            if !id.parse::<u32>().is_ok_and(|id| (1..=511).contains(&id)) {
                let hint = format!(
                    "{}; it changes every identity of the cluster, so all its pods' agents restart",
                    cluster.set("cluster.id", &free(&known).to_string())
                );
                return fail(
                    "config.name",
                    format!(
                        "Cilium of `{context}` has cluster-id {id}: a cluster of a mesh needs one from 1 to 255 (511)"
                    ),
                    hint,
                );
            }
        }
    }
    for (at, &(cluster, name, id)) in known.iter().enumerate() {
        for &(other, its_name, its_id) in &known[..at] {
            let both = format!("`{}` and `{}`", other.context, cluster.context);
            if id == its_id {
                let hint = cluster.set("cluster.id", &free(&known).to_string());
                return fail(
                    "config.shared_id",
                    format!(
                        "{both} both have cluster-id {id}: each overwrites the identities of the other"
                    ),
                    hint,
                );
            }
            if name == its_name {
                let hint = cluster.set("cluster.name", "NAME");
                return fail(
                    "config.shared_id",
                    format!("{both} are both called `{name}` by Cilium"),
                    hint,
                );
            }
        }
    }
    match open.or_else(|| silent(world)) {
        Some((why, hint)) => Finding::Undecided(why, hint),
        None if known.is_empty() => Finding::Info("no cluster runs Cilium".to_owned()),
        None => Finding::Pass(evidence.join("; ")),
    }
}

/// The smallest id that nobody has.
fn free(known: &[(Cluster<'_>, &str, &str)]) -> u32 {
    let taken = |id: u32| known.iter().any(|(_, _, its)| its.parse() == Ok(id));
    (1..).find(|id| !taken(*id)).unwrap_or(1)
}
