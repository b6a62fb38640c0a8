//! What `judge` answers: results per check, link and mesh, with their figures, evidence and causes.
//!
//! Serialised as the JSON of `aggrik8s verify -o json`. Numbers carry their unit in the key; a
//! share is a number between 0 and 1.

use std::collections::BTreeMap;

use mesh::measurement::MtuLimit;
use mesh::observation::{NodeRef, Plane};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::checks::Severity;
use crate::quantile::Quantile;
use crate::waivers::{Waived, WaiverRow};

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Outcome {
    Ready,
    NotReady,
    Undecided,
}

impl Outcome {
    /// 0, 1 or 3 as docs/cli.md has them.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Ready => 0,
            Self::NotReady => 1,
            Self::Undecided => 3,
        }
    }

    pub fn words(self) -> &'static str {
        match self {
            Self::Ready => "READY",
            Self::NotReady => "NOT READY",
            Self::Undecided => "UNDECIDED",
        }
    }

    /// What a check of this status makes of the whole.
    pub(crate) fn of(status: Status) -> Self {
        match status {
            Status::Pass | Status::Info => Self::Ready,
            Status::Fail => Self::NotReady,
            Status::Undecided => Self::Undecided,
        }
    }

    /// A proven failure outranks a missing answer.
    pub fn and(self, other: Self) -> Self {
        use Outcome::{NotReady, Ready, Undecided};
        match (self, other) {
            (NotReady, _) | (_, NotReady) => NotReady,
            (Undecided, _) | (_, Undecided) => Undecided,
            (Ready, Ready) => Ready,
        }
    }
}

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Pass,
    Fail,
    Undecided,
    Info,
}

/// The whole judgement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    pub result: Outcome,
    pub confidence: Confidence,
    /// One row per directed link in scope.
    pub links: Vec<LinkRow>,
    pub checks: Vec<Check>,
    /// Most explaining first. Empty when nothing failed and every agent answered.
    pub causes: Vec<Cause>,
    /// Agents without a usable answer.
    pub unreachable: Vec<Unreachable>,
    /// What became of each entry of `accept`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waivers: Vec<WaiverRow>,
}

/// How sure the result is. See docs/verdict.md, "Many links, one mesh".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Confidence {
    /// Confidence asked of every single statement.
    pub per_statement: f64,
    /// READY only: 1 − the chance of this READY if any one objective did not hold.
    pub ready: Option<f64>,
    /// READY only: bursts of lost packets up to this long on average, in seconds, are among those that `ready` holds for; a
    /// longer `--window` excludes longer ones. Absent where nothing was probed in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst_seconds: Option<f64>,
    /// NOT READY only: 1 − the bound on the chance that any of the failures shown is a false one (Holm).
    pub not_ready: Option<f64>,
    /// Statements tested.
    pub statements: u64,
    /// Looks at the samples that the run took: 1 unless something was left open.
    pub looks: u64,
    pub method: String,
}

/// A directed link: what a client in `source_cluster` experiences, and the path in that direction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LinkRow {
    pub source_cluster: String,
    pub target_cluster: String,
    /// The initiator link: connects, requests, latency.
    pub result: Outcome,
    /// The path in this direction alone, from receiver counts.
    pub path_result: Outcome,
    /// TCP connects of the pod plane that were judged.
    pub n: u64,
    pub failed: u64,
    /// Upper confidence bound of the share of datagrams that the path loses.
    pub loss_upper: Option<f64>,
    pub connect_p50_seconds: Option<f64>,
    pub connect_p99_seconds: Option<f64>,
    pub handshake_rtt_p50_seconds: Option<f64>,
    pub handshake_rtt_p99_seconds: Option<f64>,
}

/// One check of one link, cluster or node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    pub id: String,
    pub category: String,
    pub severity: Severity,
    pub status: Status,
    pub source_cluster: Option<String>,
    pub target_cluster: Option<String>,
    /// The node that the finding is confined to, `source → target` when it is one pair of nodes.
    pub node: Option<String>,
    pub plane: Option<PlaneName>,
    /// The declared service that is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    pub observed: Observed,
    pub expected: Expected,
    /// One line each: a figure or a record and where it came from.
    pub evidence: Vec<String>,
    /// Why, in words: for a failure its cause, for an undecided check what is missing.
    pub cause: Option<String>,
    pub hint: Option<String>,
    pub docs: String,
    /// Further samples that would decide it at the observed rate.
    pub more_samples_needed: Option<u64>,
    /// Accepted by mesh.yaml: counts nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waived: Option<Waived>,
}

impl Check {
    /// Whether it decides anything: a gate that nobody waived.
    pub fn gates(&self) -> bool {
        self.severity == Severity::Gate && self.waived.is_none()
    }

    /// "source→target", with ":service" for a check of one, "cluster/node", or the one cluster; empty for a check of the whole mesh.
    pub fn place(&self) -> String {
        match (&self.source_cluster, &self.target_cluster, &self.node) {
            (Some(source), Some(target), _) => match &self.service {
                Some(service) => format!("{source}→{target}:{service}"),
                None => format!("{source}→{target}"),
            },
            // A global service: its backends are in no one cluster.
            (Some(source), None, _) if self.service.is_some() => {
                format!("{source}→{}", self.service.as_deref().unwrap_or_default())
            }
            (Some(cluster), None, Some(node)) => format!("{cluster}/{node}"),
            (Some(cluster), None, None) | (None, Some(cluster), _) => cluster.clone(),
            (None, None, _) => String::new(),
        }
    }

    /// The check and its place, as causes list what they explain.
    pub fn label(&self) -> String {
        format!("{} {}", self.id, self.place())
            .trim_end()
            .to_owned()
    }
}

/// The words of [`MtuLimit`], for the schema.
#[derive(JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "MtuLimit")]
#[expect(dead_code, reason = "only its schema is used")]
enum MtuLimitName {
    Local,
    PacketTooBig,
    Absorbed,
    Silent,
    Ceiling,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlaneName {
    Pod,
    Node,
}

impl From<Plane> for PlaneName {
    fn from(plane: Plane) -> Self {
        match plane {
            Plane::Pod => Self::Pod,
            Plane::Node => Self::Node,
        }
    }
}

/// Figures of a check; absent ones do not apply to it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Observed {
    /// Trials that were judged and how many of them were bad.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bad: Option<u64>,
    /// Bad share and its one-sided bounds at the stated confidence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_lower: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_upper: Option<f64>,
    /// Lost without a known direction, or missed by a starved prober perhaps: counts against READY only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unresolved: Option<u64>,
    /// In how many bursts the bad trials came, where their order is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bursts: Option<u64>,
    /// Samples during which the prober was starved: their outcomes count, their times only where a
    /// kernel measured them as well; what stays open is `unresolved`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starved: Option<u64>,
    /// Latency: samples near a stall of their source, good and bad alike, see docs/verdict.md.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub excluded_stalled: Option<u64>,
    /// Probes that were never sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub excluded_local: Option<u64>,
    /// A global service: answers by the cluster whose backend gave them; those of unknown origin are `unresolved`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub answered_by: BTreeMap<String, u64>,
    /// Bad trials by what was wrong with them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub failures: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50: Option<Quantile>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99: Option<Quantile>,
    /// Against a baseline: median and p99, of connect and handshake.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub growth: Vec<Growth>,
    /// Path MTU: the smallest of the node pairs', whole IP packets; what limits that pair, and what its sender's
    /// interface lets out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu_bytes: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<MtuLimitName>")]
    pub mtu_limit: Option<MtuLimit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu_local_bytes: Option<u16>,
    /// Throughput: of the slowest pair of nodes; the longest round trips beside the transfers, and what the load added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goodput_bits_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_loaded_p99_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queueing_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset_bound_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_seconds: Option<f64>,
    /// Median of the prober's connect time minus the kernel's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_space_delay_seconds: Option<f64>,
    /// By client or cluster.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub clients: BTreeMap<String, ClientBytes>,
    /// The same trials by source node and by target node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub marginals: Vec<Marginal>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimedName {
    Connect,
    HandshakeRtt,
}

impl TimedName {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::HandshakeRtt => "handshake",
        }
    }
}

/// One quantile of one time, and where the baseline had it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Growth {
    pub time: TimedName,
    /// 0.5 or 0.99.
    pub quantile: f64,
    pub status: Status,
    /// Samples of the baseline.
    pub baseline_n: u64,
    pub baseline: Option<Quantile>,
    pub now: Option<Quantile>,
    /// By how much it grew: for the median, the mean over the pairs of nodes.
    pub grew_seconds: Option<f64>,
    /// By how much the shortest time grew, the mean over the pairs of nodes.
    pub shortest_grew_seconds: Option<f64>,
    /// Where the growth that is allowed ends, for the farthest pair of nodes.
    pub allowed_seconds: Option<f64>,
    /// Samples, those that surely exceed what is allowed, and those that may.
    pub n: u64,
    pub bad: u64,
    pub unresolved: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClientBytes {
    /// From the client to the service.
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub connections: u64,
}

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    Source,
    Target,
}

/// The trials of one check that touch one node on one side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Marginal {
    pub side: Side,
    pub node: String,
    pub status: Status,
    pub n: u64,
    pub bad: u64,
    pub rate_lower: f64,
    pub rate_upper: f64,
    /// Latency: samples of this source near its stalls, which are not among `n`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub excluded_stalled: Option<u64>,
}

/// What must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Expected {
    pub text: String,
    /// Largest bad share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_at_most: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f64>,
    /// Smallest packet that has to cross.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu_bytes_at_least: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goodput_bits_per_second_at_least: Option<f64>,
    /// A trial that takes longer is bad. With thresholds per node pair, the largest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold_seconds: Option<f64>,
}

/// Why checks failed or could not be decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cause {
    /// Stable, `area.kind`.
    pub id: String,
    /// One sentence with cluster, direction and node.
    pub summary: String,
    /// Direction of the fault: where the packets or requests that fail come from and go to.
    pub source_cluster: Option<String>,
    pub target_cluster: Option<String>,
    pub node: Option<String>,
    pub plane: Option<PlaneName>,
    pub evidence: Vec<String>,
    /// What the evidence does not exclude.
    pub rivals: Vec<Rival>,
    pub hint: String,
    /// Checks that it accounts for, as `id source→target` or `id cluster/node`.
    pub explains: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rival {
    pub summary: String,
    /// The look that would tell the two apart.
    pub separated_by: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Unreachable {
    pub cluster: String,
    pub node: String,
    pub plane: PlaneName,
    pub reason: String,
}

impl Unreachable {
    pub fn node_ref(&self) -> NodeRef {
        NodeRef {
            cluster: self.cluster.clone(),
            node: self.node.clone(),
        }
    }
}
