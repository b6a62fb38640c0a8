//! `config.*`: ids, ranges and clocks.

use std::collections::BTreeSet;

use ipnet::IpNet;
use mesh::observation::{NodeRef, Plane};

use super::{Draft, spec};
use crate::checks::{CONFIG_CIDRS, CONFIG_CLOCK, CONFIG_IDS};
use crate::verdict::{Expected, Observed, Status};
use crate::view::View;

/// A wall clock further off than this breaks certificates and logs.
const CLOCK_LIMIT_SECONDS: f64 = 1.0;
/// A wall clock that ran this far away from the monotonic one was stepped.
const STEP_LIMIT_SECONDS: f64 = 0.1;

pub(super) fn rows(view: &View<'_>) -> Vec<Draft> {
    let mut rows = vec![
        settled(
            CONFIG_IDS,
            shared_ids(view),
            "ids and names are unique",
            "give each cluster an id of its own in mesh.yaml and in Cilium",
        ),
        settled(
            CONFIG_CIDRS,
            overlaps(view),
            "ranges of different clusters are disjoint",
            "renumber one of the two ranges",
        ),
    ];
    rows.extend(clocks(view));
    rows
}

fn settled(id: &str, problems: Vec<String>, expected: &str, hint: &str) -> Draft {
    let status = if problems.is_empty() {
        Status::Pass
    } else {
        Status::Fail
    };
    let mut row = Draft::settled(spec(id), status);
    row.check.expected.text = expected.to_owned();
    if let Some(first) = problems.first() {
        row.check.cause = Some(first.clone());
        row.check.hint = Some(hint.to_owned());
    }
    row.check.evidence = problems;
    row
}

fn shared_ids(view: &View<'_>) -> Vec<String> {
    let mut problems = Vec::new();
    for (at, a) in view.mesh.clusters.iter().enumerate() {
        for b in &view.mesh.clusters[..at] {
            if a.id == b.id {
                problems.push(format!(
                    "`{}` and `{}` both have id {}",
                    b.name, a.name, a.id
                ));
            }
            if a.name == b.name {
                problems.push(format!("two clusters are called `{}`", a.name));
            }
        }
    }
    problems
}

fn overlaps(view: &View<'_>) -> Vec<String> {
    let ranges: Vec<(&str, &str, IpNet)> = view
        .mesh
        .clusters
        .iter()
        .flat_map(|cluster| {
            let of = |kind, nets: &[IpNet]| {
                nets.iter()
                    .map(|net| (cluster.name.as_str(), kind, *net))
                    .collect::<Vec<_>>()
            };
            let mut all = of("node network", &cluster.node_networks);
            all.extend(of("pod CIDR", &cluster.pod_cidrs));
            all.extend(of("service CIDR", &cluster.service_cidrs));
            all
        })
        .collect();
    let mut problems = Vec::new();
    for (at, (cluster, kind, net)) in ranges.iter().enumerate() {
        for (other, other_kind, other_net) in &ranges[..at] {
            let both_services = *kind == "service CIDR" && *other_kind == "service CIDR";
            if cluster != other
                && !both_services
                && (net.contains(other_net) || other_net.contains(net))
            {
                problems.push(format!(
                    "{other_kind} {other_net} of `{other}` overlaps {kind} {net} of `{cluster}`"
                ));
            }
        }
    }
    problems
}

fn clocks(view: &View<'_>) -> Vec<Draft> {
    let in_scope: BTreeSet<&str> = view
        .mesh
        .links
        .iter()
        .flat_map(|link| [link.source.as_str(), link.target.as_str()])
        .collect();
    let mut rows = Vec::new();
    for cluster in view
        .mesh
        .clusters
        .iter()
        .filter(|c| in_scope.contains(c.name.as_str()))
    {
        for node in &cluster.nodes {
            let node = NodeRef {
                cluster: cluster.name.clone(),
                node: node.name.clone(),
            };
            // A silent agent is a finding of evidence.agents.
            let Some(account) = view.account(Plane::Pod, &node) else {
                continue;
            };
            let (Some(offset), Some(bound)) = (
                account.clock_offset_seconds,
                account.clock_offset_bound_seconds,
            ) else {
                continue;
            };
            let step = account.clock_step_seconds;
            let off = offset.abs() - bound > CLOCK_LIMIT_SECONDS;
            let stepped = step.abs() > STEP_LIMIT_SECONDS;
            let status = if off || stepped {
                Status::Fail
            } else {
                Status::Pass
            };
            let mut row = Draft::settled(spec(CONFIG_CLOCK), status);
            let check = &mut row.check;
            check.source_cluster = Some(node.cluster);
            check.node = Some(node.node);
            check.observed = Observed {
                offset_seconds: Some(offset),
                offset_bound_seconds: Some(bound),
                step_seconds: Some(step),
                ..Observed::default()
            };
            check.expected = Expected {
                text: format!(
                    "within {CLOCK_LIMIT_SECONDS} s of the collector's clock, not stepped"
                ),
                threshold_seconds: Some(CLOCK_LIMIT_SECONDS),
                ..Expected::default()
            };
            check.evidence.push(format!(
                "offset {:.3} ms ± {:.3} ms",
                offset * 1e3,
                bound * 1e3
            ));
            if off {
                check.cause = Some(format!("the wall clock is {offset:.1} s away"));
            } else if stepped {
                check.cause = Some(format!(
                    "the wall clock was stepped by {step:.1} s during the run"
                ));
            }
            if status == Status::Fail {
                check.hint = Some("check the time server of this node".to_owned());
            }
            rows.push(row);
        }
    }
    rows
}
