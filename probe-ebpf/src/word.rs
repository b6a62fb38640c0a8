//! The word of a socket's state: whose it is and where its connection stands. It changes by atomic exchange,
//! so a connection is counted once even where `sock_release`, which does not hold the socket lock, meets a
//! hook that does, and nobody writes to what has become another socket's.
//!
//! `cookie << 8 | LOST | RELEASED | phase`; 0 is memory that was never used. Cookies count sockets since
//! boot from 1, so 56 bits suffice.

use crate::{decide, tcp};

/// Where a connection stands.
pub mod phase {
    /// Just made.
    pub const NEW: u64 = 0;
    /// `connect()` was called, no SYN yet.
    pub const ATTEMPTED: u64 = 1;
    /// SYN handed to IP.
    pub const CONNECTING: u64 = 2;
    pub const ESTABLISHED: u64 = 3;
    /// A hook that holds the socket lock is counting the end.
    pub const ENDING: u64 = 4;
    /// Failed or closed, and counted. An entry of the table is free again.
    pub const DONE: u64 = 5;
    /// `sock_release` counted the end. It may still be reading, and other hooks may still write, so an entry of
    /// the table is free only when [`super::LET_GO_UNITS`] have passed.
    pub const LET_GO: u64 = 6;
}

const PHASE: u64 = 7;
/// The application closed the socket.
pub const RELEASED: u64 = 1 << 3;
/// Lost callback flags are counted.
pub const LOST: u64 = 1 << 4;
const TAG_SHIFT: u32 = 8;

/// How long a [`phase::LET_GO`] entry is kept, in units of 2³⁰ ns.
pub const LET_GO_UNITS: u32 = 64;

#[inline(always)]
pub const fn begin(cookie: u64, phase: u64) -> u64 {
    cookie << TAG_SHIFT | phase
}

#[inline(always)]
pub const fn phase_of(word: u64) -> u64 {
    word & PHASE
}

#[inline(always)]
pub const fn with_phase(word: u64, phase: u64) -> u64 {
    word & !PHASE | phase
}

#[inline(always)]
pub const fn is_of(word: u64, cookie: u64) -> bool {
    word >> TAG_SHIFT == cookie
}

/// Whether an entry of the table may be taken. `since_let_go`: age of its [`phase::LET_GO`] mark, in units of 2³⁰ ns.
#[inline(always)]
pub const fn is_free(word: u64, since_let_go: u32) -> bool {
    match phase_of(word) {
        phase::NEW => word == 0,
        phase::DONE => true,
        phase::LET_GO => since_let_go >= LET_GO_UNITS,
        _ => false,
    }
}

/// How long after its release a connection whose callbacks stay away is given up, in units of 2³⁰ ns. The change
/// that `close(2)` makes is reported before the call returns, so any time beyond that call will do.
pub const ABANDONED_UNITS: u32 = 8;

/// Whether an entry of the table belongs to a connection whose flags were lost without a sign before its release: the
/// application closed it, and the change of state that this makes was never reported. `since_release`: age in units
/// of 2³⁰ ns.
#[inline(always)]
pub const fn is_abandoned(word: u64, reported: u32, since_release: u32) -> bool {
    phase_of(word) == phase::ESTABLISHED
        && word & RELEASED != 0
        && matches!(reported, tcp::SYN_RECV | tcp::ESTABLISHED | tcp::CLOSE_WAIT)
        && since_release >= ABANDONED_UNITS
}

/// What `sock_release` makes of a word. `state` is the socket's, read before `reported`, the state of the
/// last callback; `callbacks`: not a socket older than the probe; `watched`: `egress` will see how it ends.
#[inline(always)]
pub const fn released(word: u64, state: u32, reported: u32, callbacks: bool, watched: bool) -> u64 {
    match phase_of(word) {
        phase::ATTEMPTED => with_phase(word, phase::LET_GO) | RELEASED,
        phase::CONNECTING => {
            let word = with_phase(word, phase::LET_GO) | RELEASED;
            // Failed before, and no callback told us.
            if state == tcp::CLOSE {
                word | LOST
            } else {
                word
            }
        }
        phase::ESTABLISHED => {
            let missed = callbacks && decide::change_missed(state, reported);
            let word = word | RELEASED | if missed { LOST } else { 0 };
            // Ended before, and no callback told us; or it will end, and nobody will.
            if state == tcp::CLOSE || !watched && (missed || !callbacks) {
                with_phase(word, phase::LET_GO)
            } else {
                word
            }
        }
        phase::NEW => word | RELEASED,
        _ => word,
    }
}

#[cfg(test)]
mod tests;
