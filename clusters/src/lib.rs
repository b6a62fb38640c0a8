//! Several Kubernetes API servers at once: contexts of a kubeconfig, a client for each, and what each says of itself.
//!
//! Nothing is ever written: not to a kubeconfig, not to a cluster. A cluster that does not answer is a result
//! within [`REACH`], so that the others are not kept waiting. Kubernetes' types end here: [`looks`] answers
//! with those of `verify::control`, [`discover()`] with those of `mesh::discovered`.

mod ask;
mod connect;
mod contexts;
mod discover;
mod error;
mod forward;
mod objects;
mod read;

pub use connect::{Cluster, REACH};
pub use contexts::Contexts;
pub use discover::{NAMESPACE, discover};
pub use error::{ConnectError, ContextError};
pub use forward::ForwardError;
pub use objects::{Kind, ObjectError};
pub use read::{Look, looks};

/// Of kube, what callers need to name.
pub use kube::Client;
