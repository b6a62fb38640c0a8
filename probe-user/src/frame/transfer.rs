//! Frames around a bounded transfer on a TCP connection, after the header of every frame (see the module above;
//! kind 5 request, 6 grant, 7 result):
//!
//! | offset | bytes | request | grant | result |
//! |---|---|---|---|---|
//! | 36 | 1 | 1: the asker sends, 2: the responder sends | 0 granted, 1 busy, 2 budget used up | 1: ended by time |
//! | 40 | 8 | payload bytes at most | the same, as granted | payload bytes received |
//! | 48 | 8 | ms at most, from the first byte | the same, as granted | ns from the first byte to the last |
//! | 56 | 4 | | | segments sent again by the result's sender, all ones: not known |
//! | 60 | 4 | | | its smallest round trip, µs, 0: not known |
//! | 64 | … | | cluster and node of the responder | |
//!
//! After the grant the sending side writes chunks: a length of four bytes, at most [`MAX_CHUNK`], and so many bytes;
//! a length of zero ends them. Then the responder's result comes, whichever way the bytes went; if it sent them
//! itself, bytes and duration are zero, for the receiver knows.

use std::time::Duration;

use mesh::measurement::PathDirection;
use mesh::observation::NodeRef;

use super::{
    FrameError, Key, TRANSFER_GRANT, TRANSFER_REQUEST, TRANSFER_RESULT, header, key, names,
    push_names,
};

/// Length of every frame here; room for the longest names.
pub const FRAME_BYTES: usize = 448;
pub const MAX_CHUNK: usize = 65_536;
/// Bytes of a chunk's length.
pub const CHUNK_HEADER: usize = 4;

/// Caps of one transfer; whichever is reached first ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    pub bytes: u64,
    /// Whole milliseconds.
    pub time: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferRequest {
    pub key: Key,
    pub direction: PathDirection,
    pub caps: Caps,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granted {
    Yes,
    /// As many transfers as are allowed are going on.
    Busy,
    /// The bytes of this minute are used up.
    Budget,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferGrant {
    pub key: Key,
    pub granted: Granted,
    /// Never above what was asked.
    pub caps: Caps,
    pub responder: NodeRef,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferResult {
    pub key: Key,
    pub by_time: bool,
    pub bytes: u64,
    pub duration: Duration,
    pub retransmits: Option<u32>,
    pub min_rtt_us: Option<u32>,
}

fn frame(key: &Key, kind: u8, first: u8, bytes: u64, time: u64) -> Result<Vec<u8>, FrameError> {
    let mut frame = header(key, kind, FRAME_BYTES)?;
    frame.extend_from_slice(&[first, 0, 0, 0]);
    frame.extend_from_slice(&bytes.to_be_bytes());
    frame.extend_from_slice(&time.to_be_bytes());
    Ok(frame)
}

fn whole(frame: &[u8], kind: u8) -> Result<(Key, u8, u64, u64), FrameError> {
    let key = key(frame, kind)?;
    if frame.len() != FRAME_BYTES {
        return Err(FrameError::Length);
    }
    Ok((key, frame[36], long(frame, 40)?, long(frame, 48)?))
}

fn long(frame: &[u8], at: usize) -> Result<u64, FrameError> {
    let bytes = frame.get(at..).and_then(|rest| rest.first_chunk::<8>());
    Ok(u64::from_be_bytes(*bytes.ok_or(FrameError::Length)?))
}

fn word(frame: &[u8], at: usize) -> Result<u32, FrameError> {
    let bytes = frame.get(at..).and_then(|rest| rest.first_chunk::<4>());
    Ok(u32::from_be_bytes(*bytes.ok_or(FrameError::Length)?))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl TransferRequest {
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        let way = match self.direction {
            PathDirection::Forward => 1,
            PathDirection::Return => 2,
        };
        let time = millis(self.caps.time);
        let mut bytes = frame(&self.key, TRANSFER_REQUEST, way, self.caps.bytes, time)?;
        bytes.resize(FRAME_BYTES, 0);
        Ok(bytes)
    }

    /// `frame` must be exactly one frame.
    pub fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let (key, way, bytes, time) = whole(frame, TRANSFER_REQUEST)?;
        let direction = match way {
            1 => PathDirection::Forward,
            2 => PathDirection::Return,
            _ => return Err(FrameError::Kind),
        };
        let time = Duration::from_millis(time);
        Ok(Self {
            key,
            direction,
            caps: Caps { bytes, time },
        })
    }
}

impl TransferGrant {
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        let granted = match self.granted {
            Granted::Yes => 0,
            Granted::Busy => 1,
            Granted::Budget => 2,
        };
        let time = millis(self.caps.time);
        let mut bytes = frame(&self.key, TRANSFER_GRANT, granted, self.caps.bytes, time)?;
        bytes.resize(64, 0);
        push_names(&mut bytes, &self.responder, FRAME_BYTES)?;
        Ok(bytes)
    }

    /// `frame` must be exactly one frame.
    pub fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let (key, granted, bytes, time) = whole(frame, TRANSFER_GRANT)?;
        let granted = match granted {
            0 => Granted::Yes,
            1 => Granted::Busy,
            2 => Granted::Budget,
            _ => return Err(FrameError::Kind),
        };
        let time = Duration::from_millis(time);
        Ok(Self {
            key,
            granted,
            caps: Caps { bytes, time },
            responder: names(&frame[64..])?,
        })
    }
}

impl TransferResult {
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        let time = u64::try_from(self.duration.as_nanos()).unwrap_or(u64::MAX);
        let by_time = u8::from(self.by_time);
        let mut bytes = frame(&self.key, TRANSFER_RESULT, by_time, self.bytes, time)?;
        bytes.extend_from_slice(&self.retransmits.unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(&self.min_rtt_us.unwrap_or(0).to_be_bytes());
        bytes.resize(FRAME_BYTES, 0);
        Ok(bytes)
    }

    /// `frame` must be exactly one frame.
    pub fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let (key, by_time, bytes, time) = whole(frame, TRANSFER_RESULT)?;
        Ok(Self {
            key,
            by_time: by_time == 1,
            bytes,
            duration: Duration::from_nanos(time),
            retransmits: Some(word(frame, 56)?).filter(|n| *n != u32::MAX),
            min_rtt_us: Some(word(frame, 60)?).filter(|rtt| *rtt != 0),
        })
    }
}

/// Takes a stream of chunks apart, however it is cut.
#[derive(Debug, Default)]
pub struct Chunks {
    header: [u8; CHUNK_HEADER],
    known: usize,
    left: usize,
    /// Payload bytes so far.
    pub bytes: u64,
    pub ended: bool,
}

impl Chunks {
    /// Takes what it can of `input`; the rest, after the end, is the caller's. Fails at a chunk that is too long.
    pub fn take<'a>(&mut self, mut input: &'a [u8]) -> Result<&'a [u8], FrameError> {
        while !input.is_empty() && !self.ended {
            if self.left > 0 {
                let n = self.left.min(input.len());
                self.left -= n;
                self.bytes += n as u64;
                input = &input[n..];
                continue;
            }
            self.header[self.known] = input[0];
            self.known += 1;
            input = &input[1..];
            if self.known == CHUNK_HEADER {
                self.known = 0;
                self.left = u32::from_be_bytes(self.header) as usize;
                if self.left > MAX_CHUNK {
                    return Err(FrameError::Length);
                }
                self.ended = self.left == 0;
            }
        }
        Ok(input)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::frame_length;

    fn key() -> Key {
        Key {
            nonce: *b"0123456789abcdef",
            run: 7,
            sequence: 9,
        }
    }

    const CAPS: Caps = Caps {
        bytes: 16_000_000,
        time: Duration::from_secs(2),
    };

    #[test]
    fn frames_come_back_as_they_were() {
        for direction in [PathDirection::Forward, PathDirection::Return] {
            let request = TransferRequest {
                key: key(),
                direction,
                caps: CAPS,
            };
            let frame = request.encode().unwrap();
            assert_eq!(frame_length(&frame), Ok(Some(FRAME_BYTES)));
            assert_eq!(TransferRequest::decode(&frame), Ok(request));
            assert!(TransferResult::decode(&frame).is_err());
        }
        for granted in [Granted::Yes, Granted::Busy, Granted::Budget] {
            let grant = TransferGrant {
                key: key(),
                granted,
                caps: CAPS,
                responder: NodeRef {
                    cluster: "c".repeat(63),
                    node: "n".repeat(253),
                },
            };
            let frame = grant.encode().expect("the longest names fit");
            assert_eq!(TransferGrant::decode(&frame), Ok(grant));
        }
        let result = TransferResult {
            key: key(),
            by_time: true,
            bytes: 12_345_678,
            duration: Duration::from_nanos(1_999_999_999),
            retransmits: Some(0),
            min_rtt_us: None,
        };
        let frame = result.encode().unwrap();
        assert_eq!(TransferResult::decode(&frame), Ok(result));
    }

    #[test]
    fn the_layout_is_pinned() {
        let request = TransferRequest {
            key: key(),
            direction: PathDirection::Return,
            caps: CAPS,
        };
        let frame = request.encode().unwrap();
        assert_eq!(&frame[..8], b"A8SE\x01\x05\x01\xc0");
        assert_eq!(
            &frame[36..56],
            b"\x02\0\0\0\0\0\0\0\0\xf4\x24\0\0\0\0\0\0\0\x07\xd0"
        );
    }

    #[test]
    fn foreign_values_are_refused() {
        let request = TransferRequest {
            key: key(),
            direction: PathDirection::Return,
            caps: CAPS,
        };
        let mut frame = request.encode().unwrap();
        frame[36] = 3;
        assert_eq!(TransferRequest::decode(&frame), Err(FrameError::Kind));
        frame.truncate(100);
        frame[6..8].copy_from_slice(&100_u16.to_be_bytes());
        assert_eq!(TransferRequest::decode(&frame), Err(FrameError::Length));
        assert_eq!(
            Chunks::default().take(&65_537_u32.to_be_bytes()),
            Err(FrameError::Length)
        );
    }

    proptest! {
        #[test]
        fn chunks_are_counted_however_they_are_cut(
            sizes in proptest::collection::vec(1_usize..2_000, 0..8),
            cut in 1_usize..700,
        ) {
            let mut stream = Vec::new();
            for size in &sizes {
                stream.extend_from_slice(&u32::try_from(*size).unwrap().to_be_bytes());
                stream.resize(stream.len() + size, 0xff);
            }
            stream.extend_from_slice(&[0; 4]);
            stream.extend_from_slice(b"rest");
            let mut chunks = Chunks::default();
            let mut rest = Vec::new();
            for piece in stream.chunks(cut) {
                if chunks.ended {
                    rest.extend_from_slice(piece);
                } else {
                    rest.extend_from_slice(chunks.take(piece).unwrap());
                }
            }
            prop_assert!(chunks.ended);
            prop_assert_eq!(chunks.bytes, sizes.iter().sum::<usize>() as u64);
            prop_assert_eq!(rest, b"rest");
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), kind in 5_u8..8) {
            let mut bytes = bytes;
            if bytes.len() >= 8 {
                let length = u16::try_from(bytes.len()).unwrap();
                bytes[..6].copy_from_slice(&[b'A', b'8', b'S', b'E', 1, kind]);
                bytes[6..8].copy_from_slice(&length.to_be_bytes());
            }
            let _ = TransferRequest::decode(&bytes);
            let _ = TransferGrant::decode(&bytes);
            let _ = TransferResult::decode(&bytes);
            let _ = Chunks::default().take(&bytes);
        }
    }
}
