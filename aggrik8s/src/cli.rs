//! Arguments of the whole program, and which command they mean.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use probe_api::reply::printable;

use crate::exit;
use crate::render::style::{ColorChoice, Style};

#[derive(Debug, Parser)]
#[command(
    version,
    about = "Tells whether a mesh of Kubernetes clusters really works",
    after_help = "Exit codes: 0 holds, 1 a gate failed, 2 usage or configuration, 3 undecided or unreachable, 4 stopped part-way, 5 locked, 130/143 signal."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Colour in the answer
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "auto",
        env = "AGGRIK8S_COLOR",
        help_heading = "Output"
    )]
    pub color: ColorChoice,
    /// Plain ASCII instead of symbols
    #[arg(long, global = true, env = "AGGRIK8S_ASCII", help_heading = "Output")]
    pub ascii: bool,
    /// Only the answer: no progress, no budget, no hints on stderr
    #[arg(short, long, global = true, help_heading = "Output")]
    pub quiet: bool,
    /// More log on stderr; twice for debugging
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Output")]
    pub verbose: u8,
    /// Form of the log on stderr
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "text",
        env = "AGGRIK8S_LOG_FORMAT",
        help_heading = "Output"
    )]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say whether the mesh is READY, NOT READY or UNDECIDED, from measurements
    Verify(crate::verify::VerifyArgs),
    /// Check a mesh.yaml: what it describes, or everything that is wrong with it
    Validate(crate::validate::ValidateArgs),
    /// Put the agents into the clusters of a mesh
    Install(crate::install::InstallArgs),
    /// Take the agents out of clusters
    Uninstall(crate::install::UninstallArgs),
    /// The agents' image: into a registry
    Image(crate::image::ImageArgs),
    /// A small mesh on this machine, with real packets and faults
    Lab(crate::lab::LabArgs),
    /// What a check claims, who witnesses it, and what to do when it fails
    Explain(crate::explain::ExplainArgs),
    /// Shell completions, on stdout
    Completions { shell: clap_complete::Shell },
    /// The version of this program
    Version,
    #[command(hide = true)]
    LabRole {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

/// Parses the arguments and runs what they ask for.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() {
                exit::USAGE
            } else {
                exit::HOLDS
            });
        }
    };
    if let Command::LabRole { args } = &cli.command {
        return crate::lab::role(args);
    }
    log(&cli.global);
    match cli.command {
        Command::Verify(args) => crate::verify::run(&args, &cli.global),
        Command::Validate(args) => crate::validate::run(&args, cli.global.quiet),
        Command::Install(args) => crate::install::run(&args),
        Command::Uninstall(args) => crate::install::uninstall(&args),
        Command::Image(args) => crate::image::run(&args),
        Command::Lab(args) => crate::lab::run(args),
        Command::Explain(args) => crate::explain::run(&args, &cli.global),
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Cli::command(),
                "aggrik8s",
                &mut std::io::stdout(),
            );
            ExitCode::from(exit::HOLDS)
        }
        Command::Version => say(&format!("aggrik8s {}\n", env!("CARGO_PKG_VERSION"))),
        Command::LabRole { .. } => unreachable!("handled above"),
    }
}

fn log(global: &Global) {
    use tracing_subscriber::EnvFilter;
    let default = match (global.quiet, global.verbose) {
        (true, _) => "error,kube_client=off,rustls_platform_verifier=off",
        // What they complain of is part of the answer.
        (false, 0) => "warn,kube_client=off,rustls_platform_verifier=off",
        (false, 1) => "info",
        (false, _) => "debug",
    };
    let filter =
        EnvFilter::try_from_env("AGGRIK8S_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let style = Style::for_stream(global.color, global.ascii, &std::io::stderr());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(style.color);
    match global.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// Writes an answer to stdout. A reader that went away is no failure.
pub(crate) fn say(text: &str) -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    ExitCode::from(exit::HOLDS)
}

/// Longest line of an error that is shown whole.
const MOST: usize = 2_000;

/// An error with its chain of causes and a hint, on stderr.
pub(crate) fn complain(error: &dyn std::error::Error, hint: Option<&str>) -> ExitCode {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    // Names in it may come from a file or a cluster.
    let plain = |text: &str| {
        let lines = text.lines().map(|line| printable(line, MOST));
        lines.collect::<Vec<_>>().join("\n")
    };
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "error: {}", plain(&text));
    if let Some(hint) = hint {
        let _ = writeln!(stderr, "hint: {}", plain(hint));
    }
    ExitCode::from(exit::USAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
