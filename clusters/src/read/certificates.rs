//! Certificates: dates, names, key ids and fingerprints. Keys are never read, see `secret`.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, PodSpec};
use kube::{Api, Client};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;
use verify::control::CERTIFICATE_SECRETS;
use verify::control::view::{Certificate, KeyPair, Seen, Trust, Unread};
use x509_parser::extensions::ParsedExtension;
use x509_parser::pem::Pem;

use super::mesh::connecting;
use super::{NAMESPACE, secret};
use crate::ask::Deadline;

pub(super) async fn all(
    client: &Client,
    deadline: Deadline,
) -> BTreeMap<String, Seen<Option<KeyPair>>> {
    let mut tasks = JoinSet::new();
    for name in CERTIFICATE_SECRETS {
        let client = client.clone();
        tasks.spawn(async move {
            let secret = secret::public(&client, name, deadline).await;
            let pair = secret.map(|secret| secret.map(|data| pair(&data)));
            (name.to_owned(), pair)
        });
    }
    tasks.join_all().await.into_iter().collect()
}

fn pair(data: &secret::Public) -> KeyPair {
    let of = |key: &str| data.get(key).map(|pem| parse(pem)).unwrap_or_default();
    KeyPair {
        ca: of("ca.crt"),
        chain: of("tls.crt"),
    }
}

/// Which CAs the pods trust that connect to remote clusters: KVStoreMesh's, else the agents'.
pub(super) async fn trust(
    client: &Client,
    daemon: &Seen<Option<DaemonSet>>,
    deployment: &Seen<Option<Deployment>>,
    deadline: Deadline,
) -> Seen<Option<Trust>> {
    let pods = connecting(daemon, deployment).into_iter().rev();
    let named = pods.flatten().find_map(source);
    let source = named.unwrap_or(Source::Secret {
        name: "clustermesh-apiserver-remote-cert".to_owned(),
        key: "ca.crt".to_owned(),
    });
    let (place, pem) = match source {
        Source::Secret { name, key } => {
            let data = secret::public(client, &name, deadline).await?;
            (
                format!("{key} of Secret {name}"),
                data.and_then(|mut data| data.remove(&key)),
            )
        }
        Source::ConfigMap { name, key } => {
            let api: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
            let resource = format!("configmaps `{name}` in kube-system");
            let map = deadline.get(&resource, api.get(&name)).await?;
            let text = map.and_then(|map| map.data?.remove(&key));
            (
                format!("{key} of ConfigMap {name}"),
                text.map(String::into_bytes),
            )
        }
    };
    let Some(pem) = pem else { return Ok(None) };
    let authorities = parse(&pem);
    if authorities.is_empty() {
        return Err(Unread::Failed(format!(
            "no certificate can be read in {place}"
        )));
    }
    Ok(Some(Trust { place, authorities }))
}

enum Source {
    Secret { name: String, key: String },
    ConfigMap { name: String, key: String },
}

/// What a pod mounts as the CA for remote clusters.
fn source(pod: &PodSpec) -> Option<Source> {
    const FILE: &str = "common-etcd-client-ca.crt";
    let volumes = pod.volumes.iter().flatten();
    let projected = volumes.filter_map(|volume| volume.projected.as_ref()?.sources.as_ref());
    projected.flatten().find_map(|source| {
        let secret = source.secret.as_ref().and_then(|secret| {
            let item = secret
                .items
                .iter()
                .flatten()
                .find(|item| item.path == FILE)?;
            Some(Source::Secret {
                name: secret.name.clone(),
                key: item.key.clone(),
            })
        });
        secret.or_else(|| {
            let map = source.config_map.as_ref()?;
            let item = map.items.iter().flatten().find(|item| item.path == FILE)?;
            Some(Source::ConfigMap {
                name: map.name.clone(),
                key: item.key.clone(),
            })
        })
    })
}

/// Every certificate of a PEM file; what is none is left out, with a line in the log.
pub(super) fn parse(pem: &[u8]) -> Vec<Certificate> {
    let mut found = Vec::new();
    for block in Pem::iter_from_buffer(pem) {
        let parsed = block.ok().and_then(|block| certificate(&block));
        match parsed {
            Some(certificate) => found.push(certificate),
            None => tracing::warn!("a PEM block that is no certificate"),
        }
    }
    found
}

fn certificate(block: &Pem) -> Option<Certificate> {
    if block.label != "CERTIFICATE" {
        return None;
    }
    let parsed = block.parse_x509().ok()?;
    let mut certificate = Certificate {
        subject: parsed.subject().to_string(),
        issuer: parsed.issuer().to_string(),
        key_id: None,
        authority: None,
        fingerprint: hex(&Sha256::digest(&block.contents)),
        not_before: parsed.validity().not_before.timestamp(),
        not_after: parsed.validity().not_after.timestamp(),
    };
    for extension in parsed.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => certificate.key_id = Some(hex(id.0)),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                certificate.authority = id.key_identifier.as_ref().map(|id| hex(id.0));
            }
            _ => {}
        }
    }
    Some(certificate)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair as Key};

    #[test]
    fn what_a_certificate_says() {
        let key = Key::generate().expect("a key");
        let mut ca = CertificateParams::new(Vec::new()).expect("no names");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name
            .push(rcgen::DnType::CommonName, "Cilium CA");
        let ca_pem = ca.self_signed(&key).expect("a CA").pem();
        let issuer = Issuer::new(ca, key);
        let mut leaf = CertificateParams::new(vec!["*.mesh.cilium.io".to_owned()]).expect("a name");
        leaf.use_authority_key_identifier_extension = true;
        leaf.not_before = rcgen::date_time_ymd(2026, 1, 2);
        leaf.not_after = rcgen::date_time_ymd(2026, 11, 22);
        let leaf_key = Key::generate().expect("a key");
        let leaf_pem = leaf.signed_by(&leaf_key, &issuer).expect("a leaf").pem();
        let both = parse(format!("{leaf_pem}{}{ca_pem}", leaf_key.serialize_pem()).as_bytes());
        // The key between them is no certificate, and is not kept.
        let [leaf, ca] = both.as_slice() else {
            panic!("two certificates, not {both:?}")
        };
        assert_eq!(leaf.not_after, 1_795_305_600);
        assert!(
            ca.subject.contains("Cilium CA") && leaf.issuer == ca.subject,
            "{both:?}"
        );
        assert!(
            leaf.authority.is_some() && leaf.authority == ca.key_id,
            "{both:?}"
        );
        assert_ne!(leaf.fingerprint, ca.fingerprint);
        assert!(
            parse(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").is_empty()
        );
    }
}
