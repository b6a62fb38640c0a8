//! The image, written without a daemon: an OCI layout in one tar that `docker load` understands too. The same
//! binaries give the same bytes: entries are sorted, owned by root and without a time.

mod layout;
mod tarball;

use anyhow::Result;
use serde_json::{Value, json};

use layout::{Blobs, Descriptor};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const SBOM: &str = "application/vnd.cyclonedx+json";

/// User and group of the agent; the chart overrides them where a container needs more.
const USER: &str = "65532:65532";
const BIN: &str = "usr/local/bin";

/// What the image says of itself.
pub(crate) struct Label {
    pub(crate) version: String,
    pub(crate) revision: Option<String>,
    /// RFC 3339.
    pub(crate) created: Option<String>,
}

/// The programs of one architecture.
pub(crate) struct Platform {
    /// As Go says it: `amd64`, `arm64`.
    pub(crate) architecture: &'static str,
    /// File name and content.
    pub(crate) programs: Vec<(String, Vec<u8>)>,
    /// What they are made of, CycloneDX.
    pub(crate) sbom: Value,
}

/// The archive's bytes.
pub(crate) fn archive(label: &Label, platforms: &[Platform]) -> Result<Vec<u8>> {
    let mut blobs = Blobs::default();
    let empty = blobs.add(EMPTY, b"{}".to_vec());
    let mut manifests = Vec::new();
    let mut sboms = Vec::new();
    let mut for_docker = Vec::new();
    for platform in platforms {
        let layer = layer(platform)?;
        let config = blobs.add_json(CONFIG, &config(label, platform, &layer));
        let layer = blobs.add(LAYER, layer.packed);
        let mut manifest = blobs.add_json(
            MANIFEST,
            &json!({
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": config.json(),
                "layers": [layer.json()],
                "annotations": annotations(label),
            }),
        );
        manifest.platform = Some(platform.architecture);
        sboms.push(sbom(&mut blobs, label, platform, &manifest, &empty));
        for_docker.push((platform.architecture, config.path(), layer.path()));
        manifests.push(manifest.json());
    }
    let index = blobs.add_json(
        INDEX,
        &json!({
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": manifests,
            "annotations": annotations(label),
        }),
    );
    // A name that no registry has: the image of this file, or none.
    let name = format!("localhost/aggrik8s:{}", label.version);
    let mut top = index.json();
    top["annotations"] = json!({
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": label.version,
    });
    let listed: Vec<_> = [top].into_iter().chain(sboms).collect();
    let layout = json!({"imageLayoutVersion": "1.0.0"});
    let entry = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": listed});
    let docker: Vec<_> = for_docker
        .into_iter()
        // The format holds one platform.
        .filter(|(architecture, ..)| *architecture == "amd64")
        .map(|(_, config, layer)| json!({"Config": config, "RepoTags": [name], "Layers": [layer]}))
        .collect();
    blobs.into_tar(&[
        ("index.json", entry),
        ("manifest.json", docker.into()),
        ("oci-layout", layout),
    ])
}

struct Layer {
    packed: Vec<u8>,
    /// Digest of what is packed.
    diff_id: String,
}

fn layer(platform: &Platform) -> Result<Layer> {
    let mut files: Vec<(String, u32, Vec<u8>)> = platform
        .programs
        .iter()
        .map(|(name, content)| (format!("{BIN}/{name}"), 0o755, content.clone()))
        .collect();
    files.push((
        "etc/passwd".to_owned(),
        0o644,
        b"root:x:0:0::/:\naggrik8s:x:65532:65532::/:\n".to_vec(),
    ));
    files.push((
        "etc/group".to_owned(),
        0o644,
        b"root:x:0:\naggrik8s:x:65532:\n".to_vec(),
    ));
    files.sort();
    let plain = tarball::tar(&files)?;
    Ok(Layer {
        diff_id: layout::digest(&plain),
        packed: tarball::gzip(&plain)?,
    })
}

fn annotations(label: &Label) -> Value {
    let mut all = json!({
        "org.opencontainers.image.title": "aggrik8s",
        "org.opencontainers.image.description": "Agents that measure whether a mesh of Kubernetes clusters really works",
        "org.opencontainers.image.licenses": "MIT OR Apache-2.0",
        "org.opencontainers.image.source": "https://github.com/Aggrik8s-net/aggrik8s",
        "org.opencontainers.image.version": label.version,
    });
    if let Some(revision) = &label.revision {
        all["org.opencontainers.image.revision"] = json!(revision);
    }
    if let Some(created) = &label.created {
        all["org.opencontainers.image.created"] = json!(created);
    }
    all
}

fn config(label: &Label, platform: &Platform, layer: &Layer) -> Value {
    let mut config = json!({
        "architecture": platform.architecture,
        "os": "linux",
        "config": {
            "User": USER,
            "Env": [format!("PATH=/{BIN}")],
            "Entrypoint": [format!("/{BIN}/aggrik8s-probe")],
            "Labels": annotations(label),
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        "history": [{"created_by": "cargo xtask dist"}],
    });
    if let Some(created) = &label.created {
        config["created"] = json!(created);
        config["history"][0]["created"] = json!(created);
    }
    config
}

/// An artifact that refers to the manifest; registries list it with that.
fn sbom(
    blobs: &mut Blobs,
    label: &Label,
    platform: &Platform,
    subject: &Descriptor,
    empty: &Descriptor,
) -> Value {
    let bill = blobs.add_json(SBOM, &platform.sbom);
    let mut bill = bill.json();
    bill["annotations"] = json!({
        "org.opencontainers.image.title": format!("aggrik8s-{}.cdx.json", platform.architecture),
    });
    let mut subject = subject.json();
    if let Some(subject) = subject.as_object_mut() {
        subject.remove("platform");
    }
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": SBOM,
        "config": empty.json(),
        "layers": [bill],
        "subject": subject,
    });
    if let Some(created) = &label.created {
        manifest["annotations"] = json!({"org.opencontainers.image.created": created});
    }
    let mut listed = blobs.add_json(MANIFEST, &manifest).json();
    listed["artifactType"] = json!(SBOM);
    listed
}

#[cfg(test)]
mod tests;
