//! The fault vocabulary: what can be done to packets ([`Fault`]), to which of them ([`Filter`]) and
//! on which path direction ([`Scope`]). Their text form is in `grammar`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::unit::UnitError;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Nothing passes.
    Blackhole,
    Loss(Loss),
    /// Constant extra one-way delay.
    Delay(Duration),
    /// Random extra one-way delay, never negative. The order within a 5-tuple is kept.
    Jitter(Jitter),
    /// This share of packets is held back by `hold`, and later packets may overtake them.
    Reorder {
        share: f64,
        hold: Duration,
    },
    Duplicate {
        share: f64,
    },
    /// This share of TCP and UDP packets with a payload has a bit of it flipped; the checksums are made to fit.
    Corrupt {
        share: f64,
    },
    /// This share of TCP segments with a payload becomes a reset.
    Reset {
        share: f64,
    },
    /// Extra one-way delay of the first packet of every 5-tuple.
    Setup(Duration),
    /// Token bucket of `burst_bytes` with a queue of `queue_bytes` before it; what does not fit is dropped at the tail.
    Rate {
        bits_per_second: u64,
        queue_bytes: u64,
        burst_bytes: u64,
    },
    /// Largest IP packet that passes, in bytes.
    Mtu {
        bytes: u16,
        df_set: DfSet,
        df_clear: DfClear,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// Independent, with this probability.
    Random { share: f64 },
    /// Gilbert–Elliott: two states, a probability per packet to `enter` the bad one and to `leave` it, and the loss in
    /// each. Mean burst (stay in the bad state) = 1 / leave packets; share of time in it = enter / (enter + leave).
    Burst {
        enter: f64,
        leave: f64,
        bad: f64,
        good: f64,
    },
    /// One of `buckets` hash buckets of 5-tuples loses everything, the others nothing.
    Flows { buckets: u32, key: FlowKey },
}

/// Which 5-tuple chooses the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowKey {
    /// The innermost one: of the packet inside VXLAN, if there is one. The same connection always meets the same fate.
    Inner,
    /// What an ECMP router hashes: the outer packet, VXLAN's source port included. Linux changes that port when a
    /// connection retransmits after a timeout.
    Outer,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Jitter {
    /// Uniform on 0 … `range`.
    Uniform { range: Duration },
    /// Normal with the given mean and standard deviation, cut off below 0 and above twice the mean (drawn again).
    Normal { mean: Duration, deviation: Duration },
    /// Lomax (Pareto from 0): P(x > t) = (1 + t / scale)^−shape, cut off at `cap`.
    Pareto {
        scale: Duration,
        shape: f64,
        cap: Duration,
    },
    /// `share` of the packets take `extra` longer, the others nothing.
    Bimodal { extra: Duration, share: f64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DfSet {
    /// Dropped; ICMP "fragmentation needed" or ICMPv6 "packet too big" goes back.
    PacketTooBig,
    /// Dropped without a word.
    Silent,
}

/// IPv6 packets always count as DF set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DfClear {
    Fragment,
    Drop,
}

/// Which packets a rule applies to. The first four look at the outer packet, as a fabric device does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filter {
    #[default]
    Any,
    Tcp,
    Udp,
    Icmp,
    /// UDP to a VXLAN port: the whole overlay.
    Vxlan,
    /// TCP as endpoints see it: plain, or inside VXLAN.
    InnerTcp,
    InnerUdp,
    InnerIcmp,
}

/// A fault and the packets it applies to, as text `fault[@filter]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    pub fault: Fault,
    pub filter: Filter,
}

/// `cluster`, `cluster/node`, or `*` for everything. Declared external clients are named like clusters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointRef {
    /// `None` is `*`.
    pub cluster: Option<String>,
    /// Only with a cluster.
    pub node: Option<String>,
}

/// One path direction: packets from `source` to `target`. The way back is a scope of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    pub source: EndpointRef,
    pub target: EndpointRef,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    #[error(
        "unknown fault `{0}`; known are blackhole, loss, delay, jitter, reorder, duplicate, corrupt, reset, setup, rate, mtu"
    )]
    Unknown(String),
    #[error(
        "unknown filter `{0}`; known are any, tcp, udp, icmp, vxlan, inner-tcp, inner-udp, inner-icmp"
    )]
    Filter(String),
    #[error("`{fault}` needs the form `{form}`")]
    Form {
        fault: &'static str,
        form: &'static str,
    },
    #[error("`{key}` in `{fault}`")]
    Value {
        fault: &'static str,
        key: &'static str,
        #[source]
        source: UnitError,
    },
    #[error("`{key}` in `{fault}` must be {bound}")]
    Bound {
        fault: &'static str,
        key: &'static str,
        bound: &'static str,
    },
    #[error("`{0}` names no endpoint; write `cluster`, `cluster/node` or `*`")]
    Endpoint(String),
}

impl EndpointRef {
    pub fn any() -> Self {
        Self {
            cluster: None,
            node: None,
        }
    }

    pub fn cluster(name: impl Into<String>) -> Self {
        Self {
            cluster: Some(name.into()),
            node: None,
        }
    }

    pub fn node(cluster: impl Into<String>, node: impl Into<String>) -> Self {
        Self {
            cluster: Some(cluster.into()),
            node: Some(node.into()),
        }
    }

    /// 0 for `*`, 1 for a cluster, 2 for a node.
    pub fn specificity(&self) -> u8 {
        u8::from(self.cluster.is_some()) + u8::from(self.node.is_some())
    }
}

impl Scope {
    pub fn new(source: EndpointRef, target: EndpointRef) -> Self {
        Self { source, target }
    }
}

impl Rule {
    pub fn new(fault: Fault) -> Self {
        Self {
            fault,
            filter: Filter::Any,
        }
    }

    pub fn only(fault: Fault, filter: Filter) -> Self {
        Self { fault, filter }
    }

    /// Values built in code, not parsed, are checked by this before use.
    pub fn validate(&self) -> Result<(), FaultError> {
        // The text form holds every bound; what reads back is valid.
        self.to_string().parse::<Self>().map(drop)
    }
}

impl Fault {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Blackhole => "blackhole",
            Self::Loss(_) => "loss",
            Self::Delay(_) => "delay",
            Self::Jitter(_) => "jitter",
            Self::Reorder { .. } => "reorder",
            Self::Duplicate { .. } => "duplicate",
            Self::Corrupt { .. } => "corrupt",
            Self::Reset { .. } => "reset",
            Self::Setup(_) => "setup",
            Self::Rate { .. } => "rate",
            Self::Mtu { .. } => "mtu",
        }
    }
}
