//! `evidence.api_server`, `cilium.agents`, `clustermesh.server`: whether the parts are there and ready.

use super::finding::{Finding, Place, Problem, Rows};
use super::world::{Cluster, World, shell};
use crate::checks::{CILIUM_AGENTS, CLUSTERMESH_SERVER, EVIDENCE_API_SERVER};

pub(super) fn api_servers(world: &World<'_>, rows: &mut Rows) {
    for view in world.views {
        let finding = match &view.state {
            Ok(facts) => Finding::Pass(format!("Kubernetes {}", facts.kubernetes)),
            Err(why) => Finding::Undecided(
                format!("no answer from the API server: `{}`, {why}", view.context),
                format!(
                    "`kubectl --context {} version` from this machine; the other clusters are judged all the same",
                    shell(&view.context)
                ),
            ),
        };
        rows.add(EVIDENCE_API_SERVER, Place::Cluster(&view.context), finding);
    }
}

pub(super) fn find(world: &World<'_>, rows: &mut Rows) {
    for cluster in world.clusters() {
        rows.add(CILIUM_AGENTS, cluster, agents(cluster));
        if world.uses_clustermesh() {
            rows.add(CLUSTERMESH_SERVER, cluster, server(cluster));
        }
    }
}

fn agents(cluster: Cluster<'_>) -> Finding {
    let context = cluster.context;
    let agents = match &cluster.facts.agents {
        Ok(Some(agents)) => agents,
        Ok(None) if cluster.lacks_cilium() => {
            return Finding::Info(format!(
                "`{context}` runs without Cilium: fewer checks apply"
            ));
        }
        Ok(None) => {
            return Finding::Fail(Problem {
                cause: "cilium.agent_down",
                summary: format!("`{context}` has a cilium-config, and no DaemonSet `cilium`"),
                evidence: Vec::new(),
                hint: format!(
                    "`helm --kube-context {} -n kube-system status cilium`",
                    shell(context)
                ),
            });
        }
        Err(unread) => return Finding::unread(context, unread),
    };
    let seen = format!(
        "{} of {} agents ready, {} of the current revision",
        agents.ready, agents.wanted, agents.updated
    );
    if agents.wanted == 0 {
        return Finding::Undecided(
            format!("no node wants a Cilium agent: `{context}`"),
            "verify again once the cluster has nodes".to_owned(),
        );
    }
    if agents.ready >= agents.wanted {
        return Finding::Pass(seen);
    }
    Finding::Fail(Problem {
        cause: "cilium.agent_down",
        summary: format!(
            "{} of {} Cilium agents of `{context}` are not ready",
            agents.wanted - agents.ready,
            agents.wanted
        ),
        evidence: vec![seen],
        hint: format!(
            "`kubectl --context {} -n kube-system get pods -l k8s-app=cilium -o wide`, and the log of the one that is not ready",
            shell(context)
        ),
    })
}

fn server(cluster: Cluster<'_>) -> Finding {
    let context = cluster.context;
    let fail = |summary: String, evidence: Vec<String>, hint: String| {
        Finding::Fail(Problem {
            cause: "clustermesh.server_down",
            summary,
            evidence,
            hint,
        })
    };
    let enable = cluster.set("clustermesh.useAPIServer", "true");
    let server = match &cluster.facts.server {
        Ok(Some(server)) => server,
        Ok(None) if cluster.lacks_cilium() => {
            return Finding::Info(format!("`{context}` runs without Cilium"));
        }
        Ok(None) => {
            let summary = format!("`{context}` offers other clusters no control plane");
            let evidence =
                vec!["there is no Deployment `clustermesh-apiserver` in kube-system".to_owned()];
            return fail(summary, evidence, enable);
        }
        Err(unread) => return Finding::unread(context, unread),
    };
    let seen = format!("{} of {} replicas ready", server.ready, server.wanted);
    if server.service.is_none() {
        let summary =
            format!("the control plane of `{context}` has no Service: nobody can reach it");
        let evidence =
            vec!["there is no Service `clustermesh-apiserver` in kube-system".to_owned()];
        return fail(summary, evidence, enable);
    }
    if server.ready == 0 {
        return fail(
            format!("the control plane that `{context}` offers other clusters is not ready"),
            vec![seen],
            format!(
                "`kubectl --context {} -n kube-system describe pods -l k8s-app=clustermesh-apiserver`",
                shell(context)
            ),
        );
    }
    Finding::Pass(seen)
}
