//! `cgroup/sock_release`: the application lets go of a socket. Runs without the socket lock, before
//! the kernel closes it; tells local resets and aborted connects from the peer's, and finds lost flags.

use aya_ebpf::{
    bindings::bpf_sock, helpers::generated::bpf_sk_storage_get, macros::cgroup_sock,
    programs::SockContext,
};
use core::ptr;
use probe_common::{Address, GlobalCounter, Outcome, address};
use probe_ebpf::{
    decide::{self, phase},
    tcp,
};

use super::{
    atomic, connect,
    context::{load_address, load16, load32},
    emit::{self, Figures},
    maps::{SOCKETS, Socket},
    series::{Ends, add, add_failure, count, shard},
};

#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    release(ctx.sock);
    1
}

#[inline(always)]
fn release(sk: *mut bpf_sock) {
    // SAFETY: the context is the socket; the storage is used only if there is one.
    let socket = unsafe {
        bpf_sk_storage_get(
            (&raw const SOCKETS).cast_mut().cast(),
            sk.cast(),
            ptr::null_mut(),
            0,
        )
        .cast::<Socket>()
        .as_mut()
    };
    let Some(socket) = socket else { return };
    // Read before `reported`: see `decide::change_missed`.
    let state = load32!(sk, bpf_sock, state);
    socket.released = 1;
    match socket.phase {
        phase::ATTEMPTED => connect::local_failure(sk.cast(), socket),
        phase::CONNECTING => unanswered(sk, socket, state),
        phase::ESTABLISHED => established(socket, state),
        _ => {}
    }
}

/// Counted here and not in the state callback that follows: that one comes only if the flags are still ours.
#[inline(always)]
fn unanswered(sk: *mut bpf_sock, socket: &mut Socket, state: u32) {
    // SAFETY: the storage's own field.
    if !unsafe { atomic::compare_exchange(&raw mut socket.phase, phase::CONNECTING, phase::DONE) } {
        return;
    }
    let outcome = if state == tcp::CLOSE {
        lost(socket);
        Outcome::Unknown
    } else {
        Outcome::AbortedByApplication
    };
    if let Some(slot) = shard(socket.slot) {
        add_failure(slot, outcome);
    }
    let now = emit::now();
    let (remote, remote_port) = remote_end(sk);
    // This hook may not read the socket's own address.
    let ends = Ends {
        local: socket.address,
        remote,
        local_port: u64::from(socket.local_port),
        remote_port,
    };
    emit::event(
        sk.cast(),
        socket,
        &ends,
        &Figures {
            outcome,
            now,
            connect_ns: now - socket.start_ns,
            handshake_rtt_us: 0,
            min_rtt_us: 0,
        },
    );
}

#[inline(always)]
fn established(socket: &mut Socket, state: u32) {
    // SAFETY: the storage's own field; another hook may be writing it.
    let reported = unsafe { (&raw const socket.reported).read_volatile() };
    if socket.direction != probe_common::Direction::Unknown as u8
        && decide::change_missed(state, u32::from(reported))
    {
        lost(socket);
    }
    if state != tcp::CLOSE {
        return;
    }
    // Ended before, and no callback told us: how is unknown, that it ended is not.
    // SAFETY: the storage's own field.
    if unsafe { atomic::compare_exchange(&raw mut socket.phase, phase::ESTABLISHED, phase::DONE) }
        && let Some(slot) = shard(socket.slot)
    {
        add!(slot, Closed, 1);
    }
}

/// Counts lost flags once per socket.
#[inline(always)]
pub(super) fn lost(socket: &mut Socket) {
    // SAFETY: the storage's own field.
    if unsafe { atomic::compare_exchange(&raw mut socket.flags_lost, 0, 1) } {
        count(GlobalCounter::FlagsLost);
    }
}

/// The peer of a `bpf_sock`.
#[inline(always)]
pub(super) fn remote_end(sk: *mut bpf_sock) -> (Address, u64) {
    let remote = if load32!(sk, bpf_sock, family) == tcp::AF_INET {
        address::from_v4_field(load32!(sk, bpf_sock, dst_ip4))
    } else {
        load_address!(sk, bpf_sock, dst_ip6)
    };
    let port = u16::from_be(load16!(sk, bpf_sock, dst_port));
    (remote, u64::from(port))
}
