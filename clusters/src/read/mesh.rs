//! What a cluster offers to others, and which others it has configured.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{PodSpec, Service};
use kube::{Api, Client};
use serde::Deserialize;
use verify::control::view::{Endpoint, Remote, Seen, Server, ServerService};

use super::{NAMESPACE, certificates, secret};
use crate::ask::Deadline;

const SERVER: &str = "clustermesh-apiserver";

pub(super) async fn deployment(client: &Client, deadline: Deadline) -> Seen<Option<Deployment>> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    deadline
        .get(
            "deployments `clustermesh-apiserver` in kube-system",
            api.get(SERVER),
        )
        .await
}

pub(super) async fn server(
    client: &Client,
    deployment: &Seen<Option<Deployment>>,
    deadline: Deadline,
) -> Seen<Option<Server>> {
    let Some(deployment) = deployment.as_ref().map_err(Clone::clone)? else {
        return Ok(None);
    };
    let api: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let service = deadline
        .get(
            "services `clustermesh-apiserver` in kube-system",
            api.get(SERVER),
        )
        .await?;
    let count = |number: Option<i32>| u64::try_from(number.unwrap_or(0)).unwrap_or(0);
    let replicas = deployment.spec.replicas;
    let ready = deployment
        .status
        .as_ref()
        .and_then(|status| status.ready_replicas);
    let containers = pod_of(deployment)
        .map(|pod| pod.containers.as_slice())
        .unwrap_or_default();
    Ok(Some(Server {
        wanted: count(replicas.or(Some(1))),
        ready: count(ready),
        kvstoremesh: containers
            .iter()
            .any(|container| container.name == "kvstoremesh"),
        service: service.map(server_service),
    }))
}

fn server_service(service: Service) -> ServerService {
    let spec = service.spec.unwrap_or_default();
    let ports = spec.ports.unwrap_or_default();
    // The chart has one port; another one (metrics) may be added.
    let port = ports
        .iter()
        .find(|port| port.name.as_deref() == Some(SERVER))
        .or(ports.first());
    let narrow = |number: i32| u16::try_from(number).ok();
    let ingress = service
        .status
        .and_then(|status| status.load_balancer)
        .and_then(|balancer| balancer.ingress);
    let given = ingress
        .unwrap_or_default()
        .into_iter()
        .flat_map(|ingress| [ingress.ip, ingress.hostname]);
    ServerService {
        kind: spec.type_.unwrap_or_else(|| "ClusterIP".to_owned()),
        port: port.and_then(|port| narrow(port.port)).unwrap_or(0),
        node_port: port.and_then(|port| narrow(port.node_port?)),
        balancer: given.flatten().collect(),
    }
}

pub(super) fn pod_of(deployment: &Deployment) -> Option<&PodSpec> {
    deployment.spec.template.spec.as_ref()
}

/// The pods that connect to remote clusters, as far as they are known: the agents', and KVStoreMesh's.
pub(super) fn connecting<'a>(
    daemon: &'a Seen<Option<DaemonSet>>,
    deployment: &'a Seen<Option<Deployment>>,
) -> [Option<&'a PodSpec>; 2] {
    let daemon = daemon.as_ref().ok().and_then(Option::as_ref);
    let deployment = deployment.as_ref().ok().and_then(Option::as_ref);
    [
        daemon.and_then(|daemon| daemon.spec.template.spec.as_ref()),
        deployment.and_then(pod_of),
    ]
}

/// Names that the pods that connect to remote clusters are given addresses for.
pub(super) fn aliases(
    daemon: &Seen<Option<DaemonSet>>,
    deployment: &Seen<Option<Deployment>>,
) -> BTreeMap<String, Vec<IpAddr>> {
    let mut known: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for pod in connecting(daemon, deployment).into_iter().flatten() {
        for alias in pod.host_aliases.iter().flatten() {
            let Ok(address) = alias.ip.parse() else {
                continue;
            };
            for name in alias.hostnames.iter().flatten() {
                let addresses = known.entry(name.clone()).or_default();
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
    }
    known
}

/// The remote clusters of one Secret.
pub(super) async fn remotes(
    client: &Client,
    name: &str,
    aliases: &BTreeMap<String, Vec<IpAddr>>,
    deadline: Deadline,
) -> Seen<Option<Vec<Remote>>> {
    let secret = secret::public(client, name, deadline).await?;
    Ok(secret.map(|data| parse(&data, aliases)))
}

fn parse(data: &secret::Public, aliases: &BTreeMap<String, Vec<IpAddr>>) -> Vec<Remote> {
    let mut remotes = Vec::new();
    for (name, content) in data {
        let text = String::from_utf8_lossy(content);
        // Cilium takes a key for a cluster by this word in its content.
        if name.ends_with(".crt") || !text.contains("endpoints:") {
            continue;
        }
        let file: ClientFile = serde_saphyr::from_str(&text).unwrap_or_else(|error| {
            tracing::warn!(%name, %error, "an entry of a remote cluster cannot be read");
            ClientFile::default()
        });
        let own = data.get(&format!("{name}.etcd-client-ca.crt"));
        // Only an entry that names its own CA file uses it.
        let uses_own = file
            .trusted_ca_file
            .ends_with(&format!("/{name}.etcd-client-ca.crt"));
        remotes.push(Remote {
            name: name.clone(),
            endpoints: file
                .endpoints
                .iter()
                .filter_map(|url| endpoint(url, &file, aliases))
                .collect(),
            trust: own.filter(|_| uses_own).map(|pem| certificates::parse(pem)),
        });
    }
    remotes
}

/// Of an etcd client's configuration what is used here.
#[derive(Default, Deserialize)]
struct ClientFile {
    #[serde(default)]
    endpoints: Vec<String>,
    #[serde(default, rename = "trusted-ca-file")]
    trusted_ca_file: String,
    #[serde(default, rename = "cilium-host-aliases")]
    host_aliases: BTreeMap<String, HostAlias>,
}

#[derive(Default, Deserialize)]
struct HostAlias {
    #[serde(default)]
    ips: Vec<String>,
}

fn endpoint(
    url: &str,
    file: &ClientFile,
    aliases: &BTreeMap<String, Vec<IpAddr>>,
) -> Option<Endpoint> {
    let uri: hyper::Uri = url.parse().ok()?;
    let host = uri.host()?.trim_matches(['[', ']']).to_owned();
    let mut addresses: Vec<IpAddr> = host.parse().into_iter().collect();
    let own = file
        .host_aliases
        .get(&host)
        .map(|alias| alias.ips.as_slice())
        .unwrap_or_default();
    addresses.extend(own.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()));
    for address in aliases.get(&host).into_iter().flatten() {
        if !addresses.contains(address) {
            addresses.push(*address);
        }
    }
    Some(Endpoint {
        host,
        port: uri.port_u16().unwrap_or(2379),
        addresses,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn remote_clusters_are_the_keys_with_endpoints() {
        let aliased =
            BTreeMap::from([("west.mesh.cilium.io".to_owned(), vec![ip("192.168.20.11")])]);
        let west = "endpoints:\n- https://west.mesh.cilium.io:32379\ntrusted-ca-file: /var/lib/cilium/clustermesh/common-etcd-client-ca.crt\n";
        let north = "endpoints:\n- https://[fd00::1]:2379\ntrusted-ca-file: /x/north.etcd-client-ca.crt\n\ncilium-host-aliases:\n  other: {ips: [1.2.3.4]}\n";
        let newer = "endpoints:\n- https://new.mesh.cilium.io:2379\ncilium-host-aliases:\n  new.mesh.cilium.io:\n    ips:\n      - 10.0.0.1\n      - 10.0.0.2\n";
        let data = secret::Public::from([
            ("west".to_owned(), west.as_bytes().to_vec()),
            ("north".to_owned(), north.as_bytes().to_vec()),
            ("new".to_owned(), newer.as_bytes().to_vec()),
            ("west.etcd-client-ca.crt".to_owned(), b"endpoints:".to_vec()),
            ("north.etcd-client-ca.crt".to_owned(), Vec::new()),
            ("off".to_owned(), b"nothing".to_vec()),
            ("broken".to_owned(), b"endpoints: 3".to_vec()),
        ]);
        let remotes = parse(&data, &aliased);
        let shown: Vec<_> = remotes
            .iter()
            .map(|r| {
                (
                    r.name.as_str(),
                    r.endpoints
                        .iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>(),
                    r.trust.is_some(),
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("broken", vec![], false),
                (
                    "new",
                    vec!["https://new.mesh.cilium.io:2379 (10.0.0.1, 10.0.0.2)".to_owned()],
                    false
                ),
                ("north", vec!["https://fd00::1:2379".to_owned()], true),
                (
                    "west",
                    vec!["https://west.mesh.cilium.io:32379 (192.168.20.11)".to_owned()],
                    false
                ),
            ]
        );
    }
}
