//! A loss just beyond a tight objective, on real packets: the direction that loses is NOT READY, the other is not.

use anyhow::{Context, Result, ensure};
use mesh::{Link, Mesh};
use tests::lab_rig::{Lab, missing};
use tests::netns::skip;
use tests::verify_rig::{Verdict, verify, word};

const SOURCE: &str = "talos-east";
const TARGET: &str = "talos-west";
/// What the path may lose, and what it loses.
const OBJECTIVE: f64 = 0.002;
const LOSS: &str = "loss=1%";

#[test]
fn one_percent_is_told_from_a_fifth_of_it() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let lab = Lab::up(&[])?;
    declare(&lab)?;
    lab.ok(
        "fault",
        &["path", LOSS, "--source", SOURCE, "--target", TARGET],
    )?;
    let verdict = verify(&lab, &["--only", "loss.udp"])?;
    ensure!(
        verdict.exit == Some(1) && verdict.result() == "NOT_READY",
        "{}",
        verdict.told()
    );
    let lossy = loss(&verdict, SOURCE, TARGET)?;
    ensure!(word(&lossy["status"]) == "fail", "{}", verdict.told());
    // Sized for the objective: no default run would tell.
    let n = lossy["observed"]["n"].as_u64().unwrap_or(0);
    ensure!(n >= 2_430, "{n} datagrams\n{}", verdict.told());
    // What loses nothing keeps the objective, or says what would prove it.
    let healthy = loss(&verdict, TARGET, SOURCE)?;
    let honest = match word(&healthy["status"]) {
        "pass" => true,
        "undecided" => healthy["more_samples_needed"].is_u64(),
        _ => false,
    };
    ensure!(honest, "{healthy}\n{}", verdict.told());
    let top = &verdict.report["causes"][0];
    ensure!(
        word(&top["id"]) == "path.loss"
            && word(&top["source_cluster"]) == SOURCE
            && word(&top["target_cluster"]) == TARGET,
        "{}",
        verdict.told()
    );
    Ok(())
}

fn loss<'v>(verdict: &'v Verdict, source: &str, target: &str) -> Result<&'v serde_json::Value> {
    let of_path = |check: &&serde_json::Value| {
        check["id"] == "loss.udp"
            && check["source_cluster"] == source
            && check["target_cluster"] == target
    };
    let found = verdict.list("checks").iter().find(of_path);
    found.with_context(|| format!("no loss.udp {source}→{target}"))
}

/// Two links, and what they may lose, in the lab's mesh.yaml, which is all of the lab that verify reads.
fn declare(lab: &Lab) -> Result<()> {
    let path = lab.run_dir().join("mesh.yaml");
    let text = std::fs::read_to_string(&path)?;
    let mut mesh = Mesh::parse("mesh.yaml", &text)
        .map_err(|errors| anyhow::anyhow!("{}", errors.render(&text)))?;
    let link = |source: &str, target: &str| Link {
        source: source.to_owned(),
        target: target.to_owned(),
    };
    mesh.links = vec![link(SOURCE, TARGET), link(TARGET, SOURCE)];
    mesh.objectives.loss = OBJECTIVE;
    std::fs::write(&path, mesh.to_yaml()).with_context(|| path.display().to_string())
}
