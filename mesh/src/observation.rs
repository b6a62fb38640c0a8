//! What the witnesses saw. Raw enough that every statistic can be recomputed from it.
//!
//! Times are nanoseconds on the observing agent's monotonic clock, counted from the start of its
//! run; a duration never mixes two clocks.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::measurement::{MeasureOutcome, PathDirection, PathMtu, Throughput};

/// A node of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeRef {
    pub cluster: String,
    pub node: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Plane {
    Pod,
    Node,
}

/// How a probe asks. Names are part of check ids and of the metric label `probe`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeKind {
    /// TCP connect, then one echo on the connection.
    Tcp,
    /// One UDP datagram echoed, with the receiver's count.
    Udp,
    /// HTTP GET on a fresh connection.
    Http,
    /// One NDVI tile posted and its answer checked.
    NdviTile,
    /// One name asked of a resolver over UDP, and the addresses checked.
    Dns,
}

/// How one probe ended. Everything but `Ok` is a failed probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Ok,
    /// RST in answer to the SYN.
    Refused,
    /// No answer within the probe's deadline.
    Timeout,
    /// The established connection was reset.
    Reset,
    /// The local stack or an ICMP error said the target cannot be reached.
    Unreachable,
    /// Somebody answered, but not the node that was asked.
    WrongResponder,
    /// The answer did not carry our nonce, was too short, or was otherwise not a valid reply.
    BadReply,
    /// DNS: the resolver says that there is no such name, or no address of the family that was asked for.
    NoSuchName,
    /// DNS: the resolver answers, and says that it cannot.
    ServerFailure,
    /// DNS: the name resolves to an address that is not the service's.
    WrongAddress,
    /// The prober itself failed (no free port, no memory): says nothing about the mesh.
    LocalError,
}

/// One probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Number of the probe within its run, from 0.
    pub sequence: u32,
    pub source_port: u16,
    /// When it was sent, ns since the start of the run.
    pub sent_ns: u64,
    /// Actual minus intended send time, ns.
    pub delay_ns: u64,
    pub outcome: Outcome,
    /// TCP and HTTP: connect() to writable, ns.
    pub connect_ns: Option<u64>,
    /// Request to full reply on the open connection (TCP, HTTP, NDVI), or datagram to echo (UDP), ns.
    pub round_trip_ns: Option<u64>,
    /// Who answered, as the answer says.
    pub responder: Option<NodeRef>,
    /// UDP: how many datagrams of this run the receiver had counted, this one included.
    pub receiver_count: Option<u32>,
    /// The prober was starved around this probe (delay above its limit); such a sample decides nothing.
    pub starved: bool,
}

/// All probes of one kind from one node to one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeRun {
    pub source: NodeRef,
    pub target: ProbeTarget,
    pub kind: ProbeKind,
    pub plane: Plane,
    /// Which look of the plan it was sent for, from 0: later ones are sent only where earlier ones left something open.
    #[serde(default)]
    pub look: u32,
    pub samples: Vec<Sample>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProbeTarget {
    pub cluster: String,
    /// The node that must answer; `None` for a service, whose backend may be anywhere in `cluster`.
    pub node: Option<String>,
    /// Name of the service, if the target is one.
    pub service: Option<String>,
    pub address: SocketAddr,
    /// [`ProbeKind::Dns`]: what is asked of `address`, which is unspecified for the first resolver of the agent's own
    /// resolv.conf; `cluster` is then the asking one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<Question>,
}

/// A name, and what it must resolve to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Question {
    pub name: String,
    /// Of one family, which is the one that is asked for.
    pub addresses: Vec<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// This side called connect().
    Initiator,
    /// This side accepted.
    Acceptor,
}

/// How the kernel saw a connection attempt end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelOutcome {
    Established,
    Refused,
    Timeout,
    AbortedByApplication,
    IcmpError,
    Local,
    /// Only at an acceptor: a SYN reached a listener here and no connection came of it.
    SynOnly,
}

/// One of our own probe connections as the kernel of `node` saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelConnection {
    pub node: NodeRef,
    pub direction: Direction,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub outcome: KernelOutcome,
    /// ns on the node's `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// First SYN to established, ns; initiator only.
    pub connect_ns: Option<u64>,
    pub handshake_rtt_us: Option<u32>,
    pub min_rtt_us: Option<u32>,
    /// SYN retransmits at the initiator, SYN-ACK retransmits at the acceptor.
    pub syn_retransmits: u32,
}

/// One kernel series: everything that a node counted for (remote, direction, class, origin).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelSeries {
    pub node: NodeRef,
    /// Cluster or external client name, or `world`, `vip`, `ambiguous`, `~other`.
    pub remote: String,
    pub direction: Direction,
    /// Service class, `other` when the port belongs to none.
    pub class: String,
    pub origin: Origin,
    pub established: u64,
    pub failed: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub retransmits: u64,
}

/// Datagrams of requested UDP probes that the responder on `node` got during the run. Where addresses are translated
/// on the way, a peer that none came from may have sent some all the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    pub node: NodeRef,
    pub peer: IpAddr,
    /// Distinct ones; each was answered.
    pub datagrams: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Our background probes.
    Probe,
    /// Our probes that somebody asked for.
    Burst,
    Traffic,
}

/// Whether and how well a node's agent could observe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    pub node: NodeRef,
    pub plane: Plane,
    pub state: NodeState,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// The agent answered for the whole run.
    Observed(NodeAccount),
    /// No usable answer, or it went away in the middle: the reason, for a person.
    Unreachable(String),
}

/// The agent's own account of what it may have missed during the run (differences over the run).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeAccount {
    /// Agent start; a change during the run means a restart.
    pub boot_id: String,
    /// `kernel` when the kernel witness works, else why it does not.
    pub kernel_witness: Option<String>,
    /// Kernel events produced and lost.
    pub events_produced: u64,
    pub events_lost: u64,
    /// Callback flags that another owner's program overwrote.
    pub flags_lost: u64,
    /// Offset of the node's wall clock to the collector's, s, with its bound (half the round trip), s.
    pub clock_offset_seconds: Option<f64>,
    pub clock_offset_bound_seconds: Option<f64>,
    /// Offset of the node's `CLOCK_MONOTONIC` to one clock of the collector that all nodes are compared with, s, with the same bound.
    #[serde(default)]
    pub monotonic_offset_seconds: Option<f64>,
    /// The wall clock was stepped during the run by this many seconds.
    pub clock_step_seconds: f64,
}

/// One direction of the path between two nodes, measured after the probes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathMeasurement {
    /// Whose packets the figure is about, and who received them.
    pub source: NodeRef,
    pub target: NodeRef,
    pub plane: Plane,
    /// `forward`: the agent at `source` measured; `return`: the one at `target`.
    pub measured: PathDirection,
    /// Where the other end answered.
    pub responder: SocketAddr,
    /// Port of the measuring end; 0 when no socket came of it.
    pub source_port: u16,
    pub result: MeasuredPath,
}

/// What was asked of a path direction, and the figure or why there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MeasuredPath {
    PathMtu(Result<PathMtu, NoFigure>),
    Throughput(Result<Throughput, NoFigure>),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoFigure {
    /// How the measurement ended.
    Ended(MeasureOutcome),
    /// It was never made, or the agent did not finish it: the reason, for a person.
    NotMade(String),
}

impl PathMeasurement {
    /// A transfer's TCP connection as the kernel of the measuring node must know it: (measuring node, its port, responder).
    #[must_use]
    pub fn connection(&self) -> Option<(&NodeRef, u16, SocketAddr)> {
        let measuring = match self.measured {
            PathDirection::Forward => &self.source,
            PathDirection::Return => &self.target,
        };
        let made = matches!(self.result, MeasuredPath::Throughput(_)) && self.source_port != 0;
        made.then_some((measuring, self.source_port, self.responder))
    }
}

/// Everything one verify run learned.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Observations {
    /// Seconds that the run took, from the first probe to the last answer.
    pub duration_seconds: f64,
    pub runs: Vec<ProbeRun>,
    pub connections: Vec<KernelConnection>,
    pub series: Vec<KernelSeries>,
    pub nodes: Vec<NodeReport>,
    #[serde(default)]
    pub measurements: Vec<PathMeasurement>,
    #[serde(default)]
    pub received: Vec<Received>,
}
