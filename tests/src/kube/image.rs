//! Images without a registry: OCI archives of one static program, as `ctr images import` takes them.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::leftovers;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Writes an archive of the image `name`, in which `program` is `/<file name>`, started with `args`.
pub fn archive(output: &Path, name: &str, program: &Path, args: &[&str]) -> Result<()> {
    let scratch = tempfile::Builder::new()
        .prefix(&leftovers::name("image"))
        .tempdir()?;
    let (root, layout) = (scratch.path().join("root"), scratch.path().join("layout"));
    let blobs = layout.join("blobs/sha256");
    for folder in [&root, &blobs] {
        fs::create_dir_all(folder)?;
    }
    let file = program.file_name().context("a program has a name")?;
    fs::copy(program, root.join(file)).with_context(|| format!("copy `{}`", program.display()))?;
    let layer = scratch.path().join("layer.tar");
    tar(&root, &layer)?;
    let layer = fs::read(layer)?;

    let mut entrypoint = vec![format!("/{}", file.display())];
    entrypoint.extend(args.iter().map(ToString::to_string));
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Entrypoint": entrypoint },
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
    });
    let (config_type, layer_type) = (
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.oci.image.layer.v1.tar",
    );
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": blob(&blobs, config_type, &serde_json::to_vec(&config)?)?,
        "layers": [blob(&blobs, layer_type, &layer)?],
    });
    let mut manifest = blob(&blobs, MANIFEST, &serde_json::to_vec(&manifest)?)?;
    manifest["annotations"] = json!({ "io.containerd.image.name": name });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(layout.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    tar(&layout, output)
}

/// Stores a blob and returns its descriptor.
fn blob(folder: &Path, media_type: &str, bytes: &[u8]) -> Result<Value> {
    let digest = digest(bytes);
    fs::write(folder.join(digest.trim_start_matches("sha256:")), bytes)?;
    Ok(json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() }))
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

fn tar(folder: &Path, output: &Path) -> Result<()> {
    let tar = Command::new("tar")
        .args(["--owner=0", "--group=0", "--numeric-owner", "-cf"])
        .arg(output)
        .arg("-C")
        .arg(folder)
        .arg(".")
        .output()
        .context("start `tar`")?;
    let said = String::from_utf8_lossy(&tar.stderr);
    ensure!(tar.status.success(), "`tar`: {said}");
    Ok(())
}
