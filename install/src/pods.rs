//! The DaemonSets: a privileged moment, a holder with two capabilities, an agent with none.

use serde_json::{Value, json};

use crate::AGENT_ID;
use crate::objects::{labels, map, set_unless_empty, strings, version};
use crate::values::{Map, SeccompProfile, TlsSource, Values};

/// The network from which pods of a DaemonSet probe.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plane {
    Pod,
    Node,
}

impl Plane {
    fn word(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Node => "node",
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pod => "aggrik8s",
            Self::Node => "aggrik8s-node",
        }
    }

    pub(crate) fn component(self) -> String {
        format!("{}-plane", self.word())
    }

    pub(crate) fn selector(self) -> Map {
        map(json!({
            "app.kubernetes.io/name": "aggrik8s",
            "app.kubernetes.io/component": self.component(),
        }))
    }

    /// Of the API and of the metrics.
    pub(crate) fn ports(self, values: &Values) -> (u16, u16) {
        match self {
            Self::Pod => (values.api.port, values.metrics.port),
            Self::Node => (values.node_plane.api_port, values.node_plane.metrics_port),
        }
    }
}

fn image(values: &Values) -> String {
    let image = &values.image;
    if !image.digest.is_empty() {
        return format!("{}@{}", image.repository, image.digest);
    }
    let tag = match image.tag.as_str() {
        "" => version(),
        tag => tag,
    };
    format!("{}:{tag}", image.repository)
}

fn has_tls(values: &Values) -> bool {
    values.api.tls.source != TlsSource::None
}

fn writes_profile(values: &Values) -> bool {
    values.seccomp.profile == SeccompProfile::Localhost
}

fn node_env() -> Value {
    json!({"name": "AGGRIK8S_NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}})
}

fn mesh_mount() -> Value {
    json!({"name": "mesh", "mountPath": "/etc/aggrik8s/mesh", "readOnly": true})
}

fn profile_container(values: &Values) -> Value {
    json!({
        "name": "seccomp-profile",
        "image": image(values),
        "imagePullPolicy": values.image.pull_policy,
        "args": ["seccomp-profile", "--dir", "/profiles"],
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {
            "requests": {"cpu": "5m", "memory": "16Mi"},
            "limits": {"memory": "64Mi"},
        },
        "volumeMounts": [{"name": "profiles", "mountPath": "/profiles"}],
    })
}

fn holder(values: &Values) -> Value {
    let mut container = json!({
        "name": "holder",
        "restartPolicy": "Always",
        "image": image(values),
        "imagePullPolicy": values.image.pull_policy,
        "args": [
            "hold",
            "--mesh", "/etc/aggrik8s/mesh/mesh.yaml",
            "--cluster", values.cluster,
            "--cgroup", "/host/cgroup",
            "--socket", "/run/aggrik8s/maps.sock",
            "--log", values.holder.log,
        ],
        "env": [node_env()],
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": AGENT_ID,
            "runAsNonRoot": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": ["BPF", "NET_ADMIN"]},
        },
        "volumeMounts": [
            mesh_mount(),
            {"name": "cgroup", "mountPath": "/host/cgroup", "readOnly": true},
            {"name": "run", "mountPath": "/run/aggrik8s"},
        ],
    });
    set_unless_empty(&mut container, "resources", json!(values.holder.resources));
    container
}

fn agent_args(values: &Values, plane: Plane) -> Vec<String> {
    let (api, metrics) = plane.ports(values);
    let mut args = vec![
        "run",
        "--mesh",
        "/etc/aggrik8s/mesh/mesh.yaml",
        "--cluster",
        &values.cluster,
        "--plane",
        plane.word(),
    ];
    if plane == Plane::Pod {
        args.extend(["--maps-from", "/run/aggrik8s/maps.sock"]);
    }
    let api = match has_tls(values) {
        true => format!("{}:{api}", values.listen),
        false => format!("127.0.0.1:{api}"),
    };
    args.extend(["--api", &api]);
    if has_tls(values) {
        args.extend(["--tls-ca", "/etc/aggrik8s/tls/ca.crt"]);
        args.extend(["--tls-cert", "/etc/aggrik8s/tls/tls.crt"]);
        args.extend(["--tls-key", "/etc/aggrik8s/tls/tls.key"]);
    }
    let metrics = format!("{}:{metrics}", values.listen);
    args.extend(["--metrics", &metrics]);
    args.extend(["--background-interval", &values.agent.background_interval]);
    args.extend(["--log", &values.agent.log]);
    args.into_iter().map(str::to_owned).collect()
}

fn agent_ports(values: &Values, plane: Plane) -> Vec<Value> {
    let (api, metrics) = plane.ports(values);
    let echo = mesh::RESPONDER_ECHO_PORT;
    let mut ports = vec![("metrics", metrics, "TCP")];
    ports.extend(has_tls(values).then_some(("api", api, "TCP")));
    ports.push(("echo", echo, "TCP"));
    ports.push(("echo-udp", echo, "UDP"));
    ports.push(("echo-http", mesh::RESPONDER_HTTP_PORT, "TCP"));
    ports
        .into_iter()
        .map(|(name, number, protocol)| {
            let mut port = json!({"name": name, "containerPort": number, "protocol": protocol});
            if plane == Plane::Node {
                port["hostPort"] = json!(number);
            }
            port
        })
        .collect()
}

fn agent(values: &Values, plane: Plane) -> Value {
    let mut profile = json!({"type": values.seccomp.profile});
    if writes_profile(values) {
        profile["localhostProfile"] = json!("aggrik8s/agent.json");
    }
    let mut mounts = vec![mesh_mount()];
    if has_tls(values) {
        mounts.push(json!({"name": "tls", "mountPath": "/etc/aggrik8s/tls", "readOnly": true}));
    }
    if plane == Plane::Pod {
        mounts.push(json!({"name": "run", "mountPath": "/run/aggrik8s", "readOnly": true}));
    }
    let mut container = json!({
        "name": "agent",
        "image": image(values),
        "imagePullPolicy": values.image.pull_policy,
        "args": agent_args(values, plane),
        "env": [
            node_env(),
            {"name": "AGGRIK8S_RESPOND", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}},
        ],
        "ports": agent_ports(values, plane),
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": "metrics"},
            "periodSeconds": 10,
            "failureThreshold": 6,
        },
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "metrics"}, "periodSeconds": 5},
        "securityContext": {
            "runAsUser": AGENT_ID,
            "runAsGroup": AGENT_ID,
            "runAsNonRoot": true,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": profile,
        },
        "volumeMounts": mounts,
    });
    set_unless_empty(&mut container, "resources", json!(values.agent.resources));
    container
}

fn volumes(values: &Values, plane: Plane) -> Vec<Value> {
    let mut volumes = vec![json!({"name": "mesh", "configMap": {"name": "aggrik8s-mesh"}})];
    if writes_profile(values) {
        let path = format!("{}/seccomp/aggrik8s", values.seccomp.kubelet_dir);
        let host_path = json!({"path": path, "type": "DirectoryOrCreate"});
        volumes.push(json!({"name": "profiles", "hostPath": host_path}));
    }
    if has_tls(values) {
        let secret = json!({"secretName": values.api.tls.secret_name, "defaultMode": 0o440});
        volumes.push(json!({"name": "tls", "secret": secret}));
    }
    if plane == Plane::Pod {
        let cgroup = json!({"path": values.cgroup, "type": "Directory"});
        volumes.push(json!({"name": "cgroup", "hostPath": cgroup}));
        let memory = json!({"medium": "Memory", "sizeLimit": "1Mi"});
        volumes.push(json!({"name": "run", "emptyDir": memory}));
    }
    volumes
}

fn pod_spec(values: &Values, plane: Plane) -> Value {
    let mut spec = json!({
        "serviceAccountName": "aggrik8s",
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 10,
        "priorityClassName": values.priority_class_name,
        "securityContext": {
            "fsGroup": AGENT_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [agent(values, plane)],
        "volumes": volumes(values, plane),
    });
    if plane == Plane::Node {
        spec["hostNetwork"] = json!(true);
    }
    let secrets = values.pull_secrets.iter().map(|name| json!({"name": name}));
    set_unless_empty(&mut spec, "imagePullSecrets", secrets.collect());
    set_unless_empty(&mut spec, "nodeSelector", strings(&values.node_selector));
    set_unless_empty(&mut spec, "tolerations", json!(values.tolerations));
    set_unless_empty(&mut spec, "affinity", json!(values.affinity));
    let mut init = Vec::new();
    init.extend(writes_profile(values).then(|| profile_container(values)));
    init.extend((plane == Plane::Pod).then(|| holder(values)));
    set_unless_empty(&mut spec, "initContainers", init.into());
    spec
}

pub(crate) fn daemon_set(values: &Values, namespace: &str, plane: Plane) -> Value {
    let mut own_labels = labels();
    own_labels.insert(
        "app.kubernetes.io/component".into(),
        json!(plane.component()),
    );
    let mut pod_labels = map(strings(&values.pod_labels.0));
    pod_labels.extend(plane.selector());
    let mut template = json!({"metadata": {"labels": pod_labels}, "spec": pod_spec(values, plane)});
    let annotations = strings(&values.pod_annotations);
    set_unless_empty(&mut template["metadata"], "annotations", annotations);
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": plane.name(), "namespace": namespace, "labels": own_labels},
        "spec": {
            "selector": {"matchLabels": plane.selector()},
            "updateStrategy": values.update_strategy,
            "template": template,
        },
    })
}
