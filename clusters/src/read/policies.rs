//! Network policies with a peer selector that names no cluster.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;
use verify::control::view::Seen;

use crate::ask::Deadline;

/// The label of Cilium's identities that a selector has to name to mean one cluster or another.
const CLUSTER: &str = "io.cilium.k8s.policy.cluster";

pub(super) async fn open(client: &Client, deadline: Deadline) -> Seen<Vec<String>> {
    let plain: Api<NetworkPolicy> = Api::all(client.clone());
    let of = |kind: &str| {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("cilium.io", "v2", kind));
        Api::<DynamicObject>::all_with(client.clone(), &kind)
    };
    let (namespaced, clusterwide) = (
        of("CiliumNetworkPolicy"),
        of("CiliumClusterwideNetworkPolicy"),
    );
    let (plain, namespaced, clusterwide) = tokio::join!(
        deadline.list("networkpolicies.networking.k8s.io", &plain),
        deadline.list("ciliumnetworkpolicies.cilium.io", &namespaced),
        deadline.list("ciliumclusterwidenetworkpolicies.cilium.io", &clusterwide),
    );
    let mut found = Vec::new();
    for policy in plain?.unwrap_or_default() {
        let spec = serde_json::to_value(&policy.spec).unwrap_or_default();
        if plain_is_open(&spec) {
            found.push(format!(
                "NetworkPolicy {}/{}",
                policy.namespace().unwrap_or_default(),
                policy.name_any()
            ));
        }
    }
    for policy in namespaced?.unwrap_or_default() {
        if is_open(&policy.data) {
            found.push(format!(
                "CiliumNetworkPolicy {}/{}",
                policy.namespace().unwrap_or_default(),
                policy.name_any()
            ));
        }
    }
    for policy in clusterwide?.unwrap_or_default() {
        if is_open(&policy.data) {
            found.push(format!(
                "CiliumClusterwideNetworkPolicy {}",
                policy.name_any()
            ));
        }
    }
    Ok(found)
}

/// Ingress and egress peers by selector; those by ipBlock know no cluster.
fn plain_is_open(spec: &Value) -> bool {
    let rules = |direction: &str, peers: &str| -> Vec<Value> {
        let rules = spec[direction].as_array().into_iter().flatten();
        rules
            .flat_map(|rule| rule[peers].as_array().cloned().unwrap_or_default())
            .collect()
    };
    let peers = [rules("ingress", "from"), rules("egress", "to")].concat();
    peers.iter().any(|peer| {
        ["podSelector", "namespaceSelector"]
            .iter()
            .any(|key| peer[key].is_object())
            && !names_cluster(peer)
    })
}

/// `spec` or `specs`: fromEndpoints and toEndpoints.
fn is_open(policy: &Value) -> bool {
    let many = policy["specs"].as_array().cloned().unwrap_or_default();
    let specs = std::iter::once(policy["spec"].clone()).chain(many);
    specs.into_iter().any(|spec| {
        [("ingress", "fromEndpoints"), ("egress", "toEndpoints")]
            .iter()
            .any(|(direction, peers)| {
                let rules = spec[direction].as_array().into_iter().flatten();
                let mut selectors =
                    rules.flat_map(|rule| rule[peers].as_array().into_iter().flatten());
                selectors.any(|selector| !names_cluster(selector))
            })
    })
}

/// Whether a selector has the label, in matchLabels or matchExpressions, with whatever source prefix.
fn names_cluster(selector: &Value) -> bool {
    match selector {
        Value::Object(map) => map.iter().any(|(key, value)| {
            key.ends_with(CLUSTER)
                || (key == "key" && value.as_str().is_some_and(|key| key.ends_with(CLUSTER)))
                || names_cluster(value)
        }),
        Value::Array(all) => all.iter().any(names_cluster),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_selector_that_names_no_cluster_is_open() {
        let cases = [
            (json!({"ingress": [{"from": [{"podSelector": {}}]}]}), true),
            (
                json!({"egress": [{"to": [{"namespaceSelector": {"matchLabels": {"a": "b"}}}]}]}),
                true,
            ),
            (
                json!({"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]}),
                false,
            ),
            (json!({"ingress": [{}]}), false),
            (json!({"podSelector": {}}), false),
            (
                json!({"ingress": [{"from": [{"podSelector": {"matchLabels": {"io.cilium.k8s.policy.cluster": "west"}}}]}]}),
                false,
            ),
        ];
        for (spec, open) in cases {
            assert_eq!(plain_is_open(&spec), open, "{spec}");
        }
        let cases = [
            (
                json!({"spec": {"ingress": [{"fromEndpoints": [{"matchLabels": {"app": "x"}}]}]}}),
                true,
            ),
            (
                json!({"specs": [{}, {"egress": [{"toEndpoints": [{}]}]}]}),
                true,
            ),
            (
                json!({"spec": {"ingress": [{"fromEndpoints": [{"matchLabels": {"k8s:io.cilium.k8s.policy.cluster": "west"}}]}]}}),
                false,
            ),
            (
                json!({"spec": {"ingress": [{"fromEndpoints": [{"matchExpressions": [{"key": "io.cilium.k8s.policy.cluster", "operator": "Exists"}]}]}]}}),
                false,
            ),
            (
                json!({"spec": {"ingress": [{"fromEntities": ["cluster"]}]}}),
                false,
            ),
            (json!({"spec": {"endpointSelector": {}}}), false),
        ];
        for (policy, open) in cases {
            assert_eq!(is_open(&policy), open, "{policy}");
        }
    }
}
