//! All clusters side by side, and the questions that several checks ask of them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::view::{ClusterView, Endpoint, Facts, Remote, Seen, Unread};

/// One cluster that answered.
#[derive(Clone, Copy)]
pub(super) struct Cluster<'a> {
    pub(super) context: &'a str,
    pub(super) facts: &'a Facts,
}

/// A directed pair of clusters.
#[derive(Clone, Copy)]
pub(super) struct Pair<'a> {
    pub(super) from: Cluster<'a>,
    pub(super) to: Cluster<'a>,
}

pub(super) struct World<'a> {
    pub(super) views: &'a [ClusterView],
}

impl<'a> World<'a> {
    pub(super) fn new(views: &'a [ClusterView]) -> Self {
        Self { views }
    }

    /// Those that answered.
    pub(super) fn clusters(&self) -> impl Iterator<Item = Cluster<'a>> + use<'a> {
        self.views.iter().filter_map(|view| {
            let facts = view.state.as_deref().ok()?;
            Some(Cluster {
                context: &view.context,
                facts,
            })
        })
    }

    /// Those that cannot be asked.
    pub(super) fn silent(&self) -> Vec<&'a str> {
        let silent = self.views.iter().filter(|view| view.state.is_err());
        silent.map(|view| view.context.as_str()).collect()
    }

    /// Every ordered pair of clusters, answering or not; the one cluster with itself if there is one.
    pub(super) fn links(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let views = self.views;
        let alone = views.len() == 1;
        views.iter().flat_map(move |from| {
            let others = views
                .iter()
                .filter(move |to| alone || to.context != from.context);
            others.map(move |to| (from.context.as_str(), to.context.as_str()))
        })
    }

    /// Every ordered pair of clusters that both answer.
    pub(super) fn pairs(&self) -> Vec<Pair<'a>> {
        let all: Vec<Cluster<'a>> = self.clusters().collect();
        let mut pairs = Vec::new();
        for &from in &all {
            let others = all.iter().filter(|to| to.context != from.context);
            pairs.extend(others.map(|&to| Pair { from, to }));
        }
        pairs
    }

    /// Whether any cluster offers or uses ClusterMesh; unknown counts as yes.
    pub(super) fn uses_clustermesh(&self) -> bool {
        self.clusters().any(|cluster| {
            let facts = cluster.facts;
            !matches!(facts.server, Ok(None)) || !matches!(facts.remotes, Ok(None))
        })
    }

    /// Which clusters have a node with `address`.
    pub(super) fn owners(&self, address: IpAddr) -> Vec<Cluster<'a>> {
        let has = |cluster: &Cluster<'a>| {
            let nodes = cluster.facts.nodes.as_deref().unwrap_or_default();
            nodes.iter().any(|node| node.addresses.contains(&address))
        };
        self.clusters().filter(has).collect()
    }
}

impl<'a> Cluster<'a> {
    /// A value of cilium-config; `Ok(None)` where it is not set.
    pub(super) fn value(self, key: &str) -> Seen<Option<&'a str>> {
        let config = self.config()?;
        Ok(config
            .and_then(|config| config.get(key))
            .map(String::as_str))
    }

    pub(super) fn config(self) -> Seen<Option<&'a BTreeMap<String, String>>> {
        self.facts
            .config
            .as_ref()
            .map(Option::as_ref)
            .map_err(Clone::clone)
    }

    /// Whether it is known to run without Cilium.
    pub(super) fn lacks_cilium(self) -> bool {
        matches!(self.facts.config, Ok(None))
    }

    /// Cilium's name of the cluster.
    pub(super) fn name(self) -> Seen<&'a str> {
        Ok(self.value("cluster-name")?.unwrap_or("default"))
    }

    /// "1.18.5" with its numbers, if the agents' image tells.
    pub(super) fn cilium(self) -> Seen<Option<Version>> {
        let agents = self.facts.agents.as_ref().map_err(Clone::clone)?;
        let text = agents.as_ref().and_then(|agents| agents.version.as_deref());
        Ok(text.and_then(Version::parse))
    }

    /// What rests on the version of Cilium; else why that is open, and what to do.
    pub(super) fn versioned<T>(self, read: Seen<Option<T>>) -> Result<T, (String, String)> {
        match read {
            Ok(Some(known)) => Ok(known),
            Ok(None) => Err((
                format!(
                    "the image of the Cilium agents has no version in its tag: `{}`",
                    self.context
                ),
                "name the image by tag and digest".to_owned(),
            )),
            Err(unread) => Err((
                format!("{}: `{}`", unread.words(), self.context),
                unread.hint().to_owned(),
            )),
        }
    }

    pub(super) fn replaces_kube_proxy(self) -> Seen<bool> {
        let value = self.value("kube-proxy-replacement")?;
        Ok(matches!(value, Some("true" | "strict")))
    }

    /// The entry of remote `name` that leads out of this cluster: KVStoreMesh's, else the agents'.
    pub(super) fn way_to(self, name: &str) -> Seen<Option<&'a Remote>> {
        let of = |remotes: &'a Seen<Option<Vec<Remote>>>| {
            let remotes = remotes.as_ref().map_err(Clone::clone)?;
            let mut listed = remotes.iter().flatten();
            Seen::Ok(listed.find(|remote| remote.name == name))
        };
        if let Some(remote) = of(&self.facts.kvstoremesh)? {
            return Ok(Some(remote));
        }
        Ok(of(&self.facts.remotes)?
            .filter(|remote| !remote.endpoints.iter().all(Endpoint::is_local_service)))
    }

    /// The Helm command that sets `key` of Cilium here without changing its version.
    pub(super) fn helm(self, key: &str, value: &str) -> String {
        let version = match self.cilium() {
            Ok(Some(version)) => format!(" --version {version}"),
            _ => String::new(),
        };
        format!(
            "helm --kube-context {} -n kube-system upgrade cilium cilium/cilium{version} --reuse-values --set {key}={value}",
            shell(self.context)
        )
    }

    /// "`key: value` in the Helm values of Cilium on `east` (helm …)".
    pub(super) fn set(self, key: &str, value: &str) -> String {
        format!(
            "`{key}: {value}` in the Helm values of Cilium on `{}` (`{}`)",
            self.context,
            self.helm(key, value)
        )
    }
}

/// A word as a shell takes it.
pub(super) fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Major, minor and patch; a suffix is not compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) u32, pub(super) u32, pub(super) u32);

impl Version {
    /// "v1.18.5", "1.34.4+rke2r1", "v1.20.0-rc.1".
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let end = text.find(['-', '+']).unwrap_or(text.len());
        let mut parts = text[..end].split('.').map(str::parse);
        let (major, minor) = (parts.next()?.ok()?, parts.next()?.ok()?);
        let patch = parts.next().unwrap_or(Ok(0)).ok()?;
        parts.next().is_none().then_some(Self(major, minor, patch))
    }

    pub(super) fn minor(self) -> (u32, u32) {
        (self.0, self.1)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl Unread {
    /// What is lacking, the same words for every cluster that lacks it.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Forbidden { verb, resource } => format!("not allowed to {verb} {resource}"),
            Self::Failed(why) => why.clone(),
        }
    }

    pub(super) fn hint(&self) -> &'static str {
        match self {
            Self::Forbidden { .. } => {
                "bind the role of deploy/verify-reader.yaml to this user: it reads, and nothing else"
            }
            Self::Failed(_) => "verify again; `-v` shows the log of each read",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers() {
        for (text, version) in [
            ("v1.18.5", Some(Version(1, 18, 5))),
            ("1.34.4+rke2r1", Some(Version(1, 34, 4))),
            ("v1.20.0-rc.1", Some(Version(1, 20, 0))),
            ("v1.9", Some(Version(1, 9, 0))),
            ("latest", None),
            ("v1", None),
            ("v1.2.3.4", None),
            ("", None),
        ] {
            assert_eq!(Version::parse(text), version, "{text}");
        }
        assert!(Version(1, 9, 0) < Version(1, 19, 0));
    }

    #[test]
    fn a_context_is_one_word_for_the_shell() {
        assert_eq!(shell("admin@talos-east"), "admin@talos-east");
        assert_eq!(shell("my cluster"), "'my cluster'");
        assert_eq!(shell("a'b;c"), r"'a'\''b;c'");
        assert_eq!(shell(""), "''");
    }

    #[test]
    fn the_local_service_by_any_of_its_names() {
        let endpoint = |host: &str| Endpoint {
            host: host.to_owned(),
            ..Endpoint::default()
        };
        for host in [
            "clustermesh-apiserver.kube-system.svc",
            "clustermesh-apiserver.kube-system.svc.cluster.local",
            "clustermesh-apiserver",
        ] {
            assert!(endpoint(host).is_local_service(), "{host}");
        }
        for host in [
            "west.mesh.cilium.io",
            "10.0.0.1",
            "clustermesh-apiserver.example.net",
        ] {
            assert!(!endpoint(host).is_local_service(), "{host}");
        }
    }
}
