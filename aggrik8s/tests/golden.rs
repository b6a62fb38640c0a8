//! Table, short and JSON of fixed verdicts, byte by byte. When stale they are rewritten and the test fails.

#[path = "../../verify/tests/world/mod.rs"]
mod world;

use std::path::Path;

use aggrik8s::render::{self, style::Style};
use verify::report::{Occasion, Tool};
use verify::{Policy, Report, judge};
use world::{Fault, On, World};

const PLAIN: Style = Style {
    color: false,
    ascii: false,
    columns: None,
};

#[track_caller]
fn golden(name: &str, content: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::fs::read_to_string(&path).ok().as_deref() == Some(content) {
        return;
    }
    std::fs::write(&path, content).expect("the repository is writable");
    panic!(
        "`{}` was stale and has been rewritten: look at the difference, then commit it",
        path.display()
    );
}

fn report(world: &World) -> Report {
    let verdict = judge(
        &world.mesh,
        &world.observe(),
        &Policy {
            today: mesh::Day::parse("2026-01-02"),
            ..Policy::default()
        },
    )
    .expect("a scope");
    Report::new(
        verdict,
        Occasion {
            tool: Tool {
                name: "aggrik8s".into(),
                version: "0.0.0".into(),
                commit: None,
            },
            command: "verify".into(),
            mesh: world.mesh.name.clone(),
            started_at: "2026-01-02T03:04:05.678Z".into(),
            duration_seconds: 14.2,
        },
    )
}

fn healthy() -> Report {
    report(&world::world(Vec::new()))
}

/// A dead path direction and a silent agent elsewhere.
fn broken() -> Report {
    report(&world::world(vec![
        Fault::Loss(On("a", "b"), 1.0),
        Fault::AgentDead("c", "c2"),
    ]))
}

#[test]
fn tables() {
    golden("healthy.txt", &render::table(&healthy(), PLAIN));
    golden("broken.txt", &render::table(&broken(), PLAIN));
    let narrow = Style {
        columns: Some(100),
        ..PLAIN
    };
    let table = render::table(&broken(), narrow);
    let widest = table.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(100), "{widest:?}\n{table}");
    golden("broken.100.txt", &table);
}

#[test]
fn ascii_has_no_other_characters_and_colour_keeps_the_words() {
    let ascii = Style {
        color: false,
        ascii: true,
        columns: None,
    };
    let table = render::table(&broken(), ascii);
    let foreign: String = table.chars().filter(|c| !c.is_ascii()).collect();
    assert_eq!(foreign, "", "{table}");
    golden("broken.ascii.txt", &table);
    let color = Style {
        color: true,
        ascii: false,
        columns: None,
    };
    let painted = render::table(&broken(), color);
    assert!(painted.contains("\u{1b}["));
    let mut plain = String::new();
    let mut rest = painted.as_str();
    while let Some(at) = rest.find('\u{1b}') {
        plain.push_str(&rest[..at]);
        let end = rest[at..].find('m').expect("a colour code ends") + at;
        rest = &rest[end + 1..];
    }
    plain.push_str(rest);
    assert_eq!(plain, render::table(&broken(), PLAIN));
}

#[test]
fn short() {
    golden("healthy.short.txt", &render::short(&healthy(), PLAIN));
    golden("broken.short.txt", &render::short(&broken(), PLAIN));
}

/// An accepted finding, one whose waiver is over, and a waiver that nothing needs.
fn waived() -> Report {
    let mut world = world::world(vec![
        Fault::NoHttp(On("a", "b")),
        Fault::UdpLoss(On("b", "c"), 0.2),
    ]);
    let accept = |check: &str, until: &str| mesh::Waiver {
        check: check.to_owned(),
        scope: mesh::WaiverScope::default(),
        reason: "known since the move".to_owned(),
        until: mesh::Day::parse(until).expect("a day"),
    };
    world.mesh.rules.accept = vec![
        accept("reach.pod_http", "2026-12-31"),
        accept("loss.udp", "2025-12-31"),
        accept("ndvi.*", "2026-12-31"),
    ];
    report(&world)
}

#[test]
fn waivers_are_shown() {
    golden("waived.txt", &render::table(&waived(), PLAIN));
}

/// Read back by a parser that has nothing to do with us: the counts are right, the failures have their three lines.
#[test]
fn junit_is_what_ci_systems_read() {
    const READ: &str = r#"
import sys, xml.etree.ElementTree as tree
root = tree.fromstring(sys.stdin.buffer.read())
assert root.tag == "testsuites", root.tag
total = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
for suite in root:
    assert suite.tag == "testsuite" and suite.get("timestamp"), suite.attrib
    cases = list(suite)
    of = lambda name: sum(1 for case in cases if case.find(name) is not None)
    counts = {"tests": len(cases), "failures": of("failure"), "errors": of("error"), "skipped": of("skipped")}
    for key, count in counts.items():
        assert int(suite.get(key)) == count, (suite.attrib, key, count)
        total[key] += count
    names = [case.get("name") for case in cases]
    assert len(set(names)) == len(names), names
    for case in cases:
        assert case.get("classname").split(".")[0] == suite.get("name"), case.attrib
        for bad in case.findall("failure") + case.findall("error"):
            lines = bad.text.split("\n")
            assert [line[:5] for line in lines] == ["seen:", "why: ", "next:"], lines
            assert all(len(line) > 8 for line in lines), lines
            assert bad.get("message") and bad.get("type"), bad.attrib
for key, count in total.items():
    assert int(root.get(key)) == count, (root.attrib, key, count)
print(root.get("failures"), root.get("errors"), root.get("skipped"), [suite.get("name") for suite in root])
"#;
    let mut hostile = broken();
    hostile.checks[40].cause = Some("<&\"'\u{0}\u{8}\u{1b}]]>".to_owned());
    let all = [
        (healthy(), "0 0 14 ["),
        (broken(), "17 62 20 ["),
        (waived(), "3 0 15 ["),
        (hostile, "17 62 20 ["),
    ];
    golden("broken.junit.xml", &render::junit(&broken()));
    for (report, expected) in all {
        let xml = render::junit(&report);
        let mut python = std::process::Command::new("python3")
            .args(["-c", READ])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn();
        let python = python
            .as_mut()
            .expect("python3 is there: apt-get install python3");
        let mut stdin = python.stdin.take().expect("piped");
        std::io::Write::write_all(&mut stdin, xml.as_bytes()).expect("it reads");
        drop(stdin);
        let mut said = String::new();
        let mut stdout = python.stdout.take().expect("piped");
        std::io::Read::read_to_string(&mut stdout, &mut said).expect("text");
        assert!(python.wait().is_ok_and(|status| status.success()), "{xml}");
        assert!(
            said.starts_with(expected)
                && said.contains(
                    "'config', 'evidence', 'reach', 'latency', 'loss', 'policy', 'service', 'control', 'jitter', 'mtu', 'throughput', 'ndvi'"
                ),
            "{said}"
        );
    }
}

/// What is proposed can be pasted, is met by the run it comes from, and is proposed only where it is asked for.
#[test]
fn proposed_objectives_can_be_pasted() {
    let mut world = world::world(vec![Fault::Delay(On("a", "c"), 0.030)]);
    world.mesh.objectives = mesh::Objectives::default();
    (world.tcp, world.few, world.tiles) = (400, 200, 300);
    let report = report(&world);
    let block =
        verify::propose::objectives(&world.mesh, &report).expect("READY without objectives");
    golden("objectives.yaml", &block);
    let text = world.mesh.to_yaml() + &block;
    let pasted =
        mesh::Mesh::parse("mesh.yaml", &text).unwrap_or_else(|e| panic!("{}", e.render(&text)));
    assert_ne!(pasted.objectives, mesh::Objectives::default());
    world.mesh = pasted;
    let again = self::report(&world);
    assert_eq!(again.result, verify::Outcome::Ready);
    assert_eq!(verify::propose::objectives(&world.mesh, &again), None);
    // A link that gets slower afterwards is noticed.
    world.faults.push(Fault::Delay(On("b", "a"), 0.010));
    assert_eq!(self::report(&world).result, verify::Outcome::NotReady);
    // What a broken mesh does is no objective.
    world.mesh.objectives = mesh::Objectives::default();
    world.faults = vec![Fault::Loss(On("a", "b"), 1.0)];
    let broken = self::report(&world);
    assert_eq!(verify::propose::objectives(&world.mesh, &broken), None);
}

#[test]
fn json_comes_back_to_the_same_report() {
    let mut small = world::world(vec![Fault::Policy(On("b", "a"))]);
    small.mesh = world::mesh(&["a", "b"], 1);
    (small.tcp, small.few, small.tiles) = (320, 320, 320);
    let report = report(&small);
    let json = render::json(&report);
    golden("policy.json", &json);
    assert_eq!(
        serde_json::from_str::<Report>(&json).expect("a report"),
        report
    );
}

/// Names and reasons come from outside: they cannot command the terminal.
#[test]
fn foreign_strings_cannot_command_the_terminal() {
    let mut report = broken();
    let evil = "\u{1b}]0;owned\u{7}\u{202e}\u{9b}31m\r";
    report.links[0].source_cluster = evil.into();
    for cause in &mut report.causes {
        cause.summary = evil.into();
        cause.hint = evil.into();
        cause.evidence = vec![evil.into()];
        cause.explains = vec![evil.into()];
    }
    for check in &mut report.checks {
        check.cause = Some(evil.into());
    }
    for text in [render::table(&report, PLAIN), render::short(&report, PLAIN)] {
        assert!(
            text.chars().all(|c| c == '\n' || !c.is_control()),
            "{text:?}"
        );
        assert!(!text.contains('\u{202e}'));
    }
}
