//! Network namespaces and veth pairs for tests.

use std::fs::File;
use std::net::IpAddr;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};

use crate::leftovers;

const FOLDER: &str = "/run/netns";

/// A network namespace with its loopback up; removed on drop.
pub struct Netns {
    name: String,
    file: File,
}

impl Netns {
    pub fn create(label: &str) -> Result<Self> {
        let name = leftovers::name(label);
        ip(&["netns", "add", &name])?;
        let path = format!("{FOLDER}/{name}");
        let file = File::open(&path).with_context(|| format!("open `{path}`"))?;
        let namespace = Self { name, file };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// `/run/netns/<name>`.
    pub fn path(&self) -> String {
        format!("{FOLDER}/{}", self.name)
    }

    /// Runs `work` on a thread inside this namespace. Sockets it opens and processes it spawns stay
    /// there; the caller does not move.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            scope
                .spawn(|| -> Result<T> {
                    setns(&self.file, CloneFlags::CLONE_NEWNET)
                        .with_context(|| format!("enter `{}`", self.name))?;
                    Ok(work())
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// `ip` inside this namespace.
    pub fn ip(&self, args: &[&str]) -> Result<String> {
        let mut all = vec!["-n", self.name.as_str()];
        all.extend_from_slice(args);
        ip(&all)
    }

    /// Adds an address in prefix notation, usable at once.
    pub fn address(&self, interface: &str, address: &str) -> Result<()> {
        let mut args = vec!["addr", "add", address, "dev", interface];
        if address.contains(':') {
            args.push("nodad");
        }
        self.ip(&args).map(drop)
    }

    /// Sets a sysctl of this namespace, e.g. `net/ipv4/ip_forward`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        // /proc/sys/net follows the namespace of the opening task, not of the mount.
        self.run(|| std::fs::write(format!("/proc/sys/{key}"), value))?
            .with_context(|| format!("set `{key}` to `{value}` in `{}`", self.name))
    }

    /// Sends everything unknown to `gateway`.
    pub fn default_route(&self, gateway: IpAddr) -> Result<()> {
        let family = if gateway.is_ipv6() { "-6" } else { "-4" };
        self.ip(&[
            family,
            "route",
            "replace",
            "default",
            "via",
            &gateway.to_string(),
        ])
        .map(drop)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "del", &self.name]) {
            tracing::warn!(%error, namespace = self.name, "namespace not removed");
        }
    }
}

/// One end of a veth pair: `(namespace, interface name, addresses in prefix notation)`.
pub type End<'a> = (&'a Netns, &'a str, &'a [&'a str]);

/// Connects two namespaces and brings both ends up.
pub fn veth(left: End<'_>, right: End<'_>) -> Result<()> {
    ip(&[
        "link",
        "add",
        left.1,
        "netns",
        &left.0.name,
        "type",
        "veth",
        "peer",
        "name",
        right.1,
        "netns",
        &right.0.name,
    ])?;
    for (namespace, interface, addresses) in [left, right] {
        for address in addresses {
            namespace.address(interface, address)?;
        }
        namespace.ip(&["link", "set", interface, "up"])?;
    }
    Ok(())
}

/// Runs `ip` and returns its standard output.
pub fn ip(args: &[&str]) -> Result<String> {
    let output = Command::new("ip")
        .args(args)
        .output()
        .context("run `ip` (package iproute2)")?;
    if !output.status.success() {
        bail!(
            "`ip {}`: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    String::from_utf8(output.stdout).context("`ip` wrote text that is not UTF-8")
}

/// Why namespaces cannot be made here, with the fix; `None` where they can.
pub fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("network namespaces need root; run with sudo".into());
    }
    if let Err(error) = ip(&["-V"]) {
        return Some(format!("{error:#}; install iproute2"));
    }
    None
}

/// Fails in CI, prints and returns `true` elsewhere, when a precondition is `Some(reason)`.
pub fn skip(reason: Option<String>) -> Result<bool> {
    let Some(reason) = reason else {
        return Ok(false);
    };
    ensure!(
        std::env::var_os("CI").is_none_or(|v| v != "true"),
        "precondition missing in CI: {reason}"
    );
    #[allow(clippy::print_stderr, reason = "tests report skips on stderr")]
    {
        eprintln!("skipped: {reason}");
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_carries_packets_and_leaves_nothing() -> Result<()> {
        if skip(missing())? {
            return Ok(());
        }
        let (a, b) = (Netns::create("a")?, Netns::create("b")?);
        veth(
            (&a, "eth0", &["10.99.0.1/24", "fd99::1/64"]),
            (&b, "eth0", &["10.99.0.2/24", "fd99::2/64"]),
        )?;
        for server in ["10.99.0.2:0", "[fd99::2]:0"] {
            let listener = b.run(|| std::net::TcpListener::bind(server))??;
            let address = listener.local_addr()?;
            a.run(|| std::net::TcpStream::connect(address))??;
        }
        let path = a.path();
        drop((a, b));
        assert!(!std::path::Path::new(&path).exists());
        Ok(())
    }
}
