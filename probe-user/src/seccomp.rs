//! `aggrik8s-probe seccomp-profile`: puts the agent's seccomp profile where the node's kubelet looks for it.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

const PROFILE: &str = include_str!("../../deploy/seccomp/agent.json");
const FILE: &str = "agent.json";

#[derive(Debug, Args)]
pub struct ProfileArgs {
    /// Folder below the kubelet's seccomp root.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
}

/// Writes the profile whole or not at all: containers of other pods may be starting with it.
pub fn main(args: &ProfileArgs) -> anyhow::Result<ExitCode> {
    let path = args.dir.join(FILE);
    if std::fs::read_to_string(&path).is_ok_and(|there| there == PROFILE) {
        return Ok(ExitCode::SUCCESS);
    }
    // Two pods of one node may do this at the same time.
    let new = args.dir.join(format!("{FILE}.{}", std::process::id()));
    write(&new)
        .and_then(|()| std::fs::rename(&new, &path))
        .inspect_err(|_| {
            let _ = std::fs::remove_file(&new);
        })
        .with_context(|| format!("cannot write `{}`", path.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn write(path: &std::path::Path) -> io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    file.write_all(PROFILE.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_is_written_replaced_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let args = ProfileArgs {
            dir: folder.path().to_owned(),
        };
        let path = folder.path().join(FILE);
        for before in [None, Some("{}"), Some(PROFILE)] {
            if let Some(before) = before {
                std::fs::write(&path, before).unwrap();
            }
            main(&args).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), PROFILE);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);

        let gone = ProfileArgs {
            dir: folder.path().join("none"),
        };
        let error = format!("{:#}", main(&gone).unwrap_err());
        assert!(error.starts_with("cannot write `"), "{error}");
    }
}
