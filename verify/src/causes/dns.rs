//! A service's name fails in a cluster: what the resolver does, and whether the service's address fails as well.

use mesh::{Link, Service};

use super::{Case, cause, rival};
use crate::checks::{DNS_LATENCY, DNS_RESOLVE, NDVI_SUCCESS, SERVICE_REACH};
use crate::tally::Scope;
use crate::verdict::{Check, Status};

/// What most failures of a row are: the cause, and what the resolver does.
fn kind(check: &Check) -> Option<&'static str> {
    let of = |words: &[&str]| -> u64 {
        let failures = check.observed.failures.iter();
        failures
            .filter(|(word, _)| words.contains(&word.as_str()))
            .map(|(_, n)| n)
            .sum()
    };
    let all: u64 = check.observed.failures.values().sum();
    let mostly = |words: &[&str]| all > 0 && 2 * of(words) > all;
    [
        ("dns.unanswered", &["timeout", "refused", "unreachable"][..]),
        ("dns.no_such_name", &["no_such_name"]),
        ("dns.server_failure", &["server_failure"]),
        ("dns.wrong_address", &["wrong_address"]),
    ]
    .into_iter()
    .find_map(|(id, words)| mostly(words).then_some(id))
}

pub(super) fn find(case: &mut Case<'_, '_>) {
    let clusters: Vec<String> = case
        .view
        .mesh
        .clusters
        .iter()
        .map(|cluster| cluster.name.clone())
        .collect();
    for cluster in clusters {
        let mut kinds: Vec<&'static str> = Vec::new();
        for at in open(case, DNS_RESOLVE, &cluster) {
            let kind = kind(&case.checks[at]);
            kinds.extend(kind.filter(|kind| !kinds.contains(kind)));
        }
        for id in kinds {
            let rows: Vec<usize> = open(case, DNS_RESOLVE, &cluster)
                .into_iter()
                .filter(|at| kind(&case.checks[*at]) == Some(id))
                .collect();
            name(case, &cluster, id, &rows);
        }
        let slow = open(case, DNS_LATENCY, &cluster);
        if !slow.is_empty() {
            name(case, &cluster, "dns.slow", &slow);
        }
    }
}

/// Failed rows of `id` in `cluster` that nothing accounts for yet.
fn open(case: &Case<'_, '_>, id: &str, cluster: &str) -> Vec<usize> {
    let rows = case.checks.iter().zip(&case.explained).enumerate();
    rows.filter(|(_, (check, explained))| {
        explained.is_none()
            && check.id == id
            && check.status == Status::Fail
            && check.source_cluster.as_deref() == Some(cluster)
    })
    .map(|(at, _)| at)
    .collect()
}

/// Bad and all requests of `cluster` to the service's address.
fn at_address(case: &Case<'_, '_>, cluster: &str, service: &Service) -> Option<(u64, u64)> {
    let asks = |check: &&Check| {
        check.source_cluster.as_deref() == Some(cluster)
            && match check.id.as_str() {
                SERVICE_REACH => check.service.as_ref() == Some(&service.name),
                NDVI_SUCCESS => check.target_cluster.as_ref() == Some(&service.cluster),
                _ => false,
            }
    };
    let row = case.checks.iter().find(asks)?;
    Some((row.observed.bad?, row.observed.n?)).filter(|(_, n)| *n > 0)
}

fn name(case: &mut Case<'_, '_>, cluster: &str, id: &'static str, rows: &[usize]) {
    let rows: Vec<Check> = rows.iter().map(|at| case.checks[*at].clone()).collect();
    let names: Vec<String> = rows.iter().filter_map(|row| row.service.clone()).collect();
    let mut evidence = Vec::new();
    for row in &rows {
        let failures = row.observed.failures.iter();
        let words: Vec<String> = failures.map(|(word, n)| format!("{n} {word}")).collect();
        evidence.push(format!(
            "{} of {} questions of `{cluster}` for `{}` failed ({})",
            row.observed.bad.unwrap_or(0),
            row.observed.n.unwrap_or(0),
            row.service.as_deref().unwrap_or("?"),
            words.join(", ")
        ));
    }
    let mut works = false;
    let mut fails = false;
    let view = case.view;
    let mut services: Vec<&Service> = Vec::new();
    for (service, name) in view.mesh.names_in(cluster) {
        if names.contains(&name.name) && !services.iter().any(|s| s.name == service.name) {
            services.push(service);
        }
    }
    for service in services {
        let Some((bad, n)) = at_address(case, cluster, service) else {
            continue;
        };
        fails |= 2 * bad > n;
        works |= 2 * bad <= n;
        evidence.push(format!(
            "at its address `{}` failed {bad} of {n} requests of `{cluster}`",
            service.name
        ));
    }
    let asked = quoted(&names);
    let (what, hint) = match id {
        "dns.unanswered" => (
            format!("the resolver of `{cluster}` does not answer questions for {asked}"),
            "are the resolver's pods running and ready (`kubectl -n kube-system get pods,endpoints -l k8s-app=kube-dns`), and does a policy pass UDP 53 to them?",
        ),
        "dns.no_such_name" => (
            format!("{asked} is no name for the resolver of `{cluster}`"),
            "spelling and namespace; for `clusterset.local` the ServiceExport where it runs and the ServiceImport where it is asked for, and the `clusterset.local` zone of the resolver",
        ),
        "dns.server_failure" => (
            format!("the resolver of `{cluster}` answers with an error about {asked}"),
            "the resolver's log: its upstream, its access to the API server, its zones",
        ),
        "dns.wrong_address" => (
            format!("{asked} resolves to another address in `{cluster}`"),
            "the address of the Service or ServiceImport there, stale records in a cache, another service of the same name",
        ),
        _ => (
            format!("the resolver of `{cluster}` answers late about {asked}"),
            "CPU limits and number of its replicas, its upstream, `ndots` and search lists that multiply questions, conntrack races (`conntrack -S`, insert_failed)",
        ),
    };
    let summary = if id == "dns.slow" {
        what
    } else if works && !fails {
        format!("{what}, while the service answers at its address: DNS or service sync")
    } else if fails {
        format!("{what}; at its address the service fails as well")
    } else {
        what
    };
    let link = Link {
        source: cluster.to_owned(),
        target: cluster.to_owned(),
    };
    let mut found = cause(id, &link, &Scope::Everywhere, summary, hint.to_owned());
    found.target_cluster = None;
    let node = rows[0].node.clone();
    found.node = node.filter(|_| rows.iter().all(|row| row.node == rows[0].node));
    found.evidence = evidence;
    if id == "dns.unanswered" {
        found.rivals = vec![rival(
            "questions or answers are lost on the way to the resolver",
            "the control probes between the same nodes, and counters of UDP at the resolver's node",
        )];
    }
    let cluster = cluster.to_owned();
    case.name(found, |check| {
        let ours = check.source_cluster.as_ref() == Some(&cluster)
            && check
                .service
                .as_ref()
                .is_some_and(|name| names.contains(name));
        ours && (check.id == DNS_LATENCY || (check.id == DNS_RESOLVE && id != "dns.slow"))
    });
}

fn quoted(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}
