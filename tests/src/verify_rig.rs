//! `aggrik8s verify` against a lab, with nothing of the lab in sight but its mesh.yaml and the agents' sockets.

use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::lab_rig::{Lab, binary};
use crate::leftovers;

/// Leaves of `/run` only what an ordinary mesh would offer: neither the lab's state and line nor its namespaces.
/// Arguments: scratch folder, name of the lab, program, its arguments.
const VIEW: &str = r#"set -e
scratch=$1 lab=/run/aggrik8s/lab/$2
shift 2
cp "$lab/mesh.yaml" "$scratch/mesh.yaml"
mkdir "$scratch/agents"
mount --bind "$lab/agents" "$scratch/agents"
mount -t tmpfs -o mode=0755 verify /run
mkdir -p "$lab/agents"
mount --bind "$scratch/agents" "$lab/agents"
cp "$scratch/mesh.yaml" "$lab/mesh.yaml"
exec "$@""#;

/// A run of verify that has been started.
pub struct Running {
    child: Child,
    started: Instant,
    _scratch: TempDir,
}

/// What a run of verify answered.
pub struct Verdict {
    pub exit: Option<i32>,
    /// The whole report, schema/verify.schema.json.
    pub report: Value,
    pub seconds: f64,
    /// Its budget, for one.
    pub stderr: String,
}

/// Starts `aggrik8s verify --lab … -o json` in a mount and network namespace of its own.
pub fn start(lab: &Lab, options: &[&str]) -> Result<Running> {
    let scratch = tempfile::Builder::new()
        .prefix(&leftovers::name(""))
        .tempdir()?;
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--net", "--propagation", "private"])
        .args(["sh", "-c", VIEW, "view"])
        .arg(scratch.path())
        .args([lab.name()])
        .arg(binary()?)
        .args(["verify", "--lab", lab.name(), "-o", "json"])
        .args(options)
        .env_remove("AGGRIK8S_MESH")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let started = Instant::now();
    let child = command.spawn().context("run `unshare`")?;
    Ok(Running {
        child,
        started,
        _scratch: scratch,
    })
}

impl Running {
    pub fn finish(self) -> Result<Verdict> {
        let output = self.child.wait_with_output()?;
        let seconds = self.started.elapsed().as_secs_f64();
        let report = serde_json::from_slice(&output.stdout).with_context(|| {
            format!(
                "no report, {}:\n{}",
                output.status,
                crate::lab_rig::both(&output)
            )
        })?;
        Ok(Verdict {
            exit: output.status.code(),
            report,
            seconds,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails if the run has ended already.
    pub fn still_runs(&mut self) -> Result<()> {
        ensure!(
            self.child.try_wait()?.is_none(),
            "verify ended before it was disturbed"
        );
        Ok(())
    }

    /// Ends by signal: exit code, and how it took its leave.
    pub fn signalled(self) -> Result<(Option<i32>, String, String)> {
        let output = self.child.wait_with_output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        ))
    }
}

pub fn verify(lab: &Lab, options: &[&str]) -> Result<Verdict> {
    start(lab, options)?.finish()
}

impl Verdict {
    pub fn result(&self) -> &str {
        self.report["result"].as_str().unwrap_or("")
    }

    pub fn list(&self, key: &str) -> &[Value] {
        self.report[key].as_array().map_or(&[], Vec::as_slice)
    }

    /// The figures and causes of everything that is not as it should be, for a failed test.
    pub fn told(&self) -> String {
        let mut lines = vec![format!(
            "{} after {:.1} s, exit {:?}",
            self.result(),
            self.seconds,
            self.exit
        )];
        for cause in self.list("causes") {
            lines.push(format!(
                "cause {} {}→{} {}: {}",
                word(&cause["id"]),
                word(&cause["source_cluster"]),
                word(&cause["target_cluster"]),
                word(&cause["node"]),
                word(&cause["summary"])
            ));
        }
        for check in self.list("checks") {
            if check["status"] == "fail" || check["status"] == "undecided" {
                let mut observed = check["observed"].clone();
                if let Some(map) = observed.as_object_mut() {
                    map.remove("marginals");
                }
                lines.push(format!(
                    "{} {} {}→{} {}: {} {observed}",
                    word(&check["status"]),
                    word(&check["id"]),
                    word(&check["source_cluster"]),
                    word(&check["target_cluster"]),
                    word(&check["node"]),
                    word(&check["cause"])
                ));
            }
        }
        lines.join("\n")
    }
}

/// A JSON string, `-` when absent.
pub fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}
