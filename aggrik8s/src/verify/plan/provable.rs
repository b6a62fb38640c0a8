//! Objectives that this run could not prove even if every probe were good: told before anything is sent.

use mesh::observation::{Plane, ProbeKind};
use mesh::{Gravity, Link, Mesh};
use verify::checks::{self, Severity};
use verify::stats::{Count, p_too_few_in_bursts, upper_bound_in_bursts};
use verify::{Policy, looks};

use super::{Plan, Wanted, human};

/// An objective, the probes that would prove it without a bad one, and those that `--budget` leaves.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "objective `{objective}` cannot be proven (`{check}`): that at most {} % are bad takes {needs} probes without a bad one, and `--budget {}` leaves {leaves}",
    percent(*.p0), human(*.budget)
)]
pub(in super::super) struct Unprovable {
    objective: &'static str,
    check: &'static str,
    p0: f64,
    needs: u64,
    leaves: u64,
    budget: u64,
    /// Bytes with which all objectives could be proven.
    enough: u64,
    /// Smallest share that what is left proves.
    provable: f64,
}

impl Unprovable {
    pub(in super::super) fn hint(&self) -> String {
        // Rounded up to what a person would type.
        let step = 10_u64.pow(self.enough.max(10).ilog10() - 1);
        let enough = human(self.enough.div_ceil(step) * step).replace(' ', "");
        let objective = match self.objective {
            "latency_p99" => format!("leave `{}` out with --only", self.check),
            "loss" => format!("declare `loss: {}%` or more", above(self.provable)),
            other => format!(
                "declare `{other}: {}%` or less",
                hundredths(100.0 - above(self.provable))
            ),
        };
        format!("give it `--budget {enough}` or more, or {objective}")
    }
}

fn percent(share: f64) -> f64 {
    (share * 1e6).round() / 1e4
}

/// In percent, rounded up to hundredths.
fn above(share: f64) -> f64 {
    (share * 1e4).ceil() / 100.0
}

fn hundredths(percent: f64) -> f64 {
    (percent * 100.0).round() / 100.0
}

/// The objectives that one kind of probes decides: name, share that may be bad, check.
fn decides(mesh: &Mesh, want: &Wanted) -> Vec<(&'static str, f64, &'static str)> {
    let objectives = &mesh.objectives;
    let connect = 1.0 - objectives.connect_success;
    let tiles = 1.0 - objectives.ndvi_success;
    let service = want.target.service.is_some();
    match (want.kind, want.plane) {
        // Its own cluster's tiles tell of the service alone.
        (ProbeKind::NdviTile, _) if want.source.cluster == want.target.cluster => {
            vec![("ndvi_success", tiles, checks::SERVICE_REACH)]
        }
        (ProbeKind::NdviTile, _) => vec![
            ("ndvi_success", tiles, checks::NDVI_SUCCESS),
            ("ndvi_success", tiles, checks::NDVI_ROUND_TRIP),
        ],
        (ProbeKind::Dns, _) => vec![("connect_success", connect, checks::DNS_RESOLVE)],
        _ if service => vec![("connect_success", connect, checks::SERVICE_REACH)],
        (ProbeKind::Tcp, Plane::Pod) => vec![
            ("connect_success", connect, checks::POD_TCP),
            ("loss", objectives.loss, checks::LOSS_TCP_SYN),
            ("latency_p99", 0.01, checks::LATENCY_CONNECT),
            ("latency_p99", 0.01, checks::LATENCY_HANDSHAKE),
        ],
        (ProbeKind::Tcp, Plane::Node) => vec![("connect_success", connect, checks::NODE_TCP)],
        (ProbeKind::Http, _) => vec![("connect_success", connect, checks::POD_HTTP)],
        (ProbeKind::Udp, _) => vec![
            ("loss", objectives.loss, checks::POD_UDP),
            ("loss", objectives.loss, checks::LOSS_UDP),
        ],
    }
}

/// Whether the failure of `id` decides anything.
fn gate(mesh: &Mesh, policy: &Policy, id: &str) -> bool {
    let own = || checks::find(id).is_some_and(|spec| spec.severity == Severity::Gate);
    policy.selects(id)
        && mesh
            .rules
            .gravity(id)
            .map_or_else(own, |gravity| gravity == Gravity::Gate)
}

impl Plan {
    /// Only `--budget` makes a run too small: without one the first look is sized from the objectives. Where it does,
    /// the first look takes all of it, and there is no other.
    pub(in super::super) fn provable(
        &self,
        mesh: &Mesh,
        policy: &Policy,
    ) -> Result<(), Unprovable> {
        let Some(budget) = self.budget.filter(|_| self.kept < 1.0) else {
            return Ok(());
        };
        let confidence = mesh.objectives.confidence;
        let alpha = (1.0 - confidence) * looks::share(0);
        let mut worst: Option<Unprovable> = None;
        for want in self.wanted.iter().filter(|want| want.statement > 0.0) {
            for (objective, p0, check) in decides(mesh, want) {
                if !gate(mesh, policy, check) {
                    continue;
                }
                let legs = if check == checks::LOSS_UDP {
                    legs(mesh, want)
                } else {
                    1.0
                };
                let each = (want.count * self.kept).ceil();
                let leaves = (each * want.statement * legs) as u64;
                let burst = checks::burst(check);
                if p_too_few_in_bursts(Count::new(leaves, 0), burst, p0) <= alpha {
                    continue;
                }
                let Some(needs) = looks::first_look_in_bursts(p0, confidence, 0, burst) else {
                    continue;
                };
                let kept = needs as f64 / (want.count * want.statement * legs);
                let enough = (self.whole as f64 * kept).ceil() as u64;
                if worst.as_ref().is_none_or(|worst| enough > worst.enough) {
                    worst = Some(Unprovable {
                        objective,
                        check,
                        p0,
                        needs,
                        leaves,
                        budget,
                        enough,
                        provable: upper_bound_in_bursts(
                            Count::new(leaves.max(1), 0),
                            burst,
                            1.0 - alpha,
                        ),
                    });
                }
            }
        }
        worst.map_or(Ok(()), Err)
    }
}

/// Where both sides send, the echoes of the other's datagrams count for a path as well.
fn legs(mesh: &Mesh, want: &Wanted) -> f64 {
    let back = Link {
        source: want.target.cluster.clone(),
        target: want.source.cluster.clone(),
    };
    if mesh.links.contains(&back) && !mesh.rules.denies(&back) {
        2.0
    } else {
        1.0
    }
}
