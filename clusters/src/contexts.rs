//! The kubeconfig: KUBECONFIG lists merged as kubectl merges them, or one file; read, never written.

use std::path::Path;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::connect::{self, Cluster};
use crate::error::{ConnectError, ContextError};

/// What a kubeconfig offers.
#[derive(Clone, Debug)]
pub struct Contexts {
    kubeconfig: Kubeconfig,
    /// In words, for messages.
    place: String,
}

impl Contexts {
    /// Reads `path`, else the files of KUBECONFIG, else `~/.kube/config`.
    ///
    /// # Errors
    /// When there is none, or one of them is no kubeconfig.
    pub fn read(path: Option<&Path>) -> Result<Self, ContextError> {
        let listed = std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty());
        let (kubeconfig, place) = match (path, listed) {
            (Some(path), _) => (Kubeconfig::read_from(path), format!("`{}`", path.display())),
            (None, Some(list)) => (
                Kubeconfig::read(),
                format!("`{}` (KUBECONFIG)", list.display()),
            ),
            (None, None) => (Kubeconfig::read(), "`~/.kube/config`".to_owned()),
        };
        match kubeconfig {
            Ok(kubeconfig) => Ok(Self { kubeconfig, place }),
            Err(source) => Err(ContextError::Read {
                place,
                source: Box::new(source),
            }),
        }
    }

    /// Every context, in the order of the files.
    pub fn names(&self) -> Vec<String> {
        let contexts = self.kubeconfig.contexts.iter();
        contexts.map(|context| context.name.clone()).collect()
    }

    /// Whether all of `wanted` exist, once each.
    ///
    /// # Errors
    /// Names the first that does not, with those that do.
    pub fn check(&self, wanted: &[String]) -> Result<(), ContextError> {
        let known = self.names();
        if wanted.is_empty() {
            return Err(ContextError::None { known });
        }
        for (at, name) in wanted.iter().enumerate() {
            if !known.contains(name) {
                return Err(ContextError::Unknown {
                    name: name.clone(),
                    place: self.place.clone(),
                    known,
                });
            }
            if wanted[..at].contains(name) {
                return Err(ContextError::Twice(name.clone()));
            }
        }
        Ok(())
    }

    /// A client for `context`, after its API server has said which version it runs.
    /// Runs the credentials plugin of the context if it has one.
    ///
    /// # Errors
    /// When the cluster cannot be talked to, at the latest after [`crate::REACH`].
    pub async fn connect(&self, context: &str) -> Result<Cluster, ConnectError> {
        connect::connect(context, self.config(context).await?).await
    }

    async fn config(&self, context: &str) -> Result<Config, ConnectError> {
        let options = KubeConfigOptions {
            context: Some(context.to_owned()),
            ..KubeConfigOptions::default()
        };
        let mut config = Config::from_custom_kubeconfig(self.kubeconfig.clone(), &options)
            .await
            .map_err(|error| ConnectError::Entry(Box::new(error)))?;
        // kube holds NO_PROXY against the proxy's own address; what counts is the API server's.
        if !self.has_proxy(context) && connect::spares_proxy(&config.cluster_url) {
            config.proxy_url = None;
        }
        Ok(config)
    }

    /// Whether the kubeconfig itself names a proxy for `context`: that one holds whatever NO_PROXY says.
    fn has_proxy(&self, context: &str) -> bool {
        let of = |name: &str| {
            let mut contexts = self.kubeconfig.contexts.iter();
            contexts.find(|named| named.name == name)?.context.as_ref()
        };
        let cluster = of(context).and_then(|context| {
            let mut clusters = self.kubeconfig.clusters.iter();
            let named = clusters.find(|named| named.name == context.cluster)?;
            named.cluster.as_ref()
        });
        cluster.is_some_and(|cluster| cluster.proxy_url.as_ref().is_some_and(|u| !u.is_empty()))
    }
}

impl Cluster {
    /// For kube's typed interface.
    pub fn client(&self) -> Client {
        self.client.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, text: &str) -> std::path::PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("a temporary folder is writable");
        path
    }

    const TWO: &str = r#"
apiVersion: v1
kind: Config
clusters:
- {name: east, cluster: {server: "https://127.0.0.1:1"}}
- {name: west, cluster: {server: "https://127.0.0.1:2", proxy-url: "http://127.0.0.1:3"}}
contexts:
- {name: talos-east, context: {cluster: east, user: admin}}
- {name: talos-west, context: {cluster: west, user: admin}}
users:
- {name: admin, user: {token: t}}
"#;

    #[test]
    fn contexts_that_do_not_exist_are_named_with_those_that_do() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = write(folder.path(), "config", TWO);
        let contexts = Contexts::read(Some(&path)).expect("a kubeconfig");
        assert_eq!(contexts.names(), ["talos-east", "talos-west"]);
        let wanted = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            let checked = contexts.check(&names);
            checked.map_err(|error| {
                format!("{error}; {}", error.hint()).replace(path.to_str().unwrap(), "FILE")
            })
        };
        assert_eq!(wanted(&["talos-west", "talos-east"]), Ok(()));
        assert_eq!(
            wanted(&["talos-east", "pi"]).unwrap_err(),
            "there is no context `pi` in the kubeconfig `FILE`; known contexts: talos-east, talos-west"
        );
        assert_eq!(
            wanted(&["talos-east", "talos-east"]).unwrap_err(),
            "context `talos-east` is named twice; name each cluster once"
        );
        assert_eq!(
            wanted(&[]).unwrap_err(),
            "no context is named; known contexts: talos-east, talos-west"
        );
        let empty = write(folder.path(), "empty", "");
        let none = Contexts::read(Some(&empty)).expect("an empty file is an empty kubeconfig");
        let hint = none.check(&["a".to_owned()]).unwrap_err().hint();
        assert!(hint.contains("no context at all"), "{hint}");
        let broken = write(folder.path(), "broken", "contexts: 3");
        let error = Contexts::read(Some(&broken)).unwrap_err();
        assert!(matches!(error, ContextError::Read { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_proxy_of_the_kubeconfig_stays() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = write(folder.path(), "config", TWO);
        let contexts = Contexts::read(Some(&path)).expect("a kubeconfig");
        assert!(!contexts.has_proxy("talos-east"));
        assert!(contexts.has_proxy("talos-west"));
        let config = contexts.config("talos-west").await.expect("an entry");
        let proxy = config.proxy_url.expect("its proxy").to_string();
        assert_eq!(proxy, "http://127.0.0.1:3/");
    }
}
