//! One form for every address: 16 bytes in network byte order, IPv4 as `::ffff:a.b.c.d`, held as four
//! words because byte arrays become loops in the programs, which the verifier refuses without PERFMON.

/// An IPv6 address, or an IPv4 address mapped into it. In memory: network byte order.
pub type Address = [u32; 4];

/// Bits in front of the IPv4 part; an IPv4 prefix of length `n` is stored with `n + V4_BITS`.
pub const V4_BITS: u32 = 96;

/// The unspecified address; as a [`crate::ServiceKey`] it means "at any address".
pub const ANY: Address = [0; 4];

/// From the four bytes of an IPv4 address in network order.
pub const fn from_v4(octets: [u8; 4]) -> Address {
    from_v4_field(u32::from_ne_bytes(octets))
}

/// From a context field that holds an IPv4 address in network byte order.
#[inline(always)]
pub const fn from_v4_field(field: u32) -> Address {
    [0, 0, 0xffff_u32.to_be(), field]
}

/// From the 16 bytes of an address.
pub const fn from_octets(at: [u8; 16]) -> Address {
    [
        u32::from_ne_bytes([at[0], at[1], at[2], at[3]]),
        u32::from_ne_bytes([at[4], at[5], at[6], at[7]]),
        u32::from_ne_bytes([at[8], at[9], at[10], at[11]]),
        u32::from_ne_bytes([at[12], at[13], at[14], at[15]]),
    ]
}

/// The 16 bytes of an address.
pub const fn octets(address: Address) -> [u8; 16] {
    let [a, b, c, d] = [
        address[0].to_ne_bytes(),
        address[1].to_ne_bytes(),
        address[2].to_ne_bytes(),
        address[3].to_ne_bytes(),
    ];
    [
        a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2],
        d[3],
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn v4_is_mapped_as_the_standard_library_maps_it() {
        let v4 = Ipv4Addr::new(192, 168, 15, 3);
        assert_eq!(octets(from_v4(v4.octets())), v4.to_ipv6_mapped().octets());
    }

    #[test]
    fn octets_keep_network_order() {
        let v6: Ipv6Addr = "fd00:1:2:3:4:5:6:7".parse().unwrap();
        assert_eq!(octets(from_octets(v6.octets())), v6.octets());
        assert_eq!(u32::from_be(from_octets(v6.octets())[0]), 0xfd00_0001);
    }
}
