//! `cargo xtask bench`: what the probe costs. Every figure is taken with and without the programs,
//! interleaved in one run, or net of an empty program at the same hook in the same run, because
//! machines differ more than programs do. Prints a table, writes JSON; judges nothing by itself but
//! says which goals were met.

mod cost;
mod first_event;
mod held;
mod ratio;
mod report;
mod steady;
mod verdicts;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use report::Report;
use tests::rig::Rig;

#[derive(Parser)]
#[command(
    name = "bench",
    about = "Measures what the probe costs on this machine"
)]
struct Args {
    /// Measure only these
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Interleaved pairs of the storm ratio
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(3..))]
    pairs: u32,
    /// Windows of the run-time measurement
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(3..))]
    windows: u32,
    /// Connections held at once
    #[arg(long, default_value_t = 100_000)]
    held: u64,
    /// Runs of verify on a healthy lab
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Places at which each kind of fault is made
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=6))]
    places: u32,
    /// Draws the places of faults, instead of going through them in order
    #[arg(long)]
    seed: Option<u64>,
    /// Only faults of this kind, by its full name; may be repeated
    #[arg(long)]
    kind: Vec<String>,
    /// Labs that run verify side by side
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
    labs: u32,
    /// Where the figures go as JSON
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// BPF run time per connection, net of an empty program
    Cost,
    /// Connect storm with and without the agent
    Ratio,
    /// CPU of the agent at 20 000 connections per second, and completeness
    Steady,
    /// Memory with many connections held
    Held,
    /// Load to first counted connection
    FirstEvent,
    /// Verdicts and times of verify on a healthy lab
    Healthy,
    /// The same with three times as many nodes, against the default lab
    SixNodes,
    /// The same under every kind of fault, one after another
    Faults,
}

/// Remote clusters of the rig.
const REMOTES: u8 = 4;

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    if let Some(reason) = tests::probe::missing().or_else(tests::lab_rig::missing) {
        bail!("cannot measure here: {reason}");
    }
    let begun = Instant::now();
    let mut report = Report::new();
    type Measure = fn(&Args, &mut Report) -> Result<()>;
    let parts: [(Part, Measure); 8] = [
        (Part::FirstEvent, first_event::measure),
        (Part::Cost, cost::measure),
        (Part::Ratio, ratio::measure),
        (Part::Steady, steady::measure),
        (Part::Held, held::measure),
        (Part::Healthy, verdicts::healthy),
        (Part::SixNodes, verdicts::six_nodes),
        (Part::Faults, verdicts::faults),
    ];
    for (part, measure) in parts {
        if args.only.is_empty() || args.only.contains(&part) {
            measure(&args, &mut report).with_context(|| format!("measuring {part:?}"))?;
        }
    }
    report.finish(&args.json, begun.elapsed())?;
    Ok(if report.all_met() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

/// A rig fit for hundreds of thousands of connections: without this, those of one arm leave so many
/// sockets in TIME_WAIT that the next arm runs out of ports.
fn rig(label: &str) -> Result<Rig> {
    let rig = Rig::new(label, REMOTES)?;
    for namespace in [&rig.client, &rig.server] {
        namespace.sysctl("net/ipv4/tcp_max_tw_buckets", "1000")?;
    }
    Ok(rig)
}

/// Median of a sample; of an even number of values the lower one.
fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted
        .get((last as f64 * q) as usize)
        .copied()
        .unwrap_or(f64::NAN)
}
