//! What the programs decide, as plain functions: they compile for the host and have unit tests.
#![no_std]

pub mod decide;
pub mod tcp;
pub mod word;
