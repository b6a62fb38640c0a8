//! Services translated in packets and at `connect(2)`: the same to applications, and what the kernel's witness sees.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use tests::lab_rig::{Lab, binary, missing};
use tests::netns::skip;
use tests::sys::attached_programs;

use super::{POD_METRICS, SMALL, get, wait};

/// `BPF_CGROUP_INET4_CONNECT` and `BPF_CGROUP_INET6_CONNECT` of linux/bpf.h.
const CONNECT_HOOKS: [u32; 2] = [10, 11];
/// A node without the backend, in another cluster than it: its pod speaks to the service.
const FROM: &str = "client-cp-w-1";
const NODE: &str = "cp-w-1";

#[test]
fn both_translations_carry_requests_and_differ_in_whom_the_kernel_sees() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    for (services, remote, other, programs) in [
        ("dnat", "vip", "talos-east", 1),
        ("connect", "talos-east", "vip", 2),
    ] {
        let lab = Lab::up(&[&SMALL[..], &["--services", services]].concat())?;
        ensure!(lab.status()?["service_translation"] == services);
        for hook in CONNECT_HOOKS {
            let attached = attached_programs(&File::open(cgroup(&lab)?)?, hook)?;
            ensure!(attached == programs, "{services}, hook {hook}: {attached}");
        }
        // The backend's own node, another of its cluster, another cluster, and a node itself.
        let addresses = addresses(&lab)?;
        for from in ["client-wrk-e-1", "client-cp-e-1", FROM, NODE] {
            for address in &addresses {
                ensure!(
                    reaches(&lab, from, *address)?,
                    "{services}: {from} to {address}"
                );
            }
        }
        // As dual-stack sockets write IPv4.
        let SocketAddr::V4(v4) = addresses[0] else {
            anyhow::bail!("no IPv4 address first: {addresses:?}")
        };
        let mapped = SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port());
        ensure!(reaches(&lab, FROM, mapped)?, "{services}: {mapped}");
        // Nothing but the service's TCP port is translated, whatever else the backend offers.
        let beside = SocketAddr::new(addresses[0].ip(), v4.port() + 1);
        let backend = lab.place("ndvi-wrk-e-1")?.address(false)?;
        let listener = SocketAddr::new(backend, beside.port());
        let program = binary()?.display().to_string();
        let echo = format!("{program} lab-role echo --listen {listener} >/dev/null 2>&1 &");
        lab.ok("exec", &["ndvi-wrk-e-1", "--", "sh", "-c", &echo])?;
        wait("the listener", || reaches(&lab, FROM, listener))?;
        ensure!(!reaches(&lab, FROM, beside)?, "{services}: {beside}");
        let udp = format!(
            "exec 3<>/dev/udp/{}/{} && cat /proc/net/udp",
            v4.ip(),
            v4.port()
        );
        let sockets = lab.ok("exec", &[FROM, "--", "bash", "-c", &udp])?;
        let peer = format!(
            "{:08X}:{:04X}",
            u32::from_ne_bytes(v4.ip().octets()),
            v4.port()
        );
        ensure!(sockets.contains(&peer), "{services}: {peer} in {sockets}");

        let established = || connects(&lab, remote, "established");
        let before = established()?;
        tile(&lab, addresses[0])?;
        wait("the kernel's count of a tile", || {
            Ok(established()? > before)
        })?;
        lab.ok("fault", &["backend-down"])?;
        let before = connects(&lab, remote, "refused")?;
        for address in addresses.iter().chain([&mapped]) {
            ensure!(!reaches(&lab, FROM, *address)?, "{services}: backend down");
        }
        wait("three refused connects", || {
            Ok(connects(&lab, remote, "refused")? == before + 3)
        })?;
        lab.ok("fault", &["clear", "--all"])?;
        wait("the backend", || reaches(&lab, FROM, addresses[0]))?;
        for outcome in ["established", "refused"] {
            let strays = connects(&lab, other, outcome)?;
            ensure!(
                strays == 0,
                "{services}: {strays} {outcome} towards {other}"
            );
        }
        lab.ok("down", &[])?;
        ensure!(lab.remains()?.is_empty(), "{:?}", lab.remains()?);
    }
    Ok(())
}

#[test]
fn the_order_of_the_programs_matters_to_failures_before_the_syn_only() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    // The lab translates first and the probe looks second; in the other lab it is the other way round.
    for (services, blamed) in [("connect", "talos-east"), ("dnat", "vip")] {
        let lab = Lab::up(&[&SMALL[..], &["--services", services]].concat())?;
        let address = addresses(&lab)?[0];
        let backend = lab.place("ndvi-wrk-e-1")?.address(false)?;
        if services == "dnat" {
            let entry = lab::Entry {
                address: address.ip(),
                port: address.port(),
                backend,
            };
            lab::translate_at_connect(&[cgroup(&lab)?], &[entry])?;
        }
        ensure!(reaches(&lab, FROM, address)?, "{services}");
        wait("the connect to the backend", || {
            Ok(connects(&lab, "talos-east", "established")? > 0)
        })?;
        // No SYN can leave: only `connect` itself tells of the attempt.
        lab.ok(
            "exec",
            &[
                FROM,
                "--",
                "ip",
                "route",
                "add",
                "unreachable",
                &backend.to_string(),
            ],
        )?;
        ensure!(!reaches(&lab, FROM, address)?, "{services}: no route");
        wait("the local failure", || {
            Ok(connects(&lab, blamed, "local")? == 1)
        })?;
    }
    Ok(())
}

fn cgroup(lab: &Lab) -> Result<PathBuf> {
    Ok(lab.cgroup()?.join(NODE))
}

/// Virtual addresses of the first service, with its port, IPv4 first.
fn addresses(lab: &Lab) -> Result<Vec<SocketAddr>> {
    let status = lab.status()?;
    let service = &status["services"][0];
    let port = service["port"].as_u64().context("a port")?;
    let addresses = service["addresses"].as_array().context("addresses")?;
    let parse = |a: &serde_json::Value| a.as_str()?.parse::<IpAddr>().ok();
    let found: Vec<_> = addresses
        .iter()
        .filter_map(parse)
        .map(|a| SocketAddr::new(a, port as u16))
        .collect();
    ensure!(found.len() == 2, "{service}");
    Ok(found)
}

/// Whether a process in the pod, and in its node's cgroup, connects.
fn reaches(lab: &Lab, from: &str, to: SocketAddr) -> Result<bool> {
    let program = binary()?.display().to_string();
    let (to, patience) = (to.to_string(), "700");
    let args = [
        from,
        "--",
        &program,
        "lab-role",
        "reach",
        "--within-ms",
        patience,
        "--to",
        &to,
    ];
    let output = lab.cli("exec", &args)?;
    Ok(output.status.success())
}

/// Posts tiles to the address until one comes back right.
fn tile(lab: &Lab, to: SocketAddr) -> Result<()> {
    let program = binary()?.display().to_string();
    let stats = lab.run_dir().join("stats/test.json").display().to_string();
    let script = format!(
        "{program} lab-role drone --target {to} --interval 1s --name test --stats {stats} & \
         for i in $(seq 200); do \
           if grep -q '\"answered\": *[1-9]' {stats} 2>/dev/null; then kill $!; exit 0; fi; sleep 0.05; \
         done; kill $!; cat {stats}; exit 1"
    );
    lab.ok("exec", &[FROM, "--", "sh", "-c", &script]).map(drop)
}

/// Connects of users' traffic to the service that `FROM`'s node saw end so.
fn connects(lab: &Lab, remote: &str, outcome: &str) -> Result<u64> {
    let agent = lab.place(&format!("agent-{NODE}"))?;
    let text = get(&agent, POD_METRICS, "/metrics")?.1;
    let wanted = [
        "origin=\"traffic\"",
        "class=\"ndvi\"",
        &format!("target_cluster=\"{remote}\""),
        &format!("outcome=\"{outcome}\""),
    ];
    let lines = text.lines().filter(|line| {
        line.starts_with("aggrik8s_tcp_connects_total{") && wanted.iter().all(|w| line.contains(w))
    });
    Ok(lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum())
}
