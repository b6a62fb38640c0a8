//! Counters of a role, kept in a file that `lab status` reads.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::RoleError;

/// Writes a role's counters; without a file, nowhere.
pub(super) struct CountersFile {
    role: &'static str,
    path: Option<PathBuf>,
}

impl CountersFile {
    /// `--stats FILE`, at most once.
    pub(super) fn from_args(args: &super::Arguments<'_>) -> Result<Self, RoleError> {
        Ok(Self {
            role: args.role,
            path: args.optional("stats")?,
        })
    }

    /// A reader sees the old counters or the new ones, never half of them.
    pub(super) fn write(&self, counters: &impl Serialize) -> Result<(), RoleError> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let text = serde_json::to_vec_pretty(counters).map_err(std::io::Error::other);
        text.and_then(|text| replace(path, &text))
            .map_err(|source| RoleError::Io {
                role: self.role,
                what: format!("write {}", path.display()),
                source,
            })
    }
}

fn replace(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, text)?;
    std::fs::rename(new, path)
}
