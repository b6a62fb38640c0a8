//! `aggrik8s-probe run`: opens everything or nothing, announces itself, serves until it is told to stop.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use mesh::observation::NodeRef;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::agent::{Agent, ApiStats, HttpStats, ReloadStats};
use crate::cli::RunArgs;
use crate::kernel::{Kernel, MapSource};
use crate::listen::{self, Listener, TlsFiles};
use crate::measure::Measurer;
use crate::prober::{Limits, Ports, Prober, SourcePorts};
use crate::responder::{self, Bound, ResponderPorts};
use crate::supervise::{End, Tasks};
use crate::{background, privilege, reload, web};

/// For answers on their way when we are told to stop.
const GRACE: Duration = Duration::from_millis(500);
/// Threads that serve; the prober has one of its own.
const WORKERS: usize = 2;

fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
    Ok(bytes)
}

/// As many descriptors as we may have: every probe in flight holds one.
fn raise_file_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_err()
    {
        tracing::warn!(soft, hard, "file descriptor limit not raised");
    }
}

/// Everything that `run` has opened before it says that it runs.
struct Opened {
    agent: Arc<Agent>,
    api: Listener,
    metrics: TcpListener,
    responder: Bound,
    tasks: Tasks,
}

async fn open(args: &RunArgs, privileged: Option<String>) -> anyhow::Result<Opened> {
    let me = NodeRef {
        cluster: args.cluster.clone(),
        node: args.node.clone(),
    };
    let (mesh, text) = reload::first(&args.mesh, &me)?;
    let tls = match (&args.tls_ca, &args.tls_cert, &args.tls_key) {
        (Some(ca), Some(cert), Some(key)) => Some(TlsFiles {
            ca: ca.clone(),
            cert: cert.clone(),
            key: key.clone(),
        }),
        _ => None,
    };
    let api = listen::open(&args.api, tls.as_ref()).await?;
    let metrics = TcpListener::bind(args.metrics)
        .await
        .with_context(|| format!("cannot listen on `{}` for metrics", args.metrics))?;
    let responder = responder::bind(&args.respond, ResponderPorts::default()).await?;

    let seed = u64::from_ne_bytes(random()?);
    let ports = SourcePorts::reserved(seed);
    let (prober, prober_end) = Prober::start(Limits::default(), ports)?;
    // Half a range away, so that the two seldom meet at a port.
    let measuring = Ports::new(mesh::BURST_SOURCE_PORTS, seed.wrapping_add(2_018));
    let measurer = Measurer::new(measuring, prober.clone());
    let (mesh, mesh_in_force) = watch::channel(Arc::new(mesh));
    let reloads = Arc::new(ReloadStats::default());
    let pins = args.pin_dir.clone().map(MapSource::Pins);
    let source = pins.or_else(|| args.maps_from.clone().map(MapSource::Holder));
    let agent = Arc::new(Agent {
        me: me.clone(),
        plane: args.plane.into(),
        start_id: u64::from_ne_bytes(random()?),
        privileged,
        mesh: mesh_in_force.clone(),
        reloads: Arc::clone(&reloads),
        kernel: Kernel::new(source, args.egress_quiet.0),
        prober,
        measurer,
        responder: Arc::default(),
        probes: Default::default(),
        api: ApiStats::default(),
        http: HttpStats::default(),
    });

    let mut tasks = Tasks::default();
    tasks.spawn("prober", async move {
        match prober_end.await {
            Ok(error) => Err::<(), _>(error),
            Err(_) => Err(std::io::Error::other("its thread panicked")),
        }
    });
    tasks.spawn("kernel maps", agent.kernel.clone().run(mesh_in_force));
    tasks.spawn(
        "mesh.yaml",
        reload::watch_file(args.mesh.clone(), me, text, mesh, reloads),
    );
    Ok(Opened {
        agent,
        api,
        metrics,
        responder,
        tasks,
    })
}

/// Until no caller's probes are going on. A caller that merely keeps its connection open does not hold us up.
async fn no_calls(agent: &Agent) {
    // For answers that are being written.
    tokio::time::sleep(GRACE).await;
    while agent.api.active.load(Ordering::SeqCst) > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn serve(args: &RunArgs, privileged: Option<String>) -> anyhow::Result<End> {
    let Opened {
        agent,
        api,
        metrics,
        responder,
        mut tasks,
    } = open(args, privileged).await?;
    let stop = tasks.stop();
    tasks.spawn("metrics server", web::serve(metrics, Arc::clone(&agent)));
    tasks.spawn(
        "responder",
        responder.serve(
            agent.me.clone(),
            Arc::clone(&agent.responder),
            // Peers' probes are answered while our own calls drain.
            tokio_util::sync::CancellationToken::new(),
        ),
    );
    tasks.spawn(
        "background probes",
        background::run(Arc::clone(&agent), args.background_interval),
    );
    let (served, drained) = tokio::sync::oneshot::channel();
    let (shared, stopping) = (Arc::clone(&agent), stop.clone());
    tasks.spawn("api", async move {
        let result = api.serve(shared, stopping.clone()).await;
        if stopping.is_cancelled() {
            let _ = served.send(());
            // Not an end by itself: whoever stopped us decides.
            std::future::pending::<()>().await;
        }
        result
    });
    tracing::info!(
        cluster = agent.me.cluster,
        node = agent.me.node,
        boot_id = agent.boot_id(),
        "running"
    );
    let calls = Arc::clone(&agent);
    let drained = async move {
        tokio::select! {
            _ = drained => {}
            () = no_calls(&calls) => {}
        }
    };
    Ok(tasks.run(drained).await?)
}

/// Runs the agent until a signal or a failure. Errors are those of the start.
pub fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let privileged = privilege::enter(args.allow_privileged)?;
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let end = runtime.block_on(serve(args, privileged))?;
    runtime.shutdown_background();
    match &end {
        End::Drained => tracing::info!("stopped"),
        End::Aborted => tracing::warn!("aborted with calls going on"),
        End::Task { name, reason } => {
            tracing::error!(task = name, error = format!("{reason:#}"), "stopped");
        }
    }
    Ok(end.exit_code())
}
