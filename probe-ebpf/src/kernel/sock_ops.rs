//! `sockops`: the life of a connection as TCP tells it.

use aya_ebpf::{
    bindings::bpf_sock_ops,
    helpers::generated::{bpf_get_socket_cookie, bpf_sock_ops_cb_flags_set},
    macros::sock_ops,
    programs::SockOpsContext,
};
use core::ffi::c_void;
use probe_common::{Counter, Direction, GlobalCounter, Origin, Outcome, Slot, address};
use probe_ebpf::{
    decide,
    tcp::{self, op},
    word::{self, phase},
};

use super::{
    context::{load_address, load32, load64},
    emit::{self, Figures},
    maps::Socket,
    series::{self, Ends, add, add_failure, config, count, origin_of, record, record_at, shard},
    sockets,
};

/// A field of 4 bytes of the program's context.
macro_rules! field {
    ($ops:expr, $($field:tt)+) => {
        load32!($ops, bpf_sock_ops, $($field)+)
    };
}

#[sock_ops]
pub fn sock_ops(ctx: SockOpsContext) -> u32 {
    let ops = ctx.ops;
    match field!(ops, op) {
        op::TCP_CONNECT => connecting(ops),
        op::ACTIVE_ESTABLISHED => connected(ops),
        op::PASSIVE_ESTABLISHED => accepted(ops),
        op::STATE => state_changed(ops),
        op::RTT => round_trip(ops),
        op::RETRANS => retransmitted(ops),
        op::RTO => timer_expired(ops),
        op::TIMEOUT_INIT => syn_seen(ops),
        _ => {}
    }
    1
}

/// The socket and its cookie, if it is a whole socket.
#[inline(always)]
fn socket(ops: *mut bpf_sock_ops) -> Option<(u64, *mut c_void)> {
    let sk = load64!(ops, bpf_sock_ops, __bindgen_anon_2.sk) as *mut c_void;
    if sk.is_null() {
        return None;
    }
    // SAFETY: the program's context.
    Some((unsafe { bpf_get_socket_cookie(ops.cast()) }, sk))
}

#[inline(always)]
fn find(ops: *mut bpf_sock_ops) -> Option<&'static mut Socket> {
    let (cookie, sk) = socket(ops)?;
    sockets::find(cookie, sk)
}

#[inline(always)]
fn claim(ops: *mut bpf_sock_ops) -> Option<&'static mut Socket> {
    let (cookie, sk) = socket(ops)?;
    sockets::claim(cookie, sk)
}

#[inline(always)]
fn ends(ops: *mut bpf_sock_ops) -> Ends {
    let local_port = u64::from(field!(ops, local_port));
    let remote_port = u64::from(u32::from_be(field!(ops, remote_port)));
    let (local, remote) = if field!(ops, family) == tcp::AF_INET {
        (
            address::from_v4_field(field!(ops, local_ip4)),
            address::from_v4_field(field!(ops, remote_ip4)),
        )
    } else {
        (
            load_address!(ops, bpf_sock_ops, local_ip6),
            load_address!(ops, bpf_sock_ops, remote_ip6),
        )
    };
    Ends {
        local,
        remote,
        local_port,
        remote_port,
    }
}

/// Asks for our callbacks, beside whatever others asked for.
#[inline(always)]
fn ask_for_callbacks(ops: *mut bpf_sock_ops) {
    let flags = field!(ops, bpf_sock_ops_cb_flags) | tcp::CALLBACKS;
    // SAFETY: the program's context. The result has a bit for every flag that this kernel lacks.
    if unsafe { bpf_sock_ops_cb_flags_set(ops, flags as i32) } != 0 {
        count(GlobalCounter::FlagsRefused);
    }
}

/// The SYN is about to leave.
#[inline(never)]
fn connecting(ops: *mut bpf_sock_ops) {
    let Some(socket) = claim(ops) else { return };
    begin(socket);
    socket.start_ns = emit::now();
    socket.reported = tcp::SYN_SENT as u8;
    let ends = ends(ops);
    series::assign(socket, &ends, Direction::Initiator);
    socket.address = ends.local;
    socket.local_port = ends.local_port as u16;
    socket.set_phase(phase::CONNECTING);
    ask_for_callbacks(ops);
    if let Some(slot) = shard(socket.slot) {
        add!(slot, Attempts, 1);
    }
}

/// A socket may connect again after a failure: nothing of the last time stays.
#[inline(always)]
fn begin(socket: &mut Socket) {
    // One by one: merged into a memset they would be a loop, which the verifier refuses without PERFMON.
    // SAFETY: the storage's own fields.
    unsafe {
        (&raw mut socket.start_ns).write_volatile(0);
        (&raw mut socket.sent).write_volatile(0);
        (&raw mut socket.received).write_volatile(0);
    }
    socket.srtt = 0;
    socket.at_fin_wait2 = decide::NOT_RELEASED;
    socket.syn_retransmits = 0;
    socket.rto_expired = 0;
    socket.sample_pending = 0;
}

/// The initiator's handshake is complete.
#[inline(never)]
fn connected(ops: *mut bpf_sock_ops) {
    let Some(socket) = claim(ops) else { return };
    if socket.phase() == phase::NEW {
        // It was connecting when we were attached.
        begin(socket);
        series::assign(socket, &ends(ops), Direction::Initiator);
        socket.set_phase(phase::ESTABLISHED);
        ask_for_callbacks(ops);
    } else {
        if socket
            .advance(phase::CONNECTING, phase::ESTABLISHED)
            .is_none()
        {
            // `sock_release` has already counted it.
            entomb(ops);
            return;
        }
        if field!(ops, bpf_sock_ops_cb_flags) & tcp::CALLBACKS != tcp::CALLBACKS {
            socket.lost();
            ask_for_callbacks(ops);
        }
    }
    socket.reported = tcp::ESTABLISHED as u8;
    let connect_ns = match socket.start_ns {
        0 => 0,
        start => emit::now() - start,
    };
    established(ops, socket, connect_ns);
}

/// The application let go of it while it connected, and it connects all the same. Its place in the table may be
/// given away before the kernel is through with it; this stays.
#[inline(always)]
fn entomb(ops: *mut bpf_sock_ops) {
    if let Some((cookie, sk)) = socket(ops) {
        sockets::entomb(cookie, sk);
    }
}

/// The acceptor's handshake is complete.
#[inline(never)]
fn accepted(ops: *mut bpf_sock_ops) {
    let Some(socket) = claim(ops) else { return };
    begin(socket);
    series::assign(socket, &ends(ops), Direction::Acceptor);
    socket.set_phase(phase::ESTABLISHED);
    socket.reported = tcp::SYN_RECV as u8;
    socket.syn_retransmits = field!(ops, total_retrans) as u16;
    ask_for_callbacks(ops);
    if socket.syn_retransmits > 0
        && let Some(slot) = shard(socket.slot)
    {
        add!(slot, SynRetransmits, u64::from(socket.syn_retransmits),);
    }
    established(ops, socket, 0);
}

#[inline(always)]
fn established(ops: *mut bpf_sock_ops, socket: &mut Socket, connect_ns: u64) {
    let Some(slot) = shard(socket.slot) else {
        return;
    };
    add!(slot, Established, 1);
    if connect_ns > 0 {
        record!(slot, Connect, connect_ns);
    }
    let mut handshake_rtt_us = 0;
    if socket.syn_retransmits > 0 {
        // Which of the segments was answered is unknown (Karn): no handshake RTT.
        add!(slot, EstablishedAfterRetransmit, 1);
    } else {
        handshake_rtt_us = field!(ops, srtt_us) >> 3;
        if handshake_rtt_us > 0 {
            record!(slot, Handshake, u64::from(handshake_rtt_us) * 1000,);
        }
    }
    let outcome = if socket.origin != Origin::Traffic as u8 {
        Outcome::Established
    } else {
        match config() {
            Some(config)
                if config.outlier_connect_ns > 0 && connect_ns > config.outlier_connect_ns =>
            {
                Outcome::SlowConnect
            }
            _ => return,
        }
    };
    emit::event(
        ops.cast(),
        socket,
        &ends(ops),
        &Figures {
            outcome,
            now: emit::now(),
            connect_ns,
            handshake_rtt_us,
            min_rtt_us: minimum(field!(ops, rtt_min)),
        },
    );
}

/// The kernel's minimum, 0 if it has none.
#[inline(always)]
const fn minimum(rtt_min: u32) -> u32 {
    if rtt_min == u32::MAX { 0 } else { rtt_min }
}

#[inline(never)]
fn state_changed(ops: *mut bpf_sock_ops) {
    let Some(socket) = find(ops) else {
        return;
    };
    let old = field!(ops, __bindgen_anon_1.args, 0);
    let new = field!(ops, __bindgen_anon_1.args, 1);
    socket.reported = new as u8;
    match new {
        tcp::CLOSE if socket.phase() == phase::CONNECTING => failed(ops, socket),
        tcp::CLOSE if socket.phase() == phase::ESTABLISHED => closed(ops, socket, old),
        tcp::FIN_WAIT2 if socket.word() & word::RELEASED != 0 => {
            socket.at_fin_wait2 = load64!(ops, bpf_sock_ops, bytes_received) as u32;
        }
        _ => {}
    }
}

#[inline(always)]
fn failed(ops: *mut bpf_sock_ops, socket: &mut Socket) {
    let Some(word) = socket.advance(phase::CONNECTING, phase::ENDING) else {
        return;
    };
    let outcome = decide::failure(
        field!(ops, segs_in),
        word & word::RELEASED != 0,
        socket.rto_expired != 0,
    );
    if let Some(slot) = shard(socket.slot) {
        add_failure(slot, outcome);
    }
    let now = emit::now();
    emit::event(
        ops.cast(),
        socket,
        &ends(ops),
        &Figures {
            outcome,
            now,
            connect_ns: now - socket.start_ns,
            handshake_rtt_us: 0,
            min_rtt_us: 0,
        },
    );
    socket.done();
}

#[inline(always)]
fn closed(ops: *mut bpf_sock_ops, socket: &mut Socket, old_state: u32) {
    let Some(word) = socket.advance(phase::ESTABLISHED, phase::ENDING) else {
        return;
    };
    if let Some(slot) = shard(socket.slot) {
        add_end(ops, socket, slot, old_state, word & word::RELEASED != 0);
    }
    socket.done();
}

#[inline(always)]
fn add_end(
    ops: *mut bpf_sock_ops,
    socket: &mut Socket,
    slot: *mut Slot,
    old_state: u32,
    released: bool,
) {
    add!(slot, Closed, 1);
    let initiator = socket.direction == Direction::Initiator as u8;
    if let Some(end) = decide::abnormal_end(old_state, released, socket.rto_expired != 0)
        && !decide::own_reset(end, initiator, socket.origin != Origin::Traffic as u8)
    {
        match end {
            Counter::ResetLocal => add!(slot, ResetLocal, 1),
            Counter::ResetPeer => add!(slot, ResetPeer, 1),
            _ => add!(slot, TimedOut, 1),
        }
    }
    let all_acked = field!(ops, snd_una) == field!(ops, snd_nxt);
    let sent = decide::sent_payload(
        load64!(ops, bpf_sock_ops, bytes_acked),
        initiator,
        decide::fin_acked(old_state, all_acked),
    );
    let received = load64!(ops, bpf_sock_ops, bytes_received);
    let fin = decide::fin_received(old_state, released, socket.at_fin_wait2, received);
    bytes(slot, socket, sent, received.saturating_sub(u64::from(fin)));
    let min_rtt = minimum(field!(ops, rtt_min));
    if min_rtt > 0 {
        record!(slot, Minimum, u64::from(min_rtt) * 1000);
    }
    if socket.sample_pending != 0 {
        recovered(slot, socket.srtt, field!(ops, srtt_us));
    }
}

/// Adds what is new since the last time. Both are payload in total.
#[inline(always)]
pub(super) fn bytes(slot: *mut Slot, socket: &mut Socket, sent: u64, received: u64) {
    if sent > socket.sent {
        add!(slot, BytesSent, sent - socket.sent);
        socket.sent = sent;
    }
    if received > socket.received {
        add!(slot, BytesReceived, received - socket.received);
        socket.received = received;
    }
}

#[inline(never)]
fn round_trip(ops: *mut bpf_sock_ops) {
    let state = field!(ops, state);
    if state == tcp::SYN_SENT || state == tcp::SYN_RECV {
        // The handshake's own sample is a series of its own.
        return;
    }
    let Some(socket) = find(ops) else {
        return;
    };
    let Some(slot) = shard(socket.slot) else {
        return;
    };
    freshen(ops, socket, slot, state);
    let raw = field!(ops, __bindgen_anon_1.args, 0);
    if field!(ops, __bindgen_anon_1.args, 1) != 0 {
        record!(slot, AckLatency, u64::from(raw) * 1000);
        return;
    }
    // Before Linux 6.12: the smoothed value in the context is the one before this sample.
    let srtt = field!(ops, srtt_us);
    if socket.sample_pending != 0 {
        recovered(slot, socket.srtt, srtt);
    }
    socket.srtt = srtt;
    socket.sample_pending = 1;
}

/// Keeps the bytes of a long connection from lagging. In the other states our FIN may just be acknowledged, or all
/// is sent.
#[inline(always)]
fn freshen(ops: *mut bpf_sock_ops, socket: &mut Socket, slot: *mut Slot, state: u32) {
    if state != tcp::ESTABLISHED && state != tcp::CLOSE_WAIT {
        return;
    }
    let (sent, received) = decide::payload(
        state,
        load64!(ops, bpf_sock_ops, bytes_acked),
        load64!(ops, bpf_sock_ops, bytes_received),
        socket.direction == Direction::Initiator as u8,
    );
    if decide::lags(socket.sent, sent) || decide::lags(socket.received, received) {
        bytes(slot, socket, sent, received);
    }
}

#[inline(always)]
fn recovered(slot: *mut Slot, old: u32, new: u32) {
    match decide::raw_rtt(old, new) {
        Some(raw) => record!(slot, AckLatency, u64::from(raw) * 1000),
        None => count(GlobalCounter::RttUnrecovered),
    }
}

#[inline(always)]
fn retransmitted(ops: *mut bpf_sock_ops) {
    let Some(socket) = find(ops) else {
        return;
    };
    // args: sequence, segments, error of the transmission.
    if field!(ops, __bindgen_anon_1.args, 2) != 0 {
        return;
    }
    let segments = u64::from(field!(ops, __bindgen_anon_1.args, 1));
    let Some(slot) = shard(socket.slot) else {
        return;
    };
    if socket.phase() == phase::CONNECTING {
        socket.syn_retransmits = socket.syn_retransmits.saturating_add(segments as u16);
        add!(slot, SynRetransmits, segments);
    } else {
        add!(slot, Retransmits, segments);
    }
}

#[inline(always)]
fn timer_expired(ops: *mut bpf_sock_ops) {
    let Some(socket) = find(ops) else {
        return;
    };
    // args: retransmits so far, RTO, 1 when the kernel gives up.
    socket.rto_expired = u8::from(field!(ops, __bindgen_anon_1.args, 2) != 0);
    if let Some(slot) = shard(socket.slot) {
        add!(slot, Rtos, 1);
    }
}

/// A SYN of a probe reached a listener: the target's own witness.
#[inline(never)]
fn syn_seen(ops: *mut bpf_sock_ops) {
    if field!(ops, is_fullsock) != 0 {
        return;
    }
    let Some(config) = config() else { return };
    let remote_port = u64::from(u32::from_be(field!(ops, remote_port)));
    let origin = origin_of(config, remote_port);
    if origin == Origin::Traffic {
        return;
    }
    emit::syn_seen(ops.cast(), &ends(ops), origin);
}
