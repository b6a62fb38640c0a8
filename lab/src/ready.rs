//! Waits until a lab is measured to work: agents answer, and connections cross every path.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use mesh::observation::Plane;
use mesh::{RESPONDER_ECHO_PORT, RESPONDER_HTTP_PORT};

use crate::cgroup;
use crate::error::{During, LabError, Result};
use crate::net::{each, netns_path};
use crate::options::Options;
use crate::paths::RunDir;
use crate::process::{Process, last_words};
use crate::state::State;
use crate::sys::{Place, in_netns};
use crate::topology::{CLIENT_ECHO_PORT, PodRole, Topology};

const ONE_TRY: Duration = Duration::from_millis(1500);
const PAUSE: Duration = Duration::from_millis(20);

/// Something that must accept a connection.
#[derive(Clone, Debug, PartialEq)]
enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// All targets as seen from one place, in the words of an error message.
#[derive(Clone, Debug)]
struct View {
    from: String,
    netns: String,
    /// Seen by processes in this cgroup, where programs may change what `connect` does.
    cgroup: Option<PathBuf>,
    targets: Vec<(String, Target)>,
}

/// Returns when every view reaches all its targets.
pub(crate) fn wait(options: &Options, run: &RunDir, state: &State) -> Result<()> {
    let begin = Instant::now();
    let open = Mutex::new(views(run, state, &cgroup::lab_dir(run.lab())?));
    let mut last;
    loop {
        let current = open
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .drain(..)
            .collect::<Vec<_>>();
        last = current.iter().find_map(|v| {
            v.targets
                .first()
                .map(|t| format!("{} does not reach {}", v.from, t.0))
        });
        each(&current, |view| {
            options.cancel.check()?;
            let left = match &view.cgroup {
                Some(cgroup) => unreached(view, |target| {
                    connects(&options.program, &view.netns, cgroup, target)
                }),
                None => in_netns(&netns_path(&view.netns), || {
                    unreached(view, |target| Ok(accepts(target)))
                })
                .flatten(),
            };
            let left = left.during(|| format!("enter namespace `{}`", view.netns))?;
            if !left.targets.is_empty() {
                open.lock().unwrap_or_else(|e| e.into_inner()).push(left);
            }
            Ok(())
        })?;
        if open.lock().unwrap_or_else(|e| e.into_inner()).is_empty() {
            return Ok(());
        }
        let dead = state.processes.iter().find(|p| !p.alive());
        if dead.is_some() || begin.elapsed() > options.deadline {
            let last = dead.map(died).or(last).unwrap_or_default();
            return Err(LabError::NotReady {
                lab: run.lab().into(),
                seconds: begin.elapsed().as_secs_f64(),
                last,
            });
        }
        std::thread::sleep(PAUSE);
    }
}

fn died(process: &Process) -> String {
    format!(
        "process `{}` ended: {}",
        process.spec.name,
        last_words(&process.spec.log)
    )
}

/// What is left of a view after trying its targets; a first failure spares the rest, which will
/// be tried again anyway.
fn unreached(view: &View, reaches: impl Fn(&Target) -> io::Result<bool>) -> io::Result<View> {
    let mut left = view.clone();
    while let Some((_, target)) = left.targets.first()
        && reaches(target)?
    {
        left.targets.remove(0);
    }
    Ok(left)
}

/// [`accepts`], tried by a process of its own: a thread of this one cannot be in another cgroup.
fn connects(program: &Path, netns: &str, cgroup: &Path, target: &Target) -> io::Result<bool> {
    let Target::Tcp(address) = target else {
        return Ok(accepts(target));
    };
    let place = Place {
        netns: Some(netns_path(netns)),
        cgroup: Some(cgroup.to_owned()),
        ..Place::default()
    };
    let patience = ONE_TRY.as_millis().to_string();
    let mut command = Command::new(program);
    command
        .args(["lab-role", "reach", "--within-ms", &patience, "--to"])
        .arg(address.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    place.prepare(&mut command)?;
    Ok(command.status()?.success())
}

fn accepts(target: &Target) -> bool {
    match target {
        Target::Tcp(address) => TcpStream::connect_timeout(address, ONE_TRY).is_ok(),
        Target::Unix(path) => UnixStream::connect(path).is_ok(),
    }
}

/// `cgroups`: where the lab's nodes have theirs.
fn views(run: &RunDir, state: &State, cgroups: &Path) -> Vec<View> {
    let topology = &state.topology;
    let mut views = Vec::new();
    let fabric = &topology.fabric.netns;
    let line = (
        "the line's control socket".to_owned(),
        Target::Unix(run.line_control()),
    );
    views.push(View {
        from: "the fabric".into(),
        netns: fabric.clone(),
        cgroup: None,
        targets: vec![line],
    });
    for (_, node) in topology.nodes() {
        let (role, port) = if state.bare {
            (PodRole::Client, CLIENT_ECHO_PORT)
        } else {
            (PodRole::Agent, RESPONDER_ECHO_PORT)
        };
        let mut targets = Vec::new();
        if !state.bare {
            for plane in [Plane::Pod, Plane::Node] {
                let socket = run.agent_socket(&node.key, plane);
                targets.push((
                    format!("API socket {}", socket.display()),
                    Target::Unix(socket),
                ));
            }
            views.push(View {
                from: format!("node {}", node.key),
                netns: node.netns.clone(),
                cgroup: None,
                targets: node_plane(
                    topology,
                    &node.addresses.iter().map(|a| a.addr()).collect::<Vec<_>>(),
                ),
            });
        }
        let Some(source) = node.pod(role) else {
            continue;
        };
        for (_, peer) in topology.nodes() {
            let Some(pod) = peer.pod(role) else { continue };
            targets.extend(tcp(&pod.name, &pod.addresses, port, &source.addresses));
        }
        views.push(View {
            from: format!("pod {}", source.name),
            netns: source.netns.clone(),
            cgroup: None,
            targets,
        });
    }
    if !state.bare {
        views.extend(service_views(topology, cgroups));
    }
    views
}

fn node_plane(topology: &Topology, own: &[IpAddr]) -> Vec<(String, Target)> {
    topology
        .nodes()
        .flat_map(|(_, peer)| {
            let addresses: Vec<_> = peer.addresses.iter().map(|a| a.addr()).collect();
            tcp(
                &format!("node {}", peer.key),
                &addresses,
                RESPONDER_HTTP_PORT,
                own,
            )
        })
        .collect()
}

/// Services from one client pod per cluster, and through their node port from every external host.
fn service_views(topology: &Topology, cgroups: &Path) -> Vec<View> {
    let mut views = Vec::new();
    for node in topology.clusters.iter().filter_map(|c| c.nodes.first()) {
        let Some(pod) = node.pod(PodRole::Client) else {
            continue;
        };
        let targets = topology.services.iter().flat_map(|s| {
            tcp(
                &format!("service {}", s.name),
                &s.addresses,
                s.port,
                &pod.addresses,
            )
        });
        views.push(View {
            from: format!("pod {}", pod.name),
            netns: pod.netns.clone(),
            cgroup: Some(cgroups.join(&node.key)),
            targets: targets.collect(),
        });
    }
    for (_, host) in topology.hosts() {
        let own: Vec<_> = host.addresses.iter().map(|a| a.addr()).collect();
        let targets = topology.services.iter().filter_map(|s| {
            let home = s.backends.first()?;
            let (_, node) = topology.nodes().find(|(_, n)| n.key == home.node)?;
            let addresses: Vec<_> = node.addresses.iter().map(|a| a.addr()).collect();
            Some(tcp(
                &format!("node port of {}", s.name),
                &addresses,
                s.node_port,
                &own,
            ))
        });
        views.push(View {
            from: host.name.clone(),
            netns: host.netns.clone(),
            cgroup: None,
            targets: targets.flatten().collect(),
        });
    }
    views
}

/// One target per address whose family the source speaks.
fn tcp(name: &str, addresses: &[IpAddr], port: u16, source: &[IpAddr]) -> Vec<(String, Target)> {
    addresses
        .iter()
        .filter(|a| source.iter().any(|s| s.is_ipv6() == a.is_ipv6()))
        .map(|a| SocketAddr::new(*a, port))
        .map(|a| (format!("{name} at {a}"), Target::Tcp(a)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{OuterDf, Services};
    use crate::state::Phase;
    use crate::topology::{default_mesh, plan};

    #[test]
    fn a_lab_is_ready_when_everybody_reaches_agents_nodes_and_services() {
        let mut state = State {
            phase: Phase::Building,
            topology: plan("t", &default_mesh(3, 6).unwrap()).unwrap(),
            outer_df: OuterDf::Set,
            services: Services::Connect,
            bare: false,
            bpffs: PathBuf::new(),
            processes: Vec::new(),
            faults: Vec::new(),
            next_fault: 1,
        };
        let run = RunDir::new("t").unwrap();
        let seen = |state: &State| -> Vec<(String, usize, bool)> {
            let views = views(&run, state, Path::new("/cgroups"));
            let row = |v: View| (v.from, v.targets.len(), v.cgroup.is_some());
            views.into_iter().map(row).collect()
        };
        let whole = seen(&state);
        // Both families; agents' pods also wait for both planes' sockets.
        for (from, targets, in_cgroup) in [
            ("the fabric", 1, false),
            ("node wrk-e-1", 6 * 2, false),
            ("pod agent-pi-worker-01", 6 * 2 + 2, false),
            ("pod client-cp-e-1", 2, true),
            ("pod client-cp-w-1", 2, true),
            ("pod client-pi-master-01", 2, true),
            ("drone-2", 2, false),
        ] {
            let row = (from.to_owned(), targets, in_cgroup);
            assert!(whole.contains(&row), "{row:?} in {whole:?}");
        }
        assert_eq!(whole.len(), 1 + 6 + 6 + 3 + 2);
        // Without agents and services there is the way between pods.
        state.bare = true;
        let bare = seen(&state);
        assert!(bare.contains(&("pod client-wrk-w-1".to_owned(), 6 * 2, false)));
        assert_eq!(bare.len(), 1 + 6);
    }
}
