//! Six faults of the default lab, and what verify has to say of each.

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::lab_rig::Lab;
use crate::verify_rig::{Verdict, verify, word};

/// Clusters of the default lab.
const EAST: &str = "talos-east";
const WEST: &str = "talos-west";
const PI: &str = "picluster";

type Direction = (&'static str, &'static str);

/// A fault, as `lab fault` is told it, and its only right verdict.
pub struct Fault {
    pub name: &'static str,
    pub args: &'static [&'static str],
    pub exit: i32,
    /// Id, source, target and node of the cause that comes first.
    pub cause: [&'static str; 4],
    /// Initiator links that it hurts; all others stay READY.
    pub links: &'static [Direction],
    /// Path directions that it hurts.
    pub paths: &'static [Direction],
}

/// With a path the fault is on one direction of it, mostly of one node.
pub const SIX: [Fault; 6] = [
    Fault {
        name: "blackhole",
        args: &["blackhole", "--source", WEST, "--target", PI],
        exit: 1,
        cause: ["path.blackhole", WEST, PI, "-"],
        links: &[(WEST, PI), (PI, WEST)],
        paths: &[(WEST, PI)],
    },
    Fault {
        name: "5 % loss",
        args: &[
            "loss",
            "--percent",
            "5",
            "--source",
            "picluster/pi-worker-01",
            "--target",
            EAST,
        ],
        exit: 1,
        cause: ["path.loss", PI, EAST, "pi-worker-01"],
        links: &[(PI, EAST), (EAST, PI)],
        paths: &[(PI, EAST)],
    },
    Fault {
        name: "+50 ms",
        args: &[
            "delay",
            "--ms",
            "50",
            "--source",
            EAST,
            "--target",
            "talos-west/wrk-w-1",
        ],
        exit: 1,
        cause: ["path.longer", EAST, WEST, "wrk-w-1"],
        links: &[(EAST, WEST), (WEST, EAST)],
        paths: &[],
    },
    Fault {
        name: "backend down",
        args: &["backend-down"],
        exit: 1,
        cause: ["service.no_backend", "-", EAST, "-"],
        links: &[(WEST, EAST), (PI, EAST)],
        paths: &[],
    },
    Fault {
        name: "policy deny",
        args: &[
            "policy-deny",
            "--source",
            PI,
            "--target",
            "talos-west/cp-w-1",
        ],
        exit: 1,
        cause: ["policy.pod_plane", PI, WEST, "cp-w-1"],
        links: &[(PI, WEST)],
        paths: &[],
    },
    Fault {
        name: "agent killed",
        args: &["agent-killed", "pi-worker-01"],
        exit: 3,
        cause: ["agent.unreachable", PI, "-", "pi-worker-01"],
        links: &[(PI, EAST), (EAST, PI), (PI, WEST), (WEST, PI)],
        paths: &[(PI, EAST), (EAST, PI), (PI, WEST), (WEST, PI)],
    },
];

/// What does not agree with the fault.
#[derive(Default)]
pub struct Objections {
    /// Wrong whatever the machine was busy with.
    pub wrong: Vec<String>,
    /// Undecided, and the report shows that probers were starved while they measured it.
    pub starved: Vec<String>,
}

impl Fault {
    /// Objections to `verdict` under this fault.
    pub fn objections(&self, verdict: &Verdict) -> Objections {
        let mut found = Objections::default();
        let result = if self.exit == 1 {
            "NOT_READY"
        } else {
            "UNDECIDED"
        };
        if verdict.exit != Some(self.exit) || verdict.result() != result {
            found.wrong.push(format!(
                "{} with exit {:?}, not {result} with {}",
                verdict.result(),
                verdict.exit,
                self.exit
            ));
        }
        let top = &verdict.report["causes"][0];
        let named = ["id", "source_cluster", "target_cluster", "node"].map(|key| word(&top[key]));
        if named != self.cause {
            found
                .wrong
                .push(format!("blames {named:?}, not {:?}", self.cause));
        }
        for check in verdict.list("checks") {
            if check["status"] == "fail" && check["cause"] != top["summary"] {
                found.wrong.push(format!(
                    "fails {} {}→{} {}, which {} does not explain",
                    word(&check["id"]),
                    word(&check["source_cluster"]),
                    word(&check["target_cluster"]),
                    word(&check["node"]),
                    named[0]
                ));
            }
        }
        found.rows(verdict, result, self.links, self.paths);
        found
    }
}

impl Objections {
    pub fn none(&self) -> bool {
        self.wrong.is_empty() && self.starved.is_empty()
    }

    /// Every link and path in `links` and `paths` must be as `result` says, every other READY.
    fn rows(&mut self, verdict: &Verdict, result: &str, links: &[Direction], paths: &[Direction]) {
        if verdict.list("links").len() != 6 {
            self.wrong
                .push(format!("judges {} links", verdict.list("links").len()));
        }
        for row in verdict.list("links") {
            let at = (word(&row["source_cluster"]), word(&row["target_cluster"]));
            for (kind, hurt) in [("result", links), ("path_result", paths)] {
                let hurt = hurt.contains(&at);
                let expected = if hurt { result } else { "READY" };
                let got = word(&row[kind]);
                if got == expected {
                    continue;
                }
                let text = format!("{}→{} {kind}: {got}, not {expected}", at.0, at.1);
                if !hurt && got == "UNDECIDED" && starved(verdict, at, kind == "path_result") {
                    self.starved.push(text);
                } else {
                    self.wrong.push(text);
                }
            }
        }
    }
}

/// Whether every undecided check of the row says that samples were taken while their prober was starved.
fn starved(verdict: &Verdict, (source, target): (&str, &str), path: bool) -> bool {
    let mut undecided = verdict.list("checks").iter().filter(|check| {
        check["status"] == "undecided"
            && check["severity"] == "gate"
            && check["source_cluster"] == source
            && check["target_cluster"] == target
            && (check["id"] == "loss.udp") == path
    });
    let excused = |check: &Value| {
        ["starved", "excluded_stalled", "unresolved"]
            .iter()
            .any(|key| check["observed"][*key].as_u64() > Some(0))
    };
    undecided.all(excused)
}

/// Verifies until nothing speaks against the verdict, at most twice: once more when only starvation does.
/// A second verdict that is short of samples again is accepted, and said to be so.
pub fn expect(
    lab: &Lab,
    name: &str,
    objections: impl Fn(&Verdict) -> Objections,
) -> Result<Verdict> {
    let mut verdict = verify(lab, &[])?;
    let mut found = objections(&verdict);
    if found.wrong.is_empty() && !found.starved.is_empty() {
        tell(name, &verdict, &found);
        verdict = verify(lab, &[])?;
        found = objections(&verdict);
    }
    tell(name, &verdict, &found);
    ensure!(
        found.wrong.is_empty(),
        "{name}: {}\n{}",
        found.wrong.join("\n"),
        verdict.told()
    );
    Ok(verdict)
}

/// Objections to a verdict while all agents of `picluster` are silent.
pub fn unreachable(verdict: &Verdict, nodes: &[&str]) -> Objections {
    let mut found = Objections::default();
    let hurt = [(PI, EAST), (EAST, PI), (PI, WEST), (WEST, PI)];
    found.rows(verdict, "UNDECIDED", &hurt, &hurt);
    if verdict.exit != Some(3) {
        found.wrong.push(format!("exit {:?}, not 3", verdict.exit));
    }
    for check in verdict.list("checks") {
        if check["status"] == "fail" {
            found.wrong.push(format!(
                "fails {} although only agents are silent",
                word(&check["id"])
            ));
        }
    }
    for node in nodes {
        let named = verdict.list("causes").iter().any(|cause| {
            cause["id"] == "agent.unreachable"
                && cause["source_cluster"] == PI
                && cause["node"] == *node
        });
        if !named {
            found.wrong.push(format!("does not name {node}"));
        }
    }
    found
}

/// Objections to a verdict of a mesh without a fault.
pub fn healthy(verdict: &Verdict) -> Objections {
    let mut found = Objections::default();
    found.rows(verdict, "READY", &[], &[]);
    if verdict.exit != Some(0) && found.starved.is_empty() {
        found.wrong.push(format!(
            "{} with exit {:?}, not READY",
            verdict.result(),
            verdict.exit
        ));
    }
    found
}

#[allow(
    clippy::print_stderr,
    reason = "the figures of a stage that takes minutes"
)]
fn tell(name: &str, verdict: &Verdict, found: &Objections) {
    eprintln!(
        "{name}: {} in {:.1} s, {}",
        verdict.result(),
        verdict.seconds,
        word(&verdict.report["causes"][0]["summary"])
    );
    for line in &found.starved {
        eprintln!("  starved: {line}");
    }
}
