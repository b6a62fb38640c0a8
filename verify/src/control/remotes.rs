//! `clustermesh.remotes`, `.endpoints`, `.redundancy`, `.kvstoremesh`, `.status`: what each cluster knows of the others.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::finding::{Finding, Problem, Rows, some};
use super::own_server::{addresses, statuses};
use super::view::{Endpoint, Remote, Seen, ServerService, Statuses};
use super::world::{Cluster, Pair, World, shell};
use crate::checks::{
    CLUSTERMESH_ENDPOINTS, CLUSTERMESH_KVSTOREMESH, CLUSTERMESH_REDUNDANCY, CLUSTERMESH_REMOTES,
    CLUSTERMESH_STATUS,
};

pub(super) fn find(world: &World<'_>, rows: &mut Rows) {
    let used = world.uses_clustermesh();
    for pair in world.pairs() {
        let without = [pair.from, pair.to].into_iter().find(|c| c.lacks_cilium());
        if !used || without.is_some() {
            let why = match without {
                Some(cluster) => format!("`{}` runs without Cilium", cluster.context),
                None => "no cluster uses ClusterMesh".to_owned(),
            };
            rows.add(CLUSTERMESH_REMOTES, pair, Finding::Info(why));
            continue;
        }
        let listed = listed(pair);
        rows.add(CLUSTERMESH_REMOTES, pair, remotes(pair, &listed));
        // The rest asks about an entry that has to be there.
        let way = match (
            listed,
            pair.from
                .name_of(pair.to)
                .and_then(|name| pair.from.way_to(name)),
        ) {
            (Ok(false), _) => continue,
            (Err(unread), _) | (_, Err(unread)) => Err(unread),
            (Ok(true), Ok(way)) => Ok(way),
        };
        match way {
            Ok(Some(way)) => {
                rows.add(CLUSTERMESH_ENDPOINTS, pair, endpoints(world, pair, way));
                rows.add(CLUSTERMESH_REDUNDANCY, pair, redundancy(pair, way));
            }
            // With KVStoreMesh and no entry there: clustermesh.kvstoremesh says so.
            Ok(None) => {}
            Err(unread) => {
                let context = pair.from.context;
                rows.add(
                    CLUSTERMESH_ENDPOINTS,
                    pair,
                    Finding::unread(context, &unread),
                );
                rows.add(
                    CLUSTERMESH_REDUNDANCY,
                    pair,
                    Finding::unread(context, &unread),
                );
            }
        }
        rows.add(CLUSTERMESH_STATUS, pair, status(pair));
    }
    if used {
        for cluster in world.clusters().filter(|cluster| !cluster.lacks_cilium()) {
            rows.add(CLUSTERMESH_KVSTOREMESH, cluster, kvstoremesh(cluster));
        }
    }
}

impl<'a> Cluster<'a> {
    /// The name by which this cluster has to list `other`.
    pub(super) fn name_of(self, other: Cluster<'a>) -> Seen<&'a str> {
        other.name()
    }
}

/// Whether the agents of `from` have `to` configured.
fn listed(Pair { from, to }: Pair<'_>) -> Seen<bool> {
    let name = to.name()?;
    let remotes = from.facts.remotes.as_ref().map_err(Clone::clone)?;
    Ok(remotes.iter().flatten().any(|remote| remote.name == name))
}

fn remotes(pair: Pair<'_>, listed: &Seen<bool>) -> Finding {
    let Pair { from, to } = pair;
    match listed {
        Ok(true) => return Finding::Pass(String::new()),
        Ok(false) => {}
        Err(unread) => {
            let whose = if to.name().is_err() { to } else { from };
            return Finding::unread(whose.context, unread);
        }
    }
    let name = to.name().unwrap_or("?");
    let back = self::listed(Pair { from: to, to: from }) == Ok(true);
    let known: Vec<String> = match &from.facts.remotes {
        Ok(Some(remotes)) => remotes.iter().map(|remote| remote.name.clone()).collect(),
        _ => Vec::new(),
    };
    let seen = match (&from.facts.remotes, known.is_empty()) {
        (Ok(None), _) => "there is no Secret `cilium-clustermesh` in kube-system".to_owned(),
        (_, true) => "Secret cilium-clustermesh lists no cluster".to_owned(),
        (_, false) => format!("Secret cilium-clustermesh lists {}", some(&known, 6)),
    };
    let (cause, summary) = if back {
        (
            "clustermesh.one_sided",
            format!(
                "`{}` has `{}` configured, but not the other way round",
                to.context, from.context
            ),
        )
    } else {
        (
            "clustermesh.not_connected",
            format!(
                "`{}` does not have `{}` configured as a remote cluster",
                from.context, to.context
            ),
        )
    };
    let entry = match &to.facts.server {
        Ok(Some(server)) => server
            .service
            .as_ref()
            .map(|service| entry(to, name, service)),
        _ => None,
    };
    let entry = entry.unwrap_or_else(|| format!("{{name: {name}, ips: […], port: …}}"));
    Finding::Fail(Problem {
        cause,
        summary,
        evidence: vec![format!("`{}`: {seen}", from.context)],
        hint: format!(
            "add `{entry}` to `clustermesh.config.clusters` in the Helm values of Cilium on `{}`, or `cilium clustermesh connect --context {} --destination-context {}`",
            from.context,
            shell(from.context),
            shell(to.context)
        ),
    })
}

/// What has to stand in `clustermesh.config.clusters` for `to`.
fn entry(to: Cluster<'_>, name: &str, service: &ServerService) -> String {
    let nodes = to.facts.nodes.as_deref().unwrap_or_default();
    match (service.balancer.as_slice(), service.node_port) {
        ([first, ..], _) => match first.parse::<IpAddr>() {
            Ok(_) => format!(
                "{{name: {name}, ips: [{}], port: {}}}",
                service.balancer.join(", "),
                service.port
            ),
            Err(_) => format!("{{name: {name}, address: {first}, port: {}}}", service.port),
        },
        ([], Some(port)) => format!(
            "{{name: {name}, ips: [{}], port: {port}}}",
            addresses(nodes)
        ),
        ([], None) => format!("{{name: {name}, ips: […], port: {}}}", service.port),
    }
}

fn endpoints(world: &World<'_>, pair: Pair<'_>, way: &Remote) -> Finding {
    let Pair { from, to } = pair;
    let service = match &to.facts.server {
        Ok(Some(server)) => server.service.as_ref(),
        Ok(None) => None,
        Err(unread) => return Finding::unread(to.context, unread),
    };
    let Some(service) = service else {
        // clustermesh.server fails already.
        return Finding::Undecided(
            format!("there is no Service to compare with: `{}`", to.context),
            "see clustermesh.server".to_owned(),
        );
    };
    if way.endpoints.is_empty() {
        return Finding::Fail(Problem {
            cause: "clustermesh.wrong_address",
            summary: format!("`{}` has no address for `{}`", from.context, to.context),
            evidence: vec![format!(
                "the entry `{}` has no endpoints, so Cilium ignores it",
                way.name
            )],
            hint: format!(
                "`{}` in `clustermesh.config.clusters` in the Helm values of Cilium on `{}`",
                entry(to, &way.name, service),
                from.context
            ),
        });
    }
    if to.facts.nodes.is_err() || from.facts.nodes.is_err() {
        let (of, unread) = match (&to.facts.nodes, &from.facts.nodes) {
            (Err(unread), _) => (to, unread),
            (_, Err(unread)) => (from, unread),
            _ => unreachable!("one of them is unread"),
        };
        return Finding::unread(of.context, unread);
    }
    let mut strangers = Vec::new();
    for endpoint in &way.endpoints {
        match at_home(world, pair, endpoint, service) {
            Home::Yes => {}
            Home::Unknown => strangers.push(endpoint.to_string()),
            Home::No(cause, why) => {
                return Finding::Fail(Problem {
                    cause,
                    summary: format!(
                        "`{}` asks for `{}` in the wrong place: {why}",
                        from.context, to.context
                    ),
                    evidence: vec![
                        format!(
                            "endpoint of remote `{}` on `{}`: {endpoint}",
                            way.name, from.context
                        ),
                        format!(
                            "Service clustermesh-apiserver of `{}`: {}",
                            to.context,
                            words(service)
                        ),
                    ],
                    hint: format!(
                        "`{}` in `clustermesh.config.clusters` in the Helm values of Cilium on `{}`",
                        entry(to, &way.name, service),
                        from.context
                    ),
                });
            }
        }
    }
    let shown: Vec<String> = way.endpoints.iter().map(ToString::to_string).collect();
    if strangers.is_empty() {
        return Finding::Pass(shown.join(", "));
    }
    let mut said = statuses(from, &way.name).peekable();
    if said.peek().is_some() && said.all(|(_, status)| status.ready) {
        return Finding::Pass(format!(
            "{}, through which the agents are connected",
            shown.join(", ")
        ));
    }
    Finding::Undecided(
        format!(
            "an address that no cluster here has: `{}` on `{}`",
            strangers[0], from.context
        ),
        format!(
            "if it is a load balancer, NAT or DNS name of `{}`, `cilium clustermesh status --context {}` tells whether it works",
            to.context,
            shell(from.context)
        ),
    )
}

enum Home {
    Yes,
    No(&'static str, String),
    Unknown,
}

fn at_home(
    world: &World<'_>,
    Pair { from, to }: Pair<'_>,
    endpoint: &Endpoint,
    service: &ServerService,
) -> Home {
    if service.balancer.contains(&endpoint.host) {
        return port(endpoint, service.port, to);
    }
    let mut unknown = endpoint.addresses.is_empty();
    for address in &endpoint.addresses {
        if service.balancer.contains(&address.to_string()) {
            if let Home::No(cause, why) = port(endpoint, service.port, to) {
                return Home::No(cause, why);
            }
            continue;
        }
        let owners = world.owners(*address);
        let of = |cluster: Cluster<'_>| owners.iter().any(|owner| owner.context == cluster.context);
        if of(to) {
            let Some(node_port) = service.node_port else {
                return Home::No(
                    "clustermesh.wrong_port",
                    format!("its Service has no NodePort, and {address} is a node"),
                );
            };
            if let Home::No(cause, why) = port(endpoint, node_port, to) {
                return Home::No(cause, why);
            }
        } else if of(from) {
            // clustermesh.own_server says so.
        } else if let Some(owner) = owners.first() {
            return Home::No(
                "clustermesh.wrong_address",
                format!("{address} is a node of `{}`", owner.context),
            );
        } else {
            unknown = true;
        }
    }
    if unknown { Home::Unknown } else { Home::Yes }
}

fn port(endpoint: &Endpoint, wanted: u16, to: Cluster<'_>) -> Home {
    if endpoint.port == wanted {
        Home::Yes
    } else {
        Home::No(
            "clustermesh.wrong_port",
            format!(
                "port {} instead of {wanted}, which `{}` serves",
                endpoint.port, to.context
            ),
        )
    }
}

fn words(service: &ServerService) -> String {
    let node_port = service.node_port.map(|port| format!(", NodePort {port}"));
    format!(
        "type {}, port {}{}",
        service.kind,
        service.port,
        node_port.unwrap_or_default()
    )
}

fn redundancy(Pair { from, to }: Pair<'_>, way: &Remote) -> Finding {
    let nodes = match &to.facts.nodes {
        Ok(nodes) => nodes,
        Err(unread) => return Finding::unread(to.context, unread),
    };
    let addresses_of: BTreeSet<IpAddr> = way
        .endpoints
        .iter()
        .flat_map(|e| e.addresses.iter().copied())
        .collect();
    let of_nodes = |address: &&IpAddr| nodes.iter().any(|node| node.addresses.contains(address));
    let single = match (addresses_of.iter().next(), addresses_of.len()) {
        (Some(single), 1) if of_nodes(&single) && nodes.len() > 1 => single,
        (_, count) => {
            return Finding::Pass(format!("{} addresses", count.max(way.endpoints.len())));
        }
    };
    Finding::Fail(Problem {
        cause: "clustermesh.single_address",
        summary: format!(
            "`{}` reaches `{}` by one node alone, {single}: when that node goes, so does the connection",
            from.context, to.context
        ),
        evidence: vec![format!("`{}` has {} nodes", to.context, nodes.len())],
        hint: format!(
            "`ips: [{}]` for `{}` in `clustermesh.config.clusters` in the Helm values of Cilium on `{}`",
            addresses(nodes),
            way.name,
            from.context
        ),
    })
}

fn kvstoremesh(cluster: Cluster<'_>) -> Finding {
    let context = cluster.context;
    let facts = cluster.facts;
    let (server, agents, mirror) = match (&facts.server, &facts.remotes, &facts.kvstoremesh) {
        (Ok(server), Ok(agents), Ok(mirror)) => (server, agents, mirror),
        (Err(unread), ..) | (_, Err(unread), _) | (.., Err(unread)) => {
            return Finding::unread(context, unread);
        }
    };
    let runs = server.as_ref().is_some_and(|server| server.kvstoremesh);
    let names = |remotes: &Option<Vec<Remote>>, pick: fn(&Remote) -> bool| -> BTreeSet<String> {
        let picked = remotes.iter().flatten().filter(|remote| pick(remote));
        picked.map(|remote| remote.name.clone()).collect()
    };
    let local: BTreeSet<String> = names(agents, |remote| {
        !remote.endpoints.is_empty() && remote.endpoints.iter().all(Endpoint::is_local_service)
    });
    let mirrored = names(mirror, |_| true);
    let lacking: Vec<String> = local.difference(&mirrored).cloned().collect();
    let helm = cluster.set("clustermesh.apiserver.kvstoremesh.enabled", "true");
    let fail = |summary: String, evidence: Vec<String>| {
        Finding::Fail(Problem {
            cause: "clustermesh.kvstoremesh_mixed",
            summary,
            evidence,
            hint: format!("{helm}: Helm writes both Secrets from `clustermesh.config.clusters`"),
        })
    };
    if !runs && !local.is_empty() {
        let names: Vec<String> = local.into_iter().collect();
        return fail(
            format!(
                "agents of `{context}` ask their own control plane for {}, where no KVStoreMesh mirrors it",
                some(&names, 4)
            ),
            vec!["Deployment clustermesh-apiserver has no container `kvstoremesh`".to_owned()],
        );
    }
    if !lacking.is_empty() {
        return fail(
            format!(
                "KVStoreMesh of `{context}` has no entry for {}, which its agents ask it for",
                some(&lacking, 4)
            ),
            vec![format!(
                "Secret cilium-kvstoremesh lists {}",
                some(&mirrored.into_iter().collect::<Vec<_>>(), 6)
            )],
        );
    }
    Finding::Pass(if runs {
        "KVStoreMesh mirrors every remote".to_owned()
    } else {
        "agents ask remote clusters themselves".to_owned()
    })
}

fn status(Pair { from, to }: Pair<'_>) -> Finding {
    let (name, answers) = match (to.name(), &from.facts.status) {
        (Ok(name), Ok(statuses)) => (name, statuses),
        (Err(unread), _) => return Finding::unread(to.context, &unread),
        (_, Err(unread)) => return Finding::unread(from.context, unread),
    };
    let Statuses {
        answers: agents,
        silent,
    } = answers;
    let troubleshoot = format!(
        "`kubectl --context {} -n kube-system exec ds/cilium -c cilium-agent -- cilium-dbg troubleshoot clustermesh {name}`",
        shell(from.context)
    );
    let mut bad = Vec::new();
    for agent in agents {
        match agent.remotes.iter().find(|remote| remote.name == name) {
            None => bad.push(format!(
                "`{}`: does not know `{name}`; its Secret may not be mounted yet",
                agent.node
            )),
            Some(remote) if !remote.ready => {
                let mut line = format!("`{}`: {}", agent.node, remote.status);
                if remote.connected && remote.config_required && !remote.config_retrieved {
                    line += ", remote cluster configuration not retrieved";
                }
                if !remote.unsynced.is_empty() {
                    line += &format!(
                        ", synchronisation in progress for {}",
                        remote.unsynced.join(", ")
                    );
                }
                if remote.failures > 0 {
                    line += &format!(", {} failures", remote.failures);
                }
                bad.push(line);
            }
            Some(_) => {}
        }
    }
    if !bad.is_empty() {
        let why = recognised(&bad.join("\n"));
        return Finding::Fail(Problem {
            cause: "clustermesh.not_ready",
            summary: format!(
                "{} of {} agents of `{}` are not ready for `{}`{why}",
                bad.len(),
                agents.len(),
                from.context,
                to.context
            ),
            evidence: bad,
            hint: troubleshoot,
        });
    }
    match (silent.first(), agents.len()) {
        (Some((node, why)), _) => Finding::Undecided(
            format!(
                "no status from Cilium agents: {} of {} on `{}`, the first `{node}`: {why}",
                silent.len(),
                silent.len() + agents.len(),
                from.context
            ),
            troubleshoot,
        ),
        (None, 0) => Finding::Undecided(
            format!(
                "no status from Cilium agents: `{}` has no pod of DaemonSet cilium",
                from.context
            ),
            troubleshoot,
        ),
        (None, all) => Finding::Pass(format!("{all} agents ready")),
    }
}

/// Known texts of Cilium, in words that say what to do.
fn recognised(text: &str) -> &'static str {
    let text = text.to_ascii_lowercase();
    let known = [
        (
            "certificate signed by unknown authority",
            ": it does not trust the other side's CA (see certificate.ca)",
        ),
        (
            "certificate has expired",
            ": a certificate has expired (see certificate.expiry)",
        ),
        (
            "configuration not retrieved",
            ": it reaches something that is not that cluster (see clustermesh.own_server)",
        ),
        ("waiting for initial connection", ": it never reached it"),
        (
            "no such host",
            ": the name of the remote does not resolve (see clustermesh.endpoints)",
        ),
        (
            "connection refused",
            ": nothing listens at that address (see clustermesh.endpoints)",
        ),
        ("i/o timeout", ": no answer from that address"),
        ("deadline exceeded", ": no answer from that address"),
    ];
    let found = known.iter().find(|(seen, _)| text.contains(seen));
    found.map_or("", |(_, meaning)| meaning)
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "https://{}:{}", self.host, self.port)?;
        let same = self.addresses.iter().all(|ip| ip.to_string() == self.host);
        if !self.addresses.is_empty() && !same {
            let shown: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
            write!(f, " ({})", shown.join(", "))?;
        }
        Ok(())
    }
}
