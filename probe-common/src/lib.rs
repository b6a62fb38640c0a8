//! The contract between the kernel programs and the agent: map keys and values, histogram
//! layout, events. `no_std`, fixed sizes, host byte order unless a field says otherwise.
//!
//! Any change of a size or a meaning raises [`LAYOUT`]: pins carry the number in their path.
#![no_std]

pub mod address;
pub mod counters;
pub mod event;
pub mod histogram;
pub mod maps;
pub mod series;

pub use address::Address;
pub use counters::{Counter, GlobalCounter};
pub use event::{Event, Outcome};
pub use histogram::Histogram;
pub use maps::{AttachState, Config, Meta, PortClass, PrefixValue, ServiceKey};
pub use series::{ClassId, Direction, HistogramKind, Origin, RemoteId, SeriesKey, Slot};

/// Version of everything in this crate. Maps of different layouts are never mixed.
pub const LAYOUT: u32 = 3;

/// The records that user space copies out of maps.
///
/// SAFETY of every line: `repr(C)`, no padding (a test sums the field sizes), every bit pattern
/// valid, so the type is plain old data.
#[cfg(feature = "user")]
mod pod {
    #![allow(
        unsafe_code,
        reason = "marking types as plain old data is a promise to the map reader"
    )]
    use super::*;

    unsafe impl aya::Pod for SeriesKey {}
    unsafe impl aya::Pod for Slot {}
    unsafe impl aya::Pod for Event {}
    unsafe impl aya::Pod for Config {}
    unsafe impl aya::Pod for Meta {}
    unsafe impl aya::Pod for PortClass {}
    unsafe impl aya::Pod for PrefixValue {}
    unsafe impl aya::Pod for ServiceKey {}
    unsafe impl aya::Pod for AttachState {}
}
