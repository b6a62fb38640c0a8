//! Other kernels: Debian's, booted under software emulation with an initramfs that holds busybox and one static
//! program. Kernels are Debian packages, unpacked and never installed; the serial log of every boot is kept.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// What the programs here are part of, for the message when one is missing.
const TOOLS: [(&str, &str); 4] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("apt-get", "apt"),
];

/// A boot alone takes 8 to 10 s on an idle machine; two at a time beside heavy work have taken 30 times that.
const BOOT_LIMIT: Duration = Duration::from_secs(480);

/// First process of the VM: says what is true there, runs the program, powers off.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t tmpfs none /run
mount -t tmpfs none /tmp
mount -t securityfs none /sys/kernel/security
mount -t cgroup2 none /sys/fs/cgroup
mount -t bpf none /sys/fs/bpf
ip link set lo up
if grep -q aggrik8s.btf=masked /proc/cmdline; then mount -t tmpfs none /sys/kernel/btf; fi
echo "FACT kernel $(uname -r)"
echo "FACT lockdown $(cat /sys/kernel/security/lockdown)"
if [ -e /sys/kernel/btf/vmlinux ]; then echo "FACT btf present"; else echo "FACT btf masked"; fi
/program
echo "FACT exit $?"
poweroff -f
"#;

/// An unpacked kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// What `uname -r` says in it.
    pub release: String,
    pub image: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lockdown {
    None,
    Confidentiality,
}

impl Lockdown {
    fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Confidentiality => "confidentiality",
        }
    }
}

/// Whether the VM's user space sees the kernel's type information.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Btf {
    Present,
    Masked,
}

/// One boot.
#[derive(Clone, Debug)]
pub struct Boot {
    pub kernel: Kernel,
    pub lockdown: Lockdown,
    pub btf: Btf,
}

impl Boot {
    /// Short and unique within a matrix; names the log.
    pub fn name(&self) -> String {
        let btf = match self.btf {
            Btf::Present => "btf",
            Btf::Masked => "nobtf",
        };
        let lockdown = self.lockdown.word();
        format!("{}-{lockdown}-{btf}", self.kernel.release)
    }
}

/// What a VM said of itself and what the program printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub release: Option<String>,
    /// As /sys/kernel/security/lockdown has it: the active level in brackets.
    pub lockdown: Option<String>,
    pub btf: Option<String>,
    pub exit: Option<i32>,
    /// What follows `RESULT `, line by line.
    pub results: Vec<String>,
}

impl Report {
    /// Reads a serial log. Lines of the kernel and the firmware may stand between ours.
    pub fn parse(log: &str) -> Self {
        let mut report = Self::default();
        for line in log.lines().map(str::trim_end) {
            if let Some(result) = line.strip_prefix("RESULT ") {
                report.results.push(result.to_owned());
            } else if let Some(fact) = line.strip_prefix("FACT ") {
                match fact.split_once(' ') {
                    Some(("kernel", value)) => report.release = Some(value.to_owned()),
                    Some(("lockdown", value)) => report.lockdown = Some(value.to_owned()),
                    Some(("btf", value)) => report.btf = Some(value.to_owned()),
                    Some(("exit", value)) => report.exit = value.parse().ok(),
                    _ => {}
                }
            }
        }
        report
    }

    /// Checks that the VM was what `boot` asked for: a matrix over kernels that were not there proves nothing.
    pub fn is_of(&self, boot: &Boot) -> Result<()> {
        let lockdown = match boot.lockdown {
            Lockdown::None => "[none] integrity confidentiality",
            Lockdown::Confidentiality => "none integrity [confidentiality]",
        };
        let btf = match boot.btf {
            Btf::Present => "present",
            Btf::Masked => "masked",
        };
        let expected = [boot.kernel.release.as_str(), lockdown, btf];
        let seen = [&self.release, &self.lockdown, &self.btf].map(Option::as_deref);
        ensure!(
            seen == expected.map(Some),
            "the VM is not the one asked for: expected {expected:?}, saw {seen:?}"
        );
        Ok(())
    }
}

/// What is missing to boot VMs with these static programs, with the fix; `None` if nothing is.
pub fn missing(programs: &[&str]) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let packages: Vec<_> = TOOLS
        .iter()
        .filter(|(tool, _)| !std::env::split_paths(&path).any(|dir| dir.join(tool).is_file()))
        .map(|(_, package)| *package)
        .collect();
    if !packages.is_empty() {
        let packages = packages.join(" ");
        return Some(format!("VMs need `apt-get install {packages}`"));
    }
    let not_built = |name: &&&str| !program(name).is_file();
    let name = programs.iter().find(not_built)?;
    let path = program(name);
    Some(format!(
        "`{}` is missing; run `cargo xtask test vm`",
        path.display()
    ))
}

/// Where cargo builds: a test is at `<target>/<profile>/deps/`.
fn target() -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let target = test.ancestors().nth(3);
    target.expect("cargo builds below its target folder").into()
}

/// Where kernels, images and logs are kept.
pub fn folder() -> PathBuf {
    target().join("vm")
}

/// A program built to run without libraries.
pub fn program(name: &str) -> PathBuf {
    target().join("x86_64-unknown-linux-musl/debug").join(name)
}

/// The newest Debian cloud kernel whose release begins with `series` and ends with `suffix`, unpacked below `cache`.
pub fn kernel(cache: &Path, series: &str, suffix: &str) -> Result<Kernel> {
    fs::create_dir_all(cache).with_context(|| format!("create `{}`", cache.display()))?;
    let listed = offered(series, suffix)?;
    let package = listed.or_else(|| unpacked(cache, series, suffix));
    let package = package.with_context(|| {
        format!("no kernel package `linux-image-{series}*{suffix}`\nhint: apt-get update")
    })?;
    let folder = cache.join(&package);
    if !folder.is_dir() {
        unpack(cache, &package)?;
    }
    let release = package.trim_start_matches("linux-image-").to_owned();
    let image = folder.join(format!("boot/vmlinuz-{release}"));
    ensure!(image.is_file(), "`{package}` has no `{}`", image.display());
    Ok(Kernel { release, image })
}

fn fits(package: &str, series: &str, suffix: &str) -> bool {
    package
        .strip_prefix("linux-image-")
        .is_some_and(|release| release.starts_with(series) && release.ends_with(suffix))
}

/// The numbers in a name, for comparing releases.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

fn newest(names: impl Iterator<Item = String>) -> Option<String> {
    names.max_by_key(|name| numbers(name))
}

fn offered(series: &str, suffix: &str) -> Result<Option<String>> {
    let stem = format!("linux-image-{series}");
    let listed = output(Command::new("apt-cache").args(["pkgnames", &stem]))?;
    Ok(newest(
        listed
            .lines()
            .filter(|name| fits(name, series, suffix))
            .map(str::to_owned),
    ))
}

fn unpacked(cache: &Path, series: &str, suffix: &str) -> Option<String> {
    let names = fs::read_dir(cache).ok()?.flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    newest(names.filter(|name| fits(name, series, suffix)))
}

fn unpack(cache: &Path, package: &str) -> Result<()> {
    let scratch = cache.join(format!("{package}.part"));
    let _ = fs::remove_dir_all(&scratch);
    fs::create_dir_all(&scratch)?;
    let download = || {
        output(
            Command::new("apt-get")
                .args(["download", "-qq", package])
                .current_dir(&scratch),
        )
    };
    if download().is_err() {
        // Package lists that are older than the mirror name files that are gone.
        output(Command::new("apt-get").args(["update", "-qq"]))?;
        download()?;
    }
    let mut files = fs::read_dir(&scratch)?.flatten();
    let deb = files.next().context("`apt-get download` left no file")?;
    let deb = deb.path();
    output(Command::new("dpkg").arg("-x").arg(&deb).arg(&scratch))?;
    fs::remove_file(&deb)?;
    // Only the image is needed: the programs run on what is built in.
    let _ = fs::remove_dir_all(scratch.join("lib"));
    let _ = fs::remove_dir_all(scratch.join("usr"));
    fs::rename(&scratch, cache.join(package))?;
    Ok(())
}

/// An initramfs below `folder` that runs `/program`, which is one of `files`: static programs, busybox scripts and
/// what they read, each with its path in the VM.
pub fn initramfs(folder: &Path, files: &[(&Path, &str)]) -> Result<PathBuf> {
    let root = folder.join("initramfs");
    let _ = fs::remove_dir_all(&root);
    for name in ["bin", "etc", "proc", "sys", "dev", "run", "tmp"] {
        fs::create_dir_all(root.join(name))?;
    }
    let busybox = output(Command::new("sh").args(["-c", "command -v busybox"]))?;
    let busybox = (Path::new(busybox.trim()), "bin/busybox");
    for (from, to) in [busybox].iter().chain(files) {
        fs::copy(from, root.join(to)).with_context(|| format!("copy `{}`", from.display()))?;
    }
    let init = root.join("init");
    fs::write(&init, INIT)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;

    let archive = folder.join("initramfs.cpio");
    let mut cpio = Command::new("cpio")
        .args(["--quiet", "-o", "-H", "newc"])
        .current_dir(&root)
        .stdin(Stdio::piped())
        .stdout(File::create(&archive)?)
        .spawn()
        .context("start `cpio`")?;
    let names = output(Command::new("find").arg(".").current_dir(&root))?;
    if let Some(mut stdin) = cpio.stdin.take() {
        stdin.write_all(names.as_bytes())?;
    }
    let status = cpio.wait()?;
    ensure!(status.success(), "`cpio`: {status}");
    Ok(archive)
}

/// Boots, waits for power-off and reads the log, which stays at `<logs>/<name>.log`.
pub fn run(boot: &Boot, initramfs: &Path, logs: &Path) -> Result<Report> {
    fs::create_dir_all(logs)?;
    let log = logs.join(format!("{}.log", boot.name()));
    let lockdown = boot.lockdown.word();
    let btf = match boot.btf {
        Btf::Present => "present",
        Btf::Masked => "masked",
    };
    let append = format!(
        "console=ttyS0 quiet panic=-1 lsm=lockdown,capability lockdown={lockdown} aggrik8s.btf={btf}"
    );
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args("-accel tcg -M q35 -cpu max -smp 2 -m 1024".split(' '));
    qemu.args("-nodefaults -display none -no-reboot -serial stdio".split(' '));
    qemu.arg("-kernel").arg(&boot.kernel.image);
    qemu.arg("-initrd").arg(initramfs);
    qemu.arg("-append").arg(append);
    qemu.stdin(Stdio::null()).stdout(File::create(&log)?);
    let vm = Vm(qemu.spawn().context("start `qemu-system-x86_64`")?);
    vm.wait(BOOT_LIMIT)
        .with_context(|| format!("log: `{}`", log.display()))?;
    let text = fs::read(&log).with_context(|| format!("read `{}`", log.display()))?;
    Ok(Report::parse(&String::from_utf8_lossy(&text)))
}

/// A running VM; killed on drop.
struct Vm(Child);

impl Vm {
    fn wait(mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.0.try_wait()? {
                ensure!(status.success(), "`qemu-system-x86_64`: {status}");
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the VM did not power off within {} s", limit.as_secs());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn output(command: &mut Command) -> Result<String> {
    let line = format!("{command:?}");
    let output = command
        .output()
        .map_err(|error: io::Error| anyhow::Error::new(error).context(format!("start {line}")))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{line}: {}", said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_release_is_found_by_number_not_by_text() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
        ];
        assert_eq!(
            newest(names.map(str::to_owned).into_iter()).as_deref(),
            Some(names[1])
        );
        assert!(fits(names[0], "6.1.", "-cloud-amd64"));
        assert!(!fits(
            "linux-image-6.12.1+deb12-cloud-amd64",
            "6.1.",
            "-cloud-amd64"
        ));
        assert!(!fits(
            "linux-image-6.1.0-9-cloud-amd64-dbg",
            "6.1.",
            "-cloud-amd64"
        ));
        assert!(!fits(
            "linux-image-6.1.0-9-rt-amd64",
            "6.1.",
            "-cloud-amd64"
        ));
    }

    #[test]
    fn a_log_is_read_between_the_lines_of_the_kernel() {
        let log = "SeaBIOS\r\nFACT kernel 6.1.0\r\n[ 1.0] noise RESULT no\r\nFACT lockdown [none] integrity\r\n\
                   FACT btf masked\r\nRESULT ok a 1\r\nRESULT fail b\r\nFACT exit 3\r\n";
        let report = Report::parse(log);
        assert_eq!(report.release.as_deref(), Some("6.1.0"));
        assert_eq!(report.lockdown.as_deref(), Some("[none] integrity"));
        assert_eq!(report.btf.as_deref(), Some("masked"));
        assert_eq!(report.results, ["ok a 1", "fail b"]);
        assert_eq!(report.exit, Some(3));
        assert_eq!(Report::parse("Kernel panic"), Report::default());
    }

    #[test]
    fn a_vm_of_another_kind_is_refused() {
        let boot = |lockdown, btf| Boot {
            kernel: Kernel {
                release: "6.1.0".to_owned(),
                image: PathBuf::new(),
            },
            lockdown,
            btf,
        };
        let report = Report::parse(
            "FACT kernel 6.1.0\nFACT lockdown none integrity [confidentiality]\nFACT btf masked\n",
        );
        assert!(
            report
                .is_of(&boot(Lockdown::Confidentiality, Btf::Masked))
                .is_ok()
        );
        assert!(report.is_of(&boot(Lockdown::None, Btf::Masked)).is_err());
        assert!(
            report
                .is_of(&boot(Lockdown::Confidentiality, Btf::Present))
                .is_err()
        );
        let silent = Report::default();
        assert!(silent.is_of(&boot(Lockdown::None, Btf::Present)).is_err());
    }
}
