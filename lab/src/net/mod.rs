//! Builds and removes a lab's namespaces with iproute2 and nftables.

mod build;
mod script;
mod tools;

pub(crate) use build::{build, each, netns_path, remove};
pub use script::OuterDf;
pub(crate) use tools::{Tools, check_tools};
