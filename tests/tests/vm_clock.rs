//! The wall clock of a machine is stepped by an hour while verify runs, on a kernel of its own: agents, kernel
//! probes and verify are the shipped programs. The step is reported, and no figure is shifted by it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::netns::skip;
use tests::vm::{self, Boot, Btf, Lockdown};

const PROGRAMS: [&str; 2] = ["aggrik8s", "aggrik8s-probe"];
const STEP_SECONDS: f64 = 3600.0;

/// Two clusters of one node each. All of their addresses are the VM's own.
const MESH: &str = "\
mesh: clock
clusters:
  - name: east
    id: 1
    node_networks: [10.78.0.0/26]
    pod_cidrs: [10.77.0.0/26]
    nodes: [{name: e-1, addresses: [10.78.0.1], agent_pod: [10.77.0.1], agent: 'unix:/run/e/api.sock'}]
  - name: west
    id: 2
    node_networks: [10.78.0.64/26]
    pod_cidrs: [10.77.0.64/26]
    nodes: [{name: w-1, addresses: [10.78.0.65], agent_pod: [10.77.0.65], agent: 'unix:/run/w/api.sock'}]
";

/// What the VM does. The clock is stepped while probes are under way.
const PROGRAM: &str = r#"#!/bin/sh
ip addr add 10.77.0.1/24 dev lo
ip addr add 10.78.0.1/24 dev lo
echo 'agent:x:65532:65532::/:/bin/sh' > /etc/passwd
chmod 755 /run
start() { # directory, cluster, node, pod address
    mkdir -p /run/$1 /sys/fs/cgroup/$1
    chown 65532:65532 /run/$1
    common="--mesh /mesh.yaml --cluster $2 --node $3 --pin-dir /sys/fs/bpf/$1"
    /aggrik8s-probe load $common --cgroup /sys/fs/cgroup/$1 --gid 65532 >/run/$1/load 2>&1 || cat /run/$1/load
    chown 0:65532 /sys/fs/bpf/$1
    (
        sh -c 'echo $PPID' > /sys/fs/cgroup/$1/cgroup.procs
        exec su agent -c "exec /aggrik8s-probe run $common --plane pod --api unix:/run/$1/api.sock \
            --metrics $4:9100 --respond $4 --background-interval off" >/run/$1/log 2>&1
    ) &
    for i in $(seq 300); do [ -S /run/$1/api.sock ] && return; usleep 100000; done
    cat /run/$1/log
}
chmod 755 /sys/fs/bpf
start e east e-1 10.77.0.1
start w west w-1 10.77.0.65
/aggrik8s verify -f /mesh.yaml --only 'config.*' --only 'latency.*' --timeout 5m -q -o json >/run/report 2>/run/said &
verify=$!
sleep 6
date -s "@$(($(date +%s) + 3600))" >/dev/null
wait $verify
echo "RESULT exit $?"
fold -w 2000 /run/report | sed 's/^/RESULT json /'
sed 's/^/RESULT said /' /run/said
"#;

#[test]
fn a_step_of_the_wall_clock_shifts_no_figure() -> Result<()> {
    if skip(vm::missing(&PROGRAMS))? {
        return Ok(());
    }
    let folder = vm::folder();
    let work = folder.join("clock");
    fs::create_dir_all(&work)?;
    let (script, mesh) = (work.join("script"), work.join("mesh.yaml"));
    fs::write(&script, PROGRAM)?;
    fs::write(&mesh, MESH)?;
    make_executable(&script)?;
    let programs = PROGRAMS.map(vm::program);
    let initramfs = vm::initramfs(
        &work,
        &[
            (&script, "program"),
            (&mesh, "mesh.yaml"),
            (&programs[0], PROGRAMS[0]),
            (&programs[1], PROGRAMS[1]),
        ],
    )?;
    let boot = Boot {
        kernel: vm::kernel(&folder.join("kernels"), "6.12.", "+deb12-cloud-amd64")?,
        lockdown: Lockdown::None,
        btf: Btf::Present,
    };
    let report = vm::run(&boot, &initramfs, &folder.join("logs/clock"))?;
    report.is_of(&boot)?;
    let lines = |prefix: &str| -> Vec<&str> {
        let lines = report.results.iter();
        lines.filter_map(|line| line.strip_prefix(prefix)).collect()
    };
    let said = lines("said ").join("\n");
    let verdict: Value = serde_json::from_str(&lines("json ").concat())
        .with_context(|| format!("no report; verify said: {said}"))?;
    judge(&verdict).with_context(|| format!("verify said: {said}"))
}

fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn judge(verdict: &Value) -> Result<()> {
    let checks = verdict["checks"].as_array().context("no checks")?;
    let of = |id: &str| -> Vec<&Value> { checks.iter().filter(|c| c["id"] == id).collect() };
    let clocks = of("config.clock");
    ensure!(clocks.len() == 2, "rows of config.clock: {clocks:#?}");
    for check in clocks {
        let step = check["observed"]["step_seconds"].as_f64();
        ensure!(
            check["status"] == "fail" && step.is_some_and(|s| (s - STEP_SECONDS).abs() < 5.0),
            "the step is not reported: {check:#}"
        );
    }
    // An emulated machine may be too slow for the objectives, and too starved for the witnesses to decide, but not by an
    // hour.
    ensure!(!of("evidence.agreement").is_empty(), "no evidence");
    let links = verdict["links"].as_array().context("no links")?;
    ensure!(links.len() == 2, "{links:#?}");
    for link in links {
        for figure in ["connect_p99_seconds", "handshake_rtt_p99_seconds"] {
            let seconds = link[figure].as_f64().context(figure)?;
            ensure!(
                seconds < STEP_SECONDS / 10.0,
                "{figure} is shifted: {link:#}"
            );
        }
    }
    let took = verdict["durationSeconds"].as_f64().context("duration")?;
    ensure!(
        took < STEP_SECONDS / 2.0,
        "the run seems to have taken {took} s"
    );
    Ok(())
}
