//! What tests make outside their own process is named by their pid, and the first test of a run that makes
//! something removes what the dead left: namespaces, cgroups, pins, labs, containers and folders.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Begins the names of namespaces, cgroups and folders: `a8t-<pid>-<number>-<label>`.
const PREFIX: &str = "a8t-";
/// Below a bpffs; its entries are `<pid>-<number>`.
const PINS: &str = "aggrik8s-test";
const NAMESPACES: &str = "/run/netns";
const LABS: &str = "/run/aggrik8s/lab";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A name that nobody else has, for a namespace, a cgroup or a folder.
pub fn name(label: &str) -> String {
    format!("{PREFIX}{}-{label}", number())
}

/// A path in the folder for temporary files, not yet made.
pub fn temporary(label: &str) -> PathBuf {
    std::env::temp_dir().join(name(label))
}

/// A folder for pins, not yet made.
pub fn pins() -> PathBuf {
    bpffs().join(PINS).join(number())
}

/// The name of a lab.
pub fn lab() -> String {
    format!("t{}", number())
}

/// `<pid>-<number>`, after the dead have been swept away.
fn number() -> String {
    static SWEPT: Once = Once::new();
    SWEPT.call_once(sweep);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{}-{next}", std::process::id())
}

fn bpffs() -> PathBuf {
    let mounted = probe_user::sys::cgroup::bpffs_mount().ok().flatten();
    mounted.unwrap_or_else(|| PathBuf::from("/sys/fs/bpf"))
}

/// Removes what belongs to no living process. What cannot be removed stays: it is no matter of this run.
fn sweep() {
    let temporary = std::env::temp_dir();
    for path in of_the_dead(&temporary, PREFIX) {
        // A container's state is in its folder, its processes are not.
        if path.join("state").is_dir() {
            let id = path.file_name().unwrap_or_default();
            quietly(
                Command::new("runc")
                    .arg("--root")
                    .arg(path.join("state"))
                    .args(["delete", "--force"])
                    .arg(id),
            );
        }
        let _ = nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH);
        let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
    }
    for pins in of_the_dead(&bpffs().join(PINS), "") {
        let _ = fs::remove_dir_all(pins);
    }
    for root in crate::cgroup::hierarchies().unwrap_or_default() {
        for cgroup in of_the_dead(&root, PREFIX) {
            remove_cgroup(&cgroup, Duration::from_secs(1));
        }
    }
    for namespace in of_the_dead(Path::new(NAMESPACES), PREFIX) {
        let name = namespace.file_name().unwrap_or_default().to_owned();
        quietly(Command::new("ip").args(["netns", "del"]).arg(name));
    }
    sweep_labs();
}

/// Labs are removed by the product itself, of whatever part of them is left.
fn sweep_labs() {
    let cgroups = crate::cgroup::mount().map(|root| root.join("aggrik8s"));
    let mut names: Vec<String> = of_the_dead(Path::new(LABS), "t")
        .into_iter()
        .chain(of_the_dead(Path::new(NAMESPACES), "ak-t"))
        .chain(of_the_dead(&cgroups.unwrap_or_default(), "t"))
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?;
            Some(name.trim_start_matches("ak-").split('.').next()?.to_owned())
        })
        .collect();
    names.sort();
    names.dedup();
    if let Ok(binary) = crate::lab_rig::binary() {
        for name in names {
            quietly(Command::new(&binary).args(["lab", "down", "--name", &name]));
        }
    }
    for lock in of_the_dead(Path::new(LABS), ".t") {
        let _ = fs::remove_file(lock);
    }
}

/// Removes a cgroup with those in it, and kills what still runs there: it was started by a test that is gone.
pub(crate) fn remove_cgroup(path: &Path, limit: Duration) {
    let _ = fs::write(path.join("cgroup.kill"), "1");
    let children = fs::read_dir(path).into_iter().flatten().flatten();
    for child in children.filter(|c| c.path().is_dir()) {
        remove_cgroup(&child.path(), limit);
    }
    let deadline = Instant::now() + limit;
    while fs::remove_dir(path).is_err() && path.exists() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
}

/// Entries of a folder that are called `<prefix><pid>-…`, where no process has that pid.
fn of_the_dead(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            let name = entry.file_name();
            let pid = name
                .to_str()
                .and_then(|name| name.strip_prefix(prefix)?.split_once('-'))
                .and_then(|(pid, _)| pid.parse::<u32>().ok());
            pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
        })
        .map(|entry| entry.path())
        .collect()
}

/// Whatever comes of it: another test may be sweeping, too.
fn quietly(command: &mut Command) {
    let _ = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::{self, Cgroup};
    use crate::netns::{Netns, ip, missing, skip};

    /// Above the largest possible pid, so that no process has it.
    const DEAD: &str = "99999999";

    #[test]
    fn what_the_dead_left_goes_and_what_the_living_use_stays() -> anyhow::Result<()> {
        if skip(missing())? {
            return Ok(());
        }
        let (namespace, group) = (Netns::create("alive")?, Cgroup::create("alive")?);
        let folder = temporary("alive");
        fs::create_dir_all(&folder)?;
        let living = [
            PathBuf::from(namespace.path()),
            group.path().into(),
            folder.clone(),
        ];

        let own = std::process::id();
        ip(&["netns", "add", &format!("{PREFIX}{DEAD}-{own}")])?;
        ip(&["netns", "add", &format!("ak-t{DEAD}-{own}.fabric")])?;
        let dead = [
            std::env::temp_dir().join(format!("{PREFIX}{DEAD}-{own}")),
            cgroup::mount()?.join(format!("{PREFIX}{DEAD}-{own}")),
            bpffs().join(PINS).join(format!("{DEAD}-{own}")),
            Path::new(LABS).join(format!("t{DEAD}-{own}")),
        ];
        for path in &dead {
            fs::create_dir_all(path)?;
        }
        fs::write(dead[0].join("file"), "text")?;
        fs::create_dir(dead[1].join("child"))?;
        let mut sleeper = Command::new("sleep").arg("600").spawn()?;
        cgroup::join(&dead[1].join("child"), sleeper.id())?;
        sweep();
        let ended = sleeper.wait()?;
        anyhow::ensure!(!ended.success(), "the sleeper was killed: {ended}");
        for path in &dead {
            anyhow::ensure!(!path.exists(), "{} is still there", path.display());
        }
        for name in [
            format!("{PREFIX}{DEAD}-{own}"),
            format!("ak-t{DEAD}-{own}.fabric"),
        ] {
            anyhow::ensure!(!Path::new(NAMESPACES).join(&name).exists(), "{name}");
        }
        for path in &living {
            anyhow::ensure!(path.exists(), "{} is gone", path.display());
        }
        fs::remove_dir(folder)?;
        Ok(())
    }
}
