//! What the agent itself uses, from `/proc/self`.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use crate::metrics::Process;

fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * u64::try_from(page).ok()?)
}

/// Use so far; 0 where it cannot be read.
pub(crate) fn usage() -> Process {
    let cpu_seconds = getrusage(UsageWho::RUSAGE_SELF)
        .map(|usage| (usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6)
        .unwrap_or(0.0);
    Process {
        cpu_seconds,
        resident_bytes: resident_bytes().unwrap_or(0),
        open_fds: std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_running_process_uses_something() {
        let usage = super::usage();
        assert!(usage.resident_bytes > 100_000, "{usage:?}");
        assert!(usage.open_fds >= 3, "{usage:?}");
    }
}
