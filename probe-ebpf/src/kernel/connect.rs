//! `cgroup/connect4` and `connect6`: remembers that an application wants a connection, so that one
//! which fails before any SYN (no route, prohibited, no free port) is seen when it gives up.

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::generated::bpf_get_socket_cookie,
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use core::ffi::c_void;
use probe_common::{Address, Direction, Outcome, address};
use probe_ebpf::{tcp, word::phase};

use super::{
    context::{load_address, load32, load64},
    emit::{self, Figures},
    maps::Socket,
    series::{self, Ends, add, shard},
    sockets,
};

const ALLOW: i32 = 1;

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    let ip = load32!(ctx.sock_addr, bpf_sock_addr, user_ip4);
    let wanted = address::from_v4_field(ip);
    attempt(ctx.sock_addr, wanted)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    let wanted = load_address!(ctx.sock_addr, bpf_sock_addr, user_ip6);
    attempt(ctx.sock_addr, wanted)
}

#[inline(always)]
fn attempt(ctx: *mut bpf_sock_addr, wanted: Address) -> i32 {
    if load32!(ctx, bpf_sock_addr, type_) != tcp::SOCK_STREAM
        || load32!(ctx, bpf_sock_addr, protocol) != tcp::IPPROTO_TCP
    {
        return ALLOW;
    }
    let port = load32!(ctx, bpf_sock_addr, user_port);
    let sk = load64!(ctx, bpf_sock_addr, __bindgen_anon_1.sk) as *mut bpf_sock;
    if sk.is_null() {
        return ALLOW;
    }
    // SAFETY: the program's context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.cast()) };
    let Some(socket) = sockets::claim(cookie, sk.cast()) else {
        return ALLOW;
    };
    if socket.phase() == phase::ATTEMPTED {
        // The attempt before this one on the same socket came to nothing.
        local_failure(ctx.cast(), socket);
    }
    socket.address = wanted;
    socket.remote_port = u16::from_be(port as u16);
    // Not 0 if the application bound it: how our probes are known.
    socket.local_port = load32!(sk, bpf_sock, src_port) as u16;
    socket.set_phase(phase::ATTEMPTED);
    ALLOW
}

/// Counts a `connect()` that sent no SYN. `context`: the program's.
#[inline(always)]
pub(super) fn local_failure(context: *mut c_void, socket: &mut Socket) {
    let ends = Ends {
        local: address::ANY,
        remote: socket.address,
        local_port: u64::from(socket.local_port),
        remote_port: u64::from(socket.remote_port),
    };
    socket.syn_retransmits = 0;
    series::assign(socket, &ends, Direction::Initiator);
    if let Some(slot) = shard(socket.slot) {
        add!(slot, FailedLocal, 1);
    }
    emit::event(
        context,
        socket,
        &ends,
        &Figures {
            outcome: Outcome::Local,
            now: emit::now(),
            connect_ns: 0,
            handshake_rtt_us: 0,
            min_rtt_us: 0,
        },
    );
}
