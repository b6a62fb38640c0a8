//! Faults at the edges: processes that are killed or starved, and a policy that drops.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{Fault, FaultKind, PLANES, Trouble};
use crate::cgroup;
use crate::error::{LabError, Result};
use crate::net::{Redirect, Services, Tools, entries, renewed_rules, translate_anew};
use crate::paths::RunDir;
use crate::process::{ProcessSpec, last_words};
use crate::state::State;
use crate::topology::{NodeNet, PodRole, Topology};
use crate::workload::agent_name;

const TOOLS: Tools = Tools { cgroup: None };
/// A starved agent is let go after this long, whatever happens to the lab.
const STARVE_SECONDS: u32 = 600;

pub(super) fn set(run: &RunDir, state: &mut State, fault: &Fault) -> Result<()> {
    match &fault.kind {
        FaultKind::PolicyDeny { source, target } => {
            for node in targets(&state.topology, target) {
                TOOLS.nft_in(
                    &node.netns,
                    &deny_rules(&state.topology, fault, source, node),
                )?;
            }
            Ok(())
        }
        FaultKind::Starve { node, share } => starve(run, state, fault, node, *share),
        FaultKind::ServiceRedirect { at, .. } => translate(state, at, None),
        FaultKind::DnsTrouble { cluster, trouble } => dns(state, cluster, Some(*trouble)),
        _ => victims(state, fault)
            .iter()
            .try_for_each(|name| match state.process(name) {
                Some(process) => process.end(),
                None => Err(LabError::Fault(format!(
                    "process `{name}` does not belong to this lab"
                ))),
            }),
    }
}

pub(super) fn clear(state: &mut State, fault: &Fault) -> Result<()> {
    match &fault.kind {
        FaultKind::PolicyDeny { target, .. } => targets(&state.topology, target)
            .iter()
            .try_for_each(|node| {
                // Adding first makes the deletion hold for a table that never came to be.
                let table = table_name(fault);
                TOOLS.nft_in(
                    &node.netns,
                    &format!("add table inet {table}\ndelete table inet {table}\n"),
                )
            }),
        FaultKind::ServiceRedirect { at, .. } => translate(state, at, Some(fault)),
        FaultKind::DnsTrouble { cluster, .. } => dns(state, cluster, None),
        FaultKind::Starve { .. } => {
            let helper = starve_name(fault);
            if let Some(position) = state.processes.iter().position(|p| p.spec.name == helper) {
                state.processes.remove(position).end()?;
            }
            let names = victims(state, fault);
            names
                .iter()
                .filter_map(|name| state.process(name))
                .try_for_each(|p| p.signal(Signal::SIGCONT))
        }
        _ => {
            let names = victims(state, fault);
            for process in state
                .processes
                .iter_mut()
                .filter(|p| names.contains(&p.spec.name))
            {
                // Another fault may hold the same process down; the last one to be cleared starts it.
                let held = state
                    .faults
                    .iter()
                    .any(|f| f.id != fault.id && kills(&state.topology, f, &process.spec.name));
                if !process.alive() && !held {
                    *process = process.spec.start()?;
                }
            }
            Ok(())
        }
    }
}

fn kills(topology: &Topology, fault: &Fault, name: &str) -> bool {
    !matches!(fault.kind, FaultKind::Starve { .. })
        && named(topology, fault).iter().any(|n| n == name)
}

fn victims(state: &State, fault: &Fault) -> Vec<String> {
    named(&state.topology, fault)
}

/// Names of the processes that a fault is about.
fn named(topology: &Topology, fault: &Fault) -> Vec<String> {
    match &fault.kind {
        FaultKind::BackendDown { service, cluster } => topology
            .services
            .iter()
            .filter(|s| s.name == *service)
            .flat_map(|s| &s.backends)
            .filter(|b| cluster.as_ref().is_none_or(|cluster| b.cluster == *cluster))
            .map(|b| b.pod.clone())
            .collect(),
        FaultKind::AgentKilled { node } | FaultKind::Starve { node, .. } => {
            let key = topology.node(node).map(|(_, n)| n.key.as_str());
            key.map(|key| PLANES.map(|plane| agent_name(key, plane)).into())
                .unwrap_or_default()
        }
        FaultKind::DnsDown { cluster } => topology
            .clusters
            .iter()
            .filter(|c| c.name == *cluster)
            .map(|c| c.dns_pod.clone())
            .collect(),
        FaultKind::Path { .. }
        | FaultKind::PolicyDeny { .. }
        | FaultKind::ServiceRedirect { .. }
        | FaultKind::DnsTrouble { .. } => Vec::new(),
    }
}

fn targets<'a>(
    topology: &'a Topology,
    target: &crate::line::fault::EndpointRef,
) -> Vec<&'a NodeNet> {
    topology
        .nodes()
        .filter(|(cluster, node)| {
            target.cluster.as_ref() == Some(&cluster.name)
                && target.node.as_ref().is_none_or(|n| *n == node.name)
        })
        .map(|(_, node)| node)
        .collect()
}

/// Starts the DNS server of a cluster anew, with this trouble or none, and waits until it listens.
fn dns(state: &mut State, cluster: &str, trouble: Option<Trouble>) -> Result<()> {
    const OPTION: &str = "--trouble";
    let clusters = &state.topology.clusters;
    let Some(pod) = clusters.iter().find(|c| c.name == cluster) else {
        return Ok(());
    };
    let server = state
        .processes
        .iter_mut()
        .find(|process| process.spec.name == pod.dns_pod)
        .ok_or_else(|| LabError::Fault(format!("`{cluster}` has no DNS server")))?;
    server.end()?;
    let args = &mut server.spec.args;
    if let Some(at) = args.iter().position(|word| word == OPTION) {
        args.drain(at..(at + 2).min(args.len()));
    }
    args.extend(
        trouble
            .into_iter()
            .flat_map(|trouble| [OPTION.to_owned(), trouble.to_string()]),
    );
    let addresses = args.iter().filter(|word| *word == "--listen").count();
    *server = server.spec.start()?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while server.listening(53) < addresses {
        if Instant::now() > deadline || !server.alive() {
            return Err(LabError::Fault(format!(
                "the DNS server of `{cluster}` does not listen: {}",
                last_words(&server.spec.log)
            )));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Gives the nodes of a cluster the services' translation that the active faults make, `but` one of them.
fn translate(state: &State, cluster: &str, but: Option<&Fault>) -> Result<()> {
    let topology = &state.topology;
    let redirects: Vec<Redirect<'_>> = state
        .faults
        .iter()
        .filter(|fault| but.is_none_or(|but| but.id != fault.id))
        .filter_map(|fault| match &fault.kind {
            FaultKind::ServiceRedirect { service, at, to } => Some(Redirect { service, at, to }),
            _ => None,
        })
        .collect();
    let Some(found) = topology.clusters.iter().find(|c| c.name == cluster) else {
        return Ok(());
    };
    match state.services {
        Services::Dnat => found.nodes.iter().try_for_each(|node| {
            let rules = renewed_rules(topology, cluster, node, state.services, &redirects);
            TOOLS.nft_in(&node.netns, &rules)
        }),
        Services::Connect => {
            let dir = cgroup::lab_dir(&topology.lab)?;
            let cgroups: Vec<_> = found.nodes.iter().map(|n| dir.join(&n.key)).collect();
            translate_anew(&cgroups, &entries(topology, cluster, &redirects))
        }
    }
}

fn table_name(fault: &Fault) -> String {
    format!("fault_{}", fault.id)
}

/// Drops what pods of `source` send to the agent's pod on `node`; the node itself, other pods and
/// the way back are not touched.
fn deny_rules(topology: &Topology, fault: &Fault, source: &str, node: &NodeNet) -> String {
    let mut rules = String::new();
    let agent = node
        .pod(PodRole::Agent)
        .map(|p| p.addresses.as_slice())
        .unwrap_or_default();
    for cidr in topology
        .clusters
        .iter()
        .filter(|c| c.name == source)
        .flat_map(|c| &c.pod_cidrs)
    {
        let family = if cidr.addr().is_ipv6() { "ip6" } else { "ip" };
        for address in agent
            .iter()
            .filter(|a| a.is_ipv6() == cidr.addr().is_ipv6())
        {
            rules += &format!(
                "  {family} saddr {cidr} {family} daddr {address} ct direction original counter drop\n"
            );
        }
    }
    format!(
        "table inet {} {{\n chain forward {{\n  type filter hook forward priority 0;\n{rules} }}\n}}\n",
        table_name(fault)
    )
}

fn starve_name(fault: &Fault) -> String {
    format!("starve-{}", fault.id)
}

fn starve(run: &RunDir, state: &mut State, fault: &Fault, node: &str, share: f64) -> Result<()> {
    let mut args: Vec<String> = [
        "lab-role",
        "starve",
        "--share",
        &share.to_string(),
        "--seconds",
        &STARVE_SECONDS.to_string(),
    ]
    .map(str::to_owned)
    .into();
    for name in victims(state, fault) {
        let Some(process) = state.process(&name).filter(|p| p.alive()) else {
            return Err(LabError::Fault(format!(
                "`{name}` on `{node}` does not run"
            )));
        };
        args.extend([
            "--process".to_owned(),
            format!("{}:{}", process.pid, process.started),
        ]);
    }
    let Some(line) = state.process(crate::state::LINE) else {
        return Err(LabError::Fault("the lab has no line".into()));
    };
    let name = starve_name(fault);
    let spec = ProcessSpec {
        program: line.spec.program.clone(),
        args,
        netns: None,
        cgroup: cgroup::lab_dir(run.lab())?.join(cgroup::OUTSIDE),
        unprivileged: false,
        resolv_conf: None,
        realtime: line.spec.realtime,
        log: run.logs().join(format!("{name}.log")),
        name,
    };
    state.processes.push(spec.start()?);
    Ok(())
}
