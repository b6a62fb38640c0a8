//! A global service is answered by the wrong clusters' backends: which, for whom, and whether they are there at all.

use std::collections::{BTreeMap, BTreeSet};

use mesh::{Affinity, Link, Service};

use super::{Case, Found, cause, on, rival};
use crate::checks::{SERVICE_AFFINITY, SERVICE_REACH};
use crate::tally::Scope;
use crate::verdict::{Check, Status};

/// One failed row: who asks, whose backends it is about, and the asking node where it is only one.
#[derive(Clone)]
struct Row {
    link: Link,
    node: Option<String>,
}

/// What all rows of a service say together.
struct Picture {
    service: Service,
    /// Known answers by asking cluster and by whose backends gave them.
    answers: BTreeMap<String, BTreeMap<String, u64>>,
    failed: Vec<Row>,
}

pub(super) fn find(case: &mut Case<'_, '_>) {
    let services = case.view.mesh.services.iter();
    let global: Vec<Service> = services.filter(|s| s.is_global()).cloned().collect();
    for service in global {
        adopt(case, &service);
        let picture = Picture::of(case, service);
        let dead = picture.dead();
        for cluster in &dead {
            backend_missing(case, &picture, cluster, &dead);
        }
        let alive = |row: &&Row| !dead.contains(&row.link.target);
        let mut by_asker: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
        for row in picture.failed.iter().filter(alive) {
            by_asker.entry(&row.link.source).or_default().push(row);
        }
        for (asker, rows) in by_asker {
            for row in &rows {
                wrong(case, &picture, asker, row);
            }
        }
    }
}

fn of_service(check: &Check, id: &str, service: &Service) -> bool {
    check.id == id && check.service.as_ref() == Some(&service.name)
}

/// What keeps two clusters apart keeps their backends from answering each other; unless they refuse, which nothing on
/// the path does.
fn adopt(case: &mut Case<'_, '_>, service: &Service) {
    for at in 0..case.checks.len() {
        let check = &case.checks[at];
        let refused = check.observed.failures.contains_key("refused");
        if case.explained[at].is_some()
            || check.status != Status::Fail
            || refused
            || !of_service(check, SERVICE_REACH, service)
        {
            continue;
        }
        let Some(source) = check.source_cluster.clone() else {
            continue;
        };
        let apart = |other: &Check| {
            other.status == Status::Fail
                && !of_service(other, SERVICE_REACH, service)
                && service.backends.iter().any(|target| {
                    let link = Link {
                        source: source.clone(),
                        target: target.clone(),
                    };
                    source != *target && on(other, &link)
                })
        };
        let by = case
            .checks
            .iter()
            .zip(&case.explained)
            .find_map(|(other, by)| by.filter(|_| apart(other)));
        let Some(by) = by else { continue };
        take(case, at, by);
        // Where nothing is answered, nobody can be seen to answer.
        for other in 0..case.checks.len() {
            let check = &case.checks[other];
            if case.explained[other].is_none()
                && check.status == Status::Undecided
                && check.observed.answered_by.is_empty()
                && of_service(check, SERVICE_AFFINITY, service)
                && check.source_cluster.as_ref() == Some(&source)
            {
                take(case, other, by);
            }
        }
    }
}

/// Lets a cause that is named already account for one more check.
fn take(case: &mut Case<'_, '_>, at: usize, by: usize) {
    let (found, check) = (&mut case.causes[by], &mut case.checks[at]);
    if check.status == Status::Fail {
        check.cause = Some(found.summary.clone());
        check.hint = Some(found.hint.clone());
    }
    found.explains.push(check.label());
    case.explained[at] = Some(by);
}

impl Picture {
    fn of(case: &Case<'_, '_>, service: Service) -> Self {
        let mut answers: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        let mut failed = Vec::new();
        for (check, explained) in case.checks.iter().zip(&case.explained) {
            let (Some(source), Some(target)) = (&check.source_cluster, &check.target_cluster)
            else {
                continue;
            };
            if !of_service(check, SERVICE_AFFINITY, &service) {
                continue;
            }
            answers.insert(source.clone(), check.observed.answered_by.clone());
            if check.status == Status::Fail && explained.is_none() {
                failed.push(Row {
                    link: Link {
                        source: source.clone(),
                        target: target.clone(),
                    },
                    node: check.node.clone(),
                });
            }
        }
        Self {
            service,
            answers,
            failed,
        }
    }

    fn expects(&self, asker: &str, cluster: &str) -> bool {
        self.service.answering(asker).contains(&cluster)
    }

    fn from(&self, asker: &str, cluster: &str) -> u64 {
        let of_asker = self.answers.get(asker);
        of_asker
            .and_then(|by| by.get(cluster))
            .copied()
            .unwrap_or(0)
    }

    /// Clusters whose backends are missed, and answer nobody.
    fn dead(&self) -> BTreeSet<String> {
        let silent = |cluster: &str| {
            self.answers
                .keys()
                .all(|asker| self.from(asker, cluster) == 0)
        };
        self.failed
            .iter()
            .filter(|row| self.expects(&row.link.source, &row.link.target))
            .map(|row| row.link.target.clone())
            .filter(|cluster| silent(cluster))
            .collect()
    }

    /// Who answered `asker`, in words.
    fn told(&self, asker: &str) -> String {
        let by: Vec<String> = self
            .answers
            .get(asker)
            .into_iter()
            .flatten()
            .map(|(cluster, n)| format!("{n} by `{cluster}`"))
            .collect();
        let name = &self.service.name;
        if by.is_empty() {
            return format!("requests of `{asker}` to `{name}`: no answer of known origin");
        }
        format!(
            "requests of `{asker}` to `{name}` were answered: {}",
            by.join(", ")
        )
    }

    fn lines(&self) -> Vec<String> {
        self.answers.keys().map(|asker| self.told(asker)).collect()
    }
}

fn backend_missing(
    case: &mut Case<'_, '_>,
    picture: &Picture,
    cluster: &str,
    dead: &BTreeSet<String>,
) {
    let name = &picture.service.name;
    let askers: Vec<&Row> = picture
        .failed
        .iter()
        .filter(|row| row.link.target == cluster)
        .collect();
    let first = &askers[0].link;
    let summary =
        format!("no backend of service `{name}` in `{cluster}` answers anybody; others stand in");
    let hint = format!(
        "in `{cluster}`: are the pods behind `{name}` running and ready, is the service annotated `service.cilium.io/global` and not `shared: \"false\"` there?"
    );
    let mut found = cause(
        "service.backend_missing",
        first,
        &Scope::Everywhere,
        summary,
        hint,
    );
    found.source_cluster = None;
    found.target_cluster = Some(cluster.to_owned());
    found.evidence = picture.lines();
    let expecting = picture.answers.keys();
    if expecting.filter(|a| picture.expects(a, cluster)).count() == 1 {
        found.rivals = vec![rival(
            &format!("only `{}` does not know them", first.source),
            "a request from a third cluster, or the EndpointSlices of the asking one",
        )];
    }
    let service = picture.service.clone();
    let (cluster, dead) = (cluster.to_owned(), dead.clone());
    case.name(found, |check| {
        let stands_in = |source: &String| {
            check.status == Status::Undecided
                && service.answering(source).iter().all(|c| dead.contains(*c))
        };
        let source = check.source_cluster.as_ref();
        let about_it = check.target_cluster.as_ref() == Some(&cluster);
        (of_service(check, SERVICE_AFFINITY, &service)
            && (about_it || source.is_some_and(stands_in)))
            || (of_service(check, SERVICE_REACH, &service)
                && source.is_some_and(|s| service.answering(s).contains(&cluster.as_str())))
    });
}

/// A row about backends that are there: they answer others, or answer where they must not.
fn wrong(case: &mut Case<'_, '_>, picture: &Picture, asker: &str, row: &Row) {
    let service = &picture.service;
    let name = &service.name;
    let target = row.link.target.as_str();
    let who = match &row.node {
        Some(node) => format!("`{asker}/{node}`"),
        None => format!("`{asker}`"),
    };
    let own = service.backends.iter().any(|cluster| cluster == asker);
    let of_asker = picture.answers.get(asker);
    let only_own = own
        && row.node.is_none()
        && of_asker.is_some_and(|by| by.iter().all(|(cluster, n)| cluster == asker || *n == 0));
    let mut link = row.link.clone();
    let found: Found = if !picture.expects(asker, target) {
        stray(&link, &who, name, target, service.affinity)
    } else if only_own && target != asker {
        let mut found = cause(
            "service.local_only",
            &link,
            &Scope::Everywhere,
            format!(
                "service `{name}` reaches only local backends in `{asker}`: none in `{target}` answers"
            ),
            format!(
                "`service.cilium.io/global: \"true\"` on `{name}` in `{asker}` and `{target}` (same name and namespace), its affinity, and the EndpointSlices of both clusters"
            ),
        );
        found.rivals = vec![rival(
            &format!("`{asker}` has lost its connection to the control plane of `{target}`"),
            "`cilium-dbg status` and `clustermesh status` on the asking nodes",
        )];
        found
    } else if target == asker && service.affinity == Affinity::Local {
        let instead = of_asker
            .into_iter()
            .flatten()
            .max_by_key(|(_, n)| **n)
            .map_or_else(|| asker.to_owned(), |(cluster, _)| cluster.clone());
        link.target.clone_from(&instead);
        stray(&link, &who, name, &instead, service.affinity)
    } else {
        let mut found = cause(
            "service.not_synced",
            &link,
            &Scope::Everywhere,
            format!(
                "backends of service `{name}` in `{target}` never answer {who}, and answer others"
            ),
            format!(
                "endpoints of `{name}` as {who} knows them (`cilium-dbg service list`), and the sync from `{target}`"
            ),
        );
        found.rivals = vec![rival(
            "session affinity by client address",
            "`sessionAffinity` of the service",
        )];
        found
    };
    let mut found = found;
    found.node.clone_from(&row.node);
    found.evidence = picture.lines();
    let (service, asker, row) = (service.clone(), asker.to_owned(), row.clone());
    case.name(found, |check| {
        of_service(check, SERVICE_AFFINITY, &service)
            && check.source_cluster.as_ref() == Some(&asker)
            && (on(check, &row.link) || check.status == Status::Undecided)
    });
}

fn stray(link: &Link, who: &str, name: &str, by: &str, affinity: Affinity) -> Found {
    let word = match affinity {
        Affinity::Local => "local",
        Affinity::Remote => "remote",
        Affinity::None => "none",
    };
    cause(
        "service.affinity_ignored",
        link,
        &Scope::Everywhere,
        format!(
            "service `{name}` answers {who} from `{by}`, which its affinity `{word}` leaves out"
        ),
        format!(
            "`service.cilium.io/affinity` of `{name}` in `{}`, and whether its own backends were ready during the run",
            link.source
        ),
    )
}
