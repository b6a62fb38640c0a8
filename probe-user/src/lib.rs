//! The agent as a library; `main.rs` is a thin coat.

pub mod frame;
mod http_server;
pub mod prober;
pub mod responder;
pub mod sys;
