//! The chart on real clusters: real helm installs it, pods of the agent run on real nodes with the rights they were
//! promised, `aggrik8s verify` judges what they measure across clusters, and uninstalling leaves nothing.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::kube::joined::{Joined, Member};
use tests::kube::pki::Authority;
use tests::kube::{image, node, peer};
use tests::netns::skip;
use tests::{cgroup, lab_rig, sys, vm};

const IMAGE: &str = "localhost/aggrik8s";
const NAMESPACE: &str = "aggrik8s";
/// Wide enough for a busy machine: this is about being judged, not about being fast.
const OBJECTIVES: &str = "objectives: {loss: 3%, latency_p99: 250ms, jitter_p99: 100ms}\n";
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn real_clusters_are_installed_judged_and_left_as_they_were() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let joined = Joined::start(&["east", "west"])?;
    let scratch = tempfile::tempdir()?;
    let rig = Rig::prepare(scratch.path(), &joined)?;
    for member in &joined.members {
        assert_eq!(attached(member)?, 0);
        rig.install(member)?;
    }
    for member in &joined.members {
        ready(member)?;
        promises(member)?;
        ensure!(
            attached(member)? > 0,
            "no program is attached in {}",
            member.cluster.name()
        );
    }

    rig.verdict(&joined, 0)?;
    // The router loses what pods of the one cluster send to those of the other.
    let lose = "rule add iif eth0 to 10.1.0.0/16 blackhole";
    joined.outside.ip(&lose.split(' ').collect::<Vec<_>>())?;
    let report = rig.verdict(&joined, 1)?;
    ensure!(report.contains("NOT READY"), "{report}");

    for member in &joined.members {
        rig.helm(
            member,
            &["uninstall", "aggrik8s", "--wait", "--timeout=60s"],
        )?;
        let left = [
            "-n",
            NAMESPACE,
            "get",
            "all,configmaps,networkpolicies",
            "-o",
            "name",
        ];
        // Pods end after their objects are told to go; one object is in every namespace.
        let deadline = Instant::now() + LIMIT;
        loop {
            let (programs, objects) = (attached(member)?, member.cluster.kubectl(&left)?);
            if programs == 0 && objects.trim() == "configmap/kube-root-ca.crt" {
                break;
            }
            ensure!(
                Instant::now() < deadline,
                "{programs} programs and {objects}"
            );
            thread::sleep(Duration::from_millis(100));
        }
    }
    Ok(())
}

/// What both clusters are installed from.
struct Rig<'a> {
    scratch: &'a Path,
    mesh: PathBuf,
    /// Signs every agent and the caller.
    authority: Authority,
}

impl<'a> Rig<'a> {
    fn prepare(scratch: &'a Path, joined: &Joined) -> Result<Self> {
        let archive = scratch.join("agent.tar");
        image::archive(&archive, &format!("{IMAGE}:test"), &agent(), &[])?;
        for member in &joined.members {
            member.node.import(&archive)?;
        }
        let authority = Authority::new(&scratch.join("pki"), "mesh-ca")?;
        let me = authority.client("me", None)?;
        let mut text = format!(
            "mesh: real\ntls: {{ca: {}, cert: {}, key: {}}}\n{OBJECTIVES}clusters:\n",
            authority.pair().cert.display(),
            me.cert.display(),
            me.key.display(),
        );
        for (id, member) in (1..).zip(&joined.members) {
            let plan = member.cluster.plan();
            let (name, node) = (&plan.name, plan.place.ip());
            write!(
                text,
                "  - name: {name}\n    id: {id}\n    node_networks: [{node}/32]\n    \
                 pod_cidrs: [{}]\n    service_cidrs: [{}]\n    nodes:\n      \
                 - {{name: {}, addresses: [{node}], agent_pod: [{pod}], agent: \"https://{pod}:7410\", \
                 agent_node_plane: \"https://{node}:7414\"}}\n",
                plan.pod_cidr,
                plan.service_cidr,
                member.node.name(),
                pod = pod_address(member)?,
            )?;
        }
        let mesh = scratch.join("mesh.yaml");
        fs::write(&mesh, text)?;
        Ok(Self {
            scratch,
            mesh,
            authority,
        })
    }

    fn install(&self, member: &Member) -> Result<()> {
        let cluster = &member.cluster;
        cluster.apply(&json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {
                "name": NAMESPACE,
                "labels": { "pod-security.kubernetes.io/enforce": "privileged" },
            },
        }))?;
        let agent = format!("agent-{}", cluster.name());
        let ips = [pod_address(member)?, cluster.place().ip()];
        let pair = self.authority.server(&agent, &[], &ips)?;
        let file = |name: &str, path: &Path| format!("--from-file={name}={}", path.display());
        cluster.kubectl(&[
            "-n",
            NAMESPACE,
            "create",
            "secret",
            "generic",
            "aggrik8s-agent-tls",
            &file("ca.crt", &self.authority.pair().cert),
            &file("tls.crt", &pair.cert),
            &file("tls.key", &pair.key),
        ])?;
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/aggrik8s");
        self.helm(
            member,
            &[
                "install",
                "aggrik8s",
                &chart.display().to_string(),
                "--set",
                &format!("cluster={}", cluster.name()),
                "--set-file",
                &format!("mesh={}", self.mesh.display()),
                "--set",
                &format!("image.repository={IMAGE},image.tag=test,image.pullPolicy=Never"),
                "--set",
                &format!("cgroup={}", cgroup::mount()?.display()),
                "--set",
                "api.tls.source=secret,nodePlane.enabled=true",
            ],
        )
    }

    fn helm(&self, member: &Member, args: &[&str]) -> Result<()> {
        let mut helm = member.cluster.place().command(peer("helm", "helm")?);
        for home in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            helm.env(home, self.scratch);
        }
        helm.env("KUBECONFIG", member.cluster.kubeconfig());
        let output = helm.args(["-n", NAMESPACE]).args(args).output()?;
        ensure!(output.status.success(), "helm: {}", lab_rig::both(&output));
        Ok(())
    }

    /// Runs verify outside of both clusters, which must end with this exit code; returns what it prints.
    fn verdict(&self, joined: &Joined, exit: i32) -> Result<String> {
        let mut verify = Command::new("nsenter");
        verify.arg(format!("--net={}", joined.outside.path()));
        verify
            .arg(lab_rig::binary()?)
            .args(["verify", "-f"])
            .arg(&self.mesh);
        let output = verify.output()?;
        let said = lab_rig::both(&output);
        ensure!(
            output.status.code() == Some(exit),
            "{}\n{said}",
            output.status
        );
        Ok(said)
    }
}

/// A node gives its first pod the first address after its own.
fn pod_address(member: &Member) -> Result<IpAddr> {
    let address = member.cluster.plan().pod_cidr.hosts().nth(1);
    address.context("a range of pods has addresses")
}

fn ready(member: &Member) -> Result<()> {
    let cluster = &member.cluster;
    let ask = |args: &[&str]| cluster.kubectl(&[&["-n", NAMESPACE][..], args].concat());
    for (daemon_set, containers) in [
        ("daemonset/aggrik8s", &["holder", "agent"][..]),
        ("daemonset/aggrik8s-node", &["agent"]),
    ] {
        let status = ask(&["rollout", "status", daemon_set, "--timeout=120s"]);
        status.with_context(|| {
            let mut said = ask(&["describe", "pods"]).unwrap_or_default();
            for container in containers {
                let log = ask(&["logs", daemon_set, "-c", container]);
                said += &log.unwrap_or_else(|error| format!("{error:#}"));
            }
            said
        })?;
    }
    let pods = [
        "get",
        "pods",
        "-l",
        "app.kubernetes.io/component=pod-plane",
        "-o",
        "jsonpath={.items[*].status.podIP}",
    ];
    let address = ask(&pods)?;
    assert_eq!(address, pod_address(member)?.to_string());
    Ok(())
}

/// What docs/privilege.md says of the processes, as the kernel has it.
fn promises(member: &Member) -> Result<()> {
    for (verb, uid) in [("run", "65532"), ("hold", "0")] {
        let pid = process(verb, member.cluster.name())?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
            line.with_context(|| format!("no `{name}` of {verb}"))
        };
        for capabilities in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
            assert_eq!(
                field(capabilities)?,
                "0000000000000000",
                "{capabilities} of {verb}"
            );
        }
        ensure!(
            field("Uid")?.split('\t').all(|each| each == uid),
            "{status}"
        );
        assert_eq!(field("NoNewPrivs")?, "1", "{verb}");
        if verb == "run" {
            assert_eq!(field("CapBnd")?, "0000000000000000");
            assert_eq!(field("Seccomp")?, "2");
        }
    }
    Ok(())
}

/// The process `aggrik8s-probe <verb>` of a cluster.
fn process(verb: &str, cluster: &str) -> Result<u32> {
    let begins = format!("/aggrik8s-probe\0{verb}\0");
    let names = format!("\0--cluster\0{cluster}\0");
    let found = fs::read_dir("/proc")?.flatten().find_map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line);
        let own = line.starts_with(&begins) && line.contains(&names);
        own.then(|| entry.file_name().to_str()?.parse().ok())?
    });
    found.with_context(|| format!("no process `{verb}` of {cluster}"))
}

/// Programs attached to the node's root of cgroup v2, of every kind that the probe has.
fn attached(member: &Member) -> Result<u32> {
    /// Ingress, egress, sock_ops, connect4, connect6, sock_release of linux/bpf.h.
    const KINDS: [u32; 6] = [0, 1, 3, 10, 11, 34];
    let group = fs::File::open(member.node.cgroup())?;
    let counts = KINDS.map(|kind| sys::attached_programs(&group, kind));
    counts
        .into_iter()
        .try_fold(0, |sum, count| Ok(sum + count?))
}

fn agent() -> PathBuf {
    vm::program("aggrik8s-probe")
}

fn missing() -> Option<String> {
    let (agent, helm) = (agent(), peer("helm", "helm"));
    node::missing()
        .or_else(|| helm.err().map(|error| format!("{error:#}")))
        .or_else(|| {
            (!agent.is_file()).then(|| {
                format!(
                    "`{}` is missing; run `cargo xtask test kube_chart`",
                    agent.display()
                )
            })
        })
}
