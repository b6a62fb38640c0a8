//! What the maps cost, by a formula that is printed and tested.

use probe_common::{Slot, maps, series::OVERFLOW_SLOTS};

/// One socket's storage, its bookkeeping included: two of the kernel's 192-byte objects (391 B measured on 6.18).
/// Charged to the memory cgroup of the loader, at one per connection end on this machine that finds its place in
/// the table of states taken, and per socket older than the probe.
pub const SOCKET_STORAGE_BYTES: u64 = 384;
/// Most shards; beyond four CPUs atomics on shared cache lines cost less than the memory.
pub const MAX_SHARDS: u32 = 4;
/// Series by default: 4 remotes + world + vip, 2 directions, 2 origins and 5 classes leave room.
pub const DEFAULT_SERIES_CAP: u32 = 128;
/// Bytes of the ring by default: 2900 events of 88 bytes.
pub const DEFAULT_RING_BYTES: u32 = 256 * 1024;

/// Sizes of the maps for given limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub series_cap: u32,
    pub shards: u32,
    /// Connection ends whose state has room in the table.
    pub states: u32,
    pub ring_bytes: u32,
}

impl Memory {
    pub fn slots(&self) -> u64 {
        u64::from(self.series_cap + OVERFLOW_SLOTS) * u64::from(self.shards)
    }

    pub fn slot_bytes(&self) -> u64 {
        self.slots() * size_of::<Slot>() as u64
    }

    /// The table of the states of open connections.
    pub fn state_bytes(&self) -> u64 {
        u64::from(self.states) * maps::SOCKET_BYTES as u64
    }

    /// Everything beside slots, states and ring, at its fullest: series hash, prefixes, services, names, queue.
    pub fn table_bytes(&self) -> u64 {
        let series = u64::from(self.series_cap) * 64;
        let prefixes = u64::from(maps::PREFIX_LIMIT) * 64;
        let services = u64::from(maps::SERVICE_LIMIT) * 96;
        let names = (1024 + 256) * maps::NAME_BYTES as u64;
        series + prefixes + services + names + u64::from(self.series_cap) * 4 + 4096
    }

    pub fn total_bytes(&self) -> u64 {
        self.slot_bytes() + self.state_bytes() + self.table_bytes() + u64::from(self.ring_bytes)
    }

    /// The formula with its figures, for people.
    pub fn formula(&self) -> String {
        format!(
            "({cap} series + {OVERFLOW_SLOTS} overflow) × {shards} shards × {slot} B = {slots} B; \
             + states {entries} × {entry} B = {states} B + tables at their fullest {tables} B + ring {ring} B = {total} B; \
             apart: ≈ {SOCKET_STORAGE_BYTES} B per open connection end beyond the states",
            cap = self.series_cap,
            shards = self.shards,
            slot = size_of::<Slot>(),
            slots = self.slot_bytes(),
            entries = self.states,
            entry = maps::SOCKET_BYTES,
            states = self.state_bytes(),
            tables = self.table_bytes(),
            ring = self.ring_bytes,
            total = self.total_bytes(),
        )
    }
}

/// Shards for a number of CPUs: the next power of two, at most [`MAX_SHARDS`].
pub fn shards_for(cpus: usize) -> u32 {
    u32::try_from(cpus.max(1).next_power_of_two())
        .unwrap_or(MAX_SHARDS)
        .min(MAX_SHARDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_remotes_on_sixteen_cpus_stay_below_twelve_megabytes() {
        let memory = Memory {
            series_cap: DEFAULT_SERIES_CAP,
            shards: shards_for(16),
            states: maps::SOCKET_TABLE,
            ring_bytes: DEFAULT_RING_BYTES,
        };
        assert!(memory.total_bytes() <= 12_000_000, "{}", memory.formula());
        // Room for 4 remotes × 2 directions × 8 classes × 2 origins.
        assert!(memory.series_cap >= 4 * 2 * 8 * 2);
        let docs = include_str!("../../../docs/kernel-probe.md");
        assert!(docs.contains(&memory.formula()), "{}", memory.formula());
    }

    #[test]
    fn shards_are_a_power_of_two_and_bounded() {
        for (cpus, shards) in [(0, 1), (1, 1), (2, 2), (3, 4), (4, 4), (16, 4), (1024, 4)] {
            assert_eq!(shards_for(cpus), shards);
        }
    }
}
