//! `cargo xtask ebpf [--check]`: builds the kernel programs reproducibly and commits them to
//! `probe-user/prebuilt` with their provenance; `--check` builds and compares instead.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// Its LLVM must not be newer than the linker's.
const TOOLCHAIN: &str = "nightly";
const OBJECT: &str = "probe-user/prebuilt/probe.bpf.o";
const PROVENANCE: &str = "probe-user/prebuilt/probe.bpf.toml";
/// Everything that the object is made of, the pinned `aya-ebpf` apart.
const INPUTS: [&str; 4] = [
    "probe-common/Cargo.toml",
    "probe-common/src",
    "probe-ebpf/Cargo.toml",
    "probe-ebpf/src",
];
/// Why each is there:
/// * `bpf_target_arch`: aya-ebpf wants one; contexts are the same on `x86_64` and aarch64.
/// * cpu v2 has no 32-bit registers. Their spills take half a stack word each, and Linux 6.1 refuses two writes
///   into one word to a loader without PERFMON. Atomics (v3) are written as assembly.
/// * small memory operations become stores instead of calls of a loop, for the same reason,
/// * and no two values share a stack slot.
const FLAGS: [&str; 6] = [
    "--cfg=bpf_target_arch=\"x86_64\"",
    "-Ctarget-cpu=v2",
    "-Cdebuginfo=2",
    "-Clink-arg=--btf",
    "-Clink-arg=--disable-expand-memcpy-in-order",
    "-Clink-arg=--llvm-args=-no-stack-slot-sharing",
];

/// Builds the object. With `check` nothing is written, and a difference to what is committed is an error.
pub(crate) fn run(check: bool) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask lies in the workspace")?;
    let tools = Tools::find()?;
    let built = build(root, &tools)?;
    let provenance = provenance(root, &tools, &built)?;
    let object = fs::read(&built).with_context(|| format!("read `{}`", built.display()))?;
    if !check {
        fs::write(root.join(OBJECT), object)?;
        fs::write(root.join(PROVENANCE), &provenance)?;
        println!("{provenance}");
        return Ok(());
    }
    let committed = fs::read_to_string(root.join(PROVENANCE))
        .with_context(|| format!("read `{PROVENANCE}`"))?;
    let differences: Vec<_> = provenance
        .lines()
        .filter(|line| !committed.lines().any(|other| other == *line))
        .collect();
    ensure!(
        differences.is_empty() && fs::read(root.join(OBJECT))? == object,
        "`{OBJECT}` is not what the sources give here:\n{}\nhint: with the compilers named in \
         `{PROVENANCE}`, `cargo xtask ebpf` makes it anew",
        differences.join("\n")
    );
    println!("`{OBJECT}` is what the sources give");
    Ok(())
}

/// What it takes beyond cargo.
struct Tools {
    strip: PathBuf,
    objdump: PathBuf,
    /// `rustc -V`, LLVM, `bpf-linker --version`.
    versions: [String; 3],
}

impl Tools {
    fn find() -> Result<Self> {
        let rustc = output(Command::new("rustup").args(["run", TOOLCHAIN, "rustc", "-vV"]))
            .context(
                "no nightly compiler\nhint: rustup toolchain install nightly --component rust-src",
            )?;
        let field = |name: &str| {
            rustc
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap_or("unknown")
                .to_owned()
        };
        let linker = output(Command::new("bpf-linker").arg("--version")).context(
            "no bpf-linker\nhint: LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0 \
             --no-default-features --features llvm-22",
        )?;
        Ok(Self {
            strip: llvm("llvm-strip")?,
            objdump: llvm("llvm-objdump")?,
            versions: [
                rustc.lines().next().unwrap_or("unknown").to_owned(),
                field("LLVM version: "),
                linker.trim().to_owned(),
            ],
        })
    }
}

/// An LLVM tool, from Debian's folder or the path.
fn llvm(name: &str) -> Result<PathBuf> {
    let debian = PathBuf::from(format!("/usr/lib/llvm-22/bin/{name}"));
    let path = env::var_os("PATH").unwrap_or_default();
    [debian]
        .into_iter()
        .chain(env::split_paths(&path).map(|dir| dir.join(name)))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("no `{name}`\nhint: apt-get install llvm-22"))
}

/// Compiles and strips; returns the object's path.
fn build(root: &Path, tools: &Tools) -> Result<PathBuf> {
    let target = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root.join("target"), PathBuf::from)
        .join("ebpf");
    let sysroot =
        output(Command::new("rustup").args(["run", TOOLCHAIN, "rustc", "--print", "sysroot"]))?;
    let home = match env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => PathBuf::from(env::var_os("HOME").context("`HOME` is not set")?).join(".cargo"),
    };
    let library = format!("{}/lib/rustlib/src/rust", sysroot.trim());
    ensure!(
        Path::new(&library).is_dir(),
        "the sources of the standard library are missing\nhint: rustup component add rust-src --toolchain {TOOLCHAIN}"
    );
    let mut flags: Vec<String> = FLAGS.iter().map(ToString::to_string).collect();
    let mut paths = vec![
        (root.display().to_string(), "."),
        (home.display().to_string(), "/cargo"),
        (library, "/rust"),
    ];
    // Named after the registry that was asked, which may be a mirror. The last match counts, so these follow `/cargo`.
    for registry in fs::read_dir(home.join("registry/src"))
        .into_iter()
        .flatten()
    {
        paths.push((registry?.path().display().to_string(), "/crates"));
    }
    for (from, to) in paths {
        flags.push(format!("--remap-path-prefix={from}={to}"));
    }
    let mut cargo = Command::new("rustup");
    cargo
        .current_dir(root)
        .args(["run", TOOLCHAIN, "cargo", "build", "--locked", "--release"])
        .args(["-p", "probe-ebpf", "--bin", "probe"])
        .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core"])
        .arg("--target-dir")
        .arg(&target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_LTO", "false")
        .env("CARGO_PROFILE_RELEASE_STRIP", "none")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort");
    for variable in ["RUSTC", "RUSTFLAGS", "RUSTUP_TOOLCHAIN", "CARGO"] {
        cargo.env_remove(variable);
    }
    ensure!(cargo.status()?.success(), "the programs do not compile");
    let raw = target.join("bpfel-unknown-none/release/probe");
    let object = target.join("probe.bpf.o");
    let stripped = Command::new(&tools.strip)
        .arg("-g")
        .arg("-o")
        .args([&object, &raw])
        .status()?;
    ensure!(stripped.success(), "`llvm-strip` failed");
    Ok(object)
}

fn provenance(root: &Path, tools: &Tools, object: &Path) -> Result<String> {
    let [rustc, llvm, linker] = &tools.versions;
    let mut text =
        String::from("# Written by `cargo xtask ebpf`, compared by `cargo xtask ebpf --check`.\n");
    writeln!(text, "rustc = \"{rustc}\"")?;
    writeln!(text, "llvm = \"{llvm}\"")?;
    writeln!(text, "linker = \"{linker}\"")?;
    writeln!(text, "aya_ebpf = \"{}\"", locked_version(root, "aya-ebpf")?)?;
    writeln!(text, "object_sha256 = \"{}\"", sha256_of(object)?)?;
    writeln!(text, "inputs_sha256 = \"{}\"", inputs_sha256(root)?)?;
    text.push_str(
        "\n# Instructions of 8 bytes; `.text` holds what the programs share.\n[instructions]\n",
    );
    let sections = output(Command::new(&tools.objdump).arg("-h").arg(object))?;
    for line in sections.lines().filter(|line| line.ends_with("TEXT")) {
        let fields: Vec<_> = line.split_whitespace().collect();
        if let [_, name, size, ..] = fields.as_slice() {
            let bytes = u64::from_str_radix(size, 16)?;
            writeln!(text, "\"{name}\" = {}", bytes / 8)?;
        }
    }
    Ok(text)
}

fn locked_version(root: &Path, package: &str) -> Result<String> {
    let lock = fs::read_to_string(root.join("Cargo.lock"))?;
    let name = format!("name = \"{package}\"");
    let mut lines = lock.lines().skip_while(|line| *line != name);
    let version = lines
        .nth(1)
        .and_then(|line| line.strip_prefix("version = "));
    Ok(version
        .with_context(|| format!("`{package}` is not in Cargo.lock"))?
        .trim_matches('"')
        .to_owned())
}

/// One hash over the inputs: of the lines that `sha256sum` prints for them, sorted by path. A test
/// in `probe-user` computes the same.
fn inputs_sha256(root: &Path) -> Result<String> {
    let mut files = Vec::new();
    for input in INPUTS {
        collect(root, Path::new(input), &mut files)?;
    }
    files.sort();
    let listing = output(Command::new("sha256sum").current_dir(root).args(&files))?;
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("a piped child has a stdin")?;
    stdin.write_all(listing.as_bytes())?;
    drop(stdin);
    first_word(&String::from_utf8(child.wait_with_output()?.stdout)?)
}

fn sha256_of(path: &Path) -> Result<String> {
    first_word(&output(Command::new("sha256sum").arg(path))?)
}

fn first_word(text: &str) -> Result<String> {
    let word = text.split_whitespace().next();
    Ok(word.context("`sha256sum` printed nothing")?.to_owned())
}

/// Files below a path, relative to the root.
fn collect(root: &Path, path: &Path, files: &mut Vec<String>) -> Result<()> {
    let full = root.join(path);
    if full.is_file() {
        let name = path.to_str().context("paths of sources are UTF-8")?;
        files.push(name.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(&full).with_context(|| format!("read `{}`", full.display()))? {
        collect(root, &path.join(entry?.file_name()), files)?;
    }
    Ok(())
}

fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("run `{}`", command.get_program().display()))?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}
