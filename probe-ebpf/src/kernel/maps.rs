//! The maps and the socket's storage. Sizes marked "loader" are set when the object is loaded.

use aya_ebpf::{
    btf_maps::SkStorage,
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, Queue, RingBuf},
};
use probe_common::{
    Address, AttachState, Config, Meta, PortClass, PrefixValue, ServiceKey, Slot,
    counters::GLOBAL_COUNTER_SLOTS,
    maps::{NAME_BYTES, PREFIX_LIMIT, SERVICE_LIMIT, SOCKET_BYTES, SOCKET_TABLE},
};

#[map]
pub(super) static META: Array<Meta> = Array::with_max_entries(1, 0);
#[map]
pub(super) static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
#[map]
pub(super) static ATTACH: Array<AttachState> = Array::with_max_entries(8, 0);
#[map]
pub(super) static COUNTERS: Array<u64> = Array::with_max_entries(GLOBAL_COUNTER_SLOTS, 0);
/// Loader: the cap. Keys are [`probe_common::SeriesKey`] as one word.
#[map]
pub(super) static SERIES: HashMap<u64, u32> = HashMap::with_max_entries(1, 0);
/// Loader: the cap. Filled by the loader with every slot behind the overflow ones.
#[map]
pub(super) static FREE_SLOTS: Queue<u32> = Queue::with_max_entries(1, 0);
/// Loader: (cap + overflow slots) × shards.
#[map]
pub(super) static SLOTS: Array<Slot> = Array::with_max_entries(1, 0);
#[map]
pub(super) static PREFIXES: LpmTrie<Address, PrefixValue> =
    LpmTrie::with_max_entries(PREFIX_LIMIT, 0);
#[map]
pub(super) static SERVICES: HashMap<ServiceKey, PortClass> =
    HashMap::with_max_entries(SERVICE_LIMIT, 0);
/// For the agent only; here so that they are created and pinned with the rest.
#[map]
pub(super) static REMOTES: Array<[u8; NAME_BYTES]> = Array::with_max_entries(1024, 0);
#[map]
pub(super) static CLASSES: Array<[u8; NAME_BYTES]> = Array::with_max_entries(256, 0);
/// Loader: the size.
#[map]
pub(super) static EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);
#[map]
pub(super) static BUDGET: Array<Budget> = Array::with_max_entries(1, 0);
/// State of open connections, found by the socket's cookie; see [`super::sockets`].
#[map]
pub(super) static TABLE: Array<Socket> = Array::with_max_entries(SOCKET_TABLE, 0);
/// State of those that find their place in the table taken.
#[btf_map]
pub(super) static SOCKETS: SkStorage<Socket> = SkStorage::new();

/// Events of traffic in the current window of 2³⁰ ns.
#[repr(C)]
pub(super) struct Budget {
    pub(super) window: u64,
    pub(super) used: u64,
}

const _: () = assert!(size_of::<Socket>() == SOCKET_BYTES && SOCKET_TABLE.is_power_of_two());

/// What we remember of a connection.
#[repr(C)]
pub(super) struct Socket {
    /// Whose state this is and where the connection stands: [`probe_ebpf::word`]. Changed by exchange only
    /// where `sock_release` may meet another hook.
    pub(super) word: u64,
    /// First SYN, ns; 0: not seen.
    pub(super) start_ns: u64,
    /// Payload already added to the series.
    pub(super) sent: u64,
    pub(super) received: u64,
    /// The peer's address while ATTEMPTED, our own while CONNECTING: what the hook that gives up
    /// cannot ask for.
    pub(super) address: Address,
    /// Slot of the series.
    pub(super) slot: u32,
    /// Smoothed RTT at the last callback, µs × 8, on kernels that do not pass the raw sample.
    pub(super) srtt: u32,
    /// See [`probe_ebpf::decide::fin_received`].
    pub(super) at_fin_wait2: u32,
    /// An old socket's retransmits already counted.
    pub(super) retransmits: u32,
    pub(super) syn_retransmits: u16,
    /// Host byte order.
    pub(super) local_port: u16,
    /// Host byte order; while ATTEMPTED.
    pub(super) remote_port: u16,
    pub(super) remote: u16,
    pub(super) direction: u8,
    pub(super) class: u8,
    pub(super) origin: u8,
    /// Last TCP state that a callback reported.
    pub(super) reported: u8,
    pub(super) rto_expired: u8,
    /// A sample lies between `srtt` and the next smoothed value.
    pub(super) sample_pending: u8,
    pub(super) reserved: [u8; 2],
    /// When `sock_release` marked it, units of 2³⁰ ns.
    pub(super) let_go: u32,
}
