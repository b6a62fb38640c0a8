//! Simulates links near their objective, judges each as verify does, and draws how often it was wrong.
//!
//! `cargo xtask simulate [LINKS_PER_POINT]` runs it and writes docs/simulation.svg.

mod draw;
#[path = "../../tests/simulate/mod.rs"]
mod simulate;
#[path = "../../tests/world/mod.rs"]
mod world;

use std::process::ExitCode;

use draw::{Curve, Point};
use simulate::growth::{self, Growth, KEPT};
use simulate::{ALPHA, Loss, P0, SHORT_BURST, links};

/// True loss, in objectives.
const TIMES: &[f64] = &[
    0.1, 0.25, 0.5, 0.65, 0.8, 1.0, 1.2, 1.35, 1.5, 1.75, 2.0, 2.5, 3.0, 5.0,
];
/// What READY reckons with: `checks::burst`.
const EXPECTED_BURST: f64 = 1.4;
const LONG_BURST: f64 = 5.0;

/// A kind of loss and the margin around the objective outside of which α is promised.
struct Case {
    name: &'static str,
    loss: Loss,
    margin: f64,
}

const CASES: &[Case] = &[
    Case {
        name: "independent",
        loss: Loss::Independent,
        margin: 1.0,
    },
    Case {
        name: "bursts of 1.4 probes (35 ms)",
        loss: Loss::Bursts(EXPECTED_BURST),
        margin: 1.0,
    },
    Case {
        name: "bursts of 2 probes (50 ms)",
        loss: Loss::Bursts(SHORT_BURST),
        margin: 1.35,
    },
    Case {
        name: "bursts of 5 probes (125 ms)",
        loss: Loss::Bursts(LONG_BURST),
        margin: 3.0,
    },
];

#[expect(clippy::print_stdout, reason = "a program whose answer is its output")]
fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let count: u64 = args.next().and_then(|a| a.parse().ok()).unwrap_or(5_000);
    let path = args.next();
    let (mut total, mut wrong) = (0, 0);
    let mut curves = Vec::new();
    println!("| loss | true share / objective | READY | NOT READY | undecided | looks | probes |");
    println!("|---|---|---|---|---|---|---|");
    for (at, case) in CASES.iter().enumerate() {
        let mut points = Vec::new();
        for times in TIMES {
            let seed = 1_000 * (at as u64 + 1) + (100.0 * times) as u64;
            let sum = links(case.loss, P0 * times, count, seed);
            total += count;
            let (ready, not_ready) = (sum.share(sum.ready), sum.share(sum.not_ready));
            let error = 3.0 * (ALPHA * (1.0 - ALPHA) / count as f64).sqrt();
            let broken = (*times >= case.margin && *times >= 1.0 && ready > ALPHA + error)
                || (*times <= 1.0 && not_ready > ALPHA + error);
            wrong += u32::from(broken);
            println!(
                "| {} | {times} | {:.2} % | {:.2} % | {:.1} % | {:.2} | {:.0} |{}",
                case.name,
                100.0 * ready,
                100.0 * not_ready,
                100.0 * (1.0 - ready - not_ready),
                sum.share(sum.looks),
                sum.share(sum.probes),
                if broken { " MORE THAN STATED" } else { "" }
            );
            points.push(Point {
                times: *times,
                ready,
                not_ready,
            });
        }
        curves.push(Curve {
            name: case.name.to_owned(),
            points,
        });
    }
    println!("{total} links");
    wrong += grown(count.div_ceil(5));
    if let Some(path) = path
        && let Err(error) = std::fs::write(&path, draw::svg(&curves, ALPHA))
    {
        println!("cannot write `{path}`: {error}");
        return ExitCode::FAILURE;
    }
    if wrong > 0 {
        println!("{wrong} points are wrong more often than stated");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Against a baseline: what, by how much, and the samples that were kept.
const GROWN: &[(&str, Growth, f64, u64)] = &[
    ("nothing", Growth::Path, 1.0, KEPT),
    ("nothing", Growth::Path, 1.0, KEPT / 10),
    ("longer path", Growth::Path, 1.05, KEPT),
    ("longer path", Growth::Path, 1.05, KEPT / 10),
    ("longer path", Growth::Path, 1.1, KEPT),
    ("longer queue", Growth::Queue, 1.05, KEPT),
    ("longer queue", Growth::Queue, 1.05, KEPT / 10),
    ("longer queue", Growth::Queue, 1.1, KEPT),
    ("longer queue", Growth::Queue, 1.1, KEPT / 10),
];
/// What may grow without a finding.
const ALLOWED: f64 = 1.05;

/// Prints how links are judged that grew, and tells how many points are wrong more often than stated.
#[expect(clippy::print_stdout, reason = "a program whose answer is its output")]
fn grown(count: u64) -> u32 {
    println!("\n| grew | p99 | baseline | pass | fail | undecided | looks | probes |");
    println!("|---|---|---|---|---|---|---|---|");
    let error = 3.0 * (ALPHA * (1.0 - ALPHA) / count as f64).sqrt();
    let mut wrong = 0;
    for (at, (name, growth, times, kept)) in GROWN.iter().enumerate() {
        let sum = growth::links(*growth, *times, *kept, count, 9_000 + at as u64);
        let (pass, fail) = (sum.share(sum.ready), sum.share(sum.not_ready));
        let broken = (*times >= ALLOWED && pass > ALPHA + error)
            || (*times <= ALLOWED && fail > ALPHA + error);
        wrong += u32::from(broken);
        println!(
            "| {name} | × {times} | {kept} | {:.2} % | {:.2} % | {:.1} % | {:.2} | {:.0} |{}",
            100.0 * pass,
            100.0 * fail,
            100.0 * (1.0 - pass - fail),
            sum.share(sum.looks),
            sum.share(sum.probes),
            if broken { " MORE THAN STATED" } else { "" }
        );
    }
    println!("{count} links each");
    wrong
}
