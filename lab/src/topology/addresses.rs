//! Address arithmetic on prefixes of either family.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The `index`-th address of `net`, its network address being 0; `None` outside of it, and for
/// the IPv4 broadcast address.
pub(super) fn host(net: IpNet, index: u128) -> Option<IpAddr> {
    match net {
        IpNet::V4(net) => {
            let size = 1u128 << (32 - net.prefix_len());
            let last = if size > 2 { size - 1 } else { size };
            (index < last).then(|| {
                IpAddr::V4((u32::from(net.network()) + u32::try_from(index).unwrap_or(0)).into())
            })
        }
        IpNet::V6(net) => {
            let bits = 128 - u32::from(net.prefix_len());
            (bits == 128 || index < 1u128 << bits)
                .then(|| IpAddr::V6((u128::from(net.network()) + index).into()))
        }
    }
}

/// The `index`-th part of `net` when it is cut into at least `parts` equal parts: /24 and /64 as
/// Kubernetes cuts pod CIDRs, longer only if the prefix is too small for that.
pub(super) fn part(net: IpNet, index: usize, parts: usize) -> Option<IpNet> {
    let bits = u8::try_from(parts.max(1).next_power_of_two().trailing_zeros()).ok()?;
    let usual = if net.addr().is_ipv4() { 24 } else { 64 };
    let length = usual.max(net.prefix_len().checked_add(bits)?);
    let step = u128::try_from(index).ok()?;
    match net {
        IpNet::V4(net) if length <= 28 => {
            let base = u128::from(u32::from(net.network())) + (step << (32 - length));
            Some(IpNet::V4(
                Ipv4Net::new(u32::try_from(base).ok()?.into(), length).ok()?,
            ))
        }
        IpNet::V6(net) if length <= 124 => {
            let base = u128::from(net.network()) + (step << (128 - length));
            Some(IpNet::V6(Ipv6Net::new(base.into(), length).ok()?))
        }
        _ => None,
    }
}

/// IPv4 before IPv6, else in the order given.
pub(super) fn v4_first<T>(items: &mut [T], address: impl Fn(&T) -> IpAddr) {
    items.sort_by_key(|item| address(item).is_ipv6());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn hosts_stay_inside_their_prefix() {
        let cases = [
            ("192.168.15.0/24", 20, Some("192.168.15.20")),
            ("192.168.15.0/24", 254, Some("192.168.15.254")),
            ("192.168.15.0/24", 255, None),
            ("10.0.0.0/31", 1, Some("10.0.0.1")),
            ("fd41::/64", 20, Some("fd41::14")),
            ("fd41::/126", 4, None),
        ];
        for (prefix, index, expected) in cases {
            let expected = expected.map(|e| e.parse::<IpAddr>().unwrap());
            assert_eq!(host(net(prefix), index), expected, "{prefix} {index}");
        }
    }

    #[test]
    fn parts_are_the_usual_size_or_smaller_and_never_overlap() {
        let cases = [
            ("10.244.0.0/16", 0, 2, Some("10.244.0.0/24")),
            ("10.244.0.0/16", 1, 2, Some("10.244.1.0/24")),
            ("10.244.8.0/23", 1, 3, Some("10.244.8.128/25")),
            ("10.244.8.0/27", 0, 4, None),
            ("fd41:244::/48", 3, 4, Some("fd41:244:0:3::/64")),
            ("fd41:244::/64", 1, 2, Some("fd41:244:0:0:8000::/65")),
        ];
        for (prefix, index, parts, expected) in cases {
            let expected = expected.map(net);
            assert_eq!(
                part(net(prefix), index, parts),
                expected,
                "{prefix} {index}/{parts}"
            );
        }
    }
}
