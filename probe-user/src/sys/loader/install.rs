//! Programs onto the cgroup: a link each, pinned or not; under a pinned link that is already there the program is
//! exchanged, so no event falls between the old and the new one.

use std::{
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::Path,
};

use aya::{
    Ebpf,
    programs::{CgroupSkb, CgroupSock, CgroupSockAddr, Program, ProgramError, ProgramFd, SockOps},
};
use probe_common::{AttachState, maps::PROGRAMS};

use super::{LoadError, Options, pins};
use crate::sys::raw::{self, AttachType};

/// A program whose absence leaves the counts without meaning is required; the others are rungs.
struct Hook {
    program: &'static str,
    kind: AttachType,
    required: bool,
}

/// In the order of [`PROGRAMS`].
const HOOKS: [Hook; PROGRAMS.len()] = [
    Hook {
        program: PROGRAMS[0],
        kind: AttachType::SockOps,
        required: true,
    },
    Hook {
        program: PROGRAMS[1],
        kind: AttachType::SockRelease,
        required: true,
    },
    Hook {
        program: PROGRAMS[2],
        kind: AttachType::Connect4,
        required: false,
    },
    Hook {
        program: PROGRAMS[3],
        kind: AttachType::Connect6,
        required: false,
    },
    Hook {
        program: PROGRAMS[4],
        kind: AttachType::Egress,
        required: false,
    },
];

/// Loads every program of the object into the kernel: the verifier's turn.
pub(super) fn verify(object: &mut Ebpf) -> Result<(), LoadError> {
    for hook in &HOOKS {
        let program = program(object, hook.program)?;
        load(program).map_err(|source| LoadError::Program {
            program: hook.program,
            source: Box::new(source),
        })?;
    }
    Ok(())
}

fn program<'a>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Program, LoadError> {
    object.program_mut(name).ok_or(LoadError::Missing {
        what: "program",
        name,
    })
}

fn load(program: &mut Program) -> Result<(), ProgramError> {
    if let Ok(program) = <&mut SockOps>::try_from(&mut *program) {
        return program.load();
    }
    if let Ok(program) = <&mut CgroupSock>::try_from(&mut *program) {
        return program.load();
    }
    if let Ok(program) = <&mut CgroupSockAddr>::try_from(&mut *program) {
        return program.load();
    }
    <&mut CgroupSkb>::try_from(program)?.load()
}

/// Attaches, or exchanges, every program, and says how each stands. Without pins the programs stay attached as long as
/// the returned links are open.
pub(super) fn attach_all(
    object: &mut Ebpf,
    options: &Options,
    pins: Option<&Path>,
) -> Result<([AttachState; PROGRAMS.len()], Vec<OwnedFd>), LoadError> {
    let cgroup = open_cgroup(options, HOOKS[0].program)?;
    let mut states = [AttachState {
        attached: 0,
        errno: 0,
        link_id: 0,
        program_id: 0,
    }; PROGRAMS.len()];
    let mut links = Vec::new();
    for (hook, state) in HOOKS.iter().zip(&mut states) {
        if hook.kind == AttachType::Egress && !options.old_sockets {
            discard(pins, hook.program)?;
            continue;
        }
        let failed = |source: io::Error| match source.raw_os_error() {
            // Capabilities were checked before: what is left is somebody's exclusive attachment.
            Some(libc::EPERM) => LoadError::Exclusive {
                cgroup: options.cgroup.clone(),
            },
            _ => LoadError::Attach {
                program: hook.program,
                cgroup: options.cgroup.clone(),
                source,
            },
        };
        let fd = program(object, hook.program)?
            .fd()
            .map_err(|source| LoadError::Program {
                program: hook.program,
                source: Box::new(source),
            })?;
        let attached = attach(pins, hook, fd, &cgroup)
            .and_then(|link| raw::link_info(&link).map(|info| (link, info)));
        match attached {
            Ok((link, info)) => {
                links.push(link);
                *state = AttachState {
                    attached: 1,
                    errno: 0,
                    link_id: info.id,
                    program_id: info.program_id,
                };
            }
            Err(error) if hook.required || error.raw_os_error() == Some(libc::EPERM) => {
                return Err(failed(error));
            }
            Err(error) => {
                discard(pins, hook.program)?;
                state.errno = error
                    .raw_os_error()
                    .and_then(|errno| u32::try_from(errno).ok())
                    .unwrap_or(libc::EIO.cast_unsigned());
            }
        }
    }
    Ok((states, links))
}

fn open_cgroup(options: &Options, program: &'static str) -> Result<OwnedFd, LoadError> {
    File::open(&options.cgroup)
        .map(OwnedFd::from)
        .map_err(|source| LoadError::Attach {
            program,
            cgroup: options.cgroup.clone(),
            source,
        })
}

fn attach(
    pins: Option<&Path>,
    hook: &Hook,
    program: &ProgramFd,
    cgroup: &OwnedFd,
) -> io::Result<OwnedFd> {
    let Some(dir) = pins else {
        return raw::attach(program, cgroup, hook.kind);
    };
    let path = pins::link_path(dir, hook.program);
    let link = match link_on(&path, cgroup)? {
        Some(link) => {
            raw::replace(&link, program)?;
            link
        }
        None => {
            remove_if_there(&path)?;
            let link = raw::attach(program, cgroup, hook.kind)?;
            raw::pin(&link, &path)?;
            link
        }
    };
    // A pin cannot be overwritten, but renamed over.
    let new = dir.join(format!("new_{}", hook.program));
    remove_if_there(&new)?;
    raw::pin(program, &new)?;
    fs::rename(&new, pins::program_path(dir, hook.program))?;
    Ok(link)
}

/// The pinned link if it is on this very cgroup.
fn link_on(path: &Path, cgroup: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    if !path.exists() {
        return Ok(None);
    }
    let link = raw::open(path)?;
    let wanted = File::from(cgroup.try_clone()?).metadata()?.ino();
    Ok((raw::link_info(&link)?.cgroup_id == wanted).then_some(link))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match pins::remove_pin(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Takes a rung down.
fn discard(pins: Option<&Path>, program: &str) -> Result<(), LoadError> {
    let Some(dir) = pins else {
        return Ok(());
    };
    for path in [
        pins::link_path(dir, program),
        pins::program_path(dir, program),
    ] {
        remove_if_there(&path).map_err(|source| LoadError::Remove {
            path: path.clone(),
            source,
        })?;
    }
    Ok(())
}

/// Whether every program that should be attached is, on this cgroup. Anything odd is a no.
pub(super) fn is_whole(options: &Options, pin_dir: &Path) -> Result<bool, LoadError> {
    let cgroup = open_cgroup(options, HOOKS[0].program)?;
    Ok(HOOKS.iter().all(|hook| {
        let path = pins::link_path(pin_dir, hook.program);
        if hook.kind == AttachType::Egress && !options.old_sockets {
            return !path.exists();
        }
        let attached = matches!(link_on(&path, &cgroup), Ok(Some(_)));
        attached || (!hook.required && !path.exists())
    }))
}
