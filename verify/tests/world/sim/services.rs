//! What probes of services and questions for their names see in a simulated mesh.

use std::net::SocketAddr;

use mesh::observation::{NodeRef, Outcome, Plane, ProbeKind, ProbeRun, ProbeTarget, Question};
use mesh::{Service, ServiceKind, ServiceName};

use super::{Attempt, End, Fault, RTT_SECONDS, Sim};

impl Sim<'_> {
    /// The first node of a cluster whose backends the asking node's translation knows, drawn like a load balancer's.
    fn backend(&mut self, source: &NodeRef, service: &Service) -> NodeRef {
        let told = self.world.faults.iter().find_map(|fault| match fault {
            Fault::Knows(on, clusters) if on.meets(source, source) => Some(clusters.to_vec()),
            _ => None,
        });
        let known = told.unwrap_or_else(|| service.answering(&source.cluster));
        let drawn = if known.len() > 1 {
            (self.random.uniform() * known.len() as f64) as usize
        } else {
            0
        };
        self.world.ends(known[drawn])[0].node.clone()
    }

    pub(super) fn tile_run(&mut self, source: &End, service: &Service, count: u32) {
        if self.dead(&source.node) {
            return;
        }
        let mut samples = Vec::new();
        for sequence in 0..count {
            let port = self.next_port();
            let backend = &self.backend(&source.node, service);
            let passes = self.arrives(&source.node, backend, Plane::Pod, false)
                && !self.filtered(&source.node, backend, Plane::Pod)
                && self.arrives(backend, &source.node, Plane::Pod, false);
            let slow = self.world.faults.iter().find_map(|f| match f {
                Fault::NdviSlow(seconds) => Some(*seconds),
                _ => None,
            });
            let asks_from = |cluster: &str| source.node.cluster == cluster;
            let outcome =
                if !passes || self.has(|f| matches!(f, Fault::Untranslated(c) if asks_from(c))) {
                    Outcome::Timeout
                } else if self.has(|f| matches!(f, Fault::Redirected(c) if asks_from(c))) {
                    Outcome::WrongResponder
                } else if self.befalls(&source.node, backend, |f| match f {
                    Fault::Resets(on, share) => Some((on, *share)),
                    _ => None,
                }) {
                    Outcome::Reset
                } else if self.has(|f| matches!(f, Fault::NdviDown))
                    || self.has(|f| matches!(f, Fault::BackendsDown(c) if *c == backend.cluster))
                {
                    Outcome::Refused
                } else {
                    Outcome::Ok
                };
            let ok = outcome == Outcome::Ok;
            let attempt = Attempt {
                outcome,
                connect: ok.then_some(RTT_SECONDS),
                round_trip: ok.then_some(slow.unwrap_or(0.02)),
            };
            if ok && service.is_global() {
                let local = SocketAddr::new(source.declared.agent_pod[0], port);
                let remote = SocketAddr::new(service.addresses[0], service.port);
                self.accept(backend, local, remote, self.clock, true);
            }
            samples.push(self.sample(sequence, port, attempt, None));
        }
        self.out.runs.push(ProbeRun {
            source: source.node.clone(),
            target: ProbeTarget {
                cluster: service.cluster.clone(),
                node: None,
                service: Some(service.name.clone()),
                address: SocketAddr::new(service.addresses[0], service.port),
                question: None,
            },
            kind: match service.kind {
                ServiceKind::Ndvi => ProbeKind::NdviTile,
                ServiceKind::Http => ProbeKind::Http,
                ServiceKind::Tcp => ProbeKind::Tcp,
            },
            plane: Plane::Pod,
            look: 0,
            samples,
        });
    }

    pub(super) fn name_run(
        &mut self,
        source: &End,
        service: &Service,
        name: &ServiceName,
        count: u32,
    ) {
        if self.dead(&source.node) {
            return;
        }
        let cluster = source.node.cluster.as_str();
        let mut samples = Vec::new();
        for sequence in 0..count {
            let port = self.next_port();
            let told = self.world.faults.iter().find_map(|fault| match fault {
                Fault::Names(on, outcome) if *on == cluster || *on == source.node.node => {
                    Some(*outcome)
                }
                _ => None,
            });
            let slow = self.has(|f| matches!(f, Fault::NamesSlow(c) if *c == cluster));
            let outcome = told.unwrap_or(Outcome::Ok);
            let attempt = Attempt {
                outcome,
                connect: None,
                round_trip: (outcome == Outcome::Ok).then_some(if slow { 0.3 } else { 0.001 }),
            };
            samples.push(self.sample(sequence, port, attempt, None));
        }
        self.out.runs.push(ProbeRun {
            source: source.node.clone(),
            target: ProbeTarget {
                cluster: cluster.to_owned(),
                node: None,
                service: Some(service.name.clone()),
                address: "0.0.0.0:53".parse().expect("an address"),
                question: Some(Question {
                    name: name.name.clone(),
                    addresses: service.addresses_of(name).to_vec(),
                }),
            },
            kind: ProbeKind::Dns,
            plane: Plane::Pod,
            look: 0,
            samples,
        });
    }
}
