//! All objects of a cluster, in the order in which they are applied. Each function mirrors one template of the chart.

use mesh::Mesh;
use serde_json::{Value, json};

use crate::pods::{self, Plane};
use crate::values::{Map, Monitor, Strings, TlsSource, Values};

/// What values cannot say by themselves.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RenderError {
    #[error("`{0}` is not set")]
    Missing(&'static str),
    #[error("`nodePlane.enabled` needs `api.tls.source` `secret` or `certManager`")]
    NodePlaneWithoutTls,
    #[error("the mesh declares no cluster `{cluster}`")]
    NoSuchCluster { cluster: String, known: Vec<String> },
}

impl RenderError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Missing("image.repository") => {
                "push the image with `aggrik8s image push REF` and give --image REF".to_owned()
            }
            Self::Missing(what) => format!("set `{what}` in a file of values"),
            Self::NodePlaneWithoutTls => {
                "on a node's own network loopback is everybody's, so the API needs TLS there"
                    .to_owned()
            }
            Self::NoSuchCluster { known, .. } => format!("it declares `{}`", known.join("`, `")),
        }
    }
}

pub(crate) fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Labels of every object.
pub(crate) fn labels() -> Map {
    map(json!({
        "app.kubernetes.io/name": "aggrik8s",
        "app.kubernetes.io/version": version(),
    }))
}

pub(crate) fn map(value: Value) -> Map {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Sets `key` unless the value is empty: what the templates do by `with`.
pub(crate) fn set_unless_empty(target: &mut Value, key: &str, value: Value) {
    let empty = match &value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Null => true,
        _ => false,
    };
    if !empty {
        target[key] = value;
    }
}

pub(crate) fn strings(strings: &Strings) -> Value {
    json!(strings)
}

/// The objects of one cluster. `namespace` is where all but the namespace itself lie.
pub fn objects(values: &Values, namespace: &str) -> Result<Vec<Value>, RenderError> {
    for (what, value) in [
        ("cluster", &values.cluster),
        ("mesh", &values.mesh),
        ("image.repository", &values.image.repository),
    ] {
        if value.is_empty() {
            return Err(RenderError::Missing(what));
        }
    }
    if values.node_plane.enabled && values.api.tls.source == TlsSource::None {
        return Err(RenderError::NodePlaneWithoutTls);
    }
    let mut planes = vec![Plane::Pod];
    planes.extend(values.node_plane.enabled.then_some(Plane::Node));

    let mut all = Vec::new();
    all.extend(values.namespace.create.then(|| namespace_object(namespace)));
    all.push(service_account(values, namespace));
    all.push(config_map(values, namespace));
    all.extend(
        planes
            .iter()
            .map(|plane| service(values, namespace, *plane)),
    );
    if values.network_policy.enabled {
        all.push(network_policy(values, namespace));
    }
    if values.api.tls.source == TlsSource::CertManager {
        all.push(certificate(values, namespace)?);
    }
    for plane in planes {
        all.push(pods::daemon_set(values, namespace, plane));
    }
    if values.pod_monitor.enabled {
        let kind = ("PodMonitor", "podMetricsEndpoints");
        all.push(monitor(&values.pod_monitor, namespace, kind));
    }
    if values.service_monitor.enabled {
        let kind = ("ServiceMonitor", "endpoints");
        all.push(monitor(&values.service_monitor, namespace, kind));
    }
    Ok(all)
}

/// What the chart cannot check: that the mesh declares the values' cluster.
pub fn check_mesh(values: &Values, mesh: &Mesh) -> Result<(), RenderError> {
    if mesh.cluster(&values.cluster).is_some() {
        return Ok(());
    }
    Err(RenderError::NoSuchCluster {
        cluster: values.cluster.clone(),
        known: mesh
            .clusters
            .iter()
            .map(|known| known.name.clone())
            .collect(),
    })
}

fn namespace_object(namespace: &str) -> Value {
    let mut labels = labels();
    for mode in ["enforce", "audit", "warn"] {
        // The holder's capabilities and hostPath are outside of PodSecurity `baseline`.
        labels.insert(
            format!("pod-security.kubernetes.io/{mode}"),
            json!("privileged"),
        );
    }
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": namespace, "labels": labels},
    })
}

fn service_account(values: &Values, namespace: &str) -> Value {
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "aggrik8s", "namespace": namespace, "labels": labels()},
        "automountServiceAccountToken": false,
    });
    let annotations = strings(&values.service_account.annotations);
    set_unless_empty(&mut object["metadata"], "annotations", annotations);
    object
}

fn config_map(values: &Values, namespace: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "aggrik8s-mesh", "namespace": namespace, "labels": labels()},
        "data": {"mesh.yaml": values.mesh},
    })
}

fn service(values: &Values, namespace: &str, plane: Plane) -> Value {
    let (api, metrics) = plane.ports(values);
    let mut labels = labels();
    labels.insert(
        "app.kubernetes.io/component".into(),
        json!(plane.component()),
    );
    let mut ports = vec![
        json!({"name": "metrics", "port": metrics, "targetPort": "metrics", "protocol": "TCP"}),
    ];
    if values.api.tls.source != TlsSource::None {
        ports.push(json!({"name": "api", "port": api, "targetPort": "api", "protocol": "TCP"}));
    }
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": plane.name(), "namespace": namespace, "labels": labels},
        "spec": {"clusterIP": "None", "selector": plane.selector(), "ports": ports},
    })
}

fn network_policy(values: &Values, namespace: &str) -> Value {
    let policy = &values.network_policy;
    let port = |port: u16, protocol: &str| json!({"port": port, "protocol": protocol});
    let from = |ports: Value, from: &[Map]| {
        let mut rule = json!({"ports": ports});
        set_unless_empty(&mut rule, "from", json!(from));
        rule
    };
    let echo = mesh::RESPONDER_ECHO_PORT;
    let http = mesh::RESPONDER_HTTP_PORT;
    let mut ingress = vec![
        json!({"ports": [port(echo, "TCP"), port(echo, "UDP"), port(http, "TCP")]}),
        from(
            json!([port(values.metrics.port, "TCP")]),
            &policy.metrics_from,
        ),
    ];
    if values.api.tls.source != TlsSource::None {
        ingress.push(from(
            json!([port(values.api.port, "TCP")]),
            &policy.api_from,
        ));
    }
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "aggrik8s", "namespace": namespace, "labels": labels()},
        "spec": {
            "podSelector": {"matchLabels": Plane::Pod.selector()},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    })
}

fn certificate(values: &Values, namespace: &str) -> Result<Value, RenderError> {
    let tls = &values.api.tls;
    let manager = &tls.cert_manager;
    if manager.issuer.name.is_empty() {
        return Err(RenderError::Missing("api.tls.certManager.issuer.name"));
    }
    let name = format!("{}.agents.aggrik8s", values.cluster);
    let mut names = vec![name.clone()];
    names.extend(manager.dns_names.iter().cloned());
    let mut object = json!({
        "apiVersion": "cert-manager.io/v1",
        "kind": "Certificate",
        "metadata": {"name": "aggrik8s-agent", "namespace": namespace, "labels": labels()},
        "spec": {
            "secretName": tls.secret_name,
            "commonName": name,
            "dnsNames": names,
            "usages": ["digital signature", "server auth"],
            "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
            "duration": manager.duration,
            "renewBefore": manager.renew_before,
            "issuerRef": manager.issuer,
        },
    });
    set_unless_empty(
        &mut object["spec"],
        "ipAddresses",
        json!(manager.ip_addresses),
    );
    Ok(object)
}

fn monitor(monitor: &Monitor, namespace: &str, (kind, endpoints): (&str, &str)) -> Value {
    let mut with_ours: Map = map(strings(&monitor.labels.0));
    with_ours.extend(labels());
    let mut endpoint =
        json!({"port": "metrics", "interval": monitor.interval, "honorLabels": true});
    set_unless_empty(&mut endpoint, "relabelings", json!(monitor.relabelings));
    let metric_relabelings = json!(monitor.metric_relabelings);
    set_unless_empty(&mut endpoint, "metricRelabelings", metric_relabelings);
    json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": kind,
        "metadata": {"name": "aggrik8s", "namespace": namespace, "labels": with_ours},
        "spec": {
            "selector": {"matchLabels": {"app.kubernetes.io/name": "aggrik8s"}},
            endpoints: [endpoint],
        },
    })
}
