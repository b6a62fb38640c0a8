//! The kernel programs on this machine's kernel: every check of the scenario that the VM matrix runs on
//! others. Each runs in a process of its own, since it changes its namespaces and its cgroup.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use tests::cgroup::Cgroup;
use tests::netns::skip;
use tests::probe;

/// Runs checks by name and requires an `ok` of each.
fn holds(names: &[&str]) -> Result<()> {
    if skip(probe::missing())? {
        return Ok(());
    }
    let cgroup = Cgroup::create("kernel")?;
    let output = Command::new(env!("CARGO_BIN_EXE_vm_scenario"))
        .arg(cgroup.path())
        .args(names)
        .output()
        .context("run the scenario")?;
    let text = String::from_utf8_lossy(&output.stdout);
    for name in names {
        let wanted = format!("RESULT ok {name}");
        ensure!(
            text.lines().any(|line| line == wanted),
            "`{name}` does not hold:\n{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    ensure!(output.status.success(), "exit {}:\n{text}", output.status);
    Ok(())
}

#[test]
fn connections_bytes_and_resets_are_exact() -> Result<()> {
    holds(&["connections_and_bytes", "open_connections", "resets"])
}

#[test]
fn probes_are_told_from_traffic_and_recorded() -> Result<()> {
    holds(&["probe_records", "syn_only"])
}

#[test]
fn every_reason_of_failure_is_counted() -> Result<()> {
    holds(&["failed_connects"])
}

#[test]
fn addresses_and_ports_name_remote_and_class() -> Result<()> {
    holds(&["prefixes_change_at_run_time", "service_classes"])
}

#[test]
fn limits_lose_nothing_uncounted() -> Result<()> {
    holds(&[
        "series_beyond_the_cap",
        "states_beyond_the_table",
        "ring_overflow",
        "reader_dies",
        "event_budget",
    ])
}

#[test]
fn another_owners_flags_and_old_sockets_are_noticed() -> Result<()> {
    holds(&["flags_overwritten", "old_sockets"])
}

#[test]
fn what_egress_misses_while_it_rests_is_counted() -> Result<()> {
    holds(&[
        "bytes_stay_fresh",
        "old_sockets_while_egress_rests",
        "flags_lost_while_egress_rests",
    ])
}

#[test]
fn loading_keeps_replaces_and_refuses() -> Result<()> {
    holds(&["load_again", "refusals", "self_check"])
}

#[test]
fn held_programs_end_with_their_holder() -> Result<()> {
    holds(&["held_programs"])
}

/// A check that was added and belongs to no test above would run in the VMs only.
#[test]
fn every_check_is_in_a_test() {
    let source = include_str!("kernel_probe.rs");
    for check in tests::kernel_scenario::CHECKS {
        let quoted = format!("\"{}\"", check.name);
        assert!(source.contains(&quoted), "{} is in no test", check.name);
    }
}
