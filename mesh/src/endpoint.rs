//! Addresses of agents as text: `unix:/path`, `https://host:port`, `http://127.0.0.1:port`.

use std::net::{Ipv6Addr, SocketAddr};

use crate::AgentEndpoint;

/// Longest path of a unix socket that Linux accepts, in bytes.
const MAX_UNIX_PATH: usize = 107;

/// Why a text is not the address of an agent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    #[error("it begins neither with `unix:/` nor with `https://` nor with `http://`")]
    Scheme,
    #[error("the path of a unix socket is absolute and has at most {MAX_UNIX_PATH} bytes")]
    UnixPath,
    #[error(
        "`host:port` is expected behind `//`, with a port from 1 to 65535 and nothing after it"
    )]
    HostPort,
    #[error("plain `http` is only for a loopback address such as `127.0.0.1`")]
    NotLoopback,
}

impl std::str::FromStr for AgentEndpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if let Some(path) = text.strip_prefix("unix:") {
            let plain = path.starts_with('/') && !path.contains(|c: char| c.is_control());
            return if plain && path.len() <= MAX_UNIX_PATH {
                Ok(Self::Unix(path.to_owned()))
            } else {
                Err(EndpointError::UnixPath)
            };
        }
        if let Some(rest) = text.strip_prefix("http://") {
            let address = rest.parse::<SocketAddr>().ok();
            return match address {
                Some(address) if address.port() == 0 => Err(EndpointError::HostPort),
                Some(address) if address.ip().to_canonical().is_loopback() => {
                    Ok(Self::HttpLoopback(address))
                }
                Some(_) => Err(EndpointError::NotLoopback),
                None if rest.contains(':') && !rest.contains('/') => {
                    Err(EndpointError::NotLoopback)
                }
                None => Err(EndpointError::HostPort),
            };
        }
        let rest = text.strip_prefix("https://").ok_or(EndpointError::Scheme)?;
        let (host, port) = rest.rsplit_once(':').ok_or(EndpointError::HostPort)?;
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse().ok().filter(|&port: &u16| digits && port != 0);
        let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(inner) => inner.parse::<Ipv6Addr>().ok().map(|_| inner),
            None => is_host_name(host).then_some(host),
        };
        match (host, port) {
            (Some(host), Some(port)) => Ok(Self::Https {
                host: host.to_owned(),
                port,
            }),
            _ => Err(EndpointError::HostPort),
        }
    }
}

/// A DNS name or an IPv4 address.
fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    host.len() <= 253 && host.split('.').all(label)
}

/// As it is written in `mesh.yaml`, as far as it can be; an IPv6 host is put in brackets.
impl std::fmt::Display for AgentEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{path}"),
            Self::Https { host, port } if host.contains(':') => {
                write!(f, "https://[{host}]:{port}")
            }
            Self::Https { host, port } => write!(f, "https://{host}:{port}"),
            Self::HttpLoopback(address) => write!(f, "http://{address}"),
            Self::Pod {
                namespace,
                pod,
                port,
                ..
            } => write!(f, "pod {namespace}/{pod}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_and_written_alike() {
        for text in [
            "unix:/run/aggrik8s/agents/cp-e-1.sock",
            "https://192.168.15.21:7400",
            "https://agent.talos-east.example:443",
            "https://[fd15::21]:7400",
            "http://127.0.0.1:7400",
            "http://127.8.0.1:1",
            "http://[::1]:65535",
        ] {
            let endpoint: AgentEndpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), text);
        }
        let host = |text: &str| match text.parse() {
            Ok(AgentEndpoint::Https { host, port: 1 }) => host,
            other => panic!("{other:?}"),
        };
        assert_eq!(host("https://[fd15::21]:1"), "fd15::21");
    }

    #[test]
    fn other_texts_are_refused_with_their_reason() {
        let long = format!("unix:/{}", "x".repeat(107));
        for (text, reason) in [
            ("", EndpointError::Scheme),
            ("ftp://h:1", EndpointError::Scheme),
            ("192.168.15.21:7400", EndpointError::Scheme),
            ("unix:relative.sock", EndpointError::UnixPath),
            ("unix:", EndpointError::UnixPath),
            ("unix:/a\0b", EndpointError::UnixPath),
            (&long, EndpointError::UnixPath),
            ("https://host", EndpointError::HostPort),
            ("https://host:0", EndpointError::HostPort),
            ("https://host:65536", EndpointError::HostPort),
            ("https://host:+1", EndpointError::HostPort),
            ("https://host:1/path", EndpointError::HostPort),
            ("https://user@host:1", EndpointError::HostPort),
            ("https://:1", EndpointError::HostPort),
            ("https://fd15::21:1", EndpointError::HostPort),
            ("https://[nonsense]:1", EndpointError::HostPort),
            ("http://127.0.0.1", EndpointError::HostPort),
            ("http://127.0.0.1:0", EndpointError::HostPort),
            ("http://127.0.0.1:1/x", EndpointError::HostPort),
            ("http://192.168.15.21:7400", EndpointError::NotLoopback),
            ("http://localhost:7400", EndpointError::NotLoopback),
        ] {
            assert_eq!(text.parse::<AgentEndpoint>(), Err(reason), "{text}");
        }
    }
}
