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
    let verdict = judge(&world.mesh, &world.observe(), &Policy::default()).expect("a scope");
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
