//! Starting programs: every command is printed before it runs, and cargo never runs through `sudo`.

use std::env;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    // Cargo sets it at run time too; the compiled-in value would name another checkout when two share a target folder.
    let xtask =
        env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&xtask)
        .parent()
        .map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Where cargo builds.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Whether this is a CI run, in which nothing of the default set may be skipped.
pub(crate) fn in_ci() -> bool {
    env::var("CI").is_ok_and(|ci| ci == "true")
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Where `program` is, looking beyond `PATH` into the folders that only root has there and into that of Go's own
/// releases.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/go/bin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// What must stand before a command line for it to run as root: nothing, or `sudo`.
pub(crate) fn root_prefix() -> Result<Vec<&'static str>> {
    if is_root() {
        Ok(Vec::new())
    } else if find("sudo").is_some() {
        Ok(vec!["sudo", "--preserve-env"])
    } else {
        bail!("not root, and there is no `sudo`\nhint: run this as root, or install sudo")
    }
}

/// A command run in the workspace's root with root's rights.
pub(crate) fn as_root(program: impl AsRef<OsStr>) -> Result<Command> {
    let prefix = root_prefix()?;
    let mut words = prefix.iter().map(OsStr::new).chain([program.as_ref()]);
    let mut command = Command::new(words.next().context("no program")?);
    command.args(words).current_dir(root());
    Ok(command)
}

/// A command run in the workspace's root.
pub(crate) fn program(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// The cargo that runs us, with arguments separated by spaces.
pub(crate) fn cargo(args: &str) -> Command {
    let mut command = program(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args.split_whitespace());
    command
}

/// The command as a person would type it.
pub(crate) fn line(command: &Command) -> String {
    let name = Path::new(command.get_program()).file_name();
    let words = name.into_iter().chain(command.get_args());
    let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
    words.join(" ")
}

/// Runs to the end and returns the exit code; a signal counts as 128 plus its number.
pub(crate) fn code(command: &mut Command) -> Result<u8> {
    use std::os::unix::process::ExitStatusExt;
    eprintln!("$ {}", line(command));
    let status = command
        .status()
        .with_context(|| format!("start `{}`", line(command)))?;
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    Ok(u8::try_from(code.unwrap_or(1)).unwrap_or(1))
}

/// Runs to the end; anything but exit code 0 is an error.
pub(crate) fn ok(command: &mut Command) -> Result<()> {
    match code(command)? {
        0 => Ok(()),
        code => bail!("`{}` ended with exit code {code}", line(command)),
    }
}

/// What the command prints on stdout; anything but exit code 0 is an error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("start `{}`", line(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed: {}", line(command), said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
