//! Path measurements of the simulated mesh: pods send at most 1450 bytes through a tunnel of 50, nodes 1500.

use mesh::measurement::{
    LoadedRtt, MtuLimit, PacketTooBig, PathDirection, PathMtu, Sent, Throughput,
};
use mesh::observation::{
    MeasuredPath, NoFigure, NodeRef, Outcome, PathMeasurement, Plane, ProbeKind,
};

use super::sim::Sim;
use super::{Fault, MtuMode, World};

pub(crate) const POD_MTU: u16 = 1_450;
pub(crate) const NODE_MTU: u16 = 1_500;
const TUNNEL: u16 = NODE_MTU - POD_MTU;

impl Sim<'_> {
    /// Every node pair of the links in scope, where datagrams or connects of either role came back.
    pub(super) fn measure(&mut self) {
        let world = self.world;
        let mut measured = Vec::new();
        for plane in [Plane::Pod, Plane::Node] {
            for link in &world.mesh.links {
                for source in world.ends(&link.source) {
                    for target in world.ends(&link.target) {
                        if source.node != target.node {
                            let mtu = self.path(&source.node, &target.node, plane);
                            if plane == Plane::Pod {
                                let transfer = self.transfer(&mtu);
                                // What falls short is measured again.
                                if world.short(&source.node, &target.node) {
                                    measured.push(transfer.clone());
                                }
                                measured.push(transfer);
                            }
                            measured.push(mtu);
                        }
                    }
                }
            }
        }
        self.out.measurements = measured;
    }

    fn path(&self, source: &NodeRef, target: &NodeRef, plane: Plane) -> PathMeasurement {
        let kind = match plane {
            Plane::Pod => ProbeKind::Udp,
            Plane::Node => ProbeKind::Tcp,
        };
        let answered = |from: &NodeRef, to: &NodeRef| {
            self.out.runs.iter().any(|run| {
                (run.plane, run.kind) == (plane, kind)
                    && run.source == *from
                    && run.target.cluster == to.cluster
                    && run.target.node.as_ref() == Some(&to.node)
                    && run.samples.iter().any(|s| s.outcome == Outcome::Ok)
            })
        };
        let result = if answered(source, target) || answered(target, source) {
            Ok(self.world.mtu(source, target, plane))
        } else {
            Err(NoFigure::NotMade("no probe was answered".into()))
        };
        PathMeasurement {
            source: source.clone(),
            target: target.clone(),
            plane,
            measured: PathDirection::Forward,
            responder: ([10, 0, 0, 1], 7_411).into(),
            source_port: 61_500,
            result: MeasuredPath::PathMtu(result),
        }
    }
}

impl Sim<'_> {
    /// Where the path MTU was found; its connection is one of those that the kernels record.
    fn transfer(&mut self, path: &PathMeasurement) -> PathMeasurement {
        let (source, target) = (path.source.clone(), path.target.clone());
        // One direction that swallows what is large is enough for neither to be tried.
        let back = self.path(&target, &source, Plane::Pod);
        let hole = [path, &back].iter().any(
            |path| matches!(&path.result, MeasuredPath::PathMtu(Ok(mtu)) if mtu.bytes < mtu.let_out()),
        );
        let result = if hole || matches!(path.result, MeasuredPath::PathMtu(Err(_))) {
            Err(NoFigure::NotMade("it would hang".into()))
        } else {
            Ok(self.world.throughput(&source, &target))
        };
        PathMeasurement {
            source_port: if result.is_ok() { 61_900 } else { 0 },
            result: MeasuredPath::Throughput(result),
            ..path.clone()
        }
    }
}

impl World {
    fn short(&self, source: &NodeRef, target: &NodeRef) -> bool {
        self.faults.iter().any(|fault| {
            matches!(fault, Fault::Rate(on, _) | Fault::Thin(on, _) if on.meets(source, target))
        })
    }

    fn throughput(&self, source: &NodeRef, target: &NodeRef) -> Throughput {
        let (mut bits, mut queue_ms, mut retransmits) = (200_000_000, 2, 0);
        for fault in &self.faults {
            match fault {
                Fault::Rate(on, rate) | Fault::Hiccup(on, rate)
                    if on.meets(source, target) && *rate < bits =>
                {
                    (bits, queue_ms, retransmits) = (*rate, 40, 12);
                }
                Fault::Thin(on, rate) if on.meets(source, target) && *rate < bits => bits = *rate,
                _ => {}
            }
        }
        Throughput {
            bytes: bits / 8,
            duration_ns: 1_000_000_000,
            by_time: true,
            retransmits: Some(retransmits),
            min_rtt_us: Some(4_000),
            rtt: Some(LoadedRtt {
                idle_min_ns: 4_000_000,
                loaded_p50_ns: 4_500_000 + queue_ms * 500_000,
                loaded_p99_ns: 4_000_000 + queue_ms * 1_000_000,
                idle: 20,
                loaded: 40,
                lost: 0,
            }),
        }
    }

    fn mtu(&self, source: &NodeRef, target: &NodeRef, plane: Plane) -> PathMtu {
        let (local, header) = match plane {
            Plane::Pod => (POD_MTU, TUNNEL),
            Plane::Node => (NODE_MTU, 0),
        };
        let mut found = PathMtu {
            bytes: local,
            limit: MtuLimit::Local,
            local_bytes: local,
            route_before: Some(local),
            route_after: Some(local),
            reported: None,
            fragments_pass: None,
            sized: Sent {
                sent: 9,
                answered: 5,
            },
            small: Sent {
                sent: 9,
                answered: 9,
            },
        };
        for fault in &self.faults {
            let Fault::Mtu(on, floor, mode) = fault else {
                continue;
            };
            // A tunnel whose packets may be cut hides what is cut below it.
            let hidden = plane == Plane::Pod && matches!(mode, MtuMode::Cut | MtuMode::ToldAndCut);
            if !on.meets(source, target) || hidden || floor - header >= found.bytes {
                continue;
            }
            found.bytes = floor - header;
            let told = PacketTooBig {
                mtu: found.bytes,
                hop: [192, 0, 2, 1].into(),
            };
            match mode {
                MtuMode::Silent => found.limit = MtuLimit::Silent,
                MtuMode::Cut => {
                    found.limit = MtuLimit::Silent;
                    found.fragments_pass = Some(true);
                }
                MtuMode::Told | MtuMode::ToldAndCut => {
                    found.limit = MtuLimit::PacketTooBig;
                    found.reported = Some(told);
                    found.route_after = Some(found.bytes);
                }
                MtuMode::Ignored => {
                    found.limit = MtuLimit::PacketTooBig;
                    found.reported = Some(told);
                }
                MtuMode::Absorbed => {
                    found.limit = MtuLimit::Absorbed;
                    found.route_after = Some(found.bytes);
                }
                MtuMode::Unclear => {
                    found.limit = MtuLimit::PacketTooBig;
                    found.reported = Some(told);
                    found.route_after = None;
                }
            }
        }
        found
    }
}
