//! `--save-baseline` and `--baseline` of the real binary: what is kept, compared, and refused.

mod fake;

use std::path::Path;
use std::process::{Command, Output};

use fake::{FakeMesh, Manner};
use serde_json::Value;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn exits(output: &Output, code: i32) {
    assert_eq!(
        output.status.code(),
        Some(code),
        "stdout:\n{}\nstderr:\n{}",
        text(&output.stdout),
        text(&output.stderr)
    );
}

fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let names = entries.map(|e| e.expect("an entry").file_name().display().to_string());
    let mut names: Vec<String> = names.filter(|n| n.contains("baseline")).collect();
    names.sort();
    names
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON")
}

#[test]
fn a_ready_run_is_kept_and_compared_with() {
    let fake = FakeMesh::new("baseline-kept", 3, &[]);
    let path = fake.folder.join("baseline.json");
    let file = path.display().to_string();
    let output = fake.verify(&["--save-baseline", &file]);
    exits(&output, 0);
    let said = text(&output.stderr);
    assert!(said.contains(" connects of 6 links kept in `"), "{said}");
    assert_eq!(files(&fake.folder), ["baseline.json"]);

    let kept = json(&path);
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schema/baseline.schema.json");
    let validator = jsonschema::validator_for(&json(&schema)).expect("a schema");
    let problems: Vec<String> = validator
        .iter_errors(&kept)
        .map(|e| e.to_string())
        .collect();
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(
        (&kept["schemaVersion"], &kept["mesh"]),
        (&1.into(), &"fake".into())
    );
    assert_eq!(
        (&kept["result"], &kept["objectives"]["loss"]),
        (&"READY".into(), &0.01.into())
    );
    for link in kept["links"].as_array().expect("links") {
        for time in ["connect", "handshake_rtt"] {
            assert!(link[time]["n"].as_u64().is_some_and(|n| n >= 309), "{link}");
        }
    }

    // The same mesh, a little later, and one that is not what it was.
    let output = fake.verify(&["--baseline", &file, "-o", "json"]);
    exits(&output, 0);
    assert_eq!(statuses(&output).len(), 6);
    assert!(
        !statuses(&output).contains(&"fail".to_owned()),
        "{:?}",
        statuses(&output)
    );
    let mut faster = kept.clone();
    for link in faster["links"].as_array_mut().expect("links") {
        for time in ["connect", "handshake_rtt"] {
            for pair in link[time]["pairs"].as_array_mut().expect("pairs") {
                let n: u64 = pair["samples_us"]
                    .as_array()
                    .expect("samples")
                    .iter()
                    .map(|s| s[1].as_u64().expect("a count"))
                    .sum();
                pair["samples_us"] = serde_json::json!([[1, n]]);
            }
        }
    }
    let slow = fake.folder.join("baseline-fast.json");
    std::fs::write(&slow, faster.to_string()).expect("a file");
    let slow = slow.display().to_string();
    let table = fake.verify(&["--baseline", &slow]);
    let found = text(&table.stdout);
    assert!(found.contains("latency.baseline"), "{found}");
}

fn statuses(output: &Output) -> Vec<String> {
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let checks = report["checks"].as_array().expect("checks");
    checks
        .iter()
        .filter(|check| check["id"] == "latency.baseline")
        .map(|check| check["status"].as_str().expect("a status").to_owned())
        .collect()
}

#[test]
fn a_run_that_is_not_ready_is_kept_only_when_asked_for() {
    let fake = FakeMesh::new("baseline-broken", 2, &[("west", Manner::Refuses)]);
    let file = fake.folder.join("baseline.json").display().to_string();
    let output = fake.verify(&["--save-baseline", &file]);
    exits(&output, 1);
    let said = text(&output.stderr);
    assert!(
        said.contains("baseline not saved: the run is NOT READY"),
        "{said}"
    );
    assert!(said.contains("hint: `--even-if-not-ready`"), "{said}");
    assert_eq!(files(&fake.folder), [""; 0]);
    let output = fake.verify(&["--save-baseline", &file, "--even-if-not-ready"]);
    exits(&output, 1);
    assert_eq!(json(Path::new(&file))["result"], "NOT_READY");
}

/// All before a single probe is sent.
#[test]
fn files_that_cannot_be_used_are_refused_with_the_reason() {
    let fake = FakeMesh::new("baseline-bad", 2, &[]);
    let good = fake.folder.join("baseline.json");
    exits(
        &fake.verify(&["--save-baseline", &good.display().to_string()]),
        0,
    );
    let whole = std::fs::read_to_string(&good).expect("a file");
    let report = text(&fake.verify(&["-o", "json"]).stdout);
    let edited = |from: &str, to: &str| {
        assert!(whole.contains(from), "{from}: {whole:.300}");
        whole.replacen(from, to, 1)
    };
    let cases: &[(&str, String, &[&str])] = &[
        (
            "version",
            edited("\"schemaVersion\":1", "\"schemaVersion\":7"),
            &[
                "schema version 7",
                "reads 1",
                "hint: another version of aggrik8s wrote it",
            ],
        ),
        (
            "cut",
            whole[..whole.len() / 2].to_owned(),
            &["is not what `--save-baseline` writes", "cut off"],
        ),
        (
            "empty",
            String::new(),
            &["is not what `--save-baseline` writes", "cut off"],
        ),
        (
            "noise",
            "\u{1b}[2J\u{0}{{{".to_owned(),
            &["is not what `--save-baseline` writes", "hint: "],
        ),
        ("report", report, &["it is no baseline", "not a report"]),
        (
            "other",
            whole.replace("\"east\"", "\"north\""),
            &[
                "of mesh `fake`",
                "no link in common",
                "hint: name a baseline of this mesh",
            ],
        ),
        (
            "count",
            edited("\"failed\":0", "\"failed\":3"),
            &["contradicts itself", "hint: "],
        ),
        (
            "negative",
            edited("\"n\":", "\"n\":-"),
            &["is not what `--save-baseline` writes"],
        ),
    ];
    let before = *fake.started.lock().expect("count");
    for (name, content, expected) in cases {
        let path = fake.folder.join(format!("baseline-{name}.json"));
        std::fs::write(&path, content).expect("a file");
        let output = fake.verify(&["--baseline", &path.display().to_string()]);
        exits(&output, 2);
        let said = text(&output.stderr);
        for words in *expected {
            assert!(said.contains(words), "{name}: no `{words}` in {said}");
        }
        assert!(
            said.contains("hint: ") && !said.contains('\u{1b}'),
            "{name}: {said}"
        );
        assert!(output.stdout.is_empty(), "{name}");
    }
    let nowhere = fake
        .folder
        .join("nowhere/baseline.json")
        .display()
        .to_string();
    let folder = fake.folder.display().to_string();
    let refused: &[(&[&str], &str)] = &[
        (&["--baseline", &nowhere], "cannot read the baseline"),
        (&["--save-baseline", &nowhere], "cannot keep a baseline"),
        (&["--save-baseline", &folder], "cannot keep a baseline"),
        (&["--even-if-not-ready"], "--save-baseline"),
        (&["--only", "latency.baseline"], "nothing to compare with"),
    ];
    for (arguments, words) in refused {
        let output = fake.verify(arguments);
        exits(&output, 2);
        assert!(
            text(&output.stderr).contains(words),
            "{}",
            text(&output.stderr)
        );
    }
    assert_eq!(
        *fake.started.lock().expect("count"),
        before,
        "nothing was sent"
    );
}

/// It is there whole or as it was.
#[test]
fn a_kept_file_survives_until_the_next_is_whole() {
    let fake = FakeMesh::new("baseline-signal", 2, &[("east", Manner::Endless)]);
    let path = fake.folder.join("baseline.json");
    std::fs::write(&path, "as it was").expect("a file");
    let mut child = fake
        .command(&["--save-baseline", &path.display().to_string()])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the binary runs");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while *fake.started.lock().expect("count") == 0 {
        assert!(
            std::time::Instant::now() < deadline,
            "no probe was asked for"
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let killed = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(killed.is_ok_and(|status| status.success()));
    assert_eq!(child.wait().expect("a status").code(), Some(130));
    assert_eq!(files(&fake.folder), ["baseline.json"]);
    assert_eq!(std::fs::read_to_string(&path).expect("a file"), "as it was");
}
