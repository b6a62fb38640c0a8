//! Several Kubernetes API servers at once: contexts of a kubeconfig, a client for each, and what each says of itself.
//!
//! Nothing is ever written: not to a kubeconfig, not to a cluster. A cluster that does not answer is a result
//! within [`REACH`], so that the others are not kept waiting. Kubernetes' types end here: [`view()`] answers
//! with those of `verify::control`.

mod ask;
mod connect;
mod contexts;
mod error;
mod objects;
mod read;

pub use connect::{Cluster, REACH};
pub use contexts::Contexts;
pub use error::{ConnectError, ContextError};
pub use objects::{Kind, ObjectError};
pub use read::{view, views};

/// Of kube, what callers need to name.
pub use kube::Client;
