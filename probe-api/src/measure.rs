//! What to measure of which paths, and the results, checked against the question and against themselves.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mesh::measurement::{
    LoadedRtt, MeasureKind, MeasureOutcome, MtuLimit, PacketTooBig, PathDirection, PathMtu, Sent,
    Throughput,
};
use mesh::observation::NodeRef;

use crate::reply::{WireError, field};
use crate::request::{PlanError, is_name};
use crate::wire;
use crate::words::Word;

/// Most targets in one call.
pub const MAX_TARGETS: usize = 64;
/// Most bytes that one path-MTU search sends and receives in one direction, headers included.
pub const PATH_MTU_BYTES: u64 = 3_000_000;
/// Most bytes of the small echoes beside one transfer, both ways.
const ECHO_BYTES: u64 = 1_000_000;
pub const MIN_TRANSFER: TransferCaps = TransferCaps {
    bytes: 256 << 10,
    time: Duration::from_millis(100),
};
pub const MAX_TRANSFER: TransferCaps = TransferCaps {
    bytes: 64 << 20,
    time: Duration::from_secs(5),
};
/// Most bytes of a whole plan.
pub const MAX_PLAN_BYTES: u64 = 1 << 30;

/// The responder of a node, and what to measure of the path to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeasureTarget {
    pub node: NodeRef,
    pub address: SocketAddr,
    pub kind: MeasureKind,
}

/// Measured one after another, in this order, each in both directions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeasurePlan {
    pub targets: Vec<MeasureTarget>,
    /// Of each transfer of the targets of kind [`MeasureKind::Throughput`].
    pub transfer: TransferCaps,
}

/// What ends a transfer in one direction, whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferCaps {
    /// Payload.
    pub bytes: u64,
    /// From the first byte, whole milliseconds.
    pub time: Duration,
}

impl Default for TransferCaps {
    fn default() -> Self {
        Self {
            bytes: 16_000_000,
            time: Duration::from_secs(2),
        }
    }
}

/// One path direction of one target.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    pub direction: PathDirection,
    pub outcome: MeasureOutcome,
    /// 0 when no socket came of it.
    pub source_port: u16,
    /// Who answered, as the answers say.
    pub responder: Option<NodeRef>,
    /// Only with [`MeasureOutcome::Ok`].
    pub figure: Option<Figure>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Figure {
    PathMtu(PathMtu),
    Throughput(Throughput),
}

impl MeasurePlan {
    /// No target takes longer.
    pub const LONGEST_OF_TARGET: Duration = Duration::from_secs(80);

    /// Bytes that the measurement may put on the wire at most, both directions of all targets.
    #[must_use]
    pub fn most_bytes(&self) -> u64 {
        self.targets
            .iter()
            .map(|target| match target.kind {
                MeasureKind::PathMtu => 2 * PATH_MTU_BYTES,
                // Headers, acknowledgements and what is sent again come on top of the payload.
                MeasureKind::Throughput => {
                    let payload = self.transfer.bytes;
                    2 * payload
                        .saturating_add(payload / 8)
                        .saturating_add(ECHO_BYTES)
                }
            })
            .fold(0, u64::saturating_add)
    }

    /// Every bound that both sides hold.
    pub fn check(&self) -> Result<(), PlanError> {
        if self.targets.is_empty() {
            return Err(PlanError::NoTargets);
        }
        if self.targets.len() > MAX_TARGETS {
            return Err(PlanError::TooManyPaths(self.targets.len()));
        }
        let TransferCaps { bytes, time } = self.transfer;
        if !(MIN_TRANSFER.bytes..=MAX_TRANSFER.bytes).contains(&bytes)
            || !(MIN_TRANSFER.time..=MAX_TRANSFER.time).contains(&time)
        {
            return Err(PlanError::Transfer { bytes, time });
        }
        if self.most_bytes() > MAX_PLAN_BYTES {
            return Err(PlanError::PlanBytes(self.most_bytes()));
        }
        for (index, target) in self.targets.iter().enumerate() {
            if target.address.port() == 0 || target.address.ip().is_unspecified() {
                return Err(PlanError::Address {
                    index,
                    address: target.address.to_string(),
                });
            }
            for name in [&target.node.cluster, &target.node.node] {
                if !is_name(name) {
                    return Err(PlanError::Name {
                        index,
                        name: crate::reply::printable(name, 80),
                    });
                }
            }
        }
        Ok(())
    }
}

impl From<&MeasurePlan> for wire::MeasureRequest {
    fn from(plan: &MeasurePlan) -> Self {
        Self {
            targets: plan
                .targets
                .iter()
                .map(|target| wire::MeasureTarget {
                    cluster: target.node.cluster.clone(),
                    node: target.node.node.clone(),
                    address: target.address.to_string(),
                    kind: target.kind.word().to_owned(),
                })
                .collect(),
            transfer_bytes: plan.transfer.bytes,
            transfer_ms: u32::try_from(plan.transfer.time.as_millis()).unwrap_or(u32::MAX),
        }
    }
}

impl TryFrom<&wire::MeasureRequest> for MeasurePlan {
    type Error = PlanError;

    fn try_from(request: &wire::MeasureRequest) -> Result<Self, PlanError> {
        if request.targets.len() > MAX_TARGETS {
            return Err(PlanError::TooManyPaths(request.targets.len()));
        }
        let mut targets = Vec::with_capacity(request.targets.len());
        for (index, target) in request.targets.iter().enumerate() {
            targets.push(MeasureTarget {
                node: NodeRef {
                    cluster: target.cluster.clone(),
                    node: target.node.clone(),
                },
                address: target.address.parse().map_err(|_| PlanError::Address {
                    index,
                    address: crate::reply::printable(&target.address, 80),
                })?,
                kind: MeasureKind::from_word(&target.kind).ok_or_else(|| PlanError::Kind {
                    index,
                    kind: crate::reply::printable(&target.kind, 80),
                })?,
            });
        }
        let transfer = TransferCaps {
            bytes: request.transfer_bytes,
            time: Duration::from_millis(request.transfer_ms.into()),
        };
        let plan = Self { targets, transfer };
        plan.check()?;
        Ok(plan)
    }
}

/// Checks results against the plan: each direction of each target once, `ok` only when whole and possible.
#[derive(Debug)]
pub struct MeasureChecker {
    targets: Vec<(MeasureTarget, [bool; 2])>,
    transfer: TransferCaps,
    missing: u64,
}

impl MeasureChecker {
    #[must_use]
    pub fn new(plan: &MeasurePlan) -> Self {
        Self {
            targets: plan
                .targets
                .iter()
                .map(|target| (target.clone(), [false; 2]))
                .collect(),
            transfer: plan.transfer,
            missing: 2 * plan.targets.len() as u64,
        }
    }

    /// Results not yet seen.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// The index of the target in the plan, and the measurement.
    pub fn accept(
        &mut self,
        result: wire::MeasureResult,
    ) -> Result<(usize, Measurement), WireError> {
        let target = result.target;
        let asked = self.targets.len();
        let Some((planned, seen)) = self.targets.get_mut(target as usize) else {
            return Err(WireError::UnknownTarget { target, asked });
        };
        let measurement = measurement(&result, planned)?;
        let seen = &mut seen[usize::from(measurement.direction == PathDirection::Return)];
        let wrong = if *seen {
            Some("came twice")
        } else {
            contradiction(planned, &measurement, self.transfer)
        };
        if let Some(why) = wrong {
            return Err(WireError::Measurement {
                target,
                direction: measurement.direction.word(),
                why,
            });
        }
        *seen = true;
        self.missing -= 1;
        Ok((target as usize, measurement))
    }
}

/// Why a measurement cannot be.
fn contradiction(
    planned: &MeasureTarget,
    measurement: &Measurement,
    transfer: TransferCaps,
) -> Option<&'static str> {
    if measurement.outcome != MeasureOutcome::Ok {
        return measurement
            .figure
            .is_some()
            .then_some("failed, but has a figure");
    }
    if measurement.source_port == 0 {
        return Some("has no source port");
    }
    match &measurement.responder {
        None => return Some("names nobody as the responder"),
        Some(responder) if *responder != planned.node => return Some("was answered by another"),
        Some(_) => {}
    }
    match &measurement.figure {
        None => Some("has no figure"),
        Some(Figure::PathMtu(mtu)) => impossible_mtu(mtu, planned.address.is_ipv6()),
        Some(Figure::Throughput(throughput)) => impossible_transfer(throughput, transfer),
    }
}

fn impossible_transfer(found: &Throughput, caps: TransferCaps) -> Option<&'static str> {
    if found.bytes == 0 {
        return Some("moved nothing");
    }
    if found.duration_ns == 0 {
        return Some("took no time");
    }
    if found.bytes > caps.bytes {
        return Some("moved more than was asked");
    }
    // What was sent in time may arrive late.
    if Duration::from_nanos(found.duration_ns) > 4 * caps.time + Duration::from_secs(5) {
        return Some("took longer than it may");
    }
    let rtt = found.rtt.as_ref()?;
    if rtt.loaded_p50_ns > rtt.loaded_p99_ns || rtt.idle == 0 || rtt.loaded == 0 {
        return Some("has round trips that cannot be");
    }
    None
}

fn impossible_mtu(mtu: &PathMtu, ipv6: bool) -> Option<&'static str> {
    if mtu.bytes < 68 {
        return Some("is below what IP allows");
    }
    if mtu.bytes > mtu.local_bytes {
        return Some("is larger than what the sender can send");
    }
    let whole = matches!(mtu.limit, MtuLimit::Local | MtuLimit::Ceiling);
    if whole != (mtu.bytes == mtu.local_bytes) {
        return Some("contradicts its limit");
    }
    if mtu.limit == MtuLimit::PacketTooBig && mtu.reported.is_none() {
        return Some("names a hop's error, but no hop");
    }
    if mtu.limit == MtuLimit::Absorbed && mtu.route_after.is_none() {
        return Some("says that the kernel has learnt, but not what");
    }
    if mtu.fragments_pass.is_some() && (ipv6 || whole) {
        return Some("has fragments where there are none");
    }
    if mtu.sized.answered > mtu.sized.sent || mtu.small.answered > mtu.small.sent {
        return Some("has more answers than questions");
    }
    if mtu.sized.sent == 0 || mtu.small.answered == 0 {
        return Some("was not measured");
    }
    None
}

fn size(name: &'static str, value: u32) -> Result<u16, WireError> {
    u16::try_from(value).map_err(|_| field(name, &value.to_string()))
}

fn path_mtu(wired: &wire::PathMtu) -> Result<PathMtu, WireError> {
    let reported = wired
        .reported_mtu
        .map(|mtu| {
            let hop: IpAddr = wired
                .reported_hop
                .parse()
                .map_err(|_| field("reported_hop", &wired.reported_hop))?;
            Ok(PacketTooBig {
                mtu: size("reported_mtu", mtu)?,
                hop,
            })
        })
        .transpose()?;
    Ok(PathMtu {
        bytes: size("bytes", wired.bytes)?,
        limit: MtuLimit::from_word(&wired.limit).ok_or_else(|| field("limit", &wired.limit))?,
        local_bytes: size("local_bytes", wired.local_bytes)?,
        route_before: wired
            .route_before
            .map(|mtu| size("route_before", mtu))
            .transpose()?,
        route_after: wired
            .route_after
            .map(|mtu| size("route_after", mtu))
            .transpose()?,
        reported,
        fragments_pass: wired.fragments_pass,
        sized: Sent {
            sent: wired.sized_sent,
            answered: wired.sized_answered,
        },
        small: Sent {
            sent: wired.small_sent,
            answered: wired.small_answered,
        },
    })
}

fn throughput(wired: &wire::Throughput) -> Throughput {
    Throughput {
        bytes: wired.bytes,
        duration_ns: wired.duration_ns,
        by_time: wired.by_time,
        retransmits: wired.retransmits,
        min_rtt_us: wired.min_rtt_us,
        rtt: wired.rtt.as_ref().map(|rtt| LoadedRtt {
            idle_min_ns: rtt.idle_min_ns,
            loaded_p50_ns: rtt.loaded_p50_ns,
            loaded_p99_ns: rtt.loaded_p99_ns,
            idle: rtt.idle,
            loaded: rtt.loaded,
            lost: rtt.lost,
        }),
    }
}

fn wired_throughput(found: &Throughput) -> wire::Throughput {
    wire::Throughput {
        bytes: found.bytes,
        duration_ns: found.duration_ns,
        by_time: found.by_time,
        retransmits: found.retransmits,
        min_rtt_us: found.min_rtt_us,
        rtt: found.rtt.map(|rtt| wire::LoadedRtt {
            idle_min_ns: rtt.idle_min_ns,
            loaded_p50_ns: rtt.loaded_p50_ns,
            loaded_p99_ns: rtt.loaded_p99_ns,
            idle: rtt.idle,
            loaded: rtt.loaded,
            lost: rtt.lost,
        }),
    }
}

fn measurement(
    result: &wire::MeasureResult,
    planned: &MeasureTarget,
) -> Result<Measurement, WireError> {
    let responder = crate::results::responder(&result.responder_cluster, &result.responder_node)?;
    let figure = match planned.kind {
        MeasureKind::PathMtu => result
            .path_mtu
            .as_ref()
            .map(path_mtu)
            .transpose()?
            .map(Figure::PathMtu),
        MeasureKind::Throughput => result
            .throughput
            .as_ref()
            .map(throughput)
            .map(Figure::Throughput),
    };
    Ok(Measurement {
        direction: PathDirection::from_word(&result.direction)
            .ok_or_else(|| field("direction", &result.direction))?,
        outcome: MeasureOutcome::from_word(&result.outcome)
            .ok_or_else(|| field("outcome", &result.outcome))?,
        source_port: size("source_port", result.source_port)?,
        responder,
        figure,
    })
}

fn wired_mtu(mtu: &PathMtu) -> wire::PathMtu {
    wire::PathMtu {
        bytes: mtu.bytes.into(),
        limit: mtu.limit.word().to_owned(),
        local_bytes: mtu.local_bytes.into(),
        route_before: mtu.route_before.map(u32::from),
        route_after: mtu.route_after.map(u32::from),
        reported_mtu: mtu.reported.map(|reported| reported.mtu.into()),
        reported_hop: mtu
            .reported
            .map(|reported| reported.hop.to_string())
            .unwrap_or_default(),
        fragments_pass: mtu.fragments_pass,
        sized_sent: mtu.sized.sent,
        sized_answered: mtu.sized.answered,
        small_sent: mtu.small.sent,
        small_answered: mtu.small.answered,
    }
}

/// The wire form of one measurement of target `target`.
#[must_use]
pub fn measure_result(target: u32, measurement: &Measurement) -> wire::MeasureResult {
    let (responder_cluster, responder_node) = measurement
        .responder
        .as_ref()
        .map(|r| (r.cluster.clone(), r.node.clone()))
        .unwrap_or_default();
    let (path_mtu, throughput) = match &measurement.figure {
        Some(Figure::PathMtu(mtu)) => (Some(wired_mtu(mtu)), None),
        Some(Figure::Throughput(found)) => (None, Some(wired_throughput(found))),
        None => (None, None),
    };
    wire::MeasureResult {
        target,
        direction: measurement.direction.word().to_owned(),
        outcome: measurement.outcome.word().to_owned(),
        source_port: measurement.source_port.into(),
        responder_cluster,
        responder_node,
        path_mtu,
        throughput,
    }
}

#[cfg(test)]
#[path = "measure_tests.rs"]
mod tests;
