//! Every kind of object that an installation may have, in the order in which they are removed.

use clusters::Kind;
use serde_json::Value;

const fn kind(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
) -> Kind {
    Kind {
        group,
        version,
        kind,
        plural,
        namespaced: true,
    }
}

/// Pods go first, so that nothing that they need goes before them.
pub(super) const NAMESPACED: [Kind; 8] = [
    kind("apps", "v1", "DaemonSet", "daemonsets"),
    kind("monitoring.coreos.com", "v1", "PodMonitor", "podmonitors"),
    kind(
        "monitoring.coreos.com",
        "v1",
        "ServiceMonitor",
        "servicemonitors",
    ),
    kind("cert-manager.io", "v1", "Certificate", "certificates"),
    kind(
        "networking.k8s.io",
        "v1",
        "NetworkPolicy",
        "networkpolicies",
    ),
    kind("", "v1", "Service", "services"),
    kind("", "v1", "ConfigMap", "configmaps"),
    kind("", "v1", "ServiceAccount", "serviceaccounts"),
];

pub(super) const NAMESPACE: Kind = Kind {
    namespaced: false,
    ..kind("", "v1", "Namespace", "namespaces")
};

/// The label by which an installation finds its own.
pub(super) const OWNER: &str = "app.kubernetes.io/managed-by";
pub(super) const MANAGER: &str = "aggrik8s";

/// Kind of an object that crate `install` made.
pub(super) fn of(object: &Value) -> Option<Kind> {
    let all = NAMESPACED.into_iter().chain([NAMESPACE]);
    let named = |kind: &Kind| object["kind"] == kind.kind;
    all.into_iter().find(named)
}

/// Who owns an object, by its label.
pub(super) fn owner(object: &Value) -> Option<&str> {
    object["metadata"]["labels"][OWNER].as_str()
}

/// `daemonset/aggrik8s`: how people name an object.
pub(super) fn name(object: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let kind = word(&object["kind"]).to_lowercase();
    format!("{kind}/{}", word(&object["metadata"]["name"]))
}
