//! NDVI tiles: the request and reply format of the workload that the mesh exists for.
//!
//! A drone sends the red and the near-infrared band of a tile and gets back
//! NDVI = (NIR − Red) / (NIR + Red) per pixel. Pure: bytes in, bytes out. Both messages end in a
//! CRC-32, and a reply names its request, so that a wrong or stale answer is told from a right one.

mod message;
mod reader;
mod tile;

pub use message::{Mismatch, Reply, Request, compute, verify};
pub use reader::DecodeError;
pub use tile::{InvalidTile, Tile, index};

/// HTTP path to which a request is posted.
pub const HTTP_PATH: &str = "/ndvi";
/// Media type of requests and replies.
pub const CONTENT_TYPE: &str = "application/vnd.aggrik8s.ndvi";

/// Largest width and height of a tile, in pixels.
pub const MAX_SIDE: u16 = 1024;
/// Longest name of a client or a responder, in bytes.
pub const MAX_NAME_BYTES: usize = 127;
/// Side of the tile that a probe posts: 16 KiB up, 8 KiB down.
pub const PROBE_SIDE: u16 = 64;

/// Largest request, in bytes. A server need not read further.
pub const MAX_REQUEST_BYTES: usize = message::REQUEST_HEADER_BYTES
    + MAX_NAME_BYTES
    + 4 * (MAX_SIDE as usize) * (MAX_SIDE as usize)
    + message::CHECKSUM_BYTES;
/// Largest reply, in bytes. A client need not read further.
pub const MAX_REPLY_BYTES: usize = message::REPLY_HEADER_BYTES
    + MAX_NAME_BYTES
    + 2 * (MAX_SIDE as usize) * (MAX_SIDE as usize)
    + message::CHECKSUM_BYTES;
