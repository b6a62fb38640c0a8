//! The control plane as API servers tell it, judged without an agent and without a packet.
//!
//! [`judge_clusters`] is pure: what was read and the time go in, the same [`Verdict`] comes out as from a
//! measured run. Whatever could not be read leaves its checks undecided, and so does the data plane.

mod agents;
mod agree;
mod certificates;
mod config;
mod finding;
mod measured;
mod own_server;
mod policy;
mod ranges;
mod remotes;
mod services;
pub(crate) mod table;
mod versions;
pub mod view;
mod world;

use crate::checks::{self, EVIDENCE_API_SERVER};
use crate::judge::JudgeError;
use crate::verdict::{Confidence, LinkRow, Outcome, Status, Verdict};
use finding::Rows;

/// Secrets in kube-system that hold the certificates of the mesh.
pub const CERTIFICATE_SECRETS: [&str; 4] = certificates::SECRETS;

pub use view::{ClusterView, Facts};
use world::World;

/// How to judge clusters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClustersPolicy {
    /// Globs of check ids; empty selects all. Whether the API servers answered is always judged.
    pub only: Vec<String>,
}

impl ClustersPolicy {
    fn selects(&self, id: &str) -> bool {
        self.only.is_empty()
            || id == EVIDENCE_API_SERVER
            || self.only.iter().any(|glob| checks::glob_matches(glob, id))
    }

    /// Whether every glob names a check that exists.
    ///
    /// # Errors
    /// Names the first that does not.
    pub fn check(&self) -> Result<(), JudgeError> {
        for glob in &self.only {
            let mut judged = checks::CHECKS
                .iter()
                .filter(|spec| checks::of_clusters(spec.id) || measured::waits_for_agents(spec));
            if !judged.any(|spec| checks::glob_matches(glob, spec.id)) {
                return Err(
                    match checks::CHECKS
                        .iter()
                        .any(|spec| checks::glob_matches(glob, spec.id))
                    {
                        true => JudgeError::NeedsMesh(glob.clone()),
                        false => JudgeError::UnknownCheck(glob.clone()),
                    },
                );
            }
        }
        Ok(())
    }
}

/// Judges what the clusters say of themselves at `now`, in seconds since 1970.
///
/// # Errors
/// When there is no cluster, or `policy` names no check; never for what could not be read, which is UNDECIDED.
pub fn judge_clusters(
    clusters: &[ClusterView],
    policy: &ClustersPolicy,
    now: i64,
) -> Result<Verdict, JudgeError> {
    policy.check()?;
    if clusters.is_empty() {
        return Err(JudgeError::EmptyScope);
    }
    let world = World::new(clusters);
    let mut rows = Rows::default();
    agents::api_servers(&world, &mut rows);
    config::find(&world, &mut rows);
    ranges::find(&world, &mut rows);
    agree::find(&world, &mut rows);
    policy::find(&world, &mut rows);
    versions::find(&world, &mut rows);
    agents::find(&world, &mut rows);
    remotes::find(&world, &mut rows);
    own_server::find(&world, &mut rows);
    certificates::find(&world, &mut rows, now);
    services::find(&world, &mut rows);
    measured::find(&world, &mut rows);
    let (checks, causes) = rows.finish(|id| policy.selects(id));
    let result = checks
        .iter()
        .filter(|check| check.gates())
        .map(|check| Outcome::of(check.status))
        .fold(Outcome::Ready, Outcome::and);
    let links = world
        .links()
        .map(|(source, target)| link_row(source, target, &checks))
        .collect();
    Ok(Verdict {
        result,
        confidence: Confidence {
            per_statement: 1.0,
            burst_seconds: None,
            ready: None,
            not_ready: None,
            statements: 0,
            looks: 0,
            method: "no statistics: every check compares what the API servers say".to_owned(),
        },
        links,
        checks,
        causes,
        unreachable: Vec::new(),
        waivers: Vec::new(),
    })
}

/// Nothing was measured: only what is wrong on the link itself says anything of it.
fn link_row(source: &str, target: &str, checks: &[crate::Check]) -> LinkRow {
    let failed = checks.iter().any(|check| {
        check.gates()
            && check.status == Status::Fail
            && check.source_cluster.as_deref() == Some(source)
            && check.target_cluster.as_deref() == Some(target)
    });
    LinkRow {
        source_cluster: source.to_owned(),
        target_cluster: target.to_owned(),
        result: if failed {
            Outcome::NotReady
        } else {
            Outcome::Undecided
        },
        path_result: Outcome::Undecided,
        n: 0,
        failed: 0,
        loss_upper: None,
        connect_p50_seconds: None,
        connect_p99_seconds: None,
        handshake_rtt_p50_seconds: None,
        handshake_rtt_p99_seconds: None,
    }
}
