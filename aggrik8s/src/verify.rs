//! `aggrik8s verify`: plan, collect, judge, render.

mod baseline;
mod believe;
mod clock;
mod collect;
mod contexts;
mod measure;
mod plan;
mod progress;
mod signals;
mod wait;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use clap::{Args, ValueEnum};
use mesh::Mesh;
use verify::report::{Occasion, Tool};
use verify::{Baseline, Policy, Report, judge};

use crate::cli::{Global, complain, say};
use crate::exit;
use crate::render::{self, style::Style};

/// Where `lab up` leaves its files.
const LAB_FOLDER: &str = "/run/aggrik8s/lab";

/// What a run may take beyond the window of its first look.
const SLACK: Duration = Duration::from_secs(48);

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The mesh to verify
    #[arg(
        short = 'f',
        long = "file",
        value_name = "MESH_YAML",
        env = "AGGRIK8S_MESH",
        required_unless_present_any = ["lab", "contexts"],
        conflicts_with = "lab"
    )]
    file: Option<PathBuf>,
    /// Verify the lab on this machine, by its own mesh.yaml
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "default")]
    lab: Option<String>,
    /// Judge the control planes of these contexts of the kubeconfig, with nothing installed
    #[arg(
        long,
        value_name = "CONTEXT",
        value_delimiter = ',',
        num_args = 1,
        conflicts_with_all = ["file", "lab", "wait", "window", "budget", "baseline", "save_baseline"]
    )]
    contexts: Vec<String>,
    /// Where the contexts are [default: KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "PATH", requires = "contexts")]
    kubeconfig: Option<PathBuf>,
    /// Form of the answer
    #[arg(
        short,
        long,
        value_enum,
        default_value = "table",
        env = "AGGRIK8S_OUTPUT"
    )]
    output: Output,
    /// Verify again and again until READY, or until --timeout; the answer is the last verdict
    #[arg(long)]
    wait: bool,
    /// Longest the whole run may take; what is missing then is unknown [default: 48s more than the window, with --wait 10min, with --contexts 10s]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    /// How long the probes are spread over; a window longer than the default sends more of them
    #[arg(long, value_name = "DURATION", default_value = "12s", value_parser = humantime::parse_duration)]
    window: Duration,
    /// Most bytes that probes of one node may send and receive, such as 5MB; fewer probes are sent if need be
    #[arg(long, value_name = "BYTES", value_parser = plan::parse_bytes)]
    budget: Option<u64>,
    /// Compare latency with the run that is kept in this file (check latency.baseline)
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Keep the latency of this run, if it is READY, to compare later runs with
    #[arg(long, value_name = "FILE")]
    save_baseline: Option<PathBuf>,
    /// Keep it even if the run is not READY
    #[arg(long, requires = "save_baseline")]
    even_if_not_ready: bool,
    /// Checks to judge, by id or glob; may be repeated. evidence.* is always judged
    #[arg(long, value_name = "GLOB")]
    only: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Output {
    /// Links, checks, and what failed and why
    Table,
    /// The whole report, schema/verify.schema.json
    Json,
    /// Only what is wrong, to paste into a chat
    Short,
    /// For CI systems: a suite per family of checks, a case per check and place
    Junit,
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
enum VerifyError {
    #[error("cannot read `{path}`")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
        lab: Option<String>,
    },
    #[error("`{0}` is not the name of a lab")]
    LabName(String),
    /// Every problem of mesh.yaml, rendered with its lines.
    #[error("{0}")]
    Mesh(String),
    #[error(transparent)]
    Unprovable(#[from] plan::Unprovable),
    #[error(transparent)]
    Baseline(#[from] baseline::FileError),
    #[error("nothing can be judged")]
    Judge(#[from] verify::JudgeError),
    #[error("no cluster can be asked")]
    Contexts(#[source] clusters::ContextError),
    #[error("cannot start")]
    Runtime(#[source] std::io::Error),
}

impl VerifyError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Read { lab: Some(name), .. } => Some(if name == "default" {
                "`aggrik8s lab up` builds it".to_owned()
            } else {
                format!("`aggrik8s lab up --name {name}` builds it")
            }),
            Self::Read { lab: None, .. } => Some("name the file with -f, or a running lab with --lab".to_owned()),
            Self::Judge(verify::JudgeError::UnknownCheck(_)) => Some("`aggrik8s explain` lists all checks".to_owned()),
            Self::Unprovable(objective) => Some(objective.hint()),
            Self::Baseline(error) => Some(error.hint()),
            Self::Contexts(error) => Some(error.hint()),
            Self::Judge(verify::JudgeError::NeedsContexts(_)) => Some("name clusters with --contexts".to_owned()),
            Self::Judge(verify::JudgeError::NeedsMesh(_)) => Some("name a mesh with -f, or a running lab with --lab".to_owned()),
            Self::Judge(verify::JudgeError::NoBaseline) => Some("name one with --baseline".to_owned()),
            Self::Judge(verify::JudgeError::EmptyLink { .. }) => Some("list its nodes in mesh.yaml, or let its API server name them: `aggrik8s verify --contexts …`".to_owned()),
            Self::Judge(verify::JudgeError::EmptyScope) => Some("declare a second cluster, or `links:`, in mesh.yaml".to_owned()),
            Self::Judge(verify::JudgeError::Unprovable { .. }) => {
                Some("declare an objective that allows more than 0.01 % to be bad; tighter ones need a longer window than a fresh run has".to_owned())
            }
            _ => None,
        }
    }
}

pub fn run(args: &VerifyArgs, global: &Global) -> ExitCode {
    let decided = if args.contexts.is_empty() {
        verdict(args, global)
    } else {
        contexts::verdict(args, global)
    };
    match decided {
        Ok(code) => ExitCode::from(code),
        Err(VerifyError::Mesh(problems)) => {
            let _ = write!(std::io::stderr(), "{problems}");
            ExitCode::from(exit::USAGE)
        }
        Err(error) => complain(&error, error.hint().as_deref()),
    }
}

fn verdict(args: &VerifyArgs, global: &Global) -> Result<u8, VerifyError> {
    let started = Instant::now();
    let mesh = read(args)?;
    let policy = Policy {
        only: args.only.clone(),
        today: None,
        baseline: args
            .baseline
            .as_deref()
            .map(|path| baseline::read(path, &mesh))
            .transpose()?,
    };
    verify::check_scope(&mesh, &policy)?;
    let keep = args
        .save_baseline
        .as_deref()
        .map(|path| baseline::Keep::new(path, args.even_if_not_ready))
        .transpose()?;
    let plan = plan::Plan::new(&mesh, &policy, args.window, args.budget);
    plan.provable(&mesh, &policy)?;
    let run = plan.window().saturating_add(SLACK);
    let timeout = args
        .timeout
        .unwrap_or(if args.wait { wait::TIMEOUT } else { run });
    let measures = measure::Measures::new(
        &mesh,
        &policy,
        args.budget
            .map(|budget| budget.saturating_sub(plan.most_bytes())),
    );
    if !global.quiet {
        let _ = writeln!(std::io::stderr(), "{}", plan.budget());
        if let Some(measures) = measures.budget() {
            let _ = writeln!(std::io::stderr(), "        {measures}");
        }
    }
    let mut last = None;
    loop {
        let left = timeout.saturating_sub(started.elapsed());
        let limit = if args.wait { left.min(run) } else { timeout };
        match once(&mesh, (&plan, &measures), &policy, limit, global)? {
            Ok(found) => last = Some(found),
            Err(code) if last.is_none() => {
                let _ = writeln!(
                    std::io::stderr(),
                    "stopped by a signal before anything was decided"
                );
                return Ok(code);
            }
            Err(_) => break,
        }
        let left = timeout.saturating_sub(started.elapsed());
        let report = last.as_ref().map(|(report, _)| report);
        let ready = report.is_some_and(|report| report.exit_code == exit::HOLDS);
        if !args.wait || ready || !wait::again(report, left, args.window, global.quiet)? {
            break;
        }
    }
    let Some((report, distributions)) = last else {
        unreachable!("the loop ends after a report, or returns")
    };
    let style = Style::for_stream(global.color, global.ascii, &std::io::stdout());
    say(&match args.output {
        Output::Table => {
            let proposal = verify::propose::objectives(&mesh, &report);
            let below = proposal.map(|block| render::proposal(&block));
            render::table(&report, style) + &below.unwrap_or_default()
        }
        Output::Json => render::json(&report),
        Output::Short => render::short(&report, style),
        Output::Junit => render::junit(&report),
    });
    if let Some(keep) = keep {
        let said = keep.keep(&distributions)?;
        if !global.quiet || report.exit_code != exit::HOLDS {
            let _ = writeln!(std::io::stderr(), "{said}");
        }
    }
    Ok(report.exit_code)
}

/// One run from the first question to the report and what a baseline of it would be, or the exit code of the signal that stopped it.
fn once(
    mesh: &Mesh,
    (plan, measures): (&plan::Plan, &measure::Measures),
    policy: &Policy,
    limit: Duration,
    global: &Global,
) -> Result<Result<(Report, Baseline), u8>, VerifyError> {
    let (started_at, started) = (SystemTime::now(), Instant::now());
    let started_at = humantime::format_rfc3339_millis(started_at).to_string();
    let policy = Policy {
        today: started_at.get(..10).and_then(mesh::Day::parse),
        ..policy.clone()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(VerifyError::Runtime)?;
    let show_progress = !global.quiet && std::io::stderr().is_terminal();
    let observations = runtime.block_on(async {
        let mut signals = signals::Signals::new()?;
        let progress = std::sync::Arc::new(progress::Progress::new(show_progress));
        tokio::select! {
            observations = collect::collect(mesh, plan, measures, &policy, limit, &progress) => std::io::Result::Ok(Ok(observations)),
            code = signals.next() => Ok(Err(code)),
        }
    });
    // Dropping the runtime closes every connection, which ends the probes on the agents.
    drop(runtime);
    let observations = match observations.map_err(VerifyError::Runtime)? {
        Ok(observations) => observations,
        Err(code) => return Ok(Err(code)),
    };
    let verdict = judge(mesh, &observations, &policy)?;
    let occasion = occasion(mesh.name.clone(), started_at, started);
    let kept = Baseline::of(mesh, &observations, verdict.result, occasion.clone());
    Ok(Ok((Report::new(verdict, occasion), kept)))
}

fn occasion(mesh: String, started_at: String, started: Instant) -> Occasion {
    Occasion {
        tool: Tool {
            name: "aggrik8s".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("AGGRIK8S_COMMIT").map(str::to_owned),
        },
        command: "verify".to_owned(),
        mesh,
        started_at,
        duration_seconds: started.elapsed().as_secs_f64(),
    }
}

fn read(args: &VerifyArgs) -> Result<Mesh, VerifyError> {
    let path = match (&args.file, &args.lab) {
        (Some(path), _) => path.clone(),
        (None, lab) => {
            let name = lab.as_deref().unwrap_or("default");
            let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            if name.is_empty() || !name.bytes().all(fine) {
                return Err(VerifyError::LabName(probe_api::reply::printable(name, 80)));
            }
            PathBuf::from(LAB_FOLDER).join(name).join("mesh.yaml")
        }
    };
    let name = probe_api::reply::printable(&path.display().to_string(), 400);
    let text = std::fs::read_to_string(&path).map_err(|source| VerifyError::Read {
        path: name.clone(),
        source,
        lab: args.lab.clone(),
    })?;
    Mesh::parse_knowing(&name, &text, Some(&verify::checks::known()))
        .map_err(|errors| VerifyError::Mesh(errors.render(&text)))
}
