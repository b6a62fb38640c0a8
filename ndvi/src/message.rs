//! Request and reply. All numbers are little-endian.
//!
//! | request | bytes | | reply | bytes |
//! |---|---|---|---|---|
//! | magic `NDVQ` | 4 | | magic `NDVR` | 4 |
//! | version 1 | 1 | | version 1 | 1 |
//! | length n of the client's name | 1 | | length n of the responder's name | 1 |
//! | width, height | 2 + 2 | | width, height | 2 + 2 |
//! | reserved, 0 | 2 | | reserved, 0 | 2 |
//! | tile id | 8 | | tile id | 8 |
//! | | | | checksum of the request | 4 |
//! | client's name | n | | responder's name | n |
//! | red band, u16 each | 2wh | | NDVI × 10 000, i16 each | 2wh |
//! | near-infrared band, u16 each | 2wh | | | |
//! | CRC-32 (IEEE 802.3) of all above | 4 | | CRC-32 of all above | 4 |

use crate::reader::{DecodeError, Reader, is_name};
use crate::tile::{self, Tile};
use crate::{MAX_REPLY_BYTES, MAX_REQUEST_BYTES};

const REQUEST_MAGIC: [u8; 4] = *b"NDVQ";
const REPLY_MAGIC: [u8; 4] = *b"NDVR";
const VERSION: u8 = 1;
pub(crate) const REQUEST_HEADER_BYTES: usize = 20;
pub(crate) const REPLY_HEADER_BYTES: usize = 24;
pub(crate) const CHECKSUM_BYTES: usize = 4;

/// A tile on its way to the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    tile_id: u64,
    client: String,
    tile: Tile,
    /// As it stands at the end of the encoded request.
    checksum: u32,
}

/// The service's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    tile_id: u64,
    request_checksum: u32,
    responder: String,
    width: u16,
    height: u16,
    ndvi: Vec<i16>,
}

/// Why a well-formed reply is not the answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    #[error("the reply is for tile {found}, not {expected}")]
    TileId { found: u64, expected: u64 },
    #[error("the reply is for a request with checksum {found:08x}, not {expected:08x}")]
    Request { found: u32, expected: u32 },
    #[error("the reply has {found:?} pixels, the tile {expected:?}")]
    Size {
        found: (u16, u16),
        expected: (u16, u16),
    },
    #[error("NDVI of pixel {pixel} is {found}, not {expected}; {wrong} pixels are wrong")]
    Pixel {
        pixel: usize,
        found: i16,
        expected: i16,
        wrong: usize,
    },
}

impl Request {
    /// `client` names the sender, e.g. `drone-1`: 1 to [`crate::MAX_NAME_BYTES`] bytes of letters, digits, `-._/`.
    ///
    /// # Errors
    /// [`DecodeError::Name`] for any other name.
    pub fn new(tile_id: u64, client: &str, tile: Tile) -> Result<Self, DecodeError> {
        if !is_name(client.as_bytes()) {
            return Err(DecodeError::Name);
        }
        let mut request = Self {
            tile_id,
            client: client.to_owned(),
            tile,
            checksum: 0,
        };
        request.checksum = crc32fast::hash(&request.content());
        Ok(request)
    }

    #[must_use]
    pub fn tile_id(&self) -> u64 {
        self.tile_id
    }

    #[must_use]
    pub fn client(&self) -> &str {
        &self.client
    }

    #[must_use]
    pub fn tile(&self) -> &Tile {
        &self.tile
    }

    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.content();
        bytes.extend(self.checksum.to_le_bytes());
        bytes
    }

    fn content(&self) -> Vec<u8> {
        let (width, height) = (self.tile.width(), self.tile.height());
        let mut bytes = head(REQUEST_MAGIC, &self.client, width, height, self.tile_id);
        bytes.extend(self.client.as_bytes());
        for band in [self.tile.red(), self.tile.nir()] {
            bytes.extend(band.iter().flat_map(|pixel| pixel.to_le_bytes()));
        }
        bytes
    }

    /// # Errors
    /// When `bytes` are not exactly one valid request. Nothing is allocated before the size is checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, MAX_REQUEST_BYTES)?;
        let head = Head::read(&mut reader, REQUEST_MAGIC)?;
        let client = reader.name(head.name_bytes)?;
        let mut band = || {
            let taken = reader.take(2 * head.pixels)?;
            Ok::<_, DecodeError>(pairs(taken).map(u16::from_le_bytes).collect())
        };
        let (red, nir) = (band()?, band()?);
        let checksum = reader.finish(bytes)?;
        Ok(Self {
            tile_id: head.tile_id,
            client,
            tile: Tile::new(head.width, head.height, red, nir)?,
            checksum,
        })
    }
}

impl Reply {
    #[must_use]
    pub fn tile_id(&self) -> u64 {
        self.tile_id
    }

    /// Who computed it, as it calls itself, e.g. `talos-east/wrk-e-1`.
    #[must_use]
    pub fn responder(&self) -> &str {
        &self.responder
    }

    /// NDVI × 10 000, row by row.
    #[must_use]
    pub fn ndvi(&self) -> &[i16] {
        &self.ndvi
    }

    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = head(
            REPLY_MAGIC,
            &self.responder,
            self.width,
            self.height,
            self.tile_id,
        );
        bytes.extend(self.request_checksum.to_le_bytes());
        bytes.extend(self.responder.as_bytes());
        bytes.extend(self.ndvi.iter().flat_map(|pixel| pixel.to_le_bytes()));
        let checksum = crc32fast::hash(&bytes);
        bytes.extend(checksum.to_le_bytes());
        bytes
    }

    /// # Errors
    /// When `bytes` are not exactly one valid reply. Nothing is allocated before the size is checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes, MAX_REPLY_BYTES)?;
        let head = Head::read(&mut reader, REPLY_MAGIC)?;
        let request_checksum = reader.u32()?;
        let responder = reader.name(head.name_bytes)?;
        let ndvi: Vec<i16> = pairs(reader.take(2 * head.pixels)?)
            .map(i16::from_le_bytes)
            .collect();
        reader.finish(bytes)?;
        let outside = |value: &i16| !(-10_000..=10_000).contains(value);
        if let Some(pixel) = ndvi.iter().position(outside) {
            return Err(DecodeError::Pixel {
                pixel,
                value: ndvi[pixel],
            });
        }
        Ok(Self {
            tile_id: head.tile_id,
            request_checksum,
            responder,
            width: head.width,
            height: head.height,
            ndvi,
        })
    }
}

/// The answer of a service that calls itself `responder` (see [`Request::new`] for what a name may be).
///
/// # Errors
/// [`DecodeError::Name`] when `responder` is not such a name.
pub fn compute(request: &Request, responder: &str) -> Result<Reply, DecodeError> {
    if !is_name(responder.as_bytes()) {
        return Err(DecodeError::Name);
    }
    Ok(Reply {
        tile_id: request.tile_id,
        request_checksum: request.checksum,
        responder: responder.to_owned(),
        width: request.tile.width(),
        height: request.tile.height(),
        ndvi: request.tile.ndvi(),
    })
}

/// Whether `reply` answers `request`, every pixel recomputed.
///
/// # Errors
/// The first way in which it does not.
pub fn verify(request: &Request, reply: &Reply) -> Result<(), Mismatch> {
    if reply.tile_id != request.tile_id {
        return Err(Mismatch::TileId {
            found: reply.tile_id,
            expected: request.tile_id,
        });
    }
    if reply.request_checksum != request.checksum {
        return Err(Mismatch::Request {
            found: reply.request_checksum,
            expected: request.checksum,
        });
    }
    let (found, expected) = (
        (reply.width, reply.height),
        (request.tile.width(), request.tile.height()),
    );
    if found != expected {
        return Err(Mismatch::Size { found, expected });
    }
    let expected = request.tile.ndvi();
    let mut wrong = (0..expected.len()).filter(|&pixel| reply.ndvi[pixel] != expected[pixel]);
    match wrong.next() {
        None => Ok(()),
        Some(pixel) => Err(Mismatch::Pixel {
            pixel,
            found: reply.ndvi[pixel],
            expected: expected[pixel],
            wrong: 1 + wrong.count(),
        }),
    }
}

fn head(magic: [u8; 4], name: &str, width: u16, height: u16, tile_id: u64) -> Vec<u8> {
    let name_bytes = u8::try_from(name.len()).expect("names have 127 bytes at most");
    let mut bytes = Vec::with_capacity(
        REPLY_HEADER_BYTES
            + name.len()
            + 4 * usize::from(width) * usize::from(height)
            + CHECKSUM_BYTES,
    );
    bytes.extend(magic);
    bytes.extend([VERSION, name_bytes]);
    bytes.extend(width.to_le_bytes());
    bytes.extend(height.to_le_bytes());
    bytes.extend([0, 0]);
    bytes.extend(tile_id.to_le_bytes());
    bytes
}

/// The part that both messages begin with.
struct Head {
    name_bytes: usize,
    width: u16,
    height: u16,
    pixels: usize,
    tile_id: u64,
}

impl Head {
    fn read(reader: &mut Reader<'_>, expected: [u8; 4]) -> Result<Self, DecodeError> {
        let found = reader.array()?;
        if found != expected {
            return Err(DecodeError::Magic { found, expected });
        }
        let [version, name_bytes] = reader.array()?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        let (width, height) = (reader.u16()?, reader.u16()?);
        let pixels = tile::pixels(width, height)?;
        let reserved = reader.u16()?;
        if reserved != 0 {
            return Err(DecodeError::Reserved(reserved));
        }
        Ok(Self {
            name_bytes: usize::from(name_bytes),
            width,
            height,
            pixels,
            tile_id: reader.u64()?,
        })
    }
}

fn pairs(bytes: &[u8]) -> impl Iterator<Item = [u8; 2]> {
    bytes.as_chunks().0.iter().copied()
}

#[cfg(test)]
mod tests;
