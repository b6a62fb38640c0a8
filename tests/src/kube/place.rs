//! Where a cluster's processes are: on this machine's loopback, or in a network namespace that a test made.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::Arc;

use anyhow::Result;

use crate::netns::Netns;

/// Loopback needs no root; nodes need a network of their own.
#[derive(Clone)]
pub enum Place {
    Loopback,
    /// With the address that the API server listens on, and the kubelet where there is a node.
    Network(Arc<Netns>, IpAddr),
}

impl Place {
    pub fn ip(&self) -> IpAddr {
        match self {
            Self::Loopback => Ipv4Addr::LOCALHOST.into(),
            Self::Network(_, ip) => *ip,
        }
    }

    /// `program`, to be started there. A process of it is the program itself, with its pid.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        match self {
            Self::Loopback => Command::new(program),
            Self::Network(network, _) => {
                // `ip netns exec` would mount another /sys.
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", network.path()));
                command.arg(program);
                command
            }
        }
    }

    /// Runs `work` there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        match self {
            Self::Loopback => work(),
            Self::Network(network, _) => network.run(work)?,
        }
    }
}
