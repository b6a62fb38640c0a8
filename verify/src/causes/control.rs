//! What a node's probes with its neighbours say: do they suffer as its paths to other clusters do?

use mesh::Link;
use mesh::observation::{Outcome, Plane, ProbeKind};

use crate::rows::control::inside;
use crate::stats::{Count, p_too_few, p_too_many};
use crate::view::{Probe, View};

/// Fewest control probes of a node that say anything.
const FEWEST: u64 = 10;
/// Chance that a verdict of the control is wrong.
const ALPHA: f64 = 0.05;

/// A node's control against its paths to other clusters.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Control {
    /// Its neighbours reach it as they should.
    Fine(String),
    /// The same trouble inside its own cluster.
    Broken(String),
    /// No probes, or too few to tell.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    CutOff,
    Lossy,
    Slow,
    /// Of what probes do not show.
    Unprobed,
}

/// Pod-plane probes that touch one node, inside its cluster or on its links with others.
#[derive(Default)]
struct Touching {
    failed: Count,
    /// Failed, or needed a SYN retransmit.
    lost: Count,
    connects: Vec<u64>,
}

impl Touching {
    fn add(&mut self, probe: &Probe<'_>) {
        if probe.doubtful() || probe.sample.outcome == Outcome::LocalError {
            return;
        }
        let failed = probe.sample.outcome != Outcome::Ok;
        let retransmitted = probe
            .source
            .is_some_and(|record| record.syn_retransmits > 0);
        self.failed.add(failed);
        self.lost.add(failed || retransmitted);
        if !failed && !retransmitted && probe.run.kind == ProbeKind::Tcp {
            let kernel = probe.source.and_then(|record| record.connect_ns);
            self.connects.extend(kernel.or(probe.sample.connect_ns));
        }
    }

    fn median_ms(&mut self) -> Option<f64> {
        self.connects.sort_unstable();
        let middle = self.connects.get(self.connects.len() / 2)?;
        Some(*middle as f64 * 1e-6)
    }
}

/// Probes of `links` that touch the node, and those that do not.
fn split(view: &View<'_>, links: &[Link], cluster: &str, node: &str) -> (Touching, Touching) {
    let (mut with, mut without) = (Touching::default(), Touching::default());
    for link in links {
        for kind in [ProbeKind::Tcp, ProbeKind::Udp] {
            for probe in view.of(link, Plane::Pod, kind) {
                let run = probe.run;
                let touches = (run.source.cluster == cluster && run.source.node == node)
                    || (run.target.cluster == cluster && run.target.node.as_deref() == Some(node));
                if touches {
                    with.add(probe);
                } else {
                    without.add(probe);
                }
            }
        }
    }
    (with, without)
}

pub(super) fn of(view: &View<'_>, cluster: &str, node: &str, trouble: Trouble) -> Control {
    let abroad: Vec<Link> = view
        .mesh
        .links
        .iter()
        .filter(|link| link.source != link.target)
        .filter(|link| link.source == cluster || link.target == cluster)
        .cloned()
        .collect();
    let (mut home, _) = split(view, &[inside(cluster)], cluster, node);
    let (mut mesh, mut neighbours) = split(view, &abroad, cluster, node);
    if home.failed.n < FEWEST {
        return Control::Unknown;
    }
    match trouble {
        Trouble::Unprobed => Control::Unknown,
        Trouble::CutOff => {
            let Count { n, bad } = home.failed;
            let line =
                format!("control inside `{cluster}`: {bad} of {n} probes of `{node}` failed");
            if 2 * bad > n {
                Control::Broken(line)
            } else if 10 * bad <= n {
                Control::Fine(line)
            } else {
                Control::Unknown
            }
        }
        Trouble::Lossy => {
            let Count { n, bad } = home.lost;
            let line = format!(
                "control inside `{cluster}`: {bad} of {n} probes of `{node}` were lost or sent again, {:.1} % of those to and from other clusters",
                100.0 * mesh.lost.rate()
            );
            if p_too_many(home.lost, view.mesh.objectives.loss) <= ALPHA {
                Control::Broken(line)
            } else if p_too_few(home.lost, mesh.lost.rate()) <= ALPHA {
                Control::Fine(line)
            } else {
                Control::Unknown
            }
        }
        Trouble::Slow => {
            let (Some(home), Some(mesh), Some(neighbours)) =
                (home.median_ms(), mesh.median_ms(), neighbours.median_ms())
            else {
                return Control::Unknown;
            };
            let line = format!(
                "control inside `{cluster}`: half of the connects of `{node}` take at most {home:.2} ms; with other clusters {mesh:.2} ms, its neighbours' {neighbours:.2} ms"
            );
            let extra = mesh - neighbours;
            if extra <= 0.0 {
                Control::Unknown
            } else if home > 0.5 * extra {
                Control::Broken(line)
            } else {
                Control::Fine(line)
            }
        }
    }
}
