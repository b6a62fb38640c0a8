//! `aggrik8s verify` on labs that are larger than the default one, and whose witnesses lie.

use std::sync::atomic::Ordering;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::doubled::Doubled;
use tests::lab_rig::{Lab, missing};
use tests::netns::skip;
use tests::verify_rig::{Verdict, verify, word};

/// One of six nodes that loses 5 % is less than 1 % of what its cluster loses: it must not hide, and is named.
#[test]
fn a_lossy_node_among_six_is_named_within_the_budget() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let (cluster, node) = ("picluster", "pi-worker-03");
    let lab = Lab::up(&["--nodes", "18"])?;
    let place = format!("{cluster}/{node}");
    for (source, target) in [(&*place, "*"), ("*", &*place)] {
        let args = ["path", "loss=5%", "--source", source, "--target", target];
        lab.ok("fault", &args)?;
    }
    let before = bytes(&lab)?;
    let verdict = verify(&lab, &["--only", "loss.*"])?;
    let spent = bytes(&lab)? - before;
    ensure!(verdict.exit == Some(1), "{}", verdict.told());
    let top = &verdict.report["causes"][0];
    let named = ["id", "source_cluster", "target_cluster", "node"].map(|key| word(&top[key]));
    ensure!(
        named == ["node.lossy", cluster, "-", node],
        "{named:?}\n{}",
        verdict.told()
    );
    for row in verdict.list("links") {
        let ends = [word(&row["source_cluster"]), word(&row["target_cluster"])];
        ensure!(
            ends.contains(&cluster) || row["path_result"] == "READY",
            "{ends:?} is {}\n{}",
            row["path_result"],
            verdict.told()
        );
    }
    // That much, had it been pooled, would have been fine.
    let pooled = |check: &&Value| {
        check["id"] == "loss.udp"
            && check["status"] == "fail"
            && check["observed"]["rate"].as_f64() < Some(0.01)
    };
    ensure!(
        verdict.list("checks").iter().any(|check| pooled(&check)),
        "{}",
        verdict.told()
    );
    // Background probes cross as well.
    let budget = budget(&verdict)?;
    ensure!(
        spent < budget + budget / 20,
        "{spent} bytes between clusters, {budget} were announced:\n{}",
        verdict.stderr
    );
    Ok(())
}

/// Bytes that the line carried between clusters so far.
fn bytes(lab: &Lab) -> Result<u64> {
    let status = lab.status()?;
    let paths = status["line"]["paths"].as_array().context("paths")?;
    let of_drones = |path: &&Value| {
        ["source", "target"]
            .iter()
            .any(|end| word(&path[*end]).starts_with("drone"))
    };
    let bytes = paths.iter().filter(|path| !of_drones(path));
    Ok(bytes.filter_map(|path| path["bytes"].as_u64()).sum())
}

/// Bytes in all that verify announced, for as many looks as it took.
fn budget(verdict: &Verdict) -> Result<u64> {
    let line = verdict.stderr.lines().find(|line| line.contains(" in all"));
    let text = line.with_context(|| verdict.stderr.clone())?;
    let megabytes = text
        .rsplit_once(" MB in all")
        .and_then(|(rest, _)| rest.rsplit_once(' ')?.1.parse::<f64>().ok())
        .with_context(|| text.to_owned())?;
    let looks = verdict.report["confidence"]["looks"].as_u64().unwrap_or(1);
    Ok((megabytes * 1e6) as u64 * (1 << (looks - 1)))
}

/// Whoever believed it would call its links twice as slow as they are, and READY all the same.
#[test]
fn a_prober_with_doubled_times_is_a_contradiction_and_no_shifted_ready() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let lab = Lab::up(&[])?;
    let (cluster, node) = ("talos-west", "wrk-w-1");
    let doubled = Doubled::before(&lab, node)?;
    let only = ["--only", "latency.*", "--only", "loss.*"];
    let verdict = verify(&lab, &only)?;
    ensure!(
        doubled.doubled.load(Ordering::Relaxed) > 500,
        "the man in the middle saw nothing\n{}",
        verdict.told()
    );
    ensure!(
        verdict.exit == Some(1) && verdict.result() == "NOT_READY",
        "{}",
        verdict.told()
    );
    for cause in verdict.list("causes") {
        ensure!(
            cause["id"] == "evidence.contradiction"
                && cause["source_cluster"] == cluster
                && cause["node"] == node,
            "{}",
            verdict.told()
        );
    }
    for check in verdict.list("checks") {
        let of_node = check["id"] == "evidence.agreement" && check["source_cluster"] == cluster;
        ensure!(
            (check["status"] == "fail") == of_node,
            "{check}\n{}",
            verdict.told()
        );
    }
    drop(doubled);
    let verdict = verify(&lab, &only)?;
    ensure!(verdict.exit == Some(0), "{}", verdict.told());
    Ok(())
}
