//! The shipped binary `aggrik8s-probe` as a test or the bench runs it: `load` as root, `run` as
//! uid 65532 without capabilities.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::leftovers;
use crate::netns::Netns;
use crate::probe::remote_name;
use crate::rig::Rig;

/// uid and gid of `run`.
pub const USER: u32 = 65_532;

/// What `load` pinned for a rig, and the folder with its mesh.yaml; undone on drop.
pub struct Loaded {
    binary: PathBuf,
    folder: PathBuf,
    pins: PathBuf,
}

impl Loaded {
    /// Runs `aggrik8s-probe load` for the rig's cgroup.
    pub fn load(rig: &Rig) -> Result<Self> {
        let loaded = Self::prepare(rig)?;
        loaded.attach(rig)?;
        Ok(loaded)
    }

    /// Everything but the load itself.
    pub fn prepare(rig: &Rig) -> Result<Self> {
        let pins = leftovers::pins();
        let folder = leftovers::temporary("agent");
        std::fs::create_dir_all(&folder)?;
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755))?;
        chown(&folder, Some(USER), Some(USER))?;
        std::fs::write(folder.join("mesh.yaml"), mesh_yaml(rig.remotes()))?;
        Ok(Self {
            binary: binary()?,
            folder,
            pins,
        })
    }

    /// Runs `aggrik8s-probe load`; returns what it printed.
    pub fn attach(&self, rig: &Rig) -> Result<String> {
        let output = self
            .command("load")
            .arg("--cgroup")
            .arg(rig.cgroup.path())
            .args(["--gid", &USER.to_string()])
            .output()?;
        success("load", &output)
    }

    pub fn pins(&self) -> &Path {
        &self.pins
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg(verb);
        if verb != "unload" {
            command
                .arg("--mesh")
                .arg(self.folder.join("mesh.yaml"))
                .args(["--cluster", &remote_name(0), "--node", "n1"]);
        }
        command.arg("--pin-dir").arg(&self.pins);
        command
    }

    /// Starts `run` in `namespace` and waits until it is ready.
    pub fn run(&self, namespace: &Netns) -> Result<Agent<'_>> {
        self.run_with(namespace, &[])
    }

    /// The same with further arguments.
    pub fn run_with(&self, namespace: &Netns, args: &[&str]) -> Result<Agent<'_>> {
        let log = std::fs::File::create(self.folder.join("run.log"))?;
        let mut command = self.command("run");
        let socket = format!("unix:{}", self.folder.join("api.sock").display());
        command
            .args(["--plane", "pod", "--api", &socket])
            .args(["--metrics", &Agent::METRICS.to_string()])
            .args(["--respond", &Rig::HOME.0.to_string()])
            .args(["--background-interval", "off"])
            .args(args)
            .uid(USER)
            .gid(USER)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let child = namespace
            .run(|| command.spawn())?
            .with_context(|| format!("start `{}`", self.binary.display()))?;
        let agent = Agent {
            child,
            namespace: namespace.name().to_owned(),
            loaded: self,
        };
        agent.wait_ready(namespace)?;
        Ok(agent)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("run.log")).unwrap_or_default()
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if self.pins.exists() {
            match self.command("unload").output() {
                Ok(output) if output.status.success() => {}
                other => tracing::warn!(?other, "`unload` failed"),
            }
        }
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            tracing::warn!(%error, folder = %self.folder.display(), "folder not removed");
        }
    }
}

/// A running agent; killed on drop.
pub struct Agent<'a> {
    child: Child,
    namespace: String,
    loaded: &'a Loaded,
}

impl Agent<'_> {
    /// Inside its namespace.
    pub const METRICS: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9_464);

    fn wait_ready(&self, namespace: &Netns) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let state = match self.get(namespace, "/readyz") {
                Ok((200, _)) => return Ok(()),
                Ok((status, body)) => format!("{status} {body}"),
                Err(error) => format!("{error:#}"),
            };
            if Instant::now() > deadline {
                bail!(
                    "the agent in `{}` did not get ready: {state}\n{}",
                    self.namespace,
                    self.loaded.log()
                );
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// One HTTP GET: status and body.
    pub fn get(&self, namespace: &Netns, path: &str) -> Result<(u16, String)> {
        get(namespace, path)
    }

    /// One scrape.
    pub fn metrics(&self, namespace: &Netns) -> Result<String> {
        let (status, body) = self.get(namespace, "/metrics")?;
        ensure!(status == 200, "/metrics answered {status}");
        Ok(body)
    }

    /// Time on a CPU, ns, all threads.
    pub fn cpu_ns(&self) -> Result<u64> {
        let mut total = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
            let first = text.split(' ').next().and_then(|n| n.parse::<u64>().ok());
            total += first.context("schedstat without figures")?;
        }
        Ok(total)
    }

    /// A field of /proc/pid/status in KiB, such as `VmRSS` or `VmHWM`.
    pub fn memory_kib(&self, field: &str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        status
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| *name == field)
            .and_then(|(_, value)| value.trim().trim_end_matches(" kB").parse().ok())
            .with_context(|| format!("no `{field}` in status"))
    }

    pub fn kill(mut self) -> Result<()> {
        ensure!(
            self.child.try_wait()?.is_none(),
            "the agent had ended: {}",
            self.loaded.log()
        );
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One HTTP GET of an agent in `namespace`: status and body.
pub fn get(namespace: &Netns, path: &str) -> Result<(u16, String)> {
    namespace.run(|| -> Result<_> {
        let mut stream = TcpStream::connect(Agent::METRICS)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n"
        )?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        let (head, body) = reply
            .split_once("\r\n\r\n")
            .context("reply without a body")?;
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
        Ok((status.context("reply without a status")?, body.to_owned()))
    })?
}

/// Sum of a sample over all its label sets that contain `labels`, e.g. `outcome="refused"`.
pub fn metric(exposition: &str, sample: &str, labels: &[&str]) -> Result<u64> {
    let mut sum = 0;
    let mut found = false;
    for line in exposition.lines() {
        let Some(rest) = line.strip_prefix(sample) else {
            continue;
        };
        let Some((set, value)) = rest.strip_prefix('{').and_then(|r| r.rsplit_once("} ")) else {
            continue;
        };
        found = true;
        if labels
            .iter()
            .all(|label| set.split(',').any(|l| l == *label))
        {
            sum += value
                .parse::<u64>()
                .with_context(|| format!("value of `{line}`"))?;
        }
    }
    ensure!(found, "no sample `{sample}` in the exposition");
    Ok(sum)
}

fn success(verb: &str, output: &Output) -> Result<String> {
    ensure!(
        output.status.success(),
        "`aggrik8s-probe {verb}` ended with {}:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `AGGRIK8S_PROBE`, or the binary built beside the running one.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("AGGRIK8S_PROBE") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("aggrik8s-probe"))
        .find(|path| path.is_file())
        .with_context(|| {
            format!(
                "no `aggrik8s-probe` beside `{}` (hint: cargo build -p probe-user)",
                own.display()
            )
        })
}

/// A mesh of the rig's networks: cluster `near` with the client, `far-<n>` with the servers.
pub fn mesh_yaml(remotes: u8) -> String {
    let mut text = "mesh: rig\nclusters:\n".to_owned();
    for index in 0..=remotes {
        let ((v4, v6), (net4, net6)) = (Rig::addresses(index), Rig::networks(index));
        let _ = write!(
            text,
            "  - name: {}\n    id: {}\n    node_networks: [{net4}, \"{net6}\"]\n    pod_cidrs: [10.{}.128.0/17]\n    nodes:\n      - name: n1\n        addresses: [{v4}, \"{v6}\"]\n",
            remote_name(index),
            index + 1,
            Rig::HOME.0.octets()[1] + index,
        );
    }
    text
}
