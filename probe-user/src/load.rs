//! Commands `load`, `load --check` and `unload`: the short, privileged part of the agent; and what `hold` shares.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;
use mesh::{Mesh, observation::NodeRef};
use probe_common::maps::SOCKET_TABLE;

use crate::{
    hold::{client::AskError, server::SocketError},
    kernel::{self, declare::Declared},
    privilege::PrivilegeError,
    reload::{self, MeshError},
    sys::{
        loader::{self, LoadError, LoadReport, Options},
        maps::{Maps, MapsError},
        memory::DEFAULT_SERIES_CAP,
        selfcheck::{self, CheckError},
    },
};

/// What is attached where: the same for `load` and `hold`.
#[derive(Debug, Args)]
pub struct WhatArgs {
    /// The mesh that this node is part of: whose addresses are whose, from the first connection on.
    /// Without it everybody is `world` until the agent runs.
    #[arg(long, env = "AGGRIK8S_MESH", value_name = "FILE", requires_all = ["cluster", "node"])]
    pub mesh: Option<PathBuf>,
    /// Cluster of this node.
    #[arg(long, env = "AGGRIK8S_CLUSTER", value_name = "NAME")]
    pub cluster: Option<String>,
    /// This node.
    #[arg(long, env = "AGGRIK8S_NODE", value_name = "NAME")]
    pub node: Option<String>,
    /// Folder of the cgroup (v2) whose sockets are watched, with those of its children.
    #[arg(long, env = "AGGRIK8S_CGROUP", value_name = "DIR")]
    pub cgroup: PathBuf,
    /// Group that may use the maps: the agent's.
    #[arg(long, env = "AGGRIK8S_GID", value_name = "GID")]
    pub gid: Option<u32>,
    /// Most series; what comes after is counted as `~other`.
    #[arg(long, env = "AGGRIK8S_SERIES_CAP", value_name = "N", default_value_t = DEFAULT_SERIES_CAP)]
    pub series_cap: u32,
    /// Connections whose state has room in the table; that of others lies in socket storage, which costs more.
    #[arg(long, env = "AGGRIK8S_STATES", value_name = "N", default_value_t = SOCKET_TABLE)]
    pub states: u32,
    /// Only try: attach in a scratch cgroup, make one connection, require that it is counted, remove everything.
    #[arg(long)]
    pub check: bool,
}

impl WhatArgs {
    /// What to load, and the mesh to declare.
    pub(crate) fn prepare(&self) -> Result<(Options, Option<Mesh>), CommandError> {
        let mesh = match (&self.mesh, &self.cluster, &self.node) {
            (Some(path), Some(cluster), Some(node)) => {
                let me = NodeRef {
                    cluster: cluster.clone(),
                    node: node.clone(),
                };
                Some(reload::first(path, &me)?.0)
            }
            _ => None,
        };
        let options = Options {
            gid: self.gid,
            series_cap: self.series_cap,
            states: self.states,
            ..Options::new(&self.cgroup)
        };
        Ok((options, mesh))
    }
}

#[derive(Debug, Args)]
pub struct LoadArgs {
    #[command(flatten)]
    pub what: WhatArgs,
    /// Folder below a bpffs for the pins.
    #[arg(long, env = "AGGRIK8S_PIN_DIR", value_name = "DIR")]
    pub pin_dir: PathBuf,
}

#[derive(Debug, Args)]
pub struct UnloadArgs {
    /// The pin folder that `load` was given.
    #[arg(long, env = "AGGRIK8S_PIN_DIR", value_name = "DIR")]
    pub pin_dir: PathBuf,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error("cannot read the mesh")]
    Mesh(#[from] MeshError),
    #[error("cannot write the mesh into the maps")]
    Maps(#[from] MapsError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(transparent)]
    Privilege(#[from] PrivilegeError),
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("cannot wait for signals")]
    Signals(#[source] nix::errno::Errno),
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
}

impl CommandError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Load(error) => error.hint().map(Into::into),
            Self::Check(error) => error.hint().map(Into::into),
            Self::Maps(error) => error.hint().map(Into::into),
            Self::Socket(error) => error.hint().map(Into::into),
            Self::Ask(error) => error.hint().map(Into::into),
            Self::Mesh(_) | Self::Privilege(_) | Self::Signals(_) | Self::Runtime(_) => None,
        }
    }
}

/// `aggrik8s-probe load`: exit code 0, or 2 with the reason on stderr.
#[must_use]
pub fn main(args: &LoadArgs) -> ExitCode {
    finish(load(args).map(|(report, checked)| describe(&report, checked)))
}

/// `aggrik8s-probe unload`.
#[must_use]
pub fn unload_main(args: &UnloadArgs) -> ExitCode {
    let pins = args.pin_dir.display();
    finish(
        loader::unload(&args.pin_dir)
            .map(|was_there| match was_there {
                true => format!("unloaded `{pins}`\n"),
                false => format!("nothing was loaded at `{pins}`\n"),
            })
            .map_err(CommandError::from),
    )
}

fn load(args: &LoadArgs) -> Result<(LoadReport, bool), CommandError> {
    let (options, mesh) = args.what.prepare()?;
    if args.what.check {
        return Ok((selfcheck::run(&options, Some(&args.pin_dir))?, true));
    }
    let report = loader::load(&options, &args.pin_dir)?;
    if let Some(mesh) = mesh {
        kernel::declare(&mut Maps::open(&args.pin_dir)?, &Declared::of(&mesh))?;
    }
    Ok((report, false))
}

pub(crate) fn describe(report: &LoadReport, checked: bool) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    let did = match checked {
        true => "checked, one connection seen at both ends, and removed".to_owned(),
        false => report.action.to_string(),
    };
    let _ = writeln!(text, "{did}: object sha256 {}", report.object);
    for program in &report.programs {
        let state = program.refused.as_deref().unwrap_or("attached");
        let _ = writeln!(text, "  {:<13} {state}", program.program);
    }
    let _ = writeln!(text, "  memory        {}", report.memory.formula());
    for note in &report.notes {
        let _ = writeln!(text, "  note: {note}");
    }
    text
}

pub(crate) fn finish(result: Result<String, CommandError>) -> ExitCode {
    match result {
        Ok(text) => {
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let mut text = format!("aggrik8s-probe: {error}");
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                text.push_str(&format!(": {cause}"));
                source = cause.source();
            }
            if let Some(hint) = error.hint() {
                text.push_str(&format!("\nhint: {hint}"));
            }
            let _ = writeln!(io::stderr(), "{text}");
            ExitCode::from(2)
        }
    }
}
