//! What was measured of one path direction: the largest packet that fits, and how much goes through.
//!
//! Unlike probes these are searches and transfers: one at a time, asked for, never in the background.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MeasureKind {
    /// The largest IP packet that passes unfragmented, exact to the byte.
    PathMtu,
    /// Payload bytes per second of one TCP connection, bounded in bytes and time.
    Throughput,
}

/// Which packets a figure is about, seen from the node that measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathDirection {
    /// From the measuring node to the target.
    Forward,
    /// From the target to the measuring node.
    Return,
}

/// How a measurement of one path direction ended. Only `Ok` has figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MeasureOutcome {
    Ok,
    /// The responder has other transfers going on, or its budget is used up: later, perhaps.
    Busy,
    /// Loss or an outage hid the answer: no figure is better than a wrong one.
    Undecided,
    /// Nobody listens.
    Refused,
    /// No answer at all.
    Timeout,
    /// The connection was cut while data flowed.
    Reset,
    Unreachable,
    /// Somebody answered, but not the node that was asked.
    WrongResponder,
    /// What came back was no valid answer, or claims what cannot be.
    BadReply,
    /// The measuring agent itself failed: says nothing about the mesh.
    LocalError,
}

/// Why nothing larger passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MtuLimit {
    /// The sender's own interface: its kernel refuses to send a larger packet.
    Local,
    /// A hop drops larger packets and says so (ICMP "fragmentation needed", "packet too big").
    PacketTooBig,
    /// Dropped without a word to the socket, but the sender's kernel has learnt of it: a tunnel took the error.
    Absorbed,
    /// Dropped without a word.
    Silent,
    /// Nothing larger was tried.
    Ceiling,
}

/// The first ICMP error that said "too big".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PacketTooBig {
    /// As the hop states it; it may be wrong.
    pub mtu: u16,
    pub hop: IpAddr,
}

/// Datagrams of a search.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    pub sent: u32,
    pub answered: u32,
}

/// The path MTU of one direction. Sizes are whole IP packets, header included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathMtu {
    /// Largest packet that arrived with "don't fragment".
    pub bytes: u16,
    pub limit: MtuLimit,
    /// Largest packet that the sender's stack lets out.
    pub local_bytes: u16,
    /// What the sender's kernel believed of the route before the search, and after it.
    pub route_before: Option<u16>,
    pub route_after: Option<u16>,
    pub reported: Option<PacketTooBig>,
    /// Whether a packet of `local_bytes` passes when it may be fragmented. IPv4 only, and only if it does not pass whole.
    pub fragments_pass: Option<bool>,
    /// Datagrams of the sizes that were tried, and the small ones between them.
    pub sized: Sent,
    pub small: Sent,
}

impl PathMtu {
    /// Largest packet that the sender's TCP would send: what its kernel believes of the route, at most its interface's MTU.
    #[must_use]
    pub fn let_out(&self) -> u16 {
        self.route_after
            .map_or(self.local_bytes, |route| route.min(self.local_bytes))
    }
}

/// Round trips of small echoes beside a transfer, ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadedRtt {
    pub idle_min_ns: u64,
    pub loaded_p50_ns: u64,
    pub loaded_p99_ns: u64,
    /// Echoes before and during the transfer that count.
    pub idle: u32,
    pub loaded: u32,
    /// Echoes during the transfer that got no answer.
    pub lost: u32,
}

impl LoadedRtt {
    /// What the load adds: p99 under load minus the smallest round trip, ns.
    #[must_use]
    pub fn queueing_ns(&self) -> u64 {
        self.loaded_p99_ns.saturating_sub(self.idle_min_ns)
    }
}

/// A bounded transfer in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throughput {
    /// Payload bytes that the receiver got, and from its first to its last, by the receiver's clock.
    pub bytes: u64,
    pub duration_ns: u64,
    /// The cap that ended it was the time, not the bytes.
    pub by_time: bool,
    /// Segments the sender's kernel sent again; `None` if it could not be learnt.
    pub retransmits: Option<u32>,
    /// Smallest round trip that the sender's kernel saw on the connection, µs.
    pub min_rtt_us: Option<u32>,
    pub rtt: Option<LoadedRtt>,
}

impl Throughput {
    /// Goodput in bit/s.
    #[must_use]
    pub fn bits_per_second(&self) -> f64 {
        self.bytes as f64 * 8e9 / self.duration_ns as f64
    }
}
