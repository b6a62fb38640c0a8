//! Global services, their annotations, and the ready backends of their own cluster.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client, ResourceExt};
use verify::control::view::{GlobalService, Seen, Services};

use crate::ask::Deadline;

pub(super) async fn services(client: &Client, deadline: Deadline) -> Seen<Services> {
    let api: Api<Service> = Api::all(client.clone());
    let listed = deadline.list("services", &api).await?.unwrap_or_default();
    let mut services = Services::default();
    let mut namespaces = BTreeSet::new();
    for service in listed {
        let namespace = service.namespace().unwrap_or_default();
        let name = format!("{namespace}/{}", service.name_any());
        match global(&service) {
            Some(global) => {
                namespaces.insert(namespace);
                services.global.insert(name, global);
            }
            None => {
                services.others.insert(name);
            }
        }
    }
    for namespace in namespaces {
        let ready = backends(client, &namespace, deadline).await;
        let prefix = format!("{namespace}/");
        let of = services
            .global
            .iter_mut()
            .filter(|(name, _)| name.starts_with(&prefix));
        for (name, service) in of {
            service.ready = match &ready {
                Ok(ready) => Ok(ready.get(&name[prefix.len()..]).copied().unwrap_or(0)),
                Err(unread) => Err(unread.clone()),
            };
        }
    }
    Ok(services)
}

fn global(service: &Service) -> Option<GlobalService> {
    let annotations = service.annotations();
    let value = |key: &str| annotations.get(key).map(String::as_str);
    let current = value("service.cilium.io/global");
    let legacy = value("io.cilium/global-service");
    if current.or(legacy) != Some("true") {
        return None;
    }
    let shared = value("service.cilium.io/shared").or(value("io.cilium/shared-service"));
    let affinity = value("service.cilium.io/affinity").or(value("io.cilium/service-affinity"));
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    let ports = ports.into_iter().flatten().map(|port| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let name = match port.name.as_deref().unwrap_or_default() {
            "" => format!("unnamed {protocol}"),
            name => format!("{name} {protocol}"),
        };
        (name, u16::try_from(port.port).unwrap_or(0))
    });
    Some(GlobalService {
        ports: ports.collect(),
        shared: shared != Some("false"),
        affinity: affinity.filter(|word| *word != "none").map(str::to_owned),
        legacy: current.is_none(),
        ready: Ok(0),
    })
}

/// Ready backends by service. Slices that Cilium mirrors from other clusters are theirs.
async fn backends(
    client: &Client,
    namespace: &str,
    deadline: Deadline,
) -> Seen<BTreeMap<String, u64>> {
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let slices = deadline
        .list("endpointslices.discovery.k8s.io", &api)
        .await?;
    let mut ready: BTreeMap<String, u64> = BTreeMap::new();
    for slice in slices.unwrap_or_default() {
        let label = |key: &str| slice.labels().get(key).map(String::as_str);
        let mirrored = label("endpointslice.kubernetes.io/managed-by")
            == Some("endpointslice-mesh-controller.cilium.io");
        let Some(service) = label("kubernetes.io/service-name").filter(|_| !mirrored) else {
            continue;
        };
        let is_ready = |endpoint: &k8s_openapi::api::discovery::v1::Endpoint| {
            endpoint
                .conditions
                .as_ref()
                .and_then(|conditions| conditions.ready)
                != Some(false)
        };
        let count = slice
            .endpoints
            .iter()
            .flatten()
            .filter(|e| is_ready(e))
            .count() as u64;
        *ready.entry(service.to_owned()).or_default() += count;
    }
    Ok(ready)
}
