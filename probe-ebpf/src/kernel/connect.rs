//! `cgroup/connect4` and `connect6`: remembers that an application wants a connection, so that one
//! which fails before any SYN (no route, prohibited, no free port) is seen when it gives up.

use aya_ebpf::{
    bindings::bpf_sock_addr, helpers::generated::bpf_sk_storage_get, macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use core::ptr;
use probe_common::{Address, Counter, Direction, GlobalCounter, Outcome, address};
use probe_ebpf::{decide::phase, tcp};

use super::{
    emit::{self, Figures},
    maps::{SOCKETS, Socket},
    series::{self, Ends, add, count, shard},
};

const ALLOW: i32 = 1;
const CREATE: u64 = 1;

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    // SAFETY: reads of context fields, once each.
    let wanted = unsafe {
        let ip = (&raw const (*ctx.sock_addr).user_ip4).read_volatile();
        [0, 0, 0xffff_u32.to_be(), ip]
    };
    attempt(ctx.sock_addr, wanted)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    // SAFETY: reads of context fields, once each.
    let wanted = unsafe {
        let words = (&raw const (*ctx.sock_addr).user_ip6).cast::<u32>();
        [
            words.read_volatile(),
            words.add(1).read_volatile(),
            words.add(2).read_volatile(),
            words.add(3).read_volatile(),
        ]
    };
    attempt(ctx.sock_addr, wanted)
}

#[inline(always)]
fn attempt(ctx: *mut bpf_sock_addr, wanted: [u32; 4]) -> i32 {
    // SAFETY: reads of context fields; the storage is used only if it was given.
    unsafe {
        if (&raw const (*ctx).type_).read_volatile() != tcp::SOCK_STREAM
            || (&raw const (*ctx).protocol).read_volatile() != tcp::IPPROTO_TCP
        {
            return ALLOW;
        }
        let port = (&raw const (*ctx).user_port).read_volatile();
        let sk = (&raw const (*ctx).__bindgen_anon_1.sk).read_volatile();
        if sk.is_null() {
            return ALLOW;
        }
        let socket = bpf_sk_storage_get(
            (&raw const SOCKETS).cast_mut().cast(),
            sk.cast(),
            ptr::null_mut(),
            CREATE,
        )
        .cast::<Socket>();
        let Some(socket) = socket.as_mut() else {
            count(GlobalCounter::StorageFailed);
            return ALLOW;
        };
        if socket.phase == phase::ATTEMPTED {
            // The attempt before this one on the same socket came to nothing.
            local_failure(ctx.cast(), socket, &address::ANY, 0);
        }
        socket.wanted = wanted;
        socket.wanted_port = u16::from_be(port as u16);
        socket.released = 0;
        socket.phase = phase::ATTEMPTED;
    }
    ALLOW
}

/// Counts a `connect()` that sent no SYN.
#[inline(always)]
pub(super) fn local_failure(
    ctx: *mut core::ffi::c_void,
    socket: &mut Socket,
    local: &Address,
    local_port: u16,
) {
    let ends = Ends {
        local: *local,
        remote: address::from_v6_fields(socket.wanted),
        local_port,
        remote_port: socket.wanted_port,
    };
    socket.phase = phase::DONE;
    socket.syn_retransmits = 0;
    series::assign(socket, &ends, Direction::Initiator);
    if let Some(slot) = shard(socket.slot) {
        add(slot, Counter::FailedLocal, 1);
    }
    emit::event(
        ctx,
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
