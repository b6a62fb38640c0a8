//! Packets that unit tests push through the line, built by etherparse.

use super::config::{Endpoint, EndpointNode, LineConfig};
use etherparse::{IpHeaders, Ipv4Header, Ipv6Header, PacketBuilder, ip_number};

pub(crate) const EAST: [u8; 4] = [192, 168, 15, 11];
pub(crate) const WEST: [u8; 4] = [192, 168, 20, 11];
pub(crate) const EAST6: [u8; 16] = [0xfd, 0, 0, 15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11];
pub(crate) const WEST6: [u8; 16] = [0xfd, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11];

/// Bytes that differ from their neighbours, so that misplaced ones show.
pub(crate) fn payload(len: usize) -> Vec<u8> {
    (0..len)
        .map(|index| (index * 7 + index / 251) as u8)
        .collect()
}

fn header4(dont_fragment: bool) -> Ipv4Header {
    let mut header = Ipv4Header::new(0, 63, ip_number::UDP, EAST, WEST).expect("empty payload");
    header.dont_fragment = dont_fragment;
    header.identification = 0x1234;
    header
}

fn build_udp(ip: IpHeaders, source_port: u16, target_port: u16, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ip(ip).udp(source_port, target_port);
    let mut packet = Vec::with_capacity(builder.size(payload.len()));
    builder
        .write(&mut packet, payload)
        .expect("writing to memory");
    packet
}

pub(crate) fn udp4(source_port: u16, target_port: u16, len: usize) -> Vec<u8> {
    build_udp(
        IpHeaders::Ipv4(header4(false), Default::default()),
        source_port,
        target_port,
        &payload(len),
    )
}

pub(crate) fn udp4_df(source_port: u16, target_port: u16, len: usize) -> Vec<u8> {
    build_udp(
        IpHeaders::Ipv4(header4(true), Default::default()),
        source_port,
        target_port,
        &payload(len),
    )
}

/// With record route (not copied to later fragments) and router alert (copied) as options.
pub(crate) fn udp4_options(len: usize) -> Vec<u8> {
    let mut header = header4(false);
    header.options = [7, 7, 4, 0, 0, 0, 0, 148, 4, 0, 0, 0].into();
    build_udp(
        IpHeaders::Ipv4(header, Default::default()),
        1,
        2,
        &payload(len),
    )
}

pub(crate) fn udp6(source_port: u16, target_port: u16, len: usize) -> Vec<u8> {
    let header = Ipv6Header {
        hop_limit: 63,
        source: EAST6,
        destination: WEST6,
        ..Default::default()
    };
    build_udp(
        IpHeaders::Ipv6(header, Default::default()),
        source_port,
        target_port,
        &payload(len),
    )
}

pub(crate) fn tcp4(source_port: u16, target_port: u16, len: usize) -> Vec<u8> {
    let ip = IpHeaders::Ipv4(header4(false), Default::default());
    let builder = PacketBuilder::ip(ip).tcp(source_port, target_port, 1, 64_000);
    let payload = payload(len);
    let mut packet = Vec::with_capacity(builder.size(payload.len()));
    builder
        .write(&mut packet, &payload)
        .expect("writing to memory");
    packet
}

/// `inner` is a whole IP packet; the outer addresses are those of the nodes.
pub(crate) fn vxlan4(source_port: u16, inner: &[u8]) -> Vec<u8> {
    let mut content = vec![0x08, 0, 0, 0, 0, 0, 1, 0];
    content.extend_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    content.extend_from_slice(if inner[0] >> 4 == 4 {
        &[0x08, 0x00]
    } else {
        &[0x86, 0xdd]
    });
    content.extend_from_slice(inner);
    build_udp(
        IpHeaders::Ipv4(header4(false), Default::default()),
        source_port,
        4789,
        &content,
    )
}

/// Clusters `east` (nodes e-1, e-2) and `west` (w-1), and the client `drones`.
pub(crate) fn config() -> LineConfig {
    let node = |name: &str, addresses: &[&str], networks: &[&str]| EndpointNode {
        name: name.to_owned(),
        addresses: addresses
            .iter()
            .map(|text| text.parse().expect("address"))
            .collect(),
        networks: networks
            .iter()
            .map(|text| text.parse().expect("network"))
            .collect(),
    };
    let endpoint = |name: &str, networks: &[&str], nodes| Endpoint {
        name: name.to_owned(),
        networks: networks
            .iter()
            .map(|text| text.parse().expect("network"))
            .collect(),
        nodes,
        behind: None,
    };
    let mut config = LineConfig::new(vec![
        endpoint(
            "east",
            &["192.168.15.0/24", "fd00:f::/64"],
            vec![
                node("e-1", &["192.168.15.11", "fd00:f::11"], &["10.244.1.0/24"]),
                node("e-2", &["192.168.15.12", "fd00:f::12"], &[]),
            ],
        ),
        endpoint(
            "west",
            &["192.168.20.0/24", "fd00:14::/64"],
            vec![node("w-1", &["192.168.20.11", "fd00:14::11"], &[])],
        ),
        endpoint("drones", &["192.168.50.0/24"], Vec::new()),
    ]);
    config.seed = 1;
    config
}
