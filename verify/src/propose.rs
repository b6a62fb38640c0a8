//! Objectives that this run would have met with room to spare, for a mesh.yaml that declares none.

use std::fmt::Write;

use mesh::{Mesh, Objectives};

use crate::checks::{LATENCY_CONNECT, LATENCY_HANDSHAKE, LOSS_UDP, NDVI_ROUND_TRIP};
use crate::report::Report;
use crate::verdict::{Check, Outcome};

/// How far above the upper bound of what was measured an objective is put.
const HEAD_ROOM: f64 = 1.5;
/// Links whose limits differ by less than this share one.
const ALIKE: f64 = 2.0;
/// No limit is put below this, s: the next busy minute would break it.
const LEAST_SECONDS: f64 = 0.002;

/// A block `objectives:` to paste into mesh.yaml. `None` when it declares some, or when something is
/// not READY: what a broken mesh does is no objective.
pub fn objectives(mesh: &Mesh, report: &Report) -> Option<String> {
    if mesh.objectives != Objectives::default() || report.result != Outcome::Ready {
        return None;
    }
    let limits: Vec<(&mesh::Link, f64)> = mesh
        .links
        .iter()
        .filter_map(|link| Some((link, latency(report, link)?)))
        .collect();
    let most = limits.iter().map(|(_, limit)| *limit).reduce(f64::max)?;
    let least = limits.iter().map(|(_, limit)| *limit).reduce(f64::min)?;
    let mut out = String::from("objectives:\n");
    if let Some(loss) = loss(report) {
        let _ = writeln!(out, "  loss: {loss}%");
    }
    let _ = writeln!(out, "  latency_p99: {}", duration(most));
    let tiles = of(report, NDVI_ROUND_TRIP).filter_map(upper_p99);
    if let Some(tile) = tiles.reduce(f64::max) {
        let _ = writeln!(out, "  ndvi_round_trip: {}", duration(tile * HEAD_ROOM));
    }
    if most > ALIKE * least {
        out += "  links:\n";
        for (link, limit) in limits
            .iter()
            .filter(|(_, limit)| duration(*limit) != duration(most))
        {
            let _ = writeln!(
                out,
                "    - {{source: {}, target: {}, latency_p99: {}}}",
                link.source,
                link.target,
                duration(*limit)
            );
        }
    }
    Some(out)
}

fn of<'r>(report: &'r Report, id: &'r str) -> impl Iterator<Item = &'r Check> {
    report.checks.iter().filter(move |check| check.id == id)
}

/// The upper end of the interval; without one the run is too short to say.
fn upper_p99(check: &Check) -> Option<f64> {
    check.observed.p99.as_ref()?.high_seconds
}

fn latency(report: &Report, link: &mesh::Link) -> Option<f64> {
    [LATENCY_CONNECT, LATENCY_HANDSHAKE]
        .into_iter()
        .flat_map(|id| of(report, id))
        .filter(|check| {
            check.source_cluster.as_ref() == Some(&link.source)
                && check.target_cluster.as_ref() == Some(&link.target)
        })
        .filter_map(upper_p99)
        .reduce(f64::max)
        .map(|seconds| (seconds * HEAD_ROOM).max(LEAST_SECONDS))
}

/// The next of a few round percentages above what the worst path may lose; never tighter than the default, which would cost more probes.
fn loss(report: &Report) -> Option<f64> {
    let worst = of(report, LOSS_UDP)
        .flat_map(|check| {
            let nodes = check.observed.marginals.iter().map(|m| m.rate_upper);
            nodes.chain(check.observed.rate_upper)
        })
        .reduce(f64::max)?;
    [1.0, 2.0, 5.0]
        .into_iter()
        .find(|percent| HEAD_ROOM * worst <= percent / 100.0)
}

/// Rounded up to two digits: 0.0123 → "13ms".
fn duration(seconds: f64) -> String {
    let ms = seconds * 1e3;
    let step = 10_f64.powf(ms.log10().floor() - 1.0);
    let rounded = (ms / step - 1e-9).ceil() * step;
    if rounded >= 1_000.0 {
        format!("{}s", (rounded / 10.0).round() / 100.0)
    } else {
        format!("{}ms", (rounded * 100.0).round() / 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_rounded_up() {
        for (seconds, text) in [
            (0.0123, "13ms"),
            (0.002, "2ms"),
            (0.00201, "2.1ms"),
            (0.099_9, "100ms"),
            (1.234, "1.3s"),
            (12.0, "12s"),
        ] {
            assert_eq!(duration(seconds), text, "{seconds}");
        }
    }
}
