//! `cgroup_skb/egress`: finds sockets older than the probe, keeps the bytes of long connections
//! fresh, and ends the account of a socket whose callback flags somebody overwrote. Lets every packet pass.
//!
//! Dear for what runs once per packet, and seldom needed: the agent lets it rest (`Config::egress_rests`).

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock, bpf_tcp_sock},
    helpers::generated::{bpf_get_socket_cookie, bpf_sk_fullsock, bpf_tcp_sock as tcp_sock},
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use probe_common::{Direction, GlobalCounter, address};
use probe_ebpf::{
    decide, tcp,
    word::{self, phase},
};

use super::{
    context::{load_address, load32, load64},
    maps::Socket,
    release::remote_end,
    series::{self, Ends, add, count, egress_rests, record, record_at, shard},
    sock_ops::bytes,
    sockets,
};

const PASS: i32 = 1;

#[cgroup_skb(egress)]
pub fn egress(ctx: SkBuffContext) -> i32 {
    if egress_rests() {
        return PASS;
    }
    let sk = load64!(ctx.skb.skb, __sk_buff, __bindgen_anon_2.sk) as *mut bpf_sock;
    if sk.is_null() {
        return PASS;
    }
    // SAFETY: the helper checks what it is given.
    let sk = unsafe { bpf_sk_fullsock(sk) };
    if !sk.is_null() && load32!(sk, bpf_sock, protocol) == tcp::IPPROTO_TCP {
        // SAFETY: the program's context; its socket is whole.
        segment(unsafe { bpf_get_socket_cookie(ctx.skb.skb.cast()) }, sk);
    }
    PASS
}

/// `sk`: a full TCP socket, here and below.
#[inline(always)]
fn segment(cookie: u64, sk: *mut bpf_sock) {
    let state = load32!(sk, bpf_sock, state);
    match sockets::find(cookie, sk.cast()) {
        Some(socket) if socket.phase() == phase::ESTABLISHED => known(cookie, sk, socket, state),
        Some(socket) if socket.phase() == phase::NEW && decide::adoptable(state) => {
            adopt(cookie, sk, state);
        }
        None if decide::adoptable(state) => adopt(cookie, sk, state),
        _ => {}
    }
}

#[inline(always)]
fn adopt(cookie: u64, sk: *mut bpf_sock, state: u32) {
    count(GlobalCounter::OldSocketsSeen);
    let Some(socket) = sockets::make_storage(cookie, sk.cast()) else {
        return;
    };
    // SAFETY: the helper checks what it is given.
    let tcp = unsafe { tcp_sock(sk) };
    if tcp.is_null() {
        return;
    }
    socket.at_fin_wait2 = decide::NOT_RELEASED;
    socket.sent = load64!(tcp, bpf_tcp_sock, bytes_acked);
    socket.received = load64!(tcp, bpf_tcp_sock, bytes_received);
    socket.retransmits = load32!(tcp, bpf_tcp_sock, total_retrans);
    socket.reported = state as u8;
    series::assign(socket, &ends(sk), Direction::Unknown);
    count(GlobalCounter::OldSocketsCovered);
    let Some(slot) = shard(socket.slot) else {
        return;
    };
    add!(slot, Adopted, 1);
    if decide::leaving(state) {
        // First seen by its last segment: nothing more may come to tell us of its end.
        add!(slot, Closed, 1);
        socket.advance(phase::NEW, phase::DONE);
    } else {
        socket.advance(phase::NEW, phase::ESTABLISHED);
    }
}

#[inline(always)]
fn ends(sk: *mut bpf_sock) -> Ends {
    let (remote, remote_port) = remote_end(sk);
    let local = if load32!(sk, bpf_sock, family) == tcp::AF_INET {
        address::from_v4_field(load32!(sk, bpf_sock, src_ip4))
    } else {
        load_address!(sk, bpf_sock, src_ip6)
    };
    Ends {
        local,
        remote,
        local_port: u64::from(load32!(sk, bpf_sock, src_port)),
        remote_port,
    }
}

#[inline(always)]
fn known(cookie: u64, sk: *mut bpf_sock, socket: &mut Socket, state: u32) {
    let old = socket.direction == Direction::Unknown as u8;
    // Callbacks report a change before it happens, and we hold the socket lock: a difference is a loss.
    if !old && u32::from(socket.reported) != state {
        socket.lost();
    }
    // SAFETY: the helper checks what it is given.
    let tcp = unsafe { tcp_sock(sk) };
    if tcp.is_null() {
        return;
    }
    let acked = load64!(tcp, bpf_tcp_sock, bytes_acked);
    let received = load64!(tcp, bpf_tcp_sock, bytes_received);
    let (sent, received) = if old {
        // What was before is not ours: a difference to the first sight.
        (acked, received)
    } else {
        let initiator = socket.direction == Direction::Initiator as u8;
        decide::payload(state, acked, received, initiator)
    };
    let ending = (old || socket.word() & word::LOST != 0) && decide::leaving(state);
    if !ending && !decide::lags(socket.sent, sent) && !decide::lags(socket.received, received) {
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
    let Some(word) = socket.advance(phase::ESTABLISHED, phase::ENDING) else {
        return;
    };
    add!(slot, Closed, 1);
    // In LAST_ACK and CLOSING the peer's FIN is among the bytes.
    let fin = old && (state == tcp::LAST_ACK || state == tcp::CLOSING);
    bytes(slot, socket, sent, received.saturating_sub(u64::from(fin)));
    if old {
        retransmits(slot, socket, tcp);
    }
    if state == tcp::CLOSE && word & word::RELEASED != 0 {
        add!(slot, ResetLocal, 1);
    }
    let min_rtt = load32!(tcp, bpf_tcp_sock, rtt_min);
    if min_rtt != 0 && min_rtt != u32::MAX {
        record!(slot, Minimum, u64::from(min_rtt) * 1000);
    }
    // It may send more, and must not be taken for an old socket then. Without a mark the entry stays taken.
    if sockets::entomb(cookie, sk.cast()) {
        socket.done();
    }
}

#[inline(always)]
fn retransmits(slot: *mut probe_common::Slot, socket: &mut Socket, tcp: *mut bpf_tcp_sock) {
    let total = load32!(tcp, bpf_tcp_sock, total_retrans);
    if total > socket.retransmits {
        add!(slot, Retransmits, u64::from(total - socket.retransmits),);
        socket.retransmits = total;
    }
}
