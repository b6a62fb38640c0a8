//! The stream of probe results, checked against the plan it answers.

use mesh::observation::{NodeRef, Outcome, ProbeKind, Sample};

use crate::reply::{WireError, field};
use crate::request::{PlannedTarget, ProbePlan, is_name};
use crate::wire;
use crate::words::Word;

/// Checks results against the plan they answer: each probe at most once, `ok` only when whole.
#[derive(Debug)]
pub struct ResultChecker {
    targets: Vec<(PlannedTarget, Vec<bool>)>,
    missing: u64,
}

impl ResultChecker {
    #[must_use]
    pub fn new(plan: &ProbePlan) -> Self {
        Self {
            missing: plan.probes(),
            targets: plan
                .targets
                .iter()
                .map(|planned| (planned.clone(), vec![false; planned.count as usize]))
                .collect(),
        }
    }

    /// Results not yet seen.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// The index of the target in the plan, and the sample.
    pub fn accept(&mut self, result: wire::ProbeResult) -> Result<(usize, Sample), WireError> {
        let (target, sequence) = (result.target, result.sequence);
        let asked = self.targets.len();
        let index = target as usize;
        let Some((planned, seen)) = self.targets.get_mut(index) else {
            return Err(WireError::UnknownTarget { target, asked });
        };
        let Some(seen) = seen.get_mut(sequence as usize) else {
            return Err(WireError::UnknownSequence {
                target,
                sequence,
                count: planned.count,
            });
        };
        if *seen {
            return Err(WireError::Twice { target, sequence });
        }
        let sample = sample(&result)?;
        if sample.outcome == Outcome::Ok
            && let Some(why) = incomplete(planned, &sample)
        {
            return Err(WireError::Contradiction {
                target,
                sequence,
                why,
            });
        }
        *seen = true;
        self.missing -= 1;
        Ok((index, sample))
    }
}

/// Why an `ok` sample cannot be one.
fn incomplete(planned: &PlannedTarget, sample: &Sample) -> Option<&'static str> {
    // A plain TCP service speaks no protocol of ours: the connect itself is the probe.
    let asks = planned.kind != ProbeKind::Tcp || planned.target.node.is_some();
    if asks && sample.round_trip_ns.is_none() {
        return Some("it has no round trip");
    }
    let connects = !matches!(planned.kind, ProbeKind::Udp | ProbeKind::Dns);
    if connects && sample.connect_ns.is_none() {
        return Some("it has no connect time");
    }
    if planned.kind == ProbeKind::Udp && sample.receiver_count.is_none() {
        return Some("it has no receiver's count");
    }
    if sample.source_port == 0 {
        return Some("it has no source port");
    }
    if let Some(node) = &planned.target.node {
        let Some(responder) = &sample.responder else {
            return Some("nobody is named as the responder");
        };
        if responder.cluster != planned.target.cluster || responder.node != *node {
            return Some("somebody else answered");
        }
    }
    None
}

pub(crate) fn responder(cluster: &str, node: &str) -> Result<Option<NodeRef>, WireError> {
    match (cluster, node) {
        ("", "") => Ok(None),
        (cluster, _) if !is_name(cluster) => Err(field("responder_cluster", cluster)),
        (_, node) if !is_name(node) => Err(field("responder_node", node)),
        (cluster, node) => Ok(Some(NodeRef {
            cluster: cluster.to_owned(),
            node: node.to_owned(),
        })),
    }
}

fn sample(result: &wire::ProbeResult) -> Result<Sample, WireError> {
    let responder = responder(&result.responder_cluster, &result.responder_node)?;
    Ok(Sample {
        sequence: result.sequence,
        source_port: u16::try_from(result.source_port)
            .map_err(|_| field("source_port", &result.source_port.to_string()))?,
        sent_ns: result.sent_ns,
        delay_ns: result.delay_ns,
        outcome: Outcome::from_word(&result.outcome)
            .ok_or_else(|| field("outcome", &result.outcome))?,
        connect_ns: result.connect_ns,
        round_trip_ns: result.round_trip_ns,
        responder,
        receiver_count: result.receiver_count,
        starved: result.starved,
    })
}

/// The wire form of one sample of target `target`.
#[must_use]
pub fn probe_result(target: u32, sample: &Sample) -> wire::ProbeResult {
    let (responder_cluster, responder_node) = sample
        .responder
        .as_ref()
        .map(|r| (r.cluster.clone(), r.node.clone()))
        .unwrap_or_default();
    wire::ProbeResult {
        target,
        sequence: sample.sequence,
        source_port: u32::from(sample.source_port),
        sent_ns: sample.sent_ns,
        delay_ns: sample.delay_ns,
        outcome: sample.outcome.word().to_owned(),
        connect_ns: sample.connect_ns,
        round_trip_ns: sample.round_trip_ns,
        responder_cluster,
        responder_node,
        receiver_count: sample.receiver_count,
        starved: sample.starved,
    }
}
