//! What a holder says: one message of JSON, with a descriptor for each map that it names, in that order.

use probe_common::LAYOUT;
use serde::{Deserialize, Serialize};

/// Of the message itself. What is added later and may be left out does not change it.
pub const PROTOCOL: u32 = 1;
/// Longest text of a message.
pub const MAX_BYTES: usize = 4096;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub protocol: u32,
    /// Of the maps' contents.
    #[serde(default)]
    pub layout: u32,
    /// The holder's version, for people.
    #[serde(default)]
    pub version: String,
    /// Names of the maps whose descriptors come along; none for somebody who only asks whether it holds.
    #[serde(default)]
    pub maps: Vec<String>,
}

impl Hello {
    /// Ours, with these maps.
    #[must_use]
    pub fn new(maps: Vec<String>) -> Self {
        Self {
            protocol: PROTOCOL,
            layout: LAYOUT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            maps,
        }
    }
}
