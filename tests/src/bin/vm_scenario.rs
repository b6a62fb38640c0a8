//! Runs the kernel scenario and prints one line per check: `RESULT ok <name>` or `RESULT fail <name>: <why>`.
//! `vm_scenario [CGROUP [CHECK…]]`; by default every check, below the mount of cgroup v2. Exit code 1 if one fails.
#![allow(clippy::print_stdout, reason = "the lines are what it is for")]

use std::path::PathBuf;
use std::process::ExitCode;

use tests::cgroup;
use tests::kernel_scenario::{self, CHECKS, Place};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let parent = match args.next().map(PathBuf::from) {
        Some(path) => path,
        None => match cgroup::mount() {
            Ok(path) => path,
            Err(error) => {
                println!("RESULT fail cgroup: {error:#}");
                return ExitCode::FAILURE;
            }
        },
    };
    let wanted: Vec<String> = args.collect();
    let place = Place::new(&parent);
    let mut code = ExitCode::SUCCESS;
    for name in &wanted {
        if !CHECKS.iter().any(|check| check.name == name) {
            println!("RESULT fail {name}: no such check");
            code = ExitCode::FAILURE;
        }
    }
    for check in CHECKS {
        if !wanted.is_empty() && !wanted.iter().any(|name| name == check.name) {
            continue;
        }
        match kernel_scenario::run(check, &place) {
            Ok(()) => println!("RESULT ok {}", check.name),
            Err(error) => {
                let text = format!("{error:#}").replace('\n', " ");
                println!("RESULT fail {}: {text}", check.name);
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}
