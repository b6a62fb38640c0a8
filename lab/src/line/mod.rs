//! The line: every packet between clusters crosses it, and it does to them what a real underlay might.
//! A pure pipeline (packets and time in, packets and due times out) under a thin coat of I/O on a tun device.

mod alter;
mod book;
pub mod config;
pub mod control;
pub mod effect;
pub mod fault;
mod grammar;
mod mtu;
mod order;
mod packet;
pub mod pipeline;
pub mod queue;
mod rulebook;
mod run;
#[cfg(test)]
mod samples;
mod server;
pub mod stats;
mod sys;
pub mod unit;

pub use rulebook::{MAX_FAULTS, SetFaultError};
pub use run::{LineError, Options, now, run};
