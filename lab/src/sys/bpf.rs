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
    replace_bpf_fd: u32,
}

/// The same for BPF_PROG_QUERY.
#[repr(C)]
struct ProgQuery {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    /// Room for ids, then how many there are.
    count: u32,
    padding: u32,
}

/// The same for BPF_OBJ_GET_INFO_BY_FD.
#[repr(C)]
struct InfoByFd {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The leading part of `struct bpf_prog_info`.
#[repr(C, align(8))]
struct ProgInfo {
    before: [u8; 64],
    name: [u8; 16],
}

const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const PROG_QUERY: libc::c_long = 16;

fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: pointer and size describe `attributes`, which is ours to be written to; what it points
    // at is as long as it says and belongs to the callers below until the call is over.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
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
        &mut ProgLoad {
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
    put(program, cgroup, hook, None)
}

/// Attaches a program to a cgroup in the place of the one that [`attach`] left there.
pub(crate) fn replace(program: &OwnedFd, cgroup: &File, hook: Hook) -> io::Result<()> {
    let old = attached(cgroup, hook)?.ok_or(io::ErrorKind::NotFound)?;
    put(program, cgroup, hook, Some(&old))
}

fn put(
    program: &OwnedFd,
    cgroup: &File,
    hook: Hook,
    instead_of: Option<&OwnedFd>,
) -> io::Result<()> {
    const ALLOW_MULTI: u32 = 2;
    const REPLACE: u32 = 4;
    bpf(
        PROG_ATTACH,
        &mut ProgAttach {
            target_fd: descriptor(cgroup)?,
            attach_bpf_fd: descriptor(program)?,
            attach_type: hook.attach_type(),
            attach_flags: ALLOW_MULTI | instead_of.map_or(0, |_| REPLACE),
            replace_bpf_fd: instead_of.map_or(Ok(0), descriptor)?,
        },
    )
    .map(drop)
}

fn descriptor(of: &impl AsRawFd) -> io::Result<u32> {
    u32::try_from(of.as_raw_fd()).map_err(io::Error::other)
}

/// Our program among those that are attached to the cgroup, known by its name.
fn attached(cgroup: &File, hook: Hook) -> io::Result<Option<OwnedFd>> {
    let mut ids = [0_u32; 64];
    let mut query = ProgQuery {
        target_fd: descriptor(cgroup)?,
        attach_type: hook.attach_type(),
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        padding: 0,
    };
    bpf(PROG_QUERY, &mut query)?;
    for &id in ids.iter().take(query.count as usize) {
        let fd = bpf(PROG_GET_FD_BY_ID, &mut [id, 0, 0])?;
        // SAFETY: BPF_PROG_GET_FD_BY_ID returned a descriptor of which nobody else knows.
        let program = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut info = ProgInfo {
            before: [0; 64],
            name: [0; 16],
        };
        bpf(
            OBJ_GET_INFO_BY_FD,
            &mut InfoByFd {
                bpf_fd: descriptor(&program)?,
                info_len: size_of::<ProgInfo>() as u32,
                info: std::ptr::from_mut(&mut info) as u64,
            },
        )?;
        if info.name == hook.name() {
            return Ok(Some(program));
        }
    }
    Ok(None)
}
