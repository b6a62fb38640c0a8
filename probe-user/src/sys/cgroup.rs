//! Where cgroup v2 and bpffs are mounted.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The first cgroup2 mount of this process's mount namespace.
pub fn cgroup2_mount() -> io::Result<Option<PathBuf>> {
    Ok(first_mount(
        &fs::read_to_string("/proc/self/mounts")?,
        "cgroup2",
    ))
}

/// The first bpffs mount of this process's mount namespace.
pub fn bpffs_mount() -> io::Result<Option<PathBuf>> {
    Ok(first_mount(
        &fs::read_to_string("/proc/self/mounts")?,
        "bpf",
    ))
}

fn first_mount(mounts: &str, kind: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_device, point, fs_type) = (fields.next()?, fields.next()?, fields.next()?);
        // Spaces in mount points come as \040.
        (fs_type == kind).then(|| Path::new(&point.replace("\\040", " ")).to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_kind() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup2 /sys/fs/cgroup/my\\040unified cgroup2 rw 0 0\n\
                      bpf /sys/fs/bpf bpf rw 0 0\n";
        assert_eq!(
            first_mount(mounts, "cgroup2"),
            Some("/sys/fs/cgroup/my unified".into())
        );
        assert_eq!(first_mount(mounts, "bpf"), Some("/sys/fs/bpf".into()));
        assert_eq!(first_mount(mounts, "nfs"), None);
    }
}
