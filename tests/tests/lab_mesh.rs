//! The whole lab: agents with their kernel programs, services, DNS and drones, and the faults of its edges.

#[path = "lab_mesh/services.rs"]
mod services;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::lab_rig::{Lab, Place, both, missing, wait};
use tests::leftovers;
use tests::netns::skip;

const SMALL: [&str; 4] = ["--clusters", "2", "--nodes", "3"];
const POD_METRICS: u16 = 9464;
const NODE_METRICS: u16 = 9465;

#[test]
fn agents_have_no_privilege_and_see_their_kernel() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let lab = Lab::up(&SMALL)?;
    for node in ["cp-e-1", "wrk-e-1", "cp-w-1"] {
        for (name, place, port) in [
            (
                format!("agent-{node}"),
                lab.place(&format!("agent-{node}"))?,
                POD_METRICS,
            ),
            (format!("node-agent-{node}"), lab.place(node)?, NODE_METRICS),
        ] {
            let pid = lab.pid(&name)?;
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
            for line in [
                "Uid:\t65532\t65532\t65532\t65532",
                "CapPrm:\t0000000000000000",
                "CapEff:\t0000000000000000",
                "CapBnd:\t0000000000000000",
                "NoNewPrivs:\t1",
            ] {
                ensure!(status.contains(line), "{name} has no `{line}`:\n{status}");
            }
            let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
            ensure!(
                cgroup.contains(&format!("/aggrik8s/{}/{node}", lab.name())),
                "{cgroup}"
            );
            let ready: Value = serde_json::from_str(&get(&place, port, "/readyz")?.1)?;
            ensure!(ready["ready"] == true && ready["node"] == node, "{ready}");
            ensure!(
                ready["kernel"]["witness"] == (port == POD_METRICS),
                "{ready}"
            );
        }
    }
    Ok(())
}

#[test]
fn services_have_names_and_drones_come_through_the_node_port() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let lab = Lab::up(&SMALL)?;
    let status = lab.status()?;
    let service = &status["services"][0];
    let v4 = service["addresses"][0].as_str().context("an address")?;
    let named = lab.ok(
        "exec",
        &["client-cp-w-1", "--", "getent", "ahostsv4", "ndvi"],
    )?;
    ensure!(named.starts_with(v4), "`ndvi` is {named}, not {v4}");
    // Every cluster's server knows the names of all clusters: services in each, and pods.
    let pod = lab.place("client-cp-e-1")?.address(false)?.to_string();
    for (name, expected) in [
        ("ndvi.svc.talos-east.mesh", v4),
        ("client-cp-e-1.pod.talos-east.mesh", &pod),
    ] {
        let found = lab.ok("exec", &["client-cp-w-1", "--", "getent", "ahostsv4", name])?;
        ensure!(
            found.starts_with(expected),
            "`{name}` is {found}, not {expected}"
        );
    }
    // Drones come through the node's port with their own addresses, and the kernel knows them.
    wait("right answers for both drones", || {
        let traffic = lab.status()?["traffic"].clone();
        ensure!(
            ["drone-1", "drone-2"]
                .iter()
                .all(|d| traffic[*d]["given_up"].as_u64() == Some(0)),
            "{traffic}"
        );
        Ok(["drone-1", "drone-2"]
            .iter()
            .all(|d| traffic[*d]["answered"].as_u64() >= Some(2)))
    })?;
    wait("the kernel's count of drones", || {
        let text = get(&lab.place("agent-wrk-e-1")?, POD_METRICS, "/metrics")?.1;
        let line = text.lines().find(|l| {
            l.starts_with("aggrik8s_tcp_accepts_total{") && l.contains("client=\"drones\"")
        });
        Ok(line.is_some_and(|l| l.contains("class=\"ndvi\"") && !l.ends_with(" 0")))
    })
}

#[test]
fn edges_break_where_they_are_told_to_and_mend() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let lab = Lab::up(&SMALL)?;
    let counter = |key: &str| -> Result<u64> {
        let status = lab.status()?;
        Ok(status["traffic"]["drone-1"][key].as_u64().unwrap_or(0))
    };

    lab.ok("fault", &["backend-down"])?;
    wait("a tile that is given up", || Ok(counter("given_up")? > 0))?;
    lab.ok("fault", &["clear", "--all"])?;
    let answered = counter("answered")?;
    wait("answers after the backend is back", || {
        Ok(counter("answered")? > answered + 1)
    })?;

    let resolves = |pod: &str| -> Result<bool> {
        Ok(lab
            .cli("exec", &[pod, "--", "getent", "ahostsv4", "ndvi"])?
            .status
            .success())
    };
    lab.ok("fault", &["dns-down", "talos-west"])?;
    ensure!(
        !resolves("client-cp-w-1")? && resolves("client-cp-e-1")?,
        "DNS is down in talos-west only"
    );
    lab.ok("fault", &["clear", "--all"])?;
    wait("DNS in talos-west", || resolves("client-cp-w-1"))?;

    let answers = |node: &str, suffix: &str| {
        UnixStream::connect(lab.run_dir().join(format!("agents/{node}{suffix}.sock"))).is_ok()
    };
    lab.ok("fault", &["agent-killed", "cp-e-1"])?;
    for suffix in ["", "-node"] {
        ensure!(
            !answers("cp-e-1", suffix) && answers("wrk-e-1", suffix) && answers("cp-w-1", suffix),
            "plane `{suffix}`"
        );
    }
    // Two faults hold the same agents down; only the second clear lets them go.
    let second = lab.ok("fault", &["agent-killed", "cp-e-1"])?;
    lab.ok(
        "fault",
        &["clear", second.split(':').next().context("an id")?],
    )?;
    ensure!(!answers("cp-e-1", ""), "the first fault still holds");
    lab.ok("fault", &["clear", "--all"])?;
    wait("both agents of cp-e-1", || {
        Ok(answers("cp-e-1", "") && answers("cp-e-1", "-node"))
    })?;

    let stopped = |node: &str| -> Result<usize> {
        let pid = lab.pid(&format!("agent-{node}"))?;
        let mut seen = 0;
        for _ in 0..100 {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
            seen += usize::from(stat.contains(") T "));
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(seen)
    };
    lab.ok("fault", &["starve", "cp-w-1", "--percent", "5"])?;
    ensure!(stopped("cp-w-1")? >= 70, "starved to 5 %");
    ensure!(stopped("cp-e-1")? == 0, "nobody else is starved");
    lab.ok("fault", &["clear", "--all"])?;
    ensure!(stopped("cp-w-1")? == 0, "let go");
    Ok(())
}

#[test]
fn two_whole_labs_coexist_and_one_going_leaves_the_other_its_witness() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let small = ["--clusters", "2", "--nodes", "2"];
    let (one, two) = (Lab::up(&small)?, Lab::up(&small)?);
    let connects = |lab: &Lab| -> Result<u64> {
        let text = get(&lab.place("agent-cp-e-1")?, POD_METRICS, "/metrics")?.1;
        let lines = text.lines().filter(|l| {
            l.starts_with("aggrik8s_tcp_connects_total{")
                && l.contains("target_cluster=\"talos-west\"")
                && l.contains("origin=\"traffic\"")
                && l.contains("outcome=\"established\"")
        });
        Ok(lines
            .filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok())
            .sum())
    };
    one.ok("down", &[])?;
    ensure!(one.remains()?.is_empty(), "{:?}", one.remains()?);
    let before = connects(&two)?;
    let target = SocketAddr::new(two.place("client-cp-w-1")?.address(false)?, 7).to_string();
    // From the client pod, inside the node's cgroup: so its kernel programs see it.
    two.ok(
        "exec",
        &[
            "client-cp-e-1",
            "--",
            "bash",
            "-c",
            &format!("exec 3<>/dev/tcp/{}", target.replace(':', "/")),
        ],
    )?;
    wait("one more counted connect", || Ok(connects(&two)? > before))?;
    Ok(())
}

#[test]
fn a_killed_up_of_a_whole_lab_leaves_no_pins() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let mut in_time = 0;
    for part in ["aggrik8s-probe", "pins", "log/agent-cp-w-1.log"] {
        let lab = Lab::named();
        let moment = match part {
            "pins" => lab
                .run_dir()
                .join("bpf/aggrik8s")
                .join(lab.name())
                .join("cp-e-1/v1"),
            file => lab.run_dir().join(file),
        };
        in_time += usize::from(lab.killed_up(&SMALL, &moment)?);
        lab.ok("down", &[])?;
        ensure!(
            lab.remains()?.is_empty(),
            "killed at {part}: {:?}",
            lab.remains()?
        );
    }
    ensure!(
        in_time >= 2,
        "only {in_time} of 3 were killed before their end"
    );
    Ok(())
}

#[test]
fn an_agent_that_does_not_come_up_is_named() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let lab = Lab::named();
    let up = |probe: &str| -> Result<(Option<i32>, String)> {
        let mut command = lab.command("up", &["--clusters", "1", "--nodes", "1"])?;
        let output = command.env("AGGRIK8S_PROBE", probe).output()?;
        Ok((output.status.code(), both(&output)))
    };
    // Loads nothing and says so.
    let (code, text) = up("/bin/false")?;
    ensure!(code == Some(2) && text.contains("load"), "{code:?}\n{text}");
    ensure!(lab.remains()?.is_empty(), "{:?}", lab.remains()?);
    let (code, text) = up("/no/such/agent")?;
    ensure!(
        code == Some(2) && text.contains("cargo build -p probe-user"),
        "{code:?}\n{text}"
    );
    ensure!(lab.remains()?.is_empty(), "{:?}", lab.remains()?);
    // Ends as soon as it runs.
    let (code, text) = up("/bin/true")?;
    ensure!(
        code == Some(3) && text.contains("agent-cp-e-1` ended"),
        "{code:?}\n{text}"
    );
    ensure!(lab.status()?["phase"] == "failed");
    let text = lab.bring_up(&["--clusters", "1", "--nodes", "1"])?;
    ensure!(text.contains("removed what was left"), "{text}");
    Ok(())
}

#[test]
fn pins_go_to_the_bpffs_that_was_named() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let dir = leftovers::temporary("bpffs");
    std::fs::create_dir_all(&dir)?;
    nix::mount::mount(
        Some("bpffs"),
        &dir,
        Some("bpf"),
        nix::mount::MsFlags::empty(),
        Some("mode=0755"),
    )?;
    let outcome = pins_below(&dir);
    nix::mount::umount(&dir)?;
    std::fs::remove_dir(&dir)?;
    outcome
}

fn pins_below(dir: &Path) -> Result<()> {
    let lab = Lab::up(&[
        "--clusters",
        "1",
        "--nodes",
        "1",
        "--bpffs",
        &dir.display().to_string(),
    ])?;
    let pins = dir.join("aggrik8s").join(lab.name()).join("cp-e-1");
    ensure!(pins.is_dir(), "no {}", pins.display());
    lab.ok("down", &[])?;
    ensure!(
        !dir.join("aggrik8s").exists(),
        "pins are left in {}",
        dir.display()
    );
    Ok(())
}

fn get(place: &Place, port: u16, path: &str) -> Result<(u16, String)> {
    let own = SocketAddr::new(place.address(false)?, port);
    get_from(place, own, path)
}

/// HTTP GET from inside a place: status and body.
fn get_from(place: &Place, target: SocketAddr, path: &str) -> Result<(u16, String)> {
    let text = place.inside(|| -> Result<String> {
        let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n"
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })??;
    let (head, body) = text.split_once("\r\n\r\n").context("a header")?;
    let code = head
        .split(' ')
        .nth(1)
        .and_then(|c| c.parse().ok())
        .with_context(|| format!("a status in {head}"))?;
    Ok((code, body.to_owned()))
}
