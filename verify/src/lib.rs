//! The judgement: observations in, verdict out.
//!
//! Pure: no I/O, no clock, no async. What the statistics mean and why: docs/verdict.md.

pub mod quantile;
pub mod stats;
