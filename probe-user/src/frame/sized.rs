//! Frames of the path-MTU search: datagrams whose size is the question. After the header of every frame
//! (see the module above; kind 3 request, 4 reply):
//!
//! | offset | bytes | request | reply |
//! |---|---|---|---|
//! | 36 | 16 | token of an earlier reply, or zero | token for the requests to come |
//! | 52 | 2 | wanted length of the reply; 0: [`SMALL_BYTES`] | length of the request as it arrived |
//! | 54 | 1 | 1: the reply may be fragmented | [`Padding`] |
//! | 56 | 2 | | largest IP packet that the responder's stack lets out, 0: not known |
//! | 58 | 2 | | MTU of the responder's route to the prober, 0: not known |
//! | 60 | 2 | | MTU of the last ICMP "too big" for a reply to this prober, 0: none |
//! | 64 | 16 | | the hop that said so, IPv4 mapped |
//! | 80 | … | | cluster and node of the responder, as in the echo |
//!
//! **No amplifier.** A request is at least [`SMALL_BYTES`] long and its reply exactly that, so nobody gets more than
//! was sent in his name. A longer reply needs a token, which proves that its sender receives what is sent to his
//! address and port: a keyed hash over both, valid for one to two [`TOKEN_EPOCH`]s, for which the responder keeps
//! nothing until it comes back. Longer replies are then counted: [`MAX_PADDED`] per token holder and
//! a total per minute, after which the answer is small and says why. The token is bound to the port too, so
//! that a neighbour behind the same NAT gains nothing by it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use mesh::measurement::PacketTooBig;
use mesh::observation::NodeRef;

use super::{FrameError, Key, SIZED_REPLY, SIZED_REQUEST, header, key, names, push_names};

/// Shortest request, and length of every reply that was not asked to be longer.
pub const SMALL_BYTES: usize = 448;
/// Largest IP packet that is tried: jumbo frames with room to spare.
pub const CEILING: u16 = 9_216;
/// Longest frame: a packet of [`CEILING`] without IPv4 and UDP headers.
pub const MAX_BYTES: usize = CEILING as usize - 28;
/// Replies longer than their request, per token holder.
pub const MAX_PADDED: u32 = 512;
pub const TOKEN_EPOCH: Duration = Duration::from_secs(30);

pub type Token = [u8; 16];

const NAMES_AT: usize = 80;

/// IP and UDP headers around a frame.
#[must_use]
pub fn overhead(ipv6: bool) -> usize {
    if ipv6 { 48 } else { 28 }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizedRequest {
    pub key: Key,
    pub token: Token,
    /// Of the reply's frame; `None`: small.
    pub reply_length: Option<u16>,
    pub may_fragment: bool,
    /// Of this whole frame, bytes.
    pub length: usize,
}

/// What became of the wish for a longer reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// This reply is as long as was asked.
    AsAsked,
    /// The token is missing, foreign or old; the reply has a fresh one.
    NoToken,
    /// The bound on longer replies is reached.
    Exhausted,
    /// The responder's stack does not send packets of that size.
    TooBigHere,
    /// It could not be sent for another reason.
    NotSent,
}

impl Padding {
    fn byte(self) -> u8 {
        match self {
            Self::AsAsked => 0,
            Self::NoToken => 1,
            Self::Exhausted => 2,
            Self::TooBigHere => 3,
            Self::NotSent => 4,
        }
    }

    fn of(byte: u8) -> Option<Self> {
        [
            Self::AsAsked,
            Self::NoToken,
            Self::Exhausted,
            Self::TooBigHere,
            Self::NotSent,
        ]
        .into_iter()
        .find(|padding| padding.byte() == byte)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizedReply {
    pub key: Key,
    pub token: Token,
    pub request_length: u16,
    pub padding: Padding,
    pub local_mtu: Option<u16>,
    pub route_mtu: Option<u16>,
    pub reported: Option<PacketTooBig>,
    pub responder: NodeRef,
}

impl SizedRequest {
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        if self.length < SMALL_BYTES {
            return Err(FrameError::Length);
        }
        let mut frame = header(&self.key, SIZED_REQUEST, self.length)?;
        frame.extend_from_slice(&self.token);
        frame.extend_from_slice(&self.reply_length.unwrap_or(0).to_be_bytes());
        frame.push(u8::from(self.may_fragment));
        frame.resize(self.length, 0);
        Ok(frame)
    }

    /// `frame` must be exactly one frame.
    pub fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let key = key(frame, SIZED_REQUEST)?;
        if frame.len() < SMALL_BYTES {
            return Err(FrameError::Length);
        }
        let reply_length = number(frame, 52)?;
        if let Some(wanted) = reply_length
            && !(SMALL_BYTES..=MAX_BYTES).contains(&usize::from(wanted))
        {
            return Err(FrameError::Length);
        }
        Ok(Self {
            key,
            token: bytes(frame, 36)?,
            reply_length,
            may_fragment: frame[54] & 1 == 1,
            length: frame.len(),
        })
    }
}

impl SizedReply {
    pub fn encode(&self, length: usize) -> Result<Vec<u8>, FrameError> {
        let mut frame = header(&self.key, SIZED_REPLY, length)?;
        frame.extend_from_slice(&self.token);
        frame.extend_from_slice(&self.request_length.to_be_bytes());
        frame.extend_from_slice(&[self.padding.byte(), 0]);
        let reported = self.reported.map(|reported| reported.mtu);
        for mtu in [self.local_mtu, self.route_mtu, reported, None] {
            frame.extend_from_slice(&mtu.unwrap_or(0).to_be_bytes());
        }
        let hop = match self.reported.map(|reported| reported.hop) {
            None => Ipv6Addr::UNSPECIFIED,
            Some(IpAddr::V4(hop)) => hop.to_ipv6_mapped(),
            Some(IpAddr::V6(hop)) => hop,
        };
        frame.extend_from_slice(&hop.octets());
        push_names(&mut frame, &self.responder, length)?;
        Ok(frame)
    }

    /// `frame` must be exactly one frame.
    pub fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let key = key(frame, SIZED_REPLY)?;
        let hop = Ipv6Addr::from(bytes::<16>(frame, 64)?);
        let hop = match hop.to_ipv4_mapped() {
            Some(hop) => IpAddr::V4(hop),
            None if hop.is_unspecified() => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            None => IpAddr::V6(hop),
        };
        Ok(Self {
            key,
            token: bytes(frame, 36)?,
            request_length: number(frame, 52)?.unwrap_or(0),
            padding: frame
                .get(54)
                .and_then(|byte| Padding::of(*byte))
                .ok_or(FrameError::Kind)?,
            local_mtu: number(frame, 56)?,
            route_mtu: number(frame, 58)?,
            reported: number(frame, 60)?.map(|mtu| PacketTooBig { mtu, hop }),
            responder: names(frame.get(NAMES_AT..).ok_or(FrameError::Length)?)?,
        })
    }
}

fn bytes<const N: usize>(frame: &[u8], at: usize) -> Result<[u8; N], FrameError> {
    frame
        .get(at..)
        .and_then(|rest| rest.first_chunk::<N>())
        .copied()
        .ok_or(FrameError::Length)
}

/// Zero stands for nothing.
fn number(frame: &[u8], at: usize) -> Result<Option<u16>, FrameError> {
    let number = u16::from_be_bytes(bytes(frame, at)?);
    Ok((number != 0).then_some(number))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::frame_length;

    fn reply() -> SizedReply {
        SizedReply {
            key: Key {
                nonce: *b"0123456789abcdef",
                run: 7,
                sequence: 9,
            },
            token: *b"tokentokentokent",
            request_length: 1_472,
            padding: Padding::Exhausted,
            local_mtu: Some(1_500),
            route_mtu: None,
            reported: Some(PacketTooBig {
                mtu: 1_400,
                hop: "192.0.2.1".parse().unwrap(),
            }),
            responder: NodeRef {
                cluster: "c".repeat(63),
                node: "n".repeat(253),
            },
        }
    }

    fn request() -> SizedRequest {
        SizedRequest {
            key: reply().key,
            token: reply().token,
            reply_length: Some(9_000),
            may_fragment: true,
            length: SMALL_BYTES,
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let frame = request().encode().unwrap();
        assert_eq!(&frame[..8], b"A8SE\x01\x03\x01\xc0");
        assert_eq!(&frame[36..56], b"tokentokentokent\x23\x28\x01\x00");
        let frame = reply().encode(SMALL_BYTES).expect("the longest names fit");
        assert_eq!(&frame[..8], b"A8SE\x01\x04\x01\xc0");
        assert_eq!(
            &frame[52..82],
            b"\x05\xc0\x02\0\x05\xdc\0\0\x05\x78\0\0\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\0\x02\x01\x3fc"
        );
    }

    #[test]
    fn frames_come_back_as_they_were_in_every_length() {
        for length in [SMALL_BYTES, 1_472, MAX_BYTES] {
            let frame = reply().encode(length).unwrap();
            assert_eq!(frame.len(), length);
            assert_eq!(SizedReply::decode(&frame), Ok(reply()));
            let asked = SizedRequest {
                length,
                reply_length: None,
                ..request()
            };
            assert_eq!(SizedRequest::decode(&asked.encode().unwrap()), Ok(asked));
        }
        let v6 = SizedReply {
            reported: Some(PacketTooBig {
                mtu: 1_280,
                hop: "2001:db8::1".parse().unwrap(),
            }),
            ..reply()
        };
        assert_eq!(SizedReply::decode(&v6.encode(500).unwrap()), Ok(v6));
    }

    #[test]
    fn what_could_amplify_or_overrun_is_no_request() {
        for (reply_length, length) in [
            (Some(447), SMALL_BYTES),
            (Some(9_189), SMALL_BYTES),
            (Some(u16::MAX), SMALL_BYTES),
        ] {
            let frame = SizedRequest {
                reply_length,
                length,
                ..request()
            }
            .encode()
            .unwrap();
            assert_eq!(SizedRequest::decode(&frame), Err(FrameError::Length));
        }
        for length in [0, 56, SMALL_BYTES - 1, MAX_BYTES + 1] {
            let short = SizedRequest {
                length,
                ..request()
            };
            assert_eq!(short.encode(), Err(FrameError::Length), "{length}");
        }
        // A short one, made by hand.
        let mut frame = request().encode().unwrap();
        frame.truncate(100);
        frame[6..8].copy_from_slice(&100_u16.to_be_bytes());
        assert_eq!(SizedRequest::decode(&frame), Err(FrameError::Length));
    }

    #[test]
    fn a_stream_takes_none_of_them() {
        for frame in [
            request().encode().unwrap(),
            reply().encode(SMALL_BYTES).unwrap(),
        ] {
            assert_eq!(frame_length(&frame), Err(FrameError::Kind));
            assert!(super::super::Request::decode(&frame).is_err());
            assert!(super::super::Reply::decode(&frame).is_err());
        }
        assert!(SizedRequest::decode(&reply().encode(SMALL_BYTES).unwrap()).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..600),
            kind in 3_u8..5,
        ) {
            let _ = SizedRequest::decode(&bytes);
            let _ = SizedReply::decode(&bytes);
            if bytes.len() >= 8 {
                let length = u16::try_from(bytes.len()).unwrap();
                bytes[..6].copy_from_slice(&[b'A', b'8', b'S', b'E', 1, kind]);
                bytes[6..8].copy_from_slice(&length.to_be_bytes());
                let _ = SizedRequest::decode(&bytes);
                let _ = SizedReply::decode(&bytes);
            }
        }
    }
}
