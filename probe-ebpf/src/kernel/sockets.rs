//! Where a connection's state lies: in an entry of a table that the socket's cookie names, which costs neither
//! an allocation nor a deferred free; in socket storage where that entry is another socket's, and for old sockets.
//!
//! All hooks but `sock_release` hold the socket lock. An entry is theirs from [`claim`] until they write DONE.

use aya_ebpf::helpers::generated::{bpf_ktime_get_coarse_ns, bpf_sk_storage_get};
use core::{ffi::c_void, ptr};
use probe_common::{GlobalCounter, maps::SOCKET_TABLE};
use probe_ebpf::word::{self, phase};

use super::{
    atomic,
    maps::{SOCKETS, Socket, TABLE},
    series::{add, count, shard},
    table,
};

const CREATE: u64 = 1;

/// The state of a socket, if it has one. What began in storage stays there. `sk`: a socket that the verifier knows.
#[inline(always)]
pub(super) fn find(cookie: u64, sk: *mut c_void) -> Option<&'static mut Socket> {
    if let Some(entry) = entry(cookie) {
        let held = entry.word();
        if word::is_of(held, cookie) && word::phase_of(held) != phase::DONE {
            return Some(entry);
        }
    }
    storage(sk, 0)
}

/// The state of a socket, made if it has none. The socket lock is held.
#[inline(always)]
pub(super) fn claim(cookie: u64, sk: *mut c_void) -> Option<&'static mut Socket> {
    if let Some(socket) = find(cookie, sk) {
        return Some(socket);
    }
    if let Some(entry) = entry(cookie) {
        let held = entry.word();
        let age = if word::phase_of(held) == phase::LET_GO || held & word::RELEASED != 0 {
            clock().wrapping_sub(entry.let_go)
        } else {
            0
        };
        let abandoned = word::is_abandoned(held, u32::from(entry.reported), age);
        let slot = entry.slot;
        let ours = word::begin(cookie, phase::NEW);
        // SAFETY: the entry's own field.
        if (abandoned || word::is_free(held, age))
            && unsafe { atomic::compare_exchange(&raw mut entry.word, held, ours) }
        {
            if abandoned {
                if held & word::LOST == 0 {
                    count(GlobalCounter::FlagsLost);
                }
                end_unseen(slot);
            }
            return Some(entry);
        }
    }
    count(GlobalCounter::TableTaken);
    make_storage(cookie, sk)
}

/// State in socket storage, made if there is none.
#[inline(always)]
pub(super) fn make_storage(cookie: u64, sk: *mut c_void) -> Option<&'static mut Socket> {
    let Some(socket) = storage(sk, CREATE) else {
        count(GlobalCounter::StorageFailed);
        return None;
    };
    if socket.word == 0 {
        socket.word = word::begin(cookie, phase::NEW);
    }
    Some(socket)
}

/// Marks in socket storage that the account is closed though the socket may still send.
#[inline(always)]
pub(super) fn entomb(cookie: u64, sk: *mut c_void) -> bool {
    let Some(socket) = make_storage(cookie, sk) else {
        return false;
    };
    socket.set_phase(phase::DONE);
    true
}

/// Counts an end that no callback told. How it ended is unknown, and what was carried since the last look; that it
/// ended is not.
#[inline(never)]
pub(super) fn end_unseen(slot: u32) {
    count(GlobalCounter::BytesUnknown);
    if let Some(slot) = shard(slot) {
        add!(slot, Closed, 1);
    }
}

/// A loader may make the table smaller: then some sockets have no entry.
#[inline(always)]
fn entry(cookie: u64) -> Option<&'static mut Socket> {
    let index = cookie & u64::from(SOCKET_TABLE - 1);
    // SAFETY: the map's values are `Socket`.
    unsafe { table::element::<_, Socket>(&raw const TABLE, index as u32).as_mut() }
}

#[inline(always)]
fn storage(sk: *mut c_void, flags: u64) -> Option<&'static mut Socket> {
    // SAFETY: a socket the verifier knows; storage lives as long as the socket.
    unsafe {
        bpf_sk_storage_get(
            (&raw const SOCKETS).cast_mut().cast(),
            sk,
            ptr::null_mut(),
            flags,
        )
        .cast::<Socket>()
        .as_mut()
    }
}

/// Units of 2³⁰ ns, from a clock that is a tick late and costs little.
#[inline(always)]
pub(super) fn clock() -> u32 {
    // SAFETY: a helper without arguments.
    (unsafe { bpf_ktime_get_coarse_ns() } >> 30) as u32
}

impl Socket {
    #[inline(always)]
    pub(super) fn word(&self) -> u64 {
        // SAFETY: its own field; another hook may be writing it.
        unsafe { (&raw const self.word).read_volatile() }
    }

    #[inline(always)]
    pub(super) fn phase(&self) -> u64 {
        word::phase_of(self.word())
    }

    /// Where nobody else can meet us: before the socket is given to the application, or within its `connect()`.
    #[inline(always)]
    pub(super) fn set_phase(&mut self, to: u64) {
        self.word = word::with_phase(self.word(), to) & !(word::RELEASED | word::LOST);
    }

    /// From one phase to another; the word before if that was the phase. The socket lock is held, so only
    /// `sock_release` can come in between, and only once.
    #[inline(always)]
    pub(super) fn advance(&mut self, from: u64, to: u64) -> Option<u64> {
        let mut tries = 0;
        while tries < 2 {
            let held = self.word();
            if word::phase_of(held) != from {
                return None;
            }
            // SAFETY: its own field.
            if unsafe {
                atomic::compare_exchange(&raw mut self.word, held, word::with_phase(held, to))
            } {
                return Some(held);
            }
            tries += 1;
        }
        None
    }

    /// The account is closed: nothing may be read or written here after this.
    #[inline(always)]
    pub(super) fn done(&mut self) {
        let word = word::with_phase(self.word(), phase::DONE);
        // SAFETY: its own field.
        unsafe { (&raw mut self.word).write_volatile(word) };
    }

    /// Counts lost flags once per socket. The socket lock is held; see [`Socket::advance`].
    #[inline(always)]
    pub(super) fn lost(&mut self) {
        let mut tries = 0;
        while tries < 2 {
            let held = self.word();
            if held & word::LOST != 0 {
                return;
            }
            // SAFETY: its own field.
            if unsafe { atomic::compare_exchange(&raw mut self.word, held, held | word::LOST) } {
                count(GlobalCounter::FlagsLost);
                return;
            }
            tries += 1;
        }
    }
}
