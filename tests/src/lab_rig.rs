//! A lab of its own for a test, driven through the shipped binary; removed on drop.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::faults::Case;
use crate::leftovers;

/// Echo port of client pods.
pub const ECHO: u16 = 7;

/// A lab under a name that no other test has.
pub struct Lab {
    name: String,
}

impl Lab {
    /// Only the name: nothing is up.
    pub fn named() -> Self {
        Self {
            name: leftovers::lab(),
        }
    }

    pub fn up(options: &[&str]) -> Result<Self> {
        let lab = Self::named();
        lab.bring_up(options)?;
        Ok(lab)
    }

    /// `lab up` with these options; returns what it printed on both streams.
    pub fn bring_up(&self, options: &[&str]) -> Result<String> {
        let output = self.cli("up", options)?;
        let text = both(&output);
        ensure!(
            output.status.success(),
            "`lab up` ended with {}:\n{text}",
            output.status
        );
        Ok(text)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn run_dir(&self) -> PathBuf {
        Path::new("/run/aggrik8s/lab").join(&self.name)
    }

    pub fn command(&self, verb: &str, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary()?);
        command.args(["lab", verb, "--name", &self.name]).args(args);
        Ok(command)
    }

    pub fn cli(&self, verb: &str, args: &[&str]) -> Result<Output> {
        self.command(verb, args)?.output().context("run `aggrik8s`")
    }

    /// A command that must succeed; returns its standard output.
    pub fn ok(&self, verb: &str, args: &[&str]) -> Result<String> {
        let output = self.cli(verb, args)?;
        ensure!(
            output.status.success(),
            "`lab {verb} {}` ended with {}:\n{}",
            args.join(" "),
            output.status,
            both(&output)
        );
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Makes every fault of a case, and declares its objectives.
    pub fn break_by(&self, case: &Case) -> Result<()> {
        self.declare(case.objectives)?;
        for fault in &case.faults {
            let args: Vec<&str> = fault.iter().map(String::as_str).collect();
            self.ok("fault", &args)?;
        }
        Ok(())
    }

    /// Undoes [`Lab::break_by`].
    pub fn mend(&self, case: &Case) -> Result<()> {
        self.ok("fault", &["clear", "--all"])?;
        if !case.objectives.is_empty() {
            let path = self.run_dir().join("mesh.yaml");
            std::fs::rename(path.with_extension("undeclared"), path)?;
        }
        Ok(())
    }

    /// Lines below `objectives:` of the lab's mesh.yaml.
    pub fn declare(&self, lines: &[&str]) -> Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let path = self.run_dir().join("mesh.yaml");
        let text = std::fs::read_to_string(&path)?;
        std::fs::write(path.with_extension("undeclared"), &text)?;
        let known = "\nobjectives:\n";
        let own: String = lines.iter().map(|line| format!("  {line}\n")).collect();
        let text = if text.contains(known) {
            text.replacen(known, &format!("{known}{own}"), 1)
        } else {
            format!("{text}{known}{own}")
        };
        std::fs::write(&path, text).with_context(|| path.display().to_string())
    }

    /// Starts `lab up` and kills it with SIGKILL as soon as `path` exists. False if it had ended by then.
    pub fn killed_up(&self, options: &[&str], path: &Path) -> Result<bool> {
        let mut command = self.command("up", options)?;
        let mut up = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while !path.exists() && up.try_wait()?.is_none() {
            ensure!(
                Instant::now() < deadline,
                "no {} within 30 s",
                path.display()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        let in_time = up.try_wait()?.is_none();
        up.kill()?;
        up.wait()?;
        Ok(in_time)
    }

    pub fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.ok("status", &["-o", "json"])?)?)
    }

    /// Pid of one of the lab's processes, whether it lives or not.
    pub fn pid(&self, name: &str) -> Result<i32> {
        let process = self.process(name)?;
        let pid = process["pid"].as_i64().context("a pid")?;
        Ok(i32::try_from(pid)?)
    }

    pub fn alive(&self, name: &str) -> Result<bool> {
        Ok(self.process(name)?["alive"] == true)
    }

    fn process(&self, name: &str) -> Result<Value> {
        let status = self.status()?;
        let processes = status["processes"].as_array().context("processes")?;
        let found = processes.iter().find(|p| p["name"] == name);
        found
            .cloned()
            .with_context(|| format!("process `{name}` in {status}"))
    }

    /// Pods, nodes and external clients by name.
    pub fn places(&self) -> Result<BTreeMap<String, Place>> {
        let status = self.status()?;
        let mut places = BTreeMap::new();
        for list in ["nodes", "pods", "clients"] {
            for item in status[list].as_array().context("a list")? {
                let text = |key: &str| {
                    item[key]
                        .as_str()
                        .map(str::to_owned)
                        .with_context(|| format!("`{key}` in {item}"))
                };
                let addresses = item["addresses"].as_array().context("addresses")?;
                let addresses = addresses
                    .iter()
                    .filter_map(|a| a.as_str()?.parse().ok())
                    .collect();
                let place = Place {
                    name: text("name")?,
                    cluster: text("cluster")?,
                    addresses,
                    namespace: text("namespace")?.into(),
                };
                places.insert(place.name.clone(), place);
            }
        }
        Ok(places)
    }

    pub fn place(&self, name: &str) -> Result<Place> {
        let mut places = self.places()?;
        let known = places.keys().cloned().collect::<Vec<_>>().join(", ");
        places
            .remove(name)
            .with_context(|| format!("no place `{name}` among {known}"))
    }

    /// What the line counted from one endpoint to another, summed over nodes: (packets, delivered, dropped).
    pub fn crossed(&self, source: &str, target: &str) -> Result<(u64, u64, u64)> {
        let status = self.status()?;
        let paths = status["line"]["paths"]
            .as_array()
            .context("the line answers")?;
        let within = |end: &Value, name: &str| {
            end.as_str().is_some_and(|e| {
                e == name
                    || e.strip_prefix(name)
                        .is_some_and(|rest| rest.starts_with('/'))
            })
        };
        let mut sum = (0, 0, 0);
        for path in paths
            .iter()
            .filter(|p| within(&p["source"], source) && within(&p["target"], target))
        {
            let number = |v: &Value| v.as_u64().with_context(|| format!("a number in {path}"));
            sum.0 += number(&path["packets"])?;
            sum.1 += number(&path["delivered"])?;
            for dropped in path["dropped"].as_object().context("dropped")?.values() {
                sum.2 += number(dropped)?;
            }
        }
        Ok(sum)
    }

    /// What is left on the machine under the lab's name.
    pub fn remains(&self) -> Result<Vec<String>> {
        let mut remains = Vec::new();
        let prefix = format!("ak-{}.", self.name);
        for entry in std::fs::read_dir("/run/netns").into_iter().flatten() {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with(&prefix) {
                remains.push(format!("namespace {name}"));
            }
        }
        if self.run_dir().exists() {
            remains.push(format!("run directory {}", self.run_dir().display()));
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        let run_dir = self.run_dir().display().to_string();
        let lost = |m: &&str| {
            m.split(' ')
                .nth(1)
                .is_some_and(|p| p.starts_with(&format!("{run_dir}/")))
        };
        remains.extend(mounts.lines().filter(lost).map(|m| format!("mount {m}")));
        let lock = format!("/run/aggrik8s/lab/.{}.lock", self.name);
        if Path::new(&lock).exists() {
            remains.push(format!("lock {lock}"));
        }
        if self.cgroup()?.exists() {
            remains.push(format!("cgroup {}", self.cgroup()?.display()));
        }
        Ok(remains)
    }

    pub fn cgroup(&self) -> Result<PathBuf> {
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        let mut kinds = mounts.lines().map(|m| m.split(' ').collect::<Vec<_>>());
        let root = kinds
            .find(|m| m.get(2) == Some(&"cgroup2"))
            .context("no cgroup v2 is mounted")?;
        Ok(Path::new(root[1]).join("aggrik8s").join(&self.name))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = std::fs::read_dir(self.run_dir().join("log"))
                .into_iter()
                .flatten()
                .flatten();
            for log in logs {
                let text = std::fs::read_to_string(log.path()).unwrap_or_default();
                if !text.is_empty() {
                    #[allow(clippy::print_stderr, reason = "a failed test shows why")]
                    {
                        eprintln!("--- {}\n{text}", log.path().display());
                    }
                }
            }
        }
        let _ = self.cli("down", &[]);
    }
}

/// Somewhere inside the lab.
#[derive(Clone, Debug)]
pub struct Place {
    pub name: String,
    pub cluster: String,
    pub addresses: Vec<IpAddr>,
    pub namespace: PathBuf,
}

impl Place {
    /// Runs `work` on a thread inside this place's network namespace.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        lab::sys::in_netns(&self.namespace, work).with_context(|| format!("enter `{}`", self.name))
    }

    pub fn address(&self, v6: bool) -> Result<IpAddr> {
        let found = self.addresses.iter().copied().find(|a| a.is_ipv6() == v6);
        found.with_context(|| {
            format!(
                "no address of that family at `{}`: {:?}",
                self.name, self.addresses
            )
        })
    }

    /// Connects to `target` and echoes a word. The error tells connect from echo.
    pub fn tcp_echo(&self, target: SocketAddr) -> Result<Duration> {
        self.inside(|| {
            let begin = Instant::now();
            let mut stream =
                TcpStream::connect_timeout(&target, Duration::from_secs(2)).context("connect")?;
            let took = begin.elapsed();
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(b"aggrik8s")?;
            let mut answer = [0; 8];
            stream.read_exact(&mut answer).context("echo")?;
            ensure!(&answer == b"aggrik8s", "the echo was {answer:?}");
            Ok(took)
        })?
    }

    /// One datagram to `target` and its echo.
    pub fn udp_echo(&self, target: SocketAddr) -> Result<()> {
        let any: IpAddr = if target.is_ipv6() {
            [0u16; 8].into()
        } else {
            [0u8; 4].into()
        };
        self.inside(|| {
            let socket = UdpSocket::bind((any, 0))?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            socket.send_to(b"aggrik8s", target)?;
            let mut answer = [0; 64];
            let (length, from) = socket.recv_from(&mut answer).context("echo")?;
            ensure!(
                from == target && &answer[..length] == b"aggrik8s",
                "{from} said {:?}",
                &answer[..length]
            );
            Ok(())
        })?
    }

    /// Whether a datagram from here arrives at `target`, on a port of its own.
    pub fn one_way(&self, target: &Self, v6: bool) -> Result<bool> {
        let address = target.address(v6)?;
        let inbox = target.inside(|| UdpSocket::bind((address, 0)))??;
        inbox.set_read_timeout(Some(Duration::from_millis(500)))?;
        let to = inbox.local_addr()?;
        let any: IpAddr = if v6 {
            [0u16; 8].into()
        } else {
            [0u8; 4].into()
        };
        self.inside(|| UdpSocket::bind((any, 0)).and_then(|s| s.send_to(b"one way", to)))??;
        let mut buffer = [0; 16];
        match inbox.recv_from(&mut buffer) {
            Ok((length, _)) => {
                ensure!(&buffer[..length] == b"one way", "{:?}", &buffer[..length]);
                Ok(true)
            }
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                Ok(false)
            }
            Err(error) => bail!(error),
        }
    }

    /// A listener here that accepts (in the backlog) as long as it lives.
    pub fn listen(&self, v6: bool) -> Result<TcpListener> {
        let address = self.address(v6)?;
        Ok(self.inside(|| TcpListener::bind((address, 0)))??)
    }

    /// Whether a connection from here to `target` is established within 700 ms.
    pub fn connects(&self, target: SocketAddr) -> Result<bool> {
        self.inside(|| TcpStream::connect_timeout(&target, Duration::from_millis(700)).is_ok())
    }
}

/// Polls until `done`, at most thirty seconds.
pub fn wait(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done()? {
        ensure!(Instant::now() < deadline, "no {what} within 30 s");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Both streams of a finished program.
pub fn both(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The binary `aggrik8s` beside the running test.
pub fn binary() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("aggrik8s"))
        .find(|path| path.is_file())
        .with_context(|| {
            format!(
                "no `aggrik8s` beside `{}` (hint: cargo build -p aggrik8s -p probe-user)",
                own.display()
            )
        })
}

/// Why no lab can be built here, if it cannot.
pub fn missing() -> Option<String> {
    crate::netns::missing().or_else(|| {
        let nft = Command::new("nft").arg("--version").output();
        nft.is_err().then(|| "no `nft`; install nftables".into())
    })
}
