//! `jitter.path`: how much longer than its shortest the way in one direction takes, from the kernels' time stamps of both ends.
//!
//! The clocks of two nodes differ by an unknown offset, which is the same for all connections between them: it drops out
//! when the shortest is taken off.

use std::collections::BTreeMap;

use mesh::Link;
use mesh::observation::{KernelOutcome, Plane, ProbeKind};

use super::mtu::Cell;
use super::{Draft, Trial, count, percent, unwitnessed};
use crate::checks::{JITTER_PATH, Severity};
use crate::quantile::quantile;
use crate::view::{Probe, View};

/// The share that may exceed the threshold: the objective is a p99.
const EXCEEDING: f64 = 0.01;
/// Without an objective: the node pair's shortest round trip, and this.
const DEFAULT_HEADROOM_SECONDS: f64 = 0.010;

/// From the source's kernel sending the handshake's ACK to the target's taking it, in ns plus the offset of their clocks.
fn one_way(probe: &Probe<'_>) -> Option<i128> {
    let (source, target) = (probe.source?, probe.target?);
    let both = [source, target]
        .iter()
        .all(|record| record.outcome == KernelOutcome::Established);
    // A SYN-ACK that was sent again means that this ACK was lost: that is loss.
    (both && target.syn_retransmits == 0)
        .then(|| i128::from(target.at_ns) - i128::from(source.at_ns))
}

pub(super) fn row(view: &View<'_>, link: &Link) -> Draft {
    let probes = || view.of(link, Plane::Pod, ProbeKind::Tcp);
    let mut shortest: BTreeMap<Cell, i128> = BTreeMap::new();
    let mut round_trips: BTreeMap<Cell, u32> = BTreeMap::new();
    for probe in probes() {
        if let Some(time) = one_way(probe) {
            let least = shortest.entry(probe.cell()).or_insert(time);
            *least = time.min(*least);
        }
        if let Some(us) = probe.source.and_then(|record| record.handshake_rtt_us) {
            let least = round_trips.entry(probe.cell()).or_insert(us);
            *least = us.min(*least);
        }
    }
    let declared = view.mesh.objectives.jitter_p99_seconds;
    let threshold = |cell: &Cell| {
        let round_trip = round_trips.get(cell).copied().unwrap_or(0);
        declared.unwrap_or(f64::from(round_trip) * 1e-6 + DEFAULT_HEADROOM_SECONDS)
    };
    let mut values = Vec::new();
    let counted = count(probes(), |probe| {
        let cell = probe.cell();
        let (Some(time), Some(least)) = (one_way(probe), shortest.get(&cell)) else {
            return Trial::Skip;
        };
        let longer = (time - least) as f64 * 1e-9;
        values.push(longer);
        if longer > threshold(&cell) {
            Trial::Bad("late")
        } else {
            Trial::Good
        }
    });
    let mut draft = counted.draft(view, JITTER_PATH, link, Plane::Pod, EXCEEDING);
    let confidence = view.mesh.objectives.confidence;
    let check = &mut draft.check;
    if declared.is_some() {
        check.severity = Severity::Gate;
    }
    check.observed.p50 = quantile(&values, 0, 0.5, confidence);
    check.observed.p99 = quantile(&values, 0, 0.99, confidence);
    let largest = shortest.keys().map(threshold).reduce(f64::max).or(declared);
    check.expected.threshold_seconds = largest;
    let rule = if declared.is_some() {
        "declared"
    } else {
        "the node pair's shortest round trip + 10 ms"
    };
    check.expected.text = format!(
        "at most {} of the packets take longer than the shortest by more than {}",
        percent(EXCEEDING),
        largest.map_or_else(
            || rule.to_owned(),
            |s| format!("{:.1} ms ({rule})", s * 1e3)
        )
    );
    if let Some(test) = &mut draft.test {
        test.missing.extend(unwitnessed(view, &link.source));
        if link.target != link.source {
            test.missing.extend(unwitnessed(view, &link.target));
        }
    }
    draft
}
