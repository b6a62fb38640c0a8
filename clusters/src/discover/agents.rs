//! A pod of ours as an agent: where its API listens is what its container was told.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use mesh::discovered::FoundAgent;
use mesh::observation::Plane;

use super::ipv4_first;

/// `None` for pods that are no agents, have no node yet, or are ending.
pub(super) fn agent(pod: &Pod) -> Option<FoundAgent> {
    let plane = match pod.labels().get("app.kubernetes.io/component")?.as_str() {
        "pod-plane" => Plane::Pod,
        "node-plane" => Plane::Node,
        _ => return None,
    };
    let spec = pod.spec.as_ref()?;
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
    if pod.metadata.deletion_timestamp.is_some() || matches!(phase, Some("Succeeded" | "Failed")) {
        return None;
    }
    let container = spec.containers.iter().find(|one| one.name == "agent")?;
    let args = container.args.as_deref().unwrap_or_default();
    let api = args.iter().skip_while(|arg| *arg != "--api").nth(1)?;
    let (_, port) = api.rsplit_once(':')?;
    let own = status.and_then(|status| status.pod_ip.as_deref());
    let all = status
        .and_then(|status| status.pod_ips.as_deref())
        .unwrap_or_default()
        .iter()
        .map(|each| each.ip.as_str());
    let conditions = status.and_then(|status| status.conditions.as_deref());
    Some(FoundAgent {
        node: spec.node_name.clone()?,
        plane,
        namespace: pod.namespace()?,
        pod: pod.name_any(),
        addresses: ipv4_first(all.chain(own)),
        ready: conditions
            .unwrap_or_default()
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True"),
        image: container.image.clone().unwrap_or_default(),
        port: port.parse().ok()?,
        tls: args.iter().any(|arg| arg == "--tls-cert"),
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use serde_json::{Value, json};

    use super::*;

    fn pod(change: impl Fn(&mut Value)) -> Pod {
        let mut value = json!({
            "metadata": {
                "name": "aggrik8s-x7", "namespace": "aggrik8s",
                "labels": {"app.kubernetes.io/name": "aggrik8s", "app.kubernetes.io/component": "pod-plane"},
            },
            "spec": {
                "nodeName": "e-1",
                "containers": [{
                    "name": "agent", "image": "localhost/aggrik8s:1",
                    "args": ["run", "--api", "127.0.0.1:7410", "--metrics", "0.0.0.0:7413"],
                }],
            },
            "status": {
                "phase": "Running",
                "podIP": "fd00::7",
                "podIPs": [{"ip": "fd00::7"}, {"ip": "10.244.1.7"}],
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        });
        change(&mut value);
        serde_json::from_value(value).expect("a pod")
    }

    #[test]
    fn a_pod_of_the_chart_is_an_agent() {
        let found = agent(&pod(|_| {})).expect("an agent");
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert_eq!(
            found,
            FoundAgent {
                node: "e-1".to_owned(),
                plane: Plane::Pod,
                namespace: "aggrik8s".to_owned(),
                pod: "aggrik8s-x7".to_owned(),
                addresses: vec![ip("10.244.1.7"), ip("fd00::7")],
                ready: true,
                image: "localhost/aggrik8s:1".to_owned(),
                port: 7410,
                tls: false,
            }
        );
        let found = agent(&pod(|pod| {
            pod["metadata"]["labels"]["app.kubernetes.io/component"] = json!("node-plane");
            pod["spec"]["containers"][0]["args"] =
                json!(["run", "--api", "[::]:7414", "--tls-cert", "/tls.crt"]);
            pod["status"] = json!({"phase": "Pending"});
        }))
        .expect("an agent that starts");
        assert_eq!(
            (found.plane, found.port, found.tls),
            (Plane::Node, 7414, true)
        );
        assert_eq!((found.ready, found.addresses.len()), (false, 0));
    }

    #[test]
    fn what_is_no_agent_is_none() {
        let none = |what: &str, change: fn(&mut Value)| {
            assert_eq!(agent(&pod(change)), None, "{what}");
        };
        none("another component", |pod| {
            pod["metadata"]["labels"]["app.kubernetes.io/component"] = json!("controller");
        });
        none("ending", |pod| {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        });
        none("ended", |pod| pod["status"]["phase"] = json!("Failed"));
        none("nowhere yet", |pod| pod["spec"]["nodeName"] = Value::Null);
        none("without an API", |pod| {
            pod["spec"]["containers"][0]["args"] = json!(["run"]);
        });
    }
}
