//! What a lab looks like now: its parts, what runs, what is broken on purpose, what the line saw.

use serde::Serialize;
use serde_json::Value;

use crate::error::Result;
use crate::fault::{self, Fault};
use crate::line::stats::LineStats;
use crate::net::{Services, netns_path};
use crate::paths::RunDir;
use crate::state::{Phase, State};

/// Everything `lab status -o json` prints.
#[derive(Debug, Serialize)]
pub struct Status {
    pub lab: String,
    pub mesh: String,
    pub phase: Phase,
    pub mesh_yaml: String,
    pub clusters: Vec<ClusterStatus>,
    pub nodes: Vec<PlaceStatus>,
    pub pods: Vec<PlaceStatus>,
    /// Hosts outside every cluster; `cluster` is the external client's name.
    pub clients: Vec<PlaceStatus>,
    /// How nodes translate the services' addresses.
    pub service_translation: Services,
    pub services: Vec<ServiceStatus>,
    pub processes: Vec<ProcessStatus>,
    pub faults: Vec<FaultStatus>,
    /// The line's own counters; `None` while it does not answer.
    pub line: Option<LineStats>,
    /// Counters of the services and external clients, by name; `Null` for one that has none yet.
    pub traffic: Value,
}

#[derive(Debug, Serialize)]
pub struct ClusterStatus {
    pub name: String,
    pub id: u16,
    pub nodes: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct PlaceStatus {
    pub name: String,
    pub cluster: String,
    /// The node itself, for a node; empty for an external client.
    pub node: String,
    /// For external clients, the cluster that they lie behind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind: Option<String>,
    pub addresses: Vec<String>,
    /// Path of the network namespace.
    pub namespace: String,
}

#[derive(Debug, Serialize)]
pub struct ServiceStatus {
    pub name: String,
    pub cluster: String,
    pub addresses: Vec<String>,
    pub port: u16,
    pub node_port: u16,
    pub backends: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct ProcessStatus {
    pub name: String,
    pub pid: i32,
    pub alive: bool,
    pub log: String,
}

#[derive(Debug, Serialize)]
pub struct FaultStatus {
    #[serde(flatten)]
    pub fault: Fault,
    pub text: String,
}

/// # Errors
/// If there is no such lab, or its state cannot be read.
pub fn status(lab: &str) -> Result<Status> {
    let run = RunDir::new(lab)?;
    let state = State::read(&run)?;
    let topology = &state.topology;
    let path = |netns: &str| netns_path(netns).display().to_string();
    let nodes = topology.nodes().map(|(cluster, node)| PlaceStatus {
        name: node.key.clone(),
        cluster: cluster.name.clone(),
        node: node.name.clone(),
        behind: None,
        addresses: node
            .addresses
            .iter()
            .map(|a| a.addr().to_string())
            .collect(),
        namespace: path(&node.netns),
    });
    let pods = topology.pods().map(|(cluster, node, pod)| PlaceStatus {
        name: pod.name.clone(),
        cluster: cluster.name.clone(),
        node: node.name.clone(),
        behind: None,
        addresses: pod.addresses.iter().map(ToString::to_string).collect(),
        namespace: path(&pod.netns),
    });
    let clients = topology.hosts().map(|(client, host)| PlaceStatus {
        name: host.name.clone(),
        cluster: client.name.clone(),
        node: String::new(),
        behind: client.uplink.as_ref().map(|u| u.cluster.clone()),
        addresses: host
            .addresses
            .iter()
            .map(|a| a.addr().to_string())
            .collect(),
        namespace: path(&host.netns),
    });
    Ok(Status {
        lab: lab.into(),
        mesh: topology.mesh.clone(),
        phase: state.phase,
        mesh_yaml: run.mesh_yaml().display().to_string(),
        clusters: topology
            .clusters
            .iter()
            .map(|c| ClusterStatus {
                name: c.name.clone(),
                id: c.id,
                nodes: c.nodes.iter().map(|n| n.name.clone()).collect(),
            })
            .collect(),
        nodes: nodes.collect(),
        pods: pods.collect(),
        clients: clients.collect(),
        service_translation: state.services,
        services: services(&state),
        processes: processes(&state),
        faults: state
            .faults
            .iter()
            .map(|f| FaultStatus {
                fault: f.clone(),
                text: f.kind.to_string(),
            })
            .collect(),
        line: fault::stats(&run).ok(),
        traffic: traffic(&run, &state),
    })
}

fn services(state: &State) -> Vec<ServiceStatus> {
    let services = state.topology.services.iter();
    services
        .map(|s| ServiceStatus {
            name: s.name.clone(),
            cluster: s.cluster.clone(),
            addresses: s.addresses.iter().map(ToString::to_string).collect(),
            port: s.port,
            node_port: s.node_port,
            backends: s.backends.iter().map(|b| b.pod.clone()).collect(),
        })
        .collect()
}

fn processes(state: &State) -> Vec<ProcessStatus> {
    let processes = state.processes.iter();
    processes
        .map(|p| ProcessStatus {
            name: p.spec.name.clone(),
            pid: p.pid,
            alive: p.alive(),
            log: p.spec.log.display().to_string(),
        })
        .collect()
}

fn traffic(run: &RunDir, state: &State) -> Value {
    let topology = &state.topology;
    let names = topology
        .services
        .iter()
        .flat_map(|s| s.backends.iter().map(|b| &b.pod))
        .chain(topology.hosts().map(|(_, h)| &h.name));
    let read = |name: &String| {
        let text = std::fs::read_to_string(run.stats().join(format!("{name}.json"))).ok()?;
        serde_json::from_str(&text).ok()
    };
    Value::Object(
        names
            .map(|name| (name.clone(), read(name).unwrap_or(Value::Null)))
            .collect(),
    )
}
