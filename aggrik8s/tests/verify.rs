//! The real binary against agents on the wire: verdicts, exit codes, bad answers, signals.

mod fake;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

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

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", text(&output.stdout)))
}

/// Results of the links as `source→target RESULT`.
fn links(report: &Value) -> Vec<String> {
    report["links"]
        .as_array()
        .expect("links")
        .iter()
        .map(|row| {
            let word = |key: &str| row[key].as_str().expect("a string").to_owned();
            format!(
                "{}→{} {}",
                word("source_cluster"),
                word("target_cluster"),
                word("result")
            )
        })
        .collect()
}

#[test]
fn honest_agents_are_ready_with_exit_0() {
    let fake = FakeMesh::new("honest", 2, &[]);
    let output = fake.verify(&[]);
    exits(&output, 0);
    let stdout = text(&output.stdout);
    // Its mesh.yaml declares no objectives, so some to paste follow the result.
    let (answer, block) = stdout
        .split_once("\n\n# mesh.yaml declares")
        .expect("a proposal");
    assert!(
        block.contains("\nobjectives:\n  loss: 1%\n  latency_p99: "),
        "{block}"
    );
    let last = answer.lines().last().expect("a result");
    assert!(
        last.starts_with("✓ READY with 95") || last.starts_with("✓ READY with 9"),
        "{last}"
    );
    assert!(!stdout.contains('\u{1b}'), "no colour off a terminal");
    let stderr = text(&output.stderr);
    assert!(stderr.starts_with("budget: at most "), "{stderr}");
    assert!(!stderr.contains('\r'), "no progress off a terminal");
    assert_eq!(*fake.cancelled.lock().expect("count"), 0);
}

#[test]
fn the_json_obeys_the_committed_schema() {
    let fake = FakeMesh::new("schema", 2, &[("west", Manner::Refuses)]);
    let output = fake.verify(&["-o", "json"]);
    exits(&output, 1);
    let report = report(&output);
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schema/verify.schema.json");
    let schema: Value =
        serde_json::from_str(&std::fs::read_to_string(schema).expect("schema")).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let problems: Vec<String> = validator
        .iter_errors(&report)
        .map(|e| e.to_string())
        .collect();
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(report["schemaVersion"], 1);
    assert_eq!(report["result"], "NOT_READY");
    assert_eq!(report["exitCode"], 1);
    assert_eq!(report["tool"]["name"], "aggrik8s");
    assert!(
        report["startedAt"]
            .as_str()
            .is_some_and(|t| t.ends_with('Z'))
    );
    assert!(report["durationSeconds"].as_f64().is_some_and(|s| s > 0.0));
    for check in report["checks"].as_array().expect("checks") {
        for key in [
            "id",
            "status",
            "source_cluster",
            "target_cluster",
            "node",
            "observed",
            "expected",
            "evidence",
            "cause",
            "hint",
        ] {
            assert!(check.get(key).is_some(), "`{key}` is missing in {check}");
        }
    }
}

#[test]
fn refusals_exit_1_and_name_the_direction() {
    let fake = FakeMesh::new("refuses", 3, &[("west", Manner::Refuses)]);
    let output = fake.verify(&["-o", "json"]);
    exits(&output, 1);
    let report = report(&output);
    assert_eq!(
        links(&report),
        [
            "east→west READY",
            "east→pi READY",
            "west→east NOT_READY",
            "west→pi NOT_READY",
            "pi→east READY",
            "pi→west READY"
        ]
    );
    let cause = &report["causes"][0];
    assert_eq!(
        (cause["id"].as_str(), cause["source_cluster"].as_str()),
        (Some("target.refuses"), Some("west"))
    );
}

/// Agents of `pi` misbehave: its links are undecided with the reason, the others are judged, exit 3.
#[track_caller]
fn undecided(test: &str, manner: Manner, arguments: &[&str], reason: &str) {
    let fake = FakeMesh::new(test, 3, &[("pi", manner)]);
    let output = fake.verify(&[&["-o", "json"], arguments].concat());
    exits(&output, 3);
    let report = report(&output);
    // The run ends by itself, well before the 48 s that it may take; a busy machine gets as much again.
    assert!(
        report["durationSeconds"].as_f64().is_some_and(|s| s < 96.0),
        "{}",
        report["durationSeconds"]
    );
    assert_eq!(report["result"], "UNDECIDED");
    assert_eq!(
        links(&report),
        [
            "east→west READY",
            "east→pi UNDECIDED",
            "west→east READY",
            "west→pi UNDECIDED",
            "pi→east UNDECIDED",
            "pi→west UNDECIDED"
        ],
        "{report:#}"
    );
    let silent = report["unreachable"].as_array().expect("unreachable");
    assert!(!silent.is_empty());
    let reasons: Vec<&str> = silent
        .iter()
        .map(|s| s["reason"].as_str().unwrap_or(""))
        .collect();
    assert!(reasons.iter().any(|r| r.contains(reason)), "{reasons:?}");
    assert!(silent.iter().all(|s| s["cluster"] == "pi"), "{silent:?}");
    assert!(report["causes"].as_array().is_some_and(|causes| {
        causes
            .iter()
            .any(|c| c["id"] == "agent.unreachable" && c["node"] == "pi-1")
    }));
    for check in report["checks"].as_array().expect("checks") {
        assert_ne!(
            check["status"], "fail",
            "a silent agent is not a network verdict: {check}"
        );
    }
    assert!(!text(&output.stdout).contains('\u{1b}'));
}

#[test]
fn an_absent_agent() {
    undecided("absent", Manner::Absent, &[], "cannot connect");
}

#[test]
fn a_mute_agent_costs_seconds_not_minutes() {
    undecided("mute", Manner::Mute, &[], "no answer");
}

#[test]
fn an_agent_that_is_somebody_else() {
    undecided("impostor", Manner::Impostor, &[], "another-node");
}

#[test]
fn an_agent_that_dies_in_the_middle() {
    undecided("dies", Manner::DiesAfter(40), &[], "agent `unix:");
}

#[test]
fn an_agent_that_stops_early() {
    undecided("stops", Manner::StopsAfter(40), &[], "results are missing");
}

#[test]
fn an_agent_that_restarts() {
    undecided(
        "restarts",
        Manner::Restarts,
        &[],
        "restarted during the run",
    );
}

#[test]
fn an_agent_that_never_finishes() {
    undecided(
        "endless",
        Manner::Endless,
        // The others are done in a second, or in ten of a busy machine; what is asked of the kernels afterwards has a quarter.
        &["--timeout", "24s"],
        "--timeout 24s",
    );
}

#[test]
fn hostile_results_are_refused_and_named() {
    for (test, manner, reason) in [
        ("index", Manner::WrongIndex, "target 4000000000"),
        ("twice", Manner::Duplicates, "came twice"),
        ("toomany", Manner::TooMany, "1000000"),
        ("outcome", Manner::UnknownOutcome, "splendid"),
        ("absurd", Manner::AbsurdTimes, "longer than the whole run"),
        (
            "control",
            Manner::ControlCharacters,
            "\\u{1b}[2J\\u{202e}evil",
        ),
        (
            "foreign",
            Manner::ForeignResponder,
            "somebody else answered",
        ),
    ] {
        undecided(test, manner, &[], reason);
    }
}

#[test]
fn without_a_kernel_witness_nothing_is_ready() {
    let fake = FakeMesh::new("blind", 2, &[("west", Manner::Blind)]);
    let output = fake.verify(&["-o", "json"]);
    exits(&output, 3);
    let report = report(&output);
    let coverage = report["checks"]
        .as_array()
        .expect("checks")
        .iter()
        .find(|c| c["id"] == "evidence.coverage")
        .expect("coverage");
    assert_eq!(coverage["status"], "undecided");
    assert!(
        coverage["cause"]
            .as_str()
            .is_some_and(|c| c.contains("not pinned")),
        "{coverage}"
    );
}

/// Refused before anything is sent; what the hint asks for is enough.
#[test]
fn too_small_a_budget_for_the_objectives_is_refused() {
    let fake = FakeMesh::new("budget", 2, &[]);
    let output = fake.verify(&["--budget", "300kB"]);
    exits(&output, 2);
    let said = text(&output.stderr);
    assert!(said.contains("cannot be proven"), "{said}");
    assert!(
        said.contains("takes 435 probes without a bad one, and `--budget 300 kB` leaves"),
        "{said}"
    );
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    assert_eq!(*fake.started.lock().expect("count"), 0, "nothing was sent");
    let enough = said.split_once("give it `--budget ").expect("a hint").1;
    let enough = enough.split_once('`').expect("its end").0;
    let output = fake.verify(&["--budget", enough]);
    let code = output.status.code();
    // A busy machine may void a sample, and none is to spare.
    assert!(
        matches!(code, Some(0 | 3)),
        "{code:?} {}",
        text(&output.stderr)
    );
    let said = text(&output.stderr);
    assert!(said.contains("note: --budget leaves 9"), "{said}");
}

/// Whenever it is stopped: while it asks, probes or measures.
#[test]
fn a_signal_at_any_moment_leaves_nothing_behind() {
    type Moment = fn(&FakeMesh) -> bool;
    let moments: [(&str, Manner, Moment); 3] = [
        // Not sooner: a SIGINT that its starter ignores is ignored until the program waits for it.
        ("asking", Manner::Mute, |fake| {
            *fake.accepted.lock().expect("count") > 0
        }),
        ("probing", Manner::Endless, |fake| {
            *fake.started.lock().expect("count") > 0
        }),
        ("measuring", Manner::Honest, |fake| {
            *fake.measured.lock().expect("count") > 0
        }),
    ];
    for (name, manner, moment) in moments {
        let fake = FakeMesh::new(
            &format!("moment-{name}"),
            2,
            &[("east", manner), ("west", manner)],
        );
        let kept = fake.folder.join("kept.json");
        let mut child = fake
            .command(&["--save-baseline", &kept.display().to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        wait_for(name, || {
            moment(&fake) || child.try_wait().expect("a child").is_some()
        });
        let killed = Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status();
        assert!(killed.is_ok());
        wait_for("the end", || child.try_wait().expect("a child").is_some());
        let output = child.wait_with_output().expect("output");
        let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
        match (output.status.code(), signal) {
            (Some(130), _) => assert!(!kept.exists(), "{name}"),
            // It was done before the signal came.
            (Some(0), _) if name == "measuring" => assert!(kept.exists()),
            other => panic!("{name}: {other:?} {}", text(&output.stderr)),
        }
        let left: Vec<_> = std::fs::read_dir(&fake.folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name())
            .filter(|file| file.to_string_lossy().ends_with(".tmp"))
            .collect();
        assert!(left.is_empty(), "{name}: {left:?}");
        if manner == Manner::Endless {
            let started = *fake.started.lock().expect("count");
            wait_for("every stream to be cancelled", || {
                *fake.cancelled.lock().expect("count") >= started
            });
        }
    }
}

#[test]
fn signals_end_it_with_nothing_left_behind() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let fake = FakeMesh::new(
            &format!("signal{code}"),
            2,
            &[("east", Manner::Endless), ("west", Manner::Endless)],
        );
        let mut child = fake
            .command(&[])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        wait_for("probes to start", || {
            *fake.started.lock().expect("count") >= 4
        });
        let started = *fake.started.lock().expect("count");
        let killed = Command::new("kill")
            .args([format!("-{signal}"), child.id().to_string()])
            .status();
        assert!(killed.is_ok_and(|status| status.success()));
        wait_for("the end", || child.try_wait().expect("a child").is_some());
        let output = child.wait_with_output().expect("output");
        exits(&output, code);
        assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
        assert!(text(&output.stderr).contains("before anything was decided"));
        wait_for("every stream to be cancelled", || {
            *fake.cancelled.lock().expect("count") >= started
        });
    }
}

#[track_caller]
fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !holds() {
        assert!(Instant::now() < deadline, "waited 120 s for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_aggrik8s"))
        .args(arguments)
        .env_remove("AGGRIK8S_MESH")
        .env_remove("AGGRIK8S_OUTPUT")
        .output()
        .expect("the binary runs")
}

#[test]
fn usage_and_configuration_errors_exit_2_with_a_hint() {
    let folder = std::env::temp_dir().join(format!("aggrik8s-usage-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let write = |name: &str, content: &str| {
        let path = folder.join(name);
        std::fs::write(&path, content).expect("a file");
        path.display().to_string()
    };
    let broken = write("broken.yaml", "clusters: 7\n");
    let fake = FakeMesh::new("scope", 2, &[]);
    let mut mesh = fake.mesh.clone();
    mesh.objectives.loss = 0.000_01;
    let tight = write("tight.yaml", &mesh.to_yaml());
    let good = fake.folder.join("mesh.yaml").display().to_string();
    let cases: &[(&[&str], &str)] = &[
        (&["verify"], "--file"),
        (&["verify", "--frobnicate"], "unexpected argument"),
        (
            &["verify", "-f", "/nonexistent/mesh.yaml"],
            "cannot read `/nonexistent/mesh.yaml`",
        ),
        (
            &["verify", "--lab", "no-such-lab"],
            "hint: `aggrik8s lab up --name no-such-lab` builds it",
        ),
        (
            &["verify", "--lab", "../../etc"],
            "is not the name of a lab",
        ),
        (&["verify", "-f", &broken], "broken.yaml"),
        (&["verify", "-f", &tight], "objective"),
        (
            &["verify", "-f", &good, "--only", "reach.nothing"],
            "hint: `aggrik8s explain` lists all checks",
        ),
        (&["verify", "-f", &good, "--timeout", "soon"], "--timeout"),
        (&["verify", "-f", &good, "--budget", "none"], "--budget"),
        (&["explain", "reach.nothing"], "no check matches"),
        (&["frobnicate"], "unrecognized subcommand"),
    ];
    for (arguments, expected) in cases {
        let output = run(arguments);
        exits(&output, 2);
        let stderr = text(&output.stderr);
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
        assert!(
            output.stdout.is_empty(),
            "{arguments:?}: {}",
            text(&output.stdout)
        );
    }
    let _ = std::fs::remove_dir_all(&folder);
}

#[test]
fn explain_and_version_answer_offline() {
    let output = run(&["explain", "loss.udp"]);
    exits(&output, 0);
    assert!(text(&output.stdout).contains("witness: receiver's own count"));
    let output = run(&["explain"]);
    exits(&output, 0);
    let known = verify::checks::CHECKS.len() + verify::causes::table::CAUSES.len();
    // Two headings, and a line between.
    assert_eq!(text(&output.stdout).lines().count(), known + 3);
    let output = run(&["explain", "path.loss"]);
    exits(&output, 0);
    assert!(
        text(&output.stdout).starts_with("path.loss (cause)")
            && text(&output.stdout).contains("named when: receiver counts of that direction"),
        "{}",
        text(&output.stdout)
    );
    let output = run(&["version"]);
    exits(&output, 0);
    assert!(text(&output.stdout).starts_with("aggrik8s 0."));
    let output = run(&["completions", "bash"]);
    exits(&output, 0);
    assert!(text(&output.stdout).contains("_aggrik8s"));
}

#[test]
fn only_limits_what_is_asked_and_judged() {
    let fake = FakeMesh::new("only", 2, &[]);
    let output = fake.verify(&["-o", "json", "--only", "loss.*"]);
    exits(&output, 0);
    let report = report(&output);
    let categories: std::collections::BTreeSet<&str> = report["checks"]
        .as_array()
        .expect("checks")
        .iter()
        .filter_map(|c| c["category"].as_str())
        .collect();
    assert_eq!(
        categories.into_iter().collect::<Vec<_>>(),
        ["evidence", "loss"]
    );
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let fake = FakeMesh::new("pipe", 2, &[]);
    let mut child = fake
        .command(&["-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("runs");
    drop(child.stdout.take());
    wait_for("the end", || child.try_wait().expect("a child").is_some());
    assert_eq!(child.wait().expect("status").code(), Some(0));
}

#[test]
fn paths_are_measured_once_and_only_when_asked_for() {
    let fake = FakeMesh::new("measured", 2, &[]);
    exits(&fake.verify(&["--only", "reach.*"]), 0);
    assert_eq!(*fake.measured.lock().expect("count"), 0);
    let output = fake.verify(&["--only", "mtu.path", "-o", "json"]);
    exits(&output, 0);
    // One pair of nodes, measured from one end on the pods' plane alone.
    assert_eq!(*fake.measured.lock().expect("count"), 1);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let checks = report["checks"].as_array().expect("checks");
    let found: Vec<_> = checks.iter().filter(|c| c["id"] == "mtu.path").collect();
    assert_eq!(found.len(), 2);
    for check in found {
        assert_eq!(check["status"], "pass", "{check}");
        assert_eq!(check["observed"]["mtu_bytes"], 1_450);
    }
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("then 1 path MTU search"), "{told}");
}

#[test]
fn an_agent_that_knows_no_measurements_leaves_the_paths_open() {
    let fake = FakeMesh::new(
        "unmeasured",
        2,
        &[
            ("west", Manner::DoesNotMeasure),
            ("east", Manner::DoesNotMeasure),
        ],
    );
    let output = fake.verify(&["-o", "json"]);
    exits(&output, 3);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for check in report["checks"].as_array().expect("checks") {
        let open = check["id"] == "mtu.path";
        if open {
            assert_eq!(check["status"], "undecided");
            let cause = check["cause"].as_str().unwrap_or("");
            assert!(cause.contains("an older agent"), "{check}");
        } else {
            assert_ne!(check["status"], "fail", "{check}");
        }
    }
}
