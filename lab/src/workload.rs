//! Which processes a lab runs, with what arguments, and where.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::cgroup;
use crate::error::{During, Result};
use crate::paths::RunDir;
use crate::process::{AGENT_ID, ProcessSpec};
use crate::state::LINE;
use crate::topology::{
    CLIENT_ECHO_PORT, ClusterNet, Kind, NameNet, NodeNet, PodRole, ServiceNet, Topology,
};
use mesh::observation::Plane;

/// Where an agent serves metrics: on its pod's first address, and on its node's.
pub const POD_METRICS_PORT: u16 = 9464;
pub const NODE_METRICS_PORT: u16 = 9465;

pub(crate) struct Workload<'a> {
    pub(crate) run: &'a RunDir,
    pub(crate) topology: &'a Topology,
    /// The `aggrik8s` binary.
    pub(crate) program: &'a Path,
    /// Whether the processes may run before the machine's others.
    pub(crate) realtime: bool,
}

impl Workload<'_> {
    fn role(&self, name: &str, netns: &str, cgroup: PathBuf, args: Vec<String>) -> ProcessSpec {
        ProcessSpec {
            name: name.into(),
            program: self.program.to_owned(),
            args: [vec!["lab-role".to_owned()], args].concat(),
            netns: Some(netns.into()),
            cgroup,
            unprivileged: false,
            resolv_conf: None,
            realtime: self.realtime,
            log: self.log(name),
        }
    }

    fn log(&self, name: &str) -> PathBuf {
        self.run.logs().join(format!("{name}.log"))
    }

    fn cgroup(&self, part: &str) -> Result<PathBuf> {
        Ok(cgroup::lab_dir(&self.topology.lab)?.join(part))
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn args<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).into()
}

pub(crate) fn line_spec(work: &Workload<'_>) -> Result<ProcessSpec> {
    let (config, control) = (
        text(&work.run.line_config()),
        text(&work.run.line_control()),
    );
    let args = args([
        "line",
        "--tun",
        "line0",
        "--config",
        &config,
        "--control",
        &control,
    ]);
    Ok(work.role(
        LINE,
        &work.topology.fabric.netns,
        work.cgroup(cgroup::OUTSIDE)?,
        args,
    ))
}

/// Echo in every client pod; unless `bare`, also DNS, the services and the external clients.
pub(crate) fn service_specs(work: &Workload<'_>, bare: bool) -> Result<Vec<ProcessSpec>> {
    let mut specs = Vec::new();
    for (cluster, node, pod) in work.topology.pods() {
        let cgroup = work.cgroup(&node.key)?;
        let listen = |port: u16| -> Vec<String> {
            let sockets = pod.addresses.iter().map(|a| SocketAddr::new(*a, port));
            sockets
                .flat_map(|a| ["--listen".to_owned(), a.to_string()])
                .collect()
        };
        let arguments = match pod.role {
            PodRole::Client => [args(["echo"]), listen(CLIENT_ECHO_PORT)].concat(),
            PodRole::Dns if !bare => [args(["dns"]), listen(53), dns_zone(work, cluster)?].concat(),
            PodRole::Backend if !bare => {
                let Some(service) = work
                    .topology
                    .services
                    .iter()
                    .find(|s| s.backends.iter().any(|b| b.pod == pod.name))
                else {
                    continue;
                };
                let name = format!("{}/{}", cluster.name, node.name);
                [
                    service_role(work, service, &pod.name, &name),
                    listen(service.port),
                ]
                .concat()
            }
            _ => continue,
        };
        specs.push(work.role(&pod.name, &pod.netns, cgroup, arguments));
    }
    if !bare {
        specs.extend(client_specs(work)?);
    }
    Ok(specs)
}

/// `name` is what the backend calls itself in its answers.
fn service_role(work: &Workload<'_>, service: &ServiceNet, pod: &str, name: &str) -> Vec<String> {
    match service.kind {
        Kind::Ndvi => [args(["ndvi-server", "--name", name]), stats(work, pod)].concat(),
        Kind::Http => args(["http", "--name", name]),
        Kind::Tcp => args(["echo"]),
    }
}

fn stats(work: &Workload<'_>, name: &str) -> Vec<String> {
    args([
        "--stats",
        &text(&work.run.stats().join(format!("{name}.json"))),
    ])
}

/// The zone file of a cluster's DNS server and the resolv.conf of its pods.
fn dns_zone(work: &Workload<'_>, cluster: &ClusterNet) -> Result<Vec<String>> {
    let domain = format!("svc.{}.mesh", cluster.name);
    let mut zone = String::new();
    for service in &work.topology.services {
        for owner in &work.topology.clusters {
            for address in &service.addresses {
                zone += &format!("{}.svc.{}.mesh {address}\n", service.name, owner.name);
            }
        }
        let known =
            |name: &&NameNet| name.clusters.is_empty() || name.clusters.contains(&cluster.name);
        for name in service.names.iter().filter(known) {
            for address in &name.addresses {
                zone += &format!("{} {address}\n", name.name);
            }
        }
    }
    for (owner, _, pod) in work.topology.pods() {
        for address in &pod.addresses {
            zone += &format!("{}.pod.{}.mesh {address}\n", pod.name, owner.name);
        }
    }
    let file = work
        .run
        .dir()
        .join("resolv")
        .join(format!("{}.zone", cluster.name));
    std::fs::write(&file, zone).during(|| format!("write {}", file.display()))?;
    if let Some((_, _, pod)) = work.topology.pod(&cluster.dns_pod) {
        let servers: String = pod
            .addresses
            .iter()
            .map(|a| format!("nameserver {a}\n"))
            .collect();
        let resolv = work.run.resolv_conf(&cluster.name);
        std::fs::write(
            &resolv,
            format!("{servers}search {domain}\noptions timeout:1 attempts:2\n"),
        )
        .during(|| format!("write {}", resolv.display()))?;
    }
    Ok(args(["--zone", &text(&file)]))
}

/// Every external client sends to the first NDVI service, through the port of its backend's node.
fn client_specs(work: &Workload<'_>) -> Result<Vec<ProcessSpec>> {
    let Some(service) = work.topology.services.iter().find(|s| s.kind == Kind::Ndvi) else {
        return Ok(Vec::new());
    };
    let Some((_, node)) = work
        .topology
        .nodes()
        .find(|(_, n)| service.backends.first().is_some_and(|b| b.node == n.key))
    else {
        return Ok(Vec::new());
    };
    let mut specs = Vec::new();
    for (_, host) in work.topology.hosts() {
        let own: Vec<bool> = host.addresses.iter().map(|a| a.addr().is_ipv6()).collect();
        let Some(target) = node
            .addresses
            .iter()
            .map(|a| a.addr())
            .find(|a| own.contains(&a.is_ipv6()))
        else {
            continue;
        };
        let target = SocketAddr::new(target, service.node_port).to_string();
        let arguments = [
            args([
                "drone",
                "--target",
                &target,
                "--interval",
                "1s",
                "--name",
                &host.name,
            ]),
            stats(work, &host.name),
        ]
        .concat();
        specs.push(work.role(
            &host.name,
            &host.netns,
            work.cgroup(cgroup::OUTSIDE)?,
            arguments,
        ));
    }
    Ok(specs)
}

/// The loaders of all nodes, and the agents that run after them.
pub(crate) fn agent_specs(
    work: &Workload<'_>,
    probe: &Path,
    bpffs: &Path,
) -> Result<(Vec<ProcessSpec>, Vec<ProcessSpec>)> {
    let mut loads = Vec::new();
    let mut runs = Vec::new();
    for (cluster, node) in work.topology.nodes() {
        let cgroup = work.cgroup(&node.key)?;
        let pins = pin_dir(bpffs, &work.topology.lab, &node.key);
        let identity = [args([
            "--mesh",
            &text(&work.run.mesh_yaml()),
            "--cluster",
            &cluster.name,
            "--node",
            &node.name,
        ])]
        .concat();
        let gid = AGENT_ID.to_string();
        let load = [
            args(["load"]),
            identity.clone(),
            args([
                "--cgroup",
                &text(&cgroup),
                "--gid",
                &gid,
                "--pin-dir",
                &text(&pins),
            ]),
        ];
        loads.push(ProcessSpec {
            name: format!("load-{}", node.key),
            program: probe.to_owned(),
            args: load.concat(),
            netns: None,
            cgroup: work.cgroup(cgroup::OUTSIDE)?,
            unprivileged: false,
            resolv_conf: None,
            realtime: false,
            log: work.log(&format!("load-{}", node.key)),
        });
        for plane in [Plane::Pod, Plane::Node] {
            let at = (cluster, node);
            let Some(spec) = agent_spec(work, probe, at, plane, &pins, &identity, &cgroup) else {
                continue;
            };
            runs.push(spec);
        }
    }
    Ok((loads, runs))
}

pub(crate) fn agent_name(node_key: &str, plane: Plane) -> String {
    match plane {
        Plane::Pod => format!("agent-{node_key}"),
        Plane::Node => format!("node-agent-{node_key}"),
    }
}

fn agent_spec(
    work: &Workload<'_>,
    probe: &Path,
    (cluster, node): (&ClusterNet, &NodeNet),
    plane: Plane,
    pins: &Path,
    identity: &[String],
    cgroup: &Path,
) -> Option<ProcessSpec> {
    let (word, netns, addresses, port): (_, _, Vec<IpAddr>, _) = match plane {
        Plane::Pod => {
            let pod = node.pod(PodRole::Agent)?;
            ("pod", &pod.netns, pod.addresses.clone(), POD_METRICS_PORT)
        }
        Plane::Node => (
            "node",
            &node.netns,
            node.addresses.iter().map(|a| a.addr()).collect(),
            NODE_METRICS_PORT,
        ),
    };
    let api = format!("unix:{}", work.run.agent_socket(&node.key, plane).display());
    let metrics = SocketAddr::new(*addresses.first()?, port).to_string();
    let respond = addresses
        .iter()
        .map(IpAddr::to_string)
        .collect::<Vec<_>>()
        .join(",");
    let mut arguments = [args(["run"]), identity.to_vec()].concat();
    arguments.extend(args([
        "--plane",
        word,
        "--api",
        &api,
        "--metrics",
        &metrics,
        "--respond",
        &respond,
    ]));
    if plane == Plane::Pod {
        arguments.extend(args(["--pin-dir", &text(pins)]));
    }
    let name = agent_name(&node.key, plane);
    Some(ProcessSpec {
        program: probe.to_owned(),
        args: arguments,
        netns: Some(netns.clone()),
        cgroup: cgroup.to_owned(),
        unprivileged: true,
        resolv_conf: (plane == Plane::Pod).then(|| work.run.resolv_conf(&cluster.name)),
        realtime: work.realtime,
        log: work.log(&name),
        name,
    })
}

/// Version of the pins' layout, as the loader's contract with the agent numbers it.
const PINS: &str = "v1";

/// Pins of one node: one folder per lab and node. bpffs refuses names with a dot.
fn pin_dir(bpffs: &Path, lab: &str, node_key: &str) -> PathBuf {
    bpffs
        .join("aggrik8s")
        .join(lab)
        .join(node_key.replace('.', "_"))
        .join(PINS)
}
