//! `cargo xtask dist`: static binaries of both architectures, checked for being static, the image of both, and
//! SHA-256 sums.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use serde_json::Value;

use crate::image::{self, Label, Platform};
use crate::need::{self, MUSL, MUSL_ARM};
use crate::{run, sbom};

/// The image's archive: for `aggrik8s image push`, and for the folder `agent/images` of RKE2.
const IMAGE: &str = "aggrik8s-image.tar";
const PROGRAMS: [&str; 2] = ["aggrik8s", "aggrik8s-probe"];

/// Where the programs of each architecture lie.
#[derive(clap::Args)]
pub(crate) struct ImageArgs {
    /// Folder of the static programs for `amd64`
    #[arg(long, value_name = "DIR")]
    amd64: Option<PathBuf>,
    /// Folder of those for `arm64`
    #[arg(long, value_name = "DIR")]
    arm64: Option<PathBuf>,
    /// The archive to write
    #[arg(value_name = "FILE")]
    archive: PathBuf,
}

/// The image alone, from programs that are built already.
pub(crate) fn image(args: &ImageArgs) -> Result<ExitCode> {
    let label = label()?;
    let mut platforms = Vec::new();
    for (folder, architecture, target) in [
        (&args.amd64, "amd64", MUSL),
        (&args.arm64, "arm64", MUSL_ARM),
    ] {
        let Some(folder) = folder else { continue };
        let read = |program: &str| {
            let path = folder.join(program);
            let content = fs::read(&path).with_context(|| format!("read `{}`", path.display()))?;
            Ok((program.to_owned(), content))
        };
        platforms.push(Platform {
            architecture,
            programs: PROGRAMS.into_iter().map(read).collect::<Result<_>>()?,
            sbom: bill(target, &label.version)?,
        });
    }
    if platforms.is_empty() {
        bail!("no programs\nhint: give --amd64 DIR, --arm64 DIR or both");
    }
    let archive = image::archive(&label, &platforms)?;
    fs::write(&args.archive, archive)
        .with_context(|| format!("write `{}`", args.archive.display()))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn run() -> Result<ExitCode> {
    let mut missing = need::programs(&[need::DIST])?;
    missing.extend(need::rust(&[MUSL, MUSL_ARM], &[])?);
    if !missing.is_empty() {
        bail!("{}", missing.join("\n"));
    }
    let dist = run::target().join("dist");
    fs::create_dir_all(&dist).with_context(|| format!("create `{}`", dist.display()))?;
    let mut files = Vec::new();
    let label = label()?;
    let mut platforms = Vec::new();
    for (target, architecture) in [(MUSL, "amd64"), (MUSL_ARM, "arm64")] {
        build(target)?;
        let arch = target.split('-').next().unwrap_or(target);
        let mut programs = Vec::new();
        for program in PROGRAMS {
            let built = run::target().join(target).join("release").join(program);
            let name = format!("{program}-linux-{arch}");
            let file = dist.join(&name);
            fs::copy(&built, &file).with_context(|| format!("copy `{}`", built.display()))?;
            check_static(&file)?;
            if target == MUSL {
                run::ok(run::program(&file).arg("--version"))?;
            }
            let content = fs::read(&file).with_context(|| format!("read `{}`", file.display()))?;
            programs.push((program.to_owned(), content));
            files.push(name);
        }
        let bill = bill(target, &label.version)?;
        let name = format!("aggrik8s-linux-{arch}.cdx.json");
        fs::write(dist.join(&name), serde_json::to_vec_pretty(&bill)?)
            .with_context(|| format!("write `{name}`"))?;
        files.push(name);
        platforms.push(Platform {
            architecture,
            programs,
            sbom: bill,
        });
    }
    let archive = image::archive(&label, &platforms)?;
    fs::write(dist.join(IMAGE), archive).with_context(|| format!("write `{IMAGE}`"))?;
    files.push(IMAGE.to_owned());
    let sums = run::output(run::program("sha256sum").args(&files).current_dir(&dist))?;
    fs::write(dist.join("SHA256SUMS"), &sums).context("write `SHA256SUMS`")?;
    print!("{sums}");
    Ok(ExitCode::SUCCESS)
}

/// Version and commit of this checkout. Its time is `SOURCE_DATE_EPOCH`, or that of the commit.
fn label() -> Result<Label> {
    let git = |args: &[&str]| run::output(run::program("git").args(args)).ok();
    let revision = git(&["rev-parse", "HEAD"]).map(|revision| revision.trim().to_owned());
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok();
    let epoch = epoch.or_else(|| git(&["log", "-1", "--format=%ct"]));
    let created = epoch
        .map(|seconds| seconds.trim().parse().map(Duration::from_secs))
        .transpose()
        .context("`SOURCE_DATE_EPOCH` is no number of seconds")?
        .map(|since| humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since).to_string());
    Ok(Label {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision,
        created,
    })
}

/// What the programs for `target` are made of.
fn bill(target: &str, version: &str) -> Result<Value> {
    let mut metadata = run::cargo("metadata --format-version 1 --locked --filter-platform");
    let metadata = run::output(metadata.arg(target))?;
    let lock = fs::read_to_string(run::root().join("Cargo.lock")).context("read `Cargo.lock`")?;
    sbom::cyclonedx(
        &serde_json::from_str(&metadata)?,
        &lock,
        &["aggrik8s", "probe-user"],
        version,
    )
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
