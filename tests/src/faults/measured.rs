//! Kinds of trouble that only measurements of a path show, or that mesh.yaml has to ask for.

use super::kinds::{Place, at_node, named, of_node, on_path, rule};
use super::{Case, Direction, EAST};

/// Above what probes and drones send at a time, far below what the lab carries on a busy machine; and half of it.
const OBJECTIVE: &[&str] = &["throughput: 20Mbit"];
const HALF: &str = "rate=10mbit";
/// Where the lab runs its NDVI server.
const SERVES: &str = "wrk-e-1";
/// Within the default objective of the latency on every path of the lab, and beyond this one.
const UNEVEN: &str = "jitter=bimodal:15ms:10%";
const EVEN: &[&str] = &["jitter_p99: 8ms"];

/// A fault of one path direction that hurts no connect of either initiator.
fn of_path(place: Place, effect: &str, id: &'static str) -> Case {
    Case {
        links: Vec::new(),
        paths: vec![place.path()],
        ..on_path(
            place,
            rule(effect, place.source, place.target),
            named(id, place, "-"),
        )
    }
}

/// Initiators whose tiles, or their answers, are larger than the floor: those are posted to `talos-east` only.
fn tiles(place: Place) -> Vec<Direction> {
    let both = place.both().into_iter();
    both.filter(|(_, target)| *target == EAST).collect()
}

/// `mode`: how the line drops what is too big.
fn floor(place: Place, mode: &str) -> Case {
    let effect = format!("mtu={}:{mode}", place.floor);
    Case {
        links: tiles(place),
        ..of_path(place, &effect, "mtu.black_hole")
    }
}

pub(super) fn silent_floor(place: Place) -> Case {
    floor(place, "silent")
}

/// The nodes are told; the pods, in their tunnel, are not.
pub(super) fn told_floor(place: Place) -> Case {
    Case {
        remembered: true,
        ..floor(place, "ptb")
    }
}

/// The tunnel's packets may be cut, and are.
pub(super) fn fragments(place: Place) -> Case {
    let effect = format!("mtu={}:ptb", place.floor);
    Case {
        lab: &["--outer-df", "clear"],
        remembered: true,
        ..of_path(place, &effect, "mtu.fragmented")
    }
}

pub(super) fn slow_path(place: Place) -> Case {
    Case {
        objectives: OBJECTIVE,
        ..of_path(place, HALF, "path.slow_port")
    }
}

/// Not of the node that serves tiles: those alone fill half a port.
pub(super) fn slow_port(mut place: Place) -> Case {
    if place.from == SERVES {
        place.from = "cp-e-1";
    }
    Case {
        objectives: OBJECTIVE,
        links: Vec::new(),
        causes: vec![of_node(place, "node.slow_port")],
        ..at_node(place, HALF, "node.slow_port")
    }
}

pub(super) fn jitter(place: Place) -> Case {
    Case {
        objectives: EVEN,
        ..of_path(place, UNEVEN, "path.jitter")
    }
}
