//! One form for every address: 16 bytes in network byte order, IPv4 as `::ffff:a.b.c.d`, held as two
//! words because the programs must build keys on the stack from whole words: kernels like 6.1 refuse
//! narrower writes next to each other to a loader without PERFMON.

/// An IPv6 address, or an IPv4 address mapped into it. In memory: network byte order.
pub type Address = [u64; 2];

/// Bits in front of the IPv4 part; an IPv4 prefix of length `n` is stored with `n + V4_BITS`.
pub const V4_BITS: u32 = 96;

/// The unspecified address; as a [`crate::ServiceKey`] it means "at any address".
pub const ANY: Address = [0; 2];

// `words` puts the first field into the low half.
const _: () = assert!(cfg!(target_endian = "little"));

/// From the four bytes of an IPv4 address in network order.
pub const fn from_v4(octets: [u8; 4]) -> Address {
    from_v4_field(u32::from_ne_bytes(octets))
}

/// From a context field that holds an IPv4 address in network byte order.
#[inline(always)]
pub const fn from_v4_field(field: u32) -> Address {
    from_fields([0, 0, 0xffff_u32.to_be(), field])
}

/// From the four words of a context's IPv6 address, each in network byte order.
#[inline(always)]
pub const fn from_fields(fields: [u32; 4]) -> Address {
    [
        fields[0] as u64 | (fields[1] as u64) << 32,
        fields[2] as u64 | (fields[3] as u64) << 32,
    ]
}

/// From the 16 bytes of an address.
pub const fn from_octets(at: [u8; 16]) -> Address {
    [
        u64::from_ne_bytes([at[0], at[1], at[2], at[3], at[4], at[5], at[6], at[7]]),
        u64::from_ne_bytes([at[8], at[9], at[10], at[11], at[12], at[13], at[14], at[15]]),
    ]
}

/// The 16 bytes of an address.
pub const fn octets(address: Address) -> [u8; 16] {
    let [a, b] = [address[0].to_ne_bytes(), address[1].to_ne_bytes()];
    [
        a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], b[0], b[1], b[2], b[3], b[4], b[5], b[6],
        b[7],
    ]
}

/// The key under which the trie of prefixes is asked for an address: the length 128 in 4 bytes, then the 16 of the
/// address; the last 4 bytes are not part of it.
#[inline(always)]
pub const fn trie_key(at: Address) -> [u64; 3] {
    [128 | at[0] << 32, at[0] >> 32 | at[1] << 32, at[1] >> 32]
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
    fn octets_and_fields_keep_network_order() {
        let v6: Ipv6Addr = "fd00:1:2:3:4:5:6:7".parse().unwrap();
        let octets_of = v6.octets();
        assert_eq!(octets(from_octets(octets_of)), octets_of);
        let fields = core::array::from_fn(|i| {
            u32::from_ne_bytes(octets_of[i * 4..i * 4 + 4].try_into().unwrap())
        });
        assert_eq!(from_fields(fields), from_octets(octets_of));
    }

    #[test]
    fn the_trie_key_is_a_length_and_the_address() {
        let v6: Ipv6Addr = "fd00:1:2:3:4:5:6:7".parse().unwrap();
        let words = trie_key(from_octets(v6.octets()));
        let bytes: [u8; 24] = core::array::from_fn(|i| words[i / 8].to_ne_bytes()[i % 8]);
        assert_eq!(bytes[..4], 128_u32.to_ne_bytes());
        assert_eq!(bytes[4..20], v6.octets());
    }
}
