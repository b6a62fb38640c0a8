//! Large packets: dropped without a word, sent although a hop says that they are too big, too small a path, or cut inside a tunnel.

use std::collections::BTreeMap;

use mesh::Link;
use mesh::measurement::PathMtu;
use mesh::observation::Plane;

use super::loss::scope_of;
use super::{Case, Found, cause, direction, example, is_ndvi, on, reverse, rival};
use crate::checks::{MTU_NODE_PATH, MTU_PATH, MTU_UNDERLAY, THROUGHPUT_TCP};
use crate::rows::mtu::{self, Cell, Fate, Outer};
use crate::tally::Scope;
use crate::verdict::PlaneName;

pub(super) fn find(case: &mut Case<'_, '_>) {
    for link in case.view.mesh.links.clone() {
        if case.open(MTU_PATH, &link) || case.open(MTU_NODE_PATH, &link) {
            short(case, &link);
        }
        if case.open(MTU_UNDERLAY, &link) {
            fragmented(case, &link);
        }
    }
}

type Figures<'a> = BTreeMap<Cell, &'a PathMtu>;

/// The smallest of the figures that are at fault, else of all.
fn least<'a>(figures: &Figures<'a>, fates: &[Fate]) -> Option<&'a PathMtu> {
    let of = |at_fault: bool| {
        figures
            .values()
            .filter(|mtu| !at_fault || fates.contains(&mtu::fate(mtu)))
            .min_by_key(|mtu| mtu.bytes)
            .copied()
    };
    of(true).or_else(|| of(false))
}

/// What must be set where, `tunnel` bytes being what the tunnel adds to a pod's packet.
fn advice(
    case: &Case<'_, '_>,
    path: &Link,
    scope: &Scope,
    pod: Option<u16>,
    tunnel: u16,
    node: Option<u16>,
) -> String {
    let at = example(case.view, path, scope);
    let mut ways = Vec::new();
    if let Some(pod) = pod {
        let under = pod.saturating_add(tunnel);
        ways.push(if tunnel == 0 {
            format!("give the pods of `{}` an MTU of {pod} (Cilium `MTU: {pod}`)", path.source)
        } else {
            format!(
                "give the pods of `{}` an MTU of {pod}: Cilium `MTU: {under}`, of which its tunnel takes {tunnel}",
                path.source
            )
        });
    } else if let Some(node) = node {
        ways.push(format!(
            "give the nodes of `{}` an MTU of {node} towards `{}` (`ip route change … mtu {node}`)",
            path.source, path.target
        ));
    }
    ways.push(format!(
        "or raise the MTU of what lies between `{}` and {}, and let ICMP \"too big\" pass: `tracepath -n {}`",
        at.source_node, at.target_address, at.target_address
    ));
    ways.join("; ")
}

fn short(case: &mut Case<'_, '_>, path: &Link) {
    let failing = |id| case.check(id, path).filter(|_| case.open(id, path));
    let (pod_check, node_check) = (failing(MTU_PATH), failing(MTU_NODE_PATH));
    let Some(check) = pod_check.or(node_check) else {
        return;
    };
    let scope = scope_of(check, path, case);
    let name = direction(path, &scope);
    let (pods, nodes) = (
        mtu::found(case.view, path, Plane::Pod).figures,
        mtu::found(case.view, path, Plane::Node).figures,
    );
    let at_fault = [Fate::BlackHole, Fate::Ignored];
    let (pod, node) = (least(&pods, &at_fault), least(&nodes, &at_fault));
    let Some(worst) = (if pod_check.is_some() { pod } else { node }) else {
        return;
    };
    let whose = match (pod_check.is_some(), node_check.is_some()) {
        (true, true) => "of pods and nodes",
        (true, false) => "of pods",
        _ => "of nodes",
    };
    // The underlay's own figure where both planes meet the same floor; what differs is the tunnel.
    let tunnel = match (pod, node) {
        (Some(pod), Some(node)) => node.local_bytes.saturating_sub(pod.local_bytes),
        _ => 0,
    };
    let bytes = worst.bytes;
    let sizes = match (pod_check.and(pod), node_check.and(node)) {
        (Some(pod), Some(node)) if pod.bytes != node.bytes => {
            format!("above {} bytes ({} between nodes)", pod.bytes, node.bytes)
        }
        _ => format!("above {bytes} bytes"),
    };
    let out = worst.let_out();
    let advice = advice(
        case,
        path,
        &scope,
        pod_check.and(pod).map(|mtu| mtu.bytes),
        tunnel,
        node.map(|mtu| mtu.bytes),
    );
    let (id, summary, rivals) = match mtu::fate(worst) {
        Fate::BlackHole => (
            "mtu.black_hole",
            format!(
                "path {name} drops packets {whose} {sizes} without a word, and senders let out {out}: handshakes pass, large transfers hang"
            ),
            vec![rival(
                "a hop says \"too big\", and a filter drops its ICMP",
                "`tracepath -n` from the source, and the ICMP rules between that hop and the source",
            )],
        ),
        Fate::Ignored => (
            "mtu.ignored",
            format!(
                "path {name} carries {bytes} bytes and says so, but the sender's kernel goes on with {out}"
            ),
            vec![rival(
                "the kernel does not believe the ICMP error",
                "`nstat -az IcmpInErrors`, and `ip route get` with its mtu on the source",
            )],
        ),
        Fate::Whole | Fate::Unclear => (
            "mtu.below_declared",
            format!(
                "path {name} carries {bytes} bytes; mesh.yaml asks for {}",
                case.view.mesh.objectives.mtu_bytes.unwrap_or_default()
            ),
            Vec::new(),
        ),
    };
    let mut evidence = Vec::new();
    for (plane, figures) in [("pods", &pods), ("nodes", &nodes)] {
        evidence.extend(
            mtu::lines(figures)
                .into_iter()
                .map(|line| format!("{plane}: {line}")),
        );
    }
    let back = reverse(path);
    let other = mtu::found(case.view, &back, Plane::Pod).figures;
    if let Some(other) = least(&other, &at_fault) {
        evidence.push(format!(
            "the way back, {}: {} bytes",
            direction(&back, &Scope::Everywhere),
            other.bytes
        ));
    }
    let mut found = cause(id, path, &scope, summary, advice);
    found.plane = match (pod_check.is_some(), node_check.is_some()) {
        (true, false) => Some(PlaneName::Pod),
        (false, true) => Some(PlaneName::Node),
        _ => None,
    };
    found.evidence = evidence;
    found.rivals = rivals;
    claim(case, found, path);
}

/// The path's own checks; and what sends large packets along it, from either side.
fn claim(case: &mut Case<'_, '_>, found: Found, path: &Link) {
    let drops = matches!(found.id.as_str(), "mtu.black_hole" | "mtu.ignored");
    let (path, back) = (path.clone(), reverse(path));
    case.name(found, |check| {
        let itself = matches!(check.id.as_str(), MTU_PATH | MTU_NODE_PATH | MTU_UNDERLAY)
            && on(check, &path);
        let large = is_ndvi(check) && !check.observed.failures.contains_key("refused");
        let transfer =
            drops && check.id == THROUGHPUT_TCP && (on(check, &path) || on(check, &back));
        itself || transfer || (drops && large && (on(check, &path) || on(check, &back)))
    });
}

fn fragmented(case: &mut Case<'_, '_>, path: &Link) {
    let Some(check) = case.check(MTU_UNDERLAY, path) else {
        return;
    };
    let scope = scope_of(check, path, case);
    let mut evidence = check.evidence.clone();
    let (pods, nodes) = (
        mtu::found(case.view, path, Plane::Pod),
        mtu::found(case.view, path, Plane::Node),
    );
    let outers = mtu::outers(&pods, &nodes);
    let Some(worst) = outers.values().min_by_key(|outer| outer.node) else {
        return;
    };
    evidence.extend(
        mtu::lines(&nodes.figures)
            .into_iter()
            .map(|line| format!("nodes: {line}")),
    );
    let Outer {
        pod,
        overhead,
        node,
    } = *worst;
    let fits = node.saturating_sub(overhead);
    let name = direction(path, &scope);
    let summary = format!(
        "packets of the tunnel on path {name} are cut into fragments: pods send {pod} bytes, {} with the tunnel's header, and the path between nodes carries {node}",
        worst.needed()
    );
    let hint = advice(case, path, &scope, Some(fits), overhead, Some(node));
    let mut found = cause("mtu.fragmented", path, &scope, summary, hint);
    found.plane = Some(PlaneName::Node);
    found.evidence = evidence;
    if node >= pod {
        found.rivals = vec![rival(
            "no tunnel: pods are routed, and their smaller MTU is a choice",
            "the CNI's routing mode, and fragment counters of the nodes (`nstat -az IpFragCreates`)",
        )];
    }
    claim(case, found, path);
}
