//! `aggrik8s uninstall`: everything that carries our label, DaemonSets first, until it is gone.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use clusters::{Cluster, Kind, ObjectError};
use serde_json::json;

use super::kinds::{self, MANAGER, NAMESPACE, NAMESPACED, OWNER};
use super::targets::{self, TargetError};
use crate::cli::{complain, say};
use crate::exit;

/// Between two looks whether something is gone.
const POLL: Duration = Duration::from_millis(250);

/// Take the agents out of clusters.
#[derive(Debug, Args)]
pub struct UninstallArgs {
    /// Contexts of the kubeconfig
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "NAME[,NAME…]",
        required = true
    )]
    contexts: Vec<String>,
    /// Namespace of the agents
    #[arg(short, long, default_value = "aggrik8s", value_name = "NAME")]
    namespace: String,
    /// How long a cluster may take until everything is gone
    #[arg(long, default_value = "2m", value_parser = humantime::parse_duration, value_name = "TIME")]
    timeout: Duration,
}

#[derive(Debug, thiserror::Error)]
enum UninstallError {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("cluster of context `{context}`: `{object}`")]
    Object {
        context: String,
        object: String,
        #[source]
        source: ObjectError,
    },
    #[error("cluster of context `{context}`: `{object}` is still there after {limit:.0?}")]
    Stays {
        context: String,
        object: String,
        limit: Duration,
    },
    #[error("cannot start the runtime")]
    Runtime(#[source] std::io::Error),
}

impl UninstallError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Target(error) => error.hint(),
            Self::Stays { .. } => Some(
                "the same command goes on where it stopped; pods on nodes that are away keep a DaemonSet".to_owned(),
            ),
            Self::Object { .. } | Self::Runtime(_) => None,
        }
    }

    fn exit(&self) -> u8 {
        match self {
            Self::Target(TargetError::Unreachable { .. }) => exit::UNDECIDED,
            Self::Stays { .. } | Self::Object { .. } => exit::STOPPED,
            Self::Target(_) | Self::Runtime(_) => exit::USAGE,
        }
    }
}

pub fn run(args: &UninstallArgs) -> ExitCode {
    let done = super::runtime()
        .map_err(UninstallError::Runtime)
        .and_then(|runtime| runtime.block_on(uninstall(args)));
    match done {
        Ok(text) => say(&text),
        Err(error) => {
            complain(&error, error.hint().as_deref());
            ExitCode::from(error.exit())
        }
    }
}

async fn uninstall(args: &UninstallArgs) -> Result<String, UninstallError> {
    let mut text = String::new();
    for cluster in targets::connect(&args.contexts).await? {
        let removed = remove(&cluster, &args.namespace, args.timeout).await?;
        if removed.is_empty() {
            text += &format!("{}  nothing was there\n", cluster.context);
        }
        for name in removed {
            text += &format!("{}  {name}  removed\n", cluster.context);
        }
    }
    Ok(text)
}

async fn remove(
    cluster: &Cluster,
    namespace: &str,
    limit: Duration,
) -> Result<Vec<String>, UninstallError> {
    let deadline = tokio::time::Instant::now() + limit;
    let failed = |object: String, source| UninstallError::Object {
        context: cluster.context.clone(),
        object,
        source,
    };
    let mut removed = Vec::new();
    let own = format!("{OWNER}={MANAGER}");
    for kind in NAMESPACED {
        let there = cluster.list(kind, namespace, &own).await;
        for object in there.map_err(|source| failed(kind.plural.to_owned(), source))? {
            let name = kinds::name(&object);
            let bare = object["metadata"]["name"].as_str().unwrap_or_default();
            delete(cluster, kind, namespace, bare, (deadline, limit)).await?;
            removed.push(name);
        }
    }
    let found = cluster.get(NAMESPACE, "", namespace).await;
    let found = found.map_err(|source| failed(format!("namespace/{namespace}"), source))?;
    if found.is_some_and(|found| kinds::owner(&found) == Some(MANAGER)) {
        delete(cluster, NAMESPACE, "", namespace, (deadline, limit)).await?;
        removed.push(format!("namespace/{namespace}"));
    }
    Ok(removed)
}

/// Deletes one object and waits until it is gone.
async fn delete(
    cluster: &Cluster,
    kind: Kind,
    namespace: &str,
    name: &str,
    (deadline, limit): (tokio::time::Instant, Duration),
) -> Result<(), UninstallError> {
    let object = kinds::name(&json!({"kind": kind.kind, "metadata": {"name": name}}));
    let failed = |source| UninstallError::Object {
        context: cluster.context.clone(),
        object: object.clone(),
        source,
    };
    cluster
        .delete(kind, namespace, name)
        .await
        .map_err(failed)?;
    while cluster
        .get(kind, namespace, name)
        .await
        .map_err(failed)?
        .is_some()
    {
        if tokio::time::Instant::now() > deadline {
            return Err(UninstallError::Stays {
                context: cluster.context.clone(),
                object,
                limit,
            });
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
