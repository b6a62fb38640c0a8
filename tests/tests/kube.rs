//! The control planes that other tests rely on: they are real, they are apart, they restart, and they leave nothing.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::kube::{self, Cluster, Plan, crds};
use tests::netns::skip;

/// What the programs are compiled from.
const REQUIRED: &str = include_str!("../peers/kubernetes/go.mod");

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn two_clusters_are_real_and_apart() -> Result<()> {
    if skip(kube::missing())? {
        return Ok(());
    }
    let mut east = Plan::new("east");
    east.service_cidr = "10.112.0.0/12".parse()?;
    let clusters = [Cluster::start(east)?, Cluster::start(Plan::new("west"))?];
    for cluster in &clusters {
        assert_eq!(cluster.kubectl(&["get", "--raw", "/readyz"])?, "ok");
        let version: Value = serde_json::from_str(&cluster.kubectl(&["version", "-o", "json"])?)?;
        let server = version["serverVersion"]["gitVersion"].as_str();
        let server = server.context("a server has a version")?;
        ensure!(
            REQUIRED.contains(&format!("k8s.io/kubernetes {server}\n")),
            "{server}"
        );
    }
    let [east, west] = &clusters;

    // Both contexts out of one value, as a person would have them.
    for (cluster, service) in [(east, "10.112.0.1"), (west, "10.96.0.1")] {
        let output = Command::new(kube::peer("kubernetes", "kubectl")?)
            .args([
                "--context",
                cluster.name(),
                "get",
                "service",
                "kubernetes",
                "-o",
                "json",
            ])
            .env("KUBECONFIG", kube::kubeconfig(&[east, west])?)
            .output()?;
        let found: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        assert_eq!(found["spec"]["clusterIP"], service);
    }

    east.apply(&config_map("only-east"))?;
    east.kubectl(&["get", "configmap", "only-east"])?;
    refused(
        west.kubectl(&["get", "configmap", "only-east"]),
        "not found",
    )?;

    assert_ne!(fs::read(east.ca())?, fs::read(west.ca())?);
    let ca = format!("--certificate-authority={}", east.ca().display());
    refused(
        west.kubectl(&[&ca, "get", "namespaces"]),
        "unknown authority",
    )?;
    // Signed by the one CA, a client is nobody to the other's API server.
    let server = format!("--server={}", west.url());
    refused(
        east.kubectl(&[&server, "--insecure-skip-tls-verify", "get", "namespaces"]),
        "",
    )
}

#[test]
fn dropped_and_abandoned_clusters_leave_nothing() -> Result<()> {
    if skip(kube::missing())? {
        return Ok(());
    }
    let mut cluster = Cluster::start(Plan::new("dropped"))?;
    cluster.start_controllers()?;
    let traces = Traces::of(&cluster)?;
    ensure!(traces.processes.len() == 3, "{traces:?}");
    drop(cluster);
    traces.gone()?;
    ensure!(!traces.folder.exists(), "{traces:?}");

    // As after Ctrl-C or a killed test: nobody drops anything. The folder goes with the next run's sweep.
    let child = Command::new(std::env::current_exe()?)
        .args(["--ignored", "--exact", "abandons_a_cluster", "--nocapture"])
        .stdout(Stdio::piped())
        .output()?;
    let said = String::from_utf8_lossy(&child.stdout).into_owned();
    let traces = said
        .lines()
        .find_map(|line| line.strip_prefix(TRACES))
        .with_context(|| format!("{said}\n{}", String::from_utf8_lossy(&child.stderr)))?;
    let traces = Traces::parse(&serde_json::from_str(traces)?).context("traces")?;
    ensure!(
        !child.status.success() && traces.processes.len() == 2,
        "{said}"
    );
    traces.gone()?;
    fs::remove_dir_all(&traces.folder)?;
    Ok(())
}

const TRACES: &str = "traces ";

/// Run by the test above.
#[test]
#[ignore = "kills its own process"]
fn abandons_a_cluster() -> Result<()> {
    // As if a test's thread had made it, and ended.
    let cluster = thread::spawn(|| Cluster::start(Plan::new("abandoned")))
        .join()
        .unwrap()?;
    cluster.kubectl(&["get", "--raw", "/readyz"])?;
    let traces = Traces::of(&cluster)?;
    #[allow(clippy::print_stdout, reason = "read by the test that started this")]
    {
        println!("\n{TRACES}{}", json!([traces.processes, traces.folder]));
    }
    let own = nix::unistd::Pid::this();
    nix::sys::signal::kill(own, nix::sys::signal::Signal::SIGKILL)?;
    unreachable!("killed");
}

#[test]
fn an_api_server_that_is_gone_comes_back_as_it_was() -> Result<()> {
    if skip(kube::missing())? {
        return Ok(());
    }
    let mut cluster = Cluster::start(Plan::new("restarts"))?;
    let url = cluster.url();
    cluster.apply(&config_map("kept"))?;
    cluster.stop_api()?;
    refused(cluster.kubectl(&["get", "configmap", "kept"]), "refused")?;
    let address = Traces::of(&cluster)?.api.context("an address")?;
    ensure!(TcpListener::bind(address).is_err(), "the port is anybody's");
    cluster.start_api()?;
    assert_eq!(cluster.url(), url);
    cluster.kubectl(&["get", "configmap", "kept"]).map(drop)
}

#[test]
fn a_server_that_cannot_start_says_why() -> Result<()> {
    if skip(kube::missing())? {
        return Ok(());
    }
    let mut plan = Plan::new("broken");
    plan.api_args.push("--no-such-option".to_owned());
    let error = Cluster::start(plan).err().context("it started")?;
    let text = format!("{error:#}");
    ensure!(text.contains("unknown flag: --no-such-option"), "{text}");
    Ok(())
}

#[test]
fn users_may_do_what_rbac_says_and_namespaces_come_to_an_end() -> Result<()> {
    if skip(kube::missing())? {
        return Ok(());
    }
    let mut cluster = Cluster::start(Plan::new("rbac"))?;
    cluster.start_controllers()?;
    let reader = cluster.user("reader", Some("readers"))?;
    let reader = format!("--kubeconfig={}", reader.display());
    let read = [reader.as_str(), "get", "namespaces"];
    refused(cluster.kubectl(&read), "forbidden")?;
    cluster.kubectl(&[
        "create",
        "clusterrole",
        "reader",
        "--verb=list",
        "--resource=namespaces",
    ])?;
    cluster.kubectl(&[
        "create",
        "clusterrolebinding",
        "readers",
        "--clusterrole=reader",
        "--group=readers",
    ])?;
    // Authorisation works from a cache.
    until("the role is there", || cluster.kubectl(&read).map(drop))?;
    refused(cluster.kubectl(&[&reader, "get", "secrets"]), "forbidden")?;

    cluster.kubectl(&["create", "namespace", "short"])?;
    until("the namespace has an account", || {
        cluster
            .kubectl(&["-n", "short", "get", "serviceaccount", "default"])
            .map(drop)
    })?;
    let token = cluster.kubectl(&["-n", "short", "create", "token", "default"])?;
    let token = format!("--token={}", token.trim());
    let who = cluster.kubectl(&[
        "--kubeconfig=/dev/null",
        "--server",
        &cluster.url(),
        "--certificate-authority",
        &cluster.ca().display().to_string(),
        &token,
        "auth",
        "whoami",
        "-o",
        "jsonpath={.status.userInfo.username}",
    ])?;
    assert_eq!(who, "system:serviceaccount:short:default");
    cluster.kubectl(&["delete", "namespace", "short", "--timeout=60s"])?;
    refused(cluster.kubectl(&["get", "namespace", "short"]), "not found")
}

#[test]
fn objects_of_cilium_are_kept_whole() -> Result<()> {
    if skip(kube::missing())? {
        return Ok(());
    }
    let cluster = Cluster::start(Plan::new("cilium"))?;
    crds::install(&cluster)?;
    let objects = [
        json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": { "name": "node-1" },
            "spec": {
                "addresses": [{ "type": "InternalIP", "ip": "192.168.15.21" }],
                "ipam": { "podCIDRs": ["10.244.0.0/24"] },
            },
        }),
        json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumEndpoint",
            "metadata": { "name": "pod-1", "namespace": "default" },
            "status": { "id": 17, "identity": { "id": 65_537, "labels": ["k8s:app=a"] } },
        }),
        json!({
            "apiVersion": "cilium.io/v2alpha1", "kind": "CiliumEndpointSlice", "metadata": { "name": "slice-1" },
            "namespace": "default", "endpoints": [{ "name": "pod-1", "id": 65_537 }],
        }),
        json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumIdentity", "metadata": { "name": "65537" },
            "security-labels": { "k8s:app": "a" },
        }),
    ];
    for object in &objects {
        cluster.apply(object)?;
        let kind = object["kind"].as_str().context("kind")?;
        let name = object["metadata"]["name"].as_str().context("name")?;
        let found = cluster.kubectl(&["get", kind, name, "-o", "json"])?;
        let found: Value = serde_json::from_str(&found)?;
        for (field, value) in object.as_object().context("an object")? {
            ensure!(
                field == "metadata" || found[field] == *value,
                "{field} of {found}"
            );
        }
    }
    Ok(())
}

fn config_map(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": name, "namespace": "default" },
        "data": { "key": "value" },
    })
}

/// The answer must be an error that says this.
fn refused(answer: Result<String>, why: &str) -> Result<()> {
    match answer {
        Err(error) if format!("{error:#}").contains(why) => Ok(()),
        other => anyhow::bail!("not refused with `{why}`: {other:?}"),
    }
}

fn until(what: &str, mut probe: impl FnMut() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        match probe() {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("waited until {what}")));
            }
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// What could be left of a cluster.
#[derive(Debug)]
struct Traces {
    /// Told by the cluster's folder in their arguments.
    processes: BTreeSet<u32>,
    folder: PathBuf,
    api: Option<SocketAddr>,
}

impl Traces {
    fn of(cluster: &Cluster) -> Result<Self> {
        let folder = cluster
            .kubeconfig()
            .parent()
            .context("a file has a folder")?;
        Ok(Self {
            processes: naming(folder),
            folder: folder.to_path_buf(),
            api: cluster
                .url()
                .strip_prefix("https://")
                .and_then(|url| url.parse().ok()),
        })
    }

    fn parse(value: &Value) -> Option<Self> {
        Some(Self {
            processes: serde_json::from_value(value[0].clone()).ok()?,
            folder: value[1].as_str()?.into(),
            api: None,
        })
    }

    fn gone(&self) -> Result<()> {
        until("its processes have ended", || {
            let left = naming(&self.folder);
            ensure!(left.is_empty(), "{left:?} of {:?}", self.processes);
            Ok(())
        })?;
        if let Some(api) = self.api {
            ensure!(
                TcpStream::connect(api).is_err(),
                "something listens on {api}"
            );
        }
        Ok(())
    }
}

/// Processes with the folder in their arguments.
fn naming(folder: &Path) -> BTreeSet<u32> {
    let own = std::process::id();
    let folder = folder.display().to_string();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            *pid != own && String::from_utf8_lossy(&line).contains(&folder)
        })
        .collect()
}
