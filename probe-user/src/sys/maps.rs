//! The maps, opened by their pins or by descriptors that were handed over. Reading and writing needs no capability,
//! opening pins only their group.
//!
//! A [`Maps`] is a set of file descriptors: cheap to open, safe to hold for ever, and it keeps
//! reading the same counts however often the agent restarts.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, lpm_trie::Key};
use ipnet::IpNet;
use probe_common::{
    Address, AttachState, ClassId, Config, Counter, GlobalCounter, Histogram, HistogramKind,
    LAYOUT, Meta, PortClass, PrefixValue, RemoteId, SeriesKey, ServiceKey, Slot, address,
    maps::{PROGRAMS, names as map_names},
};

use super::{events::Events, names::Names, source::Source};

/// What can go wrong with maps.
#[derive(Debug, thiserror::Error)]
pub enum MapsError {
    #[error("cannot open map `{}`", path.display())]
    Open { path: PathBuf, source: MapError },
    #[error("map `{}` is not of the expected kind", path.display())]
    Kind { path: PathBuf, source: MapError },
    #[error("`{}` has layout {found}, this program speaks layout {LAYOUT}", path.display())]
    Layout { path: PathBuf, found: u32 },
    #[error("cannot read map `{map}`")]
    Read { map: &'static str, source: MapError },
    #[error("cannot write map `{map}`")]
    Write { map: &'static str, source: MapError },
    #[error("no free {what} id is left for `{name}`")]
    NamesFull { what: &'static str, name: String },
    #[error("{what} name `{name}` is empty or longer than {max} bytes")]
    NameLength {
        what: &'static str,
        name: String,
        max: usize,
    },
    #[error("cannot copy a map's descriptor")]
    Descriptor(#[source] io::Error),
    #[error("cannot wait for events")]
    Events(#[source] io::Error),
}

impl MapsError {
    /// What to do next, if we know.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Open { source, .. } if is_errno(source, libc::ENOENT) => Some(
                "nothing is pinned there: run `aggrik8s-probe load` first, with the same pin folder",
            ),
            Self::Open { source, .. } if is_errno(source, libc::EACCES) => Some(
                "the pins belong to another group: give this process the group that `load --gid` named",
            ),
            Self::Open { source, .. } if is_errno(source, libc::EPERM) => Some(
                "bpf(2) itself was refused: a seccomp profile (RuntimeDefault does) or `kernel.unprivileged_bpf_disabled` stands before it",
            ),
            Self::Layout { .. } => Some(
                "another version loaded these programs: run `aggrik8s-probe unload` with its pin folder, then `load`",
            ),
            _ => None,
        }
    }
}

fn is_errno(error: &MapError, errno: i32) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = source {
        if let Some(io) = current.downcast_ref::<io::Error>() {
            return io.raw_os_error() == Some(errno);
        }
        source = current.source();
    }
    false
}

/// Everything counted for one series, shards added up. Counters never fall.
#[derive(Clone, Debug, PartialEq)]
pub struct SeriesData {
    /// Indexed by [`Counter`]; see [`SeriesData::counter`].
    pub slot: Box<Slot>,
}

impl SeriesData {
    pub fn counter(&self, counter: Counter) -> u64 {
        self.slot.counter(counter)
    }

    pub fn histogram(&self, kind: HistogramKind) -> &Histogram {
        self.slot.histogram(kind)
    }

    /// Connections open now.
    pub fn open(&self) -> u64 {
        (self.counter(Counter::Established) + self.counter(Counter::Adopted))
            .saturating_sub(self.counter(Counter::Closed))
    }

    /// Failed connects, all reasons.
    pub fn failed(&self) -> u64 {
        [
            Counter::FailedRefused,
            Counter::FailedTimeout,
            Counter::FailedAborted,
            Counter::FailedIcmp,
            Counter::FailedLocal,
            Counter::FailedUnknown,
        ]
        .into_iter()
        .map(|counter| self.counter(counter))
        .sum()
    }
}

/// A declared service port and its class.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServicePort {
    /// Where the service is reached; `None`: at any address.
    pub address: Option<IpAddr>,
    pub port: u16,
    pub class: ClassId,
}

/// How a program stands, as the loader left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramState {
    /// One of [`PROGRAMS`].
    pub program: &'static str,
    /// `None`: attached.
    pub refused: Option<String>,
}

/// The open maps of one load.
pub struct Maps {
    source: Source,
    meta: Meta,
    config: Array<MapData, Config>,
    attach: Array<MapData, AttachState>,
    counters: Array<MapData, u64>,
    series: HashMap<MapData, SeriesKey, u32>,
    slots: Array<MapData, Slot>,
    prefixes: LpmTrie<MapData, Address, PrefixValue>,
    services: HashMap<MapData, ServiceKey, PortClass>,
    remotes: Names,
    classes: Names,
}

impl Maps {
    /// Opens the maps pinned below `dir`.
    pub fn open(dir: &Path) -> Result<Self, MapsError> {
        Self::of(Source::Pins(dir.to_owned()))
    }

    /// Takes maps by name; `from` is who handed them over. [`NEEDED`](super::source::NEEDED) says which must be there.
    pub fn handed(from: &Path, maps: BTreeMap<String, OwnedFd>) -> Result<Self, MapsError> {
        Self::of(Source::Handed {
            from: from.to_owned(),
            maps,
        })
    }

    fn of(source: Source) -> Result<Self, MapsError> {
        let metas: Array<_, Meta> = source.array(map_names::META)?;
        let meta = metas.get(&0, 0).map_err(|source| MapsError::Read {
            map: map_names::META,
            source,
        })?;
        if meta.layout != LAYOUT {
            return Err(MapsError::Layout {
                path: source.place().join(map_names::META),
                found: meta.layout,
            });
        }
        Ok(Self {
            meta,
            config: source.array(map_names::CONFIG)?,
            attach: source.array(map_names::ATTACH)?,
            counters: source.array(map_names::COUNTERS)?,
            series: source.hash(map_names::SERIES)?,
            slots: source.array(map_names::SLOTS)?,
            prefixes: source.open(map_names::PREFIXES, |data| {
                LpmTrie::try_from(Map::LpmTrie(data))
            })?,
            services: source.hash(map_names::SERVICES)?,
            remotes: Names::new(
                "remote",
                source.array(map_names::REMOTES)?,
                RemoteId::FIRST_NAMED,
                RemoteId::LIMIT,
            ),
            classes: Names::new(
                "class",
                source.array(map_names::CLASSES)?,
                1,
                ClassId::LIMIT,
            ),
            source,
        })
    }

    /// What the loader wrote: layout, shards, cap, hash of the object.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// For the loader, after it replaced the programs.
    pub(super) fn replace_meta(&self, meta: Meta) -> Result<(), MapsError> {
        let mut metas: Array<_, Meta> = self.source.array(map_names::META)?;
        metas.set(0, meta, 0).map_err(|source| MapsError::Write {
            map: map_names::META,
            source,
        })
    }

    /// Every series that exists, shards merged, in key order; `~other` series only once they count something.
    pub fn series(&self) -> Result<Vec<(SeriesKey, SeriesData)>, MapsError> {
        let read = |source| MapsError::Read {
            map: map_names::SERIES,
            source,
        };
        let mut all = Vec::new();
        for entry in self.series.iter() {
            let (key, slot) = entry.map_err(read)?;
            all.push((key, self.slot(slot)?));
        }
        for direction in [
            probe_common::Direction::Initiator,
            probe_common::Direction::Acceptor,
            probe_common::Direction::Unknown,
        ] {
            for origin in probe_common::Origin::ALL {
                let key = SeriesKey::new(RemoteId::OTHER, direction, ClassId::OTHER, origin);
                let data = self.slot(key.overflow_slot())?;
                if data.slot.counters.iter().any(|count| *count != 0) {
                    all.push((key, data));
                }
            }
        }
        all.sort_by_key(|(key, _)| *key);
        // A hash may be walked twice over a key while it grows.
        all.dedup_by_key(|(key, _)| *key);
        Ok(all)
    }

    fn slot(&self, slot: u32) -> Result<SeriesData, MapsError> {
        let mut merged = Box::new(Slot::EMPTY);
        for shard in 0..self.meta.shards {
            let part = self
                .slots
                .get(&(slot * self.meta.shards + shard), 0)
                .map_err(|source| MapsError::Read {
                    map: map_names::SLOTS,
                    source,
                })?;
            merged.merge(&part);
        }
        Ok(SeriesData { slot: merged })
    }

    /// All global counters with their names.
    pub fn counters(&self) -> Result<Vec<(GlobalCounter, u64)>, MapsError> {
        GlobalCounter::ALL
            .iter()
            .map(|counter| Ok((*counter, self.counter(*counter)?)))
            .collect()
    }

    pub fn counter(&self, counter: GlobalCounter) -> Result<u64, MapsError> {
        self.counters
            .get(&(counter as u32), 0)
            .map_err(|source| MapsError::Read {
                map: map_names::COUNTERS,
                source,
            })
    }

    /// Ids of remotes by name; the fixed ones (`world`, `vip`, `ambiguous`, `~other`) have
    /// [`RemoteId::fixed_name`].
    pub fn remotes(&mut self) -> &mut Names {
        &mut self.remotes
    }

    /// Ids of service classes by name; `other` is [`ClassId::OTHER`].
    pub fn classes(&mut self) -> &mut Names {
        &mut self.classes
    }

    /// Name of a remote, fixed or given.
    pub fn remote_name(&self, id: RemoteId) -> Result<Option<String>, MapsError> {
        match id.fixed_name() {
            Some(name) => Ok(Some(name.to_owned())),
            None => self.remotes.name(id.0),
        }
    }

    /// Name of a service class.
    pub fn class_name(&self, id: ClassId) -> Result<Option<String>, MapsError> {
        if id == ClassId::OTHER {
            return Ok(Some("other".to_owned()));
        }
        self.classes.name(u16::from(id.0))
    }

    /// Makes `wanted` the set of prefixes. Without a gap: every entry is put in or replaced first
    /// (each replacement is atomic), and only then what is not wanted any more goes.
    /// Of two entries for one prefix the last counts.
    pub fn set_prefixes(&mut self, wanted: &[(IpNet, RemoteId)]) -> Result<Changed, MapsError> {
        let write = |source| MapsError::Write {
            map: map_names::PREFIXES,
            source,
        };
        let wanted: BTreeMap<(u32, Address), u16> = wanted
            .iter()
            .map(|(net, remote)| (prefix_key(*net), remote.0))
            .collect();
        let present = self.prefix_entries()?;
        let mut changed = Changed::default();
        for ((bits, data), remote) in &wanted {
            if present.get(&(*bits, *data)) == Some(remote) {
                continue;
            }
            let value = PrefixValue {
                remote: *remote,
                reserved: 0,
            };
            self.prefixes
                .insert(&Key::new(*bits, *data), value, 0)
                .map_err(write)?;
            changed.written += 1;
        }
        for (bits, data) in present.keys().filter(|key| !wanted.contains_key(key)) {
            self.prefixes
                .remove(&Key::new(*bits, *data))
                .map_err(write)?;
            changed.removed += 1;
        }
        Ok(changed)
    }

    /// The prefixes now in force, as (prefix length of the 128-bit key, address) → remote id.
    pub fn prefix_entries(&self) -> Result<BTreeMap<(u32, Address), u16>, MapsError> {
        let read = |source| MapsError::Read {
            map: map_names::PREFIXES,
            source,
        };
        self.prefixes
            .iter()
            .map(|entry| {
                let (key, value) = entry.map_err(read)?;
                Ok(((key.prefix_len(), key.data()), value.remote))
            })
            .collect()
    }

    /// Makes `wanted` the set of declared service ports; new ones first, then the stale go.
    /// A port with one class has it at every address (a backend's address need not be declared);
    /// a port with several classes has each at its declared addresses only, and `other` elsewhere.
    pub fn set_service_ports(&mut self, wanted: &[ServicePort]) -> Result<Changed, MapsError> {
        let write = |source| MapsError::Write {
            map: map_names::SERVICES,
            source,
        };
        let wanted = super::names::service_entries(wanted);
        let present: Vec<ServiceKey> =
            self.services
                .keys()
                .collect::<Result<_, _>>()
                .map_err(|source| MapsError::Read {
                    map: map_names::SERVICES,
                    source,
                })?;
        let mut changed = Changed::default();
        for (key, class) in &wanted {
            self.services.insert(key, class, 0).map_err(write)?;
            changed.written += 1;
        }
        for key in present {
            if !wanted.iter().any(|(wanted, _)| *wanted == key) {
                self.services.remove(&key).map_err(write)?;
                changed.removed += 1;
            }
        }
        Ok(changed)
    }

    /// The programs' settings now in force.
    pub fn config(&self) -> Result<Config, MapsError> {
        self.config.get(&0, 0).map_err(|source| MapsError::Read {
            map: map_names::CONFIG,
            source,
        })
    }

    /// Changes the budget of traffic events and the outlier limit; the rest stays as loaded.
    pub fn set_event_budget(
        &mut self,
        events_per_second: u32,
        outlier_connect_ns: u64,
    ) -> Result<(), MapsError> {
        let config = Config {
            events_per_second,
            outlier_connect_ns,
            ..self.config()?
        };
        self.set_config(config)
    }

    fn set_config(&mut self, config: Config) -> Result<(), MapsError> {
        self.config
            .set(0, config, 0)
            .map_err(|source| MapsError::Write {
                map: map_names::CONFIG,
                source,
            })
    }

    /// Whether `egress` rests, because it was told to or is not attached.
    pub fn egress_rests(&self) -> Result<bool, MapsError> {
        Ok(self.config()?.egress_rests != 0)
    }

    /// Lets `egress` rest, or watch. Takes effect with the next packet.
    pub fn set_egress_rests(&mut self, rests: bool) -> Result<(), MapsError> {
        let config = Config {
            egress_rests: u16::from(rests),
            ..self.config()?
        };
        self.set_config(config)
    }

    /// Connections older than the probe that are open.
    pub fn open_adopted(&self) -> Result<u64, MapsError> {
        let mut open = 0;
        for key in self.series.keys() {
            let key = key.map_err(|source| MapsError::Read {
                map: map_names::SERIES,
                source,
            })?;
            if key.direction() == probe_common::Direction::Unknown
                && let Some(data) = self.slot_of(&key)?
            {
                open += data.open();
            }
        }
        for origin in probe_common::Origin::ALL {
            let direction = probe_common::Direction::Unknown;
            let key = SeriesKey::new(RemoteId::OTHER, direction, ClassId::OTHER, origin);
            open += self.slot(key.overflow_slot())?.open();
        }
        Ok(open)
    }

    fn slot_of(&self, key: &SeriesKey) -> Result<Option<SeriesData>, MapsError> {
        match self.series.get(key, 0) {
            Ok(slot) => self.slot(slot).map(Some),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(MapsError::Read {
                map: map_names::SERIES,
                source,
            }),
        }
    }

    /// The rung of every program.
    pub fn attach_state(&self) -> Result<Vec<ProgramState>, MapsError> {
        (0u32..)
            .zip(PROGRAMS)
            .map(|(index, program)| {
                let state = self
                    .attach
                    .get(&index, 0)
                    .map_err(|source| MapsError::Read {
                        map: map_names::ATTACH,
                        source,
                    })?;
                let refused = match (state.attached, state.errno) {
                    (0, 0) => Some("not asked for".to_owned()),
                    (0, errno) => Some(
                        io::Error::from_raw_os_error(i32::try_from(errno).unwrap_or(libc::EIO))
                            .to_string(),
                    ),
                    _ => None,
                };
                Ok(ProgramState { program, refused })
            })
            .collect()
    }

    /// A reader of the ring buffer. One reader at a time: it moves the ring's consumer position,
    /// which outlives the process, so a killed reader's successor goes on where it stopped.
    pub fn events(&self) -> Result<Events, MapsError> {
        Events::open(&self.source)
    }
}

/// What a setter did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    pub written: usize,
    pub removed: usize,
}

/// A prefix as the trie keeps it.
pub fn prefix_key(net: IpNet) -> (u32, Address) {
    match net.trunc() {
        IpNet::V4(net) => (
            u32::from(net.prefix_len()) + address::V4_BITS,
            address::from_v4(net.network().octets()),
        ),
        IpNet::V6(net) => (
            u32::from(net.prefix_len()),
            address::from_octets(net.network().octets()),
        ),
    }
}

/// An address as every map and event has it.
pub fn to_address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(v4) => address::from_v4(v4.octets()),
        IpAddr::V6(v6) => address::from_octets(v6.octets()),
    }
}

/// The other way; v4-mapped becomes IPv4.
pub fn from_address(bytes: Address) -> IpAddr {
    IpAddr::from(address::octets(bytes)).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v4_and_v6_prefixes_share_one_trie() {
        let (bits, data) = prefix_key("10.244.7.9/16".parse().unwrap());
        assert_eq!(bits, 112);
        assert_eq!(from_address(data), "10.244.0.0".parse::<IpAddr>().unwrap());
        let (bits, data) = prefix_key("fd00:1::/32".parse().unwrap());
        assert_eq!(bits, 32);
        assert_eq!(from_address(data), "fd00:1::".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn addresses_go_both_ways() {
        for text in ["192.168.15.2", "fd00::7", "::1"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(from_address(to_address(ip)), ip);
        }
    }
}
