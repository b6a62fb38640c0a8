//! What a mesh needs to know of one cluster: its nodes, our agents' pods, its prefixes and Cilium's name of it.
//! GET and LIST only. What could not be read says why; the rest is there all the same.

mod agents;

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{ConfigMap, Node as KubeNode, Pod};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use mesh::discovered::{CiliumName, Discovered, Found, FoundNode};
use tokio::time::Instant;
use verify::control::view::{Seen, Unread};

use crate::ask::Deadline;
use crate::read::{cilium, nodes};

/// Where the agents are installed unless somebody says otherwise.
pub const NAMESPACE: &str = "aggrik8s";
/// The ConfigMap that the agents read their mesh.yaml from, and its key.
const MESH: (&str, &str) = ("aggrik8s-mesh", "mesh.yaml");

/// Reads what the cluster behind `client` says, and the agents of `namespace`, for `limit` at most.
pub async fn discover(client: &Client, namespace: &str, limit: Duration) -> Discovered {
    let deadline = Deadline(Instant::now() + limit);
    let system = nodes::system_pods(client, deadline);
    let (config, kube_nodes, cilium_cidrs, system, pods, mesh_yaml) = tokio::join!(
        cilium::config(client, deadline),
        listed_nodes(client, deadline),
        nodes::pod_cidrs(client, deadline),
        system,
        pods(client, namespace, deadline),
        mesh_yaml(client, namespace, deadline),
    );
    let service_cidrs = nodes::service_cidrs(client, &system, deadline).await;
    let of_nodes = kube_nodes.as_ref().map_err(Clone::clone);
    let pod_cidrs = of_nodes.and_then(|of_nodes| {
        let own = of_nodes.iter().flat_map(pod_cidrs);
        Ok(own.chain(cilium_cidrs?).collect::<Vec<IpNet>>())
    });
    Discovered {
        cilium: found(config).map(|config| {
            let value = |key: &str| config.as_ref().and_then(|config| config.get(key).cloned());
            CiliumName {
                name: value("cluster-name").filter(|name| name != "default"),
                // 0: none was given.
                id: value("cluster-id")
                    .and_then(|id| id.parse().ok())
                    .filter(|id| *id != 0),
            }
        }),
        nodes: found(kube_nodes).map(|all| all.iter().map(node).collect()),
        agents: found(pods).map(|pods| pods.iter().filter_map(agents::agent).collect()),
        pod_cidrs: found(pod_cidrs).map(once),
        service_cidrs: found(service_cidrs).map(once),
        mesh_yaml: found(mesh_yaml),
    }
}

fn found<T>(seen: Seen<T>) -> Found<T> {
    seen.map_err(|unread| match unread {
        Unread::Forbidden { verb, resource } => format!("not allowed to {verb} {resource}"),
        Unread::Failed(why) => why,
    })
}

fn once(mut nets: Vec<IpNet>) -> Vec<IpNet> {
    nets.sort();
    nets.dedup();
    nets
}

async fn listed_nodes(client: &Client, deadline: Deadline) -> Seen<Vec<KubeNode>> {
    let api: Api<KubeNode> = Api::all(client.clone());
    Ok(deadline.list("nodes", &api).await?.unwrap_or_default())
}

async fn pods(client: &Client, namespace: &str, deadline: Deadline) -> Seen<Vec<Pod>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let ours = ListParams::default().labels("app.kubernetes.io/name=aggrik8s");
    let resource = format!("pods in {namespace}");
    Ok(deadline
        .list_of(&resource, &api, ours)
        .await?
        .unwrap_or_default())
}

async fn mesh_yaml(client: &Client, namespace: &str, deadline: Deadline) -> Seen<Option<String>> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let resource = format!("configmaps `{}` in {namespace}", MESH.0);
    let map = deadline.get(&resource, api.get(MESH.0)).await?;
    Ok(map.and_then(|map| map.data?.remove(MESH.1)))
}

fn pod_cidrs(node: &KubeNode) -> impl Iterator<Item = IpNet> {
    let spec = node.spec.iter();
    let texts = spec.flat_map(|spec| spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr));
    texts.filter_map(|net| net.parse().ok())
}

fn node(node: &KubeNode) -> FoundNode {
    let status = node.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref());
    let ready = conditions
        .unwrap_or_default()
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let addresses = status.and_then(|status| status.addresses.as_deref());
    let internal = addresses
        .unwrap_or_default()
        .iter()
        .filter(|address| address.type_ == "InternalIP");
    let spec = node.spec.as_ref();
    FoundNode {
        name: node.name_any(),
        addresses: ipv4_first(internal.map(|address| address.address.as_str())),
        ready,
        unschedulable: spec.and_then(|spec| spec.unschedulable).unwrap_or(false),
    }
}

fn ipv4_first<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = texts.filter_map(|text| text.parse().ok()).collect();
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses.dedup();
    addresses
}
