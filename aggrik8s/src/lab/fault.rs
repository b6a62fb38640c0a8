//! `aggrik8s lab fault …`: faults by name, each with its own arguments.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use lab::LabError;
use lab::fault::{Clear, FaultKind, Trouble};
use lab::line::fault::{EndpointRef, Rule};

use super::{Name, Output, say};

#[derive(Debug, Args)]
pub(super) struct FaultArgs {
    /// Name of the lab
    #[arg(long, default_value = "default", global = true)]
    name: String,
    #[command(subcommand)]
    fault: Fault,
}

/// A path direction. Each end is `cluster`, `cluster/node`, an external client, or `*`.
// The variant `Path` has a group of that name already.
#[derive(Debug, Args)]
#[group(id = "path_direction")]
struct Path {
    #[arg(long)]
    source: EndpointRef,
    #[arg(long)]
    target: EndpointRef,
    /// Only these packets: tcp, udp, icmp, vxlan, inner-tcp, inner-udp or inner-icmp
    #[arg(long, default_value = "any")]
    only: String,
}

#[derive(Debug, Subcommand)]
enum Fault {
    /// Nothing passes on the path direction
    Blackhole {
        #[command(flatten)]
        path: Path,
    },
    /// Lose a share of the packets of a path direction
    Loss {
        #[command(flatten)]
        path: Path,
        #[arg(long)]
        percent: f64,
    },
    /// Take longer on a path direction
    Delay {
        #[command(flatten)]
        path: Path,
        #[arg(long)]
        ms: f64,
    },
    /// Any rule of the line, e.g. `jitter=normal:5ms:1ms`, `loss=burst:1%:25%`, `mtu=1400:silent`
    Path {
        rule: String,
        #[command(flatten)]
        path: Path,
    },
    /// Drop pod traffic of a cluster on its way to agents of a cluster or node
    PolicyDeny {
        #[arg(long)]
        source: String,
        #[arg(long)]
        target: EndpointRef,
    },
    /// Kill a service's backends
    BackendDown {
        #[arg(long, default_value = "ndvi")]
        service: String,
        /// Only those in this cluster
        #[arg(long)]
        cluster: Option<String>,
    },
    /// Let the nodes of a cluster find a global service's backends in the wrong clusters
    ServiceRedirect {
        #[arg(long)]
        service: String,
        /// The cluster whose nodes are wrong
        #[arg(long)]
        at: String,
        /// Clusters whose backends answer them
        #[arg(long, required = true)]
        to: Vec<String>,
    },
    /// Kill both agents of a node
    AgentKilled { node: String },
    /// Kill a cluster's DNS server
    DnsDown { cluster: String },
    /// Let a cluster's DNS server answer as it should not
    Dns {
        cluster: String,
        /// nxdomain, servfail, silent, slow (300 ms) or wrong (another address)
        #[arg(long)]
        how: Trouble,
    },
    /// Give a node's agents the processor only for a share of the time
    Starve {
        node: String,
        #[arg(long, default_value_t = 5.0)]
        percent: f64,
    },
    /// What is broken now
    List {
        #[arg(short, long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Mend a fault by its id, or all
    Clear {
        #[arg(required_unless_present = "all")]
        id: Option<String>,
        #[arg(long, conflicts_with = "id")]
        all: bool,
    },
}

pub(super) fn run(args: FaultArgs) -> Result<ExitCode, LabError> {
    let lab = Name { name: args.name };
    let kind = match args.fault {
        Fault::List { output } => return list(&lab.name, output),
        Fault::Clear { id, .. } => return clear(&lab.name, id),
        Fault::Blackhole { path } => on_path("blackhole".into(), path)?,
        Fault::Loss { path, percent } => on_path(format!("loss={percent}%"), path)?,
        Fault::Delay { path, ms } => on_path(format!("delay={ms}ms"), path)?,
        Fault::Path { rule, path } => on_path(rule, path)?,
        Fault::PolicyDeny { source, target } => FaultKind::PolicyDeny { source, target },
        Fault::BackendDown { service, cluster } => FaultKind::BackendDown { service, cluster },
        Fault::ServiceRedirect { service, at, to } => {
            FaultKind::ServiceRedirect { service, at, to }
        }
        Fault::AgentKilled { node } => FaultKind::AgentKilled { node },
        Fault::DnsDown { cluster } => FaultKind::DnsDown { cluster },
        Fault::Dns { cluster, how } => FaultKind::DnsTrouble {
            cluster,
            trouble: how,
        },
        Fault::Starve { node, percent } => FaultKind::Starve {
            node,
            share: percent / 100.0,
        },
    };
    let fault = lab::fault::set(&lab.name, kind)?;
    Ok(say(&format!("{}: {}", fault.id, fault.kind)))
}

fn on_path(rule: String, path: Path) -> Result<FaultKind, LabError> {
    let text = if path.only == "any" {
        rule
    } else {
        format!("{rule}@{}", path.only)
    };
    let rule: Rule = text
        .parse()
        .map_err(|e| LabError::Fault(super::chain(&e as &lab::line::fault::FaultError)))?;
    Ok(FaultKind::Path {
        source: path.source,
        target: path.target,
        rule,
    })
}

fn list(lab: &str, output: Output) -> Result<ExitCode, LabError> {
    let faults = lab::fault::list(lab)?;
    Ok(say(&match output {
        Output::Json => serde_json::to_string_pretty(&faults).map_err(|e| LabError::State {
            lab: lab.into(),
            message: e.to_string(),
        })?,
        Output::Text if faults.is_empty() => "no faults".into(),
        Output::Text => faults
            .iter()
            .map(|f| format!("{}: {}", f.id, f.kind))
            .collect::<Vec<_>>()
            .join("\n"),
    }))
}

fn clear(lab: &str, id: Option<String>) -> Result<ExitCode, LabError> {
    let which = id.map_or(Clear::All, Clear::One);
    let cleared = lab::fault::clear(lab, &which)?;
    Ok(say(&if cleared.is_empty() {
        "no faults".into()
    } else {
        cleared
            .iter()
            .map(|f| format!("cleared {}: {}", f.id, f.kind))
            .collect::<Vec<_>>()
            .join("\n")
    }))
}
