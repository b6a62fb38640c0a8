//! Pushing a layout to a registry: what is there already is not sent again.

use std::path::PathBuf;
use std::time::Duration;

use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::{Client, Reference, RegistryOperation};
use serde_json::{Value, json};

use super::credentials;
use super::layout::{Entry, Layout};

const CONNECT: Duration = Duration::from_secs(10);
const READ: Duration = Duration::from_secs(60);

/// Where to.
pub(crate) struct Target {
    pub(crate) repository: String,
    pub(crate) tag: String,
    pub(crate) plain_http: bool,
    pub(crate) ca: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum PushError {
    #[error("`{0}` is no name of a repository")]
    Reference(String),
    #[error("cannot read `{}`", path.display())]
    Ca {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("registry `{registry}` does not let us push to `{repository}`")]
    Refused {
        registry: String,
        repository: String,
        #[source]
        source: OciDistributionError,
    },
    #[error("cannot push to registry `{registry}`")]
    Registry {
        registry: String,
        #[source]
        source: OciDistributionError,
    },
}

impl PushError {
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Refused { .. } => Some(
                "log in with `docker login` or `podman login`, without a credential helper, or set AGGRIK8S_REGISTRY_USER and AGGRIK8S_REGISTRY_PASSWORD",
            ),
            Self::Registry { .. } => Some(
                "a registry without TLS needs --plain-http, one with a CA of its own --ca FILE",
            ),
            Self::Reference(_) => Some("for example registry.lan:5000/aggrik8s"),
            Self::Ca { .. } => None,
        }
    }
}

/// Pushes everything and returns the image's name with its digest.
pub(crate) async fn push(layout: Layout, target: &Target) -> Result<String, PushError> {
    let tagged: Reference = format!("{}:{}", target.repository, target.tag)
        .parse()
        .map_err(|_| PushError::Reference(target.repository.clone()))?;
    let registry = Registry {
        client: Client::new(config(target)?),
        reference: tagged,
    };
    registry.log_in().await?;
    for image in &layout.images {
        registry.put(image).await?;
    }
    registry.put(&layout.index).await?;
    registry
        .manifest(&registry.reference, &layout.index)
        .await?;
    for referrer in &layout.referrers {
        registry.put(referrer).await?;
    }
    for subject in layout
        .referrers
        .iter()
        .filter_map(|entry| entry.subject.as_ref())
    {
        registry.list(subject, &layout.referrers).await?;
    }
    Ok(format!(
        "{}:{}@{}",
        target.repository, target.tag, layout.index.descriptor.digest
    ))
}

fn config(target: &Target) -> Result<ClientConfig, PushError> {
    let mut config = ClientConfig {
        protocol: if target.plain_http {
            ClientProtocol::Http
        } else {
            ClientProtocol::Https
        },
        connect_timeout: Some(CONNECT),
        read_timeout: Some(READ),
        // In one piece: not every registry takes several.
        use_monolithic_push: true,
        user_agent: concat!("aggrik8s/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    };
    if let Some(path) = &target.ca {
        let data = std::fs::read(path).map_err(|source| PushError::Ca {
            path: path.clone(),
            source,
        })?;
        config.extra_root_certificates.push(Certificate {
            encoding: CertificateEncoding::Pem,
            data,
        });
    }
    Ok(config)
}

/// A repository of a registry.
struct Registry {
    client: Client,
    reference: Reference,
}

impl Registry {
    fn failed(&self, source: OciDistributionError) -> PushError {
        let registry = self.reference.registry().to_owned();
        let refused = match &source {
            OciDistributionError::UnauthorizedError { .. }
            | OciDistributionError::AuthenticationFailure(_) => true,
            OciDistributionError::ServerError { code, .. } => matches!(code, 401 | 403),
            _ => false,
        };
        if refused {
            return PushError::Refused {
                registry,
                repository: self.reference.repository().to_owned(),
                source,
            };
        }
        PushError::Registry { registry, source }
    }

    fn by_digest(&self, digest: &str) -> Reference {
        Reference::with_digest(
            self.reference.registry().to_owned(),
            self.reference.repository().to_owned(),
            digest.to_owned(),
        )
    }

    async fn log_in(&self) -> Result<(), PushError> {
        let auth = credentials::find(self.reference.registry());
        let done = self
            .client
            .auth(&self.reference, &auth, RegistryOperation::Push);
        done.await.map(drop).map_err(|source| self.failed(source))
    }

    /// A manifest by its digest, after its blobs.
    async fn put(&self, entry: &Entry) -> Result<(), PushError> {
        for (digest, bytes) in &entry.blobs {
            let there = self.client.blob_exists(&self.reference, digest).await;
            if there.map_err(|source| self.failed(source))? {
                continue;
            }
            let size = bytes.len();
            tracing::info!(digest, size, "pushing");
            let pushed = self
                .client
                .push_blob(&self.reference, bytes.clone(), digest);
            match pushed.await {
                Ok(_) => {}
                // Some registries take a blob and do not say where it is; whether it is there counts.
                Err(source @ OciDistributionError::RegistryNoLocationError) => {
                    let there = self.client.blob_exists(&self.reference, digest).await;
                    if !there.map_err(|source| self.failed(source))? {
                        return Err(self.failed(source));
                    }
                }
                Err(source) => return Err(self.failed(source)),
            }
        }
        // The digest in the place of the tag is the same address. Given as a digest, the client panics at registries
        // that do not say where the manifest is.
        let name = Reference::with_tag(
            self.reference.registry().to_owned(),
            self.reference.repository().to_owned(),
            entry.descriptor.digest.clone(),
        );
        self.manifest(&name, entry).await
    }

    async fn manifest(&self, name: &Reference, entry: &Entry) -> Result<(), PushError> {
        self.raw(name, entry.body.clone(), &entry.descriptor.media_type)
            .await
    }

    async fn raw(&self, name: &Reference, body: Vec<u8>, kind: &str) -> Result<(), PushError> {
        let Ok(kind) = kind.parse() else {
            return Err(self.failed(OciDistributionError::UnsupportedMediaTypeError(
                kind.to_owned(),
            )));
        };
        let pushed = self.client.push_manifest_raw(name, body, kind).await;
        pushed.map(drop).map_err(|source| self.failed(source))
    }

    /// Registries from before referrers find them under a tag that says whose they are.
    async fn list(&self, subject: &str, referrers: &[Entry]) -> Result<(), PushError> {
        let known = self
            .client
            .pull_referrers(&self.by_digest(subject), None)
            .await;
        let known = known.map_err(|source| self.failed(source))?;
        let ours: Vec<_> = referrers
            .iter()
            .filter(|entry| entry.subject.as_deref() == Some(subject))
            .collect();
        let listed = |entry: &&Entry| {
            let digest = &entry.descriptor.digest;
            known.manifests.iter().any(|known| known.digest == *digest)
        };
        if ours.iter().all(listed) {
            return Ok(());
        }
        let kind = "application/vnd.oci.image.index.v1+json";
        let mut manifests: Vec<Value> = known.manifests.iter().map(|known| json!(known)).collect();
        manifests.extend(ours.iter().filter(|entry| !listed(entry)).map(|entry| {
            let parsed: Value = serde_json::from_slice(&entry.body).unwrap_or_default();
            json!({
                "mediaType": entry.descriptor.media_type,
                "digest": entry.descriptor.digest,
                "size": entry.body.len(),
                "artifactType": parsed["artifactType"],
            })
        }));
        let index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": manifests});
        let tag = Reference::with_tag(
            self.reference.registry().to_owned(),
            self.reference.repository().to_owned(),
            subject.replace(':', "-"),
        );
        self.raw(&tag, index.to_string().into_bytes(), kind).await
    }
}
