//! Keys and values of the remaining maps, and the maps' names.

use crate::address::Address;

/// Names of the maps as they are pinned below the pin folder.
pub mod names {
    /// Array of one [`crate::Meta`].
    pub const META: &str = "META";
    /// Array of one [`crate::Config`].
    pub const CONFIG: &str = "CONFIG";
    /// Array of [`super::AttachState`], one per program of [`super::PROGRAMS`].
    pub const ATTACH: &str = "ATTACH";
    /// Array of u64, indexed by [`crate::GlobalCounter`].
    pub const COUNTERS: &str = "COUNTERS";
    /// Hash of [`crate::SeriesKey`] → u32 slot.
    pub const SERIES: &str = "SERIES";
    /// Queue of free slots.
    pub const FREE_SLOTS: &str = "FREE_SLOTS";
    /// Array of [`crate::Slot`].
    pub const SLOTS: &str = "SLOTS";
    /// Longest-prefix trie of 16-byte addresses → [`crate::PrefixValue`].
    pub const PREFIXES: &str = "PREFIXES";
    /// Hash of [`crate::ServiceKey`] → [`crate::PortClass`].
    pub const SERVICES: &str = "SERVICES";
    /// Array of 64-byte names, indexed by [`crate::RemoteId`].
    pub const REMOTES: &str = "REMOTES";
    /// Array of 64-byte names, indexed by [`crate::ClassId`].
    pub const CLASSES: &str = "CLASSES";
    /// Ring buffer of [`crate::Event`].
    pub const EVENTS: &str = "EVENTS";
    /// Array of the states of open connections, by socket cookie; the programs' own.
    pub const TABLE: &str = "TABLE";
    /// Socket storage: the states that found their place in `TABLE` taken.
    pub const SOCKETS: &str = "SOCKETS";
    /// Array of one: the budget of traffic events.
    pub const BUDGET: &str = "BUDGET";
}

/// Bytes of a name in `REMOTES` and `CLASSES`, zero-padded; the longest name is one less.
pub const NAME_BYTES: usize = 64;
/// Entries of `TABLE`; a power of two.
pub const SOCKET_TABLE: u32 = 16_384;
/// Bytes of an entry.
pub const SOCKET_BYTES: usize = 88;
/// Most prefixes at one time.
pub const PREFIX_LIMIT: u32 = 8192;
/// Most declared service ports at one time, fallbacks included.
pub const SERVICE_LIMIT: u32 = 1024;

/// The programs, in the order of map `ATTACH`.
pub const PROGRAMS: [&str; 5] = ["sock_ops", "sock_release", "connect4", "connect6", "egress"];

/// Written once by the loader.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    pub layout: u32,
    pub shards: u32,
    pub series_cap: u32,
    /// Entries of `TABLE`.
    pub states: u32,
    /// `CLOCK_MONOTONIC` of the load, ns.
    pub loaded_at_ns: u64,
    /// SHA-256 of the object file.
    pub object: [u8; 32],
}

/// What the programs read at every connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Source ports of our probes, both inclusive.
    pub probe_port_first: u16,
    pub probe_port_last: u16,
    /// The first of them from which requested probes come; background probes use those below.
    pub burst_port_first: u16,
    /// 1: `egress` rests, so it returns at once, or is not attached. 0: it watches.
    pub egress_rests: u16,
    /// A power of two.
    pub shards: u32,
    /// Failures and outliers of traffic that may make an event, per second.
    pub events_per_second: u32,
    /// Connects of traffic slower than this make an event, ns; 0: none.
    pub outlier_connect_ns: u64,
}

/// Value of `PREFIXES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixValue {
    /// A [`crate::RemoteId`].
    pub remote: u16,
    pub reserved: u16,
}

/// Key of `SERVICES`. The address is [`crate::address::ANY`] for the entry that every declared port has.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServiceKey {
    pub address: Address,
    /// Host byte order.
    pub port: u64,
}

/// Value of `SERVICES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortClass {
    /// Class at this key; [`crate::ClassId::OTHER`] at an `ANY` entry whose port is declared only at addresses.
    pub class: u8,
    /// At an `ANY` entry: 1 if an address decides, so a second lookup is due.
    pub by_address: u8,
    pub reserved: u16,
}

/// Value of `ATTACH`: how a program stands.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachState {
    /// 1 attached, 0 not.
    pub attached: u32,
    /// errno of the refusal; 0 if attached or not tried.
    pub errno: u32,
    /// Kernel id of the link, 0 if none.
    pub link_id: u32,
    /// Kernel id of the program, 0 if none.
    pub program_id: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_has_no_padding() {
        assert_eq!(size_of::<Meta>(), 4 * 4 + 8 + 32);
        assert_eq!(size_of::<Config>(), 4 * 2 + 4 + 4 + 8);
        assert_eq!(size_of::<PrefixValue>(), 4);
        assert_eq!(size_of::<ServiceKey>(), 24);
        assert_eq!(size_of::<PortClass>(), 4);
        assert_eq!(size_of::<AttachState>(), 16);
    }
}
