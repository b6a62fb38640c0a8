//! From an address to a series, from a series to its slot, and adding to it.

use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use probe_common::{
    Address, ClassId, Config, Direction, GlobalCounter, Origin, Outcome, PortClass, PrefixValue,
    RemoteId, SeriesKey, ServiceKey, Slot, address, histogram, series,
};

use super::{
    atomic,
    maps::{CONFIG, COUNTERS, FREE_SLOTS, PREFIXES, SERIES, SERVICES, SLOTS, Socket},
    table,
};

#[inline(always)]
pub(super) fn count(counter: GlobalCounter) {
    // SAFETY: a map value of 8 bytes.
    unsafe {
        let at: *mut u64 = table::element(&raw const COUNTERS, counter as u32);
        if !at.is_null() {
            atomic::add(at, 1);
        }
    }
}

#[inline(always)]
pub(super) fn config() -> Option<&'static Config> {
    // SAFETY: the map's values are `Config`.
    unsafe { table::element::<_, Config>(&raw const CONFIG, 0).as_ref() }
}

/// Whether nobody looks at packets now. Without settings, as before the loader wrote them, nothing is counted anyway.
#[inline(always)]
pub(super) fn egress_rests() -> bool {
    config().is_none_or(|config| config.egress_rests != 0)
}

/// Who is at an address.
#[inline(always)]
pub(super) fn remote_of(at: &Address) -> RemoteId {
    let key = address::trie_key(*at);
    // SAFETY: the map's keys are 20 bytes and its values `PrefixValue`.
    match unsafe { table::lookup::<_, _, PrefixValue>(&raw const PREFIXES, &key).as_ref() } {
        Some(value) => RemoteId(value.remote),
        None => RemoteId::WORLD,
    }
}

/// Class of the serving side's address and port.
#[inline(always)]
pub(super) fn class_of(at: &Address, port: u64) -> ClassId {
    let mut key = ServiceKey {
        address: address::ANY,
        port,
    };
    let find = |key: &ServiceKey| {
        // SAFETY: the map's keys are `ServiceKey` and its values `PortClass`.
        unsafe { table::lookup::<_, _, PortClass>(&raw const SERVICES, key).as_ref() }
    };
    let Some(any) = find(&key) else {
        return ClassId::OTHER;
    };
    let class = ClassId(any.class);
    if any.by_address == 0 {
        return class;
    }
    key.address = *at;
    match find(&key) {
        Some(found) => ClassId(found.class),
        None => class,
    }
}

#[inline(always)]
pub(super) fn origin_of(config: &Config, initiator_port: u64) -> Origin {
    if initiator_port < u64::from(config.probe_port_first)
        || initiator_port > u64::from(config.probe_port_last)
    {
        Origin::Traffic
    } else if initiator_port < u64::from(config.burst_port_first) {
        Origin::Probe
    } else {
        Origin::Burst
    }
}

/// Both ends of a connection; ports in host byte order. Whole words: see [`probe_common::address`].
pub(super) struct Ends {
    pub(super) local: Address,
    pub(super) remote: Address,
    pub(super) local_port: u64,
    pub(super) remote_port: u64,
}

/// Gives the socket its series. For [`Direction::Unknown`] the smaller port is taken for the service.
#[inline(never)]
pub(super) fn assign(socket: &mut Socket, ends: &Ends, direction: Direction) {
    let Some(config) = config() else { return };
    let serves_here = match direction {
        Direction::Initiator => false,
        Direction::Acceptor => true,
        Direction::Unknown => ends.local_port < ends.remote_port,
    };
    let (class, origin) = if serves_here {
        (
            class_of(&ends.local, ends.local_port),
            origin_of(config, ends.remote_port),
        )
    } else {
        (
            class_of(&ends.remote, ends.remote_port),
            origin_of(config, ends.local_port),
        )
    };
    let remote = remote_of(&ends.remote);
    socket.remote = remote.0;
    socket.direction = direction as u8;
    socket.class = class.0;
    socket.origin = origin as u8;
    let key = SeriesKey::word(remote, direction, class, origin);
    socket.slot = slot_of(key, series::overflow_slot(direction as u32, origin as u32));
}

/// The series' slot; a free one for a new series, the overflow slot when none is left.
#[inline(always)]
fn slot_of(key: u64, overflow: u32) -> u32 {
    let find = || {
        // SAFETY: the map's keys are one word and its values `u32`.
        unsafe { table::lookup::<_, _, u32>(&raw const SERIES, &key).as_ref() }
    };
    if let Some(slot) = find() {
        return *slot;
    }
    // SAFETY: a queue of `u32`.
    let Some(slot) = (unsafe { table::pop(&raw const FREE_SLOTS) }) else {
        count(GlobalCounter::SeriesFull);
        return overflow;
    };
    // SAFETY: the map's keys are one word and its values `u32`.
    if unsafe { table::insert_new(&raw const SERIES, &key, u64::from(slot)) } {
        return slot;
    }
    // Another CPU was first. Its slot is the one; ours goes back.
    // SAFETY: a queue of `u32`.
    unsafe { table::push(&raw const FREE_SLOTS, slot) };
    match find() {
        Some(slot) => *slot,
        None => {
            count(GlobalCounter::SeriesFull);
            overflow
        }
    }
}

/// This CPU's shard of a slot.
#[inline(always)]
pub(super) fn shard(slot: u32) -> Option<*mut Slot> {
    let shards = config()?.shards;
    // SAFETY: a helper without arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let index = slot * shards + (cpu & shards.wrapping_sub(1));
    // SAFETY: the map's values are `Slot`.
    let slot: *mut Slot = unsafe { table::element(&raw const SLOTS, index) };
    if slot.is_null() { None } else { Some(slot) }
}

/// Adds to a counter. The offset is in the instruction: as a register it would be another constant on
/// every path that meets here, which the verifier refuses without PERFMON.
macro_rules! add {
    ($slot:expr, $counter:ident, $by:expr $(,)?) => {
        // SAFETY: `$slot` is a map value and the counter lies within it.
        unsafe {
            core::arch::asm!(
                "lock *(u64 *)({slot} + {offset}) += {by}",
                slot = in(reg) $slot,
                offset = const probe_common::series::COUNTERS_OFFSET
                    + 8 * probe_common::Counter::$counter as usize,
                by = in(reg) $by as u64,
            )
        }
    };
}
pub(super) use add;

/// Adds one to the counter of a failed connect.
#[inline(always)]
pub(super) fn add_failure(slot: *mut Slot, outcome: Outcome) {
    match outcome {
        Outcome::Refused => add!(slot, FailedRefused, 1),
        Outcome::Timeout => add!(slot, FailedTimeout, 1),
        Outcome::AbortedByApplication => add!(slot, FailedAborted, 1),
        Outcome::IcmpError => add!(slot, FailedIcmp, 1),
        Outcome::Local => add!(slot, FailedLocal, 1),
        _ => add!(slot, FailedUnknown, 1),
    }
}

/// Records a duration; `$kind` is a [`probe_common::HistogramKind`].
macro_rules! record {
    ($slot:expr, $kind:ident, $ns:expr $(,)?) => {
        record_at::<{ probe_common::HistogramKind::$kind as usize }>($slot, $ns)
    };
}
pub(super) use record;

#[inline(always)]
pub(super) fn record_at<const KIND: usize>(slot: *mut Slot, ns: u64) {
    // SAFETY: `slot` is a map value, the kind is below 4, and a masked bucket lies within the slot.
    unsafe {
        let histogram = (&raw mut (*slot).histograms)
            .cast::<histogram::Histogram>()
            .add(KIND);
        // On some paths the bucket is a constant, which must not be added to a pointer where paths meet
        // (without PERFMON): a number that the verifier does not know makes it unknown on all of them.
        let unknown = (&raw const (*histogram).sum_ns).read_volatile();
        let hidden = atomic::opaque(histogram::index(ns) as u64 ^ unknown);
        let bucket = (hidden ^ unknown) & histogram::BUCKET_MASK;
        atomic::add(&raw mut (*histogram).sum_ns, ns);
        atomic::add(
            (&raw mut (*histogram).buckets)
                .cast::<u64>()
                .add(bucket as usize),
            1,
        );
    }
    if histogram::clamps(ns) {
        add!(slot, Clamped, 1);
    }
}
