//! `verify --wait`: until READY, until --timeout, until a signal.

mod fake;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fake::{FakeMesh, Manner};

fn spawn(fake: &FakeMesh, arguments: &[&str]) -> Child {
    fake.command(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs")
}

/// Lines of its stderr until one contains `text`.
fn read_until(child: &mut Child, text: &str) -> Vec<String> {
    let stderr = child.stderr.take().expect("piped");
    let mut lines = Vec::new();
    for line in BufReader::new(stderr).lines() {
        let line = line.expect("text");
        lines.push(line);
        if lines.last().is_some_and(|line| line.contains(text)) {
            return lines;
        }
    }
    panic!("`{text}` never came: {lines:?}");
}

fn end(mut child: Child) -> (Option<i32>, String) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while child.try_wait().expect("a child").is_none() {
        assert!(Instant::now() < deadline, "it never ended");
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().expect("output");
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), stdout)
}

#[test]
fn it_goes_on_until_the_mesh_is_ready() {
    let mut fake = FakeMesh::new("wait-ready", 2, &[("west", Manner::Absent)]);
    let mut child = spawn(&fake, &["--wait"]);
    let lines = read_until(&mut child, "waiting for READY");
    assert!(
        lines.last().is_some_and(
            |line| line.starts_with("waiting for READY: UNDECIDED (agent.unreachable); 59")
        ),
        "{lines:?}"
    );
    fake.revive("west");
    let (code, stdout) = end(child);
    assert_eq!(code, Some(0), "{stdout}");
    // One answer, however many runs.
    assert_eq!(stdout.matches("READY with").count(), 1, "{stdout}");
}

#[test]
fn the_last_verdict_is_the_answer_when_time_is_up() {
    let fake = FakeMesh::new("wait-late", 2, &[("west", Manner::Refuses)]);
    let mut child = spawn(&fake, &["--wait", "--timeout", "15s", "-o", "short"]);
    let lines = read_until(&mut child, "too little for another run");
    let waits = lines
        .iter()
        .filter(|line| line.starts_with("waiting for READY: NOT READY (target.refuses)"));
    assert!(waits.count() >= 2, "{lines:?}");
    let (code, stdout) = end(child);
    assert_eq!(code, Some(1), "{stdout}");
    assert_eq!(stdout.matches("NOT READY with").count(), 1, "{stdout}");
}

#[test]
fn a_signal_between_two_runs_gives_the_verdict_of_the_first() {
    let fake = FakeMesh::new("wait-signal", 2, &[("west", Manner::Refuses)]);
    let mut child = spawn(&fake, &["--wait", "-o", "short"]);
    read_until(&mut child, "again in");
    let killed = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(killed.is_ok_and(|status| status.success()));
    let (code, stdout) = end(child);
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stdout.contains("NOT READY with"), "{stdout}");
}
