//! What a mesh needs to know of a cluster, read from a real API server: nodes, agents' pods, prefixes, names.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use clusters::{Contexts, NAMESPACE, discover};
use mesh::discovered::{CiliumName, Discovered, FoundAgent, FoundNode};
use mesh::observation::Plane;
use serde_json::{Value, json};
use tests::kube::mesh::{Member, MeshCa};
use tests::kube::{self, Cluster, Plan};
use tests::netns::skip;

const MESH: &str = "mesh: real\n";

#[test]
fn a_cluster_says_what_a_mesh_needs_to_know() -> Result<()> {
    if skip(kube::missing())? {
        return Ok(());
    }
    let mut plan = Plan::new("east");
    plan.service_cidr = "10.96.0.0/12".parse()?;
    let cluster = Cluster::start(plan)?;

    // Neither Cilium nor an agent nor a node.
    let nothing = Discovered {
        cilium: Ok(CiliumName::default()),
        nodes: Ok(Vec::new()),
        agents: Ok(Vec::new()),
        pod_cidrs: Ok(Vec::new()),
        service_cidrs: Ok(vec!["10.96.0.0/12".parse()?]),
        mesh_yaml: Ok(None),
    };
    assert_eq!(read(cluster.kubeconfig())?, nothing);

    let member = Member {
        name: "talos-east".to_owned(),
        id: 1,
        nodes: "192.168.15".to_owned(),
        pods: "10.244".to_owned(),
        node_port: 32379,
        cilium: "v1.19.5".to_owned(),
        server_until: (2198, 1, 1),
    };
    member.seed(&cluster, &MeshCa::new("Cilium CA")?, &[])?;
    agents(&cluster)?;
    let node = |n: u8, ready, unschedulable| FoundNode {
        name: format!("talos-east-{n}"),
        addresses: vec![[192, 168, 15, 10 + n].into()],
        ready,
        unschedulable,
    };
    let agent = |plane, pod: &str, address: [u8; 4], ready, port, tls| FoundAgent {
        node: "talos-east-1".to_owned(),
        plane,
        namespace: NAMESPACE.to_owned(),
        pod: pod.to_owned(),
        addresses: vec![address.into()],
        ready,
        image: "localhost/aggrik8s:1".to_owned(),
        port,
        tls,
    };
    let seen = read(cluster.kubeconfig())?;
    let wanted = Discovered {
        cilium: Ok(CiliumName {
            name: Some("talos-east".to_owned()),
            id: Some(1),
        }),
        nodes: Ok(vec![node(1, true, false), node(2, false, true)]),
        agents: Ok(vec![
            agent(Plane::Node, "node-a", [192, 168, 15, 11], false, 7414, true),
            agent(Plane::Pod, "pod-a", [10, 244, 1, 7], true, 7410, false),
        ]),
        // Of two nodes and of a CiliumNode.
        pod_cidrs: Ok(vec![
            "10.244.1.0/24".parse()?,
            "10.244.2.0/24".parse()?,
            "10.244.9.0/24".parse()?,
        ]),
        service_cidrs: Ok(vec!["10.96.0.0/12".parse()?]),
        mesh_yaml: Ok(Some(MESH.to_owned())),
    };
    assert_eq!(seen, wanted);

    // Who may do nothing learns what a role would have to grant.
    let stranger = read(&cluster.user("stranger", None)?)?;
    let refused = [
        stranger.cilium.map(drop),
        stranger.nodes.map(drop),
        stranger.agents.map(drop),
        stranger.pod_cidrs.map(drop),
        stranger.service_cidrs.map(drop),
        stranger.mesh_yaml.map(drop),
    ];
    assert_eq!(
        refused.map(|each| each.expect_err("nothing was granted")),
        [
            "not allowed to get configmaps `cilium-config` in kube-system",
            "not allowed to list nodes",
            "not allowed to list pods in aggrik8s",
            "not allowed to list nodes",
            "not allowed to list servicecidrs.networking.k8s.io",
            "not allowed to get configmaps `aggrik8s-mesh` in aggrik8s",
        ]
    );
    Ok(())
}

fn read(kubeconfig: &Path) -> Result<Discovered> {
    let contexts = Contexts::read(Some(kubeconfig))?;
    let names = contexts.names();
    let name = names.first().context("the kubeconfig has a context")?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let cluster = contexts.connect(name).await?;
        Ok(discover(&cluster.client(), NAMESPACE, Duration::from_secs(20)).await)
    })
}

/// What the chart makes, as far as an API server without a node knows.
fn agents(cluster: &Cluster) -> Result<()> {
    let meta = |name: &str| json!({ "name": name, "namespace": NAMESPACE });
    let pod = |name: &str, component: &str, args: Value| {
        let mut meta = meta(name);
        meta["labels"] = json!({ "app.kubernetes.io/name": "aggrik8s", "app.kubernetes.io/component": component });
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": meta,
            "spec": { "nodeName": "talos-east-1", "containers": [
                { "name": "agent", "image": "localhost/aggrik8s:1", "args": args },
            ] },
        })
    };
    cluster.apply(&json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE },
    }))?;
    cluster.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta("default") },
        { "apiVersion": "v1", "kind": "ConfigMap", "metadata": meta("aggrik8s-mesh"), "data": { "mesh.yaml": MESH } },
        { "apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": { "name": "talos-east-1" },
          "spec": { "ipam": { "podCIDRs": ["10.244.9.0/24"] } } },
    ] }))?;
    cluster.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": [
        pod("pod-a", "pod-plane", json!(["run", "--api", "127.0.0.1:7410"])),
        pod("node-a", "node-plane", json!(["run", "--api", "0.0.0.0:7414", "--tls-cert", "/tls.crt"])),
        pod("controller", "controller", json!(["run", "--api", "127.0.0.1:1"])),
    ] }))?;
    let ready = json!([{ "type": "Ready", "status": "True" }]);
    let status = |kind: &str, name: &str, status: Value| {
        let body = json!({ "status": status }).to_string();
        let args = [
            "-n",
            NAMESPACE,
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
    let address = |ip: &str| json!({ "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }] });
    let mut running = address("10.244.1.7");
    running["conditions"] = ready.clone();
    status("pod", "pod-a", running)?;
    status("pod", "node-a", address("192.168.15.11"))?;
    status("node", "talos-east-1", json!({ "conditions": ready }))?;
    let cordon = ["cordon", "talos-east-2"];
    cluster.kubectl(&cordon).map(drop)
}
