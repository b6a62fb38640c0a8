//! A real node: containerd and a kubelet in namespaces of their own, with the cluster's network. Needs root.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use tempfile::TempDir;

use super::place::Place;
use super::process::{Process, end_of};
use super::{Cluster, image, peer};
use crate::{cgroup, leftovers};

/// Of a start. A node takes 10 s on an idle machine.
const LIMIT: Duration = Duration::from_secs(180);
/// Image of every pod's sandbox.
const PAUSE: &str = "localhost/pause:1";
const INIT: &str = include_str!("node.sh");
/// Joins the node's cgroups and enters its namespaces. Arguments: how many cgroups, they, the first process.
const ENTER: &str = r#"set -eu
count=$1
shift
for _ in $(seq "$count"); do
    echo $$ >"$1/cgroup.procs"
    shift
done
exec unshare --mount --propagation private --pid --fork --kill-child --cgroup -- "$@""#;

/// On drop every process of the node is killed, pods included; its mounts, cgroups and folder go.
pub struct Node {
    name: String,
    process: Process,
    groups: Groups,
    folder: TempDir,
}

impl Node {
    /// Returns when the node is ready for pods. The cluster must be in a network of its own, with its controllers.
    pub fn start(cluster: &Cluster, name: &str) -> Result<Self> {
        let Place::Network(_, ip) = cluster.place() else {
            bail!("a node needs a network of its own, not this machine's");
        };
        let folder = tempfile::Builder::new()
            .prefix(&leftovers::name(name))
            .tempdir()?;
        let path = folder.path();
        image::archive(&path.join("pause.tar"), PAUSE, &pod(), &["pause"])?;
        fs::create_dir(path.join("cni"))?;
        for (file, text) in [
            ("node.sh", INIT.to_owned()),
            ("containerd.toml", containerd(path)),
            ("cni.template", CNI.to_owned()),
            ("kubelet.json", kubelet(cluster, name, *ip, path)?),
            ("resolv.conf", String::new()),
        ] {
            fs::write(path.join(file), text).with_context(|| format!("write `{file}`"))?;
        }
        let groups = Groups::create(name)?;
        let command = first_process(cluster, name, *ip, path, &groups)?;
        let process = Process::start("node", command, path)?;
        let mut node = Self {
            name: name.to_owned(),
            process,
            groups,
            folder,
        };
        let ready = ["get", "node", name, "-o", READY];
        let answer = node.process.ready(LIMIT, || {
            let ready = cluster.kubectl(&ready)?;
            ensure!(ready == "True", "the node is not ready: {ready}");
            Ok(())
        });
        answer.map_err(|error| error.context(node.said()))?;
        Ok(node)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its part of cgroup v2: what it sees as the root.
    pub fn cgroup(&self) -> &Path {
        &self.groups.0[0]
    }

    /// Loads an image from an archive, as `image::archive` writes it.
    pub fn import(&self, archive: &Path) -> Result<()> {
        let output = Command::new("ctr")
            .arg("--address")
            .arg(self.folder.path().join("containerd.sock"))
            .args(["-n", "k8s.io", "images", "import"])
            .arg(archive)
            .output()
            .context("start `ctr`")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`ctr images import`: {said}");
        Ok(())
    }

    /// The end of what containerd and the kubelet printed.
    pub fn said(&self) -> String {
        let log = |name: &str| end_of(&self.folder.path().join(format!("{name}.log")));
        format!(
            "containerd said:\n{}\nkubelet said:\n{}",
            log("containerd"),
            log("kubelet")
        )
    }
}

const READY: &str = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;

/// What is missing to run a node, with the fix.
pub fn missing() -> Option<String> {
    let there = |program: &str| Command::new(program).arg("--version").output().is_ok();
    super::missing()
        .or_else(crate::netns::missing)
        .or_else(|| {
            let all = there("containerd") && there("runc") && Path::new(PLUGINS).is_dir();
            (!all).then(|| {
                "nodes need `apt-get install containerd runc containernetworking-plugins`"
                    .to_owned()
            })
        })
        .or_else(|| {
            let pod = pod();
            (!pod.is_file()).then(|| {
                format!(
                    "`{}` is missing; run `cargo xtask test kube_node`",
                    pod.display()
                )
            })
        })
}

/// The static program of `tests/src/bin/pod.rs`.
pub fn pod() -> PathBuf {
    crate::vm::program("pod")
}

/// Where Debian has the CNI plugins.
const PLUGINS: &str = "/usr/lib/cni";

/// One cgroup per hierarchy of this machine: to the node they are roots.
struct Groups(Vec<PathBuf>);

impl Groups {
    fn create(label: &str) -> Result<Self> {
        let name = leftovers::name(label);
        let mut groups = Self(Vec::new());
        for root in cgroup::hierarchies()? {
            let group = root.join(&name);
            fs::create_dir(&group).with_context(|| format!("create `{}`", group.display()))?;
            groups.0.push(group.clone());
            // Of version 1: empty until somebody fills them, and nobody can join before.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(all) = fs::read_to_string(root.join(file)) {
                    fs::write(group.join(file), all)?;
                }
            }
        }
        Ok(groups)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for group in &self.0 {
            leftovers::remove_cgroup(group, Duration::from_secs(20));
            if group.exists() {
                tracing::warn!(group = %group.display(), "cgroup not removed");
            }
        }
    }
}

fn first_process(
    cluster: &Cluster,
    name: &str,
    ip: IpAddr,
    folder: &Path,
    groups: &Groups,
) -> Result<Command> {
    let user = format!("system:node:{name}");
    let kubeconfig = cluster.user(&user, Some("system:nodes"))?;
    let mut command = cluster.place().command("bash");
    command.args(["-c", ENTER, "enter", &groups.0.len().to_string()]);
    command.args(&groups.0);
    command.arg("bash").arg(folder.join("node.sh")).arg(folder);
    command.arg(peer("kubernetes", "kubelet")?);
    for (option, value) in [
        ("config", folder.join("kubelet.json").display().to_string()),
        ("kubeconfig", kubeconfig.display().to_string()),
        ("hostname-override", name.to_owned()),
        ("node-ip", ip.to_string()),
    ] {
        command.arg(format!("--{option}={value}"));
    }
    Ok(command)
}

/// Nobody here may raise limits or lower the score of the out-of-memory killer: `oom_score`.
fn containerd(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        r#"version = 2
root = "{folder}/containerd"
state = "/run/containerd"
oom_score = 0

[grpc]
address = "{folder}/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{PLUGINS}"
conf_dir = "{folder}/cni"
conf_template = "{folder}/cni.template"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"#
    )
}

/// containerd fills in the range that the cluster gave the node.
const CNI: &str = r#"{
  "cniVersion": "0.3.1",
  "name": "pods",
  "plugins": [{
    "type": "bridge",
    "bridge": "cni0",
    "isGateway": true,
    "hairpinMode": true,
    "ipam": {
      "type": "host-local",
      "dataDir": "/run/cni",
      "ranges": [{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}],
      "routes": [{ "dst": "0.0.0.0/0" }]
    }
  }]
}
"#;

fn kubelet(cluster: &Cluster, name: &str, ip: IpAddr, folder: &Path) -> Result<String> {
    let serving = cluster.serving(&format!("kubelet-{name}"), &[name], &[ip])?;
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": cluster.ca() },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": serving.cert,
        "tlsPrivateKeyFile": serving.key,
        "containerRuntimeEndpoint": format!("unix://{}/containerd.sock", folder.display()),
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": false,
        "failSwapOn": false,
        "healthzPort": 0,
        "localStorageCapacityIsolation": false,
        "makeIPTablesUtilChains": false,
        // Neither the image that nobody could fetch again nor a pod goes because this machine's disk is full.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "imagefs.available": "0%", "memory.available": "0%",
            "nodefs.available": "0%", "nodefs.inodesFree": "0%",
        },
        "nodeStatusUpdateFrequency": "2s",
        "oomScoreAdj": 0,
        "resolvConf": folder.join("resolv.conf"),
        "volumePluginDir": folder.join("plugins"),
    });
    Ok(serde_json::to_string_pretty(&config)?)
}
