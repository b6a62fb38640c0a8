//! The kernel side as the agent sees it, and the only module of this crate with `unsafe`.
//!
//! * [`loader`] loads, attaches, pins, replaces and removes the programs (privileged, short-lived).
//! * [`maps`] reads and writes the pinned maps (no privilege but the group of the pins).
//! * [`events`] reads the ring buffer, also from tokio.
//! * [`names`] keeps ids of remotes and classes stable over restarts of the agent.
//! * [`selfcheck`] is `load --check`: a scratch cgroup, one connection, the counted event.
#![allow(
    unsafe_code,
    reason = "bpf(2) and Aya's plain-old-data promises live here"
)]

pub mod cgroup;
pub mod events;
pub mod loader;
pub mod maps;
pub mod memory;
pub mod names;
pub mod preflight;
pub mod raw;
pub mod selfcheck;

/// The committed object, built by `cargo xtask ebpf`.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../../prebuilt/probe.bpf.o");
