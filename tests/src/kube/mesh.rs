//! Cilium and ClusterMesh as their objects lie in a cluster: what the chart writes, without a program behind it.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

use super::{Cluster, crds};

/// One cluster of a mesh.
#[derive(Clone)]
pub struct Member {
    /// Cilium's name of it.
    pub name: String,
    pub id: u32,
    /// First three octets of its nodes, first two of its pods.
    pub nodes: String,
    pub pods: String,
    pub node_port: u16,
    pub cilium: String,
    /// Last day of its server certificate: year, month, day.
    pub server_until: (i32, u8, u8),
}

const LATE: (i32, u8, u8) = (2198, 1, 1);

/// The CA of a mesh.
pub struct MeshCa {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl MeshCa {
    pub fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_after = rcgen::date_time_ymd(2199, 1, 1);
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);
        Ok(Self { issuer, pem })
    }

    fn secret(&self, name: &str, common_name: &str, until: (i32, u8, u8)) -> Result<Value> {
        let mut params = CertificateParams::new(vec!["*.mesh.cilium.io".to_owned()])?;
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.use_authority_key_identifier_extension = true;
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
        let key = KeyPair::generate()?;
        let leaf = params.signed_by(&key, &self.issuer)?.pem();
        Ok(secret(
            name,
            json!({ "ca.crt": self.pem, "tls.crt": leaf, "tls.key": key.serialize_pem() }),
        ))
    }
}

fn secret(name: &str, data: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": { "name": name, "namespace": "kube-system" },
        "stringData": data,
    })
}

impl Member {
    pub fn node_addresses(&self) -> Vec<IpAddr> {
        let address = |n: u32| format!("{}.{}", self.nodes, 10 + n).parse();
        (1..=2).filter_map(|n| address(n).ok()).collect()
    }

    /// Makes its objects in `cluster`, connected to `others`.
    pub fn seed(&self, cluster: &Cluster, ca: &MeshCa, others: &[&Member]) -> Result<()> {
        crds::install(cluster)?;
        let mut items = vec![self.config()];
        items.extend((1..=2).map(|n| self.node(n)));
        items.extend(workloads(&self.cilium, others));
        items.push(self.service());
        items.push(secret(
            "cilium-clustermesh",
            remotes(others, |_| {
                "https://clustermesh-apiserver.kube-system.svc:2379".to_owned()
            }),
        ));
        items.push(secret(
            "cilium-kvstoremesh",
            remotes(others, |other| {
                format!("https://{}.mesh.cilium.io:{}", other.name, other.node_port)
            }),
        ));
        for (name, common_name, until) in [
            (
                "clustermesh-apiserver-server-cert",
                "clustermesh-apiserver.cilium.io".to_owned(),
                self.server_until,
            ),
            (
                "clustermesh-apiserver-remote-cert",
                "remote".to_owned(),
                LATE,
            ),
            (
                "clustermesh-apiserver-local-cert",
                format!("local-{}", self.name),
                LATE,
            ),
            (
                "clustermesh-apiserver-admin-cert",
                format!("admin-{}", self.name),
                LATE,
            ),
        ] {
            items.push(ca.secret(name, &common_name, until)?);
        }
        items.extend(global_service());
        cluster.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": items }))?;
        self.set_statuses(cluster)
    }

    /// No controller runs: what kubelets and controllers would say is written for them.
    fn set_statuses(&self, cluster: &Cluster) -> Result<()> {
        let patch = |kind: &str, name: &str, status: Value| {
            let body = json!({ "status": status }).to_string();
            let args = [
                "-n",
                "kube-system",
                "patch",
                kind,
                name,
                "--subresource=status",
                "--type=merge",
                "-p",
                &body,
            ];
            cluster.kubectl(&args).map(drop)
        };
        patch(
            "daemonset",
            "cilium",
            json!({
                "currentNumberScheduled": 2, "desiredNumberScheduled": 2, "numberMisscheduled": 0,
                "numberReady": 2, "updatedNumberScheduled": 2, "numberAvailable": 2,
            }),
        )?;
        patch(
            "deployment",
            "clustermesh-apiserver",
            json!({
                "replicas": 1, "readyReplicas": 1, "availableReplicas": 1, "updatedReplicas": 1,
            }),
        )?;
        for (n, address) in (1..).zip(self.node_addresses()) {
            let addresses = json!([{ "type": "InternalIP", "address": address }]);
            patch(
                "node",
                &format!("{}-{n}", self.name),
                json!({ "addresses": addresses }),
            )?;
        }
        Ok(())
    }

    fn config(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "cilium-config", "namespace": "kube-system" },
            "data": {
                "cluster-name": self.name,
                "cluster-id": self.id.to_string(),
                "ipam": "kubernetes",
                "kube-proxy-replacement": "true",
                "max-connected-clusters": "255",
                "mtu": "1450",
                "policy-default-local-cluster": "false",
                "routing-mode": "tunnel",
                "tunnel-protocol": "vxlan",
            },
        })
    }

    fn node(&self, n: u32) -> Value {
        let cidr = format!("{}.{n}.0/24", self.pods);
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": format!("{}-{n}", self.name) },
            "spec": { "podCIDR": cidr, "podCIDRs": [cidr] },
        })
    }

    fn service(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": "clustermesh-apiserver", "namespace": "kube-system" },
            "spec": {
                "type": "NodePort",
                "selector": { "k8s-app": "clustermesh-apiserver" },
                "ports": [{ "port": 2379, "nodePort": self.node_port, "protocol": "TCP" }],
            },
        })
    }
}

fn remotes(others: &[&Member], endpoint: impl Fn(&Member) -> String) -> Value {
    let of = |other: &&Member| {
        let file = "/var/lib/cilium/clustermesh/common-etcd-client";
        let text = format!(
            "endpoints:\n- {}\ntrusted-ca-file: {file}-ca.crt\nkey-file: {file}.key\ncert-file: {file}.crt\n",
            endpoint(other)
        );
        (other.name.clone(), Value::String(text))
    };
    Value::Object(others.iter().map(of).collect())
}

fn workloads(cilium: &str, others: &[&Member]) -> [Value; 2] {
    let meta = |name: &str| json!({ "name": name, "namespace": "kube-system" });
    let selector = |app: &str| json!({ "matchLabels": { "k8s-app": app } });
    let pod = |app: &str, spec: Value| json!({ "metadata": { "labels": { "k8s-app": app } }, "spec": spec });
    let aliases: Vec<Value> = others
        .iter()
        .flat_map(|other| {
            let name = format!("{}.mesh.cilium.io", other.name);
            let alias = move |ip: IpAddr| json!({ "ip": ip, "hostnames": [name] });
            other
                .node_addresses()
                .into_iter()
                .map(alias)
                .collect::<Vec<_>>()
        })
        .collect();
    let image = |name: &str| json!({ "name": name, "image": format!("quay.io/cilium/clustermesh-apiserver:{cilium}") });
    [
        json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": meta("cilium"),
            "spec": { "selector": selector("cilium"), "template": pod("cilium", json!({
                "hostNetwork": true,
                "containers": [{ "name": "cilium-agent", "image": format!("quay.io/cilium/cilium:{cilium}@sha256:{}", "0".repeat(64)) }],
            })) },
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta("clustermesh-apiserver"),
            "spec": { "replicas": 1, "selector": selector("clustermesh-apiserver"), "template": pod("clustermesh-apiserver", json!({
                "hostAliases": aliases,
                "containers": [image("apiserver"), image("kvstoremesh")],
            })) },
        }),
    ]
}

fn global_service() -> [Value; 2] {
    let meta = json!({ "name": "tiles", "namespace": "default", "annotations": { "service.cilium.io/global": "true" } });
    [
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": meta,
            "spec": { "ports": [{ "name": "http", "port": 8080 }] },
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": { "name": "tiles-1", "namespace": "default", "labels": { "kubernetes.io/service-name": "tiles" } },
            "endpoints": [{ "addresses": ["10.244.1.9"], "conditions": { "ready": true } }],
            "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        }),
    ]
}

/// A running agent's pod, as far as the API server knows: its kubelet is nowhere.
pub fn agent_pod(cluster: &Cluster, node: &str) -> Result<()> {
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default", "namespace": "kube-system" } });
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "cilium-agent-1", "namespace": "kube-system", "labels": { "k8s-app": "cilium" } },
        "spec": { "nodeName": node, "hostNetwork": true, "containers": [{ "name": "cilium-agent", "image": "quay.io/cilium/cilium:v1.19.5" }] },
    });
    cluster.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": [account, pod] }))?;
    let args = [
        "-n",
        "kube-system",
        "patch",
        "pod",
        "cilium-agent-1",
        "--subresource=status",
        "--type=merge",
        "-p",
        r#"{"status":{"phase":"Running"}}"#,
    ];
    cluster.kubectl(&args).map(drop)
}

/// `deploy/verify-reader.yaml` in force in `cluster`.
pub fn grant_reading(cluster: &Cluster) -> Result<()> {
    let role = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/verify-reader.yaml");
    let role = role.to_str().context("a path of UTF-8")?;
    cluster.kubectl(&["apply", "-f", role]).map(drop)
}
