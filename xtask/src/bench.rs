//! `cargo xtask bench`: what the probe costs, measured with and without it in one run.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::{need, run};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Passed on to the bench program
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let missing = need::programs(&[need::LAB])?;
    if !missing.is_empty() {
        bail!("{}", missing.join("\n"));
    }
    run::ok(&mut run::cargo(
        "build --release --locked -p aggrik8s -p probe-user -p tests --bins",
    ))?;
    let mut bench = run::as_root(run::target().join("release/bench"))?;
    Ok(ExitCode::from(run::code(bench.args(&args.args))?))
}
