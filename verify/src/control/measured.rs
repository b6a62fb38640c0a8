//! What only measurements decide: a row per check and link, all undecided, with the one command that changes it.

use super::finding::{Place, Rows, row};
use super::world::World;
use crate::checks::{self, CHECKS, CheckSpec, Severity};
use crate::verdict::Cause;

/// Whether `spec` is a gate that agents decide for every link of every mesh.
pub(super) fn waits_for_agents(spec: &CheckSpec) -> bool {
    spec.severity == Severity::Gate
        && checks::of_mesh(spec.id)
        && matches!(spec.family(), "reach" | "latency" | "loss" | "mtu")
}

pub(super) fn find(world: &World<'_>, rows: &mut Rows) {
    const WHY: &str = "not measured";
    let mut waiting = Vec::new();
    for spec in CHECKS.iter().filter(|spec| waits_for_agents(spec)) {
        for (source, target) in world.links() {
            let mut check = row(spec, Place::Link(source, target));
            check.expected.text = spec.claim.to_owned();
            check.cause = Some(WHY.to_owned());
            waiting.push(check);
        }
    }
    let cause = Cause {
        id: "agent.absent".to_owned(),
        summary:
            "nothing was measured: whether a packet crosses, only agents in the clusters can tell"
                .to_owned(),
        source_cluster: None,
        target_cluster: None,
        node: None,
        plane: None,
        evidence: vec!["API servers were read and nothing was changed".to_owned()],
        rivals: Vec::new(),
        hint: install(world),
        explains: Vec::new(),
    };
    rows.lacking(cause, waiting);
}

/// What puts agents into these clusters, and what asks them then.
fn install(world: &World<'_>) -> String {
    let contexts: Vec<&str> = world
        .views
        .iter()
        .map(|view| view.context.as_str())
        .collect();
    format!(
        "`aggrik8s install -f mesh.yaml --contexts {} --image REF` installs the agents (docs/install.md); then `aggrik8s verify -f mesh.yaml`",
        contexts.join(",")
    )
}
