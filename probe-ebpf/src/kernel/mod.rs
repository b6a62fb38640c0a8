//! The hooks, and what they share.
#![allow(
    unsafe_code,
    reason = "contexts and map values are raw pointers that the verifier checks"
)]
#![allow(
    unreachable_pub,
    reason = "a program's entry must be public to keep its symbol"
)]

mod atomic;
mod connect;
mod context;
mod egress;
mod emit;
mod maps;
mod release;
mod series;
mod sock_ops;
mod sockets;
mod table;

/// Read by the loader. A GPL-compatible licence is what the kernel asks of most programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
