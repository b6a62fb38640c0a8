//! Builds and removes a lab's namespaces with iproute2 and nftables.

mod build;
mod connect;
mod script;
mod services;
mod tools;

pub(crate) use build::{build, each, netns_path, remove};
pub use connect::attach as translate_at_connect;
pub use script::OuterDf;
pub(crate) use services::entries;
pub use services::{Entry, Services};
pub(crate) use tools::{Tools, check_tools};
