//! System calls of the lab: entering namespaces and starting processes inside them.
#![allow(
    unsafe_code,
    reason = "a child must change namespace, cgroup and privilege between fork and exec"
)]

pub(crate) mod bpf;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid, setsid};

/// Where and as whom a process runs.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// Network namespace file to enter.
    pub netns: Option<PathBuf>,
    /// cgroup v2 directory to join.
    pub cgroup: Option<PathBuf>,
    /// Become this uid and gid, without any capability and with `no_new_privs`.
    pub unprivileged: Option<u32>,
    /// Run before every ordinary process of the machine (SCHED_RR, lowest priority).
    pub realtime: bool,
    /// Leave the caller's session, so that its terminal's signals do not reach the process.
    pub detached: bool,
    /// File shown as `/etc/resolv.conf`, in a mount namespace of its own.
    pub resolv_conf: Option<PathBuf>,
}

impl Place {
    /// Arranges that `command`'s child moves to this place before it executes.
    ///
    /// # Errors
    /// If the namespace or the cgroup cannot be opened. What fails later, in the child, comes
    /// back from `Command::spawn`.
    pub fn prepare(&self, command: &mut Command) -> io::Result<()> {
        let netns = self.netns.as_deref().map(File::open).transpose()?;
        let mut procs = self
            .cgroup
            .as_deref()
            .map(|dir| File::options().write(true).open(dir.join("cgroup.procs")))
            .transpose()?;
        let place = self.clone();
        let enter = move || {
            if let Some(procs) = &mut procs {
                // "0" is the writer itself.
                procs.write_all(b"0")?;
            }
            if let Some(netns) = &netns {
                setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?;
            }
            if let Some(file) = &place.resolv_conf {
                bind_resolv_conf(file)?;
            }
            if place.detached {
                setsid()?;
                let_go()?;
            }
            if place.realtime {
                go_realtime()?;
            }
            if let Some(id) = place.unprivileged {
                drop_privilege(id)?;
            }
            Ok(())
        };
        // SAFETY: the closure runs in the forked child and makes only system calls on descriptors
        // and strings that were prepared before the fork; it takes no lock and, apart from the
        // errors it builds, does not allocate.
        unsafe { command.pre_exec(enter) };
        Ok(())
    }
}

/// Leaves the caller's open files behind: a lock or a pipe that its shell holds would else live as long as the lab.
fn let_go() -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    // SAFETY: only marks descriptors of this process, which execs next; nothing in it is used by its number.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            FIRST,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    match rc {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn bind_resolv_conf(file: &Path) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let nothing = None::<&str>;
    mount(
        nothing,
        "/",
        nothing,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        nothing,
    )?;
    mount(
        Some(file),
        "/etc/resolv.conf",
        nothing,
        MsFlags::MS_BIND,
        nothing,
    )?;
    Ok(())
}

fn go_realtime() -> io::Result<()> {
    set_scheduler(libc::SCHED_RR, 1)
}

/// Puts the calling thread under a real-time policy. By system call: musl's own function only answers ENOSYS.
pub(crate) fn set_scheduler(policy: i32, priority: u8) -> io::Result<()> {
    let priority = libc::c_int::from(priority);
    // SAFETY: the kernel's `sched_param` is one int, which lives across the call; 0 is the caller.
    let rc = unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const priority) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Whether processes may be started with [`Place::realtime`].
///
/// # Errors
/// Why not: no CAP_SYS_NICE, or a CPU cgroup without a real-time budget.
pub fn may_go_realtime() -> io::Result<()> {
    std::thread::scope(|scope| {
        let attempt = scope.spawn(go_realtime);
        attempt
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn drop_privilege(id: u32) -> io::Result<()> {
    for capability in 0..64 {
        // SAFETY: PR_CAPBSET_DROP takes integers only.
        let rc = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        if rc != 0 {
            let error = io::Error::last_os_error();
            // EINVAL: the kernel has no capability of that number, nor any higher one.
            if error.raw_os_error() == Some(libc::EINVAL) {
                break;
            }
            return Err(error);
        }
    }
    setgroups(&[])?;
    setresgid(Gid::from_raw(id), Gid::from_raw(id), Gid::from_raw(id))?;
    // Leaving uid 0 empties the permitted, effective and ambient sets.
    setresuid(Uid::from_raw(id), Uid::from_raw(id), Uid::from_raw(id))?;
    nix::sys::prctl::set_no_new_privs()?;
    Ok(())
}

/// Runs `work` on a thread of its own inside a network namespace and returns what it returns.
/// `/proc/sys/net` shows that namespace to it.
///
/// # Errors
/// If the namespace cannot be entered.
pub fn in_netns<T: Send>(netns: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let file = File::open(netns)?;
    std::thread::scope(|scope| {
        let worker = scope.spawn(move || {
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        });
        worker
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
