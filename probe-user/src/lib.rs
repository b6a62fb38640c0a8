//! The agent as a library; `main.rs` is a thin coat.

pub mod sys;
