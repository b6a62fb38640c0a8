//! The programs that tests run against, compiled from Go modules: Kubernetes, etcd, Helm and a registry. Each module of
//! `tests/peers` is built once into `target/peers/<module>` and kept until its sums, its flags or the compiler change.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{go, need, run};

/// A module of `tests/peers`.
struct Peers {
    module: &'static str,
    /// Names of the programs, and their packages.
    programs: &'static [(&'static str, &'static str)],
    /// Flags of the linker. One set for all, or every program compiles anew what they share.
    flags: &'static str,
}

const ALL: [Peers; 3] = [
    Peers {
        module: "kubernetes",
        programs: &[
            ("etcd", "go.etcd.io/etcd/server/v3"),
            ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            (
                "kube-controller-manager",
                "k8s.io/kubernetes/cmd/kube-controller-manager",
            ),
            ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
            ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
            ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
        ],
        // Without them the programs call themselves v0.0.0.
        flags: "-s -w -X k8s.io/component-base/version.gitVersion=v1.34.4 \
                -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=34 \
                -X k8s.io/client-go/pkg/version.gitVersion=v1.34.4",
    },
    Peers {
        module: "helm",
        programs: &[("helm", "helm.sh/helm/v3/cmd/helm")],
        // The Kubernetes that charts are rendered for where no cluster is asked.
        flags: "-s -w -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 \
                -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=34",
    },
    Peers {
        module: "crane",
        programs: &[("crane", "github.com/google/go-containerregistry/cmd/crane")],
        flags: "-s -w",
    },
];

/// Builds what is not there yet.
pub(crate) fn run() -> Result<()> {
    let missing = need::programs(&[need::PEERS])?;
    if !missing.is_empty() {
        bail!("{}", missing.join("\n"));
    }
    for peers in &ALL {
        build(peers)?;
    }
    Ok(())
}

fn build(peers: &Peers) -> Result<()> {
    let sources = run::root().join("tests/peers").join(peers.module);
    let target = run::target().join("peers").join(peers.module);
    fs::create_dir_all(&target).with_context(|| format!("create `{}`", target.display()))?;
    let go = go::compiler(&target)?;
    let read = |file: &str| {
        let path = sources.join(file);
        fs::read_to_string(&path).with_context(|| format!("read `{}`", path.display()))
    };
    let compiler = run::output(&mut go::go(&go, &target, "version"))?;
    // Word for word: of a hash nobody could see what changed.
    let made_from = [
        &compiler,
        peers.flags,
        "\n",
        &read("go.mod")?,
        &read("go.sum")?,
    ]
    .concat();
    let stamp = target.join("made-from");
    let there = |(name, _): &(&str, &str)| target.join(name).is_file();
    if fs::read_to_string(&stamp).is_ok_and(|last| last == made_from)
        && peers.programs.iter().all(there)
    {
        return Ok(());
    }
    let begun = Instant::now();
    // A build that is stopped half-way is not taken for a whole one.
    let _ = fs::remove_file(&stamp);
    for (name, package) in peers.programs {
        let mut build = go::go(&go, &sources, "build -trimpath -ldflags");
        build.arg(peers.flags).arg("-o");
        build.arg(target.join(name)).arg(package);
        run::ok(build.env("CGO_ENABLED", "0"))?;
    }
    fs::write(&stamp, made_from).with_context(|| format!("write `{}`", stamp.display()))?;
    let took = begun.elapsed().as_secs_f64();
    eprintln!("{}: built in {took:.0} s", peers.module);
    Ok(())
}
