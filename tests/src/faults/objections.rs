//! What does not agree with a fault in the verdict of a lab that has it.

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{Case, Named, PI};
use crate::lab_rig::Lab;
use crate::verify_rig::{Verdict, verify, word};

/// What does not agree with the fault.
#[derive(Default)]
pub struct Objections {
    /// Wrong whatever the machine was busy with.
    pub wrong: Vec<String>,
    /// Undecided, and the report shows that probers were starved while they measured it.
    pub starved: Vec<String>,
}

impl Case {
    /// Objections to `verdict` under this fault.
    pub fn objections(&self, verdict: &Verdict) -> Objections {
        let mut found = Objections::default();
        let result = self.result();
        if verdict.exit != Some(self.exit) || verdict.result() != result {
            found.wrong.push(format!(
                "{} with exit {:?}, not {result} with {}",
                verdict.result(),
                verdict.exit,
                self.exit
            ));
        }
        found.causes(self, verdict);
        found.rows(verdict, |at, path| self.accepts(at, path));
        found
    }

    /// Whether the causes that come first are the right ones, in any order.
    pub fn named(&self, verdict: &Verdict) -> bool {
        let mut found = Objections::default();
        found.causes(self, verdict);
        found.wrong.is_empty()
    }
}

impl Named {
    fn is(&self, cause: &Value) -> bool {
        let [id, source, target, node] =
            ["id", "source_cluster", "target_cluster", "node"].map(|key| word(&cause[key]));
        let forth = (source, target) == (self.source, self.target);
        let back = (target, source) == (self.source, self.target);
        id == self.id && node == self.node && (forth || (self.either && back))
    }
}

impl Objections {
    pub fn none(&self) -> bool {
        self.wrong.is_empty() && self.starved.is_empty()
    }

    fn causes(&mut self, case: &Case, verdict: &Verdict) {
        let causes = verdict.list("causes");
        // What no rule knows may show on either initiator, each with a cause of its own.
        let first = if case.unknown() {
            causes
        } else {
            &causes[..causes.len().min(case.causes.len())]
        };
        for expected in &case.causes {
            if !first.iter().any(|cause| expected.is(cause)) {
                self.wrong.push(format!("does not name {expected:?}"));
            }
        }
        for cause in first {
            if !case.causes.iter().any(|expected| expected.is(cause)) {
                self.wrong.push(format!(
                    "blames {} {}→{} {}",
                    word(&cause["id"]),
                    word(&cause["source_cluster"]),
                    word(&cause["target_cluster"]),
                    word(&cause["node"])
                ));
            }
        }
        for check in verdict.list("checks") {
            let explained = first.iter().any(|cause| check["cause"] == cause["summary"]);
            if check["status"] == "fail" && check["severity"] == "gate" && !explained {
                self.wrong.push(format!(
                    "fails {} {}→{} {}, which no expected cause explains",
                    word(&check["id"]),
                    word(&check["source_cluster"]),
                    word(&check["target_cluster"]),
                    word(&check["node"])
                ));
            }
        }
    }

    /// Every link and every path direction must have a result that `accepts` lists for it.
    fn rows(
        &mut self,
        verdict: &Verdict,
        accepts: impl Fn((&str, &str), bool) -> &'static [&'static str],
    ) {
        if verdict.list("links").len() != 6 {
            self.wrong
                .push(format!("judges {} links", verdict.list("links").len()));
        }
        for row in verdict.list("links") {
            let at = (word(&row["source_cluster"]), word(&row["target_cluster"]));
            for (kind, path) in [("result", false), ("path_result", true)] {
                let (got, accepted) = (word(&row[kind]), accepts(at, path));
                if accepted.contains(&got) {
                    continue;
                }
                let text = format!(
                    "{}→{} {kind}: {got}, not {}",
                    at.0,
                    at.1,
                    accepted.join(" or ")
                );
                if accepted == ["READY"] && got == "UNDECIDED" && starved(verdict, at, path) {
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
    found.rows(verdict, |(source, target), _| {
        if source == PI || target == PI {
            &["UNDECIDED"]
        } else {
            &["READY"]
        }
    });
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
    found.rows(verdict, |_, _| &["READY"]);
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
