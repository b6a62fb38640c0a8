//! YAML that is broken, hostile or too large, and how problems are shown.

use mesh::{MAX_LISTED, Mesh};

use crate::{GOOD, check, problems};

#[test]
fn syntax() {
    for (yaml, expected) in [
        ("mesh: [m\n", "1:7 : not valid YAML: unclosed bracket '['"),
        (
            "mesh: m\nclusters:\n\t- name: x\n",
            "3:2 : not valid YAML: tabs disallowed within this context (block indentation) | YAML is indented with spaces",
        ),
        (
            "mesh: *m\n",
            "1:7 : not valid YAML: alias references unknown anchor",
        ),
        (
            "mesh: m\n---\nmesh: n\n",
            "2:1 : a second YAML document begins here | one file describes one mesh",
        ),
        (
            "mesh: !!binary '?'\n",
            "1:16 : not valid YAML: invalid !!binary base64",
        ),
    ] {
        assert_eq!(problems(yaml), [expected], "{yaml}");
    }
}

#[test]
fn an_alias_bomb_is_refused_quickly() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let item = format!("*a{}", level - 1);
        bomb += &format!("a{level}: &a{level} [{}]\n", vec![item; 10].join(", "));
    }
    let found = problems(&bomb);
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("nests or repeats more than"), "{found:?}");
    let deep = format!("mesh: {}", "[".repeat(10_000));
    assert_eq!(problems(&deep).len(), 1);
    let long = format!("mesh: {}\n", "x".repeat(9_000_000));
    assert!(
        problems(&long)[0].contains("9000007 bytes"),
        "{}",
        &problems(&long)[0]
    );
}

#[test]
fn anchors_and_merge_keys_may_be_used() {
    let yaml = GOOD
        .replace("links: all", "links: all\ntls: &t {ca: a, cert: b, key: c}")
        .replace(
            "objectives: {loss: 1%}",
            "objectives:\n  <<: {loss: 1%}\n  coverage: 98%",
        );
    assert_eq!(problems(&yaml), [] as [&str; 0]);
    let mesh = Mesh::parse("m", &yaml).unwrap();
    assert_eq!(
        (mesh.objectives.loss, mesh.objectives.coverage),
        (0.01, 0.98)
    );
}

#[test]
fn too_much_is_refused_before_it_is_compared() {
    let nodes = |count: usize| -> String {
        (0..count)
            .map(|n| {
                format!(
                    "      - {{name: n{n}, addresses: [10.{}.{}.{}]}}\n",
                    n >> 16,
                    n >> 8 & 255,
                    n & 255
                )
            })
            .collect()
    };
    let of = |count| {
        format!(
            "mesh: m\nclusters:\n  - name: e\n    id: 1\n    node_networks: [10.0.0.0/8]\n    pod_cidrs: [11.0.0.0/8]\n    nodes:\n{}",
            nodes(count)
        )
    };
    assert_eq!(problems(&of(10_000)), [] as [&str; 0]);
    assert_eq!(
        problems(&of(10_001)),
        ["3:3 clusters: 10001 nodes are more than 10000"]
    );

    let clusters: String = (0..257).map(|n| format!("  - name: c{n}\n")).collect();
    let found = problems(&format!("mesh: m\nclusters:\n{clusters}"));
    assert!(
        found
            .iter()
            .any(|p| p == "3:3 clusters: 257 clusters are more than 256"),
        "{}",
        found.len()
    );
    assert_eq!(found.len(), MAX_LISTED);

    let many = vec!["192.168.20.21"; 17].join(", ");
    check(
        "[192.168.20.21]",
        &format!("[{many}]"),
        &["20:20 clusters[1].nodes[0].addresses: 17 addresses are more than 16"],
    );
    let many: Vec<String> = (0..10_000)
        .map(|n| format!("11.{}.{}.0/24", n >> 8, n & 255))
        .collect();
    check(
        "[192.168.50.0/24]",
        &format!("[{}]", many.join(", ")),
        &["3:3 clusters: 10006 networks are more than 10000"],
    );
}

#[test]
fn problems_beyond_the_list_are_counted() {
    let bad: String = (0..150).map(|n| format!("key{n}: 1\n")).collect();
    let yaml = format!("{GOOD}{bad}");
    let errors = Mesh::parse("mesh.yaml", &yaml).unwrap_err();
    assert_eq!(
        (errors.problems().len(), errors.unlisted()),
        (MAX_LISTED, 50)
    );
    let rendered = errors.render(&yaml);
    assert!(rendered.contains("… and 50 more problems"));
    assert!(
        rendered.ends_with("150 problems in `mesh.yaml`\n"),
        "{rendered}"
    );
}

#[test]
fn ten_mistakes_are_reported_at_once() {
    let yaml = include_str!("../data/ten-mistakes.yaml");
    let errors = Mesh::parse("ten-mistakes.yaml", yaml).unwrap_err();
    // Rewritten when stale, so that a change of wording is read in the diff.
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/ten-mistakes.expected"
    );
    let rendered = errors.render(yaml);
    if std::fs::read_to_string(path).unwrap_or_default() != rendered {
        std::fs::write(path, rendered).unwrap();
        panic!("{path} was stale and has been written anew: read the difference, then commit it");
    }
    assert_eq!(errors.problems().len(), 10);
}

#[test]
fn text_of_the_file_cannot_drive_the_terminal() {
    let yaml = "mesh: \"\\e[2Jclear\"\nclu\u{202e}sters: []\n";
    let errors = Mesh::parse("a\u{1b}[31m.yaml", yaml).unwrap_err();
    let rendered = errors.render(yaml);
    assert!(!rendered.contains(['\u{1b}', '\u{202e}']), "{rendered}");
    assert!(rendered.contains("\\u{1b}[2Jclear"), "{rendered}");
}

#[test]
fn the_caret_stands_below_its_place() {
    for indent in [0, 30, 59, 60, 61, 200] {
        let yaml = format!(
            "mesh: m\nclusters: []\nlinks: {}ümlaut # {}\n",
            " ".repeat(indent),
            "y".repeat(300)
        );
        let errors = Mesh::parse("m.yaml", &yaml).unwrap_err();
        let rendered = errors.render(&yaml);
        let lines: Vec<&str> = rendered.lines().collect();
        let at = lines
            .iter()
            .position(|line| line.contains("ümlaut #"))
            .unwrap();
        let column = |line: &str, what: char| line.chars().position(|c| c == what).unwrap();
        assert_eq!(
            column(lines[at], 'ü'),
            column(lines[at + 1], '^'),
            "{rendered}"
        );
        let longest = lines.iter().map(|line| line.chars().count()).max();
        assert!(longest < Some(150), "{rendered}");
    }
}
