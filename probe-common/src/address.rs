//! One form for every address: 16 bytes in network byte order, IPv4 as `::ffff:a.b.c.d`.

/// An IPv6 address, or an IPv4 address mapped into it. Network byte order.
pub type Address = [u8; 16];

/// Bits in front of the IPv4 part; an IPv4 prefix of length `n` is stored with `n + V4_BITS`.
pub const V4_BITS: u32 = 96;

/// The unspecified address; as a [`crate::ServiceKey`] it means "at any address".
pub const ANY: Address = [0; 16];

/// From the four bytes of an IPv4 address in network order.
#[inline(always)]
pub const fn from_v4(octets: [u8; 4]) -> Address {
    let [a, b, c, d] = octets;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// From a context field that holds an IPv4 address in network byte order.
#[inline(always)]
pub const fn from_v4_field(field: u32) -> Address {
    from_v4(field.to_ne_bytes())
}

/// From the four words of a context's IPv6 address, each in network byte order.
#[inline(always)]
pub const fn from_v6_fields(fields: [u32; 4]) -> Address {
    let [a, b, c, d] = [
        fields[0].to_ne_bytes(),
        fields[1].to_ne_bytes(),
        fields[2].to_ne_bytes(),
        fields[3].to_ne_bytes(),
    ];
    [
        a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2],
        d[3],
    ]
}

/// The other way round of [`from_v6_fields`].
#[inline(always)]
pub const fn to_fields(at: &Address) -> [u32; 4] {
    [
        u32::from_ne_bytes([at[0], at[1], at[2], at[3]]),
        u32::from_ne_bytes([at[4], at[5], at[6], at[7]]),
        u32::from_ne_bytes([at[8], at[9], at[10], at[11]]),
        u32::from_ne_bytes([at[12], at[13], at[14], at[15]]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn v4_is_mapped_as_the_standard_library_maps_it() {
        let v4 = Ipv4Addr::new(192, 168, 15, 3);
        assert_eq!(from_v4(v4.octets()), v4.to_ipv6_mapped().octets());
        assert_eq!(
            from_v4_field(u32::from_ne_bytes(v4.octets())),
            v4.to_ipv6_mapped().octets()
        );
    }

    #[test]
    fn v6_words_keep_network_order() {
        let v6: Ipv6Addr = "fd00:1:2:3:4:5:6:7".parse().unwrap();
        let octets = v6.octets();
        let words = core::array::from_fn(|i| {
            u32::from_ne_bytes(octets[i * 4..i * 4 + 4].try_into().unwrap())
        });
        assert_eq!(from_v6_fields(words), octets);
        assert_eq!(to_fields(&octets), words);
    }
}
