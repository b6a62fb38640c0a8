//! `cgroup/sock_release`: the application lets go of a socket. Runs without the socket lock, before
//! the kernel closes it; tells local resets and aborted connects from the peer's, and finds lost flags.

use aya_ebpf::{
    bindings::bpf_sock, helpers::generated::bpf_get_socket_cookie, macros::cgroup_sock,
    programs::SockContext,
};
use probe_common::{Address, Direction, GlobalCounter, Outcome, address};
use probe_ebpf::{
    decide, tcp,
    word::{self, phase},
};

use super::{
    atomic, connect,
    context::{load_address, load16, load32},
    emit::{self, Figures},
    maps::Socket,
    series::{Ends, add_failure, count, egress_rests, shard},
    sockets,
};

#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    release(ctx.sock);
    1
}

#[inline(always)]
fn release(sk: *mut bpf_sock) {
    // SAFETY: the context is the socket.
    let cookie = unsafe { bpf_get_socket_cookie(sk.cast()) };
    let watched = !egress_rests();
    let Some(socket) = sockets::find(cookie, sk.cast()) else {
        if !watched
            && load32!(sk, bpf_sock, protocol) == tcp::IPPROTO_TCP
            && decide::adoptable(load32!(sk, bpf_sock, state))
        {
            count(GlobalCounter::OldSocketsMissed);
        }
        return;
    };
    let callbacks = socket.direction != Direction::Unknown as u8;
    // A connection takes three steps at most, and each can come in between once.
    let mut tries = 0;
    while tries < 4 {
        // Read before `reported`: see `decide::change_missed`.
        let state = load32!(sk, bpf_sock, state);
        let before = socket.word();
        if !word::is_of(before, cookie) {
            return;
        }
        // SAFETY: its own field; another hook may be writing it.
        let reported = unsafe { (&raw const socket.reported).read_volatile() };
        let after = word::released(before, state, u32::from(reported), callbacks, watched);
        if after == before {
            return;
        }
        // Harmless should the entry have become another's: nothing but the age of our marks is told by it.
        socket.let_go = sockets::clock();
        // SAFETY: its own field.
        if unsafe { atomic::compare_exchange(&raw mut socket.word, before, after) } {
            if after & !before & word::LOST != 0 {
                count(GlobalCounter::FlagsLost);
            }
            if word::phase_of(after) == phase::LET_GO {
                let_go(sk, socket, word::phase_of(before), after);
                if callbacks && state != tcp::CLOSE && state != tcp::SYN_SENT {
                    // It goes on without us, and should `egress` wake it is no old socket.
                    sockets::entomb(cookie, sk.cast());
                }
            }
            return;
        }
        tries += 1;
    }
}

/// Counted here and not in the state callback that follows: that one comes only if the flags are still ours.
#[inline(always)]
fn let_go(sk: *mut bpf_sock, socket: &mut Socket, before: u64, word: u64) {
    match before {
        phase::ATTEMPTED => connect::local_failure(sk.cast(), socket),
        phase::CONNECTING => unanswered(sk, socket, word & word::LOST != 0),
        // How it ended is unknown, that it ended is not.
        _ => sockets::end_unseen(socket.slot),
    }
}

#[inline(always)]
fn unanswered(sk: *mut bpf_sock, socket: &mut Socket, lost: bool) {
    let outcome = if lost {
        Outcome::Unknown
    } else {
        // What was received cannot be read here.
        decide::failure(0, true, socket.rto_expired != 0)
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
