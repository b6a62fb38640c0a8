//! The kinds of trouble, each at any place of the default lab, alone and in pairs.

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::measured::{fragments, jitter, silent_floor, slow_path, slow_port, told_floor};
use super::{Case, Direction, EAST, Named, PI, UNKNOWN, WEST};

/// One path direction of the default lab, with a node at either end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) source: &'static str,
    pub(super) target: &'static str,
    pub(super) from: &'static str,
    to: &'static str,
    /// Bytes, for what is too big: such that pods get more through a tunnel that is cut than nodes do.
    pub(super) floor: u16,
}

const fn place(
    source: &'static str,
    from: &'static str,
    target: &'static str,
    to: &'static str,
) -> Place {
    Place {
        source,
        target,
        from,
        to,
        floor: 1_400,
    }
}

/// Every ordered pair of clusters; neighbours in the list share as little as possible.
const PLACES: [Place; 6] = [
    place(EAST, "cp-e-1", WEST, "wrk-w-1"),
    place(WEST, "wrk-w-1", PI, "pi-master-01"),
    place(PI, "pi-worker-01", EAST, "wrk-e-1"),
    place(WEST, "cp-w-1", EAST, "cp-e-1"),
    place(PI, "pi-master-01", WEST, "cp-w-1"),
    place(EAST, "wrk-e-1", PI, "pi-worker-01"),
];

type Build = fn(Place) -> Case;

/// Kinds with one place only ignore the one that they are given.
const KINDS: [(&str, Build); 36] = [
    ("blackhole", blackhole),
    ("blackhole of a node pair", pair_blackhole),
    ("5 % loss", loss),
    ("5 % loss at a node", node_path_loss),
    ("bursts of loss", bursts),
    ("some flows always fail", flows),
    ("+50 ms", delay),
    ("+50 ms to a node", node_path_delay),
    ("queue", queue),
    ("UDP dropped", no_udp),
    ("TCP dropped", no_tcp),
    ("overlay dropped", no_overlay),
    ("policy deny", policy),
    ("node cut off", cut_off),
    ("node loses both ways", lossy_node),
    ("node slow both ways", slow_node),
    ("agent killed", agent_killed),
    ("agent starved", starved),
    ("backend down", backend_down),
    ("silent floor", silent_floor),
    ("floor with \"too big\"", told_floor),
    ("underlay fragments", fragments),
    ("half-speed path", slow_path),
    ("half-speed port", slow_port),
    ("jitter", jitter),
    ("no such name", no_such_name),
    ("resolver errs", resolver_errs),
    ("resolver silent", resolver_silent),
    ("payloads corrupted", corrupt),
    ("open connections reset", reset),
    ("first packets wait", setup),
    ("blackhole + 5 % loss", blackhole_and_loss),
    ("+50 ms + backend down", delay_and_backend),
    ("policy deny + 5 % loss", policy_and_loss),
    ("agent killed + blackhole", agent_and_blackhole),
    ("UDP dropped + 50 ms", udp_and_delay),
];

/// Kinds of the shortest list, see [`six`].
pub const SIX_KINDS: [&str; 6] = [
    "blackhole",
    "5 % loss at a node",
    "+50 ms to a node",
    "backend down",
    "policy deny",
    "agent killed",
];

/// Every kind at `places` places each; what has only one place, once. With a seed places and floors are drawn, else each
/// kind begins at another place, so that all kinds together meet every link evenly.
pub fn every_case(places: usize, seed: Option<u64>) -> Vec<Case> {
    let mut random = seed.map(ChaCha8Rng::seed_from_u64);
    let mut cases: Vec<Case> = Vec::new();
    for (at, (kind, build)) in KINDS.iter().enumerate() {
        let mut order = PLACES;
        order.rotate_left(at % PLACES.len());
        if let Some(random) = &mut random {
            order.shuffle(random);
            for place in &mut order {
                place.floor = random.random_range(1_281..=1_440);
            }
        }
        for place in order.into_iter().take(places) {
            let mut case = build(place);
            case.kind = kind;
            let seen = |other: &Case| other.kind == case.kind && other.faults == case.faults;
            if !cases.iter().any(seen) {
                cases.push(case);
            }
        }
    }
    cases
}

/// One case of each of the six kinds that every verify has to tell apart.
pub fn six() -> Vec<Case> {
    let all = every_case(1, None);
    SIX_KINDS
        .iter()
        .filter_map(|kind| all.iter().find(|case| case.kind == *kind).cloned())
        .collect()
}

impl Place {
    pub(super) fn path(&self) -> Direction {
        (self.source, self.target)
    }

    /// TCP needs both directions: either initiator suffers.
    pub(super) fn both(&self) -> Vec<Direction> {
        vec![(self.source, self.target), (self.target, self.source)]
    }

    fn source_node(&self) -> String {
        format!("{}/{}", self.source, self.from)
    }

    fn target_node(&self) -> String {
        format!("{}/{}", self.target, self.to)
    }

    /// All directions that touch the source cluster.
    fn around(&self) -> Vec<Direction> {
        [EAST, WEST, PI]
            .into_iter()
            .filter(|other| *other != self.source)
            .flat_map(|other| [(self.source, other), (other, self.source)])
            .collect()
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

pub(super) fn rule(rule: &str, source: &str, target: &str) -> Vec<String> {
    words(&["path", rule, "--source", source, "--target", target])
}

pub(super) fn named(id: &'static str, place: Place, node: &str) -> Named {
    Named {
        id,
        source: place.source,
        target: place.target,
        node: node.to_owned(),
        either: false,
    }
}

/// A fault of one path direction that hurts both initiators.
pub(super) fn on_path(place: Place, fault: Vec<String>, cause: Named) -> Case {
    Case {
        faults: vec![fault],
        exit: 1,
        causes: vec![cause],
        links: place.both(),
        ..Case::default()
    }
}

/// The same, and datagrams of that direction are lost too.
fn lost(place: Place, fault: Vec<String>, cause: Named) -> Case {
    Case {
        paths: vec![place.path()],
        ..on_path(place, fault, cause)
    }
}

fn blackhole(p: Place) -> Case {
    let fault = words(&["blackhole", "--source", p.source, "--target", p.target]);
    lost(p, fault, named("path.blackhole", p, "-"))
}

fn pair_blackhole(p: Place) -> Case {
    let fault = rule("blackhole", &p.source_node(), &p.target_node());
    let nodes = format!("{} → {}", p.from, p.to);
    lost(p, fault, named("path.blackhole", p, &nodes))
}

fn loss(p: Place) -> Case {
    let fault = rule("loss=5%", p.source, p.target);
    lost(p, fault, named("path.loss", p, "-"))
}

fn node_path_loss(p: Place) -> Case {
    let source = p.source_node();
    let fault = words(&[
        "loss",
        "--percent",
        "5",
        "--source",
        &source,
        "--target",
        p.target,
    ]);
    lost(p, fault, named("path.loss", p, p.from))
}

fn bursts(p: Place) -> Case {
    let fault = rule("loss=burst:2%:25%", p.source, p.target);
    lost(p, fault, named("path.loss", p, "-"))
}

fn flows(p: Place) -> Case {
    let fault = rule("loss=flows:8", p.source, p.target);
    lost(p, fault, named("path.flows", p, "-"))
}

fn delay(p: Place) -> Case {
    let fault = rule("delay=50ms", p.source, p.target);
    on_path(p, fault, named("path.longer", p, "-"))
}

fn node_path_delay(p: Place) -> Case {
    let target = p.target_node();
    let fault = words(&[
        "delay", "--ms", "50", "--source", p.source, "--target", &target,
    ]);
    on_path(p, fault, named("path.longer", p, p.to))
}

fn queue(p: Place) -> Case {
    let fault = rule("jitter=bimodal:80ms:10%", p.source, p.target);
    on_path(p, fault, named("path.queueing", p, "-"))
}

fn no_udp(p: Place) -> Case {
    let fault = rule("blackhole@inner-udp", p.source, p.target);
    lost(p, fault, named("filter.udp", p, "-"))
}

fn no_tcp(p: Place) -> Case {
    let fault = rule("blackhole@inner-tcp", p.source, p.target);
    on_path(p, fault, named("filter.tcp", p, "-"))
}

fn no_overlay(p: Place) -> Case {
    let fault = rule("blackhole@vxlan", p.source, p.target);
    lost(p, fault, named("path.blackhole", p, "-"))
}

fn policy(p: Place) -> Case {
    let target = p.target_node();
    let fault = words(&["policy-deny", "--source", p.source, "--target", &target]);
    Case {
        links: vec![p.path()],
        ..on_path(p, fault, named("policy.pod_plane", p, p.to))
    }
}

pub(super) fn of_node(p: Place, id: &'static str) -> Named {
    Named {
        target: "-",
        ..named(id, p, p.from)
    }
}

/// What meets a node's packets in both directions, wherever they go.
pub(super) fn at_node(p: Place, effect: &str, id: &'static str) -> Case {
    let node = p.source_node();
    Case {
        faults: vec![rule(effect, &node, "*"), rule(effect, "*", &node)],
        exit: 1,
        causes: vec![of_node(p, id)],
        links: p.around(),
        paths: p.around(),
        ..Case::default()
    }
}

fn cut_off(p: Place) -> Case {
    at_node(p, "blackhole", "node.cut_off")
}

fn lossy_node(p: Place) -> Case {
    at_node(p, "loss=6%", "node.lossy")
}

fn slow_node(p: Place) -> Case {
    Case {
        paths: Vec::new(),
        ..at_node(p, "delay=40ms", "node.slow")
    }
}

fn agent_killed(p: Place) -> Case {
    Case {
        faults: vec![words(&["agent-killed", p.from])],
        exit: 3,
        causes: vec![of_node(p, "agent.unreachable")],
        undecided: p.around(),
        ..Case::default()
    }
}

fn starved(_: Place) -> Case {
    let p = PLACES[2];
    Case {
        faults: vec![words(&["starve", p.from, "--percent", "20"])],
        exit: 3,
        causes: vec![of_node(p, "agent.starved")],
        undecided: vec![(p.source, EAST), (p.source, WEST)],
        ..Case::default()
    }
}

fn backend_down(_: Place) -> Case {
    Case {
        faults: vec![words(&["backend-down"])],
        exit: 1,
        causes: vec![Named {
            id: "service.no_backend",
            source: "-",
            target: EAST,
            node: "-".to_owned(),
            either: false,
        }],
        links: vec![(WEST, EAST), (PI, EAST)],
        ..Case::default()
    }
}

/// The source cluster's resolver: no link has a part in it.
fn resolver(p: Place, how: &str, id: &'static str) -> Case {
    Case {
        faults: vec![words(&["dns", p.source, "--how", how])],
        exit: 1,
        causes: vec![Named {
            id,
            source: p.source,
            target: "-",
            node: "-".to_owned(),
            either: false,
        }],
        ..Case::default()
    }
}

fn no_such_name(p: Place) -> Case {
    resolver(p, "nxdomain", "dns.no_such_name")
}

fn resolver_errs(p: Place) -> Case {
    resolver(p, "servfail", "dns.server_failure")
}

fn resolver_silent(p: Place) -> Case {
    resolver(p, "silent", "dns.unanswered")
}

/// No rule of verify knows these: a wrong name would send somebody to the wrong device.
fn unknown(p: Place, effect: &str) -> Case {
    let mut case = on_path(p, rule(effect, p.source, p.target), named(UNKNOWN, p, "-"));
    case.causes[0].either = true;
    case
}

fn corrupt(p: Place) -> Case {
    unknown(p, "corrupt=40%@inner-tcp")
}

fn reset(p: Place) -> Case {
    unknown(p, "reset=20%")
}

fn setup(p: Place) -> Case {
    unknown(p, "setup=80ms@inner-tcp")
}

fn blackhole_and_loss(_: Place) -> Case {
    blackhole(PLACES[1]).and("", node_path_loss(PLACES[2]))
}

fn delay_and_backend(_: Place) -> Case {
    delay(PLACES[1]).and("", backend_down(PLACES[1]))
}

fn policy_and_loss(_: Place) -> Case {
    policy(PLACES[4]).and("", loss(PLACES[0]))
}

fn agent_and_blackhole(_: Place) -> Case {
    agent_killed(PLACES[2]).and("", blackhole(PLACES[0]))
}

fn udp_and_delay(_: Place) -> Case {
    no_udp(PLACES[0]).and("", delay(PLACES[4]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_many_and_meet_every_link() {
        let cases = every_case(2, None);
        let mut kinds: Vec<_> = cases.iter().map(|case| case.kind).collect();
        kinds.dedup();
        assert!(kinds.len() >= 16 + 4 + 3, "{kinds:?}");
        assert!(cases.iter().filter(|case| case.unknown()).count() >= 3);
        assert!(cases.iter().filter(|case| case.causes.len() == 2).count() >= 4);
        for place in PLACES {
            assert!(
                cases.iter().any(|case| case
                    .causes
                    .iter()
                    .any(|cause| (cause.source, cause.target) == place.path())),
                "{place:?}"
            );
        }
        assert_eq!(six().len(), SIX_KINDS.len());
    }
}
