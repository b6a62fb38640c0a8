//! Continuous probing: a bounded plan per round, within the rate that a pair of nodes may cost.
//!
//! Every round a node sends one probe of each kind over each of its links, to one node of the target
//! cluster. Which: the nodes are ranked by a hash of both names, the first [`CANDIDATES`] take turns. So
//! the number of probes does not grow with the target cluster, and all its nodes are somebody's candidates.

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use mesh::observation::{NodeRef, Plane, ProbeKind, ProbeTarget};
use mesh::{Mesh, RESPONDER_ECHO_PORT, RESPONDER_HTTP_PORT, ServiceKind};
use probe_api::{PlannedTarget, ProbePlan};

use crate::agent::Agent;
use crate::prober::{Purpose, TileSide};

/// Nodes of a target cluster that take turns.
const CANDIDATES: usize = 3;
/// What a pair of nodes may cost, bytes per second, both directions together.
const MAX_BYTES_PER_SECOND: f64 = 1_000.0;
/// Upper bounds of what one probe costs on the wire, both directions, IPv6 and TCP options included.
const TCP_BYTES: f64 = 2.0 * 384.0 + 10.0 * 92.0;
const UDP_BYTES: f64 = 2.0 * (384.0 + 48.0 + 14.0);
const HTTP_BYTES: f64 = 160.0 + 260.0 + 10.0 * 92.0;
/// Side of the tiles: 4 KiB up, 2 KiB down.
const TILE: TileSide = TileSide(32);
const NDVI_BYTES: f64 = 6.0 * 1_024.0 + 500.0 + 20.0 * 92.0;
/// Deadline of one background probe.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Shortest interval: the three small kinds within the rate.
const MIN_INTERVAL: Duration = Duration::from_secs(4);

/// How often, if at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interval {
    Off,
    Every(Duration),
}

impl FromStr for Interval {
    type Err = String;

    /// `off`, or whole seconds or milliseconds: `10s`, `4500ms`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let every = time(text)?;
        if every < MIN_INTERVAL || every > Duration::from_secs(3_600) {
            return Err(format!(
                "`{text}`: must be {MIN_INTERVAL:?} to 1 h; faster costs more than {MAX_BYTES_PER_SECOND} bytes/s per pair of nodes"
            ));
        }
        Ok(Self::Every(every))
    }
}

/// Whole seconds or milliseconds: `10s`, `4500ms`.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is neither `off` nor a time such as `10s`");
    let (digits, unit): (&str, fn(u64) -> Duration) = if let Some(digits) = text.strip_suffix("ms")
    {
        (digits, Duration::from_millis)
    } else if let Some(digits) = text.strip_suffix('s') {
        (digits, Duration::from_secs)
    } else {
        return Err(wrong());
    };
    digits.parse().map(unit).map_err(|_| wrong())
}

/// FNV-1a with a final mix: stable over versions and machines, unlike `std`'s hasher.
fn rank(source: &NodeRef, target: &NodeRef) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in [&source.cluster, &source.node, &target.cluster, &target.node] {
        for byte in part.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

/// The node of `cluster` that round `round` probes from `me`.
fn target_node<'a>(
    mesh: &'a Mesh,
    me: &NodeRef,
    cluster: &str,
    plane: Plane,
    round: u64,
) -> Option<(&'a mesh::Node, &'a [std::net::IpAddr])> {
    let mut candidates: Vec<_> = mesh
        .cluster(cluster)?
        .nodes
        .iter()
        .filter(|node| cluster != me.cluster || node.name != me.node)
        .filter_map(|node| {
            let (agent, addresses) = match plane {
                Plane::Pod => (&node.agent, &node.agent_pod),
                Plane::Node => (&node.agent_node_plane, &node.addresses),
            };
            // Only where an agent is declared somebody answers.
            (agent.is_some() && !addresses.is_empty()).then_some((node, addresses.as_slice()))
        })
        .collect();
    candidates.sort_by_key(|(node, _)| {
        let target = NodeRef {
            cluster: cluster.to_owned(),
            node: node.name.clone(),
        };
        (std::cmp::Reverse(rank(me, &target)), target.node)
    });
    candidates.truncate(CANDIDATES);
    let turn = usize::try_from(round % (candidates.len().max(1) as u64)).unwrap_or(0);
    candidates.get(turn).copied()
}

/// Rounds between two tiles to the same service, so that a pair stays within its rate.
fn tile_rounds(interval: Duration) -> u64 {
    let small = (TCP_BYTES + UDP_BYTES + HTTP_BYTES) / interval.as_secs_f64();
    let left = (MAX_BYTES_PER_SECOND - small).max(1.0);
    let rounds = (NDVI_BYTES / interval.as_secs_f64() / left).ceil();
    // At least every round, and small enough to be exact.
    rounds.clamp(1.0, 1_000.0) as u64
}

/// The probes of one round. Empty when this node has no link, or no target with an agent.
#[must_use]
pub fn plan(
    mesh: &Mesh,
    me: &NodeRef,
    plane: Plane,
    round: u64,
    interval: Duration,
) -> Vec<PlannedTarget> {
    let mut targets = Vec::new();
    for link in mesh.links.iter().filter(|link| link.source == me.cluster) {
        if let Some((node, addresses)) = target_node(mesh, me, &link.target, plane, round) {
            // Families take turns where there are two.
            let family = usize::try_from(round / CANDIDATES as u64).unwrap_or(0) % addresses.len();
            let ip = addresses[family];
            for (kind, port) in [
                (ProbeKind::Tcp, RESPONDER_ECHO_PORT),
                (ProbeKind::Udp, RESPONDER_ECHO_PORT),
                (ProbeKind::Http, RESPONDER_HTTP_PORT),
            ] {
                targets.push(PlannedTarget {
                    target: ProbeTarget {
                        cluster: link.target.clone(),
                        node: Some(node.name.clone()),
                        service: None,
                        address: SocketAddr::new(ip, port),
                        question: None,
                    },
                    kind,
                    count: 1,
                });
            }
        }
        if plane == Plane::Node || !round.is_multiple_of(tile_rounds(interval)) {
            continue;
        }
        let services = mesh
            .services
            .iter()
            .filter(|service| service.cluster == link.target && service.kind == ServiceKind::Ndvi)
            // Who answers for a global service is no matter of one link.
            .filter(|service| !service.is_global());
        for service in services {
            let Some(ip) = service.addresses.first() else {
                continue;
            };
            targets.push(PlannedTarget {
                target: ProbeTarget {
                    cluster: link.target.clone(),
                    node: None,
                    service: Some(service.name.clone()),
                    address: SocketAddr::new(*ip, service.port),
                    question: None,
                },
                kind: ProbeKind::NdviTile,
                count: 1,
            });
        }
    }
    targets.truncate(probe_api::MAX_TARGETS);
    targets
}

/// Every (kind, target cluster) that rounds may probe.
#[must_use]
pub fn series(
    mesh: &Mesh,
    me: &NodeRef,
    plane: Plane,
    interval: Duration,
) -> Vec<(ProbeKind, String)> {
    plan(mesh, me, plane, 0, interval)
        .into_iter()
        .map(|planned| (planned.kind, planned.target.cluster))
        .collect()
}

/// Up to a tenth of the interval, so that nodes do not march in step.
fn jitter(interval: Duration) -> Duration {
    let mut bytes = [0; 2];
    let share = match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u16::from_ne_bytes(bytes)) / f64::from(u16::MAX),
        Err(_) => 0.5,
    };
    interval.mul_f64(0.1 * share)
}

/// Probes for ever.
pub async fn run(agent: Arc<Agent>, interval: Interval) -> std::io::Result<()> {
    let Interval::Every(interval) = interval else {
        return std::future::pending().await;
    };
    let mut next = tokio::time::Instant::now() + jitter(interval);
    for round in 0.. {
        tokio::time::sleep_until(next + jitter(interval)).await;
        next += interval;
        let mesh = agent.mesh();
        let targets = plan(&mesh, &agent.me, agent.plane, round, interval);
        if targets.is_empty() {
            continue;
        }
        for (kind, cluster) in series(&mesh, &agent.me, agent.plane, interval) {
            agent.probes.declare(kind, &cluster);
        }
        let plan = ProbePlan {
            targets: targets.clone(),
            interval: interval / 2,
            timeout: TIMEOUT,
        };
        match agent.prober.submit(plan, TILE, Purpose::Background) {
            Ok(mut results) => {
                while let Some((target, sample)) = results.recv().await {
                    if let Some(planned) = targets.get(target as usize) {
                        agent
                            .probes
                            .background(planned.kind, &planned.target.cluster, &sample);
                    }
                }
            }
            Err(refusal) => {
                // Bursts have taken the budget: said and counted, since a gap must not look like health.
                agent.probes.skipped(targets.len() as u64);
                tracing::info!(%refusal, "background probes skipped");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "background_tests.rs"]
mod tests;
