//! Holds the architecture: who may depend on whom, what stays pure, where unsafe code may live, and
//! the form of every file. The rules are pure functions; each has a test that shows it can find a breach.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use serde_json::Value;

/// Which of our crates each crate may use outside its tests. Dependencies point to the centre.
const MAY_USE: &[(&str, &[&str])] = &[
    ("mesh", &[]),
    ("ndvi", &[]),
    ("probe-common", &[]),
    ("probe-ebpf", &["probe-common"]),
    ("verify", &["mesh"]),
    ("probe-api", &["mesh"]),
    ("probe-user", &["mesh", "ndvi", "probe-api", "probe-common"]),
    ("lab", &["mesh", "ndvi"]),
    ("clusters", &["mesh", "verify"]),
    ("install", &["mesh"]),
    (
        "aggrik8s",
        &[
            "clusters",
            "install",
            "lab",
            "mesh",
            "ndvi",
            "probe-api",
            "verify",
        ],
    ),
    (
        "tests",
        &[
            "aggrik8s",
            "clusters",
            "install",
            "lab",
            "mesh",
            "ndvi",
            "probe-api",
            "probe-common",
            "probe-ebpf",
            "probe-user",
            "verify",
        ],
    ),
    ("xtask", &[]),
];

/// Crates that compute and nothing else, not even through what they depend on.
const PURE: [&str; 4] = ["install", "mesh", "ndvi", "verify"];
const IMPURE: [&str; 11] = [
    "aya", "clap", "hyper", "kube", "mio", "nix", "reqwest", "rustls", "socket2", "tokio", "tonic",
];

/// Files and folders that may hold unsafe code, each for what no safe crate offers.
const UNSAFE_IN: [&str; 8] = [
    "probe-ebpf/",
    "probe-common/",
    "probe-user/src/sys.rs",
    "probe-user/src/sys/",
    "lab/src/sys.rs",
    "lab/src/sys/",
    "lab/src/line/sys.rs",
    "tests/src/sys.rs",
];

const MAX_LINES: usize = 700;

#[test]
fn dependencies_point_to_the_centre() {
    let members = members(&metadata(&["--no-deps"]));
    assert_eq!(breaches_of_direction(&members), [""; 0]);
}

#[test]
fn pure_crates_do_no_io() {
    let trees = normal_trees(&metadata(&[]));
    assert_eq!(breaches_of_purity(&trees), [""; 0]);
}

#[test]
fn every_package_inherits_the_lints() {
    let breaches: Vec<_> = members(&metadata(&["--no-deps"]))
        .into_values()
        .filter(|member| !inherits_lints(&read(&member.manifest)))
        .map(|member| member.manifest.display().to_string())
        .collect();
    assert_eq!(breaches, [""; 0]);
}

#[test]
fn every_file_says_what_it_is_for_and_stays_small() {
    let breaches: Vec<_> = sources()
        .into_iter()
        .flat_map(|(name, text)| breaches_of_form(&name, &text))
        .collect();
    assert_eq!(breaches, [""; 0]);
}

#[test]
fn unsafe_code_stays_in_its_places() {
    let breaches: Vec<_> = sources()
        .into_iter()
        .filter(|(name, _)| !UNSAFE_IN.iter().any(|place| name.starts_with(place)))
        .filter_map(|(name, text)| Some(format!("{name}:{}", line_of_unsafe(&text)?)))
        .collect();
    assert_eq!(breaches, [""; 0]);
}

#[test]
fn the_rules_find_breaches() {
    let member = |uses: &[&str]| Member {
        manifest: PathBuf::new(),
        uses: uses.iter().map(|&name| name.to_owned()).collect(),
    };
    let mut wrong: BTreeMap<_, _> = MAY_USE
        .iter()
        .map(|(name, _)| ((*name).to_owned(), member(&[])))
        .collect();
    assert_eq!(breaches_of_direction(&wrong), [""; 0]);
    wrong.insert("mesh".to_owned(), member(&["verify"]));
    wrong.insert("newcomer".to_owned(), member(&[]));
    wrong.remove("ndvi");
    assert_eq!(
        breaches_of_direction(&wrong),
        [
            "`mesh` uses `verify`",
            "`newcomer` is not in the table",
            "`ndvi` is in the table only",
        ]
    );

    let tree = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    let trees = BTreeMap::from([
        ("install".to_owned(), tree(&["install", "mesh"])),
        ("mesh".to_owned(), tree(&["mesh", "serde"])),
        ("ndvi".to_owned(), tree(&["ndvi"])),
        ("verify".to_owned(), tree(&["verify", "statrs", "tokio"])),
    ]);
    assert_eq!(breaches_of_purity(&trees), ["`verify` reaches `tokio`"]);
    assert_eq!(
        breaches_of_purity(&BTreeMap::new()),
        [
            "`install` is gone",
            "`mesh` is gone",
            "`ndvi` is gone",
            "`verify` is gone"
        ]
    );

    assert!(inherits_lints(
        "[package]\n[lints]\nworkspace = true\n[dependencies]\n"
    ));
    assert!(!inherits_lints(
        "[package]\n[dependencies]\nworkspace = true\n"
    ));
    assert!(!inherits_lints(
        "[lints]\n[dependencies]\nworkspace = true\n"
    ));

    assert_eq!(breaches_of_form("a.rs", "//! What for.\n"), [""; 0]);
    assert_eq!(
        breaches_of_form("a.rs", "// What for.\n"),
        ["a.rs: does not open with `//!`"]
    );
    let long = format!("//! What for.\n{}", "\n".repeat(MAX_LINES));
    assert_eq!(breaches_of_form("a.rs", &long), ["a.rs: 701 lines"]);
    let generated = format!("// This file is @generated by a tool.\n{long}");
    assert_eq!(breaches_of_form("a.rs", &generated), [""; 0]);

    assert_eq!(line_of_unsafe("fn a() {}\nunsafe { b() }\n"), Some(2));
    assert_eq!(line_of_unsafe("let x = \"a\"; unsafe { b() }"), Some(1));
    assert_eq!(line_of_unsafe("// unsafe\n#![allow(unsafe_code)]\n"), None);
    assert_eq!(line_of_unsafe("log(\"unsafe\"); // unsafe"), None);
}

struct Member {
    manifest: PathBuf,
    /// Our crates that it uses outside its tests.
    uses: BTreeSet<String>,
}

fn breaches_of_direction(members: &BTreeMap<String, Member>) -> Vec<String> {
    let table: BTreeMap<_, _> = MAY_USE.iter().copied().collect();
    let mut breaches = Vec::new();
    for (name, member) in members {
        let Some(allowed) = table.get(name.as_str()) else {
            breaches.push(format!("`{name}` is not in the table"));
            continue;
        };
        let unwanted = member
            .uses
            .iter()
            .filter(|used| !allowed.contains(&used.as_str()));
        breaches.extend(unwanted.map(|used| format!("`{name}` uses `{used}`")));
    }
    let gone = table.keys().filter(|name| !members.contains_key(**name));
    breaches.extend(gone.map(|name| format!("`{name}` is in the table only")));
    breaches
}

fn breaches_of_purity(trees: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut breaches = Vec::new();
    for name in PURE {
        let Some(tree) = trees.get(name) else {
            breaches.push(format!("`{name}` is gone"));
            continue;
        };
        let reached = IMPURE.iter().filter(|impure| tree.contains(**impure));
        breaches.extend(reached.map(|impure| format!("`{name}` reaches `{impure}`")));
    }
    breaches
}

fn inherits_lints(manifest: &str) -> bool {
    manifest
        .lines()
        .skip_while(|line| line.trim() != "[lints]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .any(|line| line.replace(' ', "") == "workspace=true")
}

fn breaches_of_form(name: &str, text: &str) -> Vec<String> {
    let mut breaches = Vec::new();
    // Nobody reads or writes generated code; its source is held instead.
    let generated = text.starts_with("// This file is @generated");
    if !text.starts_with("//!") && !generated {
        breaches.push(format!("{name}: does not open with `//!`"));
    }
    let lines = text.lines().count();
    if lines > MAX_LINES && !generated {
        breaches.push(format!("{name}: {lines} lines"));
    }
    breaches
}

/// The first line, from 1, with the keyword outside comments and strings. A string over several lines is not
/// recognised as one: better a false alarm than a breach unseen.
fn line_of_unsafe(text: &str) -> Option<usize> {
    let has_keyword = |line: &str| {
        let line = line.replace("\\\"", "");
        let outside_strings = line.split('"').step_by(2).collect::<Vec<_>>().join(" ");
        let code = outside_strings.split("//").next().unwrap_or_default();
        code.split(|c: char| !c.is_alphanumeric() && c != '_')
            .any(|word| word == "unsafe")
    };
    Some(text.lines().position(has_keyword)? + 1)
}

fn workspace() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the crate is inside the workspace")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("read `{}`: {error}", path.display()))
}

/// Every Rust file of the workspace, by its path from the root.
fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut folders: Vec<_> = members(&metadata(&["--no-deps"]))
        .into_values()
        .filter_map(|member| member.manifest.parent().map(Path::to_path_buf))
        .collect();
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder);
        for entry in entries.unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("a folder's entry").path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(workspace()).unwrap_or(&path);
                files.push((name.display().to_string(), read(&path)));
            }
        }
    }
    files.sort();
    assert!(
        files.len() > MAY_USE.len(),
        "only {} files found",
        files.len()
    );
    files
}

fn metadata(args: &[&str]) -> Value {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(args)
        .current_dir(workspace())
        .output()
        .expect("start `cargo metadata`");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`cargo metadata`: {said}");
    serde_json::from_slice(&output.stdout).expect("`cargo metadata` prints JSON")
}

fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    let array = value[key].as_array();
    array.unwrap_or_else(|| panic!("`cargo metadata` has no array `{key}`"))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    let text = value[key].as_str();
    text.unwrap_or_else(|| panic!("`cargo metadata` has no text `{key}`"))
}

fn members(metadata: &Value) -> BTreeMap<String, Member> {
    let packages = array(metadata, "packages");
    let uses = |package: &Value| {
        array(package, "dependencies")
            .iter()
            .filter(|used| used["path"].is_string() && used["kind"] != "dev")
            .map(|used| text(used, "name").to_owned())
            .collect()
    };
    packages
        .iter()
        .map(|package| {
            let member = Member {
                manifest: text(package, "manifest_path").into(),
                uses: uses(package),
            };
            (text(package, "name").to_owned(), member)
        })
        .collect()
}

/// For each pure crate the names of everything it is built from, tests and build scripts left out.
fn normal_trees(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let names: BTreeMap<_, _> = array(metadata, "packages")
        .iter()
        .map(|package| (text(package, "id"), text(package, "name")))
        .collect();
    let edges: BTreeMap<_, Vec<_>> = array(&metadata["resolve"], "nodes")
        .iter()
        .map(|node| {
            let normal = array(node, "deps").iter().filter(|used| {
                let kinds = array(used, "dep_kinds");
                kinds.iter().any(|kind| kind["kind"].is_null())
            });
            (
                text(node, "id"),
                normal.map(|used| text(used, "pkg")).collect(),
            )
        })
        .collect();
    let tree = |root: &str| {
        let mut seen = BTreeSet::new();
        let mut open: Vec<&str> = vec![root];
        while let Some(id) = open.pop() {
            if seen.insert(id) {
                open.extend(&edges[id]);
            }
        }
        seen.into_iter().map(|id| names[id].to_owned()).collect()
    };
    let pure = names.iter().filter(|(_, name)| PURE.contains(name));
    pure.map(|(id, name)| ((*name).to_owned(), tree(id)))
        .collect()
}
