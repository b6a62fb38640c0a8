//! What the line reads from a raw IP packet: addresses, flow, DF, and the flow inside VXLAN.
//! Reading only; nothing here changes a packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{IpNumber, ip_number};

use super::fault::Filter;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tuple {
    pub(super) source: IpAddr,
    pub(super) target: IpAddr,
    /// IP protocol number after IPv6 extension headers.
    pub(super) protocol: u8,
    /// 0 for protocols without ports and for fragments other than the first.
    pub(super) source_port: u16,
    pub(super) target_port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) outer: Tuple,
    /// The packet carried by VXLAN.
    pub(super) inner: Option<Tuple>,
    pub(super) vxlan: bool,
    /// Always true for IPv6.
    pub(super) dont_fragment: bool,
    /// Carries no transport header.
    pub(super) later_fragment: bool,
    /// An ICMP message that must never be answered by another.
    pub(super) icmp_error: bool,
    /// Where the innermost transport header begins and its payload ends; `None` for fragments other than the first.
    pub(super) transport: Option<(usize, usize)>,
    /// Where the UDP header around VXLAN begins.
    pub(super) vxlan_udp: Option<usize>,
}

/// Not a packet the kernel could have routed: too short, or no IP version we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

pub(super) fn view(packet: &[u8], vxlan_ports: &[u16]) -> Result<View, Malformed> {
    let outer = read_ip(packet)?;
    let vxlan = outer.tuple.protocol == ip_number::UDP.0
        && !outer.later_fragment
        && vxlan_ports.contains(&outer.tuple.target_port);
    let inner = if vxlan {
        read_vxlan(outer.payload)
    } else {
        None
    };
    let outer_at = outer.end - outer.payload.len();
    let transport = match &inner {
        // Its offsets count from the start of its own IP header.
        Some(inner) => inner.transport().map(|(at, end)| {
            let base = outer_at + VXLAN_OVERHEAD;
            (base + at, base + end)
        }),
        None => outer.transport(),
    };
    Ok(View {
        outer: outer.tuple,
        inner: inner.map(|ip| ip.tuple),
        vxlan,
        dont_fragment: outer.dont_fragment,
        later_fragment: outer.later_fragment,
        icmp_error: outer.icmp_error,
        transport,
        vxlan_udp: vxlan.then_some(outer_at),
    })
}

impl View {
    /// The 5-tuple that an endpoint would name.
    pub(super) fn innermost(&self) -> &Tuple {
        self.inner.as_ref().unwrap_or(&self.outer)
    }

    pub(super) fn matches(&self, filter: Filter) -> bool {
        let icmp = |tuple: &Tuple| {
            tuple.protocol == ip_number::ICMP.0 || tuple.protocol == ip_number::IPV6_ICMP.0
        };
        match filter {
            Filter::Any => true,
            Filter::Tcp => self.outer.protocol == ip_number::TCP.0,
            Filter::Udp => self.outer.protocol == ip_number::UDP.0,
            Filter::Icmp => icmp(&self.outer),
            Filter::Vxlan => self.vxlan,
            Filter::InnerTcp => self.innermost().protocol == ip_number::TCP.0,
            // An overlay packet whose inside is not readable is not an endpoint's UDP.
            Filter::InnerUdp => {
                self.innermost().protocol == ip_number::UDP.0
                    && (!self.vxlan || self.inner.is_some())
            }
            Filter::InnerIcmp => icmp(self.innermost()),
        }
    }
}

struct Ip<'a> {
    tuple: Tuple,
    dont_fragment: bool,
    later_fragment: bool,
    icmp_error: bool,
    payload: &'a [u8],
    /// Where the payload ends, from the start of the packet.
    end: usize,
}

impl Ip<'_> {
    fn transport(&self) -> Option<(usize, usize)> {
        (!self.later_fragment).then(|| (self.end - self.payload.len(), self.end))
    }
}

/// Written out instead of taken from etherparse: its lax IPv6 extension walk (0.21) reads past the end of a cut
/// packet.
fn read_ip(packet: &[u8]) -> Result<Ip<'_>, Malformed> {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => read_ipv4(packet),
        Some(6) => read_ipv6(packet),
        _ => Err(Malformed),
    }
}

fn read_ipv4(packet: &[u8]) -> Result<Ip<'_>, Malformed> {
    let header = packet.first_chunk::<20>().ok_or(Malformed)?;
    let header_length = usize::from(header[0] & 0x0f) * 4;
    let total_length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header_length < header.len() || total_length < header_length {
        return Err(Malformed);
    }
    let payload = packet.get(header_length..total_length).ok_or(Malformed)?;
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    Ok(read_transport(
        Ipv4Addr::new(header[12], header[13], header[14], header[15]).into(),
        Ipv4Addr::new(header[16], header[17], header[18], header[19]).into(),
        IpNumber(header[9]),
        fragment & 0x4000 != 0,
        fragment & 0x1fff != 0,
        payload,
        total_length,
    ))
}

fn read_ipv6(packet: &[u8]) -> Result<Ip<'_>, Malformed> {
    let (header, rest) = packet.split_first_chunk::<40>().ok_or(Malformed)?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let mut payload = rest.get(..length).ok_or(Malformed)?;
    let address = |at: usize| {
        let octets = header[at..at + 16].try_into().map(Ipv6Addr::from_octets);
        octets.unwrap_or(Ipv6Addr::UNSPECIFIED)
    };
    let mut protocol = IpNumber(header[6]);
    let mut later_fragment = false;
    // Each step takes at least 8 bytes, so the loop ends with the packet.
    while !later_fragment {
        let length = match (protocol, payload) {
            (
                ip_number::IPV6_HEADER_HOP_BY_HOP
                | ip_number::IPV6_ROUTE_HEADER
                | ip_number::IPV6_DESTINATION_OPTIONS,
                [_, length, ..],
            ) => (usize::from(*length) + 1) * 8,
            (ip_number::AUTHENTICATION_HEADER, [_, length, ..]) => (usize::from(*length) + 2) * 4,
            (ip_number::IPV6_FRAGMENTATION_HEADER, [_, _, high, low, ..]) => {
                later_fragment = u16::from_be_bytes([*high, *low]) & 0xfff8 != 0;
                8
            }
            _ => break,
        };
        let next = *payload.first().ok_or(Malformed)?;
        payload = payload.get(length..).ok_or(Malformed)?;
        protocol = IpNumber(next);
    }
    Ok(read_transport(
        address(8).into(),
        address(24).into(),
        protocol,
        true,
        later_fragment,
        payload,
        header.len() + usize::from(u16::from_be_bytes([header[4], header[5]])),
    ))
}

fn read_transport(
    source: IpAddr,
    target: IpAddr,
    protocol: IpNumber,
    dont_fragment: bool,
    later_fragment: bool,
    payload: &[u8],
    end: usize,
) -> Ip<'_> {
    let (mut source_port, mut target_port, mut icmp_error) = (0, 0, false);
    if !later_fragment {
        match (protocol, payload) {
            (ip_number::TCP | ip_number::UDP, [a, b, c, d, ..]) => {
                source_port = u16::from_be_bytes([*a, *b]);
                target_port = u16::from_be_bytes([*c, *d]);
            }
            // Unreachable, source quench, redirect, time exceeded, parameter problem.
            (ip_number::ICMP, [kind, ..]) => icmp_error = matches!(kind, 3 | 4 | 5 | 11 | 12),
            (ip_number::IPV6_ICMP, [kind, ..]) => icmp_error = *kind < 128 || *kind == 137,
            _ => {}
        }
    }
    Ip {
        tuple: Tuple {
            source,
            target,
            protocol: protocol.0,
            source_port,
            target_port,
        },
        dont_fragment,
        later_fragment,
        icmp_error,
        payload,
        end,
    }
}

const UDP_HEADER: usize = 8;
const VXLAN_HEADER: usize = 8;
const ETHERNET_HEADER: usize = 14;
const VXLAN_OVERHEAD: usize = UDP_HEADER + VXLAN_HEADER + ETHERNET_HEADER;

fn read_vxlan(udp: &[u8]) -> Option<Ip<'_>> {
    let vxlan = udp.get(UDP_HEADER..)?;
    // The I flag says that a network identifier is present (RFC 7348).
    if vxlan.first()? & 0x08 == 0 {
        return None;
    }
    let frame = vxlan.get(VXLAN_HEADER..)?;
    match frame.get(12..ETHERNET_HEADER)? {
        [0x08, 0x00] | [0x86, 0xdd] => read_ip(frame.get(ETHERNET_HEADER..)?).ok(),
        _ => None,
    }
}

impl Tuple {
    /// The same on every platform and release: a seed and a tuple always choose the same bucket.
    pub(super) fn hash(&self, salt: u64) -> u64 {
        // FNV-1a, then the finalizer of SplitMix64 so that low bits depend on all input.
        let mut hash = 0xcbf2_9ce4_8422_2325 ^ salt;
        let mut eat = |bytes: &[u8]| {
            for byte in bytes {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        };
        for address in [self.source, self.target] {
            match address {
                IpAddr::V4(address) => eat(&address.octets()),
                IpAddr::V6(address) => eat(&address.octets()),
            }
        }
        eat(&[self.protocol]);
        eat(&self.source_port.to_be_bytes());
        eat(&self.target_port.to_be_bytes());
        finish(hash)
    }
}

/// Finalizer of SplitMix64 (Steele, Lea & Flood 2014).
pub(super) fn finish(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    const PORTS: [u16; 1] = [4789];

    #[test]
    fn reads_both_versions_and_the_inside_of_vxlan() {
        let tcp = view(&samples::tcp4(40_000, 80, 10), &PORTS).unwrap();
        assert_eq!((tcp.outer.source_port, tcp.outer.target_port), (40_000, 80));
        assert!(
            tcp.matches(Filter::Tcp) && tcp.matches(Filter::InnerTcp) && !tcp.matches(Filter::Udp)
        );
        assert!(
            !tcp.dont_fragment
                && view(&samples::udp4_df(1, 2, 10), &PORTS)
                    .unwrap()
                    .dont_fragment
        );

        let udp = view(&samples::udp6(5, 6, 10), &PORTS).unwrap();
        assert!(udp.dont_fragment && udp.matches(Filter::InnerUdp));
        assert_eq!(udp.outer.target_port, 6);

        let overlay = view(
            &samples::vxlan4(55_555, &samples::tcp4(40_000, 80, 10)),
            &PORTS,
        )
        .unwrap();
        assert_eq!(overlay.outer.source_port, 55_555);
        assert_eq!(overlay.inner, Some(tcp.outer));
        assert!(
            overlay.matches(Filter::Udp)
                && overlay.matches(Filter::Vxlan)
                && overlay.matches(Filter::InnerTcp)
        );
        assert!(!overlay.matches(Filter::InnerUdp) && !overlay.matches(Filter::Tcp));
    }

    #[test]
    fn any_bytes_are_read_or_refused() {
        let whole = samples::vxlan4(55_555, &samples::udp6(1, 2, 64));
        for end in 0..whole.len() {
            let _ = view(&whole[..end], &PORTS);
        }
        let mut state = 1;
        for _ in 0..20_000 {
            let mut bytes = whole.clone();
            for _ in 0..4 {
                state = finish(state + 1);
                let at = state as usize % bytes.len();
                bytes[at] = (state >> 32) as u8;
            }
            let _ = view(&bytes, &PORTS);
        }
        assert_eq!(view(&[], &PORTS), Err(Malformed));
        assert_eq!(view(&[0x50; 40], &PORTS), Err(Malformed));
    }

    #[test]
    fn buckets_of_tuples_are_even() {
        let mut counts = [0_u32; 8];
        for port in 0..8_000 {
            let tuple = view(&samples::tcp4(20_000 + port, 80, 0), &PORTS)
                .unwrap()
                .outer;
            counts[(tuple.hash(7) % 8) as usize] += 1;
        }
        // Binomial(8000, 1/8): standard deviation 29.6; five of them either side.
        assert!(
            counts.iter().all(|count| (852..=1148).contains(count)),
            "{counts:?}"
        );
    }
}
