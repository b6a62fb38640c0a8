//! Global services on real packets: several clusters' backends behind one address, translated either way, and misled.

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::lab_rig::{Lab, missing};
use tests::netns::skip;
use tests::verify_rig::{Verdict, verify, word};

/// `board` is for all, `store` stays at home, `ndvi` goes abroad. `picluster` has backends of `ndvi` only.
const MESH: &str = include_str!("data/global-services.yaml");
/// Whoever is asked, half of a shorter window's probes would not decide sooner.
const OPTIONS: [&str; 4] = ["--only", "service.*", "--window", "6s"];

/// What is broken, the cause that must be named alone, and rows of `service.affinity` that must not pass.
struct Misled {
    fault: &'static [&'static str],
    cause: &'static str,
    astray: &'static [&'static str],
}

const MISLED: [Misled; 4] = [
    Misled {
        fault: &[
            "service-redirect",
            "--service",
            "board",
            "--at",
            "talos-west",
            "--to",
            "talos-west",
        ],
        cause: "service.local_only talos-west→talos-east",
        astray: &["board talos-west→talos-east fail"],
    },
    Misled {
        fault: &[
            "service-redirect",
            "--service",
            "store",
            "--at",
            "talos-west",
            "--to",
            "talos-east",
        ],
        cause: "service.affinity_ignored talos-west→talos-east",
        astray: &[
            "store talos-west→talos-east undecided",
            "store talos-west→talos-west fail",
        ],
    },
    Misled {
        fault: &[
            "service-redirect",
            "--service",
            "ndvi",
            "--at",
            "picluster",
            "--to",
            "picluster",
        ],
        cause: "service.local_only picluster→talos-west",
        astray: &[
            "ndvi picluster→picluster undecided",
            "ndvi picluster→talos-west fail",
        ],
    },
    Misled {
        fault: &[
            "backend-down",
            "--service",
            "board",
            "--cluster",
            "talos-west",
        ],
        cause: "service.backend_missing -→talos-west",
        astray: &[
            "board picluster→talos-west fail",
            "board talos-east→talos-west fail",
            "board talos-west→talos-west fail",
        ],
    },
];

#[test]
fn every_cluster_is_answered_by_the_backends_that_are_meant_for_it() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let file = tempfile::Builder::new().suffix(".yaml").tempfile()?;
    std::fs::write(file.path(), MESH)?;
    let path = file.path().display().to_string();
    // Each translation has its own way of being misled; half of the faults tell for each.
    for (services, faults) in [("connect", &MISLED[..2]), ("dnat", &MISLED[1..])] {
        let lab = Lab::up(&["-f", &path, "--services", services])?;
        let healthy = verify(&lab, &OPTIONS)?;
        ensure!(healthy.exit == Some(0), "{services}: {}", healthy.told());
        ensure!(rows(&healthy, |_| true).len() == 18, "{}", healthy.told());
        known_answers(&healthy)?;
        for misled in faults {
            lab.ok("fault", misled.fault)?;
            let verdict = verify(&lab, &OPTIONS)?;
            lab.ok("fault", &["clear", "--all"])?;
            let told = || format!("{services}, {}: {}", misled.fault.join(" "), verdict.told());
            ensure!(verdict.exit == Some(1), "{}", told());
            let causes: Vec<String> = verdict.list("causes").iter().map(named).collect();
            ensure!(causes == [misled.cause], "{causes:?}, {}", told());
            let astray = rows(&verdict, |status| status != "pass");
            ensure!(astray == misled.astray, "{astray:?}, {}", told());
        }
        // Mended: what was redirected is translated as before.
        let mended = verify(&lab, &OPTIONS)?;
        ensure!(mended.exit == Some(0), "{services}: {}", mended.told());
    }
    Ok(())
}

fn named(cause: &Value) -> String {
    format!(
        "{} {}→{}",
        word(&cause["id"]),
        word(&cause["source_cluster"]),
        word(&cause["target_cluster"])
    )
}

/// Rows of `service.affinity` with such a status, as `service source→target status`, sorted.
fn rows(verdict: &Verdict, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut rows: Vec<String> = verdict
        .list("checks")
        .iter()
        .filter(|check| check["id"] == "service.affinity" && wanted(word(&check["status"])))
        .map(|check| {
            format!(
                "{} {}→{} {}",
                word(&check["service"]),
                word(&check["source_cluster"]),
                word(&check["target_cluster"]),
                word(&check["status"])
            )
        })
        .collect();
    rows.sort();
    rows
}

/// Every answer says who gave it, or a kernel does: TCP ones say nothing.
fn known_answers(verdict: &Verdict) -> Result<()> {
    for check in verdict.list("checks") {
        if check["id"] == "service.affinity" {
            let by = check["observed"]["answered_by"].as_object();
            let known: u64 = by
                .into_iter()
                .flat_map(|by| by.values())
                .filter_map(Value::as_u64)
                .sum();
            let unknown = check["observed"]["unresolved"].as_u64().unwrap_or(0);
            ensure!(known >= 400 && 50 * unknown <= known, "{check}");
        }
    }
    Ok(())
}
