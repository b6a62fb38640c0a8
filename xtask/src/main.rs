//! Developer verbs: `cargo xtask lab`, `cargo xtask test` and their kin. One file per verb.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool: its output is its purpose"
)]

mod bench;
mod dist;
mod ebpf;
mod go;
mod image;
mod lab;
mod need;
mod peers;
mod run;
mod sbom;
mod simulate;
mod stage;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer verbs of aggrik8s")]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build, bring the lab up, verify it, print the verdict, take the lab down
    Lab(lab::Args),
    /// Run every test and print the time of each stage
    Test(test::Args),
    /// Static binaries for `x86_64` and `aarch64`, and the image of both, in `target/dist`
    Dist,
    /// The image alone, from static programs that are built already
    Image(dist::ImageArgs),
    /// Build the kernel programs into `probe-user/prebuilt`
    Ebpf {
        /// Only compare with what is committed
        #[arg(long)]
        check: bool,
    },
    /// Compile the programs that tests run against (Kubernetes, etcd, Helm) into `target/peers`
    Peers,
    /// Measure what the probe costs, with and without it in one run
    Bench(bench::Args),
    /// Judge simulated links and draw how often the verdict is wrong into `docs/simulation.svg`
    Simulate(simulate::Args),
}

fn main() -> ExitCode {
    let done = match Args::parse().verb {
        Verb::Lab(args) => lab::run(&args),
        Verb::Test(args) => test::run(&args),
        Verb::Dist => dist::run(),
        Verb::Image(args) => dist::image(&args),
        Verb::Ebpf { check } => ebpf::run(check).map(|()| ExitCode::SUCCESS),
        Verb::Peers => peers::run().map(|()| ExitCode::SUCCESS),
        Verb::Bench(args) => bench::run(&args),
        Verb::Simulate(args) => simulate::run(&args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}
