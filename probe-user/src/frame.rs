//! The frames of TCP and UDP probes: pure encoding and decoding, network byte order. The echo:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `A8SE` |
//! | 4 | 1 | version, 1 |
//! | 5 | 1 | kind: 1 request, 2 reply; 3 and 4 are [`sized`], 5 to 7 [`transfer`] |
//! | 6 | 2 | length of the whole frame |
//! | 8 | 16 | nonce, chosen by the prober, returned unchanged |
//! | 24 | 8 | run id |
//! | 32 | 4 | sequence within the run |
//! | 36 | 4 | reply: datagrams of this run that the receiver has counted |
//! | 40 | 1 + n | reply: cluster of the responder, length first |
//! | … | 1 + n | reply: node of the responder, length first |
//!
//! The rest is zero. A reply is exactly as long as its request, so nobody is amplified and both
//! directions of a path carry the same size.

pub mod sized;
pub mod transfer;

use mesh::observation::NodeRef;

const MAGIC: [u8; 4] = *b"A8SE";
const VERSION: u8 = 1;
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const SIZED_REQUEST: u8 = 3;
const SIZED_REPLY: u8 = 4;
const TRANSFER_REQUEST: u8 = 5;
const TRANSFER_GRANT: u8 = 6;
const TRANSFER_RESULT: u8 = 7;

/// Bytes up to and including the sequence: what tells a frame from noise.
pub const HEADER_BYTES: usize = 36;
/// Length of a probe: room for the longest reply, a 63-byte cluster and a 253-byte node.
pub const PROBE_BYTES: usize = 384;
/// Longest frame that is read from a stream.
pub const MAX_BYTES: usize = 8_192;

pub type Nonce = [u8; 16];

/// What a request and its reply share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub nonce: Nonce,
    pub run: u64,
    pub sequence: u32,
}

impl Key {
    /// Where a protocol has room for no more.
    pub(crate) fn id(&self) -> u16 {
        u16::from_be_bytes([self.nonce[0], self.nonce[1]])
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub key: Key,
    /// Of the whole frame, bytes.
    pub length: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub key: Key,
    pub receiver_count: u32,
    pub responder: NodeRef,
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("not a frame of this protocol")]
    Magic,
    #[error("unknown version or kind")]
    Kind,
    #[error("impossible length")]
    Length,
    #[error("a name is not a name")]
    Name,
    #[error("the request is too short for the reply")]
    ReplyDoesNotFit,
}

/// Longest frame of a kind; `None` for kinds that do not exist.
fn longest(kind: u8) -> Option<usize> {
    match kind {
        REQUEST | REPLY | TRANSFER_REQUEST | TRANSFER_GRANT | TRANSFER_RESULT => Some(MAX_BYTES),
        SIZED_REQUEST | SIZED_REPLY => Some(sized::MAX_BYTES),
        _ => None,
    }
}

/// Kind and length of the frame that `bytes` begin with, once they are known.
fn preamble(bytes: &[u8]) -> Result<Option<(u8, usize)>, FrameError> {
    let known = bytes.len().min(MAGIC.len());
    if bytes[..known] != MAGIC[..known] {
        return Err(FrameError::Magic);
    }
    let Some(field) = bytes.get(6..8) else {
        return Ok(None);
    };
    let kind = bytes[5];
    let most = longest(kind).ok_or(FrameError::Kind)?;
    if bytes[4] != VERSION {
        return Err(FrameError::Kind);
    }
    let length = usize::from(u16::from_be_bytes([field[0], field[1]]));
    if !(HEADER_BYTES..=most).contains(&length) {
        return Err(FrameError::Length);
    }
    Ok(Some((kind, length)))
}

/// A prefix of a stream of frames: how long the first frame is, once that is known. Sized frames are for datagrams.
pub fn frame_length(bytes: &[u8]) -> Result<Option<usize>, FrameError> {
    match preamble(bytes)? {
        Some((SIZED_REQUEST | SIZED_REPLY, _)) => Err(FrameError::Kind),
        Some((_, length)) => Ok(Some(length)),
        None => Ok(None),
    }
}

fn key(frame: &[u8], kind: u8) -> Result<Key, FrameError> {
    let Some((found, length)) = preamble(frame)? else {
        return Err(FrameError::Length);
    };
    if length != frame.len() {
        return Err(FrameError::Length);
    }
    if found != kind {
        return Err(FrameError::Kind);
    }
    let mut nonce = Nonce::default();
    nonce.copy_from_slice(&frame[8..24]);
    let mut run = [0; 8];
    run.copy_from_slice(&frame[24..32]);
    let mut sequence = [0; 4];
    sequence.copy_from_slice(&frame[32..36]);
    Ok(Key {
        nonce,
        run: u64::from_be_bytes(run),
        sequence: u32::from_be_bytes(sequence),
    })
}

fn header(key: &Key, kind: u8, length: usize) -> Result<Vec<u8>, FrameError> {
    let wire_length = u16::try_from(length).map_err(|_| FrameError::Length)?;
    let most = longest(kind).ok_or(FrameError::Kind)?;
    if !(HEADER_BYTES..=most).contains(&length) {
        return Err(FrameError::Length);
    }
    let mut frame = Vec::with_capacity(length);
    frame.extend_from_slice(&MAGIC);
    frame.extend_from_slice(&[VERSION, kind]);
    frame.extend_from_slice(&wire_length.to_be_bytes());
    frame.extend_from_slice(&key.nonce);
    frame.extend_from_slice(&key.run.to_be_bytes());
    frame.extend_from_slice(&key.sequence.to_be_bytes());
    Ok(frame)
}

impl Request {
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        let mut frame = header(&self.key, REQUEST, self.length)?;
        frame.resize(self.length, 0);
        Ok(frame)
    }

    /// `frame` must be exactly one frame.
    pub fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        Ok(Self {
            key: key(frame, REQUEST)?,
            length: frame.len(),
        })
    }
}

impl Reply {
    /// As long as the request that it answers.
    pub fn encode(&self, length: usize) -> Result<Vec<u8>, FrameError> {
        let mut frame = header(&self.key, REPLY, length)?;
        frame.extend_from_slice(&self.receiver_count.to_be_bytes());
        push_names(&mut frame, &self.responder, length)?;
        Ok(frame)
    }

    /// `frame` must be exactly one frame.
    pub fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let key = key(frame, REPLY)?;
        let rest = &frame[HEADER_BYTES..];
        let (count, rest) = rest.split_first_chunk::<4>().ok_or(FrameError::Length)?;
        Ok(Self {
            key,
            receiver_count: u32::from_be_bytes(*count),
            responder: names(rest)?,
        })
    }
}

/// Appends who answers and fills up to `length`.
fn push_names(frame: &mut Vec<u8>, responder: &NodeRef, length: usize) -> Result<(), FrameError> {
    for name in [&responder.cluster, &responder.node] {
        let bytes = u8::try_from(name.len()).map_err(|_| FrameError::Name)?;
        frame.push(bytes);
        frame.extend_from_slice(name.as_bytes());
    }
    if frame.len() > length {
        return Err(FrameError::ReplyDoesNotFit);
    }
    frame.resize(length, 0);
    Ok(())
}

fn names(bytes: &[u8]) -> Result<NodeRef, FrameError> {
    let (cluster, rest) = name(bytes)?;
    let (node, _) = name(rest)?;
    Ok(NodeRef { cluster, node })
}

fn name(bytes: &[u8]) -> Result<(String, &[u8]), FrameError> {
    let (length, rest) = bytes.split_first().ok_or(FrameError::Length)?;
    let name = rest.get(..usize::from(*length)).ok_or(FrameError::Length)?;
    if !is_name(name) {
        return Err(FrameError::Name);
    }
    // Every byte is ASCII, so nothing is replaced.
    Ok((
        String::from_utf8_lossy(name).into_owned(),
        &rest[name.len()..],
    ))
}

/// A DNS name in lower case.
pub(crate) fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= 253
        && name
            .iter()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reply() -> Reply {
        Reply {
            key: Key {
                nonce: *b"0123456789abcdef",
                run: 7,
                sequence: 9,
            },
            receiver_count: 10,
            responder: NodeRef {
                cluster: "talos-east".into(),
                node: "cp-e-1".into(),
            },
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let frame = reply().encode(64).unwrap();
        assert_eq!(&frame[..8], b"A8SE\x01\x02\x00\x40");
        assert_eq!(&frame[8..24], b"0123456789abcdef");
        assert_eq!(&frame[24..40], b"\0\0\0\0\0\0\0\x07\0\0\0\x09\0\0\0\x0a");
        assert_eq!(&frame[40..58], b"\x0atalos-east\x06cp-e-1");
        assert_eq!(frame.len(), 64);
        assert_eq!(Reply::decode(&frame), Ok(reply()));
    }

    #[test]
    fn the_longest_names_fit_a_probe() {
        let reply = Reply {
            responder: NodeRef {
                cluster: "c".repeat(63),
                node: "n".repeat(253),
            },
            ..reply()
        };
        let frame = reply.encode(PROBE_BYTES).expect("fits");
        assert_eq!(Reply::decode(&frame), Ok(reply));
    }

    #[test]
    fn a_reply_never_outgrows_its_request() {
        assert_eq!(reply().encode(57), Err(FrameError::ReplyDoesNotFit));
        assert_eq!(reply().encode(58).map(|f| f.len()), Ok(58));
    }

    #[test]
    fn a_request_is_no_reply_and_a_cut_frame_is_none() {
        let request = Request {
            key: reply().key,
            length: PROBE_BYTES,
        };
        let frame = request.encode().unwrap();
        assert_eq!(Request::decode(&frame), Ok(request));
        assert_eq!(Reply::decode(&frame), Err(FrameError::Kind));
        for cut in 0..frame.len() {
            assert!(Request::decode(&frame[..cut]).is_err(), "cut at {cut}");
            assert!(
                !matches!(frame_length(&frame[..cut]), Ok(Some(n)) if n <= cut),
                "cut at {cut}"
            );
        }
        let mut wrong = frame.clone();
        wrong[4] = 2;
        assert_eq!(frame_length(&wrong), Err(FrameError::Kind));
        let mut long = frame;
        long[6..8].copy_from_slice(&9_000_u16.to_be_bytes());
        assert_eq!(frame_length(&long), Err(FrameError::Length));
    }

    #[test]
    fn hostile_names_are_refused() {
        let mut frame = reply().encode(64).unwrap();
        frame[41] = 0x1b;
        assert_eq!(Reply::decode(&frame), Err(FrameError::Name));
        frame[40] = 255;
        assert_eq!(Reply::decode(&frame), Err(FrameError::Length));
        frame[40] = 0;
        assert_eq!(Reply::decode(&frame), Err(FrameError::Name));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Request::decode(&bytes);
            let _ = Reply::decode(&bytes);
            let _ = frame_length(&bytes);
        }

        #[test]
        fn a_flipped_byte_is_never_the_same_reply(at in 0_usize..58, flip in 1_u8..) {
            let mut frame = reply().encode(58).unwrap();
            frame[at] ^= flip;
            prop_assert_ne!(Reply::decode(&frame), Ok(reply()));
        }
    }
}
