//! `aggrik8s install`: the agents' objects for every cluster of a mesh. `--render` writes them as files, for Argo CD,
//! Flux or a reviewer, and contacts no cluster; without it they are applied.

mod apply;
mod kinds;
mod targets;
mod uninstall;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use install::{ImageRef, RenderError, Values, ValuesError};
use mesh::Mesh;
use serde_json::Value;

use crate::cli::{complain, say};
use crate::exit;
use apply::ApplyError;
use targets::TargetError;
pub use uninstall::{UninstallArgs, run as uninstall};

/// Put the agents into the clusters of a mesh.
#[derive(Debug, Args)]
pub struct InstallArgs {
    /// The mesh.yaml
    #[arg(short, long, env = "AGGRIK8S_MESH", value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    what: What,
    /// Contexts of the kubeconfig [default: those that mesh.yaml names]
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "NAME[,NAME…]",
        conflicts_with = "clusters"
    )]
    contexts: Vec<String>,
    /// `server`: the API servers check everything and change nothing
    #[arg(long, value_enum, value_name = "HOW")]
    dry_run: Option<DryRun>,
    /// Only write the objects, one file per cluster: DIR/CLUSTER/aggrik8s.yaml
    #[arg(long, value_name = "DIR", conflicts_with_all = ["contexts", "dry_run"])]
    render: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum DryRun {
    Server,
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
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error("cannot start the runtime")]
    Runtime(#[source] std::io::Error),
}

impl InstallError {
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Mesh(_) | Self::Read { .. } | Self::Write { .. } | Self::Runtime(_) => None,
            Self::Target(error) => error.hint(),
            Self::Apply(error) => error.hint(),
            Self::NoSuchCluster(_, known) => Some(format!("it declares `{}`", known.join("`, `"))),
            Self::Namespace(_) => Some("lower-case letters, digits and `-`, at most 63".to_owned()),
            Self::Values(_) => {
                Some("every value is explained in charts/aggrik8s/values.yaml".to_owned())
            }
            Self::Render { source, .. } => Some(source.hint()),
        }
    }

    fn exit(&self) -> u8 {
        match self {
            Self::Target(TargetError::Unreachable { .. }) => exit::UNDECIDED,
            // The same command goes on where it stopped.
            Self::Apply(ApplyError::Object { .. }) => exit::STOPPED,
            _ => exit::USAGE,
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
    let done = match &args.render {
        Some(dir) => render_to(args, dir),
        None => runtime()
            .map_err(InstallError::Runtime)
            .and_then(|runtime| runtime.block_on(install_all(args))),
    };
    match done {
        Ok(text) => say(&text),
        Err(error) => {
            complain(&error, error.hint().as_deref());
            ExitCode::from(error.exit())
        }
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

fn render_to(args: &InstallArgs, dir: &Path) -> Result<String, InstallError> {
    let (mesh, text) = read_mesh(&args.file)?;
    let rendered = render(&mesh, &text, &args.what)?;
    let line = |path: &PathBuf| format!("{}\n", path.display());
    Ok(write(dir, &rendered)?.iter().map(line).collect())
}

/// Every cluster answers before the first is changed.
async fn install_all(args: &InstallArgs) -> Result<String, InstallError> {
    let (mesh, text) = read_mesh(&args.file)?;
    let rendered = render(&mesh, &text, &args.what)?;
    let wanted =
        |cluster: &String| args.what.clusters.is_empty() || args.what.clusters.contains(cluster);
    let mut pairs = targets::pair(&mesh, &args.contexts)?;
    pairs.retain(|(_, cluster)| wanted(cluster));
    let contexts: Vec<_> = pairs.iter().map(|(context, _)| context.clone()).collect();
    let connected = targets::connect(&contexts).await?;
    let mut answer = String::new();
    for (connected, (context, name)) in connected.iter().zip(&pairs) {
        let Some(objects) = rendered.iter().find(|rendered| rendered.cluster == *name) else {
            continue;
        };
        let namespace = &args.what.namespace;
        let dry_run = args.dry_run.is_some();
        let changes = apply::apply(connected, &objects.objects, namespace, dry_run).await?;
        for (object, change) in changes {
            answer += &format!("{context}  {object}  {}\n", change.word());
        }
    }
    if args.dry_run.is_some() {
        answer += "nothing was changed\n";
    }
    Ok(answer)
}
