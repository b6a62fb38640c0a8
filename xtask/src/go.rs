//! The Go compiler for the peers of the tests: this machine's where it is new enough, otherwise the official
//! toolchain. That is published as a Go module, so any Go since 1.11 fetches it and checks it against the database
//! of checksums.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::run;

/// The oldest that the peers compile with: the `go` lines of `tests/peers/*/go.mod`.
const OLDEST: (u32, u32) = (1, 26);

/// Fetched where this machine's is older.
const FETCHED: &str = "1.26.8";

/// A compiler that is new enough, given any.
pub(crate) fn compiler(folder: &Path) -> Result<PathBuf> {
    let own = run::find("go").context("no `go`\nhint: sudo apt-get install golang-go")?;
    let said = run::output(&mut go(&own, folder, "version"))?;
    if version(&said).is_some_and(|version| version >= OLDEST) {
        return Ok(own);
    }
    eprintln!(
        "{} is too old for the peers: fetching {FETCHED}",
        said.trim()
    );
    fetch(&own, folder)
}

/// `go` as it is installed, without looking for another toolchain; `folder` is outside of any Go module or inside the
/// one meant.
pub(crate) fn go(program: &Path, folder: &Path, args: &str) -> Command {
    let mut go = Command::new(program);
    go.args(args.split(' ')).current_dir(folder);
    go.env("GOTOOLCHAIN", "local").env("GOWORK", "off");
    go
}

fn fetch(own: &Path, folder: &Path) -> Result<PathBuf> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("no Go toolchain is known for `{other}`"),
    };
    let module = format!("golang.org/toolchain@v0.0.1-go{FETCHED}.linux-{arch}");
    let said = run::output(go(own, folder, "mod download -json").arg(&module))?;
    let said: Value = serde_json::from_str(&said).context("what `go mod download` says")?;
    let root = said["Dir"].as_str().map(PathBuf::from);
    let root = root.with_context(|| format!("`go mod download` names no folder for `{module}`"))?;
    // A module's files are never executable.
    let tools = root.join(format!("pkg/tool/linux_{arch}"));
    for entry in [root.join("bin"), tools].iter().flat_map(fs::read_dir) {
        for file in entry {
            let file = file?.path();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o555))
                .with_context(|| format!("make `{}` executable", file.display()))?;
        }
    }
    Ok(root.join("bin/go"))
}

/// Major and minor version in what `go version` prints.
fn version(said: &str) -> Option<(u32, u32)> {
    let number = said.split(' ').nth(2)?.strip_prefix("go")?;
    let mut parts = number.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers_not_text() {
        assert_eq!(version("go version go1.26.8 linux/amd64\n"), Some((1, 26)));
        assert_eq!(version("go version go1.27rc1 linux/arm64\n"), Some((1, 27)));
        assert_eq!(version("go version go1.9 linux/amd64\n"), Some((1, 9)));
        assert!(version("go version go1.9 linux/amd64\n") < Some(OLDEST));
        assert_eq!(version("go version devel +abc linux/amd64\n"), None);
        assert_eq!(version(""), None);
    }
}
