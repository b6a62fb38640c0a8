//! `aggrik8s install`: the agents' objects for every cluster of a mesh. `--render` writes them as files, for Argo CD,
//! Flux or a reviewer; no cluster is contacted.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use install::{ImageRef, RenderError, Values, ValuesError};
use mesh::Mesh;
use serde_json::Value;

use crate::cli::{complain, say};
use crate::exit;

/// Put the agents into the clusters of a mesh.
#[derive(Debug, Args)]
pub struct InstallArgs {
    /// The mesh.yaml
    #[arg(short, long, env = "AGGRIK8S_MESH", value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    what: What,
    /// Only write the objects, one file per cluster: DIR/CLUSTER/aggrik8s.yaml
    #[arg(long, value_name = "DIR", required = true)]
    render: PathBuf,
}

/// What is installed; the same for every cluster.
#[derive(Debug, Args)]
pub(crate) struct What {
    /// The image: `repository[:tag][@sha256:…]`
    #[arg(long, env = "AGGRIK8S_IMAGE", value_name = "REF")]
    image: Option<ImageRef>,
    /// Values as for the chart; a later file outranks an earlier one
    #[arg(long, value_name = "FILE")]
    values: Vec<PathBuf>,
    /// Namespace of the agents
    #[arg(short, long, default_value = "aggrik8s", value_name = "NAME")]
    pub(crate) namespace: String,
    /// Only these clusters of the mesh
    #[arg(long, value_delimiter = ',', value_name = "NAME[,NAME…]")]
    clusters: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum InstallError {
    #[error("cannot read `{}`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot write `{}`", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{0}")]
    Mesh(String),
    #[error("the mesh declares no cluster `{0}`")]
    NoSuchCluster(String, Vec<String>),
    #[error("`{0}` is no name of a namespace")]
    Namespace(String),
    #[error(transparent)]
    Values(#[from] ValuesError),
    #[error("cannot make the objects of cluster `{cluster}`")]
    Render {
        cluster: String,
        #[source]
        source: RenderError,
    },
}

impl InstallError {
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Mesh(_) | Self::Read { .. } | Self::Write { .. } => None,
            Self::NoSuchCluster(_, known) => Some(format!("it declares `{}`", known.join("`, `"))),
            Self::Namespace(_) => Some("lower-case letters, digits and `-`, at most 63".to_owned()),
            Self::Values(_) => {
                Some("every value is explained in charts/aggrik8s/values.yaml".to_owned())
            }
            Self::Render { source, .. } => Some(source.hint()),
        }
    }
}

/// The objects of one cluster, in the order of applying.
pub(crate) struct ClusterObjects {
    pub(crate) cluster: String,
    pub(crate) objects: Vec<Value>,
}

fn read(path: &Path) -> Result<String, InstallError> {
    std::fs::read_to_string(path).map_err(|source| InstallError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Reads the mesh; a broken one is an error with every problem in it.
pub(crate) fn read_mesh(path: &Path) -> Result<(Mesh, String), InstallError> {
    let text = read(path)?;
    let name = path.display().to_string();
    let mesh = Mesh::parse_knowing(&name, &text, Some(&verify::checks::known()));
    let mesh = mesh.map_err(|errors| InstallError::Mesh(errors.render(&text)))?;
    Ok((mesh, text))
}

/// Values that everybody who installs without helm wants: nobody else makes the namespace.
const OURS: &str = "{namespace: {create: true}}";

/// The objects of every wanted cluster of the mesh.
pub(crate) fn render(
    mesh: &Mesh,
    text: &str,
    what: &What,
) -> Result<Vec<ClusterObjects>, InstallError> {
    let known: Vec<_> = mesh.clusters.iter().map(|cluster| &cluster.name).collect();
    if let Some(stranger) = what.clusters.iter().find(|name| !known.contains(name)) {
        let known = known.into_iter().cloned().collect();
        return Err(InstallError::NoSuchCluster(stranger.clone(), known));
    }
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let name = what.namespace.as_str();
    if name.is_empty()
        || name.len() > 63
        || !name.chars().all(good)
        || name.trim_matches('-') != name
    {
        return Err(InstallError::Namespace(name.to_owned()));
    }
    let mut files = vec![("built-in values".to_owned(), OURS.to_owned())];
    for path in &what.values {
        files.push((path.display().to_string(), read(path)?));
    }
    let files: Vec<_> = files
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    let mut values = Values::load(&files)?;
    if let Some(image) = &what.image {
        image.set(&mut values.image);
    }
    values.mesh = text.to_owned();
    let wanted = |name: &String| what.clusters.is_empty() || what.clusters.contains(name);
    known
        .into_iter()
        .filter(|name| wanted(name))
        .map(|cluster| {
            values.cluster.clone_from(cluster);
            let objects = install::objects(&values, &what.namespace);
            Ok(ClusterObjects {
                cluster: cluster.clone(),
                objects: objects.map_err(|source| InstallError::Render {
                    cluster: cluster.clone(),
                    source,
                })?,
            })
        })
        .collect()
}

/// Writes DIR/CLUSTER/aggrik8s.yaml for each; a file is replaced whole or not at all.
fn write(dir: &Path, rendered: &[ClusterObjects]) -> Result<Vec<PathBuf>, InstallError> {
    rendered
        .iter()
        .map(|ClusterObjects { cluster, objects }| {
            let folder = dir.join(cluster);
            let path = folder.join("aggrik8s.yaml");
            let new = folder.join("aggrik8s.yaml.new");
            std::fs::create_dir_all(&folder)
                .and_then(|()| std::fs::write(&new, install::to_yaml(objects)))
                .and_then(|()| std::fs::rename(&new, &path))
                .map_err(|source| InstallError::Write {
                    path: path.clone(),
                    source,
                })?;
            Ok(path)
        })
        .collect()
}

pub fn run(args: &InstallArgs) -> ExitCode {
    let written = read_mesh(&args.file)
        .and_then(|(mesh, text)| render(&mesh, &text, &args.what))
        .and_then(|rendered| write(&args.render, &rendered));
    match written {
        Ok(paths) => {
            let lines: String = paths
                .iter()
                .map(|path| format!("{}\n", path.display()))
                .collect();
            say(&lines);
            ExitCode::from(exit::HOLDS)
        }
        Err(error) => complain(&error, error.hint().as_deref()),
    }
}
