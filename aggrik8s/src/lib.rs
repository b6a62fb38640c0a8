//! The command line: arguments, commands, collecting observations, rendering.
//!
//! Only `render` (and each command's own answer) writes to stdout. Nothing is judged here: that is
//! crate `verify`. Exit codes: [`exit`] and docs/cli.md.

mod cli;
pub mod exit;
mod explain;
pub mod image;
pub mod install;
pub mod lab;
pub mod render;
pub mod validate;
pub mod verify;

pub use cli::main;
