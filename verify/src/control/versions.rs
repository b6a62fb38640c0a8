//! `version.support`, `version.skew`.

use super::agree::silent;
use super::finding::{Finding, Place, Problem, Rows};
use super::world::{Cluster, Version, World};
use crate::checks::{VERSION_SKEW, VERSION_SUPPORT};

/// Minor version of Cilium 1.x, and the minor versions of Kubernetes 1.x that its releases are tested with.
const TESTED: [(u32, u32, u32); 3] = [(18, 30, 33), (19, 32, 35), (20, 33, 36)];

pub(super) fn find(world: &World<'_>, rows: &mut Rows) {
    for cluster in world.clusters() {
        rows.add(VERSION_SUPPORT, cluster, support(cluster));
    }
    rows.add(VERSION_SKEW, Place::Mesh, skew(world));
}

fn support(cluster: Cluster<'_>) -> Finding {
    let context = cluster.context;
    if cluster.lacks_cilium() {
        return Finding::Info(format!("`{context}` runs without Cilium"));
    }
    let cilium = match cluster.cilium() {
        Ok(Some(version)) => version,
        Ok(None) => return untagged(context),
        Err(unread) => return Finding::unread(context, &unread),
    };
    let Some(kubernetes) = Version::parse(&cluster.facts.kubernetes) else {
        return Finding::Undecided(
            format!("no version in what the API server says: `{context}`"),
            format!("it says `{}`", cluster.facts.kubernetes),
        );
    };
    let (major, minor) = kubernetes.minor();
    let range = TESTED.iter().find(|(of, ..)| cilium.minor() == (1, *of));
    let Some((_, from, to)) = range else {
        return Finding::Undecided(
            format!("Cilium {cilium} is not in this program's list: `{context}`"),
            "the compatibility page of that Cilium release".to_owned(),
        );
    };
    let seen =
        format!("Cilium {cilium} on Kubernetes {kubernetes}, tested with 1.{from} to 1.{to}");
    if major == 1 && (*from..=*to).contains(&minor) {
        return Finding::Pass(seen);
    }
    let mut fitting = TESTED
        .iter()
        .filter(|(_, from, to)| major == 1 && (*from..=*to).contains(&minor))
        .map(|(cilium, ..)| *cilium);
    let hint = match fitting.next() {
        Some(newer) if minor > *to => format!(
            "upgrade Cilium of `{context}` to 1.{newer}, which is tested with Kubernetes 1.{minor}: `helm --kube-context {} -n kube-system upgrade cilium cilium/cilium --version '~1.{newer}' --reset-then-reuse-values`; one minor version at a time",
            super::world::shell(context)
        ),
        _ if minor > *to => format!(
            "no Cilium of this program's list is tested with Kubernetes 1.{minor}; hold Kubernetes at 1.{to} or look for a newer Cilium"
        ),
        _ => format!("upgrade Kubernetes of `{context}` to 1.{from} or later"),
    };
    Finding::Fail(Problem {
        cause: "version.untested",
        summary: format!(
            "`{context}` runs Cilium {cilium} on Kubernetes {kubernetes}; Cilium 1.{} is tested with 1.{from} to 1.{to}",
            cilium.1
        ),
        evidence: vec![
            format!("API server of `{context}`: {}", cluster.facts.kubernetes),
            format!("image of DaemonSet cilium: v{cilium}"),
        ],
        hint,
    })
}

fn untagged(context: &str) -> Finding {
    Finding::Undecided(
        format!("the image of the Cilium agents has no version in its tag: `{context}`"),
        "name the image by tag and digest".to_owned(),
    )
}

fn skew(world: &World<'_>) -> Finding {
    let mut known: Vec<(Cluster<'_>, Version)> = Vec::new();
    let mut open = None;
    for cluster in world.clusters().filter(|cluster| !cluster.lacks_cilium()) {
        match cluster.versioned(cluster.cilium()) {
            Ok(version) => known.push((cluster, version)),
            Err(why) => open = Some(why),
        }
    }
    let oldest = known.iter().min_by_key(|(_, version)| *version);
    let newest = known.iter().max_by_key(|(_, version)| *version);
    if let (Some((old, least)), Some((new, most))) = (oldest, newest)
        && (most.0 != least.0 || most.1 - least.1 > 1)
    {
        return Finding::Fail(Problem {
            cause: "version.far_apart",
            summary: format!(
                "Cilium is {least} on `{}` and {most} on `{}`: more than one minor version apart",
                old.context, new.context
            ),
            evidence: known
                .iter()
                .map(|(cluster, version)| format!("`{}`: Cilium {version}", cluster.context))
                .collect(),
            hint: format!(
                "upgrade `{}` to {}.{} first, then on",
                old.context,
                least.0,
                least.1 + 1
            ),
        });
    }
    match open.or_else(|| silent(world)) {
        Some((why, hint)) => Finding::Undecided(why, hint),
        None if known.len() < 2 => {
            Finding::Info("fewer than two clusters run Cilium: nothing to compare".to_owned())
        }
        None => {
            let versions = known.iter().map(|(_, version)| version.to_string());
            Finding::Pass(versions.collect::<Vec<_>>().join(", "))
        }
    }
}
