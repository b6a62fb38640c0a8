//! The node that other tests rely on: a real kubelet and containerd, pods of a static program, nothing left behind.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tests::cgroup;
use tests::kube::{Cluster, Node, Place, Plan, image, node};
use tests::netns::{Netns, skip, veth};

const IMAGE: &str = "localhost/pod:1";
const PORT: u16 = 8080;
/// What a kubelet would change for the whole machine.
const SYSCTLS: [&str; 3] = [
    "vm/overcommit_memory",
    "kernel/panic",
    "kernel/panic_on_oops",
];

#[test]
fn pods_run_and_nothing_is_left() -> Result<()> {
    if skip(node::missing())? {
        return Ok(());
    }
    let sysctls = SYSCTLS.map(sysctl);
    let own = std::process::id();
    let before = traces(own)?;
    let (network, client) = (Arc::new(Netns::create("node")?), Netns::create("client")?);
    veth(
        (&network, "eth0", &["192.168.77.1/24"]),
        (&client, "eth0", &["192.168.77.2/24"]),
    )?;
    let ip = Ipv4Addr::new(192, 168, 77, 1).into();
    client.ip(&["route", "add", "10.244.0.0/16", "via", "192.168.77.1"])?;

    let mut plan = Plan::new("real");
    plan.place = Place::Network(network, ip);
    let mut cluster = Cluster::start(plan)?;
    cluster.start_controllers()?;
    cluster.start_scheduler()?;
    let began = Instant::now();
    let node = Node::start(&cluster, "node-1")?;
    report("node ready", began);

    let scratch = tempfile::tempdir()?;
    let archive = scratch.path().join("pod.tar");
    image::archive(&archive, IMAGE, &node::pod(), &["serve", &PORT.to_string()])?;
    node.import(&archive)?;
    cluster.apply(&daemon_set())?;
    let began = Instant::now();
    let status = ["rollout", "status", "daemonset/pod", "--timeout=120s"];
    let status = cluster.kubectl(&status);
    let pods = cluster.kubectl(&["get", "pods", "-o", "json"])?;
    status.with_context(|| format!("{pods}\n{}", node.said()))?;
    report("pod ready", began);

    let pods: Value = serde_json::from_str(&pods)?;
    let pod = &pods["items"][0];
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(pod["spec"]["nodeName"], "node-1");
    let address: IpAddr = pod["status"]["podIP"]
        .as_str()
        .context("an address")?
        .parse()?;
    let logs = cluster.kubectl(&["logs", "daemonset/pod"])?;
    assert_eq!(logs, format!("serving on port {PORT}\n"));

    // From another network, as from another cluster.
    let mounts = client.run(|| get(SocketAddr::new(address, PORT)))??;
    let bpf = mounts.lines().find(|line| line.contains(" /sys/fs/bpf "));
    ensure!(bpf.is_some_and(|line| line.contains(" bpf ")), "{mounts}");

    // Its sockets are in the node's part of the hierarchy that programs are attached to.
    ensure!(
        traces(own)?.len() > before.len(),
        "a node leaves traces while it runs"
    );
    assert_eq!(SYSCTLS.map(sysctl), sysctls);
    drop(node);
    drop(cluster);
    drop(client);
    assert_eq!(traces(own)?, before);
    Ok(())
}

#[test]
fn a_node_ends_with_its_test_and_the_next_one_sweeps() -> Result<()> {
    if skip(node::missing())? {
        return Ok(());
    }
    let child = again("abandons_a_node")?;
    let pid = child.id();
    let output = child.wait_with_output()?;
    ensure!(output.status.signal() == Some(9), "{}", said(&output));
    let deadline = Instant::now() + Duration::from_secs(30);
    while !processes(pid)?.is_empty() {
        ensure!(
            Instant::now() < deadline,
            "still there: {:?}",
            processes(pid)?
        );
        thread::sleep(Duration::from_millis(50));
    }
    ensure!(!traces(pid)?.is_empty(), "nothing was left to sweep");
    let output = again("sweeps")?.wait_with_output()?;
    ensure!(output.status.success(), "{}", said(&output));
    assert_eq!(traces(pid)?, [""; 0]);
    Ok(())
}

/// Run by the test above.
#[test]
#[ignore = "kills its own process"]
fn abandons_a_node() -> Result<()> {
    let network = Arc::new(Netns::create("node")?);
    network.ip(&["link", "add", "eth0", "type", "veth"])?;
    network.address("eth0", "192.168.77.1/24")?;
    network.ip(&["link", "set", "eth0", "up"])?;
    let mut plan = Plan::new("abandoned");
    plan.place = Place::Network(network, Ipv4Addr::new(192, 168, 77, 1).into());
    let mut cluster = Cluster::start(plan)?;
    cluster.start_controllers()?;
    let _node = Node::start(&cluster, "node-1")?;
    kill(Pid::this(), Signal::SIGKILL)?;
    unreachable!("killed");
}

/// Run by the same.
#[test]
#[ignore = "makes nothing itself"]
fn sweeps() {
    tests::leftovers::name("");
}

/// This test binary once more, with one of its ignored tests.
fn again(test: &str) -> Result<Child> {
    Ok(Command::new(std::env::current_exe()?)
        .args(["--ignored", "--exact", test, "--nocapture"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?)
}

fn said(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!(
        "{}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    )
}

/// What the tests of process `pid` made: mounts, cgroups, folders, namespaces and processes; and what a node must
/// not make on this machine at all.
fn traces(pid: u32) -> Result<Vec<String>> {
    let own = format!("a8t-{pid}-");
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut all: Vec<String> = mounts
        .lines()
        .filter(|line| line.contains(&own))
        .map(str::to_owned)
        .collect();
    let mut roots = cgroup::hierarchies()?;
    roots.extend([std::env::temp_dir(), "/run/netns".into()]);
    for root in roots {
        for entry in fs::read_dir(&root)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default();
            if name.to_string_lossy().starts_with(&own) {
                all.push(path.display().to_string());
            }
        }
    }
    all.extend(processes(pid)?);
    for legacy in [
        "/var/log/pods",
        "/var/log/containers",
        "/var/lib/kubelet",
        "/run/containerd/s",
    ] {
        let entries = fs::read_dir(Path::new(legacy))
            .into_iter()
            .flatten()
            .flatten();
        all.extend(entries.map(|entry| entry.path().display().to_string()));
    }
    Ok(all)
}

/// Processes that name something of the tests of process `pid`, and those of pods.
fn processes(pid: u32) -> Result<Vec<String>> {
    let own = format!("a8t-{pid}-");
    let lines = fs::read_dir("/proc")?.flatten().map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ")
    });
    Ok(lines
        .filter(|line| line.contains(&own) || line.starts_with("/pod "))
        .collect())
}

fn sysctl(key: &str) -> String {
    fs::read_to_string(format!("/proc/sys/{key}")).unwrap_or_default()
}

#[allow(clippy::print_stderr, reason = "figures of a run")]
fn report(what: &str, began: Instant) {
    eprintln!("{what} after {:.1} s", began.elapsed().as_secs_f64());
}

fn get(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("a head and a body")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    Ok(body.to_owned())
}

fn daemon_set() -> Value {
    let labels = json!({ "app": "pod" });
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": { "name": "pod", "namespace": "default" },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{
                        "name": "pod", "image": IMAGE, "imagePullPolicy": "Never",
                        "readinessProbe": { "httpGet": { "path": "/", "port": PORT }, "periodSeconds": 1 },
                        "volumeMounts": [{ "name": "bpf", "mountPath": "/sys/fs/bpf" }],
                    }],
                    "volumes": [{ "name": "bpf", "hostPath": { "path": "/sys/fs/bpf", "type": "Directory" } }],
                },
            },
        },
    })
}
