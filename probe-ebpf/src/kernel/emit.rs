//! Into the ring buffer, or counted as lost or suppressed.

use aya_ebpf::{
    helpers::generated::{bpf_get_netns_cookie, bpf_ktime_get_ns},
    maps::ring_buf::RingBufEntry,
};
use core::ffi::c_void;
use probe_common::{Direction, Event, GlobalCounter, Origin, Outcome};

use super::{
    atomic,
    maps::{BUDGET, Budget, EVENTS, Socket},
    series::{Ends, class_of, config, count, remote_of},
    table,
};

/// The figures of an event.
pub(super) struct Figures {
    pub(super) outcome: Outcome,
    pub(super) now: u64,
    pub(super) connect_ns: u64,
    pub(super) handshake_rtt_us: u32,
    pub(super) min_rtt_us: u32,
}

#[inline(always)]
pub(super) fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// Writes an event about a socket. Events of probes always; of traffic within the budget.
/// `context`: one of the hooks whose helpers include `bpf_get_netns_cookie`.
#[inline(always)]
pub(super) fn event(context: *mut c_void, socket: &Socket, ends: &Ends, figures: &Figures) {
    if socket.origin == Origin::Traffic as u8 && !within_budget(figures.now) {
        count(GlobalCounter::EventsSuppressed);
        return;
    }
    let Some(mut entry) = reserve() else { return };
    let event = entry.as_mut_ptr();
    // SAFETY: the reserved record; every field is written, none read.
    unsafe {
        place(context, event, ends, figures);
        (*event).syn_retransmits = socket.syn_retransmits;
        (*event).remote_id = socket.remote;
        (*event).direction = socket.direction;
        (*event).origin = socket.origin;
        (*event).class = socket.class;
    }
    entry.submit(0);
}

/// Writes that a SYN of a probe reached a listener; there is no socket yet.
#[inline(always)]
pub(super) fn syn_seen(context: *mut c_void, ends: &Ends, origin: Origin) {
    let remote = remote_of(&ends.remote);
    let class = class_of(&ends.local, ends.local_port);
    let figures = Figures {
        outcome: Outcome::SynSeen,
        now: now(),
        connect_ns: 0,
        handshake_rtt_us: 0,
        min_rtt_us: 0,
    };
    let Some(mut entry) = reserve() else { return };
    let event = entry.as_mut_ptr();
    // SAFETY: the reserved record; every field is written, none read.
    unsafe {
        place(context, event, ends, &figures);
        (*event).syn_retransmits = 0;
        (*event).remote_id = remote.0;
        (*event).direction = Direction::Acceptor as u8;
        (*event).origin = origin as u8;
        (*event).class = class.0;
    }
    entry.submit(0);
}

#[inline(always)]
fn reserve() -> Option<RingBufEntry<Event>> {
    count(GlobalCounter::EventsProduced);
    let entry = EVENTS.reserve::<Event>(0);
    if entry.is_none() {
        count(GlobalCounter::EventsLost);
    }
    entry
}

/// The fields that do not come from a socket's storage, straight into the record: nothing of it may
/// ever lie on the stack.
///
/// # Safety
/// `event` is a reserved record and `context` the program's.
#[inline(always)]
unsafe fn place(context: *mut c_void, event: *mut Event, ends: &Ends, figures: &Figures) {
    // SAFETY: the caller's promise.
    unsafe {
        (*event).at_ns = figures.now;
        (*event).connect_ns = figures.connect_ns;
        (*event).netns_cookie = bpf_get_netns_cookie(context);
        (*event).local = ends.local;
        (*event).remote = ends.remote;
        (*event).local_port = ends.local_port as u16;
        (*event).remote_port = ends.remote_port as u16;
        (*event).handshake_rtt_us = figures.handshake_rtt_us;
        (*event).min_rtt_us = figures.min_rtt_us;
        (*event).outcome = figures.outcome as u8;
        (*event).reserved = 0;
    }
}

#[inline(always)]
fn within_budget(now: u64) -> bool {
    let Some(config) = config() else { return false };
    // SAFETY: the map's values are `Budget`.
    let budget: *mut Budget = unsafe { table::element(&raw const BUDGET, 0) };
    if budget.is_null() {
        return false;
    }
    let window = now >> 30;
    // SAFETY: a map value. Two CPUs may both begin the window: then a few events more pass.
    unsafe {
        if (*budget).window != window {
            (*budget).window = window;
            (*budget).used = 0;
        }
        atomic::fetch_add(&raw mut (*budget).used, 1) < u64::from(config.events_per_second)
    }
}
