//! Two network namespaces and two nested cgroups around both: a storm's client at one end of a veth pair,
//! its servers at the other, on one address (and family) per remote cluster.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;

use crate::cgroup::Cgroup;
use crate::netns::{Netns, veth};
use crate::storm::{ClientPlan, ClientReport, Plan, Process, ServerPlan, ServerReport};

/// Where nobody listens.
pub const CLOSED_PORT: u16 = 9;

pub struct Rig {
    /// Where every process of a storm lives. Dropped before its parent.
    pub inner: Cgroup,
    /// The parent: programs attached here see them too.
    pub cgroup: Cgroup,
    pub client: Netns,
    pub server: Netns,
    remotes: u8,
}

impl Rig {
    /// The client's own network.
    pub const HOME: (Ipv4Addr, Ipv6Addr) = (
        Ipv4Addr::new(10, 200, 0, 1),
        Ipv6Addr::new(0xfd00, 0xc8, 0, 0, 0, 0, 0, 1),
    );

    pub fn new(label: &str, remotes: u8) -> Result<Self> {
        let cgroup = Cgroup::create(label)?;
        let rig = Self {
            inner: Cgroup::below(cgroup.path(), "inner")?,
            cgroup,
            client: Netns::create("client")?,
            server: Netns::create("server")?,
            remotes,
        };
        veth((&rig.client, "eth0", &[]), (&rig.server, "eth0", &[]))?;
        for (namespace, own, other) in [
            (&rig.client, vec![0], (1..=remotes).collect::<Vec<_>>()),
            (&rig.server, (1..=remotes).collect(), vec![0]),
        ] {
            for index in own {
                let (v4, v6) = Self::addresses(index);
                namespace.address("eth0", &format!("{v4}/32"))?;
                namespace.address("eth0", &format!("{v6}/128"))?;
            }
            for index in other {
                let (v4, v6) = Self::networks(index);
                namespace.ip(&["route", "add", &v4, "dev", "eth0"])?;
                namespace.ip(&["-6", "route", "add", &v6, "dev", "eth0"])?;
            }
        }
        Ok(rig)
    }

    pub fn remotes(&self) -> u8 {
        self.remotes
    }

    /// Addresses of remote `index` from 1, or of the client (0).
    pub fn addresses(index: u8) -> (Ipv4Addr, Ipv6Addr) {
        let (mut v4, mut v6) = (Self::HOME.0.octets(), Self::HOME.1.segments());
        v4[1] += index;
        v6[1] += u16::from(index);
        (v4.into(), v6.into())
    }

    /// The networks (IPv4 /24, IPv6 /64) of a remote, or of the client.
    pub fn networks(index: u8) -> (String, String) {
        let (v4, v6) = Self::addresses(index);
        let [a, b, c, _] = v4.octets();
        let [g, h, ..] = v6.segments();
        (format!("{a}.{b}.{c}.0/24"), format!("{g:x}:{h:x}::/64"))
    }

    /// Every remote address of both families with `port`.
    pub fn targets(&self, port: u16) -> Vec<SocketAddr> {
        (1..=self.remotes)
            .map(Self::addresses)
            .flat_map(|(v4, v6)| [IpAddr::from(v4), v6.into()])
            .map(|address| SocketAddr::new(address, port))
            .collect()
    }

    /// Servers for all remotes at `port`, inside the cgroup.
    pub fn serve(&self, port: u16, threads: usize, hold: bool) -> Result<Process> {
        let plan = ServerPlan {
            listen: vec![
                (Ipv4Addr::UNSPECIFIED, port).into(),
                (Ipv6Addr::UNSPECIFIED, port).into(),
            ],
            threads,
            hold,
        };
        Process::start(
            Some(&self.server),
            Some(self.inner.path()),
            &Plan::Serve(plan),
        )
    }

    /// A client that waits for `go`, inside the cgroup.
    pub fn connect(&self, plan: &ClientPlan) -> Result<Process> {
        Process::start(
            Some(&self.client),
            Some(self.inner.path()),
            &Plan::Connect(plan.clone()),
        )
    }

    /// Runs a whole storm and ends both processes; every connection is closed when it returns.
    pub fn storm(&self, plan: &ClientPlan) -> Result<(ClientReport, ServerReport)> {
        let mut server = self.serve(plan.targets[0].port(), plan.threads + 4, plan.hold)?;
        let mut client = self.connect(plan)?;
        client.go()?;
        let report = client.client_report()?;
        client.release()?;
        let served = server.server_report()?;
        server.release()?;
        Ok((report, served))
    }
}
