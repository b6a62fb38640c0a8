//! What a router does with a packet that is too big: IPv4 fragmentation (RFC 791) and the ICMP errors that say so
//! (RFC 1191, RFC 4443).

use std::net::IpAddr;

use etherparse::{
    Icmpv4Type, Icmpv6Type, Ipv4Header, PacketBuilder, icmpv4::DestUnreachableHeader,
};

use super::config::Router;
use super::fault::DfClear;
use super::packet::View;

/// Cuts an IPv4 packet into fragments of at most `mtu` bytes. `None` if it is not a readable IPv4 packet or its header
/// leaves no room for 8 bytes of payload.
pub(super) fn fragment(packet: &[u8], mtu: usize) -> Option<Vec<Vec<u8>>> {
    let (mut header, _) = Ipv4Header::from_slice(packet).ok()?;
    let first_header_length = header.header_len();
    let payload = packet.get(first_header_length..usize::from(header.total_len))?;
    let base = header.fragment_offset.value();
    let last_has_more = header.more_fragments;

    let mut fragments = Vec::new();
    let mut start = 0;
    while start < payload.len() {
        if start > 0 && fragments.len() == 1 {
            header.options = copied_options(&header.options)[..].try_into().ok()?;
        }
        let room = mtu.checked_sub(header.header_len())? / 8 * 8;
        if room == 0 {
            return None;
        }
        let end = payload.len().min(start + room);
        let offset = base + u16::try_from(start / 8).ok()?;
        header.fragment_offset = offset.try_into().ok()?;
        header.more_fragments = last_has_more || end < payload.len();
        header.set_payload_len(end - start).ok()?;
        header.header_checksum = header.calc_header_checksum();
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend_from_slice(&payload[start..end]);
        fragments.push(bytes);
        start = end;
    }
    Some(fragments)
}

/// The options that go into every fragment, padded to a multiple of four.
fn copied_options(options: &[u8]) -> Vec<u8> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const COPIED: u8 = 0x80;
    let mut copied = Vec::new();
    let mut rest = options;
    while let [kind, after @ ..] = rest {
        match *kind {
            END => break,
            NO_OPERATION => rest = after,
            kind => {
                let Some(option) = after
                    .first()
                    .and_then(|length| rest.get(..usize::from(*length).max(2)))
                else {
                    break;
                };
                if kind & COPIED != 0 {
                    copied.extend_from_slice(option);
                }
                rest = &rest[option.len()..];
            }
        }
    }
    copied.resize(copied.len().next_multiple_of(4), END);
    copied
}

/// No ICMPv4 error is longer (RFC 1812 §4.3.2.3).
const LONGEST_ICMPV4_ERROR: usize = 576;
/// The IPv6 minimum MTU, which no ICMPv6 error exceeds (RFC 4443 §2.4).
const LONGEST_ICMPV6_ERROR: usize = 1280;
const ICMP_HEADER: usize = 8;
const HOP_LIMIT: u8 = 64;

/// The error a router sends back to the source of `packet`. `None` where RFC 1812 §4.3.2.7 and RFC 4443 §2.4 forbid
/// one: for errors, later fragments, and sources that are not one host.
pub(super) fn packet_too_big(
    packet: &[u8],
    view: &View,
    mtu: u16,
    router: &Router,
) -> Option<Vec<u8>> {
    if view.icmp_error || view.later_fragment {
        return None;
    }
    match view.outer.source {
        IpAddr::V4(source) => {
            if source.is_unspecified()
                || source.is_multicast()
                || source.is_broadcast()
                || source.is_loopback()
            {
                return None;
            }
            let quoted = &packet[..packet
                .len()
                .min(LONGEST_ICMPV4_ERROR - Ipv4Header::MIN_LEN - ICMP_HEADER)];
            let error = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu };
            let builder = PacketBuilder::ipv4(router.ipv4.octets(), source.octets(), HOP_LIMIT)
                .icmpv4(Icmpv4Type::DestinationUnreachable(error));
            let mut bytes = Vec::with_capacity(builder.size(quoted.len()));
            builder.write(&mut bytes, quoted).ok()?;
            Some(bytes)
        }
        IpAddr::V6(source) => {
            if source.is_unspecified() || source.is_multicast() || source.is_loopback() {
                return None;
            }
            let quoted = &packet[..packet.len().min(LONGEST_ICMPV6_ERROR - 40 - ICMP_HEADER)];
            let builder = PacketBuilder::ipv6(router.ipv6.octets(), source.octets(), HOP_LIMIT)
                .icmpv6(Icmpv6Type::PacketTooBig {
                    mtu: u32::from(mtu),
                });
            let mut bytes = Vec::with_capacity(builder.size(quoted.len()));
            builder.write(&mut bytes, quoted).ok()?;
            Some(bytes)
        }
    }
}

pub(super) struct Squeezed {
    pub(super) pieces: Vec<Vec<u8>>,
    /// Packets that were cut, and the fragments they became.
    pub(super) cut: u64,
    pub(super) made: u64,
}

/// Everything at most `mtu` long, or the packets back if one cannot be cut.
pub(super) fn squeeze(
    pieces: Vec<Vec<u8>>,
    mtu: u16,
    dont_fragment: bool,
    df_clear: DfClear,
) -> Result<Squeezed, Vec<Vec<u8>>> {
    let mtu = usize::from(mtu);
    if pieces.iter().all(|piece| piece.len() <= mtu) {
        return Ok(Squeezed {
            pieces,
            cut: 0,
            made: 0,
        });
    }
    if dont_fragment || df_clear == DfClear::Drop {
        return Err(pieces);
    }
    let mut squeezed = Squeezed {
        pieces: Vec::new(),
        cut: 0,
        made: 0,
    };
    for piece in &pieces {
        if piece.len() <= mtu {
            squeezed.pieces.push(piece.clone());
            continue;
        }
        let Some(mut fragments) = fragment(piece, mtu) else {
            return Err(pieces);
        };
        squeezed.cut += 1;
        squeezed.made += fragments.len() as u64;
        squeezed.pieces.append(&mut fragments);
    }
    Ok(squeezed)
}

#[cfg(test)]
mod tests {
    use etherparse::defrag::IpDefragPool;
    use etherparse::{IcmpEchoHeader, NetSlice, SlicedPacket, TransportSlice, UdpSlice};

    use super::super::packet::view;
    use super::super::samples;
    use super::*;

    /// Reassembled by etherparse, which knows nothing of how the fragments were cut.
    fn reassemble(fragments: &[Vec<u8>]) -> Vec<u8> {
        let mut pool: IpDefragPool<(), ()> = IpDefragPool::new();
        let mut whole = None;
        for bytes in fragments {
            let sliced = SlicedPacket::from_ip(bytes).unwrap();
            if let Some(done) = pool.process_sliced_packet(&sliced, (), ()).unwrap() {
                assert!(whole.replace(done.payload).is_none(), "reassembled twice");
            }
        }
        whole.expect("fragments do not complete a packet")
    }

    fn check(packet: &[u8], mtu: usize) -> Vec<Vec<u8>> {
        let fragments = fragment(packet, mtu).unwrap();
        for bytes in &fragments {
            assert!(bytes.len() <= mtu);
            let (header, _) = Ipv4Header::from_slice(bytes).unwrap();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(usize::from(header.total_len), bytes.len());
            assert_eq!((header.identification, header.time_to_live), (0x1234, 63));
        }
        let (header, _) = Ipv4Header::from_slice(packet).unwrap();
        assert_eq!(reassemble(&fragments), &packet[header.header_len()..]);
        fragments
    }

    #[test]
    fn fragments_reassemble_to_the_original() {
        for (len, mtu, count) in [
            (1472, 1400, 2),
            (1472, 576, 3),
            (8000, 1500, 6),
            (100, 68, 3),
            (1472, 1499, 2),
        ] {
            let packet = samples::udp4(1, 2, len);
            let fragments = check(&packet, mtu);
            assert_eq!(fragments.len(), count, "{len} bytes at {mtu}");
            let udp = reassemble(&fragments);
            let udp = UdpSlice::from_slice(&udp).unwrap();
            assert_eq!(udp.payload(), samples::payload(len));
        }
    }

    #[test]
    fn fragments_of_fragments_reassemble_too() {
        let outer = fragment(&samples::udp4(1, 2, 4000), 1500).unwrap();
        let twice: Vec<_> = outer
            .iter()
            .flat_map(|packet| fragment(packet, 700).unwrap())
            .collect();
        assert!(twice.len() > outer.len());
        assert_eq!(reassemble(&twice), &samples::udp4(1, 2, 4000)[20..]);
    }

    #[test]
    fn only_copied_options_go_into_later_fragments() {
        let fragments = check(&samples::udp4_options(1000), 576);
        let options = |index: usize| {
            Ipv4Header::from_slice(&fragments[index])
                .unwrap()
                .0
                .options
                .to_vec()
        };
        assert_eq!(options(0), [7, 7, 4, 0, 0, 0, 0, 148, 4, 0, 0, 0]);
        assert_eq!(options(1), [148, 4, 0, 0]);
    }

    #[test]
    fn hostile_options_end_the_walk() {
        for options in [
            &[148_u8, 0][..],
            &[148, 255],
            &[148],
            &[7, 1, 1, 1],
            &[1, 1, 1, 0, 9],
        ] {
            assert!(copied_options(options).len() <= 40);
        }
    }

    #[test]
    fn the_ipv4_error_quotes_the_packet_and_names_the_mtu() {
        let packet = samples::udp4_df(1, 2, 1400);
        let view = view(&packet, &[]).unwrap();
        let router = Router::default();
        let error = packet_too_big(&packet, &view, 1300, &router).unwrap();
        let sliced = SlicedPacket::from_ip(&error).unwrap();
        let Some(NetSlice::Ipv4(ip)) = &sliced.net else {
            panic!("not IPv4")
        };
        let header = ip.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        assert_eq!(
            (header.source, header.destination),
            (router.ipv4.octets(), samples::EAST)
        );
        assert_eq!(error.len(), 576);
        let Some(TransportSlice::Icmpv4(icmp)) = &sliced.transport else {
            panic!("not ICMP")
        };
        assert_eq!(
            icmp.icmp_type(),
            Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded {
                next_hop_mtu: 1300
            })
        );
        assert_eq!(
            icmp.checksum(),
            icmp.icmp_type().calc_checksum(icmp.payload())
        );
        assert_eq!(icmp.payload(), &packet[..548]);
    }

    #[test]
    fn the_ipv6_error_quotes_the_packet_and_names_the_mtu() {
        let packet = samples::udp6(1, 2, 1400);
        let view = view(&packet, &[]).unwrap();
        let router = Router::default();
        let error = packet_too_big(&packet, &view, 1320, &router).unwrap();
        assert_eq!(error.len(), 1280);
        let sliced = SlicedPacket::from_ip(&error).unwrap();
        let Some(TransportSlice::Icmpv6(icmp)) = &sliced.transport else {
            panic!("not ICMPv6")
        };
        assert_eq!(icmp.icmp_type(), Icmpv6Type::PacketTooBig { mtu: 1320 });
        assert!(icmp.is_checksum_valid(router.ipv6.octets(), samples::EAST6));
        assert_eq!(icmp.payload(), &packet[..1232]);
    }

    #[test]
    fn errors_and_later_fragments_are_never_answered() {
        let router = Router::default();
        let packet = samples::udp4_df(1, 2, 1400);
        let error = packet_too_big(&packet, &view(&packet, &[]).unwrap(), 1300, &router).unwrap();
        assert_eq!(
            packet_too_big(&error, &view(&error, &[]).unwrap(), 100, &router),
            None
        );
        let later = &fragment(&samples::udp4(1, 2, 2000), 1500).unwrap()[1];
        assert_eq!(
            packet_too_big(later, &view(later, &[]).unwrap(), 100, &router),
            None
        );

        let echo = PacketBuilder::ipv4(samples::EAST, samples::WEST, 64)
            .icmpv4(Icmpv4Type::EchoRequest(IcmpEchoHeader { id: 1, seq: 1 }));
        let mut bytes = Vec::new();
        echo.write(&mut bytes, &[0; 200]).unwrap();
        assert!(packet_too_big(&bytes, &view(&bytes, &[]).unwrap(), 100, &router).is_some());
    }
}
