//! Waivers, severities and policies name checks, clusters and nodes that exist.

use super::{cluster_names, known_cluster};
use crate::KnownCheck;
use crate::errors::shown;
use crate::read::fields::Report;
use crate::rules::names_check;
use crate::spec::{At, Spec};

pub(super) fn check(report: &mut Report, spec: &Spec, checks: Option<&[KnownCheck<'_>]>) {
    let clusters = cluster_names(spec);
    let policies = spec.policies.items.iter().map(|(link, _)| link);
    super::link_list(report, clusters.as_deref(), policies.clone());
    let listed = spec.links.as_ref().filter(|links| links.complete);
    for policy in policies {
        let Some((source, target)) = policy.ends() else {
            continue;
        };
        let same = |link: &crate::spec::LinkSpec| {
            let ends = link.ends();
            ends.is_some_and(|(s, t)| (&s.value, &t.value) == (&source.value, &target.value))
        };
        let out = source.value == target.value
            || listed.is_some_and(|links| !links.items.iter().any(same));
        if out {
            let (source, target) = (shown(&source.value), shown(&target.value));
            report
                .push(
                    policy.at,
                    &policy.path,
                    format!("{source} → {target} is not in scope"),
                )
                .hint("add it to `links`, or remove its policy");
        }
    }
    for waiver in &spec.accept.items {
        if let Some(check) = &waiver.check {
            known_check(report, checks, check);
        }
        for end in [&waiver.source, &waiver.target].into_iter().flatten() {
            known_cluster(report, clusters.as_deref(), end);
        }
        if let Some(node) = &waiver.node {
            known_node(report, spec, node);
        }
    }
    for (check, gravity) in &spec.severity {
        if !known_check(report, checks, check) {
            continue;
        }
        // A pattern leaves those alone that cannot be changed, if it names others as well.
        let named = checks.into_iter().flatten().copied();
        let named: Vec<KnownCheck<'_>> = named
            .filter(|known| names_check(&check.value, known.id))
            .collect();
        let fixed = named.iter().map(|known| Some((known.id, known.fixed?)));
        if let Some(Some(&(id, why))) = fixed
            .collect::<Option<Vec<_>>>()
            .as_deref()
            .map(<[_]>::first)
        {
            let message = format!("`{id}` cannot be made `{}`: {why}", gravity.value.word());
            report.push(check.at, &check.path, message);
        }
    }
}

fn known_check(report: &mut Report, checks: Option<&[KnownCheck<'_>]>, name: &At<String>) -> bool {
    let Some(checks) = checks else { return true };
    if checks
        .iter()
        .any(|known| names_check(&name.value, known.id))
    {
        return true;
    }
    let seen = shown(&name.value);
    let explains = report.explains();
    let problem = report.push(name.at, &name.path, format!("no check is called `{seen}`"));
    let nearest = checks
        .iter()
        .map(|known| (strsim::osa_distance(known.id, &seen), known.id))
        .min()
        .filter(|(distance, id)| explains && *distance <= 1 + id.len() / 3);
    problem.hint(match nearest {
        Some((_, id)) => format!("did you mean `{id}`?"),
        None => "`aggrik8s explain` lists all checks; `family.*` names a whole family".to_owned(),
    });
    false
}

fn known_node(report: &mut Report, spec: &Spec, name: &At<String>) {
    let nodes: Option<Vec<&str>> = super::nodes(spec)
        .map(|(_, node)| node.name.as_ref().map(|name| name.value.as_str()))
        .collect();
    let complete = spec
        .clusters
        .items
        .iter()
        .all(|cluster| cluster.nodes.complete);
    let Some(nodes) = nodes.filter(|_| complete && spec.clusters.complete) else {
        return;
    };
    if !nodes.contains(&name.value.as_str()) {
        let message = format!("no node is called `{}`", shown(&name.value));
        report.push(name.at, &name.path, message);
    }
}
