//! Faults of a lab: those of paths, which the line makes, and those of edges, made here.

mod edge;
mod line;

use std::fmt;

use mesh::observation::Plane;
use serde::{Deserialize, Serialize};

use crate::error::{LabError, Result};
use crate::line::fault::{EndpointRef, Rule};
use crate::line_setup::check_crossed;
use crate::paths::RunDir;
use crate::state::{Lock, Phase, State};
use crate::topology::Topology;
use crate::up::check_machine;

pub(crate) use line::stats;

/// A fault that is active, with the number by which it is cleared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    pub id: String,
    #[serde(flatten)]
    pub kind: FaultKind,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "kebab-case")]
pub enum FaultKind {
    /// On the path from `source` to `target`, one direction.
    Path {
        source: EndpointRef,
        target: EndpointRef,
        rule: Rule,
    },
    /// A network policy that drops pod traffic of `source` on its way to agents in `target`.
    PolicyDeny { source: String, target: EndpointRef },
    /// The service's backends are killed, or those in one cluster.
    BackendDown {
        service: String,
        cluster: Option<String>,
    },
    /// Nodes of `at` translate the service's address to the backends in the clusters `to`, whatever its affinity.
    ServiceRedirect {
        service: String,
        at: String,
        to: Vec<String>,
    },
    /// Both agents of a node are killed.
    AgentKilled { node: String },
    /// The cluster's DNS server is killed.
    DnsDown { cluster: String },
    /// The cluster's DNS server answers as it should not.
    DnsTrouble { cluster: String, trouble: Trouble },
    /// A node's agents get the processor only for `share` of the time, for at most ten minutes.
    Starve { node: String, share: f64 },
}

/// What a DNS server does wrong, with every name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trouble {
    /// NXDOMAIN.
    NoSuchName,
    /// SERVFAIL.
    ServerFailure,
    /// No answer.
    Silent,
    /// The right answer, 300 ms late.
    Slow,
    /// Another address.
    Wrong,
}

impl Trouble {
    pub const ALL: [(Self, &str); 5] = [
        (Self::NoSuchName, "nxdomain"),
        (Self::ServerFailure, "servfail"),
        (Self::Silent, "silent"),
        (Self::Slow, "slow"),
        (Self::Wrong, "wrong"),
    ];
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::ALL.iter().find(|(trouble, _)| trouble == self);
        f.write_str(word.map_or("?", |(_, word)| word))
    }
}

impl std::str::FromStr for Trouble {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let known = Self::ALL.iter().find(|(_, word)| *word == text);
        known.map(|(trouble, _)| *trouble).ok_or_else(|| {
            let words: Vec<&str> = Self::ALL.iter().map(|(_, word)| *word).collect();
            format!("`{text}` is none of {}", words.join(", "))
        })
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path {
                source,
                target,
                rule,
            } => write!(f, "{rule} on the path {source} -> {target}"),
            Self::PolicyDeny { source, target } => {
                write!(f, "policy-deny of pods of {source} in {target}")
            }
            Self::BackendDown {
                service,
                cluster: None,
            } => write!(f, "backend-down of {service}"),
            Self::BackendDown {
                service,
                cluster: Some(cluster),
            } => write!(f, "backend-down of {service} in {cluster}"),
            Self::ServiceRedirect { service, at, to } => {
                write!(
                    f,
                    "service-redirect of {service} in {at} to {}",
                    to.join(", ")
                )
            }
            Self::AgentKilled { node } => write!(f, "agent-killed on {node}"),
            Self::DnsDown { cluster } => write!(f, "dns-down in {cluster}"),
            Self::DnsTrouble { cluster, trouble } => write!(f, "dns {trouble} in {cluster}"),
            Self::Starve { node, share } => {
                write!(f, "starve agents on {node} to {:.0} %", share * 100.0)
            }
        }
    }
}

/// Which faults to clear.
#[derive(Clone, Debug, PartialEq)]
pub enum Clear {
    All,
    One(String),
}

/// Makes a fault in a running lab.
///
/// # Errors
/// If the lab does not run, or the fault names something that it does not have.
pub fn set(lab: &str, kind: FaultKind) -> Result<Fault> {
    let (run, _lock, mut state) = open(lab)?;
    check(&state, &kind)?;
    let fault = Fault {
        id: format!("f{}", state.next_fault),
        kind,
    };
    state.next_fault += 1;
    // Written before it is made: a fault that is only half made can then still be cleared.
    state.faults.push(fault.clone());
    state.write(&run)?;
    let made = match &fault.kind {
        FaultKind::Path { .. } => line::set(&run, &fault),
        _ => edge::set(&run, &mut state, &fault),
    };
    if let Err(error) = made {
        state.faults.pop();
        state.write(&run)?;
        return Err(error);
    }
    state.write(&run)?;
    Ok(fault)
}

/// Clears faults and returns them.
///
/// # Errors
/// If there is no such fault, or what it took away cannot be restored.
pub fn clear(lab: &str, which: &Clear) -> Result<Vec<Fault>> {
    let (run, _lock, mut state) = open(lab)?;
    let chosen: Vec<Fault> = match which {
        Clear::All => state.faults.clone(),
        Clear::One(id) => state
            .faults
            .iter()
            .filter(|f| f.id == *id)
            .cloned()
            .collect(),
    };
    if let (Clear::One(id), true) = (which, chosen.is_empty()) {
        let known: Vec<_> = state.faults.iter().map(|f| f.id.clone()).collect();
        let known = if known.is_empty() {
            "none".to_owned()
        } else {
            known.join(", ")
        };
        return Err(LabError::NoSuchThing {
            kind: "fault",
            name: id.clone(),
            lab: lab.into(),
            known,
        });
    }
    for fault in &chosen {
        match &fault.kind {
            FaultKind::Path { .. } => line::clear(&run, fault)?,
            _ => edge::clear(&mut state, fault)?,
        }
        state.faults.retain(|f| f.id != fault.id);
        state.write(&run)?;
    }
    Ok(chosen)
}

/// The active faults.
///
/// # Errors
/// If there is no such lab.
pub fn list(lab: &str) -> Result<Vec<Fault>> {
    Ok(State::read(&RunDir::new(lab)?)?.faults)
}

fn open(lab: &str) -> Result<(RunDir, Lock, State)> {
    let run = RunDir::new(lab)?;
    check_machine()?;
    let lock = Lock::take(&run)?;
    let state = State::read(&run)?;
    if state.phase == Phase::Building {
        return Err(LabError::State {
            lab: lab.into(),
            message: "its building was interrupted".into(),
        });
    }
    Ok((run, lock, state))
}

fn check(state: &State, kind: &FaultKind) -> Result<()> {
    let topology = &state.topology;
    if state.bare && !matches!(kind, FaultKind::Path { .. } | FaultKind::PolicyDeny { .. }) {
        return Err(LabError::Fault(
            "a bare lab has no agents and no services".into(),
        ));
    }
    match kind {
        FaultKind::Path { source, target, .. } => {
            check_endpoint(topology, source)?;
            check_endpoint(topology, target)?;
            match (&source.cluster, &target.cluster) {
                (Some(source), Some(target)) => check_crossed(topology, source, target),
                _ => Ok(()),
            }
        }
        FaultKind::PolicyDeny { source, target } => {
            check_cluster(topology, source)?;
            match &target.cluster {
                Some(cluster) => {
                    check_cluster(topology, cluster).and_then(|()| check_endpoint(topology, target))
                }
                None => Err(LabError::Fault(
                    "a policy needs a target cluster, or `cluster/node`".into(),
                )),
            }
        }
        FaultKind::BackendDown { service, cluster } => {
            let known = topology.services.iter().map(|s| s.name.as_str());
            one_of(topology, "service", service, known)?;
            check_backends(topology, service, cluster.as_slice())
        }
        FaultKind::ServiceRedirect { service, at, to } => {
            let known = topology.services.iter().map(|s| s.name.as_str());
            one_of(topology, "service", service, known)?;
            check_cluster(topology, at)?;
            if to.is_empty() {
                return Err(LabError::Fault(
                    "a redirected service needs a cluster whose backends answer".into(),
                ));
            }
            check_backends(topology, service, to)
        }
        FaultKind::AgentKilled { node } | FaultKind::Starve { node, .. } => {
            if let FaultKind::Starve { share, .. } = kind
                && !(0.0..1.0).contains(share)
            {
                return Err(LabError::Fault(format!(
                    "share {share} is not from 0 to below 1"
                )));
            }
            if topology.node(node).is_some() {
                return Ok(());
            }
            one_of(
                topology,
                "node",
                node,
                topology.nodes().map(|(_, n)| n.key.as_str()),
            )
        }
        FaultKind::DnsDown { cluster } => check_cluster(topology, cluster),
        FaultKind::DnsTrouble { cluster, .. } => {
            check_cluster(topology, cluster)?;
            let same = |other: &Fault| matches!(&other.kind, FaultKind::DnsTrouble { cluster: c, .. } | FaultKind::DnsDown { cluster: c } if c == cluster);
            match state.faults.iter().find(|other| same(other)) {
                Some(other) => Err(LabError::Fault(format!(
                    "the DNS server of `{cluster}` has a fault already: {}: {}",
                    other.id, other.kind
                ))),
                None => Ok(()),
            }
        }
    }
}

fn check_backends(topology: &Topology, service: &str, clusters: &[String]) -> Result<()> {
    let service = topology.services.iter().filter(|s| s.name == service);
    let backends: Vec<&str> = service
        .flat_map(|s| s.backends.iter().map(|b| b.cluster.as_str()))
        .collect();
    clusters.iter().try_for_each(|cluster| {
        one_of(
            topology,
            "cluster with a backend",
            cluster,
            backends.iter().copied(),
        )
    })
}

fn check_cluster(topology: &Topology, name: &str) -> Result<()> {
    one_of(
        topology,
        "cluster",
        name,
        topology.clusters.iter().map(|c| c.name.as_str()),
    )
}

fn check_endpoint(topology: &Topology, endpoint: &EndpointRef) -> Result<()> {
    let clusters = topology.clusters.iter().map(|c| {
        (
            c.name.as_str(),
            c.nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>(),
        )
    });
    let clients = topology.clients.iter().map(|c| {
        (
            c.name.as_str(),
            c.hosts.iter().map(|h| h.name.as_str()).collect(),
        )
    });
    let all: Vec<(&str, Vec<&str>)> = clusters.chain(clients).collect();
    let Some(cluster) = &endpoint.cluster else {
        return Ok(());
    };
    one_of(
        topology,
        "cluster or client",
        cluster,
        all.iter().map(|(name, _)| *name),
    )?;
    let Some(node) = &endpoint.node else {
        return Ok(());
    };
    let nodes = all
        .iter()
        .filter(|(name, _)| name == cluster)
        .flat_map(|(_, nodes)| nodes.iter().copied());
    one_of(topology, "node", node, nodes)
}

fn one_of<'a>(
    topology: &Topology,
    kind: &'static str,
    name: &str,
    known: impl Iterator<Item = &'a str>,
) -> Result<()> {
    let known: Vec<&str> = known.collect();
    if known.contains(&name) {
        return Ok(());
    }
    Err(LabError::NoSuchThing {
        kind,
        name: name.into(),
        lab: topology.lab.clone(),
        known: known.join(", "),
    })
}

/// Both planes, in the order in which agents are started.
const PLANES: [Plane; 2] = [Plane::Pod, Plane::Node];
