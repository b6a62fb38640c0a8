//! `aggrik8s-probe hold`: attaches, gives up every capability, and hands the maps to the agent for as long as it lives.
//! When it ends, however it ends, the programs are off the cgroup: nothing is pinned anywhere.

pub mod client;
pub mod hello;
pub mod server;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::kernel::{self, declare::Declared};
use crate::load::{CommandError, WhatArgs, describe, finish};
use crate::privilege;
use crate::sys::{loader, selfcheck};
use server::Bound;

/// The agent's user in a cluster.
const AGENT: u32 = 65_532;

#[derive(Debug, Args)]
pub struct HoldArgs {
    #[command(flatten)]
    pub what: WhatArgs,
    /// Where the agent asks for the maps: a unix socket, made once the programs are attached.
    #[arg(long, env = "AGGRIK8S_SOCKET", value_name = "PATH")]
    pub socket: PathBuf,
    /// The only user that is given the maps: the agent's.
    #[arg(long, env = "AGGRIK8S_UID", value_name = "UID", default_value_t = AGENT)]
    pub uid: u32,
}

#[derive(Debug, Args)]
pub struct AskArgs {
    /// The socket of `hold`.
    #[arg(long, env = "AGGRIK8S_SOCKET", value_name = "PATH")]
    pub socket: PathBuf,
}

/// `aggrik8s-probe hold`: returns when it was told to stop. Exit code 0, or 2 with the reason on stderr.
#[must_use]
pub fn main(args: &HoldArgs) -> ExitCode {
    if args.what.check {
        let checked = args.what.prepare().and_then(|(options, _)| {
            let report = selfcheck::run(&options, None)?;
            Ok(describe(&report, true))
        });
        return finish(checked);
    }
    finish(hold(args).map(|()| String::new()))
}

fn hold(args: &HoldArgs) -> Result<(), CommandError> {
    // Before anything is attached: a signal then ends what comes after in good order, also for the first process of a
    // container, which otherwise would not hear it.
    let mut stop = SigSet::empty();
    stop.add(Signal::SIGTERM);
    stop.add(Signal::SIGINT);
    stop.thread_block().map_err(CommandError::Signals)?;
    let signals = SignalFd::with_flags(&stop, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(CommandError::Signals)?;

    server::free(&args.socket)?;
    let (options, mesh) = args.what.prepare()?;
    let held = loader::hold(&options)?;
    if let Some(mesh) = mesh {
        kernel::declare(&mut held.maps()?, &Declared::of(&mesh))?;
    }
    let bound = Bound::new(&args.socket, args.what.gid)?;
    let out_of_reach = privilege::give_up()?;
    // Only now: nobody ever talks to a privileged process.
    let server = bound.listen(args.uid)?;
    let _ = std::io::stdout().write_all(describe(&held.report, false).as_bytes());
    tracing::info!(
        socket = %args.socket.display(),
        uid = args.uid,
        bounding = out_of_reach.join(", "),
        "holding, without any capability; the bounding set is what this process could not take away, and cannot use"
    );
    let ended = server.serve(&held, &signals);
    // From here a second signal ends us at once.
    let _ = stop.thread_unblock();
    drop(server);
    drop(held);
    ended?;
    tracing::info!("stopped: the programs are detached");
    Ok(())
}

/// `aggrik8s-probe ask`: exit code 0 if a holder answers, 2 with the reason otherwise. For a kubelet's probes.
#[must_use]
pub fn ask_main(args: &AskArgs) -> ExitCode {
    let asked = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CommandError::Runtime)
        .and_then(|runtime| Ok(runtime.block_on(client::greet(&args.socket))?));
    finish(asked.map(|greeting| {
        format!(
            "held by version {}, layout {}\n",
            greeting.hello.version, greeting.hello.layout
        )
    }))
}
