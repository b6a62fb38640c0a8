//! `cargo xtask simulate`: how often the verdict is wrong, over simulated links.

use std::process::ExitCode;

use anyhow::Result;

use crate::run;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Links per kind of loss and true share
    #[arg(default_value_t = 5_000)]
    links: u64,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut command = run::cargo("run --locked -p verify --example simulate --");
    command
        .arg(args.links.to_string())
        .arg("docs/simulation.svg");
    Ok(ExitCode::from(run::code(&mut command)?))
}
