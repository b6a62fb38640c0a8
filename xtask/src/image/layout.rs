//! Blobs by digest, and the archive that holds them.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::tarball;

/// `sha256:…` of the bytes.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// What names a blob.
pub(crate) struct Descriptor {
    media_type: &'static str,
    digest: String,
    size: usize,
    /// Architecture, of a manifest in an index.
    pub(crate) platform: Option<&'static str>,
}

impl Descriptor {
    pub(crate) fn json(&self) -> Value {
        let mut json =
            json!({"mediaType": self.media_type, "digest": self.digest, "size": self.size});
        if let Some(architecture) = self.platform {
            json["platform"] = json!({"architecture": architecture, "os": "linux"});
        }
        json
    }

    pub(crate) fn path(&self) -> String {
        path(&self.digest)
    }
}

fn path(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

#[derive(Default)]
pub(crate) struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    pub(crate) fn add(&mut self, media_type: &'static str, bytes: Vec<u8>) -> Descriptor {
        let digest = digest(&bytes);
        let size = bytes.len();
        self.0.insert(path(&digest), bytes);
        Descriptor {
            media_type,
            digest,
            size,
            platform: None,
        }
    }

    pub(crate) fn add_json(&mut self, media_type: &'static str, value: &Value) -> Descriptor {
        self.add(media_type, value.to_string().into_bytes())
    }

    /// The layout as one tar; `named` are the files outside `blobs`.
    pub(crate) fn into_tar(self, named: &[(&str, Value)]) -> Result<Vec<u8>> {
        let named = named
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.to_string().into_bytes()));
        let mut files: Vec<_> = self
            .0
            .into_iter()
            .chain(named)
            .map(|(name, bytes)| (name, 0o644, bytes))
            .collect();
        files.sort();
        tarball::tar(&files)
    }
}
