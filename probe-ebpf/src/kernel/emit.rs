//! Into the ring buffer, or counted as lost or suppressed.

use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_ktime_get_ns};
use core::ffi::c_void;
use probe_common::{Event, GlobalCounter, Origin, Outcome};

use super::{
    atomic,
    maps::{BUDGET, EVENTS, Socket},
    series::{Ends, config, count},
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
    if socket.origin != Origin::Probe as u8 && !within_budget(figures.now) {
        count(GlobalCounter::EventsSuppressed);
        return;
    }
    // SAFETY: `context` is this program's context.
    let netns_cookie = unsafe { bpf_get_netns_cookie(context) };
    write(Event {
        at_ns: figures.now,
        connect_ns: figures.connect_ns,
        netns_cookie,
        local: ends.local,
        remote: ends.remote,
        local_port: ends.local_port,
        remote_port: ends.remote_port,
        handshake_rtt_us: figures.handshake_rtt_us,
        min_rtt_us: figures.min_rtt_us,
        syn_retransmits: socket.syn_retransmits,
        remote_id: socket.remote,
        outcome: figures.outcome as u8,
        direction: socket.direction,
        origin: socket.origin,
        class: socket.class,
        reserved: 0,
    });
}

#[inline(always)]
pub(super) fn write(event: Event) {
    count(GlobalCounter::EventsProduced);
    match EVENTS.reserve::<Event>(0) {
        Some(mut entry) => {
            entry.write(event);
            entry.submit(0);
        }
        None => count(GlobalCounter::EventsLost),
    }
}

#[inline(always)]
fn within_budget(now: u64) -> bool {
    let (Some(config), Some(budget)) = (config(), BUDGET.get_ptr_mut(0)) else {
        return false;
    };
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
