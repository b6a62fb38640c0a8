//! Messages, client and server of `proto/aggrik8s/v1/probe.proto`; `tests/generated.rs` rewrites the file below.
#![allow(
    clippy::allow_attributes_without_reason,
    clippy::all,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code"
)]

include!("gen/aggrik8s.v1.rs");
