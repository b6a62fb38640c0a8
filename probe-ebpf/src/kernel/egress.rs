//! `cgroup_skb/egress`: finds sockets older than the probe, keeps the bytes of long connections
//! fresh, and ends the account of a socket whose callback flags somebody overwrote. Lets every packet pass.

use aya_ebpf::{
    bindings::{bpf_sock, bpf_tcp_sock},
    helpers::generated::{bpf_sk_fullsock, bpf_sk_storage_get, bpf_tcp_sock as tcp_sock},
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use core::ptr;
use probe_common::{Counter, Direction, GlobalCounter, HistogramKind};
use probe_ebpf::{
    decide::{self, phase},
    tcp,
};

use super::{
    atomic,
    maps::{SOCKETS, Socket},
    release::{ends, lost},
    series::{self, add, count, record, shard},
    sock_ops::bytes,
};

const PASS: i32 = 1;
const CREATE: u64 = 1;
/// How far the bytes of an open connection may lag behind.
const LAG: u64 = 64 * 1024;

#[cgroup_skb(egress)]
pub fn egress(ctx: SkBuffContext) -> i32 {
    // SAFETY: a field of the context, read once; helpers check what they are given.
    unsafe {
        let sk = (&raw const (*ctx.skb.skb).__bindgen_anon_2.sk).read_volatile();
        if sk.is_null() {
            return PASS;
        }
        let sk = bpf_sk_fullsock(sk);
        if !sk.is_null() && (&raw const (*sk).protocol).read_volatile() == tcp::IPPROTO_TCP {
            segment(sk);
        }
    }
    PASS
}

/// # Safety
/// `sk` is a full TCP socket.
#[inline(always)]
unsafe fn segment(sk: *mut bpf_sock) {
    // SAFETY: the caller's promise; pointers are used only if not null.
    unsafe {
        let state = (&raw const (*sk).state).read_volatile();
        let socket = bpf_sk_storage_get(
            (&raw const SOCKETS).cast_mut().cast(),
            sk.cast(),
            ptr::null_mut(),
            0,
        )
        .cast::<Socket>()
        .as_mut();
        match socket {
            Some(socket) if socket.phase == phase::ESTABLISHED => known(sk, socket, state),
            Some(socket) if socket.phase == phase::NEW && decide::adoptable(state) => {
                adopt(sk, state);
            }
            None if decide::adoptable(state) => adopt(sk, state),
            _ => {}
        }
    }
}

/// # Safety
/// `sk` is a full TCP socket.
#[inline(always)]
unsafe fn adopt(sk: *mut bpf_sock, state: u32) {
    count(GlobalCounter::OldSocketsSeen);
    // SAFETY: the caller's promise; pointers are used only if not null.
    unsafe {
        let Some(socket) = bpf_sk_storage_get(
            (&raw const SOCKETS).cast_mut().cast(),
            sk.cast(),
            ptr::null_mut(),
            CREATE,
        )
        .cast::<Socket>()
        .as_mut() else {
            count(GlobalCounter::StorageFailed);
            return;
        };
        let Some(tcp) = tcp_sock(sk).as_ref() else {
            return;
        };
        socket.at_fin_wait2 = decide::NOT_RELEASED;
        socket.sent = (&raw const tcp.bytes_acked).read_volatile();
        socket.received = (&raw const tcp.bytes_received).read_volatile();
        socket.retransmits = (&raw const tcp.total_retrans).read_volatile();
        socket.reported = state as u8;
        series::assign(socket, &ends(sk), Direction::Unknown);
        socket.phase = phase::ESTABLISHED;
        count(GlobalCounter::OldSocketsCovered);
        if let Some(slot) = shard(socket.slot) {
            add(slot, Counter::Adopted, 1);
        }
    }
}

/// # Safety
/// `sk` is a full TCP socket.
#[inline(always)]
unsafe fn known(sk: *mut bpf_sock, socket: &mut Socket, state: u32) {
    let old = socket.direction == Direction::Unknown as u8;
    // Callbacks report a change before it happens, and we hold the socket lock: a difference is a loss.
    if !old && u32::from(socket.reported) != state {
        lost(socket);
    }
    // SAFETY: the caller's promise.
    let Some(tcp) = (unsafe { tcp_sock(sk).as_ref() }) else {
        return;
    };
    // SAFETY: fields of a socket view that the verifier knows.
    let (acked, received) = unsafe {
        (
            (&raw const tcp.bytes_acked).read_volatile(),
            (&raw const tcp.bytes_received).read_volatile(),
        )
    };
    let sent = if old {
        acked
    } else {
        decide::sent_payload(acked, socket.direction == Direction::Initiator as u8, false)
    };
    let ending = (old || socket.flags_lost != 0) && decide::leaving(state);
    if !ending && sent < socket.sent + LAG && received < socket.received + LAG {
        return;
    }
    let Some(slot) = shard(socket.slot) else {
        return;
    };
    if !ending {
        bytes(slot, socket, sent, received);
        if old {
            retransmits(slot, socket, tcp);
        }
        return;
    }
    // SAFETY: the storage's own field.
    if !unsafe { atomic::compare_exchange(&raw mut socket.phase, phase::ESTABLISHED, phase::DONE) }
    {
        return;
    }
    add(slot, Counter::Closed, 1);
    // In LAST_ACK and CLOSING the peer's FIN is among the bytes.
    let fin = state == tcp::LAST_ACK || state == tcp::CLOSING;
    bytes(slot, socket, sent, received.saturating_sub(u64::from(fin)));
    if old {
        retransmits(slot, socket, tcp);
    }
    if state == tcp::CLOSE && socket.released != 0 {
        add(slot, Counter::ResetLocal, 1);
    }
    // SAFETY: a field of a socket view that the verifier knows.
    let min_rtt = unsafe { (&raw const tcp.rtt_min).read_volatile() };
    if min_rtt != 0 && min_rtt != u32::MAX {
        record(slot, HistogramKind::Minimum, u64::from(min_rtt) * 1000);
    }
}

#[inline(always)]
fn retransmits(slot: *mut probe_common::Slot, socket: &mut Socket, tcp: &bpf_tcp_sock) {
    // SAFETY: a field of a socket view that the verifier knows.
    let total = unsafe { (&raw const tcp.total_retrans).read_volatile() };
    if total > socket.retransmits {
        add(
            slot,
            Counter::Retransmits,
            u64::from(total - socket.retransmits),
        );
        socket.retransmits = total;
    }
}
