//! The agent as a library; `main.rs` is a thin coat.

mod admission;
pub mod agent;
pub mod api;
pub mod background;
pub mod cli;
mod declared;
pub mod frame;
pub mod hold;
mod http_server;
pub mod kernel;
pub mod listen;
pub mod load;
pub mod measure;
pub mod metrics;
pub mod privilege;
pub mod probe_counts;
pub mod prober;
mod process;
pub mod reload;
pub mod responder;
pub mod run;
pub mod seccomp;
pub mod supervise;
pub mod sys;
pub mod web;
