//! Reading the file of `--baseline`, writing that of `--save-baseline`: whole or not at all.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use mesh::Mesh;
use probe_api::reply::printable;
use serde::Deserialize;
use verify::baseline::{KIND, SCHEMA_VERSION};
use verify::{Baseline, BaselineError, Outcome};

/// Largest file that is read: far more than any run keeps.
const MOST_BYTES: u64 = 256 << 20;

/// Why a baseline cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("cannot read the baseline `{path}`")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the baseline `{path}` is not what `--save-baseline` writes")]
    Json {
        path: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("the baseline `{path}` cannot be used")]
    Unfit {
        path: String,
        #[source]
        source: BaselineError,
    },
    #[error("cannot keep a baseline in `{path}`")]
    Write {
        path: String,
        #[source]
        source: std::io::Error,
    },
}

impl FileError {
    pub(super) fn hint(&self) -> String {
        match self {
            Self::Read { .. } => {
                "`aggrik8s verify --save-baseline FILE` of a READY run writes one".to_owned()
            }
            Self::Json { source, .. } if source.is_eof() => {
                "the file ends too early: it was cut off on its way; copy it again, or save a new one with --save-baseline".to_owned()
            }
            Self::Json { .. } => {
                "copy the file again, or save a new one with --save-baseline".to_owned()
            }
            Self::Unfit { source, .. } => match source {
                BaselineError::Version { .. } => format!(
                    "another version of aggrik8s wrote it: use that one, or save a new baseline with this one (it writes version {SCHEMA_VERSION})"
                ),
                BaselineError::Kind(_) => {
                    "name a file that --save-baseline wrote, not a report".to_owned()
                }
                BaselineError::Garbled(_) => {
                    "the file was changed after it was written; save a new one with --save-baseline"
                        .to_owned()
                }
                BaselineError::OtherMesh { .. } => {
                    "name a baseline of this mesh, or save one: clusters are compared by their names"
                        .to_owned()
                }
            },
            Self::Write { .. } => "name a file in a folder that exists and may be written".to_owned(),
        }
    }
}

fn shown(path: &Path) -> String {
    printable(&path.display().to_string(), 400)
}

/// What every version of the file has.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    schema_version: serde_json::Value,
}

/// The baseline in `path`, if a run of `mesh` can be compared with it.
pub(super) fn read(path: &Path, mesh: &Mesh) -> Result<Baseline, FileError> {
    let text = || {
        let mut text = String::new();
        File::open(path)?
            .take(MOST_BYTES)
            .read_to_string(&mut text)?;
        Ok(text)
    };
    let text = text().map_err(|source| FileError::Read {
        path: shown(path),
        source,
    })?;
    let json = |source| FileError::Json {
        path: shown(path),
        source,
    };
    let unfit = |source| FileError::Unfit {
        path: shown(path),
        source,
    };
    let head: Head = serde_json::from_str(&text).map_err(json)?;
    if head.kind != KIND {
        return Err(unfit(BaselineError::Kind(printable(&head.kind, 80))));
    }
    if head.schema_version != SCHEMA_VERSION {
        let seen = printable(&head.schema_version.to_string(), 80);
        return Err(unfit(BaselineError::Version { seen }));
    }
    let mut baseline: Baseline = serde_json::from_str(&text).map_err(json)?;
    // They are shown.
    baseline.mesh = printable(&baseline.mesh, 80);
    baseline.started_at = printable(&baseline.started_at, 40);
    baseline.check(mesh).map_err(|error| {
        unfit(match error {
            BaselineError::Garbled(what) => BaselineError::Garbled(printable(&what, 300)),
            other => other,
        })
    })?;
    Ok(baseline)
}

/// Where a baseline is to be kept, and of which runs.
#[derive(Debug)]
pub(super) struct Keep {
    path: PathBuf,
    any: bool,
}

impl Keep {
    /// Finds out whether it can be written before anything is sent. `any`: of runs that are not READY as well.
    pub(super) fn new(path: &Path, any: bool) -> Result<Self, FileError> {
        let keep = Self {
            path: path.to_owned(),
            any,
        };
        let fine = if path.is_dir() {
            Err(std::io::ErrorKind::IsADirectory.into())
        } else {
            // As the file itself will be written.
            keep.file()
                .and_then(|_| std::fs::remove_file(keep.beside()))
        };
        fine.map_err(|source| keep.failed(source))?;
        Ok(keep)
    }

    fn failed(&self, source: std::io::Error) -> FileError {
        FileError::Write {
            path: shown(&self.path),
            source,
        }
    }

    /// Where it grows until it is whole.
    fn beside(&self) -> PathBuf {
        let mut name = std::ffi::OsString::from(".");
        name.push(self.path.file_name().unwrap_or_default());
        name.push(format!(".{}.tmp", std::process::id()));
        self.path.with_file_name(name)
    }

    fn file(&self) -> std::io::Result<File> {
        if self.path.file_name().is_none() {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        File::create(self.beside())
    }

    /// Writes it, unless the run is not fit for comparison. Tells a person which.
    pub(super) fn keep(&self, baseline: &Baseline) -> Result<String, FileError> {
        if baseline.result != Outcome::Ready && !self.any {
            return Ok(format!(
                "baseline not saved: the run is {}, and what a mesh does then is nothing to compare with\nhint: `--even-if-not-ready` keeps it all the same",
                baseline.result.words()
            ));
        }
        self.write(baseline).map_err(|source| {
            let _ = std::fs::remove_file(self.beside());
            self.failed(source)
        })?;
        let samples: u64 = baseline.links.iter().map(|link| link.connect.n).sum();
        Ok(format!(
            "baseline: {samples} connects of {} links kept in `{}`",
            baseline.links.len(),
            shown(&self.path)
        ))
    }

    fn write(&self, baseline: &Baseline) -> std::io::Result<()> {
        let mut file = self.file()?;
        let text = serde_json::to_string(baseline)?;
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        std::fs::rename(self.beside(), &self.path)
    }
}
