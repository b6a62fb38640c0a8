//! The command line: validate, lab, verify.

mod lab;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    version,
    about = "Tells whether a mesh of Kubernetes clusters really works"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A small mesh on this machine, with real packets and faults
    Lab(lab::LabArgs),
    #[command(hide = true)]
    LabRole {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Lab(args) => lab::run(args),
        Command::LabRole { args } => lab::role(&args),
    }
}
