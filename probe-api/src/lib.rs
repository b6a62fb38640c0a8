//! The wire contract of the agents: protobuf, client, server trait and conversion to observations.
//!
//! Wire types stop here: callers see the types of `mesh::observation` and of [`reply`]. A reply that
//! contradicts itself or the question is an error, never a sample.

mod client;
pub mod measure;
pub mod reply;
pub mod request;
pub mod results;
pub mod wire;
pub mod words;

pub use client::{Client, ClientError, Deadlines, MeasureStream, ProbeStream};
pub use measure::{MeasurePlan, MeasureTarget, Measurement, TransferCaps};
pub use reply::{Histogram, Identity, KernelConnections, Observation, Series, WireError};
pub use request::{MAX_COUNT, MAX_TARGETS, PlanError, PlannedTarget, ProbePlan};
