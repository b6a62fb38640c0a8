//! Every cause: its id, what its evidence looks like, and what to look at. `explain` and docs/causes.md read this.

use crate::control::table::CAUSES as CLUSTERS;

/// One kind of cause. Ids are stable: never renamed, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CauseSpec {
    pub id: &'static str,
    /// One line: what is the matter.
    pub claim: &'static str,
    /// What the witnesses must have seen for it to be named.
    pub signature: &'static str,
    /// Where to look next.
    pub next: &'static str,
}

pub(crate) const fn spec(
    id: &'static str,
    claim: &'static str,
    signature: &'static str,
    next: &'static str,
) -> CauseSpec {
    CauseSpec {
        id,
        claim,
        signature,
        next,
    }
}

/// All causes, by area.
pub const CAUSES: &[CauseSpec] = &joined();

const fn joined() -> [CauseSpec; MESH.len() + CLUSTERS.len()] {
    let mut all = [MESH[0]; MESH.len() + CLUSTERS.len()];
    let mut at = 0;
    while at < all.len() {
        all[at] = if at < MESH.len() {
            MESH[at]
        } else {
            CLUSTERS[at - MESH.len()]
        };
        at += 1;
    }
    all
}

/// Causes that measurements name.
const MESH: &[CauseSpec] = &[
    spec(
        "path.blackhole",
        "one path direction, or both, drops everything",
        "connects of both initiators stay unanswered; the far kernel saw the SYNs of one side only, or of neither when both directions are dead",
        "routes and filters of the fabric along the direction that is named, hop by hop; when nodes reach each other and pods do not, the tunnel",
    ),
    spec(
        "path.return",
        "requests arrive and answers do not come back",
        "SYNs stay unanswered at the source although the target's kernel recorded them, while the other initiator's connects work or are not in scope",
        "the route back, reverse-path filters, stateful firewalls that saw only half of the connection",
    ),
    spec(
        "path.loss",
        "one path direction loses packets",
        "receiver counts of that direction; both initiators need SYN retransmits",
        "error and drop counters of the interfaces along the direction, duplex and speed, a full queue",
    ),
    spec(
        "path.flows",
        "some flows of a path direction always fail, the others never",
        "as path.loss, and the connects whose first SYN was lost stay unanswered when it is sent again on the same ports; the losses do not come in bursts",
        "the members of every ECMP or LAG group and the queues of the NICs along the direction; replay the ports that are listed",
    ),
    spec(
        "path.longer",
        "the path became longer",
        "even the shortest time is near or beyond the threshold, or grew since the baseline as much as the median did; which direction, from the kernels' time stamps of both ends where their clocks are known well enough",
        "a changed route, a detour through another site, a tunnel that ends elsewhere",
    ),
    spec(
        "path.queueing",
        "packets wait on the way",
        "slow connects although the shortest is short, or slower ones than in the baseline although the shortest is as short, for prober and kernel alike",
        "load of the links along the path, a rate limit, a queue without management",
    ),
    spec(
        "path.unanswered",
        "nothing comes back, and nobody can say where it is lost",
        "connects stay unanswered and no kernel at the target tells whether SYNs arrived",
        "make the kernel witness work on both ends (`aggrik8s-probe load --check`), then verify again",
    ),
    spec(
        "policy.pod_plane",
        "a policy drops what one side starts towards the pods of the other",
        "SYNs of one initiator never reach the target pods; the target's own connects the other way, and the nodes' connects, work",
        "policies that select the target pods, egress policies at the source, drop counters of the CNI",
    ),
    spec(
        "policy.open",
        "pods connect although mesh.yaml denies it",
        "connects of a denied link come through",
        "policies that should select the target pods, and whether they know the other cluster's identities",
    ),
    spec(
        "filter.one_way",
        "a firewall drops what one side starts",
        "as policy.pod_plane, for pods and nodes alike",
        "stateful rules between the node networks, rules on the target nodes",
    ),
    spec(
        "filter.udp",
        "datagrams of one side are filtered",
        "no datagram of one initiator is echoed while its connects work, and most of the opposite run are",
        "filters and conntrack entries for UDP along the path",
    ),
    spec(
        "filter.tcp",
        "TCP of one path direction is dropped",
        "connects of both initiators stay unanswered as on a dead path, while datagrams pass in that direction",
        "TCP rules of the firewalls along the direction, and of the CNI at both ends",
    ),
    spec(
        "filter.http",
        "something on the path reads HTTP and objects",
        "HTTP fails while TCP on the same path works",
        "proxies, L7 policies, sidecars",
    ),
    spec(
        "filter.node_plane",
        "the nodes' connects fail, the pods' work",
        "node plane fails alone",
        "firewalls of the nodes' own addresses",
    ),
    spec(
        "target.refuses",
        "connects are refused",
        "RST at once; the target kernel's records tell whether the SYN got that far",
        "whether the responder listens on the node named, reject rules",
    ),
    spec(
        "responder.other",
        "somebody else answers",
        "answers from another node than was asked, or without our nonce",
        "overlapping pod CIDRs, a proxy or load balancer in between",
    ),
    spec(
        "service.no_backend",
        "the service refuses: nothing listens behind it",
        "requests are refused while the pods of the same cluster answer",
        "the pods behind the service and its endpoints",
    ),
    spec(
        "service.resets",
        "the service breaks connections off",
        "requests are reset while the pods of the same cluster answer",
        "crashes and restarts of the pods behind the service, timeouts of a proxy before it",
    ),
    spec(
        "service.unanswered",
        "the service does not answer although its cluster does",
        "requests time out while the pods of the same cluster answer",
        "translation of its address on the asking nodes, its backends, a policy for its port",
    ),
    spec(
        "service.wrong_answer",
        "what answers is not the service, or computes wrongly",
        "answers come, and are not the right ones",
        "the version and log of the service; whether its address belongs to it",
    ),
    spec(
        "service.slow",
        "the service answers too late",
        "connects are fast, whole requests are not",
        "CPU, GPU queue and number of the backends; throughput of the path",
    ),
    spec(
        "service.local_only",
        "a global service reaches only local backends",
        "all answers that a cluster gets come from its own backends, although others' are meant to answer and answer others, or answer at home",
        "the global annotation on the service in both clusters (same name and namespace), the affinity, EndpointSlices and service sync of both clusters",
    ),
    spec(
        "service.affinity_ignored",
        "a global service is answered by backends that its affinity leaves out",
        "answers from a cluster that the affinity excludes, while those that are meant answer as well, or answer others",
        "the affinity annotation in the asking cluster, stale endpoints, a service of the same name that is not global",
    ),
    spec(
        "service.not_synced",
        "one cluster does not know another's backends of a global service",
        "the backends of a cluster answer others, and never this one",
        "`shared` in the cluster that runs them, service sync of the asking cluster, its connection to the other's control plane",
    ),
    spec(
        "service.backend_missing",
        "no backend of a global service in one cluster answers anybody",
        "every cluster that is meant to be answered from there gets answers, and none from there",
        "the pods behind the service in that cluster, its `global` and `shared` annotations there",
    ),
    spec(
        "dns.unanswered",
        "the resolver of a cluster does not answer",
        "questions for declared names time out or are refused; the summary says whether the services' addresses work",
        "the resolver's pods and endpoints, policies for UDP 53",
    ),
    spec(
        "dns.no_such_name",
        "a declared name does not exist for the resolver of a cluster",
        "NXDOMAIN, or no address of the family",
        "spelling and namespace, ServiceExport and ServiceImport, the `clusterset.local` zone of the resolver",
    ),
    spec(
        "dns.server_failure",
        "the resolver of a cluster answers with an error",
        "SERVFAIL, REFUSED or another code that is neither an answer nor NXDOMAIN",
        "the resolver's log: upstream, API server, zones",
    ),
    spec(
        "dns.wrong_address",
        "a declared name resolves to another address",
        "answers without an error whose addresses are not all the declared ones",
        "the address of the Service or ServiceImport, stale caches, another service of the same name",
    ),
    spec(
        "dns.slow",
        "the resolver of a cluster answers late",
        "right answers, more than 1 % of them after 100 ms",
        "CPU limits and replicas of the resolver, its upstream, conntrack races",
    ),
    spec(
        "node.cut_off",
        "one node is cut off",
        "the same dead paths to or from every other cluster, each confined to this one node",
        "the node, its port on the fabric, the CNI's tunnel and keys on it",
    ),
    spec(
        "node.lossy",
        "one node loses packets",
        "the same loss to or from every other cluster, each confined to this one node",
        "interface errors, speed and duplex, its port on the fabric",
    ),
    spec(
        "node.slow",
        "one node is slow",
        "the same delay to or from every other cluster, each confined to this one node",
        "interface, CPU pressure, its port on the fabric",
    ),
    spec(
        "node.starved",
        "the prober did not get the processor",
        "slow for the prober, not for its kernel",
        "CPU pressure on the node that is named",
    ),
    spec(
        "node.clock",
        "a wall clock is wrong",
        "config.clock",
        "the node's time server",
    ),
    spec(
        "agent.unreachable",
        "an agent gave no usable answer",
        "its API cannot be asked, or its answers cannot be believed; its links are unknown, which is no network verdict",
        "the agent on the node that is named",
    ),
    spec(
        "agent.starved",
        "the agents of a node hardly get to run",
        "so many samples of the node are void near stalls of their source that latency stays undecided",
        "CPU pressure and limits of the agents on the node that is named",
    ),
    spec(
        "evidence.contradiction",
        "witnesses contradict each other",
        "evidence.agreement",
        "a proxy in between, `aggrik8s-probe load --check` on both nodes",
    ),
    spec(
        "config.shared_id",
        "clusters share an id or a name",
        "config.ids",
        "mesh.yaml and Cilium's values",
    ),
    spec(
        "config.overlap",
        "ranges of clusters overlap",
        "config.cidrs",
        "renumber one of the two ranges",
    ),
    spec(
        "loss.tcp_only",
        "SYNs are lost, datagrams are not",
        "SYNs had to be sent again while datagrams pass in both directions",
        "limits on new connections, SYN proxies, full listen queues, conntrack",
    ),
    spec(
        "loss.undirected",
        "packets are lost, the direction is not known",
        "too few datagrams tell in which direction",
        "run again with a longer --window",
    ),
    spec(
        "mtu.black_hole",
        "large packets vanish on one path direction",
        "packets above X are dropped without a word and the sender's kernel lets out more; tiles that hang for it are claimed as well",
        "the hint has the value to set: X for the pods, X with the tunnel's header for Cilium's `MTU`; `tracepath -n` finds the hop",
    ),
    spec(
        "mtu.ignored",
        "a sender ignores the path MTU",
        "a hop says \"too big\", and the sender's kernel lets out as much as before",
        "ICMP filters of the host, `ip route get` with its mtu, `nstat -az IcmpInErrors`",
    ),
    spec(
        "mtu.below_declared",
        "a path is smaller than mesh.yaml declares",
        "the sender's kernel knows the path MTU, which is below `mtu`",
        "the MTU of the fabric's links, or the objective",
    ),
    spec(
        "mtu.fragmented",
        "the tunnel's packets are cut into fragments",
        "pods get across what nodes do not, or would not with the tunnel's header",
        "the pods' MTU, by the hint; `nstat -az IpFragCreates` on the nodes",
    ),
    spec(
        "path.slow_port",
        "a path carries too little, and queues",
        "transfers fall short of the objective or of their siblings, and the round trip beside them explodes",
        "speed and duplex of the ports (`ethtool`, the switch's side), shapers (`tc -s qdisc`), other traffic",
    ),
    spec(
        "path.thin",
        "a path carries too little, and nothing waits",
        "transfers fall short of the objective, and the round trip beside them stays as it is",
        "CPU pressure, socket buffers, encryption without offload, loss",
    ),
    spec(
        "path.jitter",
        "one path direction delivers some packets late",
        "one-way times of the handshakes' last packets lie apart by more than `jitter_p99`, while latency is within its own objective",
        "queues, shapers and radio links along the direction",
    ),
    spec(
        "node.mtu",
        "large packets of one node vanish",
        "`mtu.black_hole` or `mtu.ignored` on its paths to or from every other cluster, confined to it",
        "the MTU of its interface, port and tunnel, against another node's",
    ),
    spec(
        "node.slow_port",
        "one node's port is slow",
        "`path.slow_port` on its paths to or from every other cluster, confined to it",
        "speed and duplex of its port (`ethtool`), cable, host; compare with another node",
    ),
    spec(
        "unknown",
        "no known cause fits",
        "failures that no rule claims, with their figures as evidence",
        "`observed.failures` and `marginals` of the checks in -o json",
    ),
];

/// The spec of `id`.
pub fn find(id: &str) -> Option<&'static CauseSpec> {
    CAUSES.iter().find(|spec| spec.id == id)
}

/// docs/causes.md.
pub fn markdown() -> String {
    let mut out = String::from(
        "# Causes\n\n\
         Generated from `verify/src/causes/table.rs`; `aggrik8s explain ID` prints the same text offline.\n\
         A cause is named when its signature fits; what fits none is `unknown`, with its evidence. How they are ranked: [verdict.md](verdict.md).\n\n\
         | id | what is the matter | signature | next look |\n|---|---|---|---|\n",
    );
    for spec in CAUSES {
        out += &format!(
            "| `{}` | {} | {} | {} |\n",
            spec.id, spec.claim, spec.signature, spec.next
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_none_is_a_check() {
        for (at, spec) in CAUSES.iter().enumerate() {
            assert!(
                CAUSES[..at].iter().all(|other| other.id != spec.id),
                "{}",
                spec.id
            );
            assert!(crate::checks::find(spec.id).is_none(), "{}", spec.id);
            for text in [spec.claim, spec.signature, spec.next] {
                assert!(!text.is_empty() && !text.contains('|'), "{text}");
            }
        }
    }
}
