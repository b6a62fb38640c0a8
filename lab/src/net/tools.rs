//! Runs `ip`, `bridge` and `nft` with their commands on standard input.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::netns_path;
use crate::error::{During, LabError, Result};
use crate::sys::Place;

const TOOLS: [(&str, &str); 3] = [
    ("ip", "iproute2"),
    ("bridge", "iproute2"),
    ("nft", "nftables"),
];

/// All tools that a lab needs are in `PATH`, `/usr/sbin` or `/sbin`.
pub(crate) fn check_tools() -> Result<()> {
    for (tool, package) in TOOLS {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).any(|dir| dir.join(tool).is_file());
        if !found {
            return Err(LabError::ToolMissing { tool, package });
        }
    }
    Ok(())
}

/// The tools, run inside a cgroup if one is given: then whoever removes the lab ends them first,
/// even if the command that started them is long gone.
pub(crate) struct Tools {
    pub(crate) cgroup: Option<PathBuf>,
}

impl Tools {
    /// `ip -batch` in the caller's namespace.
    pub(super) fn ip(&self, lines: &[String]) -> Result<()> {
        self.run(
            Command::new("ip").args(["-batch", "-"]),
            None,
            "ip -batch",
            &lines.join("\n"),
        )
    }

    /// `ip -batch` inside a namespace. Rules and unspecified prefixes are IPv4 unless `options` has `-6`.
    pub(super) fn ip_in(&self, netns: &str, options: &[&str], lines: &[String]) -> Result<()> {
        let name = format!("ip -n {netns} {} -batch", options.join(" "));
        let mut command = Command::new("ip");
        command.args(options).args(["-n", netns, "-batch", "-"]);
        self.run(&mut command, None, &name, &lines.join("\n"))
    }

    pub(super) fn bridge_in(&self, netns: &str, lines: &[String]) -> Result<()> {
        let name = format!("bridge -n {netns} -batch");
        let mut command = Command::new("bridge");
        command.args(["-n", netns, "-batch", "-"]);
        self.run(&mut command, None, &name, &lines.join("\n"))
    }

    /// `nft -f` inside a namespace.
    pub(crate) fn nft_in(&self, netns: &str, rules: &str) -> Result<()> {
        let mut command = Command::new("nft");
        command.args(["-f", "/dev/stdin"]);
        self.run(
            &mut command,
            Some(netns_path(netns)),
            &format!("nft in {netns}"),
            rules,
        )
    }

    fn run(
        &self,
        command: &mut Command,
        netns: Option<PathBuf>,
        name: &str,
        input: &str,
    ) -> Result<()> {
        if input.is_empty() {
            return Ok(());
        }
        let place = Place {
            netns,
            cgroup: self.cgroup.clone(),
            ..Place::default()
        };
        place
            .prepare(command)
            .during(|| format!("find the place of `{name}`"))?;
        let exec = |e| LabError::Exec(name.to_owned(), e);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(exec)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A tool that stops at a bad line closes its input; its own message says more.
            let _ = stdin
                .write_all(input.as_bytes())
                .and_then(|()| stdin.write_all(b"\n"));
        }
        let output = child.wait_with_output().map_err(exec)?;
        if output.status.success() {
            return Ok(());
        }
        let message = explain(input, &String::from_utf8_lossy(&output.stderr));
        Err(LabError::Tool {
            command: name.to_owned(),
            message,
        })
    }
}

/// The tool's message, with the text of the line it complains about (`Command failed -:12`).
fn explain(input: &str, stderr: &str) -> String {
    let line = stderr.lines().find_map(|l| {
        l.strip_prefix("Command failed -:")?
            .trim()
            .parse::<usize>()
            .ok()
    });
    let at = line.and_then(|n| input.lines().nth(n.saturating_sub(1)));
    let message = stderr
        .lines()
        .filter(|l| !l.starts_with("Command failed"))
        .collect::<Vec<_>>()
        .join("; ");
    match at {
        Some(text) => format!("{} (at `{text}`)", message.trim()),
        None => message.trim().to_owned(),
    }
}

/// Writes a value below `/proc/sys` of the calling thread's namespace.
pub(super) fn sysctl(name: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys").join(name);
    std::fs::write(&path, value).during(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::explain;

    #[test]
    fn a_failed_batch_names_its_line() {
        let message = explain(
            "link add a\nlink bad b\n",
            "Error: what is \"bad\"?\nCommand failed -:2\n",
        );
        assert_eq!(message, "Error: what is \"bad\"? (at `link bad b`)");
        assert_eq!(explain("x", "nft: no\n"), "nft: no");
    }
}
