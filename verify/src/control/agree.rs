//! `config.mesh_size`, `.routing`, `.encryption`, `.mtu`: what has to be the same in every cluster. `config.kube_proxy`.

use super::finding::{Finding, Place, Problem, Rows};
use super::view::{Seen, Unread};
use super::world::{Cluster, World};
use crate::checks::{
    CONFIG_ENCRYPTION, CONFIG_KUBE_PROXY, CONFIG_MESH_SIZE, CONFIG_MTU, CONFIG_ROUTING,
};

/// Something that clusters have to agree on.
struct Facet {
    check: &'static str,
    cause: &'static str,
    /// "maxConnectedClusters".
    what: &'static str,
    /// The values to change, in words.
    keys: &'static str,
    value: fn(Cluster<'_>) -> Seen<Option<String>>,
}

const FACETS: [Facet; 4] = [
    Facet {
        check: CONFIG_MESH_SIZE,
        cause: "config.mesh_size_differs",
        what: "maxConnectedClusters",
        keys: "`clustermesh.maxConnectedClusters` in the Helm values of Cilium; it is fixed at install, so choose the cluster that is easier to rebuild",
        value: |cluster| {
            let value = cluster.value("max-connected-clusters")?;
            Ok(Some(value.unwrap_or("255").to_owned()))
        },
    },
    Facet {
        check: CONFIG_ROUTING,
        cause: "config.routing_differs",
        what: "the way to pods",
        keys: "`routingMode`, `tunnelProtocol` and `tunnelPort` in the Helm values of Cilium",
        value: routing,
    },
    Facet {
        check: CONFIG_ENCRYPTION,
        cause: "config.encryption_differs",
        what: "encryption",
        keys: "`encryption.enabled`, `encryption.type` and `encryption.nodeEncryption` in the Helm values of Cilium",
        value: encryption,
    },
    Facet {
        check: CONFIG_MTU,
        cause: "config.mtu_differs",
        what: "the MTU",
        keys: "`MTU` in the Helm values of Cilium: the smallest that every path carries",
        value: |cluster| {
            let value = cluster.value("mtu")?.filter(|value| *value != "0");
            Ok(value.map(str::to_owned))
        },
    },
];

pub(super) fn find(world: &World<'_>, rows: &mut Rows) {
    for facet in &FACETS {
        rows.add(facet.check, Place::Mesh, agreed(world, facet));
    }
    for cluster in world.clusters() {
        rows.add(CONFIG_KUBE_PROXY, cluster, kube_proxy(cluster));
    }
}

fn agreed(world: &World<'_>, facet: &Facet) -> Finding {
    let mut known: Vec<(Cluster<'_>, String)> = Vec::new();
    let mut open: Option<(String, String)> = None;
    for cluster in world.clusters().filter(|cluster| !cluster.lacks_cilium()) {
        match (facet.value)(cluster) {
            Ok(Some(value)) => known.push((cluster, value)),
            Ok(None) => {
                open.get_or_insert((
                    format!(
                        "{} is not set: `{}` takes each node's own",
                        facet.what, cluster.context
                    ),
                    "`aggrik8s verify` with agents measures what crosses (mtu.path)".to_owned(),
                ));
            }
            Err(unread) => {
                open.get_or_insert(lacking(cluster, &unread));
            }
        }
    }
    let differs = known.iter().find(|(_, value)| *value != known[0].1);
    if let (Some((first, one)), Some((other, another))) = (known.first(), differs) {
        return Finding::Fail(Problem {
            cause: facet.cause,
            summary: format!(
                "`{}` and `{}` differ in {}: {one} here, {another} there",
                first.context, other.context, facet.what
            ),
            evidence: known
                .iter()
                .map(|(cluster, value)| format!("cilium-config of `{}`: {value}", cluster.context))
                .collect(),
            hint: facet.keys.to_owned(),
        });
    }
    open = open.or_else(|| silent(world));
    match (open, known.first()) {
        (Some((why, hint)), _) => Finding::Undecided(why, hint),
        (None, Some((_, value))) if known.len() > 1 => {
            Finding::Pass(format!("{value} in all {} clusters", known.len()))
        }
        (None, _) => {
            Finding::Info("fewer than two clusters run Cilium: nothing to compare".to_owned())
        }
    }
}

fn lacking(cluster: Cluster<'_>, unread: &Unread) -> (String, String) {
    let why = format!("{}: `{}`", unread.words(), cluster.context);
    (why, unread.hint().to_owned())
}

/// What clusters that do not answer leave open in every comparison.
pub(super) fn silent(world: &World<'_>) -> Option<(String, String)> {
    let silent = world.silent();
    let first = silent.first()?;
    Some((
        format!("a cluster to compare with does not answer: `{first}`"),
        "see evidence.api_server".to_owned(),
    ))
}

fn routing(cluster: Cluster<'_>) -> Seen<Option<String>> {
    // Up to 1.13 one key said both.
    if let (None, Some(tunnel)) = (cluster.value("routing-mode")?, cluster.value("tunnel")?) {
        return Ok(Some(match tunnel {
            "disabled" => "native routing".to_owned(),
            protocol => tunnel_words(protocol, cluster.value("tunnel-port")?),
        }));
    }
    Ok(Some(match cluster.value("routing-mode")? {
        Some("native") => "native routing".to_owned(),
        _ => tunnel_words(
            cluster.value("tunnel-protocol")?.unwrap_or("vxlan"),
            cluster.value("tunnel-port")?,
        ),
    }))
}

fn tunnel_words(protocol: &str, port: Option<&str>) -> String {
    let port = match (port.filter(|port| *port != "0"), protocol) {
        (Some(port), _) => port,
        (None, "geneve") => "6081",
        (None, _) => "8472",
    };
    format!("a {protocol} tunnel on port {port}")
}

fn encryption(cluster: Cluster<'_>) -> Seen<Option<String>> {
    let on = |key: &str| Seen::Ok(cluster.value(key)? == Some("true"));
    let kind = match (
        on("enable-wireguard")?,
        on("enable-ipsec")?,
        on("enable-ztunnel")?,
    ) {
        (true, ..) => "wireguard",
        (_, true, _) => "ipsec",
        (.., true) => "ztunnel",
        _ => return Ok(Some("no encryption".to_owned())),
    };
    let nodes = if on("encrypt-node")? {
        " with node encryption"
    } else {
        ""
    };
    Ok(Some(format!("{kind}{nodes}")))
}

fn kube_proxy(cluster: Cluster<'_>) -> Finding {
    let context = cluster.context;
    if cluster.lacks_cilium() {
        return Finding::Info(format!("`{context}` runs without Cilium"));
    }
    let (replaces, pods) = match (cluster.replaces_kube_proxy(), &cluster.facts.kube_proxy) {
        (Ok(false), _) => return Finding::Pass("Cilium does not replace kube-proxy".to_owned()),
        (Err(unread), _) => return Finding::unread(context, &unread),
        (_, Err(unread)) => return Finding::unread(context, unread),
        (Ok(replaces), Ok(pods)) => (replaces, pods),
    };
    if !replaces || pods.is_empty() {
        return Finding::Pass("no pod of kube-proxy in kube-system".to_owned());
    }
    Finding::Fail(Problem {
        cause: "config.two_proxies",
        summary: format!(
            "`{context}` runs kube-proxy beside Cilium's replacement of it: both program every service"
        ),
        evidence: vec![
            "cilium-config: kube-proxy-replacement is true".to_owned(),
            format!("pods in kube-system: {}", super::finding::some(pods, 3)),
        ],
        hint: "Talos: `cluster.proxy.disabled: true` in the machine configuration; RKE2: `disable-kube-proxy: true`; kubeadm: `kubectl -n kube-system delete daemonset kube-proxy`, then restart the nodes one by one".to_owned(),
    })
}
