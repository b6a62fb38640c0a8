//! `cargo xtask dist`: static binaries of both architectures, checked for being static, with their SHA-256 sums.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::need::{self, MUSL, MUSL_ARM};
use crate::run;

const PROGRAMS: [&str; 2] = ["aggrik8s", "aggrik8s-probe"];

pub(crate) fn run() -> Result<ExitCode> {
    let mut missing = need::programs(&[need::DIST])?;
    missing.extend(need::rust(&[MUSL, MUSL_ARM], &[])?);
    if !missing.is_empty() {
        bail!("{}", missing.join("\n"));
    }
    let dist = run::target().join("dist");
    fs::create_dir_all(&dist).with_context(|| format!("create `{}`", dist.display()))?;
    let mut files = Vec::new();
    for target in [MUSL, MUSL_ARM] {
        build(target)?;
        let arch = target.split('-').next().unwrap_or(target);
        for program in PROGRAMS {
            let built = run::target().join(target).join("release").join(program);
            let name = format!("{program}-linux-{arch}");
            let file = dist.join(&name);
            fs::copy(&built, &file).with_context(|| format!("copy `{}`", built.display()))?;
            check_static(&file)?;
            if target == MUSL {
                run::ok(run::program(&file).arg("--version"))?;
            }
            files.push(name);
        }
    }
    let sums = run::output(run::program("sha256sum").args(&files).current_dir(&dist))?;
    fs::write(dist.join("SHA256SUMS"), &sums).context("write `SHA256SUMS`")?;
    print!("{sums}");
    Ok(ExitCode::SUCCESS)
}

fn build(target: &str) -> Result<()> {
    let mut cargo = run::cargo("build --release --locked -p aggrik8s -p probe-user --target");
    cargo.arg(target);
    if target == MUSL_ARM {
        // rust-lld links against the C library that the Rust target brings; only ring's C needs the cross compiler.
        cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER", "rust-lld");
        cargo.env("CC_aarch64_unknown_linux_musl", "aarch64-linux-gnu-gcc");
    }
    run::ok(&mut cargo)
}

/// A static binary asks for no interpreter and no shared library.
fn check_static(file: &Path) -> Result<()> {
    let headers = run::output(run::program("readelf").args(["-lW"]).arg(file))?;
    let dynamic = run::output(run::program("readelf").args(["-dW"]).arg(file))?;
    if headers.contains("INTERP") || dynamic.contains("(NEEDED)") {
        bail!("`{}` is not static", file.display());
    }
    Ok(())
}
