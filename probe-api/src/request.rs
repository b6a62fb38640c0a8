//! What to probe, as the caller and the agent both understand it: bounded and validated at both ends.

use std::net::SocketAddr;
use std::time::Duration;

use mesh::observation::{ProbeKind, ProbeTarget, Question};

use crate::wire;
use crate::words::Word;

/// Most targets in one request.
pub const MAX_TARGETS: usize = 512;
/// Most probes to one target in one request.
pub const MAX_COUNT: u32 = 100_000;
/// Most addresses that a name may have.
pub const MAX_ADDRESSES: usize = 16;
/// Shortest interval between two probes to the same target.
pub const MIN_INTERVAL: Duration = Duration::from_micros(200);
pub const MAX_INTERVAL: Duration = Duration::from_secs(60);
/// Longest deadline of one probe.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(30);

/// One run of probes as asked of one agent.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbePlan {
    /// Interleaved round-robin.
    pub targets: Vec<PlannedTarget>,
    /// Between two probes to the same target.
    pub interval: Duration,
    /// Per probe.
    pub timeout: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct PlannedTarget {
    pub target: ProbeTarget,
    pub kind: ProbeKind,
    pub count: u32,
}

/// Why a plan is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("no targets")]
    NoTargets,
    #[error("{0} targets, at most {MAX_TARGETS}")]
    TooManyTargets(usize),
    #[error("{0} paths, at most {MOST} are measured in one call", MOST = crate::measure::MAX_TARGETS)]
    TooManyPaths(usize),
    #[error(
        "a transfer of {bytes} bytes in {time:?}, must be {} to {} bytes in {:?} to {:?}",
        crate::measure::MIN_TRANSFER.bytes,
        crate::measure::MAX_TRANSFER.bytes,
        crate::measure::MIN_TRANSFER.time,
        crate::measure::MAX_TRANSFER.time
    )]
    Transfer { bytes: u64, time: Duration },
    #[error("the plan may need {0} bytes, at most {MOST} are measured in one call", MOST = crate::measure::MAX_PLAN_BYTES)]
    PlanBytes(u64),
    #[error("target {index}: count {count}, must be 1 to {MAX_COUNT}")]
    Count { index: usize, count: u32 },
    #[error("target {index}: `{address}` is not an address with a port")]
    Address { index: usize, address: String },
    #[error("target {index}: unknown kind `{kind}`")]
    Kind { index: usize, kind: String },
    #[error("target {index}: exactly one of `node` and `service` must be given")]
    NodeOrService { index: usize },
    #[error("target {index}: kind `{kind}` cannot ask a {what}")]
    KindOfTarget {
        index: usize,
        kind: &'static str,
        what: &'static str,
    },
    #[error("target {index}: `{name}` is not a name")]
    Name { index: usize, name: String },
    #[error(
        "target {index}: kind `dns`, and no other, asks for a name and the addresses of one family that it has"
    )]
    Question { index: usize },
    #[error("interval {0:?}, must be {MIN_INTERVAL:?} to {MAX_INTERVAL:?}")]
    Interval(Duration),
    #[error("timeout {0:?}, must be 1 ms to {MAX_TIMEOUT:?}")]
    Timeout(Duration),
}

impl ProbePlan {
    /// Probes in all.
    #[must_use]
    pub fn probes(&self) -> u64 {
        self.targets.iter().map(|t| u64::from(t.count)).sum()
    }

    /// How long the run takes when nothing answers: the last probe's send time and its deadline.
    #[must_use]
    pub fn longest(&self) -> Duration {
        let most = self.targets.iter().map(|t| t.count).max().unwrap_or(0);
        self.interval
            .saturating_mul(most)
            .saturating_add(self.timeout)
    }

    /// Every bound that both sides hold.
    pub fn check(&self) -> Result<(), PlanError> {
        if self.targets.is_empty() {
            return Err(PlanError::NoTargets);
        }
        if self.targets.len() > MAX_TARGETS {
            return Err(PlanError::TooManyTargets(self.targets.len()));
        }
        if self.interval < MIN_INTERVAL || self.interval > MAX_INTERVAL {
            return Err(PlanError::Interval(self.interval));
        }
        if self.timeout < Duration::from_millis(1) || self.timeout > MAX_TIMEOUT {
            return Err(PlanError::Timeout(self.timeout));
        }
        for (index, planned) in self.targets.iter().enumerate() {
            planned.check(index)?;
        }
        Ok(())
    }
}

impl PlannedTarget {
    fn check(&self, index: usize) -> Result<(), PlanError> {
        if self.count == 0 || self.count > MAX_COUNT {
            return Err(PlanError::Count {
                index,
                count: self.count,
            });
        }
        let target = &self.target;
        let dns = self.kind == ProbeKind::Dns;
        if target.address.port() == 0 || (target.address.ip().is_unspecified() && !dns) {
            return Err(PlanError::Address {
                index,
                address: target.address.to_string(),
            });
        }
        let names = [
            Some(&target.cluster),
            target.node.as_ref(),
            target.service.as_ref(),
        ];
        for name in names.into_iter().flatten() {
            if !is_name(name) {
                return Err(PlanError::Name {
                    index,
                    name: crate::reply::printable(name, 80),
                });
            }
        }
        let asked = target.question.as_ref();
        if asked.is_some() != dns || asked.is_some_and(|question| !answerable(question)) {
            return Err(PlanError::Question { index });
        }
        match (&target.node, &target.service) {
            (Some(_), None) if dns || self.kind == ProbeKind::NdviTile => {
                Err(PlanError::KindOfTarget {
                    index,
                    kind: self.kind.word(),
                    what: "node",
                })
            }
            (None, Some(_)) if self.kind == ProbeKind::Udp => Err(PlanError::KindOfTarget {
                index,
                kind: self.kind.word(),
                what: "service",
            }),
            (Some(_), None) | (None, Some(_)) => Ok(()),
            _ => Err(PlanError::NodeOrService { index }),
        }
    }
}

/// A complete name, and one to [`MAX_ADDRESSES`] addresses of one family.
fn answerable(question: &Question) -> bool {
    let [first, others @ ..] = &question.addresses[..] else {
        return false;
    };
    is_name(&question.name)
        && others.len() < MAX_ADDRESSES
        && others.iter().all(|ip| ip.is_ipv4() == first.is_ipv4())
}

/// A DNS name in lower case: what clusters, nodes and services are called.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 253
        && name
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
}

fn some(name: &str) -> Option<String> {
    (!name.is_empty()).then(|| name.to_owned())
}

impl From<&ProbePlan> for wire::ProbeRequest {
    fn from(plan: &ProbePlan) -> Self {
        Self {
            targets: plan
                .targets
                .iter()
                .map(|planned| wire::Target {
                    cluster: planned.target.cluster.clone(),
                    node: planned.target.node.clone().unwrap_or_default(),
                    service: planned.target.service.clone().unwrap_or_default(),
                    address: planned.target.address.to_string(),
                    kind: planned.kind.word().to_owned(),
                    count: planned.count,
                    name: planned
                        .target
                        .question
                        .as_ref()
                        .map(|question| question.name.clone())
                        .unwrap_or_default(),
                    addresses: planned
                        .target
                        .question
                        .iter()
                        .flat_map(|question| &question.addresses)
                        .map(ToString::to_string)
                        .collect(),
                })
                .collect(),
            interval_us: u32::try_from(plan.interval.as_micros()).unwrap_or(u32::MAX),
            timeout_ms: u32::try_from(plan.timeout.as_millis()).unwrap_or(u32::MAX),
        }
    }
}

fn question(index: usize, target: &wire::Target) -> Result<Option<Question>, PlanError> {
    if target.name.is_empty() && target.addresses.is_empty() {
        return Ok(None);
    }
    let addresses = target.addresses.iter().take(MAX_ADDRESSES + 1);
    let addresses = addresses.map(|ip| ip.parse().map_err(|_| PlanError::Question { index }));
    Ok(Some(Question {
        name: target.name.clone(),
        addresses: addresses.collect::<Result<_, _>>()?,
    }))
}

impl TryFrom<&wire::ProbeRequest> for ProbePlan {
    type Error = PlanError;

    fn try_from(request: &wire::ProbeRequest) -> Result<Self, PlanError> {
        if request.targets.len() > MAX_TARGETS {
            return Err(PlanError::TooManyTargets(request.targets.len()));
        }
        let mut targets = Vec::with_capacity(request.targets.len());
        for (index, target) in request.targets.iter().enumerate() {
            let address: SocketAddr = target.address.parse().map_err(|_| PlanError::Address {
                index,
                address: crate::reply::printable(&target.address, 80),
            })?;
            let question = question(index, target)?;
            let kind = ProbeKind::from_word(&target.kind).ok_or_else(|| PlanError::Kind {
                index,
                kind: crate::reply::printable(&target.kind, 80),
            })?;
            targets.push(PlannedTarget {
                target: ProbeTarget {
                    cluster: target.cluster.clone(),
                    node: some(&target.node),
                    service: some(&target.service),
                    address,
                    question,
                },
                kind,
                count: target.count,
            });
        }
        let plan = Self {
            targets,
            interval: Duration::from_micros(u64::from(request.interval_us)),
            timeout: Duration::from_millis(u64::from(request.timeout_ms)),
        };
        plan.check()?;
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> ProbePlan {
        ProbePlan {
            targets: vec![
                PlannedTarget {
                    target: ProbeTarget {
                        cluster: "talos-west".into(),
                        node: Some("cp-w-1".into()),
                        service: None,
                        address: "10.245.0.5:7411".parse().unwrap(),
                        question: None,
                    },
                    kind: ProbeKind::Udp,
                    count: 500,
                },
                PlannedTarget {
                    target: ProbeTarget {
                        cluster: "talos-east".into(),
                        node: None,
                        service: Some("ndvi".into()),
                        address: "[fd00::1]:8080".parse().unwrap(),
                        question: None,
                    },
                    kind: ProbeKind::NdviTile,
                    count: 10,
                },
                PlannedTarget {
                    target: ProbeTarget {
                        cluster: "talos-east".into(),
                        node: None,
                        service: Some("ndvi".into()),
                        address: "0.0.0.0:53".parse().unwrap(),
                        question: Some(Question {
                            name: "ndvi.default.svc.cluster.local".into(),
                            addresses: vec!["10.96.0.80".parse().unwrap()],
                        }),
                    },
                    kind: ProbeKind::Dns,
                    count: 5,
                },
            ],
            interval: Duration::from_millis(10),
            timeout: Duration::from_secs(2),
        }
    }

    #[test]
    fn a_plan_survives_the_wire() {
        let request = wire::ProbeRequest::from(&plan());
        assert_eq!(ProbePlan::try_from(&request), Ok(plan()));
        assert_eq!(plan().probes(), 515);
        assert_eq!(plan().longest(), Duration::from_secs(7));
    }

    #[test]
    fn each_bound_is_held() {
        type Edit = fn(&mut wire::ProbeRequest);
        let cases: &[(Edit, &str)] = &[
            (|r| r.targets.clear(), "no targets"),
            (
                |r| r.targets = vec![r.targets[0].clone(); 513],
                "513 targets, at most 512",
            ),
            (
                |r| r.targets[0].count = 0,
                "target 0: count 0, must be 1 to 100000",
            ),
            (
                |r| r.targets[1].count = 100_001,
                "target 1: count 100001, must be 1 to 100000",
            ),
            (
                |r| r.targets[0].address = "example.org:1".into(),
                "target 0: `example.org:1` is not an address with a port",
            ),
            (
                |r| r.targets[0].address = "0.0.0.0:80".into(),
                "target 0: `0.0.0.0:80` is not an address with a port",
            ),
            (
                |r| r.targets[0].kind = "icmp".into(),
                "target 0: unknown kind `icmp`",
            ),
            (
                |r| r.targets[0].service = "x".into(),
                "target 0: exactly one of `node` and `service` must be given",
            ),
            (
                |r| r.targets[0].kind = "ndvi_tile".into(),
                "target 0: kind `ndvi_tile` cannot ask a node",
            ),
            (
                |r| r.targets[0].node = "a\u{1b}[31m".into(),
                "target 0: `a\\u{1b}[31m` is not a name",
            ),
            (
                |r| r.targets[2].addresses.clear(),
                "target 2: kind `dns`, and no other, asks for a name and the addresses of one family that it has",
            ),
            (
                |r| r.targets[2].addresses.push("fd00::1".into()),
                "target 2: kind `dns`, and no other, asks for a name and the addresses of one family that it has",
            ),
            (
                |r| r.targets[2].addresses = vec!["10.0.0.1".into(); 17],
                "target 2: kind `dns`, and no other, asks for a name and the addresses of one family that it has",
            ),
            (
                |r| r.targets[0].name = "a.b".into(),
                "target 0: kind `dns`, and no other, asks for a name and the addresses of one family that it has",
            ),
            (
                |r| r.interval_us = 199,
                "interval 199µs, must be 200µs to 60s",
            ),
            (
                |r| r.timeout_ms = 30_001,
                "timeout 30.001s, must be 1 ms to 30s",
            ),
        ];
        for (edit, expected) in cases {
            let mut request = wire::ProbeRequest::from(&plan());
            edit(&mut request);
            let refusal = ProbePlan::try_from(&request).expect_err(expected);
            assert_eq!(refusal.to_string(), *expected);
        }
    }
}
