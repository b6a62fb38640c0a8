//! The observations, joined: which agents can be believed, and each probe with what both kernels recorded of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use mesh::observation::{
    Direction, KernelConnection, KernelOutcome, NodeAccount, NodeRef, NodeState, Observations,
    Outcome, PathMeasurement, Plane, ProbeKind, ProbeRun, Sample,
};
use mesh::{Link, Mesh, Node};

/// One probe and its witnesses.
#[derive(Clone, Copy)]
pub(crate) struct Probe<'a> {
    pub(crate) run: &'a ProbeRun,
    pub(crate) sample: &'a Sample,
    /// Initiator record of the source node's kernel.
    pub(crate) source: Option<&'a KernelConnection>,
    /// Acceptor record of the target node's kernel.
    pub(crate) target: Option<&'a KernelConnection>,
}

impl Probe<'_> {
    /// No answer came in time, and it may be the starved prober that missed it: no kernel says so.
    pub(crate) fn doubtful(&self) -> bool {
        let unanswered = self.source.is_some_and(|record| {
            matches!(
                record.outcome,
                KernelOutcome::Timeout
                    | KernelOutcome::AbortedByApplication
                    | KernelOutcome::IcmpError
            )
        });
        self.sample.starved && self.sample.outcome == Outcome::Timeout && !unanswered
    }

    pub(crate) fn cell(&self) -> (String, String) {
        let run = self.run;
        let target = run.target.node.as_ref().or(run.target.service.as_ref());
        (run.source.node.clone(), target.cloned().unwrap_or_default())
    }
}

/// Everything that rows and causes ask for.
pub(crate) struct View<'a> {
    pub(crate) mesh: &'a Mesh,
    pub(crate) observations: &'a Observations,
    agents: BTreeMap<(Plane, NodeRef), &'a NodeState>,
    witnesses: BTreeSet<NodeRef>,
    probes: Vec<Probe<'a>>,
    accepted: Accepted<'a>,
}

/// Connections that kernels saw accepted at the port of a global service, by the prober's address and port, and that port.
type Accepted<'a> = HashMap<(IpAddr, u16, u16), Vec<&'a NodeRef>>;

impl<'a> View<'a> {
    pub(crate) fn new(mesh: &'a Mesh, observations: &'a Observations) -> Self {
        let mut agents = BTreeMap::new();
        let mut witnesses = BTreeSet::new();
        for report in &observations.nodes {
            if let NodeState::Observed(account) = &report.state
                && report.plane == Plane::Pod
                && account.kernel_witness.as_deref() == Some("kernel")
            {
                witnesses.insert(report.node.clone());
            }
            agents.insert((report.plane, report.node.clone()), &report.state);
        }
        let mut view = Self {
            mesh,
            observations,
            agents,
            witnesses,
            probes: Vec::new(),
            accepted: accepted(mesh, observations),
        };
        view.probes = join(mesh, observations, |run| view.believed(run));
        view
    }

    /// Why nothing can be concluded about `node` on `plane`; `None` when its agent answered throughout.
    pub(crate) fn silent(&self, plane: Plane, node: &NodeRef) -> Option<String> {
        match self.agents.get(&(plane, node.clone())) {
            Some(NodeState::Observed(_)) => None,
            Some(NodeState::Unreachable(reason)) => Some(reason.clone()),
            None => Some("no agent reported for it".to_owned()),
        }
    }

    pub(crate) fn account(&self, plane: Plane, node: &NodeRef) -> Option<&'a NodeAccount> {
        match self.agents.get(&(plane, node.clone())) {
            Some(NodeState::Observed(account)) => Some(account),
            _ => None,
        }
    }

    /// The kernel programs of the node work.
    pub(crate) fn witnessed(&self, node: &NodeRef) -> bool {
        self.witnesses.contains(node)
    }

    fn believed(&self, run: &ProbeRun) -> bool {
        let target_answers = run.target.node.as_ref().is_none_or(|node| {
            let node = NodeRef {
                cluster: run.target.cluster.clone(),
                node: node.clone(),
            };
            self.silent(run.plane, &node).is_none()
        });
        target_answers && self.silent(run.plane, &run.source).is_none()
    }

    /// Probes of one kind from the link's source to nodes of its target, or to its services for
    /// [`ProbeKind::NdviTile`]. Runs that touch a silent agent are left out.
    pub(crate) fn of<'s>(
        &'s self,
        link: &'s Link,
        plane: Plane,
        kind: ProbeKind,
    ) -> impl Iterator<Item = &'s Probe<'a>> {
        self.probes.iter().filter(move |probe| {
            probe.run.kind == kind
                && probe.run.plane == plane
                && probe.run.source.cluster == link.source
                && probe.run.target.cluster == link.target
                // What a service answers says nothing about the responders of its cluster.
                && match &probe.run.target.service {
                    None => true,
                    // Who answers for a global service is no matter of one link.
                    Some(service) => kind == ProbeKind::NdviTile && !self.is_global(service),
                }
        })
    }

    fn is_global(&self, service: &str) -> bool {
        let named = |s: &&mesh::Service| s.name == service;
        self.mesh
            .services
            .iter()
            .find(named)
            .is_some_and(mesh::Service::is_global)
    }

    /// Probes of one kind from the link's source to one service of its target.
    pub(crate) fn to_service<'s>(
        &'s self,
        link: &'s Link,
        service: &'s str,
        kind: ProbeKind,
    ) -> impl Iterator<Item = &'s Probe<'a>> {
        self.probes.iter().filter(move |probe| {
            probe.run.kind == kind
                && probe.run.plane == Plane::Pod
                && probe.run.source.cluster == link.source
                && probe.run.target.cluster == link.target
                && probe.run.target.service.as_deref() == Some(service)
        })
    }

    /// Questions of `cluster`'s pods for one name.
    pub(crate) fn resolutions<'s>(
        &'s self,
        cluster: &'s str,
        name: &'s str,
    ) -> impl Iterator<Item = &'s Probe<'a>> {
        self.probes.iter().filter(move |probe| {
            let question = probe.run.target.question.as_ref();
            probe.run.kind == ProbeKind::Dns
                && probe.run.source.cluster == cluster
                && question.is_some_and(|question| question.name == name)
        })
    }

    /// Whose backend answered a probe of a global service: what the answer says, else whose kernel accepted the
    /// connection. `None`: nobody says, or several do.
    pub(crate) fn answerer(&self, probe: &Probe<'a>) -> Option<NodeRef> {
        if let Some(responder) = &probe.sample.responder {
            return Some(responder.clone());
        }
        let (run, port) = (probe.run, probe.run.target.address.port());
        let mut found = declared_addresses(self.mesh, &run.source, run.plane)
            .into_iter()
            .filter_map(|ip| self.accepted.get(&(ip, probe.sample.source_port, port)))
            .flatten();
        let first = *found.next()?;
        found.all(|other| *other == first).then(|| first.clone())
    }

    /// Measurements of a path direction. Those that touch a silent agent are left out.
    pub(crate) fn measured<'s>(
        &'s self,
        path: &'s Link,
        plane: Plane,
    ) -> impl Iterator<Item = &'a PathMeasurement> + use<'s, 'a> {
        self.observations.measurements.iter().filter(move |found| {
            found.plane == plane
                && found.source.cluster == path.source
                && found.target.cluster == path.target
                && [&found.source, &found.target]
                    .iter()
                    .all(|node| self.silent(plane, node).is_none())
        })
    }

    /// Datagrams of requested probes that the responder of `node` got from the pods of `peer`'s node during the run. 0
    /// proves nothing: addresses may be translated on the way.
    pub(crate) fn received(&self, node: &NodeRef, peer: &NodeRef) -> u64 {
        let of_peer = |ip: &IpAddr| {
            self.nodes(&peer.cluster)
                .iter()
                .filter(|declared| declared.name == peer.node)
                .any(|declared| declared.agent_pod.contains(ip))
        };
        self.observations
            .received
            .iter()
            .filter(|received| &received.node == node && of_peer(&received.peer))
            .map(|received| received.datagrams)
            .sum()
    }

    pub(crate) fn nodes(&self, cluster: &str) -> &'a [Node] {
        self.mesh
            .cluster(cluster)
            .map_or(&[], |c| c.nodes.as_slice())
    }
}

fn accepted<'a>(mesh: &Mesh, observations: &'a Observations) -> Accepted<'a> {
    let ports: BTreeSet<u16> = mesh
        .services
        .iter()
        .filter(|service| service.is_global())
        .map(|service| service.port)
        .collect();
    let mut accepted = Accepted::new();
    for record in &observations.connections {
        if record.direction == Direction::Acceptor
            && record.outcome == KernelOutcome::Established
            && ports.contains(&record.local.port())
        {
            let key = (
                plain(record.remote.ip()),
                record.remote.port(),
                record.local.port(),
            );
            accepted.entry(key).or_default().push(&record.node);
        }
    }
    accepted
}

/// IPv4-mapped addresses of dual-stack sockets, as the IPv4 addresses that they are.
fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

#[derive(PartialEq, Eq, Hash)]
struct Key<'a> {
    node: &'a NodeRef,
    direction: Direction,
    /// The prober's end; the address is not known beforehand on the initiator's side.
    prober: (Option<IpAddr>, u16),
    responder: (Option<IpAddr>, u16),
}

fn join<'a>(
    mesh: &'a Mesh,
    observations: &'a Observations,
    believed: impl Fn(&ProbeRun) -> bool,
) -> Vec<Probe<'a>> {
    let mut records: HashMap<Key<'a>, Vec<&'a KernelConnection>> = HashMap::new();
    for record in &observations.connections {
        let (local, remote) = (record.local, record.remote);
        let key = match record.direction {
            Direction::Initiator => Key {
                node: &record.node,
                direction: record.direction,
                prober: (None, local.port()),
                responder: (Some(plain(remote.ip())), remote.port()),
            },
            Direction::Acceptor => Key {
                node: &record.node,
                direction: record.direction,
                prober: (Some(plain(remote.ip())), remote.port()),
                responder: (None, local.port()),
            },
        };
        records.entry(key).or_default().push(record);
    }
    for found in records.values_mut() {
        found.sort_by_key(|record| record.at_ns);
    }
    forget_transfers(mesh, observations, &mut records);
    for found in records.values_mut() {
        // A SYN that led to a connection is that connection's.
        let mut next_established = false;
        let mut keep: Vec<bool> = found
            .iter()
            .rev()
            .map(|record| {
                let keep = !(record.outcome == KernelOutcome::SynOnly && next_established);
                next_established = record.outcome == KernelOutcome::Established;
                keep
            })
            .collect();
        found.retain(|_| keep.pop().unwrap_or(true));
    }

    let targets: HashMap<(&str, &str), NodeRef> = mesh
        .clusters
        .iter()
        .flat_map(|cluster| cluster.nodes.iter().map(move |node| (cluster, node)))
        .map(|(cluster, node)| {
            let key = (cluster.name.as_str(), node.name.as_str());
            let value = NodeRef {
                cluster: cluster.name.clone(),
                node: node.name.clone(),
            };
            (key, value)
        })
        .collect();

    // A source port can come back towards the same target within a long run: then the i-th use
    // belongs to the i-th record.
    let mut uses: HashMap<(&NodeRef, u16, SocketAddr), usize> = HashMap::new();
    let mut probes = Vec::new();
    let mut runs: Vec<&ProbeRun> = observations
        .runs
        .iter()
        .filter(|run| believed(run))
        .collect();
    runs.sort_by_key(|run| run.look);
    for run in runs {
        let mut samples: Vec<&Sample> = run.samples.iter().collect();
        samples.sort_by_key(|sample| sample.sent_ns);
        for sample in samples {
            let mut probe = Probe {
                run,
                sample,
                source: None,
                target: None,
            };
            if !matches!(run.kind, ProbeKind::Udp | ProbeKind::Dns) {
                let nth = uses
                    .entry((&run.source, sample.source_port, run.target.address))
                    .and_modify(|n| *n += 1)
                    .or_insert(0);
                probe.source = pick(
                    records.get(&Key {
                        node: &run.source,
                        direction: Direction::Initiator,
                        prober: (None, sample.source_port),
                        responder: (
                            Some(plain(run.target.address.ip())),
                            run.target.address.port(),
                        ),
                    }),
                    *nth,
                );
                let target = run.target.node.as_deref();
                probe.target = target
                    .and_then(|node| targets.get(&(run.target.cluster.as_str(), node)))
                    .and_then(|node| {
                        source_addresses(mesh, run, probe.source)
                            .into_iter()
                            .find_map(|address| {
                                let key = Key {
                                    node,
                                    direction: Direction::Acceptor,
                                    prober: (Some(address), sample.source_port),
                                    responder: (None, run.target.address.port()),
                                };
                                pick(records.get(&key), *nth)
                            })
                    });
            }
            probes.push(probe);
        }
    }
    probes
}

/// Takes the connections of transfers out: they have no sample, and came after all probes, so that they are the last of their port.
fn forget_transfers<'a>(
    mesh: &Mesh,
    observations: &'a Observations,
    records: &mut HashMap<Key<'a>, Vec<&'a KernelConnection>>,
) {
    for measurement in &observations.measurements {
        let Some((by, port, responder)) = measurement.connection() else {
            continue;
        };
        let other = if *by == measurement.source {
            &measurement.target
        } else {
            &measurement.source
        };
        let initiator = Key {
            node: by,
            direction: Direction::Initiator,
            prober: (None, port),
            responder: (Some(plain(responder.ip())), responder.port()),
        };
        let local = records
            .get_mut(&initiator)
            .and_then(Vec::pop)
            .map(|record| plain(record.local.ip()));
        let addresses = local.map_or_else(
            || declared_addresses(mesh, by, measurement.plane),
            |ip| vec![ip],
        );
        for address in addresses {
            let acceptor = Key {
                node: other,
                direction: Direction::Acceptor,
                prober: (Some(address), port),
                responder: (None, responder.port()),
            };
            if let Some(of_port) = records.get_mut(&acceptor) {
                of_port.pop();
            }
        }
    }
}

fn pick<'a>(found: Option<&Vec<&'a KernelConnection>>, nth: usize) -> Option<&'a KernelConnection> {
    found.and_then(|found| found.get(nth)).copied()
}

/// Where the probe's packets came from: as the kernel recorded, else as mesh.yaml declares.
fn source_addresses(mesh: &Mesh, run: &ProbeRun, record: Option<&KernelConnection>) -> Vec<IpAddr> {
    if let Some(record) = record {
        return vec![plain(record.local.ip())];
    }
    declared_addresses(mesh, &run.source, run.plane)
}

fn declared_addresses(mesh: &Mesh, node: &NodeRef, plane: Plane) -> Vec<IpAddr> {
    mesh.cluster(&node.cluster)
        .and_then(|cluster| cluster.nodes.iter().find(|n| n.name == node.node))
        .map(|node| match plane {
            Plane::Pod => node.agent_pod.clone(),
            Plane::Node => node.addresses.clone(),
        })
        .unwrap_or_default()
}
