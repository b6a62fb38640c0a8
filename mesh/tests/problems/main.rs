//! What a `mesh.yaml` with mistakes is told, as data: a change to a good file, and the problems it must bring.

mod addresses;
mod fields;
mod rules;
mod scope;
mod text;

use mesh::Mesh;

/// A good mesh of two clusters; each test replaces a piece of it.
const GOOD: &str = "\
mesh: m
clusters:
  - name: east
    id: 1
    node_networks: [192.168.15.0/24]
    pod_cidrs: [10.244.0.0/16]
    service_cidrs: [10.96.0.0/12]
    nodes:
      - name: a
        addresses: [192.168.15.21]
        agent_pod: [10.244.0.10]
        agent: unix:/run/a.sock
  - name: west
    id: 2
    node_networks: [192.168.20.0/24]
    pod_cidrs: [10.245.0.0/16]
    service_cidrs: [10.112.0.0/12]
    nodes:
      - name: b
        addresses: [192.168.20.21]
clients:
  - name: drones
    prefixes: [192.168.50.0/24]
services:
  - {name: ndvi, cluster: east, addresses: [10.96.15.1], port: 8080, kind: ndvi}
links: all
objectives: {loss: 1%}
";

/// Problems as `line:column path: message | hint`.
fn problems(yaml: &str) -> Vec<String> {
    let Err(errors) = Mesh::parse("mesh.yaml", yaml) else {
        return Vec::new();
    };
    let line = |problem: &mesh::Problem| {
        let mut text = format!("{} {}: {}", problem.at, problem.path, problem.message);
        for related in &problem.related {
            text += &format!(" | {} {}: {}", related.at, related.path, related.message);
        }
        if let Some(hint) = &problem.hint {
            text += &format!(" | {hint}");
        }
        text
    };
    errors.problems().iter().map(line).collect()
}

/// Replacing `from` in the good file by `to` must bring exactly these problems.
#[track_caller]
fn check(from: &str, to: &str, expected: &[&str]) {
    assert_eq!(GOOD.matches(from).count(), 1, "`{from}` is not there once");
    assert_eq!(problems(&GOOD.replace(from, to)), expected);
}

#[test]
fn the_good_file_is_good() {
    assert_eq!(problems(GOOD), [] as [&str; 0]);
}
