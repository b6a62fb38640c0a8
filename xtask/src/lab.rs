//! `cargo xtask lab`: from a fresh clone to a verdict about a mesh on this machine.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::{need, run};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Name of the lab; labs of different names coexist
    #[arg(long, default_value = "default")]
    name: String,
}

/// Exit code of `aggrik8s lab up` for a lab that is there but did not get ready in time.
const NOT_READY: u8 = 3;

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let missing = need::programs(&[need::LAB])?;
    if !missing.is_empty() {
        bail!("{}", missing.join("\n"));
    }
    run::root_prefix()?;
    run::ok(&mut run::cargo(
        "build --locked --profile lab -p aggrik8s -p probe-user",
    ))?;
    // The first signal must not end this process before the lab is down; it does reach the child of the moment.
    ctrlc::set_handler(|| {}).context("catch signals")?;
    let aggrik8s = run::target().join("lab/aggrik8s");
    let up = run::code(run::as_root(&aggrik8s)?.args(["lab", "up", "--name", &args.name]))?;
    let verified = match up {
        0 => run::code(run::as_root(&aggrik8s)?.args(["verify", "--lab", &args.name])),
        NOT_READY => Ok(up),
        // Nothing was built, or it was removed; a lab of this name that exists all the same is somebody's.
        _ => return Ok(ExitCode::from(up)),
    };
    run::ok(run::as_root(&aggrik8s)?.args(["lab", "down", "--name", &args.name]))?;
    Ok(ExitCode::from(verified?))
}
