//! From an address to a series, from a series to its slot, and adding to it.

use aya_ebpf::{helpers::generated::bpf_get_smp_processor_id, maps::lpm_trie::Key};
use probe_common::{
    Address, ClassId, Config, Direction, GlobalCounter, Origin, Outcome, RemoteId, SeriesKey,
    ServiceKey, Slot, address, histogram,
};

use super::{
    atomic,
    maps::{CONFIG, COUNTERS, FREE_SLOTS, PREFIXES, SERIES, SERVICES, SLOTS, Socket},
};

const BPF_NOEXIST: u64 = 1;

#[inline(always)]
pub(super) fn count(counter: GlobalCounter) {
    if let Some(at) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: a map value of 8 bytes.
        unsafe { atomic::add(at, 1) }
    }
}

#[inline(always)]
pub(super) fn config() -> Option<&'static Config> {
    CONFIG.get(0)
}

/// Who is at an address.
#[inline(always)]
pub(super) fn remote_of(at: &Address) -> RemoteId {
    match PREFIXES.get(Key::new(128, *at)) {
        Some(value) => RemoteId(value.remote),
        None => RemoteId::WORLD,
    }
}

/// Class of the serving side's address and port.
#[inline(always)]
pub(super) fn class_of(at: &Address, port: u16) -> ClassId {
    let mut key = ServiceKey {
        address: address::ANY,
        port,
        reserved: 0,
    };
    // SAFETY: the value is only copied from.
    let Some(any) = (unsafe { SERVICES.get(&key) }) else {
        return ClassId::OTHER;
    };
    let class = ClassId(any.class);
    if any.by_address == 0 {
        return class;
    }
    key.address = *at;
    // SAFETY: the value is only copied from.
    match unsafe { SERVICES.get(&key) } {
        Some(found) => ClassId(found.class),
        None => class,
    }
}

#[inline(always)]
pub(super) fn origin_of(config: &Config, initiator_port: u16) -> Origin {
    if initiator_port >= config.probe_port_first && initiator_port <= config.probe_port_last {
        Origin::Probe
    } else {
        Origin::Traffic
    }
}

/// Both ends of a connection; ports in host byte order.
pub(super) struct Ends {
    pub(super) local: Address,
    pub(super) remote: Address,
    pub(super) local_port: u16,
    pub(super) remote_port: u16,
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
    let key = SeriesKey::new(remote, direction, class, origin);
    socket.remote = remote.0;
    socket.direction = direction as u8;
    socket.class = class.0;
    socket.origin = origin as u8;
    socket.slot = slot_of(&key);
}

/// The series' slot; a free one for a new series, the overflow slot when none is left.
#[inline(never)]
fn slot_of(key: &SeriesKey) -> u32 {
    // SAFETY: the value is only copied from.
    if let Some(slot) = unsafe { SERIES.get(key) } {
        return *slot;
    }
    let Ok(Some(slot)) = FREE_SLOTS.pop() else {
        count(GlobalCounter::SeriesFull);
        return key.overflow_slot();
    };
    if SERIES.insert(key, slot, BPF_NOEXIST).is_ok() {
        return slot;
    }
    // Another CPU was first. Its slot is the one; ours goes back (there is room: we took it).
    let _ = FREE_SLOTS.push(slot, 0);
    // SAFETY: the value is only copied from.
    match unsafe { SERIES.get(key) } {
        Some(slot) => *slot,
        None => {
            count(GlobalCounter::SeriesFull);
            key.overflow_slot()
        }
    }
}

/// This CPU's shard of a slot.
#[inline(always)]
pub(super) fn shard(slot: u32) -> Option<*mut Slot> {
    let shards = config()?.shards;
    // SAFETY: a helper without arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    SLOTS.get_ptr_mut(slot * shards + (cpu & shards.wrapping_sub(1)))
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
                offset = const 8 * probe_common::Counter::$counter as usize,
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
    let bucket = atomic::opaque(histogram::index(ns) as u64);
    if bucket >= histogram::BUCKETS as u64 {
        return;
    }
    // SAFETY: `slot` is a map value, the kind is below 4 and the bucket was just bounded.
    unsafe {
        let histogram = (&raw mut (*slot).histograms)
            .cast::<histogram::Histogram>()
            .add(KIND);
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
