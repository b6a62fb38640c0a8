//! `mesh.yaml` while the agent runs: looked at every second, put in force when it is valid.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use mesh::Mesh;
use mesh::observation::NodeRef;
use tokio::sync::watch;

use crate::agent::ReloadStats;

const EVERY: Duration = Duration::from_secs(1);
/// Largest file that is read.
const MAX_BYTES: u64 = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    #[error("cannot read `{path}`")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("`{path}` is larger than {MAX_BYTES} bytes")]
    TooLarge { path: PathBuf },
    #[error("{0}")]
    Invalid(String),
    #[error("`{path}` declares no node `{node}` in cluster `{cluster}`")]
    NoSuchNode {
        path: PathBuf,
        cluster: String,
        node: String,
    },
}

/// The file's text.
fn read(path: &Path) -> Result<String, MeshError> {
    let failed = |source| MeshError::Read {
        path: path.to_owned(),
        source,
    };
    if std::fs::metadata(path).map_err(failed)?.len() > MAX_BYTES {
        return Err(MeshError::TooLarge {
            path: path.to_owned(),
        });
    }
    std::fs::read_to_string(path).map_err(failed)
}

/// A mesh in which `me` exists, or may exist: a cluster that lists no node leaves that to its API server.
fn understand(path: &Path, text: &str, me: &NodeRef) -> Result<Mesh, MeshError> {
    let name = path.display().to_string();
    let mesh =
        Mesh::parse(&name, text).map_err(|errors| MeshError::Invalid(errors.render(text)))?;
    let known = mesh.cluster(&me.cluster).is_some_and(|cluster| {
        cluster.nodes.is_empty() || cluster.nodes.iter().any(|node| node.name == me.node)
    });
    if !known {
        return Err(MeshError::NoSuchNode {
            path: path.to_owned(),
            cluster: me.cluster.clone(),
            node: me.node.clone(),
        });
    }
    Ok(mesh)
}

/// Reads the file for the first time. Also returns its text, with which [`watch_file`] goes on.
pub fn first(path: &Path, me: &NodeRef) -> Result<(Mesh, String), MeshError> {
    let text = read(path)?;
    Ok((understand(path, &text, me)?, text))
}

/// One look at the file: `None` if it says what it said before.
fn look(path: &Path, me: &NodeRef, before: &mut String) -> Option<Result<Mesh, MeshError>> {
    match read(path) {
        Err(error) => {
            before.clear();
            Some(Err(error))
        }
        Ok(text) if text == *before => None,
        Ok(text) => {
            let understood = understand(path, &text, me);
            *before = text;
            Some(understood)
        }
    }
}

/// Follows the file for ever. A file that is not valid changes nothing; its problem is kept until it is.
pub async fn watch_file(
    path: PathBuf,
    me: NodeRef,
    mut text: String,
    mesh: watch::Sender<Arc<Mesh>>,
    stats: Arc<ReloadStats>,
) -> std::io::Result<()> {
    let set = |problem: Option<String>| {
        *stats.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    };
    loop {
        tokio::time::sleep(EVERY).await;
        match look(&path, &me, &mut text) {
            None => {}
            Some(Ok(fresh)) => {
                set(None);
                if **mesh.borrow() != fresh {
                    stats.applied.fetch_add(1, Ordering::Relaxed);
                    tracing::info!(path = %path.display(), "mesh.yaml changed");
                    mesh.send_replace(Arc::new(fresh));
                }
            }
            Some(Err(error)) => {
                let problem = error.to_string();
                let mut known = stats.problem.lock().unwrap_or_else(PoisonError::into_inner);
                if known.as_deref() != Some(problem.as_str()) {
                    stats.refused.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(%error, "mesh.yaml not put in force; the one before stays");
                    *known = Some(problem);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const GOOD: &str = "
mesh: test
clusters:
  - name: east
    id: 1
    node_networks: [192.168.15.0/24]
    pod_cidrs: [10.244.0.0/16]
    nodes:
      - {name: e-1, addresses: [192.168.15.11], agent_pod: [10.244.0.5]}
";

    fn me() -> NodeRef {
        NodeRef {
            cluster: "east".into(),
            node: "e-1".into(),
        }
    }

    #[test]
    fn the_file_must_declare_this_node() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mesh.yaml");
        let error = first(&path, &me()).unwrap_err().to_string();
        assert!(error.starts_with("cannot read `"), "{error}");

        std::fs::write(&path, GOOD).unwrap();
        first(&path, &me()).unwrap_or_else(|error| panic!("{error}"));
        let other = NodeRef {
            node: "e-2".into(),
            ..me()
        };
        let error = first(&path, &other).unwrap_err().to_string();
        assert!(
            error.ends_with("declares no node `e-2` in cluster `east`"),
            "{error}"
        );

        let unlisted = GOOD.split("    nodes:").next().unwrap();
        std::fs::write(&path, unlisted).unwrap();
        first(&path, &other).unwrap_or_else(|error| panic!("{error}"));
        let elsewhere = NodeRef {
            cluster: "west".into(),
            ..me()
        };
        let error = first(&path, &elsewhere).unwrap_err().to_string();
        assert!(error.ends_with("in cluster `west`"), "{error}");

        std::fs::write(&path, GOOD.replace("id: 1", "id: none")).unwrap();
        let error = first(&path, &me()).unwrap_err().to_string();
        assert!(error.contains("mesh.yaml:5:"), "{error}");
    }

    #[tokio::test]
    async fn a_change_is_followed_and_a_broken_file_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mesh.yaml");
        std::fs::write(&path, GOOD).unwrap();
        let (mesh, text) = first(&path, &me()).unwrap();
        let (sender, receiver) = watch::channel(Arc::new(mesh));
        let stats = Arc::new(ReloadStats::default());
        let task = tokio::spawn(watch_file(
            path.clone(),
            me(),
            text,
            sender,
            Arc::clone(&stats),
        ));
        let until = async |what: &str, done: &dyn Fn() -> bool| {
            let deadline = Instant::now() + Duration::from_secs(10);
            while !done() {
                assert!(Instant::now() < deadline, "{what}: {stats:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        std::fs::write(&path, "mesh: [").unwrap();
        until("refused", &|| stats.refused.load(Ordering::Relaxed) == 1).await;
        assert_eq!(receiver.borrow().name, "test");
        assert!(stats.problem.lock().unwrap().is_some());

        std::fs::write(&path, GOOD.replace("mesh: test", "mesh: renamed")).unwrap();
        until("applied", &|| stats.applied.load(Ordering::Relaxed) == 1).await;
        assert_eq!(receiver.borrow().name, "renamed");
        assert_eq!(*stats.problem.lock().unwrap(), None);

        std::fs::remove_file(&path).unwrap();
        until("gone", &|| stats.refused.load(Ordering::Relaxed) == 2).await;
        assert_eq!(receiver.borrow().name, "renamed");
        task.abort();
    }
}
