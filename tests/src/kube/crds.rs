//! Cilium's kinds, as far as readers of its objects can tell: names, scopes and versions are Cilium's, the fields
//! are whatever a test writes.

use anyhow::Result;
use serde_json::{Value, json};

use super::Cluster;

const GROUP: &str = "cilium.io";

/// Kind, plural, version, whether objects live in namespaces, whether `status` is written apart from the rest.
const KINDS: [(&str, &str, &str, bool, bool); 4] = [
    ("CiliumNode", "ciliumnodes", "v2", false, true),
    ("CiliumEndpoint", "ciliumendpoints", "v2", true, false),
    (
        "CiliumEndpointSlice",
        "ciliumendpointslices",
        "v2alpha1",
        false,
        false,
    ),
    ("CiliumIdentity", "ciliumidentities", "v2", false, false),
];

/// Installs Cilium's kinds and returns when objects of them can be made.
pub fn install(cluster: &Cluster) -> Result<()> {
    let items: Vec<_> = KINDS.into_iter().map(definition).collect();
    cluster.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": items }))?;
    let names = KINDS.map(|(_, plural, ..)| format!("crd/{plural}.{GROUP}"));
    let mut wait = vec!["wait", "--for=condition=Established", "--timeout=60s"];
    wait.extend(names.iter().map(String::as_str));
    cluster.kubectl(&wait).map(drop)
}

fn definition(
    (kind, plural, version, namespaced, status): (&str, &str, &str, bool, bool),
) -> Value {
    let subresources = if status {
        json!({ "status": {} })
    } else {
        json!({})
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.{GROUP}") },
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind,
                "listKind": format!("{kind}List"),
                "plural": plural,
                "singular": kind.to_lowercase(),
            },
            "scope": if namespaced { "Namespaced" } else { "Cluster" },
            "versions": [{
                "name": version,
                "served": true,
                "storage": true,
                "subresources": subresources,
                "schema": { "openAPIV3Schema": {
                    "type": "object",
                    "x-kubernetes-preserve-unknown-fields": true,
                } },
            }],
        },
    })
}
