//! A series and its slot: everything that is counted for (remote, direction, class, origin).

use crate::{
    counters::COUNTER_SLOTS,
    histogram::{BUCKET_MASK, BUCKETS, Histogram},
};

/// Who is at the other end: the value of a prefix. Names of ids from [`RemoteId::FIRST_NAMED`] on
/// stand in map `REMOTES`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RemoteId(pub u16);

impl RemoteId {
    /// No declared prefix holds the address.
    pub const WORLD: Self = Self(0);
    /// A service address: which cluster answers is unknown.
    pub const VIP: Self = Self(1);
    /// More than one cluster or client claims the address.
    pub const AMBIGUOUS: Self = Self(2);
    /// Series beyond the cap.
    pub const OTHER: Self = Self(3);
    /// The first id that the agent hands out.
    pub const FIRST_NAMED: u16 = 8;
    /// Ids are below this.
    pub const LIMIT: u16 = 1024;

    /// Name of a fixed id.
    pub const fn fixed_name(self) -> Option<&'static str> {
        match self.0 {
            0 => Some("world"),
            1 => Some("vip"),
            2 => Some("ambiguous"),
            3 => Some("~other"),
            _ => None,
        }
    }
}

/// Service class; 0 is `other`, the rest is named in map `CLASSES`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClassId(pub u8);

impl ClassId {
    pub const OTHER: Self = Self(0);
    /// Ids are below this.
    pub const LIMIT: u16 = 256;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Direction {
    /// This side called connect().
    Initiator = 0,
    /// This side accepted.
    Acceptor = 1,
    /// The connection is older than the probe.
    Unknown = 2,
}

impl Direction {
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::Initiator),
            1 => Some(Self::Acceptor),
            2 => Some(Self::Unknown),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Origin {
    Traffic = 0,
    /// One of our background probes, known by its source port.
    Probe = 1,
    /// One of our probes that somebody asked for, known likewise.
    Burst = 2,
}

impl Origin {
    pub const ALL: [Self; 3] = [Self::Traffic, Self::Probe, Self::Burst];

    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::Traffic),
            1 => Some(Self::Probe),
            2 => Some(Self::Burst),
            _ => None,
        }
    }

    /// Whether the connection is one of our own probes, of either kind.
    #[inline(always)]
    pub const fn is_ours(self) -> bool {
        !matches!(self, Self::Traffic)
    }
}

/// Key of map `SERIES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeriesKey {
    pub remote: u16,
    /// A [`Direction`].
    pub direction: u8,
    /// A [`ClassId`].
    pub class: u8,
    /// An [`Origin`].
    pub origin: u8,
    /// 0.
    pub reserved: [u8; 3],
}

impl SeriesKey {
    #[inline(always)]
    pub const fn new(
        remote: RemoteId,
        direction: Direction,
        class: ClassId,
        origin: Origin,
    ) -> Self {
        Self {
            remote: remote.0,
            direction: direction as u8,
            class: class.0,
            origin: origin as u8,
            reserved: [0; 3],
        }
    }

    /// The key as one word, as it lies in memory: how the programs build it.
    #[inline(always)]
    pub const fn word(
        remote: RemoteId,
        direction: Direction,
        class: ClassId,
        origin: Origin,
    ) -> u64 {
        remote.0 as u64 | (direction as u64) << 16 | (class.0 as u64) << 24 | (origin as u64) << 32
    }

    pub const fn remote(&self) -> RemoteId {
        RemoteId(self.remote)
    }

    /// Unknown values, which the programs never write, read as [`Direction::Unknown`].
    pub const fn direction(&self) -> Direction {
        match Direction::from_u8(self.direction) {
            Some(direction) => direction,
            None => Direction::Unknown,
        }
    }

    pub const fn class(&self) -> ClassId {
        ClassId(self.class)
    }

    /// Unknown values, which the programs never write, read as [`Origin::Traffic`].
    pub const fn origin(&self) -> Origin {
        match Origin::from_u8(self.origin) {
            Some(origin) => origin,
            None => Origin::Traffic,
        }
    }

    /// The series that takes what finds no slot: direction and origin stay, so their totals stay right.
    pub const fn overflow(&self) -> Self {
        Self {
            remote: RemoteId::OTHER.0,
            class: 0,
            ..*self
        }
    }

    /// The reserved slot of [`Self::overflow`], below [`OVERFLOW_SLOTS`].
    #[inline(always)]
    pub const fn overflow_slot(&self) -> u32 {
        overflow_slot(self.direction() as u32, self.origin() as u32)
    }
}

/// See [`SeriesKey::overflow_slot`].
#[inline(always)]
pub const fn overflow_slot(direction: u32, origin: u32) -> u32 {
    direction * 3 + origin
}

/// Slots in front of the array that belong to `~other`: 3 directions × 3 origins.
pub const OVERFLOW_SLOTS: u32 = 9;

/// Index into [`Slot::histograms`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum HistogramKind {
    /// Initiator: first SYN to ESTABLISHED, SYN retransmits included.
    Connect,
    /// Initiator: SYN → SYN-ACK; acceptor: SYN-ACK → ACK. Not taken when the segment was sent again.
    Handshake,
    /// Smallest round trip of a connection, once, when it closes.
    Minimum,
    /// Every round-trip sample after the handshake; contains the peer's delayed ACK.
    AckLatency,
}

impl HistogramKind {
    pub const ALL: [Self; 4] = [
        Self::Connect,
        Self::Handshake,
        Self::Minimum,
        Self::AckLatency,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Handshake => "handshake",
            Self::Minimum => "minimum",
            Self::AckLatency => "ack_latency",
        }
    }
}

/// Value of map `SLOTS`. A series of slot `s` owns the entries `s × shards … s × shards + shards − 1`;
/// a CPU writes only to `cpu mod shards`, atomically, and the reader adds them up.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Indexed by [`HistogramKind`].
    pub histograms: [Histogram; 4],
    /// Indexed by [`crate::Counter`].
    pub counters: [u64; COUNTER_SLOTS],
}

/// Where the counters begin in a [`Slot`].
pub const COUNTERS_OFFSET: usize = core::mem::offset_of!(Slot, counters);

const _: () = assert!(
    (BUCKET_MASK as usize + 1 - BUCKETS) * 8 <= size_of::<Slot>() - COUNTERS_OFFSET,
    "a masked bucket of the last histogram must stay within the slot"
);

impl Slot {
    pub const EMPTY: Self = Self {
        histograms: [Histogram::EMPTY; 4],
        counters: [0; COUNTER_SLOTS],
    };

    pub fn counter(&self, counter: crate::Counter) -> u64 {
        self.counters[counter as usize]
    }

    pub fn histogram(&self, kind: HistogramKind) -> &Histogram {
        &self.histograms[kind as usize]
    }

    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counters.iter_mut().zip(&other.counters) {
            *mine = mine.wrapping_add(*theirs);
        }
        for (mine, theirs) in self.histograms.iter_mut().zip(&other.histograms) {
            mine.merge(theirs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overflow_keeps_direction_and_origin_in_a_slot_of_its_own() {
        let mut seen = [false; OVERFLOW_SLOTS as usize];
        for direction in [
            Direction::Initiator,
            Direction::Acceptor,
            Direction::Unknown,
        ] {
            for origin in Origin::ALL {
                let key = SeriesKey::new(RemoteId(77), direction, ClassId(3), origin);
                let overflow = key.overflow();
                assert_eq!(overflow.remote(), RemoteId::OTHER);
                assert_eq!(overflow.direction(), direction);
                assert_eq!(overflow.origin(), origin);
                assert_eq!(overflow.overflow_slot(), key.overflow_slot());
                let slot = &mut seen[key.overflow_slot() as usize];
                assert!(!*slot);
                *slot = true;
            }
        }
        assert!(seen.iter().all(|s| *s));
    }

    #[test]
    fn the_word_is_the_key() {
        let key = SeriesKey::new(
            RemoteId(0x1234),
            Direction::Unknown,
            ClassId(0xab),
            Origin::Probe,
        );
        let word = SeriesKey::word(key.remote(), key.direction(), key.class(), key.origin());
        let [a, b, direction, class, origin, zeros @ ..] = word.to_ne_bytes();
        assert_eq!(u16::from_ne_bytes([a, b]), key.remote);
        assert_eq!(
            (direction, class, origin, zeros),
            (key.direction, key.class, key.origin, key.reserved)
        );
    }

    #[test]
    fn layout_has_no_padding() {
        assert_eq!(size_of::<SeriesKey>(), 8);
        assert_eq!(size_of::<Slot>(), 48 * 8 + 4 * (8 + 464 * 8));
    }
}
