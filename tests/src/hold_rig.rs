//! The shipped binary as a holder, `hold`, and agents that ask it for the maps, `run --maps-from`, around one rig.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::agent::{self, USER};
use crate::leftovers;
use crate::probe::remote_name;
use crate::rig::Rig;
use crate::storm::ClientPlan;
use crate::sys;

/// What a holder needs.
pub const BOTH: &[&str] = &["bpf", "net_admin"];
const PORT: u16 = 7_000;
const PATIENCE: Duration = Duration::from_secs(30);

/// A rig with one remote, and a folder as a pod's volume is; removed on drop.
pub struct Bed {
    pub rig: Rig,
    folder: PathBuf,
}

impl Bed {
    pub fn new(label: &str) -> Result<Self> {
        let bed = Self {
            rig: Rig::new(label, 1)?,
            folder: leftovers::temporary(label),
        };
        fs::create_dir_all(bed.volume())?;
        fs::create_dir_all(bed.agents_own())?;
        for (folder, mode) in [
            (bed.folder.clone(), 0o755),
            // As a kubelet makes an emptyDir.
            (bed.volume(), 0o777),
            (bed.agents_own(), 0o755),
        ] {
            fs::set_permissions(folder, fs::Permissions::from_mode(mode))?;
        }
        chown(bed.agents_own(), Some(USER), Some(USER))?;
        bed.write_mesh(&agent::mesh_yaml(1))?;
        Ok(bed)
    }

    /// In one step, so that nobody reads half a file.
    pub fn write_mesh(&self, text: &str) -> Result<()> {
        let fresh = self.folder.join("mesh.yaml.new");
        fs::write(&fresh, text)?;
        fs::rename(fresh, self.mesh())?;
        Ok(())
    }

    pub fn mesh(&self) -> PathBuf {
        self.folder.join("mesh.yaml")
    }

    /// The folder that holder and agent share.
    pub fn volume(&self) -> PathBuf {
        self.folder.join("hold")
    }

    /// Where the agent may write.
    pub fn agents_own(&self) -> PathBuf {
        self.folder.join("agent")
    }

    pub fn socket(&self) -> PathBuf {
        self.volume().join("hold.sock")
    }

    /// The agent's API.
    pub fn api(&self) -> PathBuf {
        self.agents_own().join("api.sock")
    }

    /// Programs attached to the cgroup, of every kind we use.
    pub fn attached(&self) -> Result<u32> {
        sys::attached_everywhere(&File::open(self.rig.cgroup.path())?).map_err(Into::into)
    }

    /// Makes so many connections inside the cgroup; all are closed when it returns.
    pub fn storm(&self, connections: u64) -> Result<()> {
        let plan = ClientPlan::new(self.rig.targets(PORT), connections);
        let (client, _) = self.rig.storm(&plan)?;
        ensure!(client.established == connections, "{client:?}");
        Ok(())
    }

    /// Arguments of `hold`.
    pub fn hold_args(&self) -> Vec<String> {
        [
            "hold",
            "--mesh",
            &self.mesh().display().to_string(),
            "--cluster",
            &remote_name(0),
            "--node",
            "n1",
            "--cgroup",
            &self.rig.cgroup.path().display().to_string(),
            "--socket",
            &self.socket().display().to_string(),
            "--gid",
            &USER.to_string(),
        ]
        .map(str::to_owned)
        .into()
    }

    /// `hold` as uid 0 and the agent's group, with these capabilities and no other. Does not wait.
    pub fn spawn_hold(&self, capabilities: &[&str], more: &[&str]) -> Result<Process> {
        let mut bounding = "-all".to_owned();
        for capability in capabilities {
            bounding = format!("{bounding},+{capability}");
        }
        let mut hold = Command::new("setpriv");
        hold.args(["--regid", &USER.to_string(), "--clear-groups"]);
        hold.args(["--inh-caps=-all", &format!("--bounding-set={bounding}")]);
        hold.arg(agent::binary()?).args(self.hold_args()).args(more);
        Process::spawn(hold, self.folder.join("hold.log"))
    }

    /// The same, and waits until it has attached and answers.
    pub fn hold(&self) -> Result<Process> {
        self.hold_with(&[])
    }

    pub fn hold_with(&self, more: &[&str]) -> Result<Process> {
        let mut holder = self.spawn_hold(BOTH, more)?;
        let log = holder.log.clone();
        wait("the holder answers", &log, || {
            Ok(holder.ended()?.is_some() || self.ask(0)?.0)
        })?;
        if let Some(status) = holder.ended()? {
            anyhow::bail!("the holder ended with {status}: {}", holder.said());
        }
        Ok(holder)
    }

    /// `aggrik8s-probe ask` as this user with the agent's group: whether it was answered, and all that it said.
    pub fn ask(&self, uid: u32) -> Result<(bool, String)> {
        self.ask_as(uid, USER)
    }

    pub fn ask_as(&self, uid: u32, gid: u32) -> Result<(bool, String)> {
        let mut ask = Command::new("setpriv");
        ask.args(["--reuid", &uid.to_string(), "--regid", &gid.to_string()]);
        ask.args(["--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]);
        ask.arg(agent::binary()?).args(["ask", "--socket"]);
        let output = ask.arg(self.socket()).output().context("start `setpriv`")?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Ok((output.status.success(), text))
    }

    /// An agent in the client's namespace.
    pub fn agent(&self) -> Result<Process> {
        let mut run = Command::new(agent::binary()?);
        run.arg("run").arg("--mesh").arg(self.mesh());
        run.args(["--cluster", &remote_name(0), "--node", "n1"]);
        run.arg("--maps-from").arg(self.socket());
        run.args(["--api", &format!("unix:{}", self.api().display())]);
        run.args(["--metrics", &agent::Agent::METRICS.to_string()]);
        run.args(["--respond", &Rig::HOME.0.to_string()]);
        run.args(["--background-interval", "off"]);
        run.uid(USER).gid(USER);
        let log = self.folder.join("run.log");
        self.rig.client.run(|| Process::spawn(run, log))?
    }

    /// One GET of the agent; an error while it does not serve.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        agent::get(&self.rig.client, path)
    }

    /// Sum over the samples of a family.
    pub fn metric(&self, name: &str) -> Result<f64> {
        self.sum(name, "")
    }

    fn sum(&self, name: &str, label: &str) -> Result<f64> {
        let (_, page) = self.get("/metrics")?;
        let samples = page
            .lines()
            .filter_map(|line| line.rsplit_once(' '))
            .filter(|(id, _)| id.split('{').next() == Some(name) && id.contains(label));
        Ok(samples
            .filter_map(|(_, value)| value.parse::<f64>().ok())
            .sum())
    }

    /// Connections of traffic to a cluster that the kernel counted, as the agent tells it.
    pub fn connects(&self, cluster: &str) -> Result<f64> {
        let label =
            format!("origin=\"traffic\",source_cluster=\"near\",target_cluster=\"{cluster}\"");
        self.sum("aggrik8s_tcp_connects_total", &label)
    }

    /// Waits until `/readyz` is this status and says this.
    pub fn ready_is(&self, status: u16, text: &str, agent: &Process) -> Result<()> {
        wait(
            &format!("/readyz is {status} with `{text}`"),
            &agent.log,
            || {
                let answer = self.get("/readyz");
                Ok(answer.is_ok_and(|(seen, body)| seen == status && body.contains(text)))
            },
        )
    }

    pub fn wait(
        &self,
        what: &str,
        process: &Process,
        holds: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        wait(what, &process.log, holds)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn wait(what: &str, log: &Path, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds()? {
        ensure!(
            Instant::now() < deadline,
            "waited in vain for: {what}; its log:\n{}",
            fs::read_to_string(log).unwrap_or_default()
        );
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A holder or an agent; killed on drop.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn spawn(mut command: Command, log: PathBuf) -> Result<Self> {
        let file = File::create(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        Ok(Self { child, log })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it wrote.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            ensure!(
                Instant::now() < deadline,
                "it does not end: {}",
                self.said()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.pid())?), signal)?;
        Ok(())
    }

    /// Kills it with SIGKILL and waits.
    pub fn kill(&mut self) -> Result<()> {
        ensure!(self.ended()?.is_none(), "it had ended: {}", self.said());
        self.signal(Signal::SIGKILL)?;
        self.wait().map(drop)
    }

    /// A field of `/proc/<pid>/status`.
    pub fn status(&self, field: &str) -> Result<String> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let prefix = format!("{field}:");
        let line = status.lines().find_map(|line| line.strip_prefix(&prefix));
        Ok(line.context("no such field")?.trim().to_owned())
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
