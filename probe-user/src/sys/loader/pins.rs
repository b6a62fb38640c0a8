//! The pin folder: `META`, the other maps, `prog_<name>` and `link_<name>`. `META` is pinned last, so
//! a folder without it is what an interrupted load left, and is cleared.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use nix::unistd::{Gid, setfsgid};
use probe_common::maps::{PROGRAMS, names};

use super::{LoadError, foreign};
use crate::sys::{maps::Maps, raw};

/// Every map that the agent may use, `META` left out.
pub(super) const MAPS: [&str; 14] = [
    names::CONFIG,
    names::ATTACH,
    names::COUNTERS,
    names::SERIES,
    names::FREE_SLOTS,
    names::SLOTS,
    names::PREFIXES,
    names::SERVICES,
    names::REMOTES,
    names::CLASSES,
    names::EVENTS,
    names::BUDGET,
    names::TABLE,
    names::SOCKETS,
];

pub(super) fn link_path(dir: &Path, program: &str) -> PathBuf {
    dir.join(format!("link_{program}"))
}

pub(super) fn program_path(dir: &Path, program: &str) -> PathBuf {
    dir.join(format!("prog_{program}"))
}

/// Gives the thread its own group back when dropped.
pub(crate) struct Group(Option<Gid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(before) = self.0 {
            setfsgid(before);
        }
    }
}

/// New files get this group from now on. A pin cannot be given away afterwards without CAP_CHOWN.
pub(crate) fn take_group(gid: Option<u32>) -> Result<Group, LoadError> {
    let Some(gid) = gid else {
        return Ok(Group(None));
    };
    let wanted = Gid::from_raw(gid);
    let before = setfsgid(wanted);
    // The call reports no errors: asking again tells.
    if setfsgid(wanted) != wanted {
        return Err(LoadError::Group {
            gid,
            source: io::Error::from_raw_os_error(libc::EPERM),
        });
    }
    Ok(Group(Some(before)))
}

/// The folder, with our mode; parents as ordinary folders.
pub(super) fn make_dir(dir: &Path) -> Result<(), LoadError> {
    let failed = |source| LoadError::PinDir {
        path: dir.to_owned(),
        source,
    };
    if let Some(parent) = dir.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)
            .map_err(failed)?;
    }
    match fs::DirBuilder::new().mode(0o750).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed(error)),
        _ => fs::set_permissions(dir, fs::Permissions::from_mode(0o750)).map_err(failed),
    }
}

/// The agent may read and write maps; programs and links stay the loader's.
pub(super) fn open_to_group(path: &Path) -> Result<(), LoadError> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(|source| LoadError::Pin {
        path: path.to_owned(),
        source,
    })
}

/// The maps that are there, if a load was ever finished here. What an unfinished one left is removed.
pub(super) fn present(dir: &Path) -> Result<Option<Maps>, LoadError> {
    if !dir.exists() {
        return Ok(None);
    }
    if dir.join(names::META).exists() {
        return Maps::open(dir)
            .map(Some)
            .map_err(|source| foreign(dir, source));
    }
    remove(dir)?;
    Ok(None)
}

fn is_ours(name: &str) -> bool {
    name == names::META
        || MAPS.contains(&name)
        || PROGRAMS.iter().any(|program| {
            name.strip_prefix("link_") == Some(program)
                || name.strip_prefix("prog_") == Some(program)
                || name.strip_prefix("new_") == Some(program)
        })
}

/// Removes a pin; a link's program is off its cgroup when this returns.
pub(super) fn remove_pin(path: &Path) -> io::Result<()> {
    // Whatever cannot be opened as a link holds no program.
    if let Ok(link) = raw::open(path)
        && raw::link_info(&link).is_ok()
    {
        raw::detach(&link)?;
    }
    fs::remove_file(path)
}

/// Removes our pins and the folder. `META` goes first, so that an interruption leaves a folder that
/// the next load clears; then the links, which detaches. Nothing is touched if something foreign lies there.
pub(super) fn remove(dir: &Path) -> Result<bool, LoadError> {
    let failed = |path: &Path, source| LoadError::Remove {
        path: path.to_owned(),
        source,
    };
    let mut ours = Vec::new();
    match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(dir, error)),
        Ok(entries) => {
            for entry in entries {
                let entry = entry.map_err(|error| failed(dir, error))?;
                if !entry.file_name().to_str().is_some_and(is_ours) {
                    return Err(LoadError::ForeignEntry { path: entry.path() });
                }
                ours.push(entry.path());
            }
        }
    }
    let order = |path: &PathBuf| match path.file_name().and_then(|name| name.to_str()) {
        Some(names::META) => 0,
        Some(name) if name.starts_with("link_") => 1,
        _ => 2,
    };
    ours.sort_by_key(order);
    for path in &ours {
        remove_pin(path).map_err(|error| failed(path, error))?;
    }
    fs::remove_dir(dir).map_err(|error| failed(dir, error))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_ours() {
        for name in [
            "META",
            "SLOTS",
            "link_sock_ops",
            "prog_egress",
            "new_connect4",
        ] {
            assert!(is_ours(name), "{name}");
        }
        for name in ["link_", "link_other", "slots", "tc", "prog_sock_opsx"] {
            assert!(!is_ours(name), "{name}");
        }
    }

    #[test]
    fn a_foreign_file_protects_the_whole_folder() {
        let dir = std::env::temp_dir().join(format!("aggrik8s-pins-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("META"), "").unwrap();
        fs::write(dir.join("cilium_map"), "").unwrap();
        assert!(matches!(remove(&dir), Err(LoadError::ForeignEntry { .. })));
        assert!(dir.join("META").exists());
        fs::remove_file(dir.join("cilium_map")).unwrap();
        assert!(remove(&dir).unwrap());
        assert!(!dir.exists() && !remove(&dir).unwrap());
    }
}
