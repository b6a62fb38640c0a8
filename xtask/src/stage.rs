//! Stages of a long verb: each is announced, timed and listed in a table at the end.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::run;

/// How a stage ended.
pub(crate) enum Outcome {
    Passed,
    /// Not run, and why. Never happens in CI.
    Skipped(String),
    Failed(String),
}

/// The stages so far.
pub(crate) struct Stages {
    started: Instant,
    done: Vec<(String, Duration, Outcome)>,
}

impl Stages {
    pub(crate) fn start() -> Self {
        Self {
            started: Instant::now(),
            done: Vec::new(),
        }
    }

    /// Runs one stage; true if it passed.
    pub(crate) fn run(&mut self, name: &str, work: impl FnOnce() -> Result<Outcome>) -> bool {
        eprintln!("\n=== {name}");
        let begun = Instant::now();
        let outcome = match work() {
            Ok(Outcome::Skipped(why)) if run::in_ci() => {
                Outcome::Failed(format!("skipped, which CI=true forbids: {why}"))
            }
            Ok(outcome) => outcome,
            Err(error) => Outcome::Failed(format!("{error:#}")),
        };
        if let Outcome::Failed(why) = &outcome {
            eprintln!("error: stage `{name}`: {why}");
        }
        let passed = matches!(outcome, Outcome::Passed);
        self.done.push((name.to_owned(), begun.elapsed(), outcome));
        passed
    }

    /// Prints the table; true if no stage failed.
    pub(crate) fn finish(self) -> bool {
        let width = self.done.iter().map(|(name, ..)| name.len()).max();
        let width = width.unwrap_or_default().max("stage".len());
        println!("\n{:width$}  {:>8}  result", "stage", "seconds");
        for (name, took, outcome) in &self.done {
            let result = match outcome {
                Outcome::Passed => "ok".to_owned(),
                Outcome::Skipped(why) => format!("skipped: {why}"),
                Outcome::Failed(why) => format!("FAILED: {}", why.lines().next().unwrap_or("")),
            };
            println!("{name:width$}  {:>8.1}  {result}", took.as_secs_f64());
        }
        let total = self.started.elapsed().as_secs_f64();
        println!("{:width$}  {total:>8.1}", "total");
        !self
            .done
            .iter()
            .any(|(_, _, outcome)| matches!(outcome, Outcome::Failed(_)))
    }
}
