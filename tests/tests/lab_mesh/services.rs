//! Services translated in packets and at `connect(2)`: the same to applications, and what the kernel's witness sees.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use tests::lab_rig::{Lab, binary, missing, wait};
use tests::netns::skip;
use tests::sys::attached_programs;

use super::{POD_METRICS, SMALL, get};

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
        let told = || format!("--services {services}");
        ensure!(lab.status()?["service_translation"] == services);
        for hook in CONNECT_HOOKS {
            let attached = attached_programs(&File::open(cgroup(&lab)?)?, hook)?;
            ensure!(attached == programs, "{services}, hook {hook}: {attached}");
        }
        only_the_services_port_is_reached(&lab).with_context(told)?;
        tile(&lab, addresses(&lab)?[0]).with_context(told)?;
        the_backend_is_missed(&lab, remote).with_context(told)?;
        let strays = connects(&lab, other, "established")? + connects(&lab, other, "refused")?;
        ensure!(strays == 0, "{services}: {strays} connects towards {other}");
        // The lab translates first and the probe looks second; added now, it is the other way round. That
        // matters to what fails before the SYN only.
        if services == "dnat" {
            let backend = backend(&lab)?;
            let entry = |a: &SocketAddr| lab::Entry {
                address: a.ip(),
                port: a.port(),
                backends: vec![backend],
            };
            let table: Vec<_> = addresses(&lab)?.iter().take(1).map(entry).collect();
            lab::translate_at_connect(&[cgroup(&lab)?], &table)?;
        }
        a_failure_before_the_syn_is_blamed_on(&lab, remote).with_context(told)?;
        lab.ok("down", &[])?;
        ensure!(lab.remains()?.is_empty(), "{:?}", lab.remains()?);
    }
    Ok(())
}

fn only_the_services_port_is_reached(lab: &Lab) -> Result<()> {
    let addresses = addresses(lab)?;
    // The backend's own node, another of its cluster, another cluster, and a node itself.
    for from in ["client-wrk-e-1", "client-cp-e-1", FROM, NODE] {
        for address in &addresses {
            ensure!(reaches(lab, from, *address)?, "{from} to {address}");
        }
    }
    let mapped = mapped(&addresses)?;
    ensure!(reaches(lab, FROM, mapped)?, "{mapped}");
    // Whatever else the backend offers.
    let beside = SocketAddr::new(addresses[0].ip(), addresses[0].port() + 1);
    let listener = SocketAddr::new(backend(lab)?, beside.port());
    let program = binary()?.display().to_string();
    let echo = format!("{program} lab-role echo --listen {listener} >/dev/null 2>&1 &");
    lab.ok("exec", &["ndvi-wrk-e-1", "--", "sh", "-c", &echo])?;
    wait("the listener", || reaches(lab, FROM, listener))?;
    ensure!(!reaches(lab, FROM, beside)?, "{beside}");
    // UDP sockets keep the virtual address.
    let SocketAddr::V4(v4) = addresses[0] else {
        bail!("no IPv4 address first: {addresses:?}")
    };
    let (ip, port) = (v4.ip(), v4.port());
    let udp = format!("exec 3<>/dev/udp/{ip}/{port} && cat /proc/net/udp");
    let sockets = lab.ok("exec", &[FROM, "--", "bash", "-c", &udp])?;
    let peer = format!("{:08X}:{port:04X}", u32::from_ne_bytes(ip.octets()));
    ensure!(sockets.contains(&peer), "{peer} in {sockets}");
    Ok(())
}

/// With the backend down, and after it has come back.
fn the_backend_is_missed(lab: &Lab, remote: &str) -> Result<()> {
    let addresses = addresses(lab)?;
    lab.ok("fault", &["backend-down"])?;
    let before = connects(lab, remote, "refused")?;
    for address in addresses.iter().chain([&mapped(&addresses)?]) {
        ensure!(!reaches(lab, FROM, *address)?, "{address} without backend");
    }
    wait("three refused connects", || {
        Ok(connects(lab, remote, "refused")? == before + 3)
    })?;
    lab.ok("fault", &["clear", "--all"])?;
    let before = connects(lab, remote, "established")?;
    wait("the backend", || reaches(lab, FROM, addresses[0]))?;
    wait("the kernel's count of it", || {
        Ok(connects(lab, remote, "established")? > before)
    })
}

fn a_failure_before_the_syn_is_blamed_on(lab: &Lab, remote: &str) -> Result<()> {
    let (address, backend) = (addresses(lab)?[0], backend(lab)?.to_string());
    let before = connects(lab, "talos-east", "established")?;
    ensure!(reaches(lab, FROM, address)?);
    wait("the connect to the backend", || {
        Ok(connects(lab, "talos-east", "established")? > before)
    })?;
    let route = [FROM, "--", "ip", "route", "add", "unreachable", &backend];
    lab.ok("exec", &route)?;
    ensure!(!reaches(lab, FROM, address)?, "without a route");
    wait("the local failure", || {
        Ok(connects(lab, remote, "local")? == 1)
    })
}

/// As dual-stack sockets write an IPv4 address.
fn mapped(addresses: &[SocketAddr]) -> Result<SocketAddr> {
    let SocketAddr::V4(v4) = addresses[0] else {
        bail!("no IPv4 address first: {addresses:?}")
    };
    Ok((v4.ip().to_ipv6_mapped(), v4.port()).into())
}

fn backend(lab: &Lab) -> Result<IpAddr> {
    lab.place("ndvi-wrk-e-1")?.address(false)
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
