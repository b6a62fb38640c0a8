//! Containers as a kubelet would run agent and holder, made with runc alone: an unprivileged user without any capability
//! and a seccomp profile, or uid 0 with few capabilities; both with `no_new_privs` and a read-only root filesystem.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::leftovers;
use crate::netns::Netns;

/// The agent's user and group in a cluster.
pub const USER: u32 = 65532;

/// What runs, and what it sees of the host.
pub struct Plan<'a> {
    /// A static program; it becomes `/program` in the container.
    pub program: &'a Path,
    pub args: Vec<String>,
    /// Host files and folders and where they are in the container.
    pub mounts: Vec<(&'a Path, &'a str, Access)>,
    pub network: &'a Netns,
    /// A seccomp profile as `deploy/seccomp` has it; null for none.
    pub seccomp: Value,
    /// Capabilities of a container whose user is 0, such as `CAP_BPF`; without any it is the agent's user.
    pub capabilities: &'a [&'a str],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// A container; killed and removed on drop.
pub struct Container {
    id: String,
    folder: PathBuf,
    pid: u32,
}

impl Container {
    /// Starts the program and returns while it runs.
    pub fn start(plan: &Plan<'_>) -> Result<Self> {
        let id = leftovers::name("container");
        let folder = std::env::temp_dir().join(&id);
        // Built before runc is asked, so that whatever is left half-way is removed by drop.
        let mut container = Self { id, folder, pid: 0 };
        bundle(&container.folder, &container.id, plan)?;
        let output = File::create(container.folder.join("output"))?;
        let mut runc = container.runc(&["run", "--detach", "--bundle"]);
        runc.arg(&container.folder).arg("--pid-file");
        runc.arg(container.folder.join("pid")).arg(&container.id);
        let status = runc
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .status()
            .context("start `runc`")?;
        ensure!(status.success(), "`runc run`: {}", container.output());
        let pid = fs::read_to_string(container.folder.join("pid"))?;
        container.pid = pid.trim().parse().context("pid file of runc")?;
        Ok(container)
    }

    /// Its first process, as the host numbers it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A field of the first process's `/proc/<pid>/status`, as the host sees it.
    pub fn status(&self, field: &str) -> Result<String> {
        let path = format!("/proc/{}/status", self.pid);
        let status = fs::read_to_string(&path)
            .with_context(|| format!("read `{path}`; the program said: {}", self.output()))?;
        let prefix = format!("{field}:");
        let line = status.lines().find_map(|line| line.strip_prefix(&prefix));
        let value = line.with_context(|| format!("`{path}` has no `{field}`"))?;
        Ok(value.trim().to_owned())
    }

    /// Everything printed so far.
    pub fn output(&self) -> String {
        fs::read_to_string(self.folder.join("output")).unwrap_or_default()
    }

    /// Waits until the first process is gone, and returns everything it printed.
    pub fn wait(&self, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        while self.state()? != "stopped" {
            if Instant::now() > deadline {
                bail!("the container still runs; it said: {}", self.output());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(self.output())
    }

    fn state(&self) -> Result<String> {
        let output = self.runc(&["state", &self.id]).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`runc state`: {said}");
        let state: Value = serde_json::from_slice(&output.stdout)?;
        Ok(state["status"].as_str().unwrap_or_default().to_owned())
    }

    fn runc(&self, args: &[&str]) -> Command {
        let mut runc = Command::new("runc");
        // Apart from any runtime's own containers.
        runc.arg("--root").arg(self.folder.join("state")).args(args);
        runc
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let deleted = self.runc(&["delete", "--force", &self.id]).output();
        if let Ok(output) = &deleted
            && !output.status.success()
            && self.pid != 0
        {
            let said = String::from_utf8_lossy(&output.stderr);
            tracing::warn!(container = self.id, %said, "container not removed");
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn bundle(folder: &Path, id: &str, plan: &Plan<'_>) -> Result<()> {
    let rootfs = folder.join("rootfs");
    fs::create_dir_all(rootfs.join("proc"))?;
    // The container's user walks through these; `TMPDIR` or the umask may have closed them.
    for open in [folder, &rootfs] {
        fs::set_permissions(open, fs::Permissions::from_mode(0o755))?;
    }
    fs::copy(plan.program, rootfs.join("program"))
        .with_context(|| format!("copy `{}`", plan.program.display()))?;
    for (from, to, _) in &plan.mounts {
        let place = rootfs.join(to.trim_start_matches('/'));
        if from.is_dir() {
            fs::create_dir_all(&place)?;
        } else {
            File::create(&place).with_context(|| format!("create `{}`", place.display()))?;
        }
    }
    let config = serde_json::to_vec_pretty(&config(id, plan))?;
    fs::write(folder.join("config.json"), config)?;
    Ok(())
}

/// The OCI runtime configuration.
fn config(id: &str, plan: &Plan<'_>) -> Value {
    let mut mounts = vec![json!({
        "destination": "/proc", "type": "proc", "source": "proc",
        "options": ["nosuid", "noexec", "nodev"],
    })];
    mounts.extend(plan.mounts.iter().map(|(from, to, access)| {
        let access = match access {
            Access::Read => "ro",
            Access::Write => "rw",
        };
        json!({
            "destination": to, "type": "bind", "source": from,
            "options": ["rbind", "nosuid", "noexec", "nodev", access],
        })
    }));
    let user = if plan.capabilities.is_empty() {
        USER
    } else {
        0
    };
    let held = plan.capabilities;
    let mut args = vec!["/program".to_owned()];
    args.extend(plan.args.iter().cloned());
    json!({
        "ociVersion": "1.0.2",
        "hostname": id,
        "root": { "path": "rootfs", "readonly": true },
        "process": {
            "terminal": false,
            "user": { "uid": user, "gid": USER },
            "args": args,
            "env": ["PATH=/", "RUST_BACKTRACE=1"],
            "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": {
                "bounding": held, "effective": held, "inheritable": [], "permitted": held, "ambient": [],
            },
        },
        "mounts": mounts,
        "linux": {
            // Relative to the mount of every hierarchy; runc alone needs no systemd.
            "cgroupsPath": format!("/{id}"),
            "namespaces": [
                { "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" },
                { "type": "network", "path": plan.network.path() },
            ],
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/sched_debug", "/proc/timer_list"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "seccomp": plan.seccomp,
        },
    })
}

/// What is missing to run containers, with the fix.
pub fn missing() -> Option<String> {
    let there = Command::new("runc").arg("--version").output().is_ok();
    (!there).then(|| "containers need `apt-get install runc`".to_owned())
}
