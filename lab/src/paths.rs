//! Where a lab keeps its files.

use std::path::{Path, PathBuf};

use crate::error::{LabError, Result};

const ROOT: &str = "/run/aggrik8s/lab";

/// The run directory of one lab.
#[derive(Clone, Debug)]
pub struct RunDir {
    lab: String,
    dir: PathBuf,
}

impl RunDir {
    /// # Errors
    /// If `lab` cannot be a lab's name.
    pub fn new(lab: &str) -> Result<Self> {
        let edge = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let bytes = lab.as_bytes();
        let inner = bytes
            .iter()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-');
        if bytes.len() > 20
            || !inner
            || !edge(bytes.first().copied())
            || !edge(bytes.last().copied())
        {
            return Err(LabError::BadName(lab.to_owned()));
        }
        Ok(Self {
            lab: lab.to_owned(),
            dir: Path::new(ROOT).join(lab),
        })
    }

    pub fn lab(&self) -> &str {
        &self.lab
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Beside the run directory, so that it outlives the directory's removal.
    pub(crate) fn lock(&self) -> PathBuf {
        Path::new(ROOT).join(format!(".{}.lock", self.lab))
    }

    pub fn mesh_yaml(&self) -> PathBuf {
        self.dir.join("mesh.yaml")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.join("state.json")
    }

    pub(crate) fn line_config(&self) -> PathBuf {
        self.dir.join("line.json")
    }

    pub fn line_control(&self) -> PathBuf {
        self.dir.join("line.sock")
    }

    pub fn logs(&self) -> PathBuf {
        self.dir.join("log")
    }

    pub(crate) fn bpffs(&self) -> PathBuf {
        self.dir.join("bpf")
    }

    /// Where the agent's binary is shown to users who cannot reach it otherwise.
    pub(crate) fn probe(&self) -> PathBuf {
        self.dir.join("aggrik8s-probe")
    }

    pub(crate) fn parents(&self) -> [PathBuf; 2] {
        [PathBuf::from("/run/aggrik8s"), PathBuf::from(ROOT)]
    }

    pub(crate) fn agents(&self) -> PathBuf {
        self.dir.join("agents")
    }

    pub(crate) fn stats(&self) -> PathBuf {
        self.dir.join("stats")
    }

    pub(crate) fn resolv_conf(&self, cluster: &str) -> PathBuf {
        self.dir.join("resolv").join(cluster)
    }

    /// API socket of a node's agent.
    pub fn agent_socket(&self, node_key: &str, plane: mesh::observation::Plane) -> PathBuf {
        let suffix = match plane {
            mesh::observation::Plane::Pod => "",
            mesh::observation::Plane::Node => "-node",
        };
        self.agents().join(format!("{node_key}{suffix}.sock"))
    }
}

/// Names of the labs that have a run directory.
///
/// # Errors
/// If the directory of labs exists but cannot be read.
pub fn labs() -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(ROOT) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            return Err(LabError::Io {
                what: format!("list {ROOT}"),
                source,
            });
        }
    };
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| RunDir::new(name).is_ok())
        .collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_escape_or_confuse_are_refused() {
        for good in ["default", "a", "t-4711-x"] {
            assert!(RunDir::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "..",
            "a/b",
            "A",
            "a.b",
            "-a",
            "a-",
            "aaaaaaaaaaaaaaaaaaaaa",
            "a b",
        ] {
            assert!(RunDir::new(bad).is_err(), "{bad}");
        }
    }
}
