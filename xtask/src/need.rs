//! Tools that a verb needs: installed where we are root, otherwise named with the command that installs them.

use anyhow::Result;

use crate::run;

/// A program, by its name or its whole path, and the Debian package that has it.
pub(crate) struct Need {
    program: &'static str,
    package: &'static str,
}

const fn need(program: &'static str, package: &'static str) -> Need {
    Need { program, package }
}

/// What the lab runs.
pub(crate) const LAB: &[Need] = &[
    // ring compiles C.
    need("cc", "gcc"),
    need("ip", "iproute2"),
    need("nft", "nftables"),
];

/// What the tests run beyond the lab.
pub(crate) const TEST: &[Need] = &[
    need("qemu-system-x86_64", "qemu-system-x86"),
    need("busybox", "busybox-static"),
    need("cpio", "cpio"),
    need("musl-gcc", "musl-tools"),
    need("runc", "runc"),
    need("containerd", "containerd"),
    need("/usr/lib/cni/bridge", "containernetworking-plugins"),
    need("setpriv", "util-linux"),
    need("dig", "bind9-dnsutils"),
];

/// What compiles the peers of the tests; any version of Go can fetch the one that it takes.
pub(crate) const PEERS: &[Need] = &[need("go", "golang-go")];

/// What static binaries for both architectures take.
pub(crate) const DIST: &[Need] = &[
    need("musl-gcc", "musl-tools"),
    need("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
    need("readelf", "binutils"),
];

/// Rust targets of the static binaries.
pub(crate) const MUSL: &str = "x86_64-unknown-linux-musl";
pub(crate) const MUSL_ARM: &str = "aarch64-unknown-linux-musl";

/// Installs what is missing where that can be done; returns one line, with the fix, per thing still missing.
pub(crate) fn programs(needs: &[&[Need]]) -> Result<Vec<String>> {
    let missing = || {
        let all = needs.iter().flat_map(|some| some.iter());
        all.filter(|need| run::find(need.program).is_none())
    };
    let mut packages: Vec<_> = missing().map(|need| need.package).collect();
    packages.sort_unstable();
    packages.dedup();
    if !packages.is_empty() && run::is_root() && run::find("apt-get").is_some() {
        run::ok(run::program("apt-get").args(["update", "-qq"]))?;
        let mut install = run::program("apt-get");
        install.env("DEBIAN_FRONTEND", "noninteractive");
        install.args(["install", "-y", "-qq", "--no-install-recommends"]);
        // The cross compiler alone has no C library headers; recommends would bring them.
        if packages.contains(&"gcc-aarch64-linux-gnu") {
            packages.push("libc6-dev-arm64-cross");
        }
        run::ok(install.args(packages))?;
    }
    Ok(missing()
        .map(|need| {
            let Need { program, package } = need;
            format!("`{program}` is missing; hint: sudo apt-get install {package}")
        })
        .collect())
}

/// Adds Rust targets and components through rustup; returns one line, with the fix, per thing still missing.
pub(crate) fn rust(targets: &[&str], components: &[&str]) -> Result<Vec<String>> {
    if run::find("rustup").is_none() {
        let listed = targets.iter().chain(components);
        return Ok(listed
            .map(|what| format!("`{what}` is unknown: there is no `rustup`; hint: install rustup, or these with your Rust"))
            .collect());
    }
    let installed = run::output(run::program("rustup").args(["target", "list", "--installed"]))?;
    for target in targets {
        if !installed.lines().any(|line| line == *target) {
            run::ok(run::program("rustup").args(["target", "add", target]))?;
        }
    }
    let installed = run::output(run::program("rustup").args(["component", "list", "--installed"]))?;
    for component in components {
        if !installed.lines().any(|line| line.starts_with(component)) {
            run::ok(run::program("rustup").args(["component", "add", component]))?;
        }
    }
    Ok(Vec::new())
}
