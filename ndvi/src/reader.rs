//! Bounded reading of messages from a peer that is not trusted.

use crate::tile::InvalidTile;
use crate::{MAX_NAME_BYTES, MAX_REPLY_BYTES, MAX_REQUEST_BYTES};

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("{found} bytes are more than a message may have ({limit})")]
    TooLong { found: usize, limit: usize },
    #[error("the message ends after {found} bytes, {expected} were announced")]
    Truncated { found: usize, expected: usize },
    #[error("{0} bytes follow the end of the message")]
    TrailingBytes(usize),
    #[error("the first bytes are {found:02x?}, not `{}`", .expected.escape_ascii())]
    Magic { found: [u8; 4], expected: [u8; 4] },
    #[error("version {0} is not known, this is version 1")]
    Version(u8),
    #[error("a reserved field is {0}, not 0")]
    Reserved(u16),
    #[error(
        "the name is not 1 to {MAX_NAME_BYTES} characters out of letters, digits, `-`, `.`, `_` and `/`"
    )]
    Name,
    #[error("the tile is not valid")]
    Tile(#[from] InvalidTile),
    #[error("pixel {pixel} is {value}, outside -10000 to 10000")]
    Pixel { pixel: usize, value: i16 },
    #[error("checksum {found:08x} does not fit the content ({computed:08x})")]
    Checksum { found: u32, computed: u32 },
}

/// Names go into logs and metrics, so they are plain.
pub(crate) fn is_name(name: &[u8]) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'/'))
}

/// Takes fields off the front of a message.
pub(crate) struct Reader<'a> {
    whole: usize,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], limit: usize) -> Result<Self, DecodeError> {
        debug_assert!(limit == MAX_REQUEST_BYTES || limit == MAX_REPLY_BYTES);
        if bytes.len() > limit {
            return Err(DecodeError::TooLong {
                found: bytes.len(),
                limit,
            });
        }
        Ok(Self {
            whole: bytes.len(),
            rest: bytes,
        })
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(DecodeError::Truncated {
                found: self.whole,
                expected: self.whole - self.rest.len() + count,
            })?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let taken = self.take(N)?;
        Ok(taken.try_into().expect("take gave N bytes"))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn name(&mut self, count: usize) -> Result<String, DecodeError> {
        let bytes = self.take(count)?;
        if !is_name(bytes) {
            return Err(DecodeError::Name);
        }
        Ok(String::from_utf8(bytes.to_vec()).expect("a name is ASCII"))
    }

    /// The trailing CRC-32 of everything before it; nothing may follow.
    pub(crate) fn finish(mut self, whole: &[u8]) -> Result<u32, DecodeError> {
        let computed = crc32fast::hash(&whole[..self.whole - self.rest.len()]);
        let found = self.u32()?;
        if !self.rest.is_empty() {
            return Err(DecodeError::TrailingBytes(self.rest.len()));
        }
        if found != computed {
            return Err(DecodeError::Checksum { found, computed });
        }
        Ok(found)
    }
}
