//! The line: every packet between clusters crosses it, and it does to them what a real underlay might.
//! A pure pipeline (packets and time in, packets and due times out) under a thin coat of I/O on a tun device.

pub mod config;
pub mod fault;
pub mod unit;
