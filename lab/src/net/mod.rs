//! Builds and removes a lab's namespaces with iproute2 and nftables.

mod build;
mod connect;
mod script;
mod services;
mod tools;

pub(crate) use build::{build, each, netns_path, remove};
pub use connect::attach as translate_at_connect;
pub(crate) use connect::replace as translate_anew;
pub use script::OuterDf;
pub use services::{Entry, Services};
pub(crate) use services::{Redirect, entries, renewed_rules};
pub(crate) use tools::{Tools, check_tools};
