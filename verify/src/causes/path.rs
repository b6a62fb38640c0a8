//! Connects that mostly fail: a dead path direction, a filter, a refusal, or somebody else answering.

use mesh::Link;
use mesh::observation::{Plane, ProbeKind};

use super::facts::{Arrival, Facts, failing_scope};
use super::{Case, Found, cause, direction, example, pairs, reverse, rival};
use crate::checks::{
    AGREEMENT, COVERAGE, LOSS_TCP_SYN, LOSS_UDP, NDVI_ROUND_TRIP, NDVI_SUCCESS, NODE_TCP, POD_HTTP,
    POD_TCP, POD_UDP, SERVICE_REACH,
};
use crate::tally::Scope;
use crate::verdict::{Check, PlaneName};

pub(super) fn find(case: &mut Case<'_, '_>) {
    for link in pairs(case.view) {
        let back = reverse(&link);
        // Twice: a second, different fault of the same pair may hide behind the first.
        for _ in 0..2 {
            let forth = hard(case, &link);
            let other = if back == link {
                None
            } else {
                hard(case, &back)
            };
            match (forth, other) {
                (Some(a), Some(b)) if a.silent() && b.silent() => both_ways(case, &a, &b),
                (Some(a), b) => {
                    one_way(case, &a);
                    if let Some(b) = b {
                        one_way(case, &b);
                    }
                }
                (None, Some(b)) => one_way(case, &b),
                (None, None) => break,
            }
        }
        for link in [&link, &back] {
            udp_only(case, link);
            node_only(case, link);
            http_only(case, link);
        }
    }
}

/// An initiator link on which most connects of a scope fail.
struct Broken {
    link: Link,
    scope: Scope,
    pod: Facts,
    node: Facts,
    udp: Facts,
}

impl Broken {
    /// Nothing comes back, rather than something wrong.
    fn silent(&self) -> bool {
        self.pod.mostly(self.pod.timeout + self.pod.unreachable)
    }

    fn lines(&self) -> Vec<String> {
        let pod = &self.pod;
        let name = direction(&self.link, &self.scope);
        let mut lines = vec![format!(
            "{name}: {} of {} TCP probes failed ({})",
            pod.failed,
            pod.n,
            pod.kinds()
        )];
        if pod.unanswered > 0 {
            lines.push(format!(
                "{name}: the source's kernel got no answer to {} connects; {}",
                pod.unanswered,
                pod.arrivals()
            ));
        }
        if self.node.n > 0 {
            lines.push(format!(
                "{name}, node plane: {} of {} connects failed",
                self.node.failed, self.node.n
            ));
        }
        if self.udp.n > 0 {
            lines.push(format!(
                "{name}: {} of {} datagrams were not echoed",
                self.udp.failed, self.udp.n
            ));
        }
        lines
    }
}

fn hard(case: &Case<'_, '_>, link: &Link) -> Option<Broken> {
    if !case.open(POD_TCP, link) {
        return None;
    }
    let scope = failing_scope(case.view, link, Plane::Pod, ProbeKind::Tcp);
    let facts = |plane, kind| Facts::of(case.view, link, plane, kind, &scope);
    let (pod, node) = (
        facts(Plane::Pod, ProbeKind::Tcp),
        facts(Plane::Node, ProbeKind::Tcp),
    );
    let udp = facts(Plane::Pod, ProbeKind::Udp);
    // What is silent for some only is loss; a wrong answer is one however many get it. Resets no rule knows.
    let silent = pod.mostly(pod.timeout + pod.unreachable);
    let foreign = pod.mostly(pod.foreign);
    // The right node had the connection: what came of its answers is another matter.
    let spoilt = foreign && 2 * pod.foreign_seen > pod.foreign;
    let broken = if silent {
        pod.dead()
    } else {
        pod.hard() && (pod.mostly(pod.refused) || (foreign && !spoilt))
    };
    broken.then(|| Broken {
        link: link.clone(),
        scope: scope.clone(),
        pod,
        node,
        udp,
    })
}

/// Checks that a link without working connects drags along. What is refused has a backend problem of its own.
fn dragged(check: &Check, link: &Link) -> bool {
    let fault_of_its_own = matches!(
        check.id.as_str(),
        NDVI_SUCCESS | NDVI_ROUND_TRIP | SERVICE_REACH
    ) && check.observed.failures.contains_key("refused");
    super::on(check, link) && !fault_of_its_own && check.id != LOSS_UDP
}

fn both_ways(case: &mut Case<'_, '_>, a: &Broken, b: &Broken) {
    let (there, back) = (a.pod.arrival(), b.pod.arrival());
    match (there, back) {
        (Arrival::None, Arrival::All | Arrival::Some) => blackhole(case, a, b, true),
        (Arrival::All | Arrival::Some, Arrival::None) => blackhole(case, b, a, true),
        (Arrival::None, Arrival::None) => blackhole(case, a, b, false),
        _ => {
            let summary = format!(
                "nothing comes back on {} in either role; which direction drops it is not visible",
                direction(&a.link, &a.scope)
            );
            let hint = format!(
                "make the kernel witness work on both ends (`aggrik8s-probe load --check`), then {}",
                look(case, a)
            );
            let mut found = cause("path.unanswered", &a.link, &a.scope, summary, hint);
            found.evidence = [a.lines(), b.lines()].concat();
            found.rivals = vec![rival(
                "either path direction drops packets",
                "the target kernels' records of arriving SYNs",
            )];
            let links = [a.link.clone(), b.link.clone()];
            case.name(found, |check| {
                links.iter().any(|link| {
                    dragged(check, link) || (super::on(check, link) && check.id == LOSS_UDP)
                })
            });
        }
    }
}

/// `dead` is the initiator link whose own direction drops everything.
fn blackhole(case: &mut Case<'_, '_>, dead: &Broken, other: &Broken, one_direction: bool) {
    let name = direction(&dead.link, &dead.scope);
    if one_direction && dead.udp.n > 0 && !dead.udp.hard() {
        return tcp_filter(case, dead, other);
    }
    // The node plane takes the same road without the overlay.
    let overlay = dead.node.n > 0 && !dead.node.hard();
    let road = if overlay {
        "in the pod network; the nodes reach each other"
    } else {
        "for pods and nodes alike"
    };
    let summary = if one_direction {
        format!("path {name} drops everything {road}; the way back works")
    } else {
        format!("path {name} drops everything in both directions {road}")
    };
    let mut found = cause(
        "path.blackhole",
        &dead.link,
        &dead.scope,
        summary,
        look(case, dead),
    );
    found.plane = overlay.then_some(PlaneName::Pod);
    found.evidence = [dead.lines(), other.lines()].concat();
    found.rivals = if overlay {
        vec![rival(
            "a policy drops it at the target in both roles",
            "drop counters of the CNI on the target node",
        )]
    } else {
        vec![rival(
            "a filter for this direction rather than a missing route",
            "drop counters of the filters along it",
        )]
    };
    let (dead_link, other_link) = (dead.link.clone(), other.link.clone());
    case.name(found, |check| {
        let path = check.id == LOSS_UDP
            && (super::on(check, &dead_link) || (!one_direction && super::on(check, &other_link)));
        path || dragged(check, &dead_link) || dragged(check, &other_link)
    });
}

/// Datagrams pass where no SYN does.
fn tcp_filter(case: &mut Case<'_, '_>, dead: &Broken, other: &Broken) {
    let name = direction(&dead.link, &dead.scope);
    let at = example(case.view, &dead.link, &dead.scope);
    let hint = format!(
        "TCP rules of the firewalls between `{}` and `{}`, and of the CNI on both, in this direction",
        at.source_node, at.target_node
    );
    let mut found = cause(
        "filter.tcp",
        &dead.link,
        &dead.scope,
        format!("TCP of path {name} is dropped while UDP passes"),
        hint,
    );
    found.evidence = [dead.lines(), other.lines()].concat();
    found.rivals = vec![rival(
        "conntrack refuses TCP state",
        "conntrack statistics (`conntrack -S`) along the path",
    )];
    let (dead, other) = (dead.link.clone(), other.link.clone());
    case.name(found, |check| {
        dragged(check, &dead) || dragged(check, &other)
    });
}

/// The other initiator of this pair works, or fails differently.
fn one_way(case: &mut Case<'_, '_>, broken: &Broken) {
    let (link, scope, pod) = (&broken.link, &broken.scope, &broken.pod);
    let name = direction(link, scope);
    let at = example(case.view, link, scope);
    let reverse_in_scope = case.scoped(&reverse(link));
    let mut found: Found;
    if pod.mostly(pod.foreign) {
        let hint = format!(
            "on `{}`: `ip route get {}` and compare the pod CIDRs of all clusters",
            at.source_node, at.target_pod
        );
        found = cause(
            "responder.other",
            link,
            scope,
            format!("somebody else answers what {name} is asked"),
            hint,
        );
        found.rivals = vec![
            rival(
                "overlapping pod CIDRs",
                "`config.cidrs` and the routes of both clusters",
            ),
            rival(
                "a proxy or a load balancer in between",
                "the connection's other end: evidence.agreement",
            ),
        ];
    } else if pod.mostly(pod.refused) {
        let seen = pod.refused_seen > 0;
        let who = if seen {
            "the target node itself refuses"
        } else {
            "something refuses before any listener is asked"
        };
        let hint = format!(
            "on `{}`: is the responder listening (`ss -ltn`), and does a firewall reject (`nft list ruleset`)?",
            at.target_node
        );
        found = cause(
            "target.refuses",
            link,
            scope,
            format!("connects {name} are refused: {who}"),
            hint,
        );
        found.rivals = vec![rival(
            "a reject rule in between",
            "the reject counters along the path",
        )];
    } else if pod.arrival() == Arrival::All || pod.arrival() == Arrival::Some {
        let summary = if reverse_in_scope {
            format!(
                "SYNs of {name} arrive, their answers do not come back, although the same path carries connects of the other side"
            )
        } else {
            format!(
                "SYNs of {name} arrive, their answers do not come back: path {} is broken",
                direction(&reverse(link), &scope.mirrored())
            )
        };
        let hint = format!(
            "on `{}`: `ip route get` towards the source pod, reverse-path filter and stateful firewalls on the way back",
            at.target_node
        );
        found = cause("path.return", link, scope, summary, hint);
        found.rivals = vec![rival(
            "a stateful device saw only half of the connection",
            "conntrack tables on the way back",
        )];
    } else if pod.arrival() == Arrival::Unknown {
        let hint = format!(
            "make the kernel witness work on both ends (`aggrik8s-probe load --check`), then {}",
            look(case, broken)
        );
        found = cause(
            "path.unanswered",
            link,
            scope,
            format!("connects {name} stay unanswered; whether they arrive is not visible"),
            hint,
        );
        found.rivals = vec![
            rival(
                "the path drops them",
                "the target kernel's records of arriving SYNs",
            ),
            rival("the target does not answer", "the same"),
        ];
    } else if !reverse_in_scope {
        let summary = format!("path {name} drops connects: none reaches the target's kernel");
        found = cause("path.blackhole", link, scope, summary, look(case, broken));
        found.rivals = vec![rival(
            "a policy that drops what this side starts",
            "the link in the other direction, which is not in scope",
        )];
    } else if broken.node.n > 0 && !broken.node.hard() {
        let summary = format!(
            "a policy or filter drops what {name} starts in the pod network: SYNs never reach the target pod, while its own connects the other way and the nodes' connects work"
        );
        let hint = format!(
            "on `{}`: drop counters of the CNI and `nft list ruleset` in the pod's namespace; policies that select the target pods in `{}`, and egress policies in `{}`",
            at.target_node, link.target, link.source
        );
        found = cause("policy.pod_plane", link, scope, summary, hint);
        found.plane = Some(PlaneName::Pod);
        found.rivals = vec![rival(
            "an egress policy at the source instead of an ingress policy at the target",
            "drop counters on both nodes",
        )];
    } else {
        let summary = format!(
            "a firewall drops what {name} starts, pods and nodes alike, while connects the other way work"
        );
        let hint = format!(
            "the stateful rules between the node networks, and `nft list ruleset` on `{}`",
            at.target_node
        );
        found = cause("filter.one_way", link, scope, summary, hint);
        found.rivals = vec![rival(
            "rules at the source instead of the target",
            "drop counters on both sides",
        )];
    }
    found.evidence = broken.lines();
    if let Some(check) = case.check(POD_TCP, &reverse(link))
        && let (Some(n), Some(bad)) = (check.observed.n, check.observed.bad)
        && reverse_in_scope
    {
        found.evidence.push(format!(
            "{}: {bad} of {n} TCP probes failed",
            direction(&reverse(link), &Scope::Everywhere)
        ));
    }
    let link = link.clone();
    case.name(found, |check| {
        let path =
            check.id == LOSS_UDP && (super::on(check, &link) || super::on(check, &reverse(&link)));
        path || dragged(check, &link)
    });
}

fn udp_only(case: &mut Case<'_, '_>, link: &Link) {
    if !case.open(POD_UDP, link) || case.failed(POD_TCP, link) {
        return;
    }
    let scope = failing_scope(case.view, link, Plane::Pod, ProbeKind::Udp);
    let facts = Facts::of(case.view, link, Plane::Pod, ProbeKind::Udp, &scope);
    if !facts.hard() {
        return;
    }
    // Echoes fail in both roles; which direction swallows the datagrams, the responders' counts tell.
    let back = reverse(link);
    let turned = case.failed(LOSS_UDP, &back) && !case.failed(LOSS_UDP, link);
    let (path, on_path) = if turned {
        (&back, scope.mirrored())
    } else {
        (link, scope.clone())
    };
    let name = direction(path, &on_path);
    let at = example(case.view, path, &on_path);
    let hint = format!(
        "UDP rules of the firewalls between `{}` and `{}`, and of the CNI on `{}`",
        at.source_node, at.target_node, at.target_node
    );
    let mut found = cause(
        "filter.udp",
        path,
        &on_path,
        format!("UDP of {name} is dropped while TCP passes"),
        hint,
    );
    found.evidence = vec![format!(
        "{}: {} of {} datagrams were not echoed, TCP connects succeed",
        direction(link, &scope),
        facts.failed,
        facts.n
    )];
    found.rivals = vec![rival(
        "conntrack drops UDP flows",
        "conntrack statistics on both nodes",
    )];
    let link = link.clone();
    case.name(found, |check| {
        matches!(check.id.as_str(), POD_UDP | LOSS_UDP)
            && (super::on(check, &link) || super::on(check, &reverse(&link)))
    });
}

fn node_only(case: &mut Case<'_, '_>, link: &Link) {
    if !case.open(NODE_TCP, link) || case.failed(POD_TCP, link) {
        return;
    }
    let scope = failing_scope(case.view, link, Plane::Node, ProbeKind::Tcp);
    let facts = Facts::of(case.view, link, Plane::Node, ProbeKind::Tcp, &scope);
    if !facts.hard() {
        return;
    }
    let name = direction(link, &scope);
    let at = example(case.view, link, &scope);
    let hint = format!(
        "on `{}`: the host firewall for port {} from `{}`",
        at.target_node,
        mesh::RESPONDER_ECHO_PORT,
        at.source_node
    );
    let mut found = cause(
        "filter.node_plane",
        link,
        &scope,
        format!("nodes of {name} do not connect while their pods do"),
        hint,
    );
    found.plane = Some(PlaneName::Node);
    found.evidence = vec![format!(
        "{name}, node plane: {} of {} connects failed ({} timed out, {} refused); the target's kernel recorded {} of the unanswered ones",
        facts.failed, facts.n, facts.timeout, facts.refused, facts.seen_at_target
    )];
    let link = link.clone();
    case.name(found, |check| {
        super::on(check, &link) && matches!(check.id.as_str(), NODE_TCP | AGREEMENT | COVERAGE)
    });
}

fn http_only(case: &mut Case<'_, '_>, link: &Link) {
    if !case.open(POD_HTTP, link) || case.failed(POD_TCP, link) || case.failed(LOSS_TCP_SYN, link) {
        return;
    }
    let scope = failing_scope(case.view, link, Plane::Pod, ProbeKind::Http);
    let facts = Facts::of(case.view, link, Plane::Pod, ProbeKind::Http, &scope);
    if !facts.hard() {
        return;
    }
    let name = direction(link, &scope);
    let hint = format!(
        "L7 policies and proxies for port {} in `{}` and `{}`",
        mesh::RESPONDER_HTTP_PORT,
        link.source,
        link.target
    );
    let mut found = cause(
        "filter.http",
        link,
        &scope,
        format!("HTTP of {name} fails while TCP echo works"),
        hint,
    );
    found.evidence = vec![format!(
        "{name}: {} of {} requests failed ({})",
        facts.failed,
        facts.n,
        facts.kinds()
    )];
    let link = link.clone();
    case.name(found, |check| {
        super::on(check, &link) && check.id == POD_HTTP
    });
}

fn look(case: &Case<'_, '_>, broken: &Broken) -> String {
    let at = example(case.view, &broken.link, &broken.scope);
    if broken.node.n > 0 && !broken.node.hard() {
        format!(
            "on `{}`: `ip route get {}` and the tunnel endpoint {}; on `{}`: `tcpdump -ni any host {}` while verify runs",
            at.source_node, at.target_pod, at.target_address, at.target_node, at.target_address
        )
    } else {
        format!(
            "on `{}`: `ip route get {}`, then the routes and filters of the fabric towards {} hop by hop",
            at.source_node, at.target_address, at.target_address
        )
    }
}
