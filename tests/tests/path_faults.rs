//! Faults that only measurements of the paths find, on real packets.

use anyhow::{Result, ensure};
use tests::lab_rig::{Lab, missing};
use tests::netns::skip;
use tests::path_faults::{floors, slow_port, slow_port_objections};
use tests::verify_rig::verify;

/// Both in one test: two labs at a time would starve each other.
#[test]
fn floors_are_found_to_the_byte_and_a_slow_port_is_named() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    for seed in [20_261_121, 7] {
        // What the kernels have learnt of a path goes with the lab.
        let lab = Lab::up(&[])?;
        let (verdict, found) = floors(&lab, seed)?;
        ensure!(
            found.wrong.is_empty(),
            "seed {seed}: {}\n{}",
            found.wrong.join("\n"),
            verdict.told()
        );
    }
    let lab = Lab::up(&[])?;
    lab.declare(&[OBJECTIVE])?;
    let only = ["--only", "throughput.*"];
    let healthy = verify(&lab, &only)?;
    ensure!(healthy.exit == Some(0), "{}", healthy.told());
    slow_port(&lab, "picluster/pi-worker-01", HALF)?;
    let slow = verify(&lab, &only)?;
    let found = slow_port_objections(&slow, "picluster", "pi-worker-01");
    ensure!(
        found.wrong.is_empty(),
        "{}\n{}",
        found.wrong.join("\n"),
        slow.told()
    );
    Ok(())
}

/// Far below what the lab carries on a busy machine, and a port that has half of it.
const OBJECTIVE: &str = "throughput: 20Mbit";
const HALF: &str = "10mbit";
