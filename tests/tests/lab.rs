//! The lab's network, built, crossed, broken and mended through the shipped binary.

#[path = "lab/life.rs"]
mod life;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::lab_rig::{ECHO, Lab, both, missing, wait};
use tests::leftovers;
use tests::netns::skip;

const SMALL: [&str; 5] = ["--bare", "--clusters", "2", "--nodes", "2"];

#[test]
fn pods_of_two_clusters_reach_each_other_over_the_line_only() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let lab = Lab::up(&[&SMALL[..], &["--delay", "talos-east:talos-west=7ms"]].concat())?;
    let (east, west) = (lab.place("client-cp-e-1")?, lab.place("client-cp-w-1")?);
    for (source, target) in [(&east, &west), (&west, &east)] {
        for v6 in [false, true] {
            let address = (target.address(v6)?, ECHO).into();
            let before = lab.crossed(&source.cluster, &target.cluster)?;
            let connect = source.tcp_echo(address)?;
            source.udp_echo(address)?;
            let after = lab.crossed(&source.cluster, &target.cluster)?;
            // SYN, ACK with or before data, FIN; one datagram.
            ensure!(
                after.0 >= before.0 + 4,
                "{} -> {}: {before:?} then {after:?}",
                source.name,
                target.name
            );
            ensure!(
                connect >= Duration::from_millis(14),
                "a connect over 2 × 7 ms took {connect:?}"
            );
        }
    }
    // Within a cluster nothing crosses.
    let between = lab.crossed("talos-east", "talos-west")?;
    let agent = lab.place("agent-cp-e-1")?;
    agent.tcp_echo((east.address(false)?, ECHO).into())?;
    ensure!(lab.crossed("talos-east", "talos-west")? == between);
    // Nodes and external clients are routed over it, too.
    let (node, far) = (lab.place("cp-e-1")?, lab.place("cp-w-1")?);
    let drone = lab.place("drone-1")?;
    for v6 in [false, true] {
        ensure!(node.one_way(&far, v6)?, "node to node, v6 {v6}");
        ensure!(drone.one_way(&node, v6)?, "drone to node, v6 {v6}");
        ensure!(node.one_way(&drone, v6)?, "node to drone, v6 {v6}");
    }
    ensure!(lab.crossed("drones", "talos-east")?.1 >= 2);
    ensure!(lab.crossed("talos-east", "drones")?.1 >= 2);
    ensure!(
        lab.status()?["line"]["counters"]["unknown"] == 0,
        "the line knows everybody"
    );
    Ok(())
}

#[test]
fn without_the_line_nothing_crosses() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let lab = Lab::up(&SMALL)?;
    let (east, west) = (lab.place("client-cp-e-1")?, lab.place("client-cp-w-1")?);
    let address = (west.address(false)?, ECHO).into();
    east.tcp_echo(address)?;
    let pid = lab.pid("line")?;
    kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    wait("the line's end", || Ok(!lab.alive("line")?))?;
    ensure!(
        !east.connects(address)?,
        "a connection got past the dead line"
    );
    ensure!(
        lab.place("agent-cp-e-1")?
            .connects((east.address(false)?, ECHO).into())?,
        "within the cluster all is well"
    );
    Ok(())
}

#[test]
fn a_blackhole_stops_exactly_one_direction_and_one_node() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let lab = Lab::up(&["--bare", "--clusters", "2", "--nodes", "3"])?;
    let (cp, wrk) = (lab.place("client-cp-e-1")?, lab.place("client-wrk-e-1")?);
    let west = lab.place("client-cp-w-1")?;
    let seen = |v6| -> Result<[bool; 4]> {
        Ok([
            cp.one_way(&west, v6)?,
            wrk.one_way(&west, v6)?,
            west.one_way(&cp, v6)?,
            west.one_way(&wrk, v6)?,
        ])
    };
    let fault = |args: &[&str]| lab.ok("fault", args);
    for v6 in [false, true] {
        ensure!(seen(v6)? == [true; 4], "healthy, v6 {v6}");
        let set = fault(&[
            "blackhole",
            "--source",
            "talos-east/cp-e-1",
            "--target",
            "talos-west",
        ])?;
        ensure!(
            seen(v6)? == [false, true, true, true],
            "one node, v6 {v6}: {:?}",
            seen(v6)?
        );
        let (id, _) = set.split_once(':').context("an id")?;
        fault(&["clear", id])?;
        fault(&[
            "blackhole",
            "--source",
            "talos-west",
            "--target",
            "talos-east",
        ])?;
        ensure!(
            seen(v6)? == [true, true, false, false],
            "the other direction, v6 {v6}: {:?}",
            seen(v6)?
        );
        ensure!(
            lab.status()?["faults"]
                .as_array()
                .is_some_and(|f| f.len() == 1)
        );
        fault(&["clear", "--all"])?;
        ensure!(seen(v6)? == [true; 4], "mended, v6 {v6}");
    }
    let (packets, delivered, dropped) = lab.crossed("talos-west", "talos-east")?;
    ensure!(
        dropped >= 4 && packets >= delivered + dropped,
        "{packets} {delivered} {dropped}"
    );
    Ok(())
}

#[test]
fn drones_enter_on_the_side_of_their_cluster_and_share_its_fate() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let lab = Lab::up(&["--bare", "--nodes", "3"])?;
    let (east, west) = (lab.place("cp-e-1")?, lab.place("cp-w-1")?);
    let (pi, drone) = (lab.place("pi-master-01")?, lab.place("drone-1")?);
    ensure!(lab.status()?["clients"][0]["behind"] == "picluster");
    let seen = |v6| -> Result<[bool; 5]> {
        Ok([
            drone.one_way(&east, v6)?,
            east.one_way(&drone, v6)?,
            drone.one_way(&west, v6)?,
            pi.one_way(&east, v6)?,
            drone.one_way(&pi, v6)? && pi.one_way(&drone, v6)?,
        ])
    };
    for v6 in [false, true] {
        ensure!(seen(v6)? == [true; 5], "healthy, v6 {v6}: {:?}", seen(v6)?);
    }
    for (source, target, v6, expected) in [
        (
            "picluster",
            "talos-east",
            false,
            [false, true, true, false, true],
        ),
        (
            "talos-east",
            "picluster",
            true,
            [true, false, true, true, true],
        ),
        (
            "drones",
            "talos-east",
            true,
            [false, true, true, true, true],
        ),
    ] {
        let fault = ["blackhole", "--source", source, "--target", target];
        lab.ok("fault", &fault)?;
        let now = seen(v6)?;
        ensure!(now == expected, "{source} to {target}, v6 {v6}: {now:?}");
        lab.ok("fault", &["clear", "--all"])?;
    }
    ensure!(lab.crossed("drones", "talos-east")?.1 >= 2);
    // What stays on one side never meets the line, so no fault can be there.
    ensure!(lab.crossed("drones", "picluster")?.0 + lab.crossed("picluster", "drones")?.0 == 0);
    let fault = ["blackhole", "--source", "drones", "--target", "picluster"];
    let refused = lab.cli("fault", &fault)?;
    let text = both(&refused);
    ensure!(
        refused.status.code() == Some(2) && text.contains("crosses the line"),
        "{text}"
    );
    let uplink = ["drones-router", "--", "ip", "link", "set", "eth0", "down"];
    lab.ok("exec", &uplink)?;
    ensure!(!drone.one_way(&east, false)?, "another way than the uplink");
    Ok(())
}

#[test]
fn a_policy_denies_one_clusters_pods_and_nobody_else() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let lab = Lab::up(&["--bare", "--clusters", "3", "--nodes", "4"])?;
    let agents = [lab.place("agent-cp-e-1")?, lab.place("agent-wrk-e-1")?];
    let (west, pi) = (lab.place("agent-cp-w-1")?, lab.place("agent-pi-master-01")?);
    for v6 in [false, true] {
        let doors = [
            agents[0].listen(v6)?,
            agents[1].listen(v6)?,
            west.listen(v6)?,
        ];
        let at = |i: usize| doors[i].local_addr();
        let seen = || -> Result<[bool; 5]> {
            Ok([
                west.connects(at(0)?)?,
                west.connects(at(1)?)?,
                pi.connects(at(0)?)?,
                agents[1].connects(at(0)?)?,
                // Replies of the denied cluster still come in.
                agents[0].connects(at(2)?)?,
            ])
        };
        ensure!(seen()? == [true; 5], "healthy, v6 {v6}: {:?}", seen()?);
        lab.ok(
            "fault",
            &[
                "policy-deny",
                "--source",
                "talos-west",
                "--target",
                "talos-east/cp-e-1",
            ],
        )?;
        ensure!(
            seen()? == [false, true, true, true, true],
            "one node, v6 {v6}: {:?}",
            seen()?
        );
        lab.ok("fault", &["clear", "--all"])?;
        lab.ok(
            "fault",
            &[
                "policy-deny",
                "--source",
                "talos-west",
                "--target",
                "talos-east",
            ],
        )?;
        ensure!(
            seen()? == [false, false, true, true, true],
            "cluster, v6 {v6}: {:?}",
            seen()?
        );
        lab.ok("fault", &["clear", "--all"])?;
        ensure!(seen()? == [true; 5], "mended, v6 {v6}: {:?}", seen()?);
    }
    Ok(())
}

#[test]
fn exec_runs_in_the_pod_and_passes_everything_through() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let lab = Lab::up(&SMALL)?;
    let pod = lab.place("client-cp-w-1")?;
    let address = lab.ok(
        "exec",
        &[&pod.name, "--", "ip", "-4", "-o", "address", "show", "eth0"],
    )?;
    ensure!(
        address.contains(&pod.address(false)?.to_string()),
        "{address}"
    );
    let cgroup = lab.ok("exec", &[&pod.name, "--", "cat", "/proc/self/cgroup"])?;
    ensure!(
        cgroup.contains(&format!("0::/aggrik8s/{}/cp-w-1", lab.name())),
        "{cgroup}"
    );
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143)] {
        let output = lab.cli("exec", &["cp-w-1", "--", "sh", "-c", script])?;
        ensure!(
            output.status.code() == Some(code),
            "`{script}`: {}",
            output.status
        );
    }
    for (args, expected) in [
        (["nowhere", "--", "true"], "client-cp-w-1"),
        (["cp-w-1", "--", "/no/such/program"], "/no/such/program"),
    ] {
        let output = lab.cli("exec", &args)?;
        let text = both(&output);
        ensure!(
            output.status.code() == Some(2) && text.contains(expected),
            "{args:?}: {}\n{text}",
            output.status
        );
    }
    Ok(())
}

#[test]
fn status_lists_every_part() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let lab = Lab::up(&SMALL)?;
    let status = lab.status()?;
    let names = |list: &str| -> Vec<String> {
        let items = status[list].as_array().cloned().unwrap_or_default();
        items
            .iter()
            .map(|i| i["name"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    ensure!(
        names("clusters") == ["talos-east", "talos-west"],
        "{status}"
    );
    ensure!(names("nodes") == ["cp-e-1", "cp-w-1"], "{status}");
    ensure!(names("clients") == ["drone-1", "drone-2"], "{status}");
    let pods = status["pods"].as_array().context("pods")?;
    for pod in pods {
        for key in ["name", "cluster", "node", "namespace"] {
            ensure!(
                pod[key].as_str().is_some_and(|v| !v.is_empty()),
                "`{key}` in {pod}"
            );
        }
        ensure!(
            std::path::Path::new(pod["namespace"].as_str().unwrap_or_default()).exists(),
            "{pod}"
        );
        ensure!(
            pod["addresses"].as_array().is_some_and(|a| a.len() == 2),
            "{pod}"
        );
    }
    ensure!(
        names("pods").contains(&"client-cp-e-1".to_owned()),
        "{status}"
    );
    ensure!(
        status["phase"] == "up" && status["faults"].as_array().is_some_and(Vec::is_empty),
        "{status}"
    );
    ensure!(
        status["processes"]
            .as_array()
            .is_some_and(|p| p.len() == 3 && p.iter().all(|p| p["alive"] == true)),
        "{status}"
    );
    let text = lab.ok("status", &[])?;
    ensure!(
        text.contains("client-cp-e-1") && text.contains("3 alive, 0 dead"),
        "{text}"
    );
    Ok(())
}

#[test]
fn a_mesh_of_ones_own_becomes_a_lab() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let file = leftovers::temporary("mesh.yaml");
    std::fs::write(&file, OWN)?;
    let lab = Lab::named();
    let up = lab.bring_up(&["--bare", "-f", &file.display().to_string()]);
    std::fs::remove_file(&file)?;
    up?;
    // Both clusters call their node `node-1`.
    let (shop, hub) = (lab.place("shop.node-1")?, lab.place("hub.node-1")?);
    ensure!(
        shop.addresses == ["172.20.1.9".parse::<std::net::IpAddr>()?],
        "{shop:?}"
    );
    ensure!(
        hub.addresses == ["172.20.2.20".parse::<std::net::IpAddr>()?],
        "{hub:?}"
    );
    let (from, to) = (
        lab.place("client-shop.node-1")?,
        lab.place("client-hub.node-1")?,
    );
    ensure!(
        to.address(false)?.to_string().starts_with("10.82.0."),
        "{to:?}"
    );
    from.tcp_echo((to.address(false)?, ECHO).into())?;
    ensure!(lab.crossed("shop/node-1", "hub/node-1")?.1 > 0);
    Ok(())
}

const OWN: &str = "\
mesh: retail
clusters:
  - name: shop
    id: 7
    node_networks: [172.20.1.0/24]
    pod_cidrs: [10.81.0.0/20]
    nodes:
      - name: node-1
        addresses: [172.20.1.9]
  - name: hub
    id: 9
    node_networks: [172.20.2.0/24]
    pod_cidrs: [10.82.0.0/20]
    nodes:
      - name: node-1
        addresses: [172.20.2.20]
";

#[test]
fn the_outer_packets_may_be_fragmented_or_not() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    for (option, expected) in [("set", "df set"), ("clear", "df unset")] {
        let lab = Lab::up(&[&SMALL[..], &["--outer-df", option]].concat())?;
        let link = lab.ok("exec", &["cp-e-1", "--", "ip", "-d", "link", "show", "vx0"])?;
        ensure!(
            link.contains(expected) || (option == "clear" && !link.contains("df ")),
            "{link}"
        );
    }
    Ok(())
}
