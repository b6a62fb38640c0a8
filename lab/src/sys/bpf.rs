//! bpf(2), as far as a program of a few instructions needs it: load it, attach it to a cgroup.
#![allow(unsafe_code, reason = "bpf(2) has no safe wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `connect(2)` of an IPv4 or an IPv6 socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    Connect4,
    Connect6,
}

impl Hook {
    /// `BPF_CGROUP_INET4_CONNECT` and its IPv6 twin of linux/bpf.h.
    fn attach_type(self) -> u32 {
        match self {
            Self::Connect4 => 10,
            Self::Connect6 => 11,
        }
    }

    /// What `bpftool` shows.
    fn name(self) -> [u8; 16] {
        match self {
            Self::Connect4 => *b"lab_connect4\0\0\0\0",
            Self::Connect6 => *b"lab_connect6\0\0\0\0",
        }
    }
}

/// The leading part of `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log: [u32; 4],
    kern_version: u32,
    prog_flags: u32,
    name: [u8; 16],
    ifindex: u32,
    expected_attach_type: u32,
}

/// The same for BPF_PROG_ATTACH.
#[repr(C)]
struct ProgAttach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;

fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<libc::c_int> {
    // SAFETY: pointer and size describe `attributes`, and both commands only read them; what they
    // point at is borrowed by the callers below until the call is over.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(result).map_err(io::Error::other)
}

/// Loads a program given in the kernel's encoding.
pub(crate) fn load(hook: Hook, instructions: &[u64]) -> io::Result<OwnedFd> {
    const CGROUP_SOCK_ADDR: u32 = 18;
    let fd = bpf(
        PROG_LOAD,
        &ProgLoad {
            prog_type: CGROUP_SOCK_ADDR,
            insn_cnt: u32::try_from(instructions.len()).map_err(io::Error::other)?,
            insns: instructions.as_ptr() as u64,
            license: c"Dual MIT/GPL".as_ptr() as u64,
            log: [0; 4],
            kern_version: 0,
            prog_flags: 0,
            name: hook.name(),
            ifindex: 0,
            expected_attach_type: hook.attach_type(),
        },
    )?;
    // SAFETY: BPF_PROG_LOAD returned a descriptor of which nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a program to a cgroup, beside those of others and after them, until the cgroup is removed.
pub(crate) fn attach(program: &OwnedFd, cgroup: &File, hook: Hook) -> io::Result<()> {
    const ALLOW_MULTI: u32 = 2;
    let descriptor = |fd: i32| u32::try_from(fd).map_err(io::Error::other);
    bpf(
        PROG_ATTACH,
        &ProgAttach {
            target_fd: descriptor(cgroup.as_raw_fd())?,
            attach_bpf_fd: descriptor(program.as_raw_fd())?,
            attach_type: hook.attach_type(),
            attach_flags: ALLOW_MULTI,
        },
    )
    .map(drop)
}
