//! A simulated mesh: packets meet the faults of a world, probes and kernels write down what they would see.

#![allow(dead_code, reason = "each test binary uses its own part of the world")]

mod paths;
mod sim;
pub(crate) mod verdicts;

use std::net::IpAddr;

use mesh::observation::{NodeRef, Outcome};
use mesh::{Cluster, Link, Mesh, Node, Objectives, Service, ServiceKind};

/// splitmix64: small, seeded, good enough to drop packets.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }
}

/// Which packets a fault meets: `a`, `a/a1` or `*` on either end, one direction.
#[derive(Clone, Debug)]
pub(crate) struct On(pub(crate) &'static str, pub(crate) &'static str);

impl On {
    fn meets(&self, source: &NodeRef, target: &NodeRef) -> bool {
        let matches = |pattern: &str, node: &NodeRef| match pattern.split_once('/') {
            Some((cluster, name)) => node.cluster == cluster && node.node == name,
            None => pattern == "*" || node.cluster == pattern,
        };
        matches(self.0, source) && matches(self.1, target)
    }
}

/// What a sender learns of packets that are too big.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum MtuMode {
    Silent,
    /// As silent, and what may be cut passes in pieces; so do tunnelled packets.
    Cut,
    Told,
    /// Told, and tunnelled packets pass in pieces.
    ToldAndCut,
    /// Told, and the kernel goes on as before.
    Ignored,
    /// The tunnel was told, and the kernel has learnt.
    Absorbed,
    /// Told; what the kernel believes is not visible.
    Unclear,
}

#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Share of the packets of a path direction that vanish.
    Loss(On, f64),
    /// The same for packets of the pod plane only.
    PodLoss(On, f64),
    /// UDP only.
    UdpLoss(On, f64),
    /// TCP only.
    TcpLoss(On, f64),
    /// This share of the answers on a path direction is not what the responder wrote.
    Spoilt(On, f64),
    /// This share of the connections is reset once open.
    Resets(On, f64),
    /// The first packet of each connection waits, s.
    Setup(On, f64),
    /// One flow in so many loses everything in this path direction, the others nothing.
    DeadFlows(On, u16),
    /// The path direction loses everything for so many seconds out of every so many.
    Outages(On, f64, f64),
    /// Extra one-way delay, s.
    Delay(On, f64),
    /// This share of the packets is late by so many seconds.
    Late(On, f64, f64),
    /// The target's pods drop what the source starts; answers to their own connects pass.
    Policy(On),
    /// The same for pods and nodes.
    Firewall(On),
    /// The target answers SYNs with RST.
    Refuse(On),
    /// Somebody else answers in the target's place.
    Impostor(On),
    /// HTTP requests are cut off.
    NoHttp(On),
    /// No service has a backend.
    NdviDown,
    /// Nodes of this cluster do not translate service addresses.
    Untranslated(&'static str),
    /// Somebody else answers what this cluster asks services.
    Redirected(&'static str),
    /// Backends of services in this cluster refuse.
    BackendsDown(&'static str),
    /// Nodes that meet this (on either end) know only the backends in these clusters.
    Knows(On, &'static [&'static str]),
    /// How every question for a name ends in this cluster, or at this node.
    Names(&'static str, Outcome),
    /// The resolver of this cluster takes 300 ms.
    NamesSlow(&'static str),
    /// Tiles take this many seconds.
    NdviSlow(f64),
    /// Nothing above so many bytes crosses between nodes.
    Mtu(On, u16, MtuMode),
    /// A port that carries so many bit/s, and queues.
    Rate(On, u64),
    /// So many bit/s, and nothing queues.
    Thin(On, u64),
    /// This share of the handshakes' ACKs is late by so many seconds.
    LateAck(On, f64, f64),
    /// No usable answer from the agents of a node.
    AgentDead(&'static str, &'static str),
    /// The kernel of a node does not testify.
    NoWitness(&'static str, &'static str),
    /// The prober of a node doubles its connect times.
    DoubledTiming(&'static str, &'static str),
    /// The kernel of a node loses this share of its records.
    RecordsLost(&'static str, &'static str, f64),
    /// This share of the samples is starved, and late.
    Starved(f64),
    /// Every so many connects the source stalls for so many seconds: it sends late and its kernel answers late.
    Stalls(u32, f64),
    /// A node stalls for 50 ms at each of its connects, but for 12 of every 240.
    HardlyRuns(&'static str, &'static str),
    /// The first transfer on these paths carries so many bit/s and queues; nobody measures it again.
    Hiccup(On, u64),
}

pub(crate) struct World {
    pub(crate) mesh: Mesh,
    pub(crate) faults: Vec<Fault>,
    pub(crate) seed: u64,
    /// Probes per node pair: TCP, UDP; HTTP and node plane; tiles per source node.
    pub(crate) tcp: u32,
    pub(crate) few: u32,
    pub(crate) tiles: u32,
    /// TCP and UDP probes from each node to the next of its cluster.
    pub(crate) control: u32,
}

const RTT_SECONDS: f64 = 0.004;
const RTO_SECONDS: f64 = 1.0;
const DEADLINE_SECONDS: f64 = 2.0;

pub(crate) fn mesh(clusters: &[&str], nodes: usize) -> Mesh {
    let clusters: Vec<Cluster> = clusters
        .iter()
        .enumerate()
        .map(|(c, name)| Cluster {
            name: (*name).to_owned(),
            id: c as u16 + 1,
            node_networks: vec![format!("192.168.{c}.0/24").parse().expect("net")],
            pod_cidrs: vec![format!("10.{c}.0.0/16").parse().expect("net")],
            service_cidrs: vec![format!("172.16.{c}.0/24").parse().expect("net")],
            dns_server: None,
            nodes: (0..nodes)
                .map(|n| Node {
                    name: format!("{name}{}", n + 1),
                    addresses: vec![IpAddr::from([192, 168, c as u8, n as u8 + 1])],
                    agent_pod: vec![IpAddr::from([10, c as u8, n as u8, 2])],
                    agent: None,
                    agent_node_plane: None,
                })
                .collect(),
            context: None,
        })
        .collect();
    let links = clusters
        .iter()
        .flat_map(|s| clusters.iter().map(move |t| (s, t)))
        .filter(|(s, t)| s.name != t.name || clusters.len() == 1)
        .map(|(s, t)| Link {
            source: s.name.clone(),
            target: t.name.clone(),
        })
        .collect();
    Mesh {
        name: "sim".into(),
        services: vec![Service {
            name: "ndvi".into(),
            cluster: clusters[0].name.clone(),
            backends: vec![clusters[0].name.clone()],
            affinity: mesh::Affinity::None,
            addresses: vec![IpAddr::from([172, 16, 0, 10])],
            port: 8080,
            kind: ServiceKind::Ndvi,
            names: Vec::new(),
        }],
        clusters,
        clients: Vec::new(),
        links,
        objectives: Objectives {
            latency_p99_seconds: Some(0.040),
            ..Objectives::default()
        },
        rules: mesh::Rules::default(),
        tls: None,
    }
}

/// Three clusters `a`, `b`, `c` of two nodes.
pub(crate) fn world(faults: Vec<Fault>) -> World {
    World {
        mesh: mesh(&["a", "b", "c"], 2),
        faults,
        seed: 1,
        tcp: 240,
        few: 80,
        tiles: 160,
        control: 60,
    }
}
impl World {
    /// Deterministic part of the one-way time, s.
    fn one_way(&self, from: &NodeRef, to: &NodeRef) -> f64 {
        let extra: f64 = self
            .faults
            .iter()
            .map(|fault| match fault {
                Fault::Delay(on, extra) if on.meets(from, to) => *extra,
                _ => 0.0,
            })
            .sum();
        0.5 * RTT_SECONDS + extra
    }
}
