//! `service.global`, `service.global_intent`: services that several clusters share.

use std::collections::BTreeSet;

use super::agree::silent;
use super::finding::{Finding, Place, Problem, Rows, some};
use super::view::{GlobalService, Services, Unread};
use super::world::{Cluster, World};
use crate::checks::{SERVICE_GLOBAL, SERVICE_GLOBAL_INTENT};

struct Shared<'a> {
    all: Vec<(Cluster<'a>, &'a Services)>,
    names: BTreeSet<&'a str>,
    open: Option<(String, String)>,
}

pub(super) fn find(world: &World<'_>, rows: &mut Rows) {
    let mut all = Vec::new();
    let mut open = None;
    for cluster in world.clusters() {
        match &cluster.facts.services {
            Ok(services) => all.push((cluster, services)),
            Err(unread) => open = open.or(Some(lacking(cluster, unread))),
        }
    }
    let names = all
        .iter()
        .flat_map(|(_, services)| services.global.keys().map(String::as_str))
        .collect();
    let shared = Shared {
        all,
        names,
        open: open.or_else(|| silent(world)),
    };
    rows.add(SERVICE_GLOBAL, Place::Mesh, global(&shared));
    rows.add(SERVICE_GLOBAL_INTENT, Place::Mesh, intent(&shared));
}

fn lacking(cluster: Cluster<'_>, unread: &Unread) -> (String, String) {
    let why = format!("{}: `{}`", unread.words(), cluster.context);
    (why, unread.hint().to_owned())
}

impl<'a> Shared<'a> {
    fn of(&self, name: &str) -> Vec<(Cluster<'a>, &'a GlobalService)> {
        let global = self
            .all
            .iter()
            .filter_map(|(cluster, services)| Some((*cluster, services.global.get(name)?)));
        global.collect()
    }

    fn finding(&self, mut problems: Vec<Problem>) -> Finding {
        if !problems.is_empty() {
            let mut first = problems.remove(0);
            first.evidence.extend(
                problems
                    .into_iter()
                    .map(|other| format!("{}: {}", other.summary, other.hint)),
            );
            return Finding::Fail(first);
        }
        match &self.open {
            Some((why, hint)) => Finding::Undecided(why.clone(), hint.clone()),
            None if self.names.is_empty() => {
                Finding::Info("no cluster has a global service".to_owned())
            }
            None => Finding::Pass(format!("{} global services", self.names.len())),
        }
    }
}

fn global(shared: &Shared<'_>) -> Finding {
    let mut problems = Vec::new();
    let mut open = None;
    for name in &shared.names {
        let of = shared.of(name);
        let ports =
            |service: &GlobalService| service.ports.keys().cloned().collect::<BTreeSet<_>>();
        let (first, one) = of[0];
        if let Some((other, _)) = of.iter().find(|(_, service)| ports(service) != ports(one)) {
            let listed = |service: &GlobalService| {
                let listed: Vec<String> = service
                    .ports
                    .iter()
                    .map(|(port, number)| format!("{port} {number}"))
                    .collect();
                listed.join(", ")
            };
            problems.push(Problem {
                cause: "service.ports_differ",
                summary: format!(
                    "global service `{name}` has other named ports in `{}` than in `{}`: they have no common backends",
                    other.context, first.context
                ),
                evidence: of.iter().map(|(cluster, service)| format!("`{}`: {}", cluster.context, listed(service))).collect(),
                hint: format!("the same `spec.ports[].name` and protocol for `{name}` in every cluster"),
            });
        }
        let sharing = of.iter().filter(|(_, service)| service.shared);
        let mut ready = 0;
        let mut unknown = false;
        for (cluster, service) in sharing {
            match &service.ready {
                Ok(backends) => ready += backends,
                Err(unread) => {
                    unknown = true;
                    open = open.or(Some(lacking(*cluster, unread)));
                }
            }
        }
        // A cluster that does not answer may have them all.
        if ready == 0 && !unknown && shared.open.is_none() {
            problems.push(Problem {
                cause: "service.no_backend_anywhere",
                summary: format!("global service `{name}` has no ready backend in any cluster that shares it"),
                evidence: of
                    .iter()
                    .map(|(cluster, service)| {
                        let ready = service.ready.as_ref().map_or_else(|_| "?".to_owned(), u64::to_string);
                        let kept = if service.shared { "" } else { ", kept to itself (service.cilium.io/shared: false)" };
                        format!("`{}`: {ready} ready{kept}", cluster.context)
                    })
                    .collect(),
                hint: "the pods behind the service; `service.cilium.io/shared: \"true\"` where they are ready".to_owned(),
            });
        }
    }
    match (problems.is_empty(), open) {
        (true, Some((why, hint))) => Finding::Undecided(why, hint),
        _ => shared.finding(problems),
    }
}

fn intent(shared: &Shared<'_>) -> Finding {
    let mut problems = Vec::new();
    for name in &shared.names {
        let of = shared.of(name);
        let affinities: BTreeSet<&str> = of
            .iter()
            .map(|(_, service)| service.affinity.as_deref().unwrap_or("none"))
            .collect();
        if affinities.len() > 1 {
            problems.push(Problem {
                cause: "service.affinity_differs",
                summary: format!("global service `{name}` has different affinities"),
                evidence: of.iter().map(|(cluster, service)| format!("`{}`: {}", cluster.context, service.affinity.as_deref().unwrap_or("none"))).collect(),
                hint: format!("the same `service.cilium.io/affinity` on `{name}` in every cluster, unless it is meant"),
            });
        }
        for (cluster, _) in of.iter().filter(|(_, service)| service.legacy) {
            problems.push(Problem {
                cause: "service.legacy_annotation",
                summary: format!(
                    "service `{name}` of `{}` is global by an old annotation",
                    cluster.context
                ),
                evidence: vec!["io.cilium/global-service".to_owned()],
                hint: format!("`service.cilium.io/global: \"true\"` on `{name}`"),
            });
        }
        let absent: Vec<String> = shared
            .all
            .iter()
            .filter(|(_, services)| !services.global.contains_key(*name))
            .map(|(cluster, _)| cluster.context.to_owned())
            .collect();
        if !absent.is_empty() {
            let plain: Vec<String> = shared
                .all
                .iter()
                .filter(|(_, services)| services.others.contains(*name))
                .map(|(cluster, _)| cluster.context.to_owned())
                .collect();
            let (summary, hint) = if plain.is_empty() {
                (
                    format!(
                        "global service `{name}` does not exist on {}: its name does not resolve there",
                        some(&absent, 4)
                    ),
                    format!(
                        "the same Service `{name}`, without pods if need be, on {}",
                        some(&absent, 4)
                    ),
                )
            } else {
                (
                    format!(
                        "service `{name}` is not global on {}: only its own backends answer there",
                        some(&plain, 4)
                    ),
                    format!(
                        "`service.cilium.io/global: \"true\"` on `{name}` there, unless it is meant"
                    ),
                )
            };
            problems.push(Problem {
                cause: "service.global_in_part",
                summary,
                evidence: of
                    .iter()
                    .map(|(cluster, _)| format!("`{}`: global", cluster.context))
                    .collect(),
                hint,
            });
        }
    }
    shared.finding(problems)
}
