//! `config.policy_default`: what a policy that names no cluster selects.

use super::agree::silent;
use super::finding::{Finding, Place, Problem, Rows, some};
use super::view::Seen;
use super::world::{Cluster, Version, World};
use crate::checks::CONFIG_POLICY_DEFAULT;

/// The first Cilium that selects the own cluster only unless told otherwise.
const LOCAL_SINCE: Version = Version(1, 19, 0);

pub(super) fn find(world: &World<'_>, rows: &mut Rows) {
    if world.uses_clustermesh() && world.views.len() > 1 {
        rows.add(CONFIG_POLICY_DEFAULT, Place::Mesh, policies(world));
    }
}

struct Meaning<'a> {
    cluster: Cluster<'a>,
    /// Whether a selector without a cluster label selects the own cluster only.
    local: bool,
    version: Version,
    open: &'a [String],
}

fn policies(world: &World<'_>) -> Finding {
    let mut meanings = Vec::new();
    let mut open = None;
    for cluster in world.clusters().filter(|cluster| !cluster.lacks_cilium()) {
        match cluster.versioned(meaning(cluster)) {
            Ok(meaning) => meanings.push(meaning),
            Err(why) => open = Some(why),
        }
    }
    let concerned: Vec<&Meaning<'_>> = meanings.iter().filter(|m| !m.open.is_empty()).collect();
    if !concerned.is_empty()
        && let Some(problem) = differs(&meanings, &concerned).or_else(|| trap(&concerned))
    {
        return Finding::Fail(problem);
    }
    match open.or_else(|| silent(world)) {
        Some((why, hint)) => Finding::Undecided(why, hint),
        None if concerned.is_empty() => {
            Finding::Pass("every peer selector of a policy names its cluster".to_owned())
        }
        None => Finding::Pass("the same in every cluster".to_owned()),
    }
}

fn meaning(cluster: Cluster<'_>) -> Seen<Option<Meaning<'_>>> {
    let open = cluster.facts.open_policies.as_ref().map_err(Clone::clone)?;
    let Some(version) = cluster.cilium()? else {
        return Ok(None);
    };
    let value = cluster.value("policy-default-local-cluster")?;
    Ok(Some(Meaning {
        cluster,
        local: value.map_or(version >= LOCAL_SINCE, |value| value == "true"),
        version,
        open,
    }))
}

fn lines(concerned: &[&Meaning<'_>]) -> Vec<String> {
    let line = |m: &&Meaning<'_>| {
        format!(
            "`{}` (Cilium {}): selects {}; policies without a cluster label: {}",
            m.cluster.context,
            m.version,
            if m.local {
                "its own cluster"
            } else {
                "all clusters"
            },
            some(m.open, 4)
        )
    };
    concerned.iter().map(line).collect()
}

fn differs(all: &[Meaning<'_>], concerned: &[&Meaning<'_>]) -> Option<Problem> {
    let local = all.iter().find(|m| m.local)?;
    let global = all.iter().find(|m| !m.local)?;
    Some(Problem {
        cause: "config.policy_default_differs",
        summary: format!(
            "a policy that names no cluster selects `{}` alone there, and all clusters on `{}`",
            local.cluster.context, global.cluster.context
        ),
        evidence: lines(concerned),
        hint: format!(
            "{} until every policy that is meant for other clusters says so with `io.cilium.k8s.policy.cluster`",
            local
                .cluster
                .set("clustermesh.policyDefaultLocalCluster", "false")
        ),
    })
}

/// All mean all clusters, by a default that the next upgrade turns round.
fn trap(concerned: &[&Meaning<'_>]) -> Option<Problem> {
    let of = concerned
        .iter()
        .find(|m| !m.local && m.version < LOCAL_SINCE)?;
    Some(Problem {
        cause: "config.policy_default_differs",
        summary: format!(
            "the upgrade to Cilium 1.19 cuts off what policies of `{}` let in from other clusters, unless its Helm values say otherwise",
            of.cluster.context
        ),
        evidence: lines(concerned),
        hint: format!(
            "before the upgrade {}, or add `io.cilium.k8s.policy.cluster` to the policies that are named",
            of.cluster
                .set("clustermesh.policyDefaultLocalCluster", "false")
        ),
    })
}
