//! The archive as `dist` writes it: an OCI layout in a tar. Nothing is trusted but digests.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

/// No archive of ours is near it.
const MAX_BYTES: u64 = 1 << 30;

#[derive(Debug, thiserror::Error)]
pub(crate) enum LayoutError {
    #[error("cannot read `{}`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("`{0}` is in no image archive of aggrik8s")]
    Missing(String),
    #[error("`{name}` in the archive is not understood")]
    Json {
        name: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("`{0}` in the archive does not have that digest")]
    Damaged(String),
}

impl LayoutError {
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Read { .. } => {
                "`aggrik8s-image.tar` comes with the programs; give --archive FILE if it lies elsewhere"
            }
            _ => "take the archive anew, and compare it with SHA256SUMS",
        }
    }
}

/// What names a blob, as far as pushing needs it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: String,
}

/// An index or an image manifest.
#[derive(Debug, Deserialize)]
struct Manifest {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    subject: Option<Descriptor>,
}

/// A manifest to push, with what must be there before it.
pub(crate) struct Entry {
    pub(crate) descriptor: Descriptor,
    pub(crate) body: Vec<u8>,
    pub(crate) blobs: Vec<(String, Vec<u8>)>,
    /// Digest of the manifest that this one refers to.
    pub(crate) subject: Option<String>,
}

/// In the order of pushing: images, then their index, then what refers to them.
pub(crate) struct Layout {
    pub(crate) images: Vec<Entry>,
    pub(crate) index: Entry,
    pub(crate) referrers: Vec<Entry>,
}

impl Layout {
    pub(crate) fn read(path: &Path) -> Result<Self, LayoutError> {
        let failed = |source| LayoutError::Read {
            path: path.to_owned(),
            source,
        };
        let file = std::fs::File::open(path).map_err(failed)?;
        let mut archive = tar::Archive::new(file.take(MAX_BYTES));
        let mut files = BTreeMap::new();
        for entry in archive.entries().map_err(failed)? {
            let mut entry = entry.map_err(failed)?;
            let name = entry.path().map_err(failed)?.display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).map_err(failed)?;
            files.insert(name, content);
        }
        Self::from_files(&files)
    }

    fn from_files(files: &BTreeMap<String, Vec<u8>>) -> Result<Self, LayoutError> {
        let top: Manifest = parse("index.json", file(files, "index.json")?)?;
        let [index, referrers @ ..] = top.manifests.as_slice() else {
            return Err(LayoutError::Missing("an image".to_owned()));
        };
        let parsed: Manifest = parse(&index.digest, blob(files, &index.digest)?)?;
        let entries = |descriptors: &[Descriptor]| {
            let entry = |descriptor: &Descriptor| entry(files, descriptor);
            descriptors.iter().map(entry).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            images: entries(&parsed.manifests)?,
            index: entry(files, index)?,
            referrers: entries(referrers)?,
        })
    }
}

fn entry(files: &BTreeMap<String, Vec<u8>>, descriptor: &Descriptor) -> Result<Entry, LayoutError> {
    let body = blob(files, &descriptor.digest)?;
    let parsed: Manifest = parse(&descriptor.digest, body)?;
    let blobs = parsed.config.iter().chain(&parsed.layers);
    Ok(Entry {
        descriptor: descriptor.clone(),
        body: body.to_vec(),
        blobs: blobs
            .map(|named| Ok((named.digest.clone(), blob(files, &named.digest)?.to_vec())))
            .collect::<Result<_, LayoutError>>()?,
        subject: parsed.subject.map(|subject| subject.digest),
    })
}

fn parse(name: &str, bytes: &[u8]) -> Result<Manifest, LayoutError> {
    serde_json::from_slice(bytes).map_err(|source| LayoutError::Json {
        name: name.to_owned(),
        source,
    })
}

fn file<'a>(files: &'a BTreeMap<String, Vec<u8>>, name: &str) -> Result<&'a [u8], LayoutError> {
    let found = files.get(name).map(Vec::as_slice);
    found.ok_or_else(|| LayoutError::Missing(name.to_owned()))
}

fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, digest: &str) -> Result<&'a [u8], LayoutError> {
    let bytes = file(files, &format!("blobs/{}", digest.replace(':', "/")))?;
    if digest_of(bytes) == digest {
        Ok(bytes)
    } else {
        Err(LayoutError::Damaged(digest.to_owned()))
    }
}

fn digest_of(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
