//! The embedded mesh: clusters as network namespaces on one machine, real packets, fault injection.

mod error;
pub mod sys;
pub mod topology;

pub use error::LabError;
