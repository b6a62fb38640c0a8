//! From failed and undecided checks to named causes, most explaining first.
//!
//! A rule looks at figures only and claims the checks it accounts for; what no rule claims becomes
//! an unknown cause with its evidence. The table of signatures: docs/verdict.md.

mod affinity;
mod control;
mod dns;
mod facts;
mod growth;
mod latency;
mod loss;
mod mtu;
mod node;
mod path;
mod policy;
mod rest;
mod service;
pub mod table;
mod transfer;

use std::ops::{Deref, DerefMut};

use mesh::Link;

use crate::checks::{
    LATENCY_BASELINE, LATENCY_CONNECT, LATENCY_HANDSHAKE, NDVI_ROUND_TRIP, NDVI_SUCCESS, Severity,
};
use crate::tally::Scope;
use crate::verdict::{Cause, Check, Rival, Side, Status};
use crate::view::View;

/// The checks and which of them already have a cause.
pub(crate) struct Case<'v, 'a> {
    pub(crate) view: &'v View<'a>,
    pub(crate) checks: &'v mut [Check],
    explained: Vec<Option<usize>>,
    causes: Vec<Found>,
}

/// A cause, and which part of its link it is confined to.
#[derive(Clone)]
pub(crate) struct Found {
    pub(crate) cause: Cause,
    pub(crate) scope: Scope,
}

impl Deref for Found {
    type Target = Cause;

    fn deref(&self) -> &Cause {
        &self.cause
    }
}

impl DerefMut for Found {
    fn deref_mut(&mut self) -> &mut Cause {
        &mut self.cause
    }
}

pub(crate) fn find(view: &View<'_>, checks: &mut [Check]) -> Vec<Cause> {
    let explained = vec![None; checks.len()];
    let mut case = Case {
        view,
        checks,
        explained,
        causes: Vec::new(),
    };
    rest::config_and_evidence(&mut case);
    path::find(&mut case);
    policy::find(&mut case);
    mtu::find(&mut case);
    loss::find(&mut case);
    affinity::find(&mut case);
    service::find(&mut case);
    dns::find(&mut case);
    latency::find(&mut case);
    growth::find(&mut case);
    transfer::find(&mut case);
    node::merge(&mut case);
    rest::unknown(&mut case);
    rest::agents(&mut case);
    rest::starved(&mut case);
    case.finish()
}

impl Case<'_, '_> {
    /// Whether `id` failed on `link` and has no cause yet.
    pub(crate) fn open(&self, id: &str, link: &Link) -> bool {
        self.checks
            .iter()
            .zip(&self.explained)
            .any(|(check, explained)| {
                explained.is_none()
                    && check.id == id
                    && check.status == Status::Fail
                    && on(check, link)
            })
    }

    /// Whether `id` failed on `link`, explained or not.
    pub(crate) fn failed(&self, id: &str, link: &Link) -> bool {
        self.checks
            .iter()
            .any(|check| check.id == id && check.status == Status::Fail && on(check, link))
    }

    pub(crate) fn check(&self, id: &str, link: &Link) -> Option<&Check> {
        self.checks
            .iter()
            .find(|check| check.id == id && on(check, link))
    }

    /// Whether the connects of `link` are judged: what is denied says nothing about a path.
    pub(crate) fn scoped(&self, link: &Link) -> bool {
        self.view.mesh.links.contains(link) && !self.view.mesh.rules.denies(link)
    }

    /// Records a cause and lets it account for the checks that `claims` names and that have none yet.
    pub(crate) fn name(&mut self, found: Found, claims: impl Fn(&Check) -> bool) {
        debug_assert!(
            table::find(&found.id).is_some(),
            "`{}` is not in the table of causes",
            found.id
        );
        let index = self.causes.len();
        let mut explains = Vec::new();
        for (check, explained) in self.checks.iter_mut().zip(&mut self.explained) {
            let needs_one = matches!(check.status, Status::Fail | Status::Undecided);
            if explained.is_some() || !needs_one || !claims(check) {
                continue;
            }
            *explained = Some(index);
            if check.status == Status::Fail {
                check.cause = Some(found.summary.clone());
                check.hint = Some(found.hint.clone());
            } else {
                check.hint.get_or_insert_with(|| found.hint.clone());
            }
            explains.push(check.label());
        }
        let mut found = found;
        found.explains = explains;
        self.causes.push(found);
    }

    /// Failures first, then by how much each explains.
    fn finish(self) -> Vec<Cause> {
        let fails = |index: usize| {
            self.checks
                .iter()
                .zip(&self.explained)
                .filter(|(check, by)| {
                    **by == Some(index)
                        && check.status == Status::Fail
                        && check.severity == Severity::Gate
                })
                .count()
        };
        let mut ranked: Vec<(usize, Cause)> = self
            .causes
            .iter()
            .cloned()
            .enumerate()
            .map(|(index, found)| (fails(index), found.cause))
            .filter(|(_, cause)| !cause.explains.is_empty())
            .collect();
        ranked.sort_by_key(|(fails, cause)| std::cmp::Reverse((*fails, cause.explains.len())));
        ranked.into_iter().map(|(_, cause)| cause).collect()
    }
}

fn on(check: &Check, link: &Link) -> bool {
    check.source_cluster.as_ref() == Some(&link.source)
        && check.target_cluster.as_ref() == Some(&link.target)
}

pub(crate) fn reverse(link: &Link) -> Link {
    Link {
        source: link.target.clone(),
        target: link.source.clone(),
    }
}

/// Every unordered pair of clusters in scope, in the direction that is declared first.
pub(crate) fn pairs(view: &View<'_>) -> Vec<Link> {
    let mut pairs: Vec<Link> = Vec::new();
    for link in &view.mesh.links {
        if !pairs.contains(link) && !pairs.contains(&reverse(link)) {
            pairs.push(link.clone());
        }
    }
    pairs
}

pub(crate) fn is_ndvi(check: &Check) -> bool {
    check.id == NDVI_SUCCESS || check.id == NDVI_ROUND_TRIP
}

pub(crate) fn is_latency(check: &Check) -> bool {
    [LATENCY_BASELINE, LATENCY_CONNECT, LATENCY_HANDSHAKE].contains(&check.id.as_str())
}

/// A cause without rivals and claims yet.
pub(crate) fn cause(id: &str, link: &Link, scope: &Scope, summary: String, hint: String) -> Found {
    let cause = Cause {
        id: id.to_owned(),
        summary,
        source_cluster: Some(link.source.clone()),
        target_cluster: Some(link.target.clone()),
        node: scope.node(),
        plane: None,
        evidence: Vec::new(),
        rivals: Vec::new(),
        hint,
        explains: Vec::new(),
    };
    Found {
        cause,
        scope: scope.clone(),
    }
}

/// A cause that is not on a link.
pub(crate) fn elsewhere(cause: Cause) -> Found {
    Found {
        cause,
        scope: Scope::Everywhere,
    }
}

pub(crate) fn rival(summary: &str, separated_by: &str) -> Rival {
    Rival {
        summary: summary.to_owned(),
        separated_by: separated_by.to_owned(),
    }
}

/// "`a` → `b`", with the node or pair of nodes the scope is confined to.
pub(crate) fn direction(link: &Link, scope: &Scope) -> String {
    let (source, target) = (&link.source, &link.target);
    match scope {
        Scope::Everywhere => format!("`{source}` → `{target}`"),
        Scope::Node(Side::Source, node) => format!("`{source}/{node}` → `{target}`"),
        Scope::Node(Side::Target, node) => format!("`{source}` → `{target}/{node}`"),
        Scope::Pair(from, to) => format!("`{source}/{from}` → `{target}/{to}`"),
    }
}

/// A pair of addresses to try by hand: from a node of the scope's source side to one of its target side.
pub(crate) struct Example {
    pub(crate) source_node: String,
    pub(crate) target_node: String,
    pub(crate) target_pod: String,
    pub(crate) target_address: String,
}

pub(crate) fn example(view: &View<'_>, link: &Link, scope: &Scope) -> Example {
    let pick = |cluster: &str, wanted: Option<&str>| {
        let nodes = view.nodes(cluster);
        nodes
            .iter()
            .find(|node| Some(node.name.as_str()) == wanted)
            .or(nodes.first())
    };
    let (from, to) = match scope {
        Scope::Everywhere => (None, None),
        Scope::Node(Side::Source, node) => (Some(node.as_str()), None),
        Scope::Node(Side::Target, node) => (None, Some(node.as_str())),
        Scope::Pair(from, to) => (Some(from.as_str()), Some(to.as_str())),
    };
    let (source, target) = (pick(&link.source, from), pick(&link.target, to));
    let name =
        |node: Option<&mesh::Node>| node.map_or_else(|| "?".to_owned(), |node| node.name.clone());
    let first = |addresses: Option<&Vec<std::net::IpAddr>>| {
        addresses
            .and_then(|a| a.first())
            .map_or_else(|| "?".to_owned(), ToString::to_string)
    };
    Example {
        source_node: name(source),
        target_node: name(target),
        target_pod: first(target.map(|node| &node.agent_pod)),
        target_address: first(target.map(|node| &node.addresses)),
    }
}
