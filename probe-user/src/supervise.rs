//! Named background tasks: the first that ends takes the process down with its reason. The first signal
//! drains, the second aborts.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long calls that are going on may take after the first signal.
const DRAIN: Duration = Duration::from_secs(10);

/// Tasks that are expected to run for ever.
#[derive(Default)]
pub struct Tasks {
    set: JoinSet<(&'static str, Result<(), anyhow::Error>)>,
    stop: CancellationToken,
}

/// How a supervised run ended.
#[derive(Debug)]
pub enum End {
    /// By signal, and everything was finished in time.
    Drained,
    /// By a second signal, or because draining took too long.
    Aborted,
    /// A task ended by itself.
    Task {
        name: &'static str,
        reason: anyhow::Error,
    },
}

impl Tasks {
    /// Cancelled at the first signal: tasks that hold calls finish them and return.
    #[must_use]
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    pub fn spawn<T, E>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<T, E>> + Send + 'static,
    ) where
        E: Into<anyhow::Error>,
    {
        self.set.spawn(async move {
            let result = task.await.map(|_| ()).map_err(Into::into);
            (name, result)
        });
    }

    /// Waits for a signal or for a task that ends.
    pub async fn run(mut self, drained: impl Future<Output = ()>) -> std::io::Result<End> {
        let mut signals = Signals::new()?;
        tokio::select! {
            () = signals.next() => {}
            Some(ended) = self.set.join_next() => return Ok(task_end(ended)),
        }
        tracing::info!("stopping: calls that are going on may finish; a second signal aborts");
        self.stop.cancel();
        let end = tokio::select! {
            () = drained => End::Drained,
            () = signals.next() => End::Aborted,
            () = tokio::time::sleep(DRAIN) => End::Aborted,
        };
        self.set.abort_all();
        Ok(end)
    }
}

type Joined = Result<(&'static str, Result<(), anyhow::Error>), tokio::task::JoinError>;

fn task_end(ended: Joined) -> End {
    match ended {
        Ok((name, Err(reason))) => End::Task { name, reason },
        Ok((name, Ok(()))) => End::Task {
            name,
            reason: anyhow::anyhow!("it ended"),
        },
        Err(panic) => match panic.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(cancelled) => End::Task {
                name: "task",
                reason: cancelled.into(),
            },
        },
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

impl End {
    /// 0 after a drain; 1 when the work was cut off or failed.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Drained => ExitCode::SUCCESS,
            Self::Aborted | Self::Task { .. } => ExitCode::FAILURE,
        }
    }
}
