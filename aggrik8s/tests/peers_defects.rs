//! Defects of other tools' command lines, each as a test that ours does not have it.

mod fake;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use fake::{FakeMesh, Manner};

fn aggrik8s(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_aggrik8s"))
        .args(arguments)
        .output()
        .expect("the binary runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// cilium-cli, `clustermesh status -o json`: after a failed status it prints the JSON and exits with 0.
#[test]
fn a_failure_fails_in_every_form_of_output() {
    let fake = FakeMesh::new("forms", 2, &[("west", Manner::Refuses)]);
    for form in ["table", "short", "json", "junit"] {
        let output = fake.verify(&["-o", form]);
        assert_eq!(output.status.code(), Some(1), "{form}");
        assert!(!output.stdout.is_empty(), "{form}");
    }
}

/// cilium-cli, `--junit-property`: accepted, and never used.
#[test]
fn options_that_are_accepted_have_an_effect() {
    let fake = FakeMesh::new("effect", 2, &[]);
    let budget = |arguments: &[&str]| {
        let output = fake.verify(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        stderr.lines().next().unwrap_or_default().to_owned()
    };
    let plain = budget(&["--only", "loss.*"]);
    assert!(plain.starts_with("budget: "), "{plain}");
    for arguments in [
        &["--only", "reach.*"] as &[&str],
        &["--only", "loss.*", "--budget", "200kB"],
        &["--only", "loss.*", "--quiet"],
    ] {
        assert_ne!(budget(arguments), plain, "{arguments:?}");
    }
}

/// subctl: prompt and help name a flag that does not exist.
#[test]
fn every_flag_that_the_documentation_names_exists() {
    let mut known: BTreeSet<String> = BTreeSet::new();
    let mut ask = vec![vec!["--help"]];
    for command in [
        "verify",
        "validate",
        "install",
        "uninstall",
        "explain",
        "completions",
        "version",
    ] {
        ask.push(vec![command, "--help"]);
    }
    for command in ["up", "down", "status", "exec", "fault"] {
        ask.push(vec!["lab", command, "--help"]);
    }
    for fault in [
        "blackhole",
        "loss",
        "delay",
        "path",
        "policy-deny",
        "starve",
        "clear",
    ] {
        ask.push(vec!["lab", "fault", fault, "--help"]);
    }
    for arguments in ask {
        known.extend(flags(&aggrik8s(&arguments)));
    }
    assert!(known.contains("--wait") && known.len() > 15, "{known:?}");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = std::fs::read_to_string(root.join("docs/cli.md")).expect("docs/cli.md");
    let hints = verify::checks::markdown() + &verify::causes::table::markdown();
    let ours = hints
        .lines()
        .filter(|line| !line.contains("aggrik8s-probe"));
    let named = flags(&text).chain(ours.flat_map(flags));
    let unknown: BTreeSet<String> = named.filter(|flag| !known.contains(flag)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// `--word` of a text.
fn flags(text: &str) -> impl Iterator<Item = String> + '_ {
    text.match_indices("--").filter_map(|(at, _)| {
        let before = text[..at].chars().next_back();
        let word: String = text[at + 2..]
            .chars()
            .take_while(|c| c.is_ascii_lowercase() || *c == '-')
            .collect();
        let starts = before.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '-' && c != '|');
        (starts && word.starts_with(|c: char| c.is_ascii_lowercase())).then(|| format!("--{word}"))
    })
}
