//! Agents as child processes in a network namespace of their own, without kernel programs: for the API,
//! the prober, the metrics and the shutdown of the shipped binary.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;
use mesh::AgentEndpoint;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::agent::{USER, binary};
use crate::leftovers;
use crate::netns::{Netns, missing, skip};

const DEADLINE: Duration = Duration::from_secs(60);

/// Polls until `done`; panics with `what` when it takes longer than a minute.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs `body` inside a fresh namespace in which 10.77.0.0/24 is local; prints why when there can be none.
pub fn at_a_place(label: &str, body: impl AsyncFnOnce(&Place) + Send) -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let namespace = Netns::create(label)?;
    namespace.address("lo", "10.77.0.1/24")?;
    let place = Place::new();
    namespace.run(|| -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(body(&place));
        Ok(())
    })?
}

/// A folder with a mesh of two clusters: `east` with node `e-1`, `west` with `w-1` and `w-2`.
pub struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self {
            folder: tempfile::Builder::new()
                .prefix(&leftovers::name(""))
                .tempdir()
                .unwrap(),
        };
        let path = place.folder();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        chown(path, Some(USER), Some(USER)).unwrap();
        place.write_mesh(&[]);
        place
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn mesh_path(&self) -> PathBuf {
        self.folder().join("mesh.yaml")
    }

    pub fn socket(&self, node: &str) -> PathBuf {
        self.folder().join(format!("{node}.sock"))
    }

    /// 0 to 63 are pods of `east`, 64 to 95 of `west`; what lies beyond is not declared.
    pub fn address(&self, host: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 77, 0, host))
    }

    /// Cluster and pod address of a node.
    pub fn node(&self, node: &str) -> (String, IpAddr) {
        match node {
            "e-1" => ("east".into(), self.address(1)),
            "w-1" => ("west".into(), self.address(65)),
            "w-2" => ("west".into(), self.address(66)),
            other => panic!("no node {other}"),
        }
    }

    /// Declares more nodes of `west`, outside of the pod network that it has without them.
    pub fn write_mesh(&self, more_west: &[(&str, IpAddr)]) {
        let more: String = more_west
            .iter()
            .map(|(name, ip)| {
                format!("      - {{name: {name}, addresses: [10.78.0.77], agent_pod: [{ip}]}}\n")
            })
            .collect();
        let net = if more_west.is_empty() {
            ""
        } else {
            ", 10.77.0.96/27"
        };
        let text = format!(
            "mesh: test\nclusters:\n  - name: east\n    id: 1\n    node_networks: [10.78.0.0/26]\n    pod_cidrs: [10.77.0.0/26]\n    nodes:\n      - {{name: e-1, addresses: [10.78.0.1], agent_pod: [10.77.0.1], agent: 'unix:{}'}}\n  - name: west\n    id: 2\n    node_networks: [10.78.0.64/26]\n    pod_cidrs: [10.77.0.64/27{net}]\n    nodes:\n      - {{name: w-1, addresses: [10.78.0.65], agent_pod: [10.77.0.65], agent: 'unix:{}'}}\n      - {{name: w-2, addresses: [10.78.0.66], agent_pod: [10.77.0.66]}}\n{more}",
            self.socket("e-1").display(),
            self.socket("w-1").display(),
        );
        // In one step, so that an agent never reads half a file.
        let fresh = self.folder().join("mesh.yaml.new");
        fs::write(&fresh, text).unwrap();
        fs::rename(fresh, self.mesh_path()).unwrap();
    }

    /// Arguments of `run`, as pairs of flag and value.
    pub fn args(&self, node: &str) -> Vec<String> {
        let (cluster, ip) = self.node(node);
        [
            "--mesh",
            &self.mesh_path().display().to_string(),
            "--cluster",
            &cluster,
            "--node",
            node,
            "--api",
            &format!("unix:{}", self.socket(node).display()),
            "--metrics",
            &format!("{ip}:9100"),
            "--respond",
            &ip.to_string(),
        ]
        .map(str::to_owned)
        .into()
    }
}

/// `run` as the user that it is meant for.
fn command(args: &[String]) -> Command {
    let mut command = Command::new(binary().unwrap());
    command
        .arg("run")
        .args(args)
        .uid(USER)
        .gid(USER)
        .stdin(Stdio::null());
    command
}

/// Runs an agent that must not start; its exit code and what it said.
pub fn fail(args: &[String]) -> (Option<i32>, String) {
    end(&mut command(args))
}

/// The same as uid 0.
pub fn fail_as_root(args: &[String]) -> (Option<i32>, String) {
    end(command(args).uid(0))
}

fn end(command: &mut Command) -> (Option<i32>, String) {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let code = wait_child(&mut child);
    let mut stderr = String::new();
    let mut pipe = child.stderr.take().unwrap();
    pipe.read_to_string(&mut stderr).unwrap();
    (code, stderr)
}

fn wait_child(child: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("the agent does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A running agent, killed on drop.
pub struct Agent {
    child: Child,
    socket: PathBuf,
    metrics: SocketAddr,
}

impl Agent {
    /// Starts the agent of `node` and waits until it serves. `more` overrides or adds flags.
    pub fn start(place: &Place, node: &str, more: &[&str]) -> Self {
        let mut args = place.args(node);
        for pair in more.chunks(2) {
            if let Some(at) = args.iter().position(|arg| arg == pair[0]) {
                args[at + 1] = pair[1].to_owned();
            } else {
                args.extend(pair.iter().map(|arg| (*arg).to_owned()));
            }
        }
        let child = command(&args).spawn().unwrap();
        let agent = Self {
            child,
            socket: place.socket(node),
            metrics: (place.node(node).1, 9_100).into(),
        };
        wait_until("the agent to serve", || {
            TcpStream::connect(agent.metrics).is_ok()
        });
        agent
    }

    pub fn endpoint(&self) -> AgentEndpoint {
        AgentEndpoint::Unix(self.socket.display().to_string())
    }

    pub fn metrics_address(&self) -> SocketAddr {
        self.metrics
    }

    pub fn metrics(&self) -> String {
        let (status, body) = get(self.metrics, "/metrics");
        assert_eq!(status, 200);
        body
    }

    /// Sum over all samples of a family.
    pub fn metric(&self, name: &str) -> f64 {
        self.metrics()
            .lines()
            .filter_map(|line| line.rsplit_once(' '))
            .filter(|(id, _)| *id == name || id.starts_with(&format!("{name}{{")))
            .map(|(_, value)| value.parse::<f64>().unwrap())
            .sum()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(pid, signal).unwrap();
    }

    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait();
    }

    pub fn wait(&mut self) -> Option<i32> {
        wait_child(&mut self.child)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status and body of a GET.
pub fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// A CA and one certificate for `ip` that serves and calls, as PEM files.
pub struct Pki {
    pub ca: String,
    pub cert: String,
    pub key: String,
}

impl Pki {
    pub fn new(folder: &Path, ip: IpAddr) -> Self {
        fs::create_dir_all(folder).unwrap();
        let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority_key = rcgen::KeyPair::generate().unwrap();
        let authority_cert = authority.self_signed(&authority_key).unwrap();
        let issuer = rcgen::Issuer::new(authority, authority_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(vec![ip.to_string()]).unwrap();
        let leaf = leaf.signed_by(&key, &issuer).unwrap();
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        Self {
            ca: write("ca.pem", authority_cert.pem()),
            cert: write("cert.pem", leaf.pem()),
            key: write("key.pem", key.serialize_pem()),
        }
    }
}
