//! `cargo xtask test`: every test in stages. Cargo runs as the caller; only test binaries that need root get it.

use std::fs;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

use crate::need::{self, MUSL};
use crate::run;
use crate::stage::{Outcome, Stages};

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

/// End-to-end tests that need no root; every other file of `tests/tests` gets it.
const WITHOUT_ROOT: [&str; 2] = ["architecture", "vm_matrix"];

/// After so many seconds a test binary counts as hung.
const TEST_LIMIT_S: &str = "900";

const CARGO_DENY_VERSION: &str = "0.20.2";

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let files = files()?;
    let names: Vec<&str> = COMMON
        .into_iter()
        .chain([SUPPORT])
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
    let built = stages.run("build", build);
    for name in names {
        if !args.stages.is_empty() && !args.stages.iter().any(|wanted| wanted == name) {
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
            _ if !built => Ok(Outcome::Failed("not built".to_owned())),
            SUPPORT => with_root("--package tests --lib --bins", args.all),
            name => {
                let selection = format!("--workspace --test {name}");
                if WITHOUT_ROOT.contains(&name) {
                    end_to_end(&selection, &[], args.all)
                } else {
                    with_root(&selection, args.all)
                }
            }
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

/// Everything the tests start: programs, test binaries, and static programs for other root filesystems.
fn build() -> Result<Outcome> {
    // As one command, so that features are resolved once and no later stage builds anything again.
    run::ok(&mut run::cargo("build --workspace --all-targets --locked"))?;
    let alone = "-p probe-user -p tests --bin aggrik8s-probe --bin confined --bin vm_scenario";
    passes(
        run::cargo("build --locked --target")
            .arg(MUSL)
            .args(alone.split(' ')),
    )
}

/// Runs end-to-end tests as root: cargo as the caller, the test binary through `sudo`.
fn with_root(selection: &str, all: bool) -> Result<Outcome> {
    match run::root_prefix() {
        Ok(prefix) => end_to_end(selection, &prefix, all),
        Err(error) => Ok(Outcome::Skipped(format!("{error:#}"))),
    }
}

/// Runs the selected tests one after another: they share the kernel's state.
fn end_to_end(selection: &str, prefix: &[&str], all: bool) -> Result<Outcome> {
    let mut runner = prefix.to_vec();
    runner.extend(["timeout", "--kill-after=10"]);
    if !run::in_ci() {
        // Lets Ctrl-C through, but then only the test binary ends at the limit, not what it started.
        runner.push("--foreground");
    }
    runner.push(TEST_LIMIT_S);
    let mut cargo = run::cargo("test --locked --config");
    cargo.arg(format!("target.'cfg(all())'.runner = {runner:?}"));
    cargo.args(selection.split(' '));
    cargo.args(["--", "--test-threads=1", "--nocapture"]);
    if all {
        cargo.env("AGGRIK8S_TEST_ALL", "1");
    }
    passes(&mut cargo)
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
