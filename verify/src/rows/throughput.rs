//! `throughput.tcp`: what one bounded connection carries in one direction of a path, and what that does to the round trip.

use std::collections::{BTreeMap, BTreeSet};

use mesh::Link;
use mesh::measurement::{LoadedRtt, Throughput};
use mesh::observation::{MeasuredPath, NodeRef, Plane};

use super::mtu::{Cell, missing, reason, some};
use super::{Draft, spec};
use crate::checks::{Severity, THROUGHPUT_TCP};
use crate::verdict::Status;
use crate::view::View;

/// A path below this share of what its fastest sibling carries stands out: half a port's speed does, and the ordinary
/// difference between two transfers does not.
const FAR_BELOW: f64 = 0.6;
/// A round trip explodes under load when it grows by as much, s, and at least doubles.
const EXPLODES_SECONDS: f64 = 0.005;

/// The best of the transfers from one node to another.
#[derive(Clone, Debug)]
pub(crate) struct Carried {
    pub(crate) bits: f64,
    pub(crate) rtt: Option<LoadedRtt>,
    pub(crate) retransmits: Option<u32>,
    pub(crate) transfers: u32,
}

impl Carried {
    fn of(found: &Throughput) -> Self {
        Self {
            bits: found.bits_per_second(),
            rtt: found.rtt,
            retransmits: found.retransmits,
            transfers: 1,
        }
    }

    /// The load makes the small echoes beside it wait.
    pub(crate) fn queues(&self) -> bool {
        self.rtt.is_some_and(|rtt| {
            let (idle, queueing) = (rtt.idle_min_ns as f64, rtt.queueing_ns() as f64);
            queueing > EXPLODES_SECONDS * 1e9 && queueing > idle
        })
    }
}

#[derive(Default)]
pub(crate) struct Found {
    pub(crate) figures: BTreeMap<Cell, Carried>,
    lacking: BTreeMap<Cell, String>,
}

pub(crate) fn found(view: &View<'_>, link: &Link) -> Found {
    let mut found = Found::default();
    for measurement in view.measured(link, Plane::Pod) {
        let MeasuredPath::Throughput(result) = &measurement.result else {
            continue;
        };
        let cell = (
            measurement.source.node.clone(),
            measurement.target.node.clone(),
        );
        match result {
            Ok(throughput) => {
                let carried = Carried::of(throughput);
                found
                    .figures
                    .entry(cell)
                    .and_modify(|best| {
                        let transfers = best.transfers + 1;
                        if carried.bits > best.bits {
                            *best = carried.clone();
                        }
                        best.transfers = transfers;
                    })
                    .or_insert(carried);
            }
            Err(why) => {
                found.lacking.insert(cell, reason(why));
            }
        }
    }
    found
}

/// What a path's transfers are measured by: the objective, else the fastest of its siblings, bit/s.
fn limit(view: &View<'_>, found: &Found) -> Option<f64> {
    view.mesh.objectives.throughput_bits_per_second.or_else(|| {
        let fastest = found.figures.values().map(|carried| carried.bits);
        fastest.reduce(f64::max).map(|bits| FAR_BELOW * bits)
    })
}

/// Pairs of nodes whose transfers fall short. Without an objective only what also makes others wait, and what was measured
/// again: few bytes alone may be the sender's doing, and one transfer a moment's.
pub(crate) fn slow(view: &View<'_>, found: &Found) -> BTreeSet<Cell> {
    let declared = view.mesh.objectives.throughput_bits_per_second.is_some();
    let limit = limit(view, found);
    found
        .figures
        .iter()
        .filter(|(_, carried)| limit.is_some_and(|limit| carried.bits < limit))
        .filter(|(_, carried)| declared || (carried.transfers > 1 && carried.queues()))
        .map(|(cell, _)| cell.clone())
        .collect()
}

/// Nodes that are slow in one direction towards whoever they were measured with, and measured with two at least.
#[derive(Default)]
pub(crate) struct Suspects {
    senders: BTreeSet<NodeRef>,
    receivers: BTreeSet<NodeRef>,
}

impl Suspects {
    pub(crate) fn of(view: &View<'_>) -> Self {
        let mut sums: BTreeMap<(bool, NodeRef), (u32, u32)> = BTreeMap::new();
        let mut paths: Vec<Link> = view.mesh.links.clone();
        paths.extend(view.mesh.links.iter().map(|link| Link {
            source: link.target.clone(),
            target: link.source.clone(),
        }));
        paths.sort();
        paths.dedup();
        for path in &paths {
            let found = found(view, path);
            let slow = slow(view, &found);
            for cell in found.figures.keys() {
                let node = |cluster: &str, node: &str| NodeRef {
                    cluster: cluster.to_owned(),
                    node: node.to_owned(),
                };
                let bad = u32::from(slow.contains(cell));
                for key in [
                    (true, node(&path.source, &cell.0)),
                    (false, node(&path.target, &cell.1)),
                ] {
                    let (n, slow) = sums.entry(key).or_default();
                    *n += 1;
                    *slow += bad;
                }
            }
        }
        let mut suspects = Self::default();
        for ((sends, node), (n, slow)) in sums {
            if n >= 2 && slow == n {
                if sends {
                    suspects.senders.insert(node);
                } else {
                    suspects.receivers.insert(node);
                }
            }
        }
        suspects
    }

    /// As the `node` of a check: the node, or pair of nodes, that alone accounts for all slow cells of `path`.
    pub(crate) fn blame(
        &self,
        path: &Link,
        found: &Found,
        slow: &BTreeSet<Cell>,
    ) -> Option<String> {
        let sources: BTreeSet<&str> = slow.iter().map(|cell| cell.0.as_str()).collect();
        let targets: BTreeSet<&str> = slow.iter().map(|cell| cell.1.as_str()).collect();
        if slow.len() == found.figures.len() {
            return None;
        }
        match (sources.len(), targets.len()) {
            // Both are in this one transfer: what they carry elsewhere tells which of them it is.
            (1, 1) => {
                let (source, target) = slow.first()?;
                let is = |set: &BTreeSet<NodeRef>, cluster: &str, node: &str| {
                    set.iter().any(|n| n.cluster == cluster && n.node == node)
                };
                let sends = is(&self.senders, &path.source, source);
                let receives = is(&self.receivers, &path.target, target);
                Some(match (sends, receives) {
                    (true, false) => source.clone(),
                    (false, true) => target.clone(),
                    _ => format!("{source} → {target}"),
                })
            }
            (1, _) => sources.first().map(|node| (*node).to_owned()),
            (_, 1) => targets.first().map(|node| (*node).to_owned()),
            _ => None,
        }
    }
}

pub(super) fn row(view: &View<'_>, link: &Link, suspects: &Suspects) -> Draft {
    let found = found(view, link);
    let declared = view.mesh.objectives.throughput_bits_per_second;
    let slow = slow(view, &found);
    let mut row = Draft::settled(spec(THROUGHPUT_TCP), Status::Info).on_link(link);
    let check = &mut row.check;
    check.plane = Some(Plane::Pod.into());
    check.expected.goodput_bits_per_second_at_least = declared;
    check.expected.text = match declared {
        Some(declared) => format!(
            "every pair of nodes that was measured carries {}",
            rate(declared)
        ),
        None => format!(
            "no objective; a pair of nodes that carries less than {:.0} % of its siblings and makes others wait is a warning",
            FAR_BELOW * 100.0
        ),
    };
    let least = found
        .figures
        .values()
        .min_by(|a, b| a.bits.total_cmp(&b.bits));
    check.observed.goodput_bits_per_second = least.map(|carried| carried.bits);
    let longest = |of: fn(&LoadedRtt) -> u64| {
        let all = found.figures.values().filter_map(|carried| carried.rtt);
        all.map(|rtt| of(&rtt)).max().map(|ns| ns as f64 * 1e-9)
    };
    check.observed.rtt_loaded_p99_seconds = longest(|rtt| rtt.loaded_p99_ns);
    check.observed.queueing_seconds = longest(LoadedRtt::queueing_ns);
    check.evidence = lines(&found);
    if declared.is_none() {
        check.severity = if slow.is_empty() {
            Severity::Info
        } else {
            Severity::Warn
        };
    }
    if !slow.is_empty() {
        check.status = Status::Fail;
        check.node = suspects.blame(link, &found, &slow);
    } else if declared.is_some() {
        let touches = |cell: &Cell, node: &NodeRef| {
            (node.cluster == link.source && cell.0 == node.node)
                || (node.cluster == link.target && cell.1 == node.node)
        };
        let missing = missing(
            view,
            link,
            Plane::Pod,
            "throughput",
            |node| found.figures.keys().any(|cell| touches(cell, node)),
            |node| {
                let mut lacking = found.lacking.iter();
                let of_node = lacking.find(|(cell, _)| touches(cell, node));
                of_node.map(|(_, why)| why.clone())
            },
        );
        check.status = if missing.is_empty() {
            Status::Pass
        } else {
            Status::Undecided
        };
        check.cause = missing.first().cloned();
        check.evidence.extend(missing);
    } else if let Some((_, why)) = found.lacking.first_key_value() {
        check.evidence.push(format!("not all was measured: {why}"));
    }
    row
}

/// One line per pair of nodes, slowest first.
pub(crate) fn lines(found: &Found) -> Vec<String> {
    const SHOWN: usize = 8;
    let mut all: Vec<(&Cell, &Carried)> = found.figures.iter().collect();
    all.sort_by(|a, b| a.1.bits.total_cmp(&b.1.bits));
    let mut lines: Vec<String> = all
        .iter()
        .take(SHOWN)
        .map(|((source, target), carried)| {
            let mut line = format!("`{source}` → `{target}`: {}", rate(carried.bits));
            if let Some(rtt) = carried.rtt {
                line += &format!(
                    ", round trip {:.1} ms idle, p99 {:.1} ms under load",
                    rtt.idle_min_ns as f64 * 1e-6,
                    rtt.loaded_p99_ns as f64 * 1e-6
                );
            }
            if let Some(again) = carried.retransmits.filter(|n| *n > 0) {
                line += &format!(", {again} segments sent again");
            }
            if carried.transfers > 1 {
                line += &format!(", best of {}", carried.transfers);
            }
            line
        })
        .collect();
    if all.len() > SHOWN {
        let others: Vec<String> = all[SHOWN..]
            .iter()
            .map(|((source, target), _)| format!("`{source}` → `{target}`"))
            .collect();
        lines.push(format!("faster: {}", some(&others)));
    }
    lines
}

/// 94.3 Mbit/s.
pub(crate) fn rate(bits: f64) -> String {
    let (number, unit) = match bits {
        _ if bits >= 1e9 => (bits / 1e9, "Gbit/s"),
        _ if bits >= 1e6 => (bits / 1e6, "Mbit/s"),
        _ => (bits / 1e3, "kbit/s"),
    };
    let digits = usize::from(number < 100.0) + usize::from(number < 10.0);
    format!("{number:.digits$} {unit}")
}
