//! `clustermesh.own_server`: the mesh that talks to itself.

use super::finding::{Finding, Problem, Rows};
use super::view::{Endpoint, RemoteStatus, Server, ServerService};
use super::world::{Cluster, Pair, Version, World};
use crate::checks::CLUSTERMESH_OWN_SERVER;

/// The first Cilium whose datapath leaves a NodePort of another cluster's node alone.
const MENDED: Version = Version(1, 19, 0);

pub(super) fn find(world: &World<'_>, rows: &mut Rows) {
    if !world.uses_clustermesh() {
        return;
    }
    for pair in world.pairs() {
        if pair.from.lacks_cilium() || pair.to.lacks_cilium() {
            continue;
        }
        rows.add(CLUSTERMESH_OWN_SERVER, pair, own_server(world, pair));
    }
}

fn own_server(world: &World<'_>, pair: Pair<'_>) -> Finding {
    let Pair { from, to } = pair;
    if let Some(problem) = own_address(pair).or_else(|| own_id(pair)) {
        return Finding::Fail(problem);
    }
    let (ours, theirs) = match (service(from), service(to)) {
        (Ok(ours), Ok(theirs)) => (ours, theirs),
        (Err(finding), _) | (_, Err(finding)) => return finding,
    };
    let (Some(ours), Some(theirs)) = (ours, theirs) else {
        return Finding::Pass("one of the two offers no control plane".to_owned());
    };
    let (Some(own), Some(other)) = (ours.node_port, theirs.node_port) else {
        return Finding::Pass(format!(
            "Service of type {} there, {} here",
            theirs.kind, ours.kind
        ));
    };
    let seen = vec![
        format!(
            "Service clustermesh-apiserver of `{}`: NodePort {own}",
            from.context
        ),
        format!(
            "Service clustermesh-apiserver of `{}`: NodePort {other}",
            to.context
        ),
    ];
    if own != other {
        return Finding::Pass(seen.join("; "));
    }
    // Through a load balancer nobody meets a NodePort.
    match from.name_of(to).and_then(|name| from.way_to(name)) {
        Ok(Some(way)) if !way.endpoints.iter().any(|endpoint| endpoint.port == own) => {
            return Finding::Pass(format!(
                "`{}` is asked on another port than {own}",
                to.context
            ));
        }
        Ok(None) if theirs.kind != "NodePort" => {
            return Finding::Pass(format!("Service of type {} there", theirs.kind));
        }
        Ok(_) => {}
        Err(unread) if theirs.kind != "NodePort" => return Finding::unread(from.context, &unread),
        Err(_) => {}
    }
    let replaces = match from.replaces_kube_proxy() {
        Ok(replaces) => replaces,
        Err(unread) => return Finding::unread(from.context, &unread),
    };
    if !replaces {
        return Finding::Pass("kube-proxy translates NodePorts of its own nodes only".to_owned());
    }
    let version = match from.cilium() {
        Ok(Some(version)) => version,
        Ok(None) => {
            return Finding::Undecided(
                format!(
                    "the image of the Cilium agents has no version in its tag: `{}`",
                    from.context
                ),
                format!(
                    "below 1.19 the same NodePort {own} on both clusters makes `{}` talk to itself; give one another: {}",
                    from.context,
                    to.set(
                        "clustermesh.apiserver.service.nodePort",
                        &free_port(world).to_string()
                    )
                ),
            );
        }
        Err(unread) => return Finding::unread(from.context, &unread),
    };
    if version >= MENDED {
        return Finding::Pass(format!(
            "the same NodePort {own}, which Cilium {version} tells apart"
        ));
    }
    let mut evidence = seen;
    evidence.push(format!(
        "Cilium {version} on `{}` replaces kube-proxy and translates NodePorts where packets start",
        from.context
    ));
    evidence.extend(lost_configuration(pair));
    Finding::Fail(Problem {
        cause: "clustermesh.self_talk",
        summary: format!(
            "`{}` talks to itself when it means `{}`: both have NodePort {own} for clustermesh-apiserver",
            from.context, to.context
        ),
        evidence,
        hint: another_port(world, from, to),
    })
}

/// Of two clusters with the same NodePort the later one gets another, so that both directions name the same change.
fn another_port(world: &World<'_>, from: Cluster<'_>, to: Cluster<'_>) -> String {
    let place = |cluster: Cluster<'_>| {
        world
            .views
            .iter()
            .position(|view| view.context == cluster.context)
    };
    let (stays, moves) = if place(from) < place(to) {
        (from, to)
    } else {
        (to, from)
    };
    let port = free_port(world);
    format!(
        "{}, then `port: {port}` for it in `clustermesh.config.clusters` of `{}`; mind the capital P: the chart takes `service.nodeport.port` without a word and ignores it",
        moves.set("clustermesh.apiserver.service.nodePort", &port.to_string()),
        stays.context
    )
}

/// The first NodePort after the chart's that no cluster of the mesh has.
fn free_port(world: &World<'_>) -> u16 {
    let taken: Vec<u16> = world
        .clusters()
        .filter_map(|cluster| match &cluster.facts.server {
            Ok(Some(server)) => server.service.as_ref()?.node_port,
            _ => None,
        })
        .collect();
    (32380..=32767)
        .find(|port| !taken.contains(port))
        .unwrap_or(32380)
}

fn service(cluster: Cluster<'_>) -> Result<Option<&ServerService>, Finding> {
    match &cluster.facts.server {
        Ok(server) => Ok(server
            .as_ref()
            .and_then(|server: &Server| server.service.as_ref())),
        Err(unread) => Err(Finding::unread(cluster.context, unread)),
    }
}

/// The remote's address is a node or a load balancer of the cluster itself.
fn own_address(Pair { from, to }: Pair<'_>) -> Option<Problem> {
    let way = from.way_to(to.name().ok()?).ok()??;
    let nodes = from.facts.nodes.as_deref().unwrap_or_default();
    let foreign = to.facts.nodes.as_deref().unwrap_or_default();
    let balancer = match &from.facts.server {
        Ok(Some(Server {
            service: Some(service),
            ..
        })) => service.balancer.clone(),
        _ => Vec::new(),
    };
    let own = |endpoint: &Endpoint| {
        let node = endpoint.addresses.iter().find_map(|ip| {
            let has = |nodes: &[super::view::Node]| {
                let node = nodes.iter().find(|node| node.addresses.contains(ip))?;
                Some(node.name.clone())
            };
            // An address that both have is an overlap, and says nothing here.
            let node = has(nodes).filter(|_| has(foreign).is_none())?;
            Some(format!("{ip} is node `{node}`"))
        });
        let mut names = endpoint.addresses.iter().map(ToString::to_string);
        node.or_else(|| {
            let name = names.find(|name| balancer.contains(name)).or_else(|| {
                balancer
                    .contains(&endpoint.host)
                    .then(|| endpoint.host.clone())
            })?;
            Some(format!("{name} is the load balancer"))
        })
    };
    let seen = way.endpoints.iter().find_map(own)?;
    let address = match &to.facts.nodes {
        Ok(nodes) => addresses(nodes),
        Err(_) => format!("the addresses of `{}`", to.context),
    };
    Some(Problem {
        cause: "clustermesh.self_talk",
        summary: format!(
            "`{}` talks to itself when it means `{}`: {seen} of `{}`",
            from.context, to.context, from.context
        ),
        evidence: vec![format!(
            "endpoints of remote `{}` on `{}`: {}",
            way.name,
            from.context,
            way.endpoints
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        )],
        hint: format!(
            "`ips: [{address}]` for `{}` in `clustermesh.config.clusters` in the Helm values of Cilium on `{}`",
            way.name, from.context
        ),
    })
}

/// "192.168.20.11, 192.168.20.12".
pub(super) fn addresses(nodes: &[super::view::Node]) -> String {
    let first = |node: &super::view::Node| node.addresses.first().map(ToString::to_string);
    nodes
        .iter()
        .filter_map(first)
        .take(6)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Agents say that the remote states the id of their own cluster.
fn own_id(Pair { from, to }: Pair<'_>) -> Option<Problem> {
    let (own, other) = (
        from.value("cluster-id").ok()??,
        to.value("cluster-id").ok()??,
    );
    let own: u32 = own.parse().ok()?;
    if other.parse() == Ok(own) {
        return None;
    }
    let (node, status) =
        statuses(from, to.name().ok()?).find(|(_, status)| status.cluster_id == Some(own))?;
    Some(Problem {
        cause: "clustermesh.self_talk",
        summary: format!(
            "`{}` talks to itself when it means `{}`: what it reaches as `{}` states cluster-id {own}, which is its own",
            from.context, to.context, status.name
        ),
        evidence: vec![format!(
            "status of the agent on `{node}`: {}",
            status.status
        )],
        hint: format!(
            "give both clusters NodePorts of their own: {}; and check the address of `{}` in `clustermesh.config.clusters` of `{}`",
            to.set("clustermesh.apiserver.service.nodePort", "32380"),
            status.name,
            from.context
        ),
    })
}

/// The symptom: connected, and the remote's configuration is never found.
fn lost_configuration(Pair { from, to }: Pair<'_>) -> Option<String> {
    let (node, status) = statuses(from, to.name().ok()?).find(|(_, status)| {
        status.connected && status.config_required && !status.config_retrieved
    })?;
    Some(format!(
        "the agent on `{node}` is connected to `{}` and never finds its configuration",
        status.name
    ))
}

pub(super) fn statuses<'a>(
    cluster: Cluster<'a>,
    name: &'a str,
) -> impl Iterator<Item = (&'a str, &'a RemoteStatus)> + use<'a> {
    let answers = cluster
        .facts
        .status
        .as_ref()
        .map(|all| all.answers.as_slice());
    answers.unwrap_or_default().iter().flat_map(move |agent| {
        let of = agent
            .remotes
            .iter()
            .filter(move |remote| remote.name == name);
        of.map(|remote| (agent.node.as_str(), remote))
    })
}
