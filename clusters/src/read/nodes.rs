//! Nodes, CIDRs, and the pods of kube-system.

use k8s_openapi::api::core::v1::{Node as KubeNode, Pod};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, ResourceExt};
use verify::control::view::{Node, Seen, Unread};

use super::NAMESPACE;
use crate::ask::Deadline;

pub(super) async fn nodes(client: &Client, deadline: Deadline) -> Seen<Vec<Node>> {
    let api: Api<KubeNode> = Api::all(client.clone());
    let nodes = deadline.list("nodes", &api).await?.unwrap_or_default();
    Ok(nodes.into_iter().map(node).collect())
}

fn node(node: KubeNode) -> Node {
    let name = node.name_any();
    let spec = node.spec.unwrap_or_default();
    let all = spec.pod_cidrs.unwrap_or_default();
    let of = node
        .status
        .and_then(|status| status.addresses)
        .unwrap_or_default();
    let reachable = of
        .iter()
        .filter(|a| matches!(a.type_.as_str(), "InternalIP" | "ExternalIP"));
    Node {
        name,
        addresses: reachable.filter_map(|a| a.address.parse().ok()).collect(),
        pod_cidrs: all
            .iter()
            .chain(&spec.pod_cidr)
            .filter_map(|net| net.parse().ok())
            .collect(),
    }
}

/// What CiliumNodes hold: in Cilium's own IPAM modes nodes have none.
pub(crate) async fn pod_cidrs(client: &Client, deadline: Deadline) -> Seen<Vec<ipnet::IpNet>> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("cilium.io", "v2", "CiliumNode"));
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
    let nodes = deadline.list("ciliumnodes.cilium.io", &api).await?;
    let mut nets: Vec<ipnet::IpNet> = Vec::new();
    for node in nodes.unwrap_or_default() {
        let listed = node.data.pointer("/spec/ipam/podCIDRs");
        let listed = listed.and_then(|value| value.as_array());
        nets.extend(
            listed
                .into_iter()
                .flatten()
                .filter_map(|net| net.as_str()?.parse::<ipnet::IpNet>().ok()),
        );
    }
    Ok(nets)
}

pub(crate) async fn system_pods(client: &Client, deadline: Deadline) -> Seen<Vec<Pod>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let pods = deadline.list("pods in kube-system", &api).await?;
    Ok(pods.unwrap_or_default())
}

/// Of a DaemonSet (Talos, kubeadm) or a static pod (RKE2); those that ended do not count.
pub(super) fn kube_proxy(system: &Seen<Vec<Pod>>) -> Seen<Vec<String>> {
    let pods = system.as_ref().map_err(Clone::clone)?;
    let is = |pod: &&Pod| {
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        let label = |key: &str| pod.labels().get(key).map(String::as_str);
        let named = pod.name_any() == "kube-proxy" || pod.name_any().starts_with("kube-proxy-");
        (named
            || label("k8s-app") == Some("kube-proxy")
            || label("component") == Some("kube-proxy"))
            && !matches!(phase, Some("Succeeded" | "Failed"))
    };
    Ok(pods.iter().filter(is).map(ResourceExt::name_any).collect())
}

/// Of the API (Kubernetes 1.33 and later), else from the flags of the API server's pod.
pub(crate) async fn service_cidrs(
    client: &Client,
    system: &Seen<Vec<Pod>>,
    deadline: Deadline,
) -> Seen<Vec<ipnet::IpNet>> {
    let api: Api<ServiceCIDR> = Api::all(client.clone());
    let listed = deadline.list("servicecidrs.networking.k8s.io", &api).await;
    if let Ok(Some(listed)) = &listed {
        let of = |cidr: &ServiceCIDR| {
            cidr.spec
                .as_ref()
                .map(|spec| spec.cidrs.clone().unwrap_or_default())
        };
        let all = listed.iter().filter_map(of).flatten();
        return Ok(all.filter_map(|net| net.parse().ok()).collect());
    }
    let flags = system
        .as_deref()
        .unwrap_or_default()
        .iter()
        .flat_map(|pod| {
            let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
            containers.flat_map(|container| {
                container
                    .command
                    .iter()
                    .flatten()
                    .chain(container.args.iter().flatten())
            })
        });
    let mut ranges = flags.filter_map(|flag| flag.strip_prefix("--service-cluster-ip-range="));
    match (ranges.next(), listed) {
        (Some(range), _) => Ok(range.split(',').filter_map(|net| net.parse().ok()).collect()),
        (None, Err(unread)) => Err(unread),
        (None, Ok(_)) => Err(Unread::Failed(
            "this Kubernetes has no ServiceCIDR objects, and no pod of kube-apiserver shows its range".to_owned(),
        )),
    }
}
