//! Several Kubernetes API servers at once: contexts of a kubeconfig, and a client for each.
//!
//! Nothing is ever written to a kubeconfig. A cluster that does not answer is a result within
//! [`REACH`], so that the others are not kept waiting.

mod connect;
mod contexts;
mod error;

pub use connect::{Cluster, REACH};
pub use contexts::Contexts;
pub use error::{ConnectError, ContextError};

/// Of kube, what callers need to name.
pub use kube::Client;
