//! Replies of an agent, checked: a field that is missing, unknown or contradicts another is an error.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use mesh::observation::{
    Direction, KernelConnection, KernelOutcome, KernelSeries, NodeAccount, NodeRef, Origin, Plane,
    Received,
};

use crate::request::is_name;
use crate::wire;
use crate::words::Word;

/// Counter names of [`Observation::counters`] that [`Observation::account_since`] reads.
pub const EVENTS_PRODUCED: &str = "aggrik8s_events_produced_total";
pub const EVENTS_LOST: &str = "aggrik8s_events_lost_total";
pub const FLAGS_LOST: &str = "aggrik8s_callback_flags_lost_total";

/// Counter names of [`Series::counters`].
pub mod series_counter {
    pub const ESTABLISHED: &str = "established";
    pub const FAILED: &str = "failed";
    pub const BYTES_SENT: &str = "bytes_sent";
    pub const BYTES_RECEIVED: &str = "bytes_received";
    pub const RETRANSMITS: &str = "retransmits";
}

/// [`wire::Series::direction`] of connections older than the agent.
pub const UNKNOWN_DIRECTION: &str = "unknown";

/// A reply that cannot be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("field `{field}` is `{value}`")]
    Field { field: &'static str, value: String },
    #[error("result for target {target}, but {asked} were asked")]
    UnknownTarget { target: u32, asked: usize },
    #[error("result {sequence} of target {target}, but {count} probes were asked")]
    UnknownSequence {
        target: u32,
        sequence: u32,
        count: u32,
    },
    #[error("result {sequence} of target {target} came twice")]
    Twice { target: u32, sequence: u32 },
    #[error("result {sequence} of target {target} says `ok`, but {why}")]
    Contradiction {
        target: u32,
        sequence: u32,
        why: &'static str,
    },
    #[error("the {direction} measurement of target {target} {why}")]
    Measurement {
        target: u32,
        direction: &'static str,
        why: &'static str,
    },
    #[error("histogram `{name}`: {why}")]
    Histogram { name: String, why: &'static str },
}

pub(crate) fn field(field: &'static str, value: &str) -> WireError {
    WireError::Field {
        field,
        value: printable(value, 80),
    }
}

/// `text` with every control and direction-changing character escaped and at most `most` characters.
#[must_use]
pub fn printable(text: &str, most: usize) -> String {
    let mut out = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == most {
            out.push('…');
            break;
        }
        let hostile = c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{61c}');
        if hostile {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// Who an agent is.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    pub node: NodeRef,
    pub plane: Plane,
    pub boot_id: String,
    pub version: String,
    /// The kernel programs are attached and their maps readable.
    pub kernel_witness: bool,
    /// Rung per program, or why there is no kernel witness.
    pub kernel_detail: String,
    pub wall_ns: u64,
    pub monotonic_ns: u64,
}

impl TryFrom<wire::IdentityReply> for Identity {
    type Error = WireError;

    fn try_from(reply: wire::IdentityReply) -> Result<Self, WireError> {
        if !is_name(&reply.cluster) {
            return Err(field("cluster", &reply.cluster));
        }
        if !is_name(&reply.node) {
            return Err(field("node", &reply.node));
        }
        Ok(Self {
            plane: Plane::from_word(&reply.plane).ok_or_else(|| field("plane", &reply.plane))?,
            boot_id: boot_id(&reply.boot_id)?,
            node: NodeRef {
                cluster: reply.cluster,
                node: reply.node,
            },
            version: printable(&reply.version, 80),
            kernel_witness: reply.kernel_witness,
            kernel_detail: printable(&reply.kernel_detail, 2_000),
            wall_ns: reply.wall_ns,
            monotonic_ns: reply.monotonic_ns,
        })
    }
}

fn boot_id(text: &str) -> Result<String, WireError> {
    if text.is_empty() || text.len() > 64 || !text.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(field("boot_id", text));
    }
    Ok(text.to_owned())
}

/// Everything one agent counted so far.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    pub boot_id: String,
    /// Histograms with equal layout merge by addition.
    pub layout: u32,
    pub series: Vec<Series>,
    /// Agent- and kernel-wide counters by metric name.
    pub counters: BTreeMap<String, u64>,
    /// Distinct datagrams of requested probes that the responder answered, by where they came from.
    pub received: BTreeMap<IpAddr, u64>,
    pub wall_ns: u64,
    pub monotonic_ns: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    pub remote: String,
    /// `None`: the connections are older than the agent, so the side is unknown.
    pub direction: Option<Direction>,
    pub class: String,
    pub origin: Origin,
    pub counters: BTreeMap<String, u64>,
    pub histograms: BTreeMap<String, Histogram>,
}

/// Sparse log-linear histogram: bucket index (ascending) → count, in the layout of `probe-common`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    pub buckets: Vec<(u32, u64)>,
    pub sum_ns: u64,
}

impl Histogram {
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets
            .iter()
            .fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }
}

impl From<&Histogram> for wire::Histogram {
    fn from(histogram: &Histogram) -> Self {
        Self {
            index: histogram.buckets.iter().map(|(index, _)| *index).collect(),
            count: histogram.buckets.iter().map(|(_, count)| *count).collect(),
            sum_ns: histogram.sum_ns,
        }
    }
}

fn histogram(name: &str, wire: &wire::Histogram) -> Result<Histogram, WireError> {
    let wrong = |why| WireError::Histogram {
        name: printable(name, 80),
        why,
    };
    if wire.index.len() != wire.count.len() {
        return Err(wrong("as many indices as counts are needed"));
    }
    if wire.index.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(wrong("indices must ascend"));
    }
    if wire.index.last().is_some_and(|last| *last > 65_535) {
        return Err(wrong("an index is out of range"));
    }
    Ok(Histogram {
        buckets: wire
            .index
            .iter()
            .copied()
            .zip(wire.count.iter().copied())
            .collect(),
        sum_ns: wire.sum_ns,
    })
}

impl TryFrom<wire::ObserveReply> for Observation {
    type Error = WireError;

    fn try_from(reply: wire::ObserveReply) -> Result<Self, WireError> {
        let series = reply
            .series
            .into_iter()
            .map(Series::try_from)
            .collect::<Result<_, _>>()?;
        let mut received = BTreeMap::new();
        for from in &reply.received {
            let address: IpAddr = from
                .address
                .parse()
                .map_err(|_| field("address", &from.address))?;
            *received.entry(address.to_canonical()).or_default() += from.datagrams;
        }
        Ok(Self {
            boot_id: boot_id(&reply.boot_id)?,
            layout: reply.layout,
            series,
            counters: reply.counters,
            received,
            wall_ns: reply.wall_ns,
            monotonic_ns: reply.monotonic_ns,
        })
    }
}

impl TryFrom<wire::Series> for Series {
    type Error = WireError;

    fn try_from(series: wire::Series) -> Result<Self, WireError> {
        if !is_name(series.remote.trim_start_matches('~')) {
            return Err(field("remote", &series.remote));
        }
        if !is_name(series.class.trim_start_matches('~')) {
            return Err(field("class", &series.class));
        }
        let histograms = series
            .histograms
            .iter()
            .map(|(name, wire)| Ok((name.clone(), histogram(name, wire)?)))
            .collect::<Result<_, WireError>>()?;
        Ok(Self {
            direction: match series.direction.as_str() {
                UNKNOWN_DIRECTION => None,
                word => Some(Direction::from_word(word).ok_or_else(|| field("direction", word))?),
            },
            origin: Origin::from_word(&series.origin)
                .ok_or_else(|| field("origin", &series.origin))?,
            remote: series.remote,
            class: series.class,
            counters: series.counters,
            histograms,
        })
    }
}

impl Series {
    fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }

    /// The series as an observation of `node`; `None` when its direction is unknown.
    #[must_use]
    pub fn kernel_series(&self, node: &NodeRef) -> Option<KernelSeries> {
        Some(KernelSeries {
            node: node.clone(),
            remote: self.remote.clone(),
            direction: self.direction?,
            class: self.class.clone(),
            origin: self.origin,
            established: self.counter(series_counter::ESTABLISHED),
            failed: self.counter(series_counter::FAILED),
            bytes_sent: self.counter(series_counter::BYTES_SENT),
            bytes_received: self.counter(series_counter::BYTES_RECEIVED),
            retransmits: self.counter(series_counter::RETRANSMITS),
        })
    }
}

impl Observation {
    /// Datagrams that reached the responder of `node` since `before`, by where they came from.
    #[must_use]
    pub fn received_since(&self, before: &Self, node: &NodeRef) -> Vec<Received> {
        let grown = |(peer, now): (&IpAddr, &u64)| Received {
            node: node.clone(),
            peer: *peer,
            datagrams: now.saturating_sub(before.received.get(peer).copied().unwrap_or(0)),
        };
        self.received.iter().map(grown).collect()
    }

    /// What this agent may have missed between `before` and `self`. The clock offset is the collector's to add.
    #[must_use]
    pub fn account_since(&self, before: &Self, identity: &Identity) -> NodeAccount {
        let grown = |name: &str| {
            let value = |o: &Self| o.counters.get(name).copied().unwrap_or(0);
            value(self).saturating_sub(value(before))
        };
        let span = |from: u64, to: u64| to as f64 - from as f64;
        let step = (span(before.wall_ns, self.wall_ns)
            - span(before.monotonic_ns, self.monotonic_ns))
            / 1e9;
        NodeAccount {
            boot_id: self.boot_id.clone(),
            kernel_witness: Some(if identity.kernel_witness {
                "kernel".to_owned()
            } else {
                identity.kernel_detail.clone()
            }),
            events_produced: grown(EVENTS_PRODUCED),
            events_lost: grown(EVENTS_LOST),
            flags_lost: grown(FLAGS_LOST),
            clock_offset_seconds: None,
            clock_offset_bound_seconds: None,
            monotonic_offset_seconds: None,
            clock_step_seconds: step,
        }
    }
}

/// Kernel records of probe connections.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelConnections {
    pub boot_id: String,
    pub connections: Vec<KernelConnection>,
    /// Records in the asked window that were no longer kept.
    pub dropped: u64,
}

impl KernelConnections {
    pub(crate) fn from_wire(
        reply: wire::ConnectionsReply,
        node: &NodeRef,
    ) -> Result<Self, WireError> {
        let connections = reply
            .connections
            .into_iter()
            .map(|connection| kernel_connection(connection, node))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            boot_id: boot_id(&reply.boot_id)?,
            connections,
            dropped: reply.dropped,
        })
    }
}

fn kernel_connection(c: wire::Connection, node: &NodeRef) -> Result<KernelConnection, WireError> {
    let address = |name, text: &str| text.parse::<SocketAddr>().map_err(|_| field(name, text));
    Ok(KernelConnection {
        node: node.clone(),
        direction: Direction::from_word(&c.direction)
            .ok_or_else(|| field("direction", &c.direction))?,
        local: address("local", &c.local)?,
        remote: address("remote", &c.remote)?,
        outcome: KernelOutcome::from_word(&c.outcome)
            .ok_or_else(|| field("outcome", &c.outcome))?,
        at_ns: c.at_ns,
        connect_ns: c.connect_ns,
        handshake_rtt_us: c.handshake_rtt_us,
        min_rtt_us: c.min_rtt_us,
        syn_retransmits: c.syn_retransmits,
    })
}

impl From<&KernelConnection> for wire::Connection {
    fn from(c: &KernelConnection) -> Self {
        Self {
            direction: c.direction.word().to_owned(),
            local: c.local.to_string(),
            remote: c.remote.to_string(),
            outcome: c.outcome.word().to_owned(),
            at_ns: c.at_ns,
            connect_ns: c.connect_ns,
            handshake_rtt_us: c.handshake_rtt_us,
            min_rtt_us: c.min_rtt_us,
            syn_retransmits: c.syn_retransmits,
        }
    }
}

#[cfg(test)]
#[path = "reply_tests.rs"]
mod tests;
