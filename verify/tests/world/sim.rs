//! How the packets of a world fare, and what each witness writes down of it.

use std::net::SocketAddr;

use mesh::Node;
use mesh::observation::{
    Direction, KernelConnection, KernelOutcome, KernelSeries, NodeAccount, NodeRef, NodeReport,
    NodeState, Observations, Origin, Outcome, Plane, ProbeKind, ProbeRun, ProbeTarget, Received,
    Sample,
};

use super::{DEADLINE_SECONDS, Fault, On, RTO_SECONDS, RTT_SECONDS, Random, World};

mod services;

pub(super) struct End<'m> {
    pub(super) node: NodeRef,
    declared: &'m Node,
}

pub(super) struct Sim<'w> {
    pub(super) world: &'w World,
    random: Random,
    port: u16,
    /// Hash of the current flow.
    flow: u16,
    clock: f64,
    /// Connects so far, and the stall of the current one, s.
    connects: u32,
    stall: f64,
    pub(super) out: Observations,
}

/// What became of one connection attempt.
struct Attempt {
    outcome: Outcome,
    connect: Option<f64>,
    round_trip: Option<f64>,
}

impl World {
    pub(crate) fn observe(&self) -> Observations {
        let mut sim = Sim {
            world: self,
            random: Random::new(self.seed),
            port: 61_000,
            flow: 0,
            clock: 0.0,
            connects: 0,
            stall: 0.0,
            out: Observations {
                duration_seconds: 15.0,
                ..Observations::default()
            },
        };
        sim.run();
        sim.out
    }

    pub(super) fn ends(&self, cluster: &str) -> Vec<End<'_>> {
        self.mesh
            .cluster(cluster)
            .map(|c| {
                c.nodes
                    .iter()
                    .map(|declared| End {
                        node: NodeRef {
                            cluster: c.name.clone(),
                            node: declared.name.clone(),
                        },
                        declared,
                    })
                    .collect()
            })
            .unwrap_or_default()
    }
}

impl Sim<'_> {
    fn has(&self, test: impl Fn(&Fault) -> bool) -> bool {
        self.world.faults.iter().any(test)
    }

    fn is(&self, node: &NodeRef, cluster: &str, name: &str) -> bool {
        node.cluster == cluster && node.node == name
    }

    fn run(&mut self) {
        let world = self.world;
        for cluster in &world.mesh.clusters {
            for end in world.ends(&cluster.name) {
                self.report(&end.node);
            }
        }
        for link in &world.mesh.links {
            for source in world.ends(&link.source) {
                for target in world.ends(&link.target) {
                    if source.node == target.node {
                        continue;
                    }
                    self.tcp_run(&source, &target, ProbeKind::Tcp, Plane::Pod, world.tcp);
                    self.udp_run(&source, &target, world.tcp);
                    self.tcp_run(&source, &target, ProbeKind::Http, Plane::Pod, world.few);
                    self.tcp_run(&source, &target, ProbeKind::Tcp, Plane::Node, world.few);
                }
                for service in &world.mesh.services {
                    if service.cluster == link.target {
                        self.tile_run(&source, service, world.tiles);
                    }
                }
            }
        }
        for cluster in &world.mesh.clusters {
            let ends = world.ends(&cluster.name);
            let judged = world.mesh.links.iter().any(|l| l.source == l.target);
            if judged || ends.len() < 2 {
                continue;
            }
            for (at, source) in ends.iter().enumerate() {
                let target = &ends[(at + 1) % ends.len()];
                self.tcp_run(source, target, ProbeKind::Tcp, Plane::Pod, world.control);
                self.udp_run(source, target, world.control);
            }
        }
        for service in &world.mesh.services {
            for link in verify::service_askers(&world.mesh, service) {
                for source in world.ends(&link.source) {
                    self.tile_run(&source, service, world.tiles);
                }
            }
        }
        for cluster in &world.mesh.clusters {
            for (service, name) in world.mesh.names_in(&cluster.name) {
                for source in world.ends(&cluster.name) {
                    self.name_run(&source, service, name, world.tiles);
                }
            }
        }
        self.measure();
        for end in world.ends(&world.mesh.clusters[0].name) {
            self.out.series.push(KernelSeries {
                node: end.node,
                remote: "drones".into(),
                direction: Direction::Acceptor,
                class: "ndvi".into(),
                origin: Origin::Traffic,
                established: 20,
                failed: 0,
                bytes_sent: 1_000,
                bytes_received: 50_000,
                retransmits: 0,
            });
        }
    }

    fn report(&mut self, node: &NodeRef) {
        let dead = self.has(|f| matches!(f, Fault::AgentDead(c, n) if self.is(node, c, n)));
        let blind = self.has(|f| matches!(f, Fault::NoWitness(c, n) if self.is(node, c, n)));
        for plane in [Plane::Pod, Plane::Node] {
            let state = if dead {
                NodeState::Unreachable("connection refused".into())
            } else {
                NodeState::Observed(NodeAccount {
                    boot_id: "1".into(),
                    kernel_witness: Some(if blind { "not attached" } else { "kernel" }.into()),
                    clock_offset_seconds: Some(0.0001),
                    clock_offset_bound_seconds: Some(0.0002),
                    monotonic_offset_seconds: Some(0.0),
                    ..NodeAccount::default()
                })
            };
            self.out.nodes.push(NodeReport {
                node: node.clone(),
                plane,
                state,
            });
        }
    }

    fn arrives(&mut self, from: &NodeRef, to: &NodeRef, plane: Plane, udp: bool) -> bool {
        let mut alive = true;
        for fault in &self.world.faults {
            let loss = match fault {
                Fault::DeadFlows(on, one_in)
                    if on.meets(from, to) && self.flow.is_multiple_of(*one_in) =>
                {
                    1.0
                }
                Fault::Outages(on, lasting, every)
                    if on.meets(from, to) && self.clock % every < *lasting =>
                {
                    1.0
                }
                Fault::Loss(on, p) if on.meets(from, to) => *p,
                Fault::PodLoss(on, p) if on.meets(from, to) && plane == Plane::Pod => *p,
                Fault::UdpLoss(on, p) if on.meets(from, to) && udp => *p,
                Fault::TcpLoss(on, p) if on.meets(from, to) && !udp => *p,
                _ => 0.0,
            };
            alive &= !self.random.chance(loss);
        }
        alive
    }

    fn travel(&mut self, from: &NodeRef, to: &NodeRef) -> f64 {
        let mut time = 0.5 * RTT_SECONDS * (1.0 + 0.2 * self.random.uniform());
        for fault in &self.world.faults {
            match fault {
                Fault::Delay(on, extra) if on.meets(from, to) => time += extra,
                Fault::Late(on, share, extra)
                    if on.meets(from, to) && self.random.chance(*share) =>
                {
                    time += extra
                }
                _ => {}
            }
        }
        time
    }

    fn setup(&self, from: &NodeRef, to: &NodeRef) -> f64 {
        let extra = |fault: &Fault| match fault {
            Fault::Setup(on, extra) if on.meets(from, to) => *extra,
            _ => 0.0,
        };
        self.world.faults.iter().map(extra).sum()
    }

    /// Whether a fault that meets a share of the exchanges in either direction meets this one.
    fn befalls(
        &mut self,
        source: &NodeRef,
        target: &NodeRef,
        of: impl Fn(&Fault) -> Option<(&On, f64)>,
    ) -> bool {
        let share = |(on, share): (&On, f64)| {
            (on.meets(source, target) || on.meets(target, source)).then_some(share)
        };
        let share = self.world.faults.iter().filter_map(&of).find_map(share);
        share.is_some_and(|share| self.random.chance(share))
    }

    fn filtered(&self, source: &NodeRef, target: &NodeRef, plane: Plane) -> bool {
        self.has(|fault| match fault {
            Fault::Policy(on) => plane == Plane::Pod && on.meets(source, target),
            Fault::Firewall(on) => on.meets(source, target),
            _ => false,
        })
    }

    fn next_port(&mut self) -> u16 {
        self.port = if self.port == u16::MAX {
            61_000
        } else {
            self.port + 1
        };
        self.flow = (u32::from(self.port).wrapping_mul(0x9e37_79b1) >> 16) as u16;
        self.port
    }

    /// One connection; writes the kernels' records.
    fn connect(
        &mut self,
        source: &End,
        target: &End,
        plane: Plane,
        local: SocketAddr,
        remote: SocketAddr,
        kind: ProbeKind,
    ) -> Attempt {
        let (s, t) = (&source.node, &target.node);
        let start = self.clock;
        self.connects += 1;
        self.stall = 0.0;
        for fault in &self.world.faults {
            match fault {
                Fault::Stalls(every, seconds) if self.connects.is_multiple_of(*every) => {
                    self.stall = *seconds;
                }
                Fault::HardlyRuns(c, n) if self.is(s, c, n) && self.connects % 240 >= 12 => {
                    self.stall = 0.05;
                }
                _ => {}
            }
        }
        let mut synced = false;
        let mut retransmits = 0;
        let mut result = None;
        for attempt in 0..2 {
            retransmits = attempt;
            if !self.arrives(s, t, plane, false) || self.filtered(s, t, plane) {
                continue;
            }
            let there = self.travel(s, t) + self.setup(s, t) + self.stall;
            if self.has(|f| matches!(f, Fault::Refuse(on) if on.meets(s, t))) {
                let back = self.travel(t, s);
                result = Some((
                    KernelOutcome::Refused,
                    f64::from(attempt) * RTO_SECONDS + there + back,
                ));
                break;
            }
            synced = true;
            if !self.arrives(t, s, plane, false) {
                continue;
            }
            let back = self.travel(t, s) + self.setup(t, s);
            result = Some((
                KernelOutcome::Established,
                f64::from(attempt) * RTO_SECONDS + there + back,
            ));
            break;
        }
        let slowed = if self.has(|f| matches!(f, Fault::DoubledTiming(c, n) if self.is(s, c, n))) {
            2.0
        } else {
            1.0
        };
        let user_space = 0.0001 + 0.0001 * self.random.uniform();
        let (kernel, attempt) = match result {
            Some((KernelOutcome::Established, connect)) => {
                let mut acks = 0;
                while acks < 8 && !self.arrives(s, t, plane, false) {
                    acks += 1;
                }
                let impostor = self.has(|f| matches!(f, Fault::Impostor(on) if on.meets(s, t)));
                if !impostor {
                    let mut at = start + connect + self.travel(s, t);
                    for fault in &self.world.faults {
                        if let Fault::LateAck(on, share, extra) = fault
                            && on.meets(s, t)
                            && self.random.chance(*share)
                        {
                            at += extra;
                        }
                    }
                    self.accept(t, local, remote, at, acks < 8);
                }
                let cut = kind == ProbeKind::Http
                    && self.has(|f| matches!(f, Fault::NoHttp(on) if on.meets(s, t)));
                let reset = self.befalls(s, t, |f| match f {
                    Fault::Resets(on, share) => Some((on, *share)),
                    _ => None,
                });
                let echo = self.travel(s, t) + self.travel(t, s);
                let outcome = if impostor {
                    Outcome::WrongResponder
                } else if self.befalls(s, t, |f| match f {
                    Fault::Spoilt(on, share) => Some((on, *share)),
                    _ => None,
                }) {
                    Outcome::BadReply
                } else if cut || reset {
                    Outcome::Reset
                } else {
                    Outcome::Ok
                };
                (
                    KernelOutcome::Established,
                    Attempt {
                        outcome,
                        connect: Some((connect + user_space) * slowed),
                        round_trip: Some(echo * slowed),
                    },
                )
            }
            Some((outcome, _)) => (
                outcome,
                Attempt {
                    outcome: Outcome::Refused,
                    connect: None,
                    round_trip: None,
                },
            ),
            None => {
                if synced {
                    self.syn_only(t, local, remote);
                }
                (
                    KernelOutcome::AbortedByApplication,
                    Attempt {
                        outcome: Outcome::Timeout,
                        connect: None,
                        round_trip: None,
                    },
                )
            }
        };
        let connect = result.map(|(_, seconds)| seconds);
        let established = kernel == KernelOutcome::Established;
        self.record(KernelConnection {
            node: s.clone(),
            direction: Direction::Initiator,
            local,
            remote,
            outcome: kernel,
            at_ns: ns(start + connect.unwrap_or(DEADLINE_SECONDS)),
            connect_ns: connect.filter(|_| established).map(ns),
            handshake_rtt_us: connect
                .filter(|_| established && retransmits == 0)
                .map(|s| (s * 1e6) as u32),
            min_rtt_us: None,
            syn_retransmits: if established { retransmits } else { 1 },
        });
        attempt
    }

    fn accept(
        &mut self,
        target: &NodeRef,
        local: SocketAddr,
        remote: SocketAddr,
        at: f64,
        established: bool,
    ) {
        let outcome = if established {
            KernelOutcome::Established
        } else {
            KernelOutcome::SynOnly
        };
        self.acceptor(target, local, remote, at, outcome);
    }

    fn syn_only(&mut self, target: &NodeRef, local: SocketAddr, remote: SocketAddr) {
        let at = self.clock;
        self.acceptor(target, local, remote, at, KernelOutcome::SynOnly);
    }

    fn acceptor(
        &mut self,
        target: &NodeRef,
        local: SocketAddr,
        remote: SocketAddr,
        at: f64,
        outcome: KernelOutcome,
    ) {
        self.record(KernelConnection {
            node: target.clone(),
            direction: Direction::Acceptor,
            local: remote,
            remote: local,
            outcome,
            at_ns: ns(at),
            connect_ns: None,
            handshake_rtt_us: None,
            min_rtt_us: None,
            syn_retransmits: 0,
        });
    }

    fn record(&mut self, record: KernelConnection) {
        for fault in &self.world.faults {
            match fault {
                Fault::AgentDead(c, n) | Fault::NoWitness(c, n) if self.is(&record.node, c, n) => {
                    return;
                }
                Fault::RecordsLost(c, n, share)
                    if self.is(&record.node, c, n) && self.random.chance(*share) =>
                {
                    return;
                }
                _ => {}
            }
        }
        self.out.connections.push(record);
    }

    fn sample(
        &mut self,
        sequence: u32,
        port: u16,
        attempt: Attempt,
        responder: Option<NodeRef>,
    ) -> Sample {
        self.clock += 0.02;
        let starved = self.world.faults.iter().find_map(|f| match f {
            Fault::Starved(share) => Some(*share),
            _ => None,
        });
        let starved = starved.is_some_and(|share| self.random.chance(share));
        let late = if starved { 0.5 } else { 0.0 };
        Sample {
            sequence,
            source_port: port,
            sent_ns: ns(self.clock),
            delay_ns: ns(self.stall),
            outcome: attempt.outcome,
            connect_ns: attempt.connect.map(|s| ns(s + late)),
            round_trip_ns: attempt.round_trip.map(|s| ns(s + late)),
            responder: (attempt.outcome == Outcome::Ok)
                .then_some(responder)
                .flatten(),
            receiver_count: None,
            starved,
        }
    }

    fn tcp_run(&mut self, source: &End, target: &End, kind: ProbeKind, plane: Plane, count: u32) {
        if self.dead(&source.node) {
            return;
        }
        let port = if kind == ProbeKind::Http {
            mesh::RESPONDER_HTTP_PORT
        } else {
            mesh::RESPONDER_ECHO_PORT
        };
        let address = |end: &End| match plane {
            Plane::Pod => end.declared.agent_pod[0],
            Plane::Node => end.declared.addresses[0],
        };
        let remote = SocketAddr::new(address(target), port);
        let mut samples = Vec::new();
        for sequence in 0..count {
            let local = SocketAddr::new(address(source), self.next_port());
            // A dead agent's responder is gone with it.
            let attempt = if self.dead(&target.node) {
                Attempt {
                    outcome: Outcome::Refused,
                    connect: None,
                    round_trip: None,
                }
            } else {
                self.connect(source, target, plane, local, remote, kind)
            };
            samples.push(self.sample(sequence, local.port(), attempt, Some(target.node.clone())));
        }
        self.push(source, target, kind, plane, remote, samples);
    }

    fn udp_run(&mut self, source: &End, target: &End, count: u32) {
        if self.dead(&source.node) {
            return;
        }
        let remote = SocketAddr::new(target.declared.agent_pod[0], mesh::RESPONDER_ECHO_PORT);
        let (s, t) = (source.node.clone(), target.node.clone());
        let mut received = 0;
        let mut samples = Vec::new();
        for sequence in 0..count {
            let port = self.next_port();
            let arrived = !self.dead(&t)
                && self.arrives(&s, &t, Plane::Pod, true)
                && !self.filtered(&s, &t, Plane::Pod);
            received += u32::from(arrived);
            let echoed = arrived && self.arrives(&t, &s, Plane::Pod, true);
            let attempt = Attempt {
                outcome: if echoed {
                    Outcome::Ok
                } else {
                    Outcome::Timeout
                },
                connect: None,
                round_trip: echoed.then_some(RTT_SECONDS),
            };
            let mut sample = self.sample(sequence, port, attempt, Some(t.clone()));
            sample.receiver_count = echoed.then_some(received);
            samples.push(sample);
        }
        if received > 0 {
            self.out.received.push(Received {
                node: t,
                peer: source.declared.agent_pod[0],
                datagrams: u64::from(received),
            });
        }
        self.push(source, target, ProbeKind::Udp, Plane::Pod, remote, samples);
    }

    fn push(
        &mut self,
        source: &End,
        target: &End,
        kind: ProbeKind,
        plane: Plane,
        address: SocketAddr,
        samples: Vec<Sample>,
    ) {
        self.out.runs.push(ProbeRun {
            source: source.node.clone(),
            target: ProbeTarget {
                cluster: target.node.cluster.clone(),
                node: Some(target.node.node.clone()),
                service: None,
                address,
                question: None,
            },
            kind,
            plane,
            look: 0,
            samples,
        });
    }

    fn dead(&self, node: &NodeRef) -> bool {
        self.has(|f| matches!(f, Fault::AgentDead(c, n) if self.is(node, c, n)))
    }
}

fn ns(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}
