//! How single values are spelt: networks, addresses, names, shares, durations, agents.

use std::net::IpAddr;

use ipnet::IpNet;

use super::fields::{Fields, Refusal, Report, text};
use crate::errors::shown;
use crate::spec::At;
use crate::tree::{Kind, Value};
use crate::units::{parse_duration, parse_percent, parse_rate};
use crate::{Affinity, AgentEndpoint, ServiceKind};

impl Fields {
    pub(super) fn share(&mut self, report: &mut Report, key: &'static str) -> Option<At<f64>> {
        let (value, path) = self.take(report, key)?;
        if matches!(value.kind, Kind::Integer(_) | Kind::Float(_)) {
            let message = format!("expected a share such as `99%`, saw {}", value.saw());
            report
                .push(value.at, &path, message)
                .hint("write it with a percent sign");
            return None;
        }
        text(report, value, path, |text| {
            parse_percent(text).ok_or_else(|| {
                Refusal::with_hint(
                    format!("`{}` is not a share", shown(text)),
                    "write a percentage such as `99.9%`",
                )
            })
        })
    }
}

pub(super) fn duration(text: &str) -> Result<f64, Refusal> {
    parse_duration(text).ok_or_else(|| {
        Refusal::with_hint(
            format!("`{}` is not a duration", shown(text)),
            "write a number with `us`, `ms` or `s`, such as `50ms`",
        )
    })
}

/// Bit/s.
pub(super) fn rate(text: &str) -> Result<f64, Refusal> {
    parse_rate(text).ok_or_else(|| {
        Refusal::with_hint(
            format!("`{}` is not a rate", shown(text)),
            "write a number with `kbit`, `Mbit` or `Gbit`, per second, such as `100Mbit`",
        )
    })
}

pub(super) fn network(report: &mut Report, value: Value, path: String) -> Option<At<IpNet>> {
    text(report, value, path, |text| {
        let seen = shown(text);
        let net = match (text.parse::<IpNet>(), text.parse::<IpAddr>()) {
            (Ok(net), _) => net,
            (_, Ok(address)) => {
                return Err(Refusal::with_hint(
                    format!("`{seen}` is an address, not a network"),
                    format!("write `{}` for this address alone", IpNet::from(address)),
                ));
            }
            _ => {
                return Err(Refusal::with_hint(
                    format!("`{seen}` is not a network"),
                    "write an address and a prefix length, such as `10.244.0.0/16`",
                ));
            }
        };
        if net.trunc() != net {
            return Err(Refusal::with_hint(
                format!("`{seen}` has bits set behind its prefix length"),
                format!("write `{}`", net.trunc()),
            ));
        }
        if net.prefix_len() == 0 {
            return Err(Refusal::new(format!("`{seen}` covers every address")));
        }
        if let Some(reason) = unusable(net.addr()) {
            return Err(Refusal::new(format!("`{seen}` {reason}")));
        }
        Ok(net)
    })
}

pub(super) fn address(report: &mut Report, value: Value, path: String) -> Option<At<IpAddr>> {
    text(report, value, path, |text| {
        let seen = shown(text);
        let address: IpAddr = text.parse().map_err(|_| match text.parse::<IpNet>() {
            Ok(net) => Refusal::with_hint(
                format!("`{seen}` is a network, not an address"),
                format!("write `{}`", net.addr()),
            ),
            Err(_) => Refusal::new(format!("`{seen}` is not an IPv4 or IPv6 address")),
        })?;
        match unusable(address) {
            Some(reason) => Err(Refusal::new(format!("`{seen}` {reason}"))),
            None => Ok(address),
        }
    })
}

/// Why nobody else can be reached at `address`.
fn unusable(address: IpAddr) -> Option<&'static str> {
    if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        Some("is an IPv4 address in IPv6 dress; write it as IPv4")
    } else if address.is_loopback() {
        Some("is a loopback address, which means every machine itself")
    } else if address.is_unspecified() {
        Some("is the unspecified address, which names nobody")
    } else if address.is_multicast() {
        Some("is a multicast address, which names no single machine")
    } else {
        None
    }
}

pub(super) fn endpoint(text: &str) -> Result<AgentEndpoint, Refusal> {
    text.parse().map_err(|error| {
        Refusal::with_hint(
            format!("`{}` is not the address of an agent: {error}", shown(text)),
            "write `https://host:port`, `unix:/path` or `http://127.0.0.1:port`",
        )
    })
}

pub(super) fn affinity(text: &str) -> Result<Affinity, Refusal> {
    match text {
        "none" => Ok(Affinity::None),
        "local" => Ok(Affinity::Local),
        "remote" => Ok(Affinity::Remote),
        _ => Err(Refusal::with_hint(
            format!("`{}` is not an affinity", shown(text)),
            "as in Cilium: `none`, `local` or `remote`",
        )),
    }
}

pub(super) fn service_kind(text: &str) -> Result<ServiceKind, Refusal> {
    match text {
        "tcp" => Ok(ServiceKind::Tcp),
        "http" => Ok(ServiceKind::Http),
        "ndvi" => Ok(ServiceKind::Ndvi),
        _ => Err(Refusal::with_hint(
            format!("`{}` is not a kind of service", shown(text)),
            "the kinds are `tcp`, `http` and `ndvi`",
        )),
    }
}

pub(super) fn not_empty(text: &str) -> Result<String, Refusal> {
    if text.is_empty() || text.contains(|c: char| c.is_control()) {
        return Err(Refusal::new(format!(
            "`{}` is empty or has control characters",
            shown(text)
        )));
    }
    Ok(text.to_owned())
}

pub(super) fn cluster_name(text: &str) -> Result<String, Refusal> {
    let name = dns_label(text)?;
    if name.len() > 32 {
        return Err(Refusal::new(format!(
            "`{name}` has {} characters; Cilium allows a cluster name 32",
            name.len()
        )));
    }
    Ok(name)
}

pub(super) fn dns_label(text: &str) -> Result<String, Refusal> {
    if is_dns_label(text) {
        return Ok(text.to_owned());
    }
    let refusal = format!("`{}` is not a DNS label", shown(text));
    let lower = text.to_ascii_lowercase().replace(['_', ' ', '.'], "-");
    Err(if is_dns_label(&lower) {
        Refusal::with_hint(refusal, format!("write `{lower}`"))
    } else {
        Refusal::with_hint(
            refusal,
            "use lower-case letters, digits and `-` inside, at most 63 characters",
        )
    })
}

pub(super) fn dns_name(text: &str) -> Result<String, Refusal> {
    if text.len() <= 253 && text.split('.').all(is_dns_label) {
        return Ok(text.to_owned());
    }
    Err(Refusal::with_hint(
        format!("`{}` is not a DNS name", shown(text)),
        "use labels of lower-case letters, digits and `-`, joined by dots",
    ))
}

fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_labels() {
        for good in ["a", "talos-east", "0", "a-0-b", &"x".repeat(63)] {
            assert!(is_dns_label(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "ä", &"x".repeat(64)] {
            assert!(!is_dns_label(bad), "{bad}");
        }
    }
}
