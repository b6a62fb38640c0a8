//! The node that other tests rely on: a real kubelet and containerd, pods of a static program, nothing left behind.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
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
use tests::kube::joined::{Joined, Member};
use tests::kube::{Cluster, Node, Place, Plan, image, node};
use tests::netns::{Netns, skip};

const IMAGE: &str = "localhost/pod:1";
const PORT: u16 = 8080;
/// What a kubelet would change for the whole machine.
const SYSCTLS: [&str; 3] = [
    "vm/overcommit_memory",
    "kernel/panic",
    "kernel/panic_on_oops",
];

#[test]
fn pods_of_joined_clusters_reach_each_other_and_nothing_is_left() -> Result<()> {
    if skip(node::missing())? {
        return Ok(());
    }
    let sysctls = SYSCTLS.map(sysctl);
    let own = std::process::id();
    let before = traces(own)?;
    let began = Instant::now();
    let joined = Joined::start(&["east", "west"])?;
    report("two nodes ready", began);

    let scratch = tempfile::tempdir()?;
    let archive = scratch.path().join("pod.tar");
    image::archive(&archive, IMAGE, &node::pod(), &["serve", &PORT.to_string()])?;
    let began = Instant::now();
    for member in &joined.members {
        member.node.import(&archive)?;
        member.cluster.apply(&daemon_set())?;
    }
    let pods = joined.members.iter().map(pod).collect::<Result<Vec<_>>>()?;
    report("two pods ready", began);

    for (from, to, own, remote) in [(0, 1, pods[0], pods[1]), (1, 0, pods[1], pods[0])] {
        let (from, to) = (&joined.members[from], &joined.members[to]);
        let logs = to.cluster.kubectl(&["logs", "daemonset/pod"])?;
        assert_eq!(logs, format!("serving on port {PORT}\n"));
        let get = ["exec", "daemonset/pod", "--", "/pod", "get"];
        let remote = SocketAddr::new(remote, PORT).to_string();
        let seen = from
            .cluster
            .kubectl(&[&get[..], &[&remote, "/"]].concat())?;
        assert_eq!(
            seen,
            own.to_string(),
            "the address that the other cluster sees"
        );
        let mounts = from
            .cluster
            .kubectl(&[&get[..], &[&remote, "/mounts"]].concat())?;
        let bpf = mounts.lines().find(|line| line.contains(" /sys/fs/bpf "));
        ensure!(bpf.is_some_and(|line| line.contains(" bpf ")), "{mounts}");
    }

    ensure!(
        traces(own)?.len() > before.len(),
        "nodes leave traces while they run"
    );
    assert_eq!(SYSCTLS.map(sysctl), sysctls);
    drop(joined);
    assert_eq!(traces(own)?, before);
    Ok(())
}

/// The address of the member's pod, once it is ready.
fn pod(member: &Member) -> Result<IpAddr> {
    let status = ["rollout", "status", "daemonset/pod", "--timeout=120s"];
    let status = member.cluster.kubectl(&status);
    let pods = member.cluster.kubectl(&["get", "pods", "-o", "json"])?;
    status.with_context(|| format!("{pods}\n{}", member.node.said()))?;
    let pods: Value = serde_json::from_str(&pods)?;
    let pod = &pods["items"][0];
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(pod["spec"]["nodeName"], member.node.name());
    Ok(pod["status"]["podIP"]
        .as_str()
        .context("an address")?
        .parse()?)
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
