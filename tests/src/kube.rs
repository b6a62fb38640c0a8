//! Real Kubernetes control planes: etcd and an API server per cluster on loopback, each with a CA of its own, and
//! what runs beside them. Only nodes need root. `cargo xtask peers` compiles the programs.

pub mod cluster;
pub mod crds;
pub mod image;
pub mod joined;
pub mod mesh;
pub mod node;
pub mod pki;
pub mod place;
pub mod port;
pub mod process;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub use cluster::{Cluster, Plan};
pub use joined::Joined;
pub use node::Node;
pub use place::Place;

/// Where a peer lies: `target/peers/<module>/<program>`, where the running test was built.
pub fn peer(module: &str, program: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let relative = Path::new("peers").join(module).join(program);
    own.ancestors()
        .skip(1)
        .map(|folder| folder.join(&relative))
        .find(|path| path.is_file())
        .with_context(|| {
            format!(
                "no `{}` above `{}` (hint: cargo xtask peers)",
                relative.display(),
                own.display()
            )
        })
}

/// Why no cluster can be started here, with the fix; `None` where one can.
pub fn missing() -> Option<String> {
    peer("kubernetes", "kube-apiserver")
        .err()
        .map(|error| format!("{error:#}"))
}

/// Contexts of several clusters in one value of `KUBECONFIG`; each is called like its cluster.
pub fn kubeconfig(clusters: &[&Cluster]) -> Result<OsString> {
    let files = clusters.iter().map(|cluster| cluster.kubeconfig());
    std::env::join_paths(files).context("a path with a colon")
}
