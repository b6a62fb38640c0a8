//! What goes through the ring buffer: failures, outliers, and one record per step of a probe connection.

use crate::address::{self, Address};

/// How the kernel saw a connection at the moment of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Outcome {
    /// Probe: the connection was established (either end).
    Established = 0,
    Refused = 1,
    Timeout = 2,
    AbortedByApplication = 3,
    IcmpError = 4,
    Local = 5,
    /// Failed while the callback flags were lost.
    Unknown = 6,
    /// Acceptor, probe ports only: a SYN reached a listener. `Established` follows with the same
    /// addresses and ports if it came to that; else the end of the attempt was "SYN only".
    SynSeen = 7,
    /// Traffic: an established connection whose connect took longer than [`crate::Config::outlier_connect_ns`].
    SlowConnect = 8,
}

impl Outcome {
    pub const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0 => Self::Established,
            1 => Self::Refused,
            2 => Self::Timeout,
            3 => Self::AbortedByApplication,
            4 => Self::IcmpError,
            5 => Self::Local,
            6 => Self::Unknown,
            7 => Self::SynSeen,
            8 => Self::SlowConnect,
            _ => return None,
        })
    }
}

/// One record. Written when the outcome is known, so `Established` is written at the handshake's end
/// and not at close: agreement must not wait for long connections. `min_rtt_us` is therefore the
/// minimum up to that moment, which is the handshake's.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// `CLOCK_MONOTONIC`, ns.
    pub at_ns: u64,
    /// First SYN to the outcome, ns; 0 at an acceptor.
    pub connect_ns: u64,
    /// Network namespace cookie of the socket (as `SO_NETNS_COOKIE` says); 0 where the hook has none.
    pub netns_cookie: u64,
    pub local: Address,
    pub remote: Address,
    /// Host byte order.
    pub local_port: u16,
    /// Host byte order.
    pub remote_port: u16,
    /// µs; 0 if there is none.
    pub handshake_rtt_us: u32,
    /// µs; 0 if there is none.
    pub min_rtt_us: u32,
    /// SYN retransmits at the initiator, SYN-ACK retransmits at the acceptor.
    pub syn_retransmits: u16,
    /// A [`crate::RemoteId`].
    pub remote_id: u16,
    /// An [`Outcome`].
    pub outcome: u8,
    /// A [`crate::Direction`].
    pub direction: u8,
    /// A [`crate::Origin`].
    pub origin: u8,
    /// A [`crate::ClassId`].
    pub class: u8,
    /// 0.
    pub reserved: u32,
}

/// Size of a record in the ring, without the ring's own header of 8 bytes.
pub const EVENT_BYTES: usize = size_of::<Event>();

const _: () = assert!(EVENT_BYTES == 80);

impl Event {
    /// Copies a record out of ring bytes. `None`: wrong length or an outcome, direction or origin that
    /// does not exist (count it as a decode error).
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != EVENT_BYTES {
            return None;
        }
        let u64_at = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let u32_at = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let u16_at = |at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let event = Self {
            at_ns: u64_at(0)?,
            connect_ns: u64_at(8)?,
            netns_cookie: u64_at(16)?,
            local: address::from_octets(bytes.get(24..40)?.try_into().ok()?),
            remote: address::from_octets(bytes.get(40..56)?.try_into().ok()?),
            local_port: u16_at(56)?,
            remote_port: u16_at(58)?,
            handshake_rtt_us: u32_at(60)?,
            min_rtt_us: u32_at(64)?,
            syn_retransmits: u16_at(68)?,
            remote_id: u16_at(70)?,
            outcome: bytes[72],
            direction: bytes[73],
            origin: bytes[74],
            class: bytes[75],
            reserved: u32_at(76)?,
        };
        event.outcome()?;
        crate::Direction::from_u8(event.direction)?;
        crate::Origin::from_u8(event.origin)?;
        Some(event)
    }

    /// `None` only for bytes that no program wrote.
    pub const fn outcome(&self) -> Option<Outcome> {
        Outcome::from_u8(self.outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_those_that_decode_reads() {
        use core::mem::offset_of;
        assert_eq!(offset_of!(Event, netns_cookie), 16);
        assert_eq!(offset_of!(Event, local), 24);
        assert_eq!(offset_of!(Event, remote), 40);
        assert_eq!(offset_of!(Event, local_port), 56);
        assert_eq!(offset_of!(Event, remote_port), 58);
        assert_eq!(offset_of!(Event, handshake_rtt_us), 60);
        assert_eq!(offset_of!(Event, min_rtt_us), 64);
        assert_eq!(offset_of!(Event, syn_retransmits), 68);
        assert_eq!(offset_of!(Event, remote_id), 70);
        assert_eq!(offset_of!(Event, outcome), 72);
        assert_eq!(offset_of!(Event, class), 75);
        assert_eq!(offset_of!(Event, reserved), 76);
    }

    #[test]
    fn decode_refuses_every_cut_and_unknown_values() {
        let mut bytes = [0u8; EVENT_BYTES];
        assert!(Event::decode(&bytes).is_some());
        for len in 0..EVENT_BYTES {
            assert!(Event::decode(&bytes[..len]).is_none(), "{len}");
        }
        bytes[72] = 9;
        assert!(Event::decode(&bytes).is_none());
        bytes[72] = 0;
        bytes[73] = 3;
        assert!(Event::decode(&bytes).is_none());
        bytes[73] = 0;
        bytes[74] = 3;
        assert!(Event::decode(&bytes).is_none());
    }
}
