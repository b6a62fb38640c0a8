//! Brings a lab up: checks, builds, starts, waits until it is measured to work.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::unistd::geteuid;

use crate::cgroup;
use crate::down::sweep;
use crate::error::{During, LabError, Result};
use crate::net;
use crate::options::Options;
use crate::paths::RunDir;
use crate::process::{AGENT_ID, ProcessSpec};
use crate::ready;
use crate::state::{Lock, Phase, State};
use crate::sys::may_go_realtime;
use crate::topology::{Topology, plan, put_behind};
use crate::workload::{Workload, agent_specs, line_spec, service_specs};
use crate::{line_setup, mesh_file};

/// What `up` did.
#[derive(Debug, serde::Serialize)]
pub struct Up {
    pub lab: String,
    pub clusters: usize,
    pub nodes: usize,
    pub pods: usize,
    /// Remains of an earlier lab of this name that were removed first: namespaces and processes.
    pub swept: usize,
    pub mesh_yaml: PathBuf,
    pub seconds: f64,
}

/// Root, tools and cgroup v2: what every command that changes a lab needs.
pub(crate) fn check_machine() -> Result<()> {
    if !geteuid().is_root() {
        return Err(LabError::NotRoot);
    }
    net::check_tools()?;
    cgroup::mount_point().map(drop)
}

/// Brings up a lab and returns when it works: every agent answers, and a connection crosses every
/// path in both address families.
///
/// # Errors
/// Whatever was missing or failed. Then nothing is left behind, except after
/// [`LabError::NotReady`], where the lab stays for inspection.
pub fn up(options: &Options) -> Result<Up> {
    let begin = Instant::now();
    let run = RunDir::new(&options.name)?;
    check_machine()?;
    if let Some(path) = &options.bpffs {
        check_bpffs(path)?;
    }
    if options.probe.is_none() && !options.bare {
        return Err(LabError::NoProbe(options.program.display().to_string()));
    }
    let mut topology = plan(&options.name, &options.mesh).map_err(LabError::Mesh)?;
    for (client, cluster) in &options.behind {
        put_behind(&mut topology, client, cluster).map_err(LabError::Mesh)?;
    }
    line_setup::check_delays(&topology, &options.delays)?;
    let _lock = Lock::take(&run)?;
    if State::read(&run).is_ok_and(|state| state.running()) {
        return Err(LabError::AlreadyUp(options.name.clone()));
    }
    let swept = sweep(&run)?;
    let proceed = || options.cancel.check();
    let mut state = State {
        phase: Phase::Building,
        topology,
        outer_df: options.outer_df,
        services: options.services,
        bare: options.bare,
        bpffs: options.bpffs.clone().unwrap_or_else(|| run.bpffs()),
        processes: Vec::new(),
        faults: Vec::new(),
        next_fault: 1,
    };
    let built = build(options, &run, &mut state, &proceed);
    let result = built.and_then(|()| ready::wait(options, &run, &state));
    match result {
        Ok(()) => state.phase = Phase::Up,
        Err(LabError::NotReady { .. }) => state.phase = Phase::Failed,
        Err(error) => {
            // A tool that died of the same Ctrl-C is not the news.
            let error = options.cancel.check().err().unwrap_or(error);
            if let Err(leftover) = sweep(&run) {
                tracing::error!(error = %leftover, "the unfinished lab could not be removed");
            }
            return Err(error);
        }
    }
    state.write(&run)?;
    result?;
    Ok(Up {
        lab: options.name.clone(),
        clusters: state.topology.clusters.len(),
        nodes: state.topology.nodes().count(),
        pods: state.topology.pods().count(),
        swept,
        mesh_yaml: run.mesh_yaml(),
        seconds: begin.elapsed().as_secs_f64(),
    })
}

fn build(
    options: &Options,
    run: &RunDir,
    state: &mut State,
    proceed: &(dyn Fn() -> Result<()> + Sync),
) -> Result<()> {
    make_run_dir(run)?;
    // From here on a kill -9 leaves a state that the next command recognises.
    state.write(run)?;
    make_cgroups(&state.topology)?;
    if options.services == net::Services::Connect {
        // Before the agents' programs, which so see where a connection really goes.
        let dir = cgroup::lab_dir(&state.topology.lab)?;
        for cluster in &state.topology.clusters {
            let cgroups: Vec<_> = cluster.nodes.iter().map(|n| dir.join(&n.key)).collect();
            let entries = net::entries(&state.topology, &cluster.name, &[]);
            net::translate_at_connect(&cgroups, &entries)?;
        }
    }
    net::build(&state.topology, options.outer_df, options.services, proceed)?;
    fs::write(
        run.line_config(),
        line_setup::config(&state.topology, &options.delays)?,
    )
    .during(|| format!("write {}", run.line_config().display()))?;
    mesh_file::write(options, run, &state.topology)?;
    let work = Workload {
        run,
        topology: &state.topology,
        program: &options.program,
        realtime: realtime(),
    };
    let mut specs = vec![line_spec(&work)?];
    specs.extend(service_specs(&work, options.bare)?);
    if let (Some(probe), false) = (&options.probe, options.bare) {
        mount_bpffs(options, run)?;
        let probe = reachable(run, probe)?;
        let (loads, runs) = agent_specs(&work, &probe, &state.bpffs)?;
        net::each(&loads, |spec: &ProcessSpec| {
            proceed().and_then(|()| spec.run(Duration::from_secs(20)))
        })?;
        specs.extend(runs);
    }
    for spec in specs {
        proceed()?;
        state.processes.push(spec.start()?);
    }
    state.write(run)
}

fn realtime() -> bool {
    match may_go_realtime() {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, "the lab's processes run with ordinary priority: on a busy machine measurements will be void");
            false
        }
    }
}

fn make_run_dir(run: &RunDir) -> Result<()> {
    let own = [
        run.dir().to_owned(),
        run.logs(),
        run.agents(),
        run.stats(),
        run.dir().join("resolv"),
    ];
    for dir in run.parents().into_iter().chain(own) {
        fs::create_dir_all(&dir).during(|| format!("create {}", dir.display()))?;
        // Whatever the umask: agents run as nobody in particular, and must get through.
        set_mode(&dir, 0o755)?;
    }
    // Agents make their sockets there.
    chown(run.agents(), Some(0), Some(AGENT_ID))
        .during(|| format!("chown {}", run.agents().display()))?;
    set_mode(&run.agents(), 0o770)
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .during(|| format!("chmod {}", path.display()))
}

/// Shows the agent's binary in the run directory. Where it was built may be closed to other users,
/// and /run may forbid execution, so that a copy would not run; a bind mount does.
fn reachable(run: &RunDir, probe: &Path) -> Result<PathBuf> {
    let shown = run.probe();
    File::create(&shown).during(|| format!("create {}", shown.display()))?;
    mount(
        Some(probe),
        &shown,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .during(|| format!("show {} at {}", probe.display(), shown.display()))?;
    Ok(shown)
}

fn make_cgroups(topology: &Topology) -> Result<()> {
    let dir = cgroup::lab_dir(&topology.lab)?;
    cgroup::create(&dir.join(cgroup::OUTSIDE))?;
    topology
        .nodes()
        .try_for_each(|(_, node)| cgroup::create(&dir.join(&node.key)))
}

fn check_bpffs(path: &Path) -> Result<()> {
    let stat = nix::sys::statfs::statfs(path).during(|| format!("look at {}", path.display()))?;
    if stat.filesystem_type() != nix::sys::statfs::BPF_FS_MAGIC {
        return Err(LabError::NoBpffs(path.display().to_string()));
    }
    Ok(())
}

fn mount_bpffs(options: &Options, run: &RunDir) -> Result<()> {
    if options.bpffs.is_some() {
        return Ok(());
    }
    let path = run.bpffs();
    fs::create_dir_all(&path).during(|| format!("create {}", path.display()))?;
    mount(
        Some("bpffs"),
        &path,
        Some("bpf"),
        MsFlags::empty(),
        Some("mode=0755"),
    )
    .during(|| format!("mount a bpffs at {}", path.display()))
}
