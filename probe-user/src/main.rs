//! The agent: loads the kernel programs, reads their maps, probes its peers, answers for both.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use probe_user::cli::{Cli, Command};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&cli.log))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let result = match &cli.command {
        Command::Run(args) => probe_user::run::run(args),
        Command::Load(args) => Ok(probe_user::load::main(args)),
        Command::Hold(args) => Ok(probe_user::hold::main(args)),
        Command::Ask(args) => Ok(probe_user::hold::ask_main(args)),
        Command::Unload(args) => Ok(probe_user::load::unload_main(args)),
        Command::SeccompProfile(args) => probe_user::seccomp::main(args),
    };
    result.unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "aggrik8s-probe: {error:#}");
        ExitCode::from(2)
    })
}
