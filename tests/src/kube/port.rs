//! TCP ports that are ours before a server listens on them, and stay ours while it restarts.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

/// A free port, held by a bound socket that never listens: the kernel gives it to nobody else, a server with
/// `SO_REUSEPORT` of the same user may listen on it, and without one connections are refused.
pub struct Port {
    address: SocketAddr,
    _held: Socket,
}

impl Port {
    pub fn hold(ip: IpAddr) -> Result<Self> {
        let any = SocketAddr::new(ip, 0);
        let socket = Socket::new(Domain::for_address(any), Type::STREAM, None)?;
        socket.set_reuse_port(true)?;
        socket
            .bind(&any.into())
            .with_context(|| format!("bind a port of {ip}"))?;
        let address = socket.local_addr()?.as_socket();
        Ok(Self {
            address: address.context("a TCP socket has an address")?,
            _held: socket,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
