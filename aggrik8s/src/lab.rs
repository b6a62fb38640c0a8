//! `aggrik8s lab …`: arguments of the lab's commands, and what they print.

mod fault;
mod show;
mod signals;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use lab::{LabError, Options, OuterDf, PathDelay, Services};

/// A small mesh on this machine, with real packets and faults.
#[derive(Debug, Args)]
pub(crate) struct LabArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build a mesh of network namespaces on this machine and wait until it works
    Up(Up),
    /// Show the lab's clusters, nodes, pods, processes, faults and counters
    Status(Status),
    /// Run a program inside a pod, a node or an external client
    Exec(Exec),
    /// Break something on purpose, list what is broken, or mend it
    Fault(fault::FaultArgs),
    /// Remove the lab, or whatever is left of it
    Down(Name),
}

#[derive(Debug, Args)]
struct Name {
    /// Name of the lab
    #[arg(long, default_value = "default")]
    name: String,
}

#[derive(Debug, Args)]
struct Up {
    #[command(flatten)]
    name: Name,
    /// Build the lab of this mesh.yaml instead of the default mesh
    #[arg(short = 'f', long = "file", value_name = "MESH_YAML", conflicts_with_all = ["nodes", "clusters"])]
    file: Option<PathBuf>,
    /// Nodes of the default mesh, in all
    #[arg(long, default_value_t = 6)]
    nodes: usize,
    /// Clusters of the default mesh, 1 to 3
    #[arg(long, default_value_t = 3)]
    clusters: usize,
    /// One-way delay between two clusters or clients, both directions; may be repeated
    #[arg(long, value_name = "A:B=DURATION", value_parser = parse_delay)]
    delay: Vec<PathDelay>,
    /// Put external clients behind a cluster, so that their packets go through its side; may be repeated
    /// [default: drones=picluster in the default mesh]
    #[arg(long, value_name = "CLIENT=CLUSTER", value_parser = parse_behind)]
    behind: Vec<(String, String)>,
    /// Whether VXLAN forbids its outer packets to be fragmented
    #[arg(long, value_enum, default_value = "set")]
    outer_df: Df,
    /// How nodes translate the addresses of services: in packets, or at connect(2) as Cilium's socket load balancing does
    #[arg(long, value_enum, default_value = "dnat")]
    services: Translation,
    /// Network only: no agents, no services, no traffic
    #[arg(long)]
    bare: bool,
    /// A mounted bpffs for the agents' pins [default: one of the lab's own]
    #[arg(long, value_name = "DIR")]
    bpffs: Option<PathBuf>,
    /// Seconds to wait until everything works
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    deadline: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Df {
    Set,
    Clear,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Translation {
    Dnat,
    Connect,
}

#[derive(Debug, Args)]
struct Status {
    #[command(flatten)]
    name: Name,
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Debug, Args)]
struct Exec {
    #[command(flatten)]
    name: Name,
    /// Pod, node or external client, as `lab status` names them
    place: String,
    /// Program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Runs a lab command to its end.
pub(crate) fn run(args: LabArgs) -> ExitCode {
    let result = match args.command {
        Command::Up(up) => bring_up(&up),
        Command::Status(args) => status(&args),
        Command::Exec(args) => lab::exec(&args.name.name, &args.place, &args.command)
            .map(|code| ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))),
        Command::Fault(args) => fault::run(args),
        Command::Down(args) => lab::down(&args.name).map(|found| {
            say(&if found {
                format!("lab `{}` is down", args.name)
            } else {
                format!("there was no lab `{}`", args.name)
            })
        }),
    };
    result.unwrap_or_else(|error| complain(&error))
}

/// `aggrik8s lab-role …`: one of the lab's own processes.
pub(crate) fn role(args: &[String]) -> ExitCode {
    match lab::role::main(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {}", chain(&error));
            ExitCode::from(2)
        }
    }
}

fn bring_up(args: &Up) -> Result<ExitCode, LabError> {
    let mesh = match &args.file {
        None => lab::topology::default_mesh(args.clusters, args.nodes).map_err(LabError::Mesh)?,
        Some(path) => {
            let name = path.display().to_string();
            let text = std::fs::read_to_string(path).map_err(|source| LabError::Io {
                what: format!("read `{name}`"),
                source,
            })?;
            mesh::Mesh::parse(&name, &text).map_err(|errors| {
                LabError::Mesh(format!("\n{}", errors.render(&text).trim_end()))
            })?
        }
    };
    let mut behind = args.behind.clone();
    let (client, cluster) = lab::topology::DEFAULT_BEHIND;
    let chosen = behind.iter().any(|(name, _)| name == client);
    if args.file.is_none() && !chosen && mesh.cluster(cluster).is_some() {
        behind.push((client.into(), cluster.into()));
    }
    let program = std::env::current_exe().map_err(|source| LabError::Io {
        what: "find the path of this program".into(),
        source,
    })?;
    let probe = std::env::var_os("AGGRIK8S_PROBE")
        .map(PathBuf::from)
        .unwrap_or_else(|| program.with_file_name("aggrik8s-probe"));
    let options = Options {
        name: args.name.name.clone(),
        mesh,
        bare: args.bare,
        outer_df: match args.outer_df {
            Df::Set => OuterDf::Set,
            Df::Clear => OuterDf::Clear,
        },
        services: match args.services {
            Translation::Dnat => Services::Dnat,
            Translation::Connect => Services::Connect,
        },
        delays: args.delay.clone(),
        behind,
        bpffs: args.bpffs.clone(),
        probe: probe.is_file().then_some(probe),
        program,
        deadline: Duration::from_secs(args.deadline),
        cancel: signals::cancel_on_signal().map_err(|source| LabError::Io {
            what: "listen for signals".into(),
            source,
        })?,
    };
    let up = lab::up(&options)?;
    if up.swept > 0 {
        let _ = writeln!(
            std::io::stderr(),
            "removed what was left of an earlier lab `{}` first",
            up.lab
        );
    }
    Ok(say(&format!(
        "lab `{}` is up: {} clusters, {} nodes, {} pods in {:.1} s\nmesh: {}",
        up.lab,
        up.clusters,
        up.nodes,
        up.pods,
        up.seconds,
        up.mesh_yaml.display()
    )))
}

fn status(args: &Status) -> Result<ExitCode, LabError> {
    let status = lab::status(&args.name.name)?;
    Ok(say(&match args.output {
        Output::Json => serde_json::to_string_pretty(&status).map_err(|e| LabError::State {
            lab: args.name.name.clone(),
            message: e.to_string(),
        })?,
        Output::Text => show::status(&status),
    }))
}

fn parse_delay(text: &str) -> Result<PathDelay, String> {
    let form = || format!("`{text}` is not of the form `talos-east:picluster=20ms`");
    let (pair, delay) = text.split_once('=').ok_or_else(form)?;
    let (a, b) = pair.split_once(':').ok_or_else(form)?;
    let delay = lab::line::unit::parse_duration(delay).map_err(|e| e.to_string())?;
    Ok(PathDelay {
        a: a.into(),
        b: b.into(),
        delay,
    })
}

fn parse_behind(text: &str) -> Result<(String, String), String> {
    let (client, cluster) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` is not of the form `drones=picluster`"))?;
    Ok((client.into(), cluster.into()))
}

/// The result, on standard output. A reader that went away is no failure of the lab.
fn say(text: &str) -> ExitCode {
    let _ = writeln!(std::io::stdout(), "{text}");
    ExitCode::SUCCESS
}

fn complain(error: &LabError) -> ExitCode {
    let mut stderr = std::io::stderr();
    let _ = writeln!(stderr, "error: {}", chain(error));
    if let Some(hint) = error.hint() {
        let _ = writeln!(stderr, "hint: {hint}");
    }
    ExitCode::from(error.exit_code())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}
