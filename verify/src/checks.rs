//! Every check: its id, what it claims, which witness it needs, and how it can fail. `explain` and docs/checks.md read this.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::control::table::CHECKS as CLUSTERS;

/// What a failing check does to the verdict.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Failing makes the mesh NOT READY; undecided makes it UNDECIDED.
    Gate,
    /// Shown, never decides.
    Warn,
    /// A figure without a judgement.
    Info,
}

impl From<mesh::Gravity> for Severity {
    fn from(gravity: mesh::Gravity) -> Self {
        match gravity {
            mesh::Gravity::Gate => Self::Gate,
            mesh::Gravity::Warn => Self::Warn,
            mesh::Gravity::Info => Self::Info,
        }
    }
}

/// One kind of check. Ids are stable: never renamed, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckSpec {
    pub id: &'static str,
    pub severity: Severity,
    /// One line: what holds when the check passes.
    pub claim: &'static str,
    /// Who has to have seen it.
    pub witness: &'static str,
    /// What fails it, what leaves it undecided, what to look at.
    pub text: &'static str,
}

impl CheckSpec {
    /// The part before the dot.
    pub fn family(&self) -> &'static str {
        self.id
            .split_once('.')
            .map_or(self.id, |(family, _)| family)
    }

    /// Why mesh.yaml cannot give it another severity, if it cannot.
    pub fn fixed(&self) -> Option<&'static str> {
        match (self.family(), self.severity) {
            ("evidence", _) => Some("the other checks rest on it; accept single findings instead"),
            (_, Severity::Info) => Some("it is a figure without a judgement"),
            _ => None,
        }
    }

    /// Where docs/ speaks of the check.
    pub fn docs(&self) -> String {
        format!("docs/checks.md#{}", self.id.replace('.', ""))
    }
}

pub const POD_TCP: &str = "reach.pod_tcp";
pub const POD_UDP: &str = "reach.pod_udp";
pub const NODE_TCP: &str = "reach.node_tcp";
pub const POD_HTTP: &str = "reach.pod_http";
pub const LATENCY_CONNECT: &str = "latency.connect";
pub const LATENCY_HANDSHAKE: &str = "latency.handshake_rtt";
pub const LATENCY_BASELINE: &str = "latency.baseline";
pub const LOSS_UDP: &str = "loss.udp";
pub const LOSS_TCP_SYN: &str = "loss.tcp_syn";
pub const MTU_PATH: &str = "mtu.path";
pub const MTU_NODE_PATH: &str = "mtu.node_path";
pub const MTU_UNDERLAY: &str = "mtu.underlay";
pub const JITTER_PATH: &str = "jitter.path";
pub const THROUGHPUT_TCP: &str = "throughput.tcp";
pub const AGREEMENT: &str = "evidence.agreement";
pub const COVERAGE: &str = "evidence.coverage";
pub const AGENTS: &str = "evidence.agents";
pub const NDVI_ROUND_TRIP: &str = "ndvi.round_trip";
pub const NDVI_SUCCESS: &str = "ndvi.success";
pub const NDVI_BYTES: &str = "ndvi.bytes_per_client";
pub const POLICY_ALLOWED: &str = "policy.allowed";
pub const POLICY_DENIED: &str = "policy.denied";
pub const POLICY_INTENT: &str = "policy.intent";
pub const SERVICE_REACH: &str = "service.reach";
pub const SERVICE_AFFINITY: &str = "service.affinity";
pub const DNS_RESOLVE: &str = "dns.resolve";
pub const DNS_LATENCY: &str = "dns.latency";
pub const CONTROL_TCP: &str = "control.pod_tcp";
pub const CONTROL_UDP: &str = "control.pod_udp";
pub const CONFIG_IDS: &str = "config.ids";
pub const CONFIG_CIDRS: &str = "config.cidrs";
pub const CONFIG_CLOCK: &str = "config.clock";

pub const CONFIG_MESH_SIZE: &str = "config.mesh_size";
pub const CONFIG_ROUTING: &str = "config.routing";
pub const CONFIG_ENCRYPTION: &str = "config.encryption";
pub const CONFIG_MTU: &str = "config.mtu";
pub const CONFIG_KUBE_PROXY: &str = "config.kube_proxy";
pub const CONFIG_POLICY_DEFAULT: &str = "config.policy_default";
pub const VERSION_SUPPORT: &str = "version.support";
pub const VERSION_SKEW: &str = "version.skew";
pub const EVIDENCE_API_SERVER: &str = "evidence.api_server";
pub const CILIUM_AGENTS: &str = "cilium.agents";
pub const CLUSTERMESH_SERVER: &str = "clustermesh.server";
pub const CLUSTERMESH_REMOTES: &str = "clustermesh.remotes";
pub const CLUSTERMESH_OWN_SERVER: &str = "clustermesh.own_server";
pub const CLUSTERMESH_ENDPOINTS: &str = "clustermesh.endpoints";
pub const CLUSTERMESH_REDUNDANCY: &str = "clustermesh.redundancy";
pub const CLUSTERMESH_KVSTOREMESH: &str = "clustermesh.kvstoremesh";
pub const CLUSTERMESH_STATUS: &str = "clustermesh.status";
pub const CERTIFICATE_CA: &str = "certificate.ca";
pub const CERTIFICATE_EXPIRY: &str = "certificate.expiry";
pub const CERTIFICATE_RENEWAL: &str = "certificate.renewal";
pub const SERVICE_GLOBAL: &str = "service.global";
pub const SERVICE_GLOBAL_INTENT: &str = "service.global_intent";

/// All checks, in the order in which they are reported: those on clusters stand behind `config.cidrs`.
pub const CHECKS: &[CheckSpec] = &joined();

const CLUSTERS_AFTER: usize = 2;

const fn joined() -> [CheckSpec; MESH.len() + CLUSTERS.len()] {
    let mut all = [MESH[0]; MESH.len() + CLUSTERS.len()];
    let mut at = 0;
    while at < all.len() {
        all[at] = if at < CLUSTERS_AFTER {
            MESH[at]
        } else if at < CLUSTERS_AFTER + CLUSTERS.len() {
            CLUSTERS[at - CLUSTERS_AFTER]
        } else {
            MESH[at - CLUSTERS.len()]
        };
        at += 1;
    }
    all
}

/// Checks of a declared mesh.
const MESH: &[CheckSpec] = &[
    CheckSpec {
        id: CONFIG_IDS,
        severity: Severity::Gate,
        claim: "every cluster has an id and a name of its own",
        witness: "mesh.yaml; with --contexts ConfigMap cilium-config (cluster-id, cluster-name)",
        text: "Two clusters with one id overwrite each other's identities in Cilium ClusterMesh. Give each an id and a name of its own, in mesh.yaml and in Cilium.",
    },
    CheckSpec {
        id: CONFIG_CIDRS,
        severity: Severity::Gate,
        claim: "node networks, pod and service CIDRs of different clusters are disjoint",
        witness: "mesh.yaml; with --contexts Nodes, CiliumNodes, ServiceCIDRs and ConfigMap cilium-config",
        text: "With overlapping ranges an address belongs to two clusters and packets stay at home. Service CIDRs may repeat between clusters only when they are not routed; \
               here they are compared with everything but other service CIDRs. Renumber one of the two ranges named.",
    },
    CheckSpec {
        id: CONFIG_CLOCK,
        severity: Severity::Warn,
        claim: "the wall clock of every node is within a second of the collector's and was not stepped during the run",
        witness: "four time stamps per exchange with each agent, best of several",
        text: "Shown as offset ± bound, the bound being half the shortest round trip. No duration is ever computed across two clocks, so a wrong clock changes no verdict; \
               it does break certificate checks and the reading of logs. Check the node's time server.",
    },
    CheckSpec {
        id: AGENTS,
        severity: Severity::Gate,
        claim: "the agents of every node in scope answered for the whole run and did not restart",
        witness: "the collector's own connection to each agent",
        text: "An agent that cannot be asked, answers what cannot be believed, calls itself by another name than mesh.yaml does, or goes away in the middle leaves its links UNDECIDED: \
               that is missing evidence, not a network verdict. \
               Probes towards such a node are void as well, since its responder may be gone with it. Check the agent on the node that is named, then run verify again.",
    },
    CheckSpec {
        id: AGREEMENT,
        severity: Severity::Gate,
        claim: "prober, source kernel and target kernel tell the same story of each connection",
        witness: "all three, matched per connection by addresses and ports",
        text: "Connected for the prober ⇔ established at the source ⇔ established at the target, and the prober's connect time is the kernel's plus a small user-space delay. \
               Every connection is counted, so the share is exact and needs no confidence. A failure means that a witness, or something that answers in the target's place, is not to be trusted: no READY rests on it.",
    },
    CheckSpec {
        id: COVERAGE,
        severity: Severity::Gate,
        claim: "the kernels at both ends have records of our own probes",
        witness: "kernel of both ends",
        text: "Below the objective `coverage`, READY is impossible: the check is undecided, never failed. Usual reasons: the kernel programs are not attached, \
               another owner's program overwrote the callback flags, addresses are translated on the way, events were lost.",
    },
    CheckSpec {
        id: POD_TCP,
        severity: Severity::Gate,
        claim: "a pod of the source cluster connects to a pod of the target cluster and gets its own bytes back from the right node",
        witness: "prober, pod plane, TCP connect and echo",
        text: "Judged pooled over all node pairs and again for every source and every target node, so that one bad node cannot hide among good ones. \
               Refused, timed out, reset, unreachable, a reply without our nonce and a reply from another node are each failures, and told apart in `failures`.",
    },
    CheckSpec {
        id: POD_UDP,
        severity: Severity::Gate,
        claim: "a datagram from a pod of the source cluster is echoed by a pod of the target cluster",
        witness: "prober, pod plane, UDP echo",
        text: "What a client sees: a datagram lost in either direction fails the probe. Which direction lost it is loss.udp.",
    },
    CheckSpec {
        id: NODE_TCP,
        severity: Severity::Gate,
        claim: "a node of the source cluster connects to a node of the target cluster",
        witness: "prober, node plane, TCP connect and echo",
        text: "The control for the pod plane: when pods fail and nodes do not, the overlay, its encryption or a policy is at fault; when both fail, the fabric is. \
               Judged pooled over the link; single nodes can fail it but need not prove it.",
    },
    CheckSpec {
        id: POD_HTTP,
        severity: Severity::Gate,
        claim: "an HTTP request from a pod of the source cluster is answered by a pod of the target cluster",
        witness: "prober, pod plane, HTTP GET on a fresh connection",
        text: "Fails alone when something on the path reads HTTP: a proxy, an L7 policy, a mesh sidecar. Judged pooled over the link; single nodes can fail it but need not prove it.",
    },
    CheckSpec {
        id: LATENCY_CONNECT,
        severity: Severity::Gate,
        claim: "99 % of TCP connects take no longer than the objective",
        witness: "prober, connect() to writable",
        text: "The number of connects above the threshold is counted; no quantile is estimated to decide. A failed probe is above every threshold. \
               The threshold is `latency_p99_seconds` of mesh.yaml, else 3 × the node pair's shortest connect + 20 ms. The quantiles are shown with their order-statistic intervals.",
    },
    CheckSpec {
        id: LATENCY_HANDSHAKE,
        severity: Severity::Gate,
        claim: "99 % of handshake round trips (SYN to SYN-ACK) take no longer than the objective",
        witness: "kernel of the source node",
        text: "The kernel's own measurement of the same connections, free of the prober's scheduling. Handshakes that needed a retransmit have no valid round trip: they count in loss.tcp_syn. \
               Failed connects are above every threshold.",
    },
    CheckSpec {
        id: LATENCY_BASELINE,
        severity: Severity::Warn,
        claim: "median and p99 of connect and handshake are at most 5 %, or 1 ms, above those of the run that `--baseline` names",
        witness: "prober (connect) and kernel of the source node (handshake), now and then",
        text: "Only with `--baseline`. Samples above the limit are counted, no quantile is estimated to decide; failed probes are above every limit. Each pair of nodes is compared with \
               its own median, so nodes may lie at different distances. The baseline's quantile is known up to its order-statistic interval: what lies between the two ends counts against a pass and \
               never for a failure. Undecided with a baseline of too few samples: its p99 needs 368. A link that the baseline does not know is a figure without a judgement. \
               Make it a gate with `severity: {latency.baseline: gate}`.",
    },
    CheckSpec {
        id: LOSS_UDP,
        severity: Severity::Gate,
        claim: "the path from the source cluster to the target cluster loses no more datagrams than the objective",
        witness: "receiver's own count carried in each echo; kernel of both ends where no echo came back",
        text: "Judges one direction of the path, not a client's experience: datagrams counted by the receiver but not echoed back were lost on the way back. \
               Both legs of probes started at either end are pooled. Where no echo came back at all the direction is decided by which SYNs the far kernel saw. \
               Datagrams whose direction of loss cannot be known count against READY and never for NOT READY.",
    },
    CheckSpec {
        id: LOSS_TCP_SYN,
        severity: Severity::Gate,
        claim: "no more connects than the objective need a SYN retransmit",
        witness: "kernel of the source node",
        text: "At 1 % loss a connect almost never fails, it takes a second longer: the retransmit is the loss. A connect that was given up unanswered counts too. \
               Either direction of the path can cause it; loss.udp tells which.",
    },
    CheckSpec {
        id: POLICY_ALLOWED,
        severity: Severity::Gate,
        claim: "pods connect where `policies` of mesh.yaml say allow",
        witness: "prober, pod plane, TCP connect and echo",
        text: "The same trials as reach.pod_tcp, held against the declared intent: a failure here is a policy that contradicts mesh.yaml, or a path that does not work.",
    },
    CheckSpec {
        id: POLICY_DENIED,
        severity: Severity::Gate,
        claim: "no pod connects where `policies` of mesh.yaml say deny",
        witness: "prober, pod plane, TCP connect",
        text: "A few connects between all pairs of nodes. Refused and unanswered ones are as they should be, and no failure of reach; a single one that comes through fails the check. \
               It passes only while nodes of the same link reach each other: on a dead path nothing shows that a policy denies, which leaves it undecided.",
    },
    CheckSpec {
        id: POLICY_INTENT,
        severity: Severity::Info,
        claim: "whether mesh.yaml says who is meant to reach whom",
        witness: "mesh.yaml",
        text: "Without `policies` in mesh.yaml nothing is meant to be denied, and connects that fail are judged by reach alone.",
    },
    CheckSpec {
        id: SERVICE_REACH,
        severity: Severity::Gate,
        claim: "a pod of every cluster reaches every declared service, the cluster that runs it included",
        witness: "prober, pod plane: connect (tcp), an HTTP answer below 500 (http), a tile answered correctly by its own cluster (ndvi)",
        text: "Judged pooled over the asking nodes; single nodes can fail it. Refused means that nothing listens behind the service, timed out that its address is not translated \
               or not routed, wrong_responder that another cluster answers. What its own cluster sees tells a service that is down from one that the mesh does not reach. \
               NDVI services are judged from other clusters by ndvi.success, so only their own cluster is judged here.",
    },
    CheckSpec {
        id: SERVICE_AFFINITY,
        severity: Severity::Gate,
        claim: "a global service is answered by the clusters that its `affinity` says, and by no others",
        witness: "prober: who answered, by the answer (ndvi, http with the header `aggrik8s-responder: cluster/node`), else by the kernel that accepted the connection",
        text: "For services with `backends` in several clusters; one row per asking cluster and cluster with backends, on the same requests as service.reach. \
               Cilium's semantics: `none` all backends answer, `local` an asking cluster's own while one of them is healthy, `remote` those of the others. \
               Backends that are meant to answer must give at least a fifth of their fair share (10 % for two clusters, 6.7 % for three): with 486 answers and none from there, \
               chance is out of the question; session affinity by client address would look the same. Backends that are not meant to answer must give none: a single answer fails \
               while those that are meant answer too, and none in as many answers as the objective needs passes. If those that are meant do not answer at all, the others rightly stand in: \
               that is their failure, and leaves this undecided. Every node that asks can fail by itself. Answers of which nobody knows who gave them count against READY and never for NOT READY: \
               the kernel tells only where the backend listens on the service's own port and the client's address is not translated.",
    },
    CheckSpec {
        id: DNS_RESOLVE,
        severity: Severity::Gate,
        claim: "the declared names of services resolve to their addresses in every cluster",
        witness: "prober, pod plane: one question over UDP per probe, of the agent's own resolver or the declared one",
        text: "One row per asking cluster and name of `services[].names`; without names there is nothing to claim, and no row. IPv4 addresses are asked for as A, IPv6 ones as AAAA, \
               each question from a source port of its own. Good is an answer without an error whose addresses are all the service's. `no_such_name`: the resolver says that there is none, \
               or none of that family; `server_failure`: it answers that it cannot; `wrong_address`: another address; `timeout`: no answer within two seconds, which a stub resolver would \
               ask for again; `refused`: nothing listens there. Judged pooled over the asking nodes; single nodes can fail it. Search lists and caches of stub resolvers are not used. \
               Whether the service itself answers at its address is service.reach and ndvi.success: the cause compares the two.",
    },
    CheckSpec {
        id: DNS_LATENCY,
        severity: Severity::Warn,
        claim: "99 % of the questions for services' names are answered within 100 ms",
        witness: "prober, pod plane, from sending the question to the answer",
        text: "A question without a right answer is slower than every threshold. Applications pay it before each connect that does not find the name in a cache. \
               Slow while the pods' connects are fast: the resolver's CPU limits, its own upstream, too few replicas, or conntrack races that lose one of two questions.",
    },
    CheckSpec {
        id: CONTROL_TCP,
        severity: Severity::Info,
        claim: "how TCP probes fare between the pods of one cluster",
        witness: "prober, pod plane, TCP connect and echo",
        text: "A few probes from every node to its neighbours while the links are probed. They decide nothing: they tell a node that is broken, also towards its neighbours, \
               from one that only the mesh treats badly. A mesh of one cluster has no control, because there the same probes are what is judged.",
    },
    CheckSpec {
        id: CONTROL_UDP,
        severity: Severity::Info,
        claim: "how UDP probes fare between the pods of one cluster",
        witness: "prober, pod plane, UDP echo",
        text: "As control.pod_tcp, with datagrams.",
    },
    CheckSpec {
        id: JITTER_PATH,
        severity: Severity::Warn,
        claim: "99 % of the packets of the path take no longer than its fastest, plus the objective",
        witness: "kernels of both ends: the handshake's ACK, sent here and taken there",
        text: "Judges one direction of the path. For every connect of a pod-plane probe, one-way time = (established at the target) − (established at the source); \
               its variation is that minus the smallest of the same two nodes, so that the offset of their clocks drops out (RFC 5481, packet delay variation). \
               Bad is what exceeds `jitter_p99`, by default the node pair's shortest round trip + 10 ms; at most 1 % may be bad. A gate when `jitter_p99` is declared, else a warning.",
    },
    CheckSpec {
        id: MTU_PATH,
        severity: Severity::Gate,
        claim: "the path between pods carries the largest packet that the sender's kernel lets out, or the declared `mtu`",
        witness: "path MTU search, pod plane, exact to the byte, after the probes",
        text: "Judges one direction of the path. Fails when packets that the sender believes to fit vanish without a word (an MTU black hole: handshakes and small requests pass, \
               large transfers hang), when a hop says \"too big\" and the sender's kernel sends as large as before, or below the declared `mtu`. \
               A smaller path is fine when the sender's kernel has learnt of it, from the hop or through its tunnel. `mtu_limit` says what limits the path: `local`, `packet_too_big`, \
               `absorbed`, `silent`, `ceiling`. Undecided when a node has no figure on the path; each node is measured with two partners of the other cluster. \
               The value to set is in the hint.",
    },
    CheckSpec {
        id: MTU_NODE_PATH,
        severity: Severity::Gate,
        claim: "the path between nodes carries the largest packet that the sender's kernel lets out",
        witness: "path MTU search, node plane, exact to the byte, after the probes",
        text: "As mtu.path, for packets of the nodes themselves: API servers, ClusterMesh, and the tunnel's own packets travel like this.",
    },
    CheckSpec {
        id: MTU_UNDERLAY,
        severity: Severity::Gate,
        claim: "the pods' largest packet, with its tunnel header, crosses between the nodes unfragmented",
        witness: "path MTU searches of both planes between the same nodes",
        text: "Pods do not notice that the packets of their tunnel are cut and put together again: it halves the packet rate, and one hop that drops fragments breaks it. \
               Proven, and a gate, when pods get more across than nodes do. Only a warning when the nodes' path is short of the tunnel header alone, taken as the difference between \
               the interfaces' MTUs: without a tunnel that may be a choice.",
    },
    CheckSpec {
        id: THROUGHPUT_TCP,
        severity: Severity::Gate,
        claim: "one TCP connection between pods carries at least `throughput` in this direction of the path",
        witness: "bounded transfer, counted by the receiver; small echoes beside it; both after the probes",
        text: "A gate when `throughput` is declared, else a figure. At most 16 MB or 0.4 s each way, one at a time per node and per pair of clusters. Pairs of nodes that fall short \
               are measured again, alone, and the better figure counts. Without an objective a pair that twice carries less than 60 % of its fastest sibling, and makes \
               small echoes wait (p99 under load − shortest > 5 ms and > the shortest), is a warning. A node that is slow towards everybody is named. \
               Not measured where large packets vanish: see mtu.path.",
    },
    CheckSpec {
        id: NDVI_SUCCESS,
        severity: Severity::Gate,
        claim: "NDVI tiles posted from the source cluster get correct answers",
        witness: "prober, whole request including the arithmetic of the answer",
        text: "Every tile is checked value by value. Refused while the same cluster's pods answer means that the service has no backend; \
               timed out while they answer means that its address is not translated or not routed.",
    },
    CheckSpec {
        id: NDVI_ROUND_TRIP,
        severity: Severity::Gate,
        claim: "NDVI tiles are answered within `ndvi_round_trip_seconds`, as often as `ndvi_success` asks",
        witness: "prober, from sending the tile to the last byte of the answer",
        text: "A failed tile is later than every deadline.",
    },
    CheckSpec {
        id: NDVI_BYTES,
        severity: Severity::Info,
        claim: "bytes that each external client and cluster exchanged with the service during the run",
        witness: "kernels of the nodes that run the service",
        text: "Counted by the kernel on the accepting side per client prefix of mesh.yaml. Clients behind NAT are `world`, never guessed. Our own tiles are counted apart.",
    },
];

/// All checks as mesh.yaml may name them, see [`mesh::Mesh::parse_knowing`].
pub fn known() -> Vec<mesh::KnownCheck<'static>> {
    CHECKS
        .iter()
        .map(|spec| mesh::KnownCheck {
            id: spec.id,
            fixed: spec.fixed(),
        })
        .collect()
}

/// Whether `id` judges one direction of a path rather than what a client of the link experiences.
pub fn of_path(id: &str) -> bool {
    matches!(
        id,
        LOSS_UDP | JITTER_PATH | MTU_PATH | MTU_NODE_PATH | MTU_UNDERLAY | THROUGHPUT_TCP
    )
}

/// Mean burst of bad trials that a pass of `id` reckons with although none was met, in probes of one node; 1:
/// independent ones. Packets are lost in bursts. The first look excludes 1.57 of a node without any loss
/// (`stats::longest_burst_excluded`); the rest is for probes that another fault takes away.
pub fn burst(id: &str) -> f64 {
    match id {
        POD_TCP | POD_UDP | LOSS_UDP | LOSS_TCP_SYN => 1.4,
        _ => 1.0,
    }
}

/// Whether `id` rests on measurements that are made after the probes.
pub fn measured(id: &str) -> bool {
    matches!(id, MTU_PATH | MTU_NODE_PATH | MTU_UNDERLAY | THROUGHPUT_TCP)
}

/// Whether `id` is judged from what API servers say.
pub fn of_clusters(id: &str) -> bool {
    id == CONFIG_IDS || id == CONFIG_CIDRS || CLUSTERS.iter().any(|spec| spec.id == id)
}

/// Whether `id` is judged from mesh.yaml and the agents.
pub fn of_mesh(id: &str) -> bool {
    MESH.iter().any(|spec| spec.id == id)
}

/// The spec of `id`.
pub fn find(id: &str) -> Option<&'static CheckSpec> {
    CHECKS.iter().find(|spec| spec.id == id)
}

/// Whether `id` matches `glob`, in which `*` stands for any characters.
pub fn glob_matches(glob: &str, id: &str) -> bool {
    match glob.split_once('*') {
        None => glob == id,
        Some((head, rest)) => id.strip_prefix(head).is_some_and(|tail| {
            tail.char_indices()
                .map(|(at, _)| at)
                .chain([tail.len()])
                .any(|at| glob_matches(rest, &tail[at..]))
        }),
    }
}

/// docs/checks.md.
pub fn markdown() -> String {
    let mut out = String::from(
        "# Checks\n\n\
         Generated from `verify/src/checks.rs`; `aggrik8s explain ID` prints the same text offline.\n\
         How a check is decided: [verdict.md](verdict.md).\n\n\
         | id | severity | holds when |\n|---|---|---|\n",
    );
    for spec in CHECKS {
        out += &format!(
            "| [`{}`](#{}) | {} | {} |\n",
            spec.id,
            spec.id.replace('.', ""),
            severity_word(spec.severity),
            spec.claim
        );
    }
    for spec in CHECKS {
        out += &format!(
            "\n## `{}`\n\n{}: {}.\n\nWitness: {}.\n\n{}\n",
            spec.id,
            severity_word(spec.severity),
            spec.claim,
            spec.witness,
            spec.text
        );
    }
    out
}

pub fn severity_word(severity: Severity) -> &'static str {
    match severity {
        Severity::Gate => "gate",
        Severity::Warn => "warn",
        Severity::Info => "info",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_well_formed() {
        for (at, spec) in CHECKS.iter().enumerate() {
            let (family, claim) = spec.id.split_once('.').expect("family.claim");
            assert!(!family.is_empty() && !claim.is_empty());
            assert!(
                CHECKS[..at].iter().all(|other| other.id != spec.id),
                "{}",
                spec.id
            );
            assert!(!spec.claim.is_empty() && !spec.witness.is_empty() && spec.text.len() > 20);
        }
    }

    #[test]
    fn globs() {
        let cases = [
            ("reach.pod_tcp", "reach.pod_tcp", true),
            ("reach.*", "reach.pod_tcp", true),
            ("*", "reach.pod_tcp", true),
            ("*.pod_*p", "reach.pod_udp", true),
            ("reach", "reach.pod_tcp", false),
            ("loss.*", "reach.pod_tcp", false),
            ("", "reach.pod_tcp", false),
            ("*tcp*udp", "reach.pod_tcp", false),
        ];
        for (glob, id, expected) in cases {
            assert_eq!(glob_matches(glob, id), expected, "{glob} {id}");
        }
    }
}
