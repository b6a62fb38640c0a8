//! The real binary's `validate`: streams and exit codes.

use std::io::Write;
use std::process::{Command, Stdio};

const GOOD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/aggrik8s-net.yaml");
const BAD: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../mesh/tests/data/ten-mistakes.yaml"
);

/// Exit code, stdout, stderr.
fn validate(args: &[&str], stdin: &[u8]) -> (Option<i32>, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_aggrik8s"))
        .arg("validate")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn a_good_file_is_summed_up_on_stdout() {
    let (code, stdout, stderr) = validate(&[GOOD], b"");
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        stdout.starts_with("ok: mesh `aggrik8s-net`: 3 clusters, 17 nodes, 6 links in scope\n"),
        "{stdout}"
    );
    assert!(stderr.starts_with("note: no node of "), "{stderr}");
    let (code, quiet, stderr) = validate(&["-q", GOOD], b"");
    assert_eq!((code, quiet, stderr.as_str()), (Some(0), stdout, ""));
}

#[test]
fn ten_mistakes_are_ten_problems_on_stderr_and_exit_2() {
    let (code, stdout, stderr) = validate(&[BAD], b"");
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    let places = stderr.lines().filter(|l| l.starts_with(BAD));
    assert_eq!(places.count(), 10, "{stderr}");
    for place in [
        ":6:5: clusters[0].pod_cidr: ",
        ":14:17: clusters[1].pod_cidrs[0]: ",
    ] {
        assert!(stderr.contains(place), "{place} is missing in\n{stderr}");
    }
}

#[test]
fn json_is_all_there_is_on_stdout() {
    let (code, stdout, stderr) = validate(&["-o", "json", BAD], b"");
    assert_eq!((code, stderr.as_str()), (Some(2), ""));
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["problems"].as_array().unwrap().len(), 10);
    assert_eq!(report["source"], BAD);
}

#[test]
fn standard_input_and_what_is_no_file() {
    let good = std::fs::read(GOOD).unwrap();
    assert_eq!(validate(&["-"], &good).0, Some(0));
    let (code, _, stderr) = validate(&["-"], b"mesh: m\nclusters: []\n");
    assert_eq!(code, Some(2));
    assert!(
        stderr.starts_with("<stdin>:2:11: clusters: empty scope"),
        "{stderr}"
    );
    for (file, why) in [("/no/such/file", "No such file"), ("/", "Is a directory")] {
        let (code, stdout, stderr) = validate(&[file], b"");
        assert_eq!((code, stdout.as_str()), (Some(2), ""));
        assert!(
            stderr.starts_with(&format!("error: failed to read `{file}`: {why}")),
            "{stderr}"
        );
    }
    let (code, _, stderr) = validate(&["-"], b"mesh: \xff\n");
    assert_eq!(code, Some(2));
    assert!(stderr.contains("UTF-8"), "{stderr}");
    assert_eq!(validate(&[], b"").0, Some(2));
}

#[test]
fn lab_up_refuses_a_bad_file_with_the_same_words() {
    let output = Command::new(env!("CARGO_BIN_EXE_aggrik8s"))
        .args(["lab", "up", "--name", "never-built", "-f", BAD])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("did you mean `pod_cidrs`?"), "{stderr}");
}
