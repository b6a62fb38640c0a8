//! A client and a server namespace with a fabric between them whose line every packet crosses, as in the lab, but
//! nothing else: `client —veth— fabric (line0) —veth— server`, both address families.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::line::config::{Endpoint, EndpointNode, LineConfig};
use lab::line::control::Client;
use lab::line::fault::Scope;
use lab::line::stats::{LineStats, PathCounts, Starved};
use nix::time::{ClockId, clock_gettime};

use crate::leftovers;
use crate::netns::{Netns, veth};

pub const CLIENT: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(10, 71, 0, 2),
    Ipv6Addr::new(0xfd71, 0, 0, 0, 0, 0, 0, 2),
);
pub const SERVER: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(10, 72, 0, 2),
    Ipv6Addr::new(0xfd72, 0, 0, 0, 0, 0, 0, 2),
);

/// Clusters `near` (node `client`) and `far` (node `server`).
pub struct LineRig {
    pub client: Netns,
    pub fabric: Netns,
    pub server: Netns,
    folder: PathBuf,
    process: Option<Child>,
    control: Option<Client>,
}

impl LineRig {
    /// With the line's profile and limits changed by `adjust`.
    pub fn new(adjust: impl FnOnce(&mut LineConfig)) -> Result<Self> {
        let folder = leftovers::temporary("line");
        std::fs::create_dir_all(&folder)?;
        let mut rig = Self {
            client: Netns::create("client")?,
            fabric: Netns::create("fabric")?,
            server: Netns::create("server")?,
            folder,
            process: None,
            control: None,
        };
        rig.wire()?;
        let mut config = config();
        adjust(&mut config);
        std::fs::write(
            rig.folder.join("line.json"),
            serde_json::to_string_pretty(&config)?,
        )?;
        rig.start_line()?;
        Ok(rig)
    }

    fn wire(&self) -> Result<()> {
        // No waiting for duplicate addresses: until then IPv6 neighbours do not answer.
        for namespace in [&self.client, &self.fabric, &self.server] {
            namespace.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
        }
        let fabric = &self.fabric;
        for (key, value) in [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
        ] {
            fabric.sysctl(key, value)?;
        }
        fabric.ip(&["tuntap", "add", "dev", "line0", "mode", "tun"])?;
        fabric.ip(&[
            "link",
            "set",
            "line0",
            "addrgenmode",
            "none",
            "mtu",
            "9000",
            "up",
        ])?;
        for (host, port, gateways, addresses, table, far) in [
            (
                &self.client,
                "near0",
                ["10.71.0.1/24", "fd71::1/64"],
                ["10.71.0.2/24", "fd71::2/64"],
                "101",
                ["10.72.0.0/24", "fd72::/64"],
            ),
            (
                &self.server,
                "far0",
                ["10.72.0.1/24", "fd72::1/64"],
                ["10.72.0.2/24", "fd72::2/64"],
                "102",
                ["10.71.0.0/24", "fd71::/64"],
            ),
        ] {
            veth((fabric, port, &gateways), (host, "eth0", &addresses))?;
            for (family, net, gateway) in [("-4", far[0], gateways[0]), ("-6", far[1], gateways[1])]
            {
                fabric.ip(&[family, "rule", "add", "iif", port, "lookup", table])?;
                fabric.ip(&[family, "route", "add", net, "dev", "line0", "table", table])?;
                let gateway = gateway.split('/').next().unwrap_or_default();
                host.default_route(gateway.parse()?)?;
            }
        }
        Ok(())
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("line.sock")
    }

    /// Starts the line, or another after [`LineRig::kill_line`].
    pub fn start_line(&mut self) -> Result<()> {
        let binary = binary("line")?;
        let mut command = Command::new(&binary);
        command
            .args(["--tun", "line0"])
            .arg("--config")
            .arg(self.folder.join("line.json"))
            .arg("--control")
            .arg(self.socket())
            .stdin(Stdio::null());
        let child = self.fabric.run(|| command.spawn())?;
        self.process = Some(child.with_context(|| format!("start `{}`", binary.display()))?);
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let process = self.process.as_mut().context("no line")?;
            if let Some(status) = process.try_wait()? {
                bail!("the line ended with {status}");
            }
            match Client::connect(&self.socket())
                .and_then(|mut client| client.list().map(|_| client))
            {
                Ok(client) => {
                    self.control = Some(client);
                    return Ok(());
                }
                Err(error) if Instant::now() > deadline => {
                    return Err(error).context("the line did not answer within 10 s");
                }
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// As `kill -9` does: nothing is tidied up.
    pub fn kill_line(&mut self) -> Result<()> {
        self.control = None;
        let mut process = self.process.take().context("no line")?;
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// A raw connection to the control socket.
    pub fn raw_control(&self) -> Result<UnixStream> {
        let stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(stream)
    }

    pub fn control(&mut self) -> &mut Client {
        self.control.as_mut().expect("the line is running")
    }

    /// Sets fault `id` on the way out (`near` to `far`).
    pub fn set_out(&mut self, id: &str, rule: &str) -> Result<()> {
        self.set(id, "near", "far", rule)
    }

    /// Sets fault `id` on the way back (`far` to `near`).
    pub fn set_back(&mut self, id: &str, rule: &str) -> Result<()> {
        self.set(id, "far", "near", rule)
    }

    fn set(&mut self, id: &str, source: &str, target: &str, rule: &str) -> Result<()> {
        let scope = Scope::new(source.parse()?, target.parse()?);
        let rule = rule.parse()?;
        self.control().set_fault(id, scope, rule)?;
        Ok(())
    }

    pub fn clear(&mut self) -> Result<()> {
        Ok(self.control().clear_all()?)
    }

    pub fn stats(&mut self) -> Result<LineStats> {
        Ok(self.control().stats()?)
    }

    /// Counts of the way out and back; zeroes where nothing passed yet.
    pub fn counts(&mut self) -> Result<(PathCounts, PathCounts)> {
        let stats = self.stats()?;
        let of = |source: &str, target: &str| {
            let path = stats.paths.iter().find(|path| {
                path.source.to_string() == source && path.target.to_string() == target
            });
            path.map(|path| path.counts.clone()).unwrap_or_default()
        };
        Ok((
            of("near/client", "far/server"),
            of("far/server", "near/client"),
        ))
    }

    /// Fails if the line itself lost anything, or cannot say where a packet went.
    pub fn ensure_sound(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut stats = self.stats()?;
        while stats.queued_packets > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
            stats = self.stats()?;
        }
        let counters = &stats.counters;
        ensure!(
            stats.device_dropped == Some(0)
                && counters.unknown == 0
                && counters.malformed == 0
                && counters.write_errors == 0
                && counters.read_errors == 0,
            "the line lost packets of its own accord: {stats:#?}"
        );
        for path in &stats.paths {
            let c = &path.counts;
            ensure!(
                c.packets + c.duplicated + c.fragments - c.fragmented
                    == c.delivered + c.dropped.total(),
                "packets are missing from the books: {path:#?}"
            );
        }
        Ok(())
    }

    pub fn client_address(&self, ipv6: bool) -> IpAddr {
        pick(CLIENT, ipv6)
    }

    pub fn server_address(&self, ipv6: bool) -> IpAddr {
        pick(SERVER, ipv6)
    }

    pub fn server_at(&self, ipv6: bool, port: u16) -> SocketAddr {
        SocketAddr::new(self.server_address(ipv6), port)
    }
}

impl Drop for LineRig {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Already ended at the worst; then both are harmless.
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn pick(addresses: (Ipv4Addr, Ipv6Addr), ipv6: bool) -> IpAddr {
    if ipv6 {
        addresses.1.into()
    } else {
        addresses.0.into()
    }
}

fn config() -> LineConfig {
    let endpoint =
        |name: &str, networks: [&str; 2], node: &str, addresses: (Ipv4Addr, Ipv6Addr)| Endpoint {
            name: name.to_owned(),
            networks: networks
                .iter()
                .map(|text| text.parse().expect("network"))
                .collect(),
            nodes: vec![EndpointNode {
                name: node.to_owned(),
                addresses: vec![addresses.0.into(), addresses.1.into()],
                networks: Vec::new(),
            }],
            behind: None,
        };
    let mut config = LineConfig::new(vec![
        endpoint("near", ["10.71.0.0/24", "fd71::/64"], "client", CLIENT),
        endpoint("far", ["10.72.0.0/24", "fd72::/64"], "server", SERVER),
    ]);
    config.seed = 1;
    config
}

/// A binary of this package beside the running test or bench.
fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("no binary `{name}` beside `{}`", own.display()))
}

/// What to add to CLOCK_MONOTONIC to get CLOCK_REALTIME, in nanoseconds: packet stamps use the one, the line the
/// other.
pub fn realtime_offset() -> Result<i64> {
    let read = |clock| -> Result<i64> {
        let time = clock_gettime(clock)?;
        Ok(time.tv_sec() * 1_000_000_000 + time.tv_nsec())
    };
    // The closest of a few pairs: one may have been interrupted between its readings.
    let mut best = (i64::MAX, 0);
    for _ in 0..16 {
        let before = read(ClockId::CLOCK_MONOTONIC)?;
        let wall = read(ClockId::CLOCK_REALTIME)?;
        let after = read(ClockId::CLOCK_MONOTONIC)?;
        best = best.min((after - before, wall - (before + after) / 2));
    }
    Ok(best.1)
}

/// Whether the line was starved at any time between two stamps of a capture.
pub fn starved_between(starved: &Starved, offset: i64, from_ns: u64, to_ns: u64) -> bool {
    starved.overlaps(
        from_ns.saturating_add_signed(-offset),
        to_ns.saturating_add_signed(-offset),
    )
}

/// Order statistics of a sample, in microseconds.
pub struct Quantiles {
    pub count: usize,
    pub min: f64,
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Quantiles {
    /// `None` of nothing.
    pub fn of(mut sample: Vec<f64>) -> Option<Self> {
        sample.sort_by(f64::total_cmp);
        let at = |q: f64| sample[((sample.len() - 1) as f64 * q).round() as usize];
        let count = sample.len();
        (count > 0).then(|| Self {
            count,
            min: at(0.0),
            p50: at(0.5),
            p99: at(0.99),
            max: at(1.0),
        })
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "n {}, min {:.0}, p50 {:.0}, p99 {:.0}, max {:.0} µs",
            self.count, self.min, self.p50, self.p99, self.max
        )
    }
}

/// Why the rig cannot be built here, with the fix.
pub fn missing() -> Option<String> {
    crate::netns::missing().or_else(|| {
        (!std::path::Path::new("/dev/net/tun").exists())
            .then(|| "/dev/net/tun is missing; load the kernel module `tun`".to_owned())
    })
}
