//! The privilege split: a loader with exactly two capabilities and an agent with none, the agent in a container of
//! runc under the seccomp profile that we ship.

use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::container::{self, Access, Container, Plan, USER};
use tests::netns::skip;
use tests::rig::Rig;
use tests::storm::ClientPlan;
use tests::{agent, hold_rig, leftovers, probe, sys};

const BOTH: &[&str] = &["bpf", "net_admin"];
const CONNECTS: u64 = 200;
const PORT: u16 = 7_000;

/// Everything that must be refused to the agent, and the errno that proves who refused it.
const REFUSED: [&str; 7] = [
    "map_create EPERM",
    "prog_load EPERM",
    "packet_socket EPERM",
    "write_root EROFS",
    "become_root EPERM",
    "user_namespace EPERM",
    "mount EPERM",
];

#[test]
fn the_agent_has_no_privilege_and_its_maps_work() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let bed = Bed::new()?;
    let output = bed.load(BOTH)?;
    ensure!(output.status.success(), "load: {}", said(&output));
    bed.storm()?;

    let container = bed.confined(profile()?)?;
    let report = container.wait(Duration::from_secs(30))?;
    let lines: Vec<&str> = report.lines().collect();
    let mut expected = REFUSED.to_vec();
    let established = format!("established {CONNECTS}");
    expected.push(&established);
    for line in expected.into_iter().chain(["maps ok"]) {
        ensure!(lines.contains(&line), "no `{line}` in:\n{report}");
    }
    // What the loader declared goes; the same prefix is then written, replaced by another remote's, and removed.
    let changes: Vec<_> = lines
        .iter()
        .filter(|line| line.starts_with("written") || line.starts_with("prefixes"))
        .collect();
    ensure!(
        changes == [&"written 1", &"written 1", &"prefixes 1"],
        "{report}"
    );
    Ok(())
}

#[test]
fn the_agent_runs_under_the_shipped_profile() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let bed = Bed::new()?;
    let output = bed.load(BOTH)?;
    ensure!(output.status.success(), "load: {}", said(&output));
    let container = bed.agent(profile()?)?;
    has_no_privilege(&container)?;

    // It gets ready with the kernel as a witness, and tells exactly what the kernel counted.
    let get = |path| agent::get(&bed.rig.client, path);
    wait(&container, "/readyz is 200", || {
        get("/readyz").is_ok_and(|(status, _)| status == 200)
    })?;
    bed.storm()?;
    wait(&container, "/metrics has the storm", || {
        get("/metrics").is_ok_and(|(_, page)| {
            connects(&page) == CONNECTS
                && page.contains("aggrik8s_kernel_witness{source_cluster=\"near\"} 1\n")
        })
    })
    .with_context(|| get("/metrics").map_or_else(|e| e.to_string(), |(_, page)| page))?;
    // Nothing needs the per-packet program: the agent lets it rest, without any privilege.
    wait(&container, "`egress` rests", || {
        get("/metrics").is_ok_and(|(_, page)| {
            page.contains("aggrik8s_egress_resting{source_cluster=\"near\"} 1\n")
        })
    })?;
    Ok(())
}

/// As in a pod: both in containers, with a volume between them that the agent cannot even write to, and no bpffs.
#[test]
fn a_holder_and_its_agent_run_in_containers() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let bed = hold_rig::Bed::new("pod")?;
    let args = bed.hold_args();
    let cgroup = bed.rig.cgroup.path();
    let (volume, mesh) = (bed.volume(), bed.mesh());
    let within = |arg: &String| match arg {
        arg if *arg == cgroup.display().to_string() => "/cgroup".to_owned(),
        arg if *arg == bed.socket().display().to_string() => "/hold/hold.sock".to_owned(),
        arg if *arg == mesh.display().to_string() => "/mesh.yaml".to_owned(),
        arg => arg.clone(),
    };
    let holder = Container::start(&Plan {
        program: &statically_linked("aggrik8s-probe"),
        args: args.iter().map(within).collect(),
        mounts: vec![
            (cgroup, "/cgroup", Access::Read),
            (&volume, "/hold", Access::Write),
            (&mesh, "/mesh.yaml", Access::Read),
        ],
        network: &bed.rig.server,
        seccomp: Value::Null,
        capabilities: &["CAP_BPF", "CAP_NET_ADMIN"],
    })?;
    wait(&holder, "the holder answers", || {
        bed.ask(0).is_ok_and(|(answered, _)| answered)
    })?;
    for (field, expected) in [
        ("CapEff", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapInh", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
    ] {
        let seen = holder.status(field)?;
        ensure!(seen == expected, "holder: {field} is {seen}");
    }

    let own = bed.agents_own();
    let agent = Container::start(&Plan {
        program: &statically_linked("aggrik8s-probe"),
        args: agent_args("--maps-from", "/hold/hold.sock"),
        mounts: vec![
            (&volume, "/hold", Access::Read),
            (&mesh, "/mesh.yaml", Access::Read),
            (&own, "/run", Access::Write),
        ],
        network: &bed.rig.client,
        seccomp: without_obj_get(profile()?)?,
        capabilities: &[],
    })?;
    has_no_privilege(&agent)?;
    let get = |path| agent::get(&bed.rig.client, path);
    wait(&agent, "/readyz is 200", || {
        get("/readyz").is_ok_and(|(status, _)| status == 200)
    })?;
    bed.storm(CONNECTS)?;
    wait(&agent, "/metrics has the storm", || {
        get("/metrics").is_ok_and(|(_, page)| connects(&page) == CONNECTS)
    })?;

    // The first process of a container hears a signal only if it listens to it.
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(holder.pid())?),
        nix::sys::signal::Signal::SIGTERM,
    )?;
    let begun = Instant::now();
    let said = holder.wait(Duration::from_secs(30))?;
    ensure!(begun.elapsed() < Duration::from_secs(2), "slow: {said}");
    ensure!(said.contains("the programs are detached"), "{said}");
    ensure!(bed.attached()? == 0, "programs stayed attached");
    wait(&agent, "/readyz is 503", || {
        get("/readyz").is_ok_and(|(status, _)| status == 503)
    })
}

/// The shipped profile less `BPF_OBJ_GET`, which nobody needs to whom maps are handed.
fn without_obj_get(mut profile: Value) -> Result<Value> {
    let rules = profile["syscalls"].as_array_mut().context("no rules")?;
    let before = rules.len();
    rules.retain(|rule| rule["names"][0] != "bpf" || rule["args"][0]["valueTwo"] != 7);
    ensure!(rules.len() + 1 == before, "the profile has no such rule");
    Ok(profile)
}

/// The control of the tests above: without the profile's rules for bpf(2) nothing works, so they are what counts.
#[test]
fn without_the_profiles_rules_for_bpf_the_maps_are_refused() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let bed = Bed::new()?;
    let output = bed.load(BOTH)?;
    ensure!(output.status.success(), "load: {}", said(&output));
    let mut profile = profile()?;
    let rules = profile["syscalls"].as_array_mut().context("no rules")?;
    let before = rules.len();
    rules.retain(|rule| rule["names"][0] != "bpf");
    ensure!(rules.len() < before, "the profile has no rule for bpf(2)");
    let container = bed.confined(profile)?;
    let report = container.wait(Duration::from_secs(30))?;
    let refused = "Operation not permitted";
    ensure!(
        report
            .lines()
            .any(|line| line.starts_with("maps ") && line.contains(refused)),
        "{report}"
    );
    Ok(())
}

/// The kernel itself would refuse most of it too: with another errno for what the profile refuses, one sees that the
/// profile comes first.
#[test]
fn the_profile_refuses_before_the_kernel_does() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let bed = Bed::new()?;
    let output = bed.load(BOTH)?;
    ensure!(output.status.success(), "load: {}", said(&output));
    let mut profile = profile()?;
    profile["defaultErrnoRet"] = libc::EXDEV.into();
    let container = bed.confined(profile)?;
    let report = container.wait(Duration::from_secs(30))?;
    for attempt in [
        "map_create",
        "prog_load",
        "packet_socket",
        "become_root",
        "user_namespace",
        "mount",
    ] {
        let line = format!("{attempt} EXDEV");
        ensure!(report.lines().any(|seen| seen == line), "{report}");
    }
    ensure!(report.lines().any(|seen| seen == "maps ok"), "{report}");
    Ok(())
}

#[test]
fn the_profile_lists_what_the_agent_needs_and_nothing_dangerous() -> Result<()> {
    const DANGEROUS: [&str; 20] = [
        "add_key",
        "delete_module",
        "finit_module",
        "fsopen",
        "init_module",
        "io_uring_setup",
        "kexec_load",
        "keyctl",
        "mount",
        "open_by_handle_at",
        "perf_event_open",
        "pivot_root",
        "process_vm_readv",
        "ptrace",
        "setns",
        "setuid",
        "umount2",
        "unshare",
        "userfaultfd",
        "vmsplice",
    ];
    let profile = profile()?;
    ensure!(
        profile["defaultAction"] == "SCMP_ACT_ERRNO",
        "open by default"
    );
    let rules = profile["syscalls"].as_array().context("no rules")?;
    let mut commands = Vec::new();
    for rule in rules {
        let names = rule["names"].as_array().context("a rule without names")?;
        for name in DANGEROUS {
            ensure!(!names.iter().any(|listed| listed == name), "`{name}`");
        }
        if names.iter().any(|name| name == "bpf") {
            let args = rule["args"].as_array().context("bpf(2) without a filter")?;
            let [arg] = args.as_slice() else {
                anyhow::bail!("one filter per command: {rule}");
            };
            ensure!(
                arg["index"] == 0 && arg["op"] == "SCMP_CMP_MASKED_EQ",
                "{rule}"
            );
            ensure!(arg["value"] == u32::MAX, "{rule}");
            commands.extend(arg["valueTwo"].as_u64());
        }
    }
    // Elements, keys, OBJ_GET, OBJ_GET_INFO_BY_FD and map batches of linux/bpf.h.
    ensure!(
        commands == [1, 2, 3, 4, 7, 15, 24, 25, 26, 27],
        "{commands:?}"
    );
    Ok(())
}

/// The other control: the same program with every privilege is refused nothing that the container refuses.
#[test]
fn root_outside_a_container_is_refused_nothing() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    sys::create_map().context("root makes a map")?;
    Ok(())
}

#[test]
fn a_loader_without_one_capability_names_it_and_leaves_nothing() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let bed = Bed::new()?;
    for (has, lacks) in [
        (["net_admin"].as_slice(), ["CAP_BPF"].as_slice()),
        (&["bpf"], &["CAP_NET_ADMIN"]),
        (&["net_raw"], &["CAP_BPF", "CAP_NET_ADMIN"]),
    ] {
        let output = bed.load(has)?;
        let said = said(&output);
        ensure!(!output.status.success(), "loaded with {has:?} only: {said}");
        for capability in ["CAP_BPF", "CAP_NET_ADMIN"] {
            let named = said.contains(&format!("`{capability}`"));
            ensure!(named == lacks.contains(&capability), "with {has:?}: {said}");
        }
        ensure!(!bed.pins.exists(), "`{}` was made", bed.pins.display());
        ensure!(bed.attached()? == 0, "programs stayed attached");
    }

    // The control: with both, the same checks see what is there.
    let output = bed.load(BOTH)?;
    ensure!(output.status.success(), "load: {}", said(&output));
    ensure!(bed.pins.exists() && bed.attached()? > 0, "nothing attached");
    let output = bed.unload()?;
    ensure!(output.status.success(), "unload: {}", said(&output));
    ensure!(
        !bed.pins.exists() && bed.attached()? == 0,
        "something stayed"
    );
    Ok(())
}

/// Arguments of `run` in a container, whose maps come from `place`.
fn agent_args(from: &str, place: &str) -> Vec<String> {
    let respond = Rig::HOME.0.to_string();
    let node = probe::remote_name(0);
    [
        "run",
        "--mesh",
        "/mesh.yaml",
        "--cluster",
        &node,
        "--node",
        "n1",
        "--plane",
        "pod",
        from,
        place,
        "--api",
        "unix:/run/api.sock",
        "--metrics",
        "127.0.0.1:9464",
        "--respond",
        &respond,
        "--background-interval",
        "off",
        "--egress-quiet",
        "1s",
    ]
    .map(str::to_owned)
    .into()
}

fn has_no_privilege(container: &Container) -> Result<()> {
    for (field, expected) in [
        ("CapEff", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapInh", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("Uid", "65532\t65532\t65532\t65532"),
        ("Gid", "65532\t65532\t65532\t65532"),
    ] {
        let seen = container.status(field)?;
        ensure!(seen == expected, "{field} is {seen}, not {expected}");
    }
    Ok(())
}

/// Connections that users made to the other cluster, as `/metrics` has them.
fn connects(page: &str) -> u64 {
    page.lines()
        .filter(|line| line.starts_with("aggrik8s_tcp_connects_total{"))
        .filter(|line| {
            line.contains("origin=\"traffic\"") && line.contains("target_cluster=\"far-1\"")
        })
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

fn wait(container: &Container, what: &str, holds: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        ensure!(
            Instant::now() < deadline,
            "not within 30 s: {what}; the agent said:\n{}",
            container.output()
        );
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// A rig, a folder with its mesh.yaml, and pins that nobody else uses; undone on drop.
struct Bed {
    rig: Rig,
    folder: PathBuf,
    pins: PathBuf,
}

impl Bed {
    fn new() -> Result<Self> {
        let rig = Rig::new("privilege", 1)?;
        let bed = Self {
            folder: leftovers::temporary("privilege"),
            rig,
            pins: leftovers::pins(),
        };
        fs::create_dir_all(bed.folder.join("run"))?;
        chown(bed.folder.join("run"), Some(USER), Some(USER))?;
        fs::write(bed.folder.join("mesh.yaml"), agent::mesh_yaml(1))?;
        Ok(bed)
    }

    /// `aggrik8s-probe load` as uid 0 and the agent's group, with these capabilities and no other.
    fn load(&self, capabilities: &[&str]) -> Result<Output> {
        let mut bounding = "-all".to_owned();
        for capability in capabilities {
            bounding = format!("{bounding},+{capability}");
        }
        let mut load = Command::new("setpriv");
        load.args(["--regid", &USER.to_string(), "--clear-groups"]);
        load.args(["--inh-caps=-all", &format!("--bounding-set={bounding}")]);
        load.arg(agent::binary()?).arg("load");
        load.arg("--mesh").arg(self.folder.join("mesh.yaml"));
        load.args(["--cluster", &probe::remote_name(0), "--node", "n1"]);
        load.arg("--cgroup").arg(self.rig.cgroup.path());
        load.arg("--pin-dir").arg(&self.pins);
        load.args(["--gid", &USER.to_string()]);
        load.output().context("start `setpriv`")
    }

    fn unload(&self) -> Result<Output> {
        let mut unload = Command::new(agent::binary()?);
        unload.arg("unload").arg("--pin-dir").arg(&self.pins);
        unload.output().context("start `aggrik8s-probe unload`")
    }

    /// Programs attached to the cgroup, of every kind we use.
    fn attached(&self) -> Result<u32> {
        sys::attached_everywhere(&File::open(self.rig.cgroup.path())?).map_err(Into::into)
    }

    /// A known number of connections for the programs to count.
    fn storm(&self) -> Result<()> {
        let plan = ClientPlan::new(self.rig.targets(PORT), CONNECTS);
        let (client, _) = self.rig.storm(&plan)?;
        ensure!(client.established == CONNECTS, "{client:?}");
        Ok(())
    }

    fn confined(&self, seccomp: Value) -> Result<Container> {
        Container::start(&Plan {
            program: &statically_linked("confined"),
            args: vec!["/pins".to_owned()],
            mounts: vec![(&self.pins, "/pins", Access::Read)],
            network: &self.rig.client,
            seccomp,
            capabilities: &[],
        })
    }

    fn agent(&self, seccomp: Value) -> Result<Container> {
        Container::start(&Plan {
            program: &statically_linked("aggrik8s-probe"),
            args: agent_args("--pin-dir", "/pins"),
            mounts: vec![
                (&self.pins, "/pins", Access::Read),
                (&self.folder.join("mesh.yaml"), "/mesh.yaml", Access::Read),
                (&self.folder.join("run"), "/run", Access::Write),
            ],
            network: &self.rig.client,
            seccomp,
            capabilities: &[],
        })
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if self.pins.exists() {
            let _ = self.unload();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn said(output: &Output) -> String {
    let code = output.status;
    let text = String::from_utf8_lossy(&output.stderr);
    format!("{code}: {text}")
}

/// The profile as it is shipped.
fn profile() -> Result<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/seccomp/agent.json");
    let text = fs::read(&path).with_context(|| format!("read `{}`", path.display()))?;
    Ok(serde_json::from_slice(&text)?)
}

/// A program that needs nothing of the container's root filesystem.
fn statically_linked(program: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let target = test.ancestors().nth(3);
    let target = target.expect("cargo builds below its target folder");
    target.join("x86_64-unknown-linux-musl/debug").join(program)
}

fn missing() -> Option<String> {
    probe::missing().or_else(container::missing).or_else(|| {
        ["aggrik8s-probe", "confined"]
            .map(statically_linked)
            .iter()
            .find(|program| !program.is_file())
            .map(|program| {
                let program = program.display();
                format!("`{program}` is missing; run `cargo xtask test privilege`")
            })
    })
}
