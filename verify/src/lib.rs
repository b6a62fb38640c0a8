//! The judgement: observations in, verdict out.
//!
//! Pure: no I/O, no clock, no async. What the statistics mean and why: docs/verdict.md.

pub mod baseline;
pub mod causes;
pub mod checks;
pub mod control;
mod dependence;
mod judge;
pub mod looks;
mod open;
pub mod propose;
pub mod quantile;
pub mod report;
mod rows;
mod short;
mod statement;
pub mod stats;
mod tally;
pub mod verdict;
mod view;
pub mod waivers;

pub use baseline::{Baseline, BaselineError};
pub use control::{ClustersPolicy, judge_clusters};
pub use judge::{JudgeError, Policy, check_scope, judge, judge_look};
pub use open::Open;
pub use report::Report;
pub use rows::service::askers as service_askers;
pub use verdict::{Cause, Check, Outcome, Status, Verdict};
