//! Changes inside a packet that nothing on the way can notice: the checksums are made to fit, as a broken middlebox or
//! a network card's offload would.

use etherparse::ip_number;

use super::packet::View;

const TCP_HEADER: usize = 20;
const TCP_FLAGS: usize = 13;
const TCP_CHECKSUM: usize = 16;
const RST: u8 = 0x04;
const UDP_HEADER: usize = 8;
const UDP_CHECKSUM: usize = 6;

/// Flips one bit of the payload that the endpoints exchange, chosen by `draw`. False if there is none.
pub(super) fn corrupt(packet: &mut [u8], view: &View, draw: u64) -> bool {
    let Some(payload) = payload(packet, view) else {
        return false;
    };
    let bits = (payload.end - payload.start) as u64 * 8;
    let bit = draw % bits;
    let at = payload.start + (bit / 8) as usize;
    change(packet, view, at, packet[at] ^ (1 << (bit % 8)));
    true
}

/// Sets RST on a TCP segment that carries a payload. False for any other packet.
pub(super) fn reset(packet: &mut [u8], view: &View) -> bool {
    if view.innermost().protocol != ip_number::TCP.0 || payload(packet, view).is_none() {
        return false;
    }
    let Some((transport, _)) = view.transport else {
        return false;
    };
    let at = transport + TCP_FLAGS;
    change(packet, view, at, packet[at] | RST);
    true
}

fn payload(packet: &[u8], view: &View) -> Option<std::ops::Range<usize>> {
    let (start, end) = view.transport?;
    let segment = packet.get(start..end)?;
    let (header, smallest) = match view.innermost().protocol {
        p if p == ip_number::TCP.0 => {
            let words = segment.get(TCP_FLAGS - 1)? >> 4;
            (usize::from(words) * 4, TCP_HEADER)
        }
        p if p == ip_number::UDP.0 => (UDP_HEADER, UDP_HEADER),
        _ => return None,
    };
    (header >= smallest && header < segment.len()).then(|| start + header..end)
}

/// Writes one byte of the innermost transport and keeps every checksum over it right.
fn change(packet: &mut [u8], view: &View, at: usize, value: u8) {
    let Some((transport, _)) = view.transport else {
        return;
    };
    // All the headers in between have an even length, so the word is the same for both checksums.
    let word = at - (at - transport) % 2;
    let read = |packet: &[u8]| {
        u16::from_be_bytes([packet[word], packet.get(word + 1).copied().unwrap_or(0)])
    };
    let before = read(packet);
    packet[at] = value;
    let after = read(packet);
    let (checksum, optional) = if view.innermost().protocol == ip_number::TCP.0 {
        (transport + TCP_CHECKSUM, false)
    } else {
        (transport + UDP_CHECKSUM, true)
    };
    let inner = adjust(packet, checksum, optional, before, after);
    // The outer checksum covers the inner one too.
    if let Some(udp) = view.vxlan_udp {
        adjust(packet, udp + UDP_CHECKSUM, true, before, after);
        if let Some((was, is)) = inner {
            adjust(packet, udp + UDP_CHECKSUM, true, was, is);
        }
    }
}

/// RFC 1624, equation 3: HC' = ~(~HC + ~m + m'). Where 0 means "none" it stays 0 and is never made. What it was and is.
fn adjust(
    packet: &mut [u8],
    at: usize,
    optional: bool,
    before: u16,
    after: u16,
) -> Option<(u16, u16)> {
    let field = packet.get_mut(at..at + 2)?;
    let was = u16::from_be_bytes([field[0], field[1]]);
    if optional && was == 0 {
        return None;
    }
    let mut sum = u32::from(!was) + u32::from(!before) + u32::from(after);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let mut is = !(sum as u16);
    if optional && is == 0 {
        is = 0xffff;
    }
    field.copy_from_slice(&is.to_be_bytes());
    Some((was, is))
}

#[cfg(test)]
mod tests {
    use etherparse::{IpHeaders, Ipv4Header, PacketBuilder, SlicedPacket, TransportSlice};

    use super::super::mtu::fragment;
    use super::super::packet::view;
    use super::super::samples;
    use super::*;

    const PORTS: [u16; 1] = [4789];

    /// Recomputed from scratch by etherparse.
    fn checksums_hold(packet: &[u8]) -> bool {
        let sliced = SlicedPacket::from_ip(packet).unwrap();
        let ip = sliced.net.as_ref().unwrap();
        let ip = ip.ipv4_ref().map(|ip| ip.header().to_header()).unwrap();
        match sliced.transport.unwrap() {
            TransportSlice::Tcp(tcp) => {
                let header = tcp.to_header();
                header.checksum == header.calc_checksum_ipv4(&ip, tcp.payload()).unwrap()
            }
            TransportSlice::Udp(udp) => {
                let header = udp.to_header();
                header.checksum == 0
                    || header.checksum == header.calc_checksum_ipv4(&ip, udp.payload()).unwrap()
            }
            _ => panic!("neither TCP nor UDP"),
        }
    }

    fn differing_bits(a: &[u8], b: &[u8]) -> u32 {
        a.iter().zip(b).map(|(a, b)| (a ^ b).count_ones()).sum()
    }

    #[test]
    fn one_bit_of_the_payload_changes_and_no_checksum_tells() {
        for len in [1, 2, 33, 64] {
            for whole in [samples::udp4(1, 2, len), samples::tcp4(1, 2, len)] {
                let header = whole.len() - len;
                for draw in 0..600 {
                    let mut packet = whole.clone();
                    assert!(corrupt(&mut packet, &view(&whole, &PORTS).unwrap(), draw));
                    assert_eq!(differing_bits(&packet[header..], &whole[header..]), 1);
                    assert!(checksums_hold(&packet), "{len} {draw}");
                }
            }
        }
    }

    #[test]
    fn inside_vxlan_both_checksums_hold() {
        let inner = samples::tcp4(40_000, 80, 31);
        let whole = samples::vxlan4(55_555, &inner);
        let offset = whole.len() - inner.len();
        let seen = view(&whole, &PORTS).unwrap();
        for draw in 0..300 {
            let mut packet = whole.clone();
            assert!(corrupt(&mut packet, &seen, draw));
            assert!(checksums_hold(&packet) && checksums_hold(&packet[offset..]));
            assert_ne!(packet, whole);
        }
        let mut packet = whole.clone();
        assert!(reset(&mut packet, &seen));
        assert!(checksums_hold(&packet) && checksums_hold(&packet[offset..]));
        let sliced = SlicedPacket::from_ip(&packet[offset..]).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else {
            panic!("not TCP")
        };
        assert!(tcp.rst());
    }

    #[test]
    fn a_missing_checksum_stays_missing() {
        let mut whole = samples::udp4(1, 2, 8);
        whole[26..28].fill(0);
        let seen = view(&whole, &PORTS).unwrap();
        assert!(corrupt(&mut whole, &seen, 3));
        assert_eq!(whole[26..28], [0, 0]);
    }

    #[test]
    fn what_has_no_payload_is_left_alone() {
        let ip = Ipv4Header::new(0, 9, ip_number::ICMP, samples::EAST, samples::WEST).unwrap();
        let mut icmp = Vec::new();
        PacketBuilder::ip(IpHeaders::Ipv4(ip, Default::default()))
            .icmpv4_echo_request(1, 2)
            .write(&mut icmp, &[7; 20])
            .unwrap();
        for whole in [
            samples::tcp4(1, 2, 0),
            samples::udp4(1, 2, 0),
            icmp,
            fragment(&samples::udp4(1, 2, 2000), 1500)
                .unwrap()
                .remove(1),
        ] {
            let seen = view(&whole, &PORTS).unwrap();
            let mut packet = whole.clone();
            assert!(!corrupt(&mut packet, &seen, 1) && !reset(&mut packet, &seen));
            assert_eq!(packet, whole);
        }
        let udp = samples::udp4(1, 2, 40);
        let mut packet = udp.clone();
        assert!(!reset(&mut packet, &view(&udp, &PORTS).unwrap()) && packet == udp);
    }
}
