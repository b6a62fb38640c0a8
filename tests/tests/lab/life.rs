//! How labs come and go: side by side, locked, killed at any moment, interrupted, and refused.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::lab_rig::{ECHO, Lab, binary, both, missing, wait};
use tests::leftovers;
use tests::netns::skip;

use super::SMALL;

#[test]
fn two_labs_live_side_by_side_and_names_are_taken_once() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let (one, two) = (Lab::up(&SMALL)?, Lab::up(&SMALL)?);
    let reach = |lab: &Lab| -> Result<()> {
        let target = lab.place("client-cp-w-1")?.address(false)?;
        lab.place("client-cp-e-1")?
            .tcp_echo((target, ECHO).into())
            .map(drop)
    };
    let before = two.crossed("talos-east", "talos-west")?;
    reach(&one)?;
    ensure!(
        two.crossed("talos-east", "talos-west")? == before,
        "a packet of one lab crossed the other's line"
    );
    let again = one.cli("up", &SMALL)?;
    let text = both(&again);
    ensure!(
        again.status.code() == Some(2) && text.contains("already up") && text.contains("hint:"),
        "{text}"
    );
    reach(&one)?;
    one.ok("down", &[])?;
    ensure!(one.remains()?.is_empty(), "{:?}", one.remains()?);
    reach(&two)?;
    let twice = one.ok("down", &[])?;
    ensure!(twice.contains("there was no lab"), "{twice}");
    Ok(())
}

/// A lock that a script holds while it calls `lab up` must not live on in the lab.
#[test]
fn the_callers_open_files_stay_with_the_caller() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let lab = Lab::named();
    let held = tempfile::NamedTempFile::new()?;
    let up = Command::new("sh")
        .args(["-c", r#"exec 9>"$1"; shift; exec "$@""#, "up"])
        .arg(held.path())
        .arg(binary()?)
        .args(["lab", "up", "--name", lab.name()])
        .args(SMALL)
        .output()?;
    ensure!(up.status.success(), "{}", both(&up));
    let mut looked = 0;
    for process in lab.status()?["processes"].as_array().context("processes")? {
        let pid = process["pid"].as_i64().context("a pid")?;
        for file in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
            let target = std::fs::read_link(file?.path()).unwrap_or_default();
            ensure!(target != held.path(), "{process} holds it");
        }
        looked += 1;
    }
    ensure!(looked > 0, "no process looked at");
    Ok(())
}

#[test]
fn two_commands_do_not_change_one_lab_at_once() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let lab = Lab::named();
    std::fs::create_dir_all("/run/aggrik8s/lab")?;
    let path = format!("/run/aggrik8s/lab/.{}.lock", lab.name());
    let hold = || -> Result<File> {
        let lock = File::create(&path)?;
        lock.lock()?;
        Ok(lock)
    };
    let lock = hold()?;
    for verb in ["up", "down"] {
        let args: &[&str] = if verb == "up" { &SMALL } else { &[] };
        let output = lab.cli(verb, args)?;
        ensure!(
            output.status.code() == Some(5),
            "{verb}: {}\n{}",
            output.status,
            both(&output)
        );
    }
    let ours = [format!("lock {path}")];
    ensure!(lab.remains()? == ours, "{:?}", lab.remains()?);

    // Who waits for a lock that its last holder removes must not take the removed one for the lab's.
    let mut down = lab.command("down", &[])?.stderr(Stdio::null()).spawn()?;
    let files = format!("/proc/{}/fd", down.id());
    wait("the waiting command", || {
        let open = std::fs::read_dir(&files)?.flatten();
        let mut open = open.filter_map(|f| std::fs::read_link(f.path()).ok());
        Ok(open.any(|target| target == Path::new(&path)))
    })?;
    std::fs::remove_file(&path)?;
    let next = hold()?;
    drop(lock);
    let status = down.wait()?;
    ensure!(status.code() == Some(5), "{status}");
    drop(next);
    lab.bring_up(&SMALL)?;
    Ok(())
}

#[test]
fn what_a_kill_leaves_is_found_and_removed() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    // One moment in every step of `up`; each is followed by `down` alone and by `up` again.
    let mut in_time = 0;
    for part in ["state.json", "netns", "line.json", "mesh.yaml", "line.sock"] {
        for again in [false, true] {
            let lab = Lab::named();
            let moment = match part {
                "netns" => format!("/run/netns/ak-{}.fabric", lab.name()).into(),
                file => lab.run_dir().join(file),
            };
            // Many namespaces: the tool that makes them is at work for a while after the kill.
            let options = match part {
                "netns" => &["--bare", "--clusters", "2", "--nodes", "40"][..],
                _ => &SMALL,
            };
            let killed = lab.killed_up(options, &moment)?;
            in_time += usize::from(killed);
            if again && killed {
                lab.bring_up(&SMALL)?;
                let target = lab.place("client-cp-w-1")?.address(true)?;
                lab.place("client-cp-e-1")?
                    .tcp_echo((target, ECHO).into())?;
            }
            lab.ok("down", &[])?;
            ensure!(
                lab.remains()?.is_empty(),
                "killed at {part}: {:?}",
                lab.remains()?
            );
        }
    }
    ensure!(
        in_time >= 6,
        "only {in_time} of 10 were killed before their end"
    );
    Ok(())
}

#[test]
fn a_lab_whose_processes_were_killed_is_built_anew() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let lab = Lab::up(&SMALL)?;
    for process in lab.status()?["processes"].as_array().context("processes")? {
        let pid = process["pid"]
            .as_i64()
            .and_then(|p| i32::try_from(p).ok())
            .context("a pid")?;
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    }
    wait("all processes' end", || Ok(!lab.alive("line")?))?;
    let text = lab.bring_up(&SMALL)?;
    ensure!(text.contains("removed what was left"), "{text}");
    let target = lab.place("client-cp-w-1")?.address(false)?;
    lab.place("client-cp-e-1")?
        .tcp_echo((target, ECHO).into())?;
    Ok(())
}

#[test]
fn a_signal_ends_up_and_leaves_nothing() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let lab = Lab::named();
        // Ten clusters' worth of work is not needed: the run directory appears early.
        let mut up = lab
            .command("up", &["--bare", "--nodes", "12"])?
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        wait("the run directory", || {
            Ok(lab.run_dir().join("state.json").exists())
        })?;
        kill(Pid::from_raw(i32::try_from(up.id())?), signal)?;
        let status = up.wait()?;
        ensure!(status.code() == Some(code), "{signal}: {status}");
        ensure!(lab.remains()?.is_empty(), "{signal}: {:?}", lab.remains()?);
    }
    Ok(())
}

#[test]
fn mistakes_get_a_clear_word_and_build_nothing() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let lab = Lab::named();
    let cases: [(&[&str], &str); 6] = [
        (&["--bare", "--nodes", "2"], "3 clusters need 3 to 60 nodes"),
        (&["--bare", "--clusters", "4"], "1 to 3 clusters"),
        (&["--bare", "--delay", "talos-east:mars=5ms"], "`mars`"),
        (&["--bare", "--behind", "drones=mars"], "no cluster `mars`"),
        (&["--bpffs", "/proc"], "not a mounted bpffs"),
        (
            &["--bare", "-f", "/no/such/mesh.yaml"],
            "/no/such/mesh.yaml",
        ),
    ];
    for (args, expected) in cases {
        let output = lab.cli("up", args)?;
        let text = both(&output);
        ensure!(
            output.status.code() == Some(2) && text.contains(expected),
            "{args:?}: {}\n{text}",
            output.status
        );
        ensure!(lab.remains()?.is_empty(), "{args:?}: {:?}", lab.remains()?);
    }
    for (verb, args) in [
        ("status", &[][..]),
        ("exec", &["x", "--", "true"]),
        ("fault", &["list"]),
    ] {
        let output = lab.cli(verb, args)?;
        let text = both(&output);
        ensure!(
            output.status.code() == Some(2) && text.contains("hint: bring it up"),
            "{verb}: {}\n{text}",
            output.status
        );
    }
    Ok(())
}

#[test]
fn without_root_it_says_so() -> Result<()> {
    use std::os::unix::process::CommandExt;
    if skip(missing())? {
        return Ok(());
    }
    // Where the binary was built may be closed to others.
    let copy = leftovers::temporary("aggrik8s");
    std::fs::copy(binary()?, &copy)?;
    let output = Command::new(&copy)
        .args(["lab", "up", "--bare", "--name", "never"])
        .uid(65_534)
        .gid(65_534)
        .current_dir("/")
        .output();
    std::fs::remove_file(&copy)?;
    let output = output?;
    let text = both(&output);
    ensure!(
        output.status.code() == Some(2) && text.contains("needs root") && text.contains("sudo"),
        "{}\n{text}",
        output.status
    );
    Ok(())
}
