//! One cluster's control plane: etcd and an API server; a controller manager where a test needs namespaces that go,
//! service accounts or workloads.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::peer;
use super::pki::{self, Authority, Pair};
use super::place::Place;
use super::port::Port;
use super::process::Process;
use crate::leftovers;

/// Of a start. One takes 2 to 4 s on an idle machine.
const LIMIT: Duration = Duration::from_secs(120);

/// What a cluster is to be like.
#[derive(Clone)]
pub struct Plan {
    /// Of the cluster and of its context.
    pub name: String,
    pub place: Place,
    pub service_cidr: IpNet,
    /// Nodes get a /24 each.
    pub pod_cidr: IpNet,
    /// More arguments of the API server.
    pub api_args: Vec<String>,
}

impl Plan {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            place: Place::Loopback,
            service_cidr: IpNet::new_assert(Ipv4Addr::new(10, 96, 0, 0).into(), 12),
            pod_cidr: IpNet::new_assert(Ipv4Addr::new(10, 244, 0, 0).into(), 16),
            api_args: Vec::new(),
        }
    }
}

/// A running control plane. On drop its processes are killed and its folder is removed.
pub struct Cluster {
    plan: Plan,
    controllers: Option<Process>,
    scheduler: Option<Process>,
    api: Option<Process>,
    _etcd: Process,
    etcd_port: Port,
    port: Port,
    authority: Authority,
    kubeconfig: PathBuf,
    folder: TempDir,
}

impl Cluster {
    /// Returns when the API server is ready.
    pub fn start(plan: Plan) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix(&leftovers::name(&plan.name))
            .tempdir()?;
        let authority = Authority::new(&folder.path().join("pki"), &format!("{}-ca", plan.name))?;
        let place = &plan.place;
        let hold = |ip| place.run(|| Port::hold(ip));
        let local = Ipv4Addr::LOCALHOST.into();
        let (etcd_port, peer_port, port) = (hold(local)?, hold(local)?, hold(place.ip())?);
        let etcd = etcd(
            place,
            folder.path(),
            etcd_port.address(),
            peer_port.address(),
        )?;
        let mut cluster = Self {
            kubeconfig: folder.path().join("admin.kubeconfig"),
            plan,
            controllers: None,
            scheduler: None,
            api: None,
            _etcd: etcd,
            etcd_port,
            port,
            authority,
            folder,
        };
        cluster.certify()?;
        cluster.start_api()?;
        Ok(cluster)
    }

    pub fn name(&self) -> &str {
        &self.plan.name
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    pub fn place(&self) -> &Place {
        &self.plan.place
    }

    /// Of an administrator; its one context is called like the cluster.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The certificate of the cluster's CA.
    pub fn ca(&self) -> &Path {
        &self.authority.pair().cert
    }

    /// Of the API server; the same after a restart.
    pub fn url(&self) -> String {
        format!("https://{}", self.port.address())
    }

    /// A kubeconfig for `user` in `group`, who may do what RBAC says.
    pub fn user(&self, user: &str, group: Option<&str>) -> Result<PathBuf> {
        let pair = self.authority.client(user, group)?;
        let path = self
            .folder
            .path()
            .join(format!("{}.kubeconfig", user.replace(':', "-")));
        self.write_kubeconfig(&path, user, &pair)?;
        Ok(path)
    }

    /// A certificate, signed by the cluster's CA, for a server of these names and addresses.
    pub fn serving(&self, name: &str, dns: &[&str], ips: &[IpAddr]) -> Result<Pair> {
        self.authority.server(name, dns, ips)
    }

    /// Runs `kubectl` as an administrator and returns what it prints.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.run_kubectl(args, "")
    }

    /// Makes or changes objects by server-side apply: one, or a `List`.
    pub fn apply(&self, objects: &Value) -> Result<()> {
        let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        self.run_kubectl(&apply, &objects.to_string()).map(drop)
    }

    fn run_kubectl(&self, args: &[&str], input: &str) -> Result<String> {
        let mut kubectl = self.program("kubectl")?;
        kubectl
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg("--cache-dir")
            .arg(self.folder.path().join("kubectl"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = kubectl.spawn().context("start `kubectl`")?;
        let stdin = child.stdin.take();
        stdin
            .context("a piped child has a stdin")?
            .write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "`kubectl {}` in `{}`: {}",
            args.join(" "),
            self.plan.name,
            said.trim()
        );
        String::from_utf8(output.stdout).context("`kubectl` wrote text that is not UTF-8")
    }

    /// Starts the API server, if it does not run, and returns when it is ready.
    pub fn start_api(&mut self) -> Result<()> {
        if self.api.is_some() {
            return Ok(());
        }
        let mut process =
            Process::start("kube-apiserver", self.api_command()?, self.folder.path())?;
        process.ready(LIMIT, || {
            // Before anything listens, this is all that a poll costs.
            self.place()
                .run(|| Ok(TcpStream::connect(self.port.address())?))?;
            self.kubectl(&["get", "--raw", "/readyz"]).map(drop)
        })?;
        self.api = Some(process);
        Ok(())
    }

    /// Ends the API server; connections to it are refused from now on. Its objects stay in etcd.
    pub fn stop_api(&mut self) -> Result<()> {
        match self.api.take() {
            Some(process) => process.stop(LIMIT),
            None => Ok(()),
        }
    }

    /// Starts the controller manager: namespaces come to an end, service accounts and workloads work.
    pub fn start_controllers(&mut self) -> Result<()> {
        let config = self.user("system:kube-controller-manager", None)?;
        let pki = self.authority.pair();
        let mut command = self.program("kube-controller-manager")?;
        option(&mut command, "kubeconfig", config.display());
        option(&mut command, "authentication-kubeconfig", config.display());
        option(&mut command, "root-ca-file", pki.cert.display());
        option(
            &mut command,
            "cluster-signing-cert-file",
            pki.cert.display(),
        );
        option(&mut command, "cluster-signing-key-file", pki.key.display());
        option(
            &mut command,
            "service-account-private-key-file",
            self.signing_key().display(),
        );
        option(&mut command, "use-service-account-credentials", true);
        option(&mut command, "allocate-node-cidrs", true);
        option(&mut command, "configure-cloud-routes", false);
        option(&mut command, "cluster-cidr", self.plan.pod_cidr);
        option(&mut command, "leader-elect", false);
        option(&mut command, "secure-port", 0);
        let mut process = Process::start("kube-controller-manager", command, self.folder.path())?;
        // Without it no pod is admitted, and it comes from a controller.
        process.ready(LIMIT, || {
            self.kubectl(&["get", "serviceaccount", "default"])
                .map(drop)
        })?;
        self.controllers = Some(process);
        Ok(())
    }

    /// Starts the scheduler, which gives pods to nodes.
    pub fn start_scheduler(&mut self) -> Result<()> {
        let config = self.user("system:kube-scheduler", None)?;
        let mut command = self.program("kube-scheduler")?;
        option(&mut command, "kubeconfig", config.display());
        option(&mut command, "leader-elect", false);
        option(&mut command, "secure-port", 0);
        let process = Process::start("kube-scheduler", command, self.folder.path())?;
        self.scheduler = Some(process);
        Ok(())
    }

    fn program(&self, name: &str) -> Result<Command> {
        Ok(self.place().command(peer("kubernetes", name)?))
    }

    /// Makes what the API server shows, signs with and asks kubelets with, and an administrator.
    fn certify(&self) -> Result<()> {
        let service = self.plan.service_cidr.hosts().next();
        let service = service.context("a network for services has addresses")?;
        let names = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ];
        let ips = [self.port.address().ip(), service];
        self.authority.server(SERVER, &names, &ips)?;
        self.authority.client(TO_KUBELETS, Some("system:masters"))?;
        pki::signing_key(&self.signing_key())?;
        let admin = self.authority.client("admin", Some("system:masters"))?;
        self.write_kubeconfig(&self.kubeconfig, "admin", &admin)
    }

    fn signing_key(&self) -> PathBuf {
        self.folder.path().join("pki/service-accounts.key")
    }

    fn api_command(&self) -> Result<Command> {
        let pki = self.folder.path().join("pki");
        let file = |name: String| pki.join(name).display().to_string();
        let address = self.port.address();
        let mut command = self.program("kube-apiserver")?;
        for (name, value) in [
            (
                "etcd-servers",
                format!("http://{}", self.etcd_port.address()),
            ),
            ("bind-address", address.ip().to_string()),
            ("advertise-address", address.ip().to_string()),
            ("secure-port", address.port().to_string()),
            // The port is held for the next start.
            ("permit-port-sharing", "true".to_owned()),
            ("tls-cert-file", file(format!("{SERVER}.crt"))),
            ("tls-private-key-file", file(format!("{SERVER}.key"))),
            ("client-ca-file", self.ca().display().to_string()),
            (
                "kubelet-client-certificate",
                file(format!("{TO_KUBELETS}.crt")),
            ),
            ("kubelet-client-key", file(format!("{TO_KUBELETS}.key"))),
            ("kubelet-preferred-address-types", "InternalIP".to_owned()),
            ("authorization-mode", "Node,RBAC".to_owned()),
            (
                "service-cluster-ip-range",
                self.plan.service_cidr.to_string(),
            ),
            (
                "service-account-issuer",
                "https://kubernetes.default.svc".to_owned(),
            ),
            (
                "service-account-key-file",
                file("service-accounts.pub".to_owned()),
            ),
            (
                "service-account-signing-key-file",
                self.signing_key().display().to_string(),
            ),
            ("allow-privileged", "true".to_owned()),
        ] {
            option(&mut command, name, value);
        }
        command.args(&self.plan.api_args);
        Ok(command)
    }

    /// JSON is YAML.
    fn write_kubeconfig(&self, path: &Path, user: &str, pair: &Pair) -> Result<()> {
        let name = &self.plan.name;
        // Users of several files are told apart by name only.
        let user = format!("{user}@{name}");
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "clusters": [{ "name": name, "cluster": {
                "server": self.url(),
                "certificate-authority": self.ca(),
            } }],
            "users": [{ "name": user, "user": {
                "client-certificate": pair.cert,
                "client-key": pair.key,
            } }],
            "contexts": [{ "name": name, "context": { "cluster": name, "user": user } }],
        });
        fs::write(path, serde_json::to_vec_pretty(&config)?)
            .with_context(|| format!("write `{}`", path.display()))
    }
}

/// Names of certificates.
const SERVER: &str = "kube-apiserver";
const TO_KUBELETS: &str = "kube-apiserver-kubelet-client";

fn option(command: &mut Command, name: &str, value: impl std::fmt::Display) {
    command.arg(format!("--{name}={value}"));
}

fn etcd(
    place: &Place,
    folder: &Path,
    client: SocketAddr,
    peer_address: SocketAddr,
) -> Result<Process> {
    let mut command = place.command(peer("kubernetes", "etcd")?);
    for (name, value) in [
        ("data-dir", folder.join("etcd").display().to_string()),
        ("listen-client-urls", format!("http://{client}")),
        ("advertise-client-urls", format!("http://{client}")),
        ("listen-peer-urls", format!("http://{peer_address}")),
        (
            "initial-advertise-peer-urls",
            format!("http://{peer_address}"),
        ),
        ("initial-cluster", format!("default=http://{peer_address}")),
        ("socket-reuse-port", "true".to_owned()),
        // Nothing here is to survive a loss of power.
        ("unsafe-no-fsync", "true".to_owned()),
    ] {
        option(&mut command, name, value);
    }
    Process::start("etcd", command, folder)
}
