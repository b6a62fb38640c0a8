//! The clusters to change: all of them answer before anything is changed in one.

use clusters::{Cluster, ConnectError, ContextError, Contexts};
use mesh::Mesh;

#[derive(Debug, thiserror::Error)]
pub(crate) enum TargetError {
    #[error(transparent)]
    Context(#[from] ContextError),
    #[error("context `{0}` is of no cluster of the mesh")]
    NoCluster(String, Vec<String>),
    #[error("mesh.yaml names no context for cluster `{0}`")]
    NoContext(String),
    #[error("cluster of context `{context}` cannot be reached; nothing was changed anywhere")]
    Unreachable {
        context: String,
        #[source]
        source: ConnectError,
    },
}

impl TargetError {
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Context(error) => Some(error.hint()),
            Self::NoCluster(_, known) => Some(format!(
                "name it as `context` of a cluster in mesh.yaml, which has `{}`",
                known.join("`, `")
            )),
            Self::NoContext(_) => {
                Some("give it `context: NAME`, or name contexts with --contexts".to_owned())
            }
            Self::Unreachable { .. } => None,
        }
    }
}

/// Which context is which cluster: by `context` in mesh.yaml, else by the same name.
pub(super) fn pair(mesh: &Mesh, contexts: &[String]) -> Result<Vec<(String, String)>, TargetError> {
    if contexts.is_empty() {
        let own = mesh.clusters.iter().map(|cluster| {
            let context = cluster.context.clone();
            let context = context.ok_or_else(|| TargetError::NoContext(cluster.name.clone()))?;
            Ok((context, cluster.name.clone()))
        });
        return own.collect();
    }
    let pairs = contexts.iter().map(|context| {
        let named = |cluster: &&mesh::Cluster| cluster.context.as_ref() == Some(context);
        let same = |cluster: &&mesh::Cluster| cluster.name == *context;
        let mut clusters = mesh.clusters.iter();
        let found = clusters
            .find(named)
            .or_else(|| mesh.clusters.iter().find(same));
        let cluster = found.ok_or_else(|| {
            let known = mesh.clusters.iter().map(|cluster| cluster.name.clone());
            TargetError::NoCluster(context.clone(), known.collect())
        })?;
        Ok((context.clone(), cluster.name.clone()))
    });
    pairs.collect()
}

/// Connects to all at once; the first that does not answer, in the given order, is the error.
pub(super) async fn connect(names: &[String]) -> Result<Vec<Cluster>, TargetError> {
    let contexts = Contexts::read(None)?;
    contexts.check(names)?;
    let mut tasks = Vec::new();
    for name in names {
        let (contexts, name) = (contexts.clone(), name.clone());
        tasks.push(tokio::spawn(async move { contexts.connect(&name).await }));
    }
    let mut clusters = Vec::new();
    for (task, name) in tasks.into_iter().zip(names) {
        let answer = match task.await {
            Ok(answer) => answer,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        clusters.push(answer.map_err(|source| TargetError::Unreachable {
            context: name.clone(),
            source,
        })?);
    }
    Ok(clusters)
}
