//! The command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use mesh::observation::Plane;

use crate::background::Interval;
use crate::hold::{AskArgs, HoldArgs};
use crate::kernel::egress::Quiet;
use crate::listen::Address;
use crate::load::{LoadArgs, UnloadArgs};
use crate::seccomp::ProfileArgs;

/// The agent of aggrik8s.
#[derive(Debug, Parser)]
#[command(name = "aggrik8s-probe", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// Which log lines are written to stderr, e.g. `info` or `probe_user=debug`.
    #[arg(
        long,
        global = true,
        env = "AGGRIK8S_LOG",
        default_value = "info",
        value_name = "FILTER"
    )]
    pub log: String,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure and answer, without any privilege.
    Run(RunArgs),
    /// Attach the kernel programs and pin them, as root with BPF and NET_ADMIN only.
    Load(LoadArgs),
    /// Detach and unpin them; the counts end.
    Unload(UnloadArgs),
    /// Write the agent's seccomp profile into a folder of the kubelet.
    SeccompProfile(ProfileArgs),
    /// Attach the kernel programs, give up every capability, and keep them as long as this process lives.
    Hold(HoldArgs),
    /// Ask whether a holder has attached and answers, for a kubelet's probes.
    Ask(AskArgs),
}

/// The namespace from which the agent probes.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum PlaneArg {
    Pod,
    Node,
}

impl From<PlaneArg> for Plane {
    fn from(plane: PlaneArg) -> Self {
        match plane {
            PlaneArg::Pod => Self::Pod,
            PlaneArg::Node => Self::Node,
        }
    }
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// The mesh that this node is part of; changes are followed.
    #[arg(long, env = "AGGRIK8S_MESH", value_name = "FILE")]
    pub mesh: PathBuf,
    /// Cluster of this node.
    #[arg(long, env = "AGGRIK8S_CLUSTER", value_name = "NAME")]
    pub cluster: String,
    /// This node.
    #[arg(long, env = "AGGRIK8S_NODE", value_name = "NAME")]
    pub node: String,
    /// The namespace from which this process probes.
    #[arg(long, env = "AGGRIK8S_PLANE", value_enum, default_value = "pod")]
    pub plane: PlaneArg,
    /// Pins of the kernel programs, as `load` made them; without them and a holder there is no kernel witness.
    #[arg(long, env = "AGGRIK8S_PIN_DIR", value_name = "DIR")]
    pub pin_dir: Option<PathBuf>,
    /// The socket of `hold`, from which the kernel programs' maps come.
    #[arg(
        long,
        env = "AGGRIK8S_MAPS_FROM",
        value_name = "PATH",
        conflicts_with = "pin_dir"
    )]
    pub maps_from: Option<PathBuf>,
    /// Where the API listens: `unix:/path` or `IP:PORT`. Anything but loopback needs --tls-*.
    #[arg(long, env = "AGGRIK8S_API", value_name = "ADDRESS")]
    pub api: Address,
    /// CA of the callers' certificates, PEM.
    #[arg(long, env = "AGGRIK8S_TLS_CA", value_name = "FILE", requires_all = ["tls_cert", "tls_key"])]
    pub tls_ca: Option<PathBuf>,
    /// Our certificate, PEM.
    #[arg(long, env = "AGGRIK8S_TLS_CERT", value_name = "FILE", requires_all = ["tls_ca", "tls_key"])]
    pub tls_cert: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, env = "AGGRIK8S_TLS_KEY", value_name = "FILE", requires_all = ["tls_ca", "tls_cert"])]
    pub tls_key: Option<PathBuf>,
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    #[arg(long, env = "AGGRIK8S_METRICS", value_name = "IP:PORT")]
    pub metrics: SocketAddr,
    /// Addresses at which probes are answered.
    #[arg(
        long,
        env = "AGGRIK8S_RESPOND",
        value_name = "IP[,IP…]",
        value_delimiter = ',',
        required = true
    )]
    pub respond: Vec<IpAddr>,
    /// One round of background probes per interval, or `off`.
    #[arg(
        long,
        env = "AGGRIK8S_BACKGROUND_INTERVAL",
        value_name = "TIME",
        default_value = "10s"
    )]
    pub background_interval: Interval,
    /// How long nothing that needs the per-packet program must be found before it rests, or `off`: it never does.
    #[arg(
        long,
        env = "AGGRIK8S_EGRESS_QUIET",
        value_name = "TIME",
        default_value = "30s"
    )]
    pub egress_quiet: Quiet,
    /// Run although this process has privileges that it does not need; said in /readyz.
    #[arg(long)]
    pub allow_privileged: bool,
}
