//! Where open maps come from: the pins of a folder, or descriptors that a holder handed over.

use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use aya::maps::{Array, HashMap, Map, MapData, MapError};
use probe_common::maps::names;

use super::maps::MapsError;

/// The maps that an agent reads or writes. The others belong to the programs, and nobody hands them out.
pub const NEEDED: [&str; 11] = [
    names::META,
    names::CONFIG,
    names::ATTACH,
    names::COUNTERS,
    names::SERIES,
    names::SLOTS,
    names::PREFIXES,
    names::SERVICES,
    names::REMOTES,
    names::CLASSES,
    names::EVENTS,
];

pub(super) enum Source {
    /// A folder of a bpffs.
    Pins(PathBuf),
    Handed {
        /// Who handed them over, for people.
        from: PathBuf,
        maps: BTreeMap<String, OwnedFd>,
    },
}

impl Source {
    /// For people: what an error calls the place.
    pub(super) fn place(&self) -> &Path {
        match self {
            Self::Pins(dir) => dir,
            Self::Handed { from, .. } => from,
        }
    }

    fn data(&self, name: &str) -> Result<MapData, MapError> {
        match self {
            Self::Pins(dir) => MapData::from_pin(dir.join(name)),
            Self::Handed { maps, .. } => {
                let map = maps.get(name).ok_or(MapError::InvalidName {
                    name: name.to_owned(),
                })?;
                MapData::from_fd(map.try_clone()?)
            }
        }
    }

    pub(super) fn open<T>(
        &self,
        name: &'static str,
        wrap: impl FnOnce(MapData) -> Result<T, MapError>,
    ) -> Result<T, MapsError> {
        let path = || self.place().join(name);
        let data = self.data(name).map_err(|source| MapsError::Open {
            path: path(),
            source,
        })?;
        wrap(data).map_err(|source| MapsError::Kind {
            path: path(),
            source,
        })
    }

    pub(super) fn array<V: aya::Pod>(
        &self,
        name: &'static str,
    ) -> Result<Array<MapData, V>, MapsError> {
        self.open(name, |data| Array::try_from(Map::Array(data)))
    }

    pub(super) fn hash<K: aya::Pod, V: aya::Pod>(
        &self,
        name: &'static str,
    ) -> Result<HashMap<MapData, K, V>, MapsError> {
        self.open(name, |data| HashMap::try_from(Map::HashMap(data)))
    }
}
