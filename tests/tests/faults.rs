//! Faults on real packets, and the verdict of each: cluster, direction and node named, the rest still READY.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use tests::faults::{SIX_KINDS, every_case, expect, six, unreachable};
use tests::lab_rig::{Lab, missing};
use tests::netns::skip;
use tests::verify_rig::{start, word};

#[test]
fn six_faults_are_named_and_mended() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let lab = Lab::up(&[])?;
    for fault in &six() {
        lab.break_by(fault)?;
        expect(&lab, &fault.name(), |verdict| fault.objections(verdict))?;
        lab.ok("fault", &["clear", "--all"])?;
    }
    let silent = ["pi-master-01", "pi-worker-01"];
    for node in silent {
        lab.ok("fault", &["agent-killed", node])?;
    }
    expect(&lab, "1 of 3 clusters unreachable", |verdict| {
        unreachable(verdict, &silent)
    })?;
    lab.ok("fault", &["clear", "--all"])?;

    interrupted(&lab)?;

    // In the middle of a run.
    let mut running = start(&lab, &[])?;
    probing(&lab)?;
    running.still_runs()?;
    lab.ok("fault", &["agent-killed", "wrk-w-1"])?;
    let verdict = running.finish()?;
    ensure!(
        verdict.exit == Some(3) && verdict.result() == "UNDECIDED",
        "{}",
        verdict.told()
    );
    let reasons: Vec<&str> = verdict
        .list("unreachable")
        .iter()
        .filter(|agent| agent["node"] == "wrk-w-1" && agent["cluster"] == "talos-west")
        .map(|agent| word(&agent["reason"]))
        .collect();
    ensure!(
        reasons.len() == 2 && reasons.iter().all(|reason| reason.contains("agent `unix:")),
        "{reasons:?}\n{}",
        verdict.told()
    );
    let top = &verdict.report["causes"][0];
    ensure!(
        top["id"] == "agent.unreachable" && top["node"] == "wrk-w-1",
        "{}",
        verdict.told()
    );

    lab.ok("fault", &["clear", "--all"])?;
    expect(&lab, "healthy", tests::faults::healthy)?;
    Ok(())
}

/// Some of all the kinds and places that `cargo xtask bench --only faults` goes through, drawn by a seed.
#[test]
fn some_of_the_other_faults_are_named() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let seed = match std::env::var("AGGRIK8S_FAULT_SEED") {
        Ok(text) => text.parse().context("AGGRIK8S_FAULT_SEED")?,
        Err(_) => DEFAULT_SEED,
    };
    let mut others: Vec<_> = every_case(6, Some(seed))
        .into_iter()
        .filter(|case| !SIX_KINDS.contains(&case.kind) && case.lab.is_empty() && !case.remembered)
        .collect();
    others.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let lab = Lab::up(&[])?;
    for case in others.iter().take(DRAWN) {
        lab.break_by(case)?;
        expect(&lab, &case.name(), |verdict| case.objections(verdict))
            .with_context(|| format!("seed {seed}"))?;
        lab.mend(case)?;
    }
    Ok(())
}

const DEFAULT_SEED: u64 = 4;
const DRAWN: usize = 3;

/// Ctrl-C: exit code 130, no verdict, and the agents stop probing at once.
fn interrupted(lab: &Lab) -> Result<()> {
    let running = start(lab, &["--window", "60s"])?;
    probing(lab)?;
    kill(Pid::from_raw(running.pid().try_into()?), Signal::SIGINT)?;
    let (code, stdout, stderr) = running.signalled()?;
    ensure!(code == Some(130), "{code:?}\n{stderr}");
    ensure!(stdout.is_empty(), "{stdout}");
    ensure!(stderr.contains("before anything was decided"), "{stderr}");
    // What remains is background probing, the drones and a datagram now and then.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let rate = packets_in_a_second(lab)?;
        if rate < QUIET {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{rate} packets a second 20 s after verify was interrupted"
        );
    }
}

/// Packets per second from one cluster to another: hardly any without verify, hundreds with it.
const QUIET: u64 = 60;
const BUSY: u64 = 150;

fn packets_in_a_second(lab: &Lab) -> Result<u64> {
    let (before, begun) = (lab.crossed("talos-west", "talos-east")?.0, Instant::now());
    std::thread::sleep(Duration::from_secs(1));
    let packets = lab.crossed("talos-west", "talos-east")?.0 - before;
    Ok((packets as f64 / begun.elapsed().as_secs_f64()) as u64)
}

/// Waits until the probes of verify are on their way.
fn probing(lab: &Lab) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let rate = packets_in_a_second(lab).context("the line counts packets")?;
        if rate > BUSY {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "verify does not probe: {rate} packets a second"
        );
    }
}
