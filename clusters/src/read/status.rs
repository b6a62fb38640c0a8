//! What each Cilium agent says of its remote clusters: `cilium-dbg status -o json`, run in its pod.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::api::AttachParams;
use kube::{Api, Client, ResourceExt};
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout_at;
use verify::control::view::{AgentStatus, RemoteStatus, Seen, Statuses, Unread};

use super::NAMESPACE;
use crate::ask::Deadline;

/// Agents asked at the same time.
const AT_ONCE: usize = 16;

/// Longest answer that is read.
const MOST_BYTES: u64 = 8 << 20;

const COMMAND: [&str; 4] = ["cilium-dbg", "status", "-o", "json"];

pub(super) async fn statuses(
    client: &Client,
    system: &Seen<Vec<Pod>>,
    deadline: Deadline,
) -> Seen<Statuses> {
    let pods = system.as_ref().map_err(Clone::clone)?;
    let agents = pods.iter().filter(|pod| {
        pod.labels()
            .get("k8s-app")
            .is_some_and(|app| app == "cilium")
    });
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    let mut statuses = Statuses::default();
    for pod in agents {
        let name = pod.name_any();
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        let node = node.unwrap_or_else(|| name.clone());
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        if phase != Some("Running") {
            statuses.silent.push((
                node,
                format!("its pod is {}", phase.unwrap_or("in no known phase")),
            ));
            continue;
        }
        let (api, places) = (
            Api::namespaced(client.clone(), NAMESPACE),
            Arc::clone(&places),
        );
        tasks.spawn(async move {
            let answer = match places.acquire().await {
                Ok(_place) => status(&api, &name, deadline).await,
                Err(_) => Err(Unread::Failed("not asked".to_owned())),
            };
            (node, answer)
        });
    }
    let mut answers = tasks.join_all().await;
    answers.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (node, answer) in answers {
        match answer {
            Ok(remotes) => statuses.answers.push(AgentStatus { node, remotes }),
            // What one may not do at one agent, one may do at none.
            Err(unread @ Unread::Forbidden { .. }) => return Err(unread),
            Err(Unread::Failed(why)) => statuses.silent.push((node, why)),
        }
    }
    Ok(statuses)
}

async fn status(api: &Api<Pod>, name: &str, deadline: Deadline) -> Seen<Vec<RemoteStatus>> {
    let params = AttachParams::default()
        .container("cilium-agent")
        .stderr(false);
    let asked = async {
        let mut process = api.exec(name, COMMAND, &params).await?;
        let mut text = Vec::new();
        if let Some(stdout) = process.stdout() {
            let _ = stdout.take(MOST_BYTES).read_to_end(&mut text).await;
        }
        kube::Result::Ok(text)
    };
    let text = match timeout_at(deadline.0, asked).await {
        Ok(Ok(text)) => text,
        Ok(Err(error)) => return Err(refused(&error)),
        Err(_) => return Err(Unread::Failed("no answer in time".to_owned())),
    };
    parse(&text).ok_or_else(|| Unread::Failed("its answer is no status".to_owned()))
}

fn refused(error: &kube::Error) -> Unread {
    use kube::client::UpgradeConnectionError as Upgrade;
    tracing::info!(%error, "exec failed");
    match error {
        kube::Error::UpgradeConnection(Upgrade::ProtocolSwitch(code)) if code.as_u16() == 403 => {
            Unread::Forbidden {
                verb: "create".to_owned(),
                resource: "pods/exec in kube-system".to_owned(),
            }
        }
        kube::Error::UpgradeConnection(Upgrade::ProtocolSwitch(code)) => Unread::Failed(format!(
            "the API server cannot reach its kubelet ({})",
            code.as_u16()
        )),
        error => crate::ask::refusal("create", "pods/exec in kube-system", error),
    }
}

#[derive(Deserialize)]
struct StatusResponse {
    #[serde(rename = "cluster-mesh")]
    cluster_mesh: Option<ClusterMesh>,
}

#[derive(Deserialize)]
struct ClusterMesh {
    #[serde(default)]
    clusters: Vec<Remote>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Remote {
    name: String,
    #[serde(default)]
    connected: bool,
    #[serde(default)]
    ready: bool,
    #[serde(default)]
    status: String,
    num_nodes: Option<u64>,
    #[serde(default)]
    num_failures: u64,
    config: Option<Config>,
    synced: Option<std::collections::BTreeMap<String, Option<bool>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Config {
    #[serde(default)]
    required: bool,
    #[serde(default)]
    retrieved: bool,
    cluster_id: Option<u32>,
}

/// `None` for what is no StatusResponse at all.
fn parse(text: &[u8]) -> Option<Vec<RemoteStatus>> {
    let response: StatusResponse = serde_json::from_slice(text).ok()?;
    let clusters = response
        .cluster_mesh
        .map(|mesh| mesh.clusters)
        .unwrap_or_default();
    let status = |remote: Remote| {
        let config = remote.config.as_ref();
        RemoteStatus {
            connected: remote.connected,
            ready: remote.ready,
            status: remote.status,
            config_required: config.is_some_and(|config| config.required),
            config_retrieved: config.is_some_and(|config| config.retrieved),
            cluster_id: config
                .filter(|config| config.retrieved)
                .and_then(|config| config.cluster_id),
            unsynced: remote
                .synced
                .into_iter()
                .flatten()
                .filter(|(_, synced)| *synced == Some(false))
                .map(|(what, _)| what)
                .collect(),
            nodes: remote.num_nodes,
            failures: remote.num_failures,
            name: remote.name,
        }
    };
    Some(clusters.into_iter().map(status).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_response() {
        let text = br#"{
          "cilium": {"state": "Ok"},
          "cluster-mesh": {"clusters": [
            {"name": "west", "connected": true, "ready": false, "status": "Waiting for configuration",
             "num-nodes": 0, "num-failures": 3, "last-failure": "2026-11-22T00:00:00Z",
             "config": {"required": true, "retrieved": false, "cluster-id": 0},
             "synced": {"nodes": false, "endpoints": true, "services": false}},
            {"name": "pi", "connected": true, "ready": true, "status": "etcd: 1/1 connected", "num-nodes": 5,
             "config": {"required": true, "retrieved": true, "cluster-id": 3, "kvstoremesh": true},
             "synced": {"nodes": true, "service-exports": null}}
          ], "num-global-services": 2}
        }"#;
        let remotes = parse(text).expect("a status");
        assert_eq!(
            remotes[0],
            RemoteStatus {
                name: "west".to_owned(),
                connected: true,
                ready: false,
                status: "Waiting for configuration".to_owned(),
                config_required: true,
                config_retrieved: false,
                cluster_id: None,
                unsynced: vec!["nodes".to_owned(), "services".to_owned()],
                nodes: Some(0),
                failures: 3,
            }
        );
        assert_eq!(
            (
                remotes[1].ready,
                remotes[1].cluster_id,
                remotes[1].unsynced.len()
            ),
            (true, Some(3), 0)
        );
        assert_eq!(parse(br#"{"cilium": {}}"#), Some(Vec::new()));
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"error: cannot connect"), None);
    }
}
