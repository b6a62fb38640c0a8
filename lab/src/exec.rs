//! Runs any program inside a pod, a node or an external client of a lab.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;

use crate::cgroup;
use crate::error::{During, LabError, Result};
use crate::net::netns_path;
use crate::paths::RunDir;
use crate::state::State;
use crate::sys::Place;
use crate::up::check_machine;

/// Runs `command` in the namespace and cgroup of `place` (a pod, a node or an external client) with
/// the caller's standard streams. A pod's DNS server is that of its cluster.
///
/// Returns the exit code, 128 + n after signal n.
///
/// # Errors
/// If there is no such lab or place, or the program cannot be started.
pub fn exec(lab: &str, place: &str, command: &[String]) -> Result<i32> {
    let run = RunDir::new(lab)?;
    check_machine()?;
    let state = State::read(&run)?;
    let mut child = command_in(&run, &state, place, command)?;
    let status = child
        .status()
        .map_err(|e| LabError::Exec(command.join(" "), e))?;
    Ok(status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

fn command_in(run: &RunDir, state: &State, name: &str, command: &[String]) -> Result<Command> {
    let [program, args @ ..] = command else {
        return Err(LabError::Exec(
            String::new(),
            std::io::Error::from(std::io::ErrorKind::InvalidInput),
        ));
    };
    let topology = &state.topology;
    let cgroups = cgroup::lab_dir(run.lab())?;
    let (netns, cgroup, cluster) = if let Some((cluster, node, pod)) = topology.pod(name) {
        (&pod.netns, cgroups.join(&node.key), Some(&cluster.name))
    } else if let Some((cluster, node)) = topology.node(name) {
        (&node.netns, cgroups.join(&node.key), Some(&cluster.name))
    } else if let Some((_, host)) = topology.hosts().find(|(_, h)| h.name == name) {
        (&host.netns, cgroups.join(cgroup::OUTSIDE), None)
    } else if let Some((_, router)) = topology.uplinks().find(|(_, u)| u.name == name) {
        (&router.netns, cgroups.join(cgroup::OUTSIDE), None)
    } else if name == "fabric" {
        (&topology.fabric.netns, cgroups.join(cgroup::OUTSIDE), None)
    } else {
        return Err(no_such_place(state, name));
    };
    let resolv_conf: Option<PathBuf> = cluster.map(|c| run.resolv_conf(c)).filter(|p| p.exists());
    let place = Place {
        netns: Some(netns_path(netns)),
        cgroup: Some(cgroup),
        resolv_conf,
        ..Place::default()
    };
    let mut child = Command::new(program);
    child.args(args);
    place
        .prepare(&mut child)
        .during(|| format!("enter `{name}`"))?;
    Ok(child)
}

fn no_such_place(state: &State, name: &str) -> LabError {
    let topology = &state.topology;
    let pods = topology.pods().map(|(_, _, p)| p.name.as_str());
    let nodes = topology.nodes().map(|(_, n)| n.key.as_str());
    let hosts = topology.hosts().map(|(_, h)| h.name.as_str());
    LabError::NoSuchThing {
        kind: "pod, node or client",
        name: name.to_owned(),
        lab: topology.lab.clone(),
        known: pods
            .chain(nodes)
            .chain(hosts)
            .chain(topology.uplinks().map(|(_, u)| u.name.as_str()))
            .chain(["fabric"])
            .collect::<Vec<_>>()
            .join(", "),
    }
}
