//! All that one cluster says of itself, read at once: GET and LIST, and one `exec` of a status command per agent.

mod certificates;
pub(crate) mod cilium;
mod mesh;
pub(crate) mod nodes;
mod policies;
mod secret;
mod services;
mod status;

use std::time::Duration;

use ::mesh::Discovered;
use tokio::task::JoinSet;
use tokio::time::Instant;
use verify::control::view::{ClusterView, Facts};

use crate::ask::Deadline;
use crate::connect::Cluster;
use crate::contexts::Contexts;
use crate::discover::discover;
use crate::error::ConnectError;

/// What one context leads to.
pub struct Look {
    /// What its control plane says; that it cannot be reached is part of it.
    pub view: ClusterView,
    /// The cluster, if it answers, and what a mesh needs to know of it.
    pub reached: Option<(Cluster, Discovered)>,
}

/// Reads every one of `names` at the same time, each for `limit` at most; answers in that order. Agents are looked for
/// in `namespace`.
pub async fn looks(
    contexts: &Contexts,
    names: &[String],
    namespace: &str,
    limit: Duration,
) -> Vec<Look> {
    let mut tasks = JoinSet::new();
    for (at, name) in names.iter().cloned().enumerate() {
        let (contexts, namespace) = (contexts.clone(), namespace.to_owned());
        tasks.spawn(async move { (at, look(&contexts, &name, &namespace, limit).await) });
    }
    let mut found: Vec<(usize, Look)> = tasks.join_all().await;
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().map(|(_, look)| look).collect()
}

async fn look(contexts: &Contexts, name: &str, namespace: &str, limit: Duration) -> Look {
    let end = Instant::now() + limit;
    let (state, reached) = match contexts.connect(name).await {
        Ok(cluster) => {
            let client = cluster.client();
            let left = end.saturating_duration_since(Instant::now());
            let (facts, found) = tokio::join!(
                facts(&cluster, Deadline(end)),
                discover(&client, namespace, left),
            );
            (Ok(Box::new(facts)), Some((cluster, found)))
        }
        Err(error) => (Err(words(&error)), None),
    };
    let context = name.to_owned();
    Look {
        view: ClusterView { context, state },
        reached,
    }
}

/// An error with its causes; kube repeats a cause in its own text.
fn words(error: &ConnectError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text += &format!(": {cause_text}");
        }
        source = cause.source();
    }
    text
}

async fn facts(cluster: &Cluster, deadline: Deadline) -> Facts {
    let client = cluster.client();
    let system = nodes::system_pods(&client, deadline);
    let (config, daemon, deployment, system, nodes, pod_cidrs, services, open_policies) = tokio::join!(
        cilium::config(&client, deadline),
        cilium::daemon_set(&client, deadline),
        mesh::deployment(&client, deadline),
        system,
        nodes::nodes(&client, deadline),
        nodes::pod_cidrs(&client, deadline),
        services::services(&client, deadline),
        policies::open(&client, deadline),
    );
    let aliases = mesh::aliases(&daemon, &deployment);
    let (service_cidrs, server, remotes, kvstoremesh, certificates, trust, status) = tokio::join!(
        nodes::service_cidrs(&client, &system, deadline),
        mesh::server(&client, &deployment, deadline),
        mesh::remotes(&client, "cilium-clustermesh", &aliases, deadline),
        mesh::remotes(&client, "cilium-kvstoremesh", &aliases, deadline),
        certificates::all(&client, deadline),
        certificates::trust(&client, &daemon, &deployment, deadline),
        status::statuses(&client, &system, deadline),
    );
    Facts {
        kubernetes: cluster.version.clone(),
        config,
        agents: cilium::agents(&daemon),
        nodes,
        pod_cidrs,
        service_cidrs,
        kube_proxy: nodes::kube_proxy(&system),
        server,
        remotes,
        kvstoremesh,
        certificates,
        trust,
        status,
        services,
        open_policies,
    }
}

/// Where Cilium's parts live.
pub(crate) const NAMESPACE: &str = "kube-system";
