//! Where the agent's maps come from, and when they end.

use std::path::{Path, PathBuf};

use crate::hold::client::{self, AskError, Lease};
use crate::sys::maps::{Maps, MapsError};

/// Where the maps come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapSource {
    /// A folder of pins, as `load` made it.
    Pins(PathBuf),
    /// The socket of `hold`.
    Holder(PathBuf),
}

/// Why the maps are not open.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error(transparent)]
    Maps(#[from] MapsError),
    #[error(transparent)]
    Ask(#[from] AskError),
}

impl MapSource {
    pub(super) fn path(&self) -> &Path {
        let (Self::Pins(path) | Self::Holder(path)) = self;
        path
    }

    /// The maps, and what tells of their end if they can end.
    pub(super) async fn open(&self) -> Result<(Maps, Option<Lease>), OpenError> {
        match self {
            Self::Pins(dir) => Ok((Maps::open(dir)?, None)),
            Self::Holder(path) => {
                let (maps, lease) = client::ask(path).await?;
                Ok((maps, Some(lease)))
            }
        }
    }
}

/// Waits for the end; pins have none. Cancel safe.
pub(super) async fn ended(lease: Option<&Lease>) {
    match lease {
        Some(lease) => lease.ended().await,
        None => std::future::pending().await,
    }
}
