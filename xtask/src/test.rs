//! `cargo xtask test`: every test in stages. Cargo runs as the caller; only test binaries that need root get it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::need::{self, MUSL};
use crate::stage::{Outcome, Stages};
use crate::{peers, run};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Adds the long matrices and the database of advisories
    #[arg(long)]
    all: bool,
    /// Only these stages, after setup and build (for example `fmt` or `vm_matrix`)
    stages: Vec<String>,
}

/// What runs before the end-to-end tests, in this order.
const COMMON: [&str; 5] = ["fmt", "clippy", "doc", "unit", "deny"];

/// Tests of what the end-to-end tests share.
const SUPPORT: &str = "support";

/// Compiles what the end-to-end tests in `WITH_PEERS` run against.
const PEERS: &str = "peers";
const WITH_PEERS: [&str; 8] = [
    "chart",
    "discover",
    "image",
    "install",
    "kube",
    "kube_chart",
    "kube_node",
    "verify_contexts",
];

/// End-to-end tests that need no root; every other file of `tests/tests` gets it.
const WITHOUT_ROOT: [&str; 8] = [
    "architecture",
    "chart",
    "image",
    "install",
    "kube",
    "verify_contexts",
    "vm_clock",
    "vm_matrix",
];

/// After so many seconds a test binary counts as hung.
const TEST_LIMIT_S: &str = "900";

const CARGO_DENY_VERSION: &str = "0.20.2";

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let files = files()?;
    let names: Vec<&str> = COMMON
        .into_iter()
        .chain([PEERS, SUPPORT])
        .chain(files.iter().map(String::as_str))
        .collect();
    for stage in &args.stages {
        ensure!(
            names.contains(&stage.as_str()),
            "no stage `{stage}`\nhint: the stages are {}",
            names.join(", ")
        );
    }

    let mut stages = Stages::start();
    stages.run("setup", setup);
    let mut binaries = Vec::new();
    let built = stages.run("build", || build(&mut binaries));
    for name in names {
        let wanted = |wanted: &String| {
            wanted == name || name == PEERS && WITH_PEERS.contains(&wanted.as_str())
        };
        if !args.stages.is_empty() && !args.stages.iter().any(wanted) {
            continue;
        }
        stages.run(name, || match name {
            "fmt" => passes(&mut run::cargo("fmt --all --check")),
            "clippy" => passes(&mut run::cargo(
                "clippy --workspace --all-targets --locked -- -D warnings",
            )),
            "doc" => passes(
                run::cargo("doc --workspace --no-deps --document-private-items --locked")
                    .env("RUSTDOCFLAGS", "-D warnings"),
            ),
            "unit" => passes(&mut run::cargo(
                "test --workspace --exclude tests --locked --no-fail-fast",
            )),
            "deny" => deny(args.all),
            PEERS => peers::run().map(|()| Outcome::Passed),
            _ if !built => Ok(Outcome::Failed("not built".to_owned())),
            name => end_to_end(name, &binaries, args.all),
        });
    }
    Ok(ExitCode::from(u8::from(!stages.finish())))
}

/// The end-to-end tests: one binary per file of `tests/tests`.
fn files() -> Result<Vec<String>> {
    let dir = run::root().join("tests/tests");
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("read `{}`", dir.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let stem = path.file_stem().unwrap_or_default();
            names.push(stem.to_string_lossy().into_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn passes(command: &mut Command) -> Result<Outcome> {
    run::ok(command)?;
    Ok(Outcome::Passed)
}

fn setup() -> Result<Outcome> {
    let mut missing = need::programs(&[need::LAB, need::TEST])?;
    missing.extend(need::rust(&[MUSL], &["clippy", "rustfmt"])?);
    if missing.is_empty() {
        Ok(Outcome::Passed)
    } else {
        Ok(Outcome::Skipped(missing.join("\n")))
    }
}

/// A test binary of the crate `tests`.
struct Binary {
    /// The stage that runs it.
    stage: String,
    file: PathBuf,
}

/// Builds everything the tests start: programs, test binaries, and static programs for other root filesystems.
fn build(binaries: &mut Vec<Binary>) -> Result<Outcome> {
    // One command for all, and its binaries are run as they are: asked for a part of the workspace, cargo resolves
    // features anew and builds half of it once more.
    let mut all = run::cargo("build --workspace --all-targets --locked");
    all.arg("--message-format=json-render-diagnostics");
    eprintln!("$ {}", run::line(&all));
    let output = all.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "the workspace does not build");
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        binaries.extend(test_binary(&serde_json::from_str(line)?, &run::root()));
    }
    let alone = "-p aggrik8s -p probe-user -p tests --bin aggrik8s --bin aggrik8s-probe --bin confined --bin pod --bin vm_scenario";
    passes(
        run::cargo("build --locked --target")
            .arg(MUSL)
            .args(alone.split(' ')),
    )
}

/// What one of cargo's messages says of a test binary of the crate `tests`.
fn test_binary(message: &Value, root: &Path) -> Option<Binary> {
    let file = PathBuf::from(message["executable"].as_str()?);
    let source = Path::new(message["target"]["src_path"].as_str()?);
    let source = source.strip_prefix(root.join("tests")).ok()?;
    let stage = if message["profile"]["test"] != true {
        return None;
    } else if source.starts_with("tests") {
        message["target"]["name"].as_str()?.to_owned()
    } else {
        SUPPORT.to_owned()
    };
    Some(Binary { stage, file })
}

/// Runs a stage's binaries, each with its tests one after another: they share the kernel's state.
fn end_to_end(stage: &str, binaries: &[Binary], all: bool) -> Result<Outcome> {
    let mut words = Vec::new();
    if !WITHOUT_ROOT.contains(&stage) {
        match run::root_prefix() {
            Ok(prefix) => words.extend(prefix),
            Err(error) => return Ok(Outcome::Skipped(format!("{error:#}"))),
        }
    }
    words.extend(["timeout", "--kill-after=10"]);
    if !run::in_ci() {
        // Lets Ctrl-C through, but then only the test binary ends at the limit, not what it started.
        words.push("--foreground");
    }
    words.push(TEST_LIMIT_S);
    let tests = run::root().join("tests");
    let mut ran = 0;
    for binary in binaries.iter().filter(|binary| binary.stage == stage) {
        let mut test = run::program(words[0]);
        test.args(&words[1..]).arg(&binary.file);
        test.args(["--test-threads=1", "--nocapture"]);
        test.current_dir(&tests).env("CARGO_MANIFEST_DIR", &tests);
        // An error's own words, without the stack that it was made on.
        test.env("RUST_LIB_BACKTRACE", "0");
        if all {
            test.env("AGGRIK8S_TEST_ALL", "1");
        }
        run::ok(&mut test)?;
        ran += 1;
    }
    ensure!(ran > 0, "no test binary was built for it");
    Ok(Outcome::Passed)
}

/// Licences, bans and sources need no database from the network; the advisories do, so they belong to `--all`.
fn deny(all: bool) -> Result<Outcome> {
    let tools = run::target().join("tools");
    let deny = tools.join("bin/cargo-deny");
    let installed = run::output(run::program(&deny).arg("--version")).unwrap_or_default();
    if !installed.trim_end().ends_with(CARGO_DENY_VERSION) {
        // Without optimisation: that builds in 70 s on two cores, and it runs for a second.
        let mut install = run::cargo("install --quiet --locked --debug cargo-deny --version");
        install.arg(CARGO_DENY_VERSION).arg("--root").arg(&tools);
        run::ok(&mut install)?;
    }
    let check = "--locked check --hide-inclusion-graph licenses bans sources";
    run::ok(run::program(&deny).args(check.split(' ')))?;
    if all {
        run::ok(run::program(&deny).args(["--locked", "check", "advisories"]))?;
    } else {
        eprintln!("advisories need a database from the network: checked with `--all` only");
    }
    Ok(Outcome::Passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(message: &str) -> Option<String> {
        let message = serde_json::from_str(message).expect("JSON");
        Some(test_binary(&message, Path::new("/repo"))?.stage)
    }

    #[test]
    fn test_binaries_are_told_from_programs_and_from_other_crates() {
        let artifact = |source: &str, test: bool| {
            format!(
                r#"{{"target":{{"name":"lab","src_path":"/repo/{source}"}},"profile":{{"test":{test}}},"executable":"/x"}}"#
            )
        };
        assert_eq!(
            stage(&artifact("tests/tests/lab.rs", true)).as_deref(),
            Some("lab")
        );
        assert_eq!(
            stage(&artifact("tests/src/lib.rs", true)).as_deref(),
            Some(SUPPORT)
        );
        assert_eq!(stage(&artifact("tests/src/bin/storm.rs", false)), None);
        assert_eq!(stage(&artifact("lab/src/lib.rs", true)), None);
        assert_eq!(stage(r#"{"reason":"build-finished","success":true}"#), None);
    }
}
