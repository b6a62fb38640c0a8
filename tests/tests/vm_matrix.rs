//! The kernel matrix: Debian 6.1 and 6.12, without and with `lockdown=confidentiality`, with the kernel's type
//! information and with it masked. In each VM the committed object is loaded and attached, and counts a known
//! number of connects and every reason of failure exactly.
#![expect(
    clippy::print_stderr,
    reason = "a matrix of minutes shows how far it is"
)]

use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use anyhow::{Result, ensure};
use tests::kernel_scenario::CHECKS;
use tests::netns::skip;
use tests::vm::{self, Boot, Btf, Lockdown, Report};

/// Debian's series and what ends the name of the flavour we take.
const KERNELS: [(&str, &str); 2] = [("6.1.", "-cloud-amd64"), ("6.12.", "+deb12-cloud-amd64")];

/// What runs in the VM.
const PROGRAM: &str = "vm_scenario";

/// One per core of the smallest machine that runs this.
const AT_ONCE: usize = 2;

#[test]
fn every_kernel_counts_exactly() -> Result<()> {
    if skip(vm::missing(&[PROGRAM]))? {
        return Ok(());
    }
    let folder = vm::folder();
    let boots = matrix(&folder.join("kernels"))?;
    let initramfs = vm::initramfs(&folder, &[(&vm::program(PROGRAM), "program")])?;
    let reports = run_all(&boots, &initramfs, &folder.join("logs"));
    let mut failures = Vec::new();
    for (boot, report) in boots.iter().zip(reports) {
        if let Err(error) = report.and_then(|report| judge(boot, &report)) {
            failures.push(format!("{}: {error:#}", boot.name()));
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

fn matrix(cache: &Path) -> Result<Vec<Boot>> {
    let mut boots = Vec::new();
    for (series, suffix) in KERNELS {
        let kernel = vm::kernel(cache, series, suffix)?;
        for lockdown in [Lockdown::None, Lockdown::Confidentiality] {
            for btf in [Btf::Present, Btf::Masked] {
                boots.push(Boot {
                    kernel: kernel.clone(),
                    lockdown,
                    btf,
                });
            }
        }
    }
    Ok(boots)
}

fn run_all(boots: &[Boot], initramfs: &Path, logs: &Path) -> Vec<Result<Report>> {
    let queue = Mutex::new(boots.iter().enumerate());
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("no worker panics").next();
                    let Some((index, boot)) = next else { break };
                    let begun = Instant::now();
                    let report = vm::run(boot, initramfs, logs);
                    let took = begun.elapsed().as_secs_f64();
                    eprintln!("{:60} {took:5.1} s", boot.name());
                    done.lock().expect("no worker panics").push((index, report));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no worker panics");
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, report)| report).collect()
}

/// Every check of the scenario must have run, in order, and held.
fn judge(boot: &Boot, report: &Report) -> Result<()> {
    report.is_of(boot)?;
    let expected: Vec<_> = CHECKS
        .iter()
        .map(|check| format!("ok {}", check.name))
        .collect();
    // A refused program brings the verifier's whole log along; the file has it in full.
    let seen: Vec<String> = report
        .results
        .iter()
        .map(|result| result.chars().take(300).collect())
        .collect();
    ensure!(seen == expected, "expected {expected:#?}, saw {seen:#?}");
    ensure!(report.exit == Some(0), "exit code {:?}", report.exit);
    Ok(())
}
