//! `cilium-config` and DaemonSet `cilium`.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use verify::control::view::{Agents, Seen};

use super::NAMESPACE;
use crate::ask::Deadline;

pub(crate) async fn config(
    client: &Client,
    deadline: Deadline,
) -> Seen<Option<BTreeMap<String, String>>> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let read = api.get("cilium-config");
    let found = deadline
        .get("configmaps `cilium-config` in kube-system", read)
        .await?;
    Ok(found.map(|map| map.data.unwrap_or_default()))
}

pub(super) async fn daemon_set(client: &Client, deadline: Deadline) -> Seen<Option<DaemonSet>> {
    let api: Api<DaemonSet> = Api::namespaced(client.clone(), NAMESPACE);
    deadline
        .get("daemonsets `cilium` in kube-system", api.get("cilium"))
        .await
}

pub(super) fn agents(daemon: &Seen<Option<DaemonSet>>) -> Seen<Option<Agents>> {
    let Some(daemon) = daemon.as_ref().map_err(Clone::clone)? else {
        return Ok(None);
    };
    let pod = daemon.spec.template.spec.as_ref();
    let containers = pod.map(|pod| pod.containers.as_slice()).unwrap_or_default();
    let agent = containers
        .iter()
        .find(|container| container.name == "cilium-agent");
    let status = daemon.status.clone().unwrap_or_default();
    let count = |number: i32| u64::try_from(number).unwrap_or(0);
    Ok(Some(Agents {
        version: agent.and_then(|agent| tag(agent.image.as_deref()?)),
        wanted: count(status.desired_number_scheduled),
        ready: count(status.number_ready),
        updated: count(status.updated_number_scheduled.unwrap_or(0)),
    }))
}

/// "v1.18.5" of "quay.io:443/cilium/cilium:v1.18.5@sha256:…".
fn tag(image: &str) -> Option<String> {
    let name = image.split('@').next()?;
    let last = name.rsplit('/').next()?;
    Some(last.split_once(':')?.1.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_of_an_image() {
        for (image, expected) in [
            ("quay.io/cilium/cilium:v1.18.5@sha256:aa", Some("v1.18.5")),
            ("localhost:5000/cilium/cilium:v1.19.0", Some("v1.19.0")),
            ("localhost:5000/cilium/cilium", None),
            ("quay.io/cilium/cilium@sha256:aa", None),
            ("cilium:v1.20.0-rc.1", Some("v1.20.0-rc.1")),
        ] {
            assert_eq!(tag(image).as_deref(), expected, "{image}");
        }
    }
}
