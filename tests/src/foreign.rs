//! Programs of somebody else at the same cgroup, assembled by hand: empty ones, against which the
//! bench measures, and one that overwrites the callback flags, as a careless second owner does.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};

use crate::sys;

/// A kind of program and the place in a cgroup it goes to: `(type, attach type)` of linux/bpf.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    SockOps,
    SockRelease,
    SkbIngress,
    SkbEgress,
    Connect4,
    Connect6,
}

impl Hook {
    fn numbers(self) -> (u32, u32) {
        match self {
            Self::SockOps => (13, 3),
            Self::SockRelease => (9, 34),
            Self::SkbIngress => (8, 0),
            Self::SkbEgress => (8, 1),
            Self::Connect4 => (18, 10),
            Self::Connect6 => (18, 11),
        }
    }
}

/// A loaded program, attached while this value lives.
pub struct Foreign {
    program: OwnedFd,
    _link: OwnedFd,
}

/// Run time statistics of a program, from its fdinfo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunStats {
    pub nanoseconds: u64,
    pub runs: u64,
}

impl Foreign {
    /// Returns "go on" and nothing else.
    pub fn empty(hook: Hook, cgroup: &Path) -> Result<Self> {
        Self::attach("a8t_empty", hook, cgroup, &[RETURN_1, EXIT])
    }

    /// Sets the callback flags to 0 whenever a connection is established, on either side.
    pub fn clears_flags(cgroup: &Path) -> Result<Self> {
        const ACTIVE_ESTABLISHED: i32 = 4;
        const PASSIVE_ESTABLISHED: i32 = 5;
        const CB_FLAGS_SET: i32 = 59;
        let program = [
            instruction(0xbf, 6, 1, 0, 0), // r6 = context
            instruction(0x61, 2, 6, 0, 0), // r2 = op
            instruction(0x15, 2, 0, 1, ACTIVE_ESTABLISHED),
            instruction(0x55, 2, 0, 3, PASSIVE_ESTABLISHED),
            instruction(0xbf, 1, 6, 0, 0),
            instruction(0xb7, 2, 0, 0, 0),
            instruction(0x85, 0, 0, 0, CB_FLAGS_SET),
            RETURN_1,
            EXIT,
        ];
        Self::attach("a8t_clear", Hook::SockOps, cgroup, &program)
    }

    /// Attaches an empty program that tolerates no other at this cgroup; it stays until the cgroup is removed.
    pub fn exclusive(hook: Hook, cgroup: &Path) -> Result<()> {
        let (prog_type, attach_type) = hook.numbers();
        let program = sys::load_program("a8t_alone", prog_type, attach_type, &[RETURN_1, EXIT])?;
        sys::attach_exclusively(&program, &File::open(cgroup)?, attach_type)
            .with_context(|| format!("attach exclusively to `{}`", cgroup.display()))
    }

    fn attach(name: &str, hook: Hook, cgroup: &Path, program: &[u64]) -> Result<Self> {
        let (prog_type, attach_type) = hook.numbers();
        let program = sys::load_program(name, prog_type, attach_type, program)
            .with_context(|| format!("load `{name}` for {hook:?}"))?;
        let folder = File::open(cgroup)?;
        let link = sys::link_to_cgroup(&program, &folder, attach_type)
            .with_context(|| format!("attach `{name}` to `{}`", cgroup.display()))?;
        Ok(Self {
            program,
            _link: link,
        })
    }

    /// Zero unless statistics were enabled while it ran.
    pub fn stats(&self) -> Result<RunStats> {
        run_stats(self.program.as_raw_fd())
    }
}

/// Run time statistics of any program this process holds a descriptor of.
pub fn run_stats(program: i32) -> Result<RunStats> {
    Ok(RunStats {
        nanoseconds: fdinfo(program, "run_time_ns")?,
        runs: fdinfo(program, "run_cnt")?,
    })
}

/// A numeric field of /proc/self/fdinfo, such as `memlock` of a map.
pub fn fdinfo(descriptor: i32, field: &str) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}"))?;
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| *name == field)
        .and_then(|(_, value)| value.trim().parse().ok())
        .with_context(|| format!("no `{field}` in fdinfo of a BPF object:\n{text}"))
}

const RETURN_1: u64 = instruction(0xb7, 0, 0, 0, 1);
const EXIT: u64 = instruction(0x95, 0, 0, 0, 0);

/// One instruction in the kernel's encoding (little-endian machines).
const fn instruction(code: u8, target: u8, source: u8, offset: i16, immediate: i32) -> u64 {
    code as u64
        | ((target | source << 4) as u64) << 8
        | (offset as u16 as u64) << 16
        | (immediate as u32 as u64) << 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Cgroup;
    use crate::netns::{missing, skip};

    #[test]
    fn every_kind_loads_and_attaches() -> Result<()> {
        if skip(missing())? {
            return Ok(());
        }
        let cgroup = Cgroup::create("foreign")?;
        let hooks = [
            Hook::SockOps,
            Hook::SockRelease,
            Hook::SkbIngress,
            Hook::SkbEgress,
            Hook::Connect4,
            Hook::Connect6,
        ];
        let mut kept = vec![Foreign::clears_flags(cgroup.path())?];
        for hook in hooks {
            kept.push(Foreign::empty(hook, cgroup.path())?);
        }
        assert_eq!(kept[0].stats()?.runs, 0);
        Ok(())
    }
}
