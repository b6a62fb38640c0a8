//! `aggrik8s validate`: reads a mesh.yaml and says what it describes, or everything that is wrong with it.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use mesh::{Errors, Mesh};
use serde::Serialize;

use crate::exit;

/// Check a mesh.yaml without touching anything.
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// The mesh.yaml, or `-` for standard input
    file: PathBuf,
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Longer input is cut off here and refused by the parser.
const MAX_READ: u64 = 64 * 1024 * 1024;

/// With `quiet`, a good file brings no notes on stderr.
pub fn run(args: &ValidateArgs, quiet: bool) -> ExitCode {
    let name = match args.file.to_str() {
        Some("-") => "<stdin>".to_owned(),
        _ => args.file.display().to_string(),
    };
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let text = match read(&args.file) {
        Ok(text) => text,
        Err(error) => {
            let _ = writeln!(err, "error: failed to read `{name}`: {error}");
            return ExitCode::from(exit::USAGE);
        }
    };
    let answer = answer(&name, &text, args.output);
    // A reader that went away does not change what the file is.
    let _ = out.write_all(answer.stdout.as_bytes());
    if answer.exit != exit::HOLDS || !quiet {
        let _ = err.write_all(answer.stderr.as_bytes());
    }
    ExitCode::from(answer.exit)
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    if path.as_os_str() == "-" {
        std::io::stdin().take(MAX_READ).read_to_string(&mut text)?;
    } else {
        std::fs::File::open(path)?
            .take(MAX_READ)
            .read_to_string(&mut text)?;
    }
    Ok(text)
}

struct Answer {
    exit: u8,
    stdout: String,
    stderr: String,
}

fn answer(name: &str, text: &str, output: Output) -> Answer {
    let parsed = Mesh::parse_knowing(name, text, Some(&verify::checks::known()));
    let exit = if parsed.is_ok() {
        exit::HOLDS
    } else {
        exit::USAGE
    };
    let (stdout, stderr) = match (output, &parsed) {
        (Output::Text, Ok(mesh)) => (summary(mesh), note(mesh)),
        (Output::Text, Err(errors)) => (String::new(), errors.render(text)),
        (Output::Json, _) => (json(name, exit, &parsed), String::new()),
    };
    Answer {
        exit,
        stdout,
        stderr,
    }
}

fn summary(mesh: &Mesh) -> String {
    let nodes = mesh.clusters.iter().map(|c| c.nodes.len()).sum();
    let mut text = format!(
        "ok: mesh `{}`: {}, {}, {} in scope\n",
        mesh.name,
        count(mesh.clusters.len(), "cluster"),
        count(nodes, "node"),
        count(mesh.links.len(), "link"),
    );
    let widest = mesh.clusters.iter().map(|c| c.name.len()).max();
    for cluster in &mesh.clusters {
        let agents = agents(cluster);
        let targets = mesh.links.iter().filter(|l| l.source == cluster.name);
        let targets: Vec<&str> = targets.map(|link| link.target.as_str()).collect();
        let nodes = match cluster.nodes.len() {
            0 => "nodes from its API server".to_owned(),
            all => format!("{agents:>4} with an agent of {all:<4}"),
        };
        text += &format!(
            "  {:<width$}  id {:<3}  {nodes:<25}  → {}\n",
            cluster.name,
            cluster.id,
            match &targets[..] {
                [] => "-".to_owned(),
                few if few.len() <= 8 => few.join(", "),
                many => count(many.len(), "cluster"),
            },
            width = widest.unwrap_or(0),
        );
    }
    text
}

fn agents(cluster: &mesh::Cluster) -> usize {
    cluster.nodes.iter().filter(|n| n.agent.is_some()).count()
}

/// What is allowed, and yet will disappoint.
fn note(mesh: &Mesh) -> String {
    let silent: Vec<&str> = mesh
        .clusters
        .iter()
        .filter(|cluster| !cluster.nodes.is_empty() && agents(cluster) == 0)
        .map(|cluster| cluster.name.as_str())
        .collect();
    if silent.is_empty() {
        return String::new();
    }
    format!(
        "note: no node of `{}` has an `agent`: `verify` could not measure there\n",
        silent.join("`, `")
    )
}

fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    schema_version: u32,
    tool: Tool,
    command: &'static str,
    source: &'a str,
    result: &'static str,
    exit_code: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    mesh: Option<Scope<'a>>,
    problems: &'a [mesh::Problem],
    /// Further problems that are not listed.
    unlisted_problems: usize,
}

#[derive(Serialize)]
struct Tool {
    version: &'static str,
}

#[derive(Serialize)]
struct Scope<'a> {
    name: &'a str,
    clusters: Vec<ClusterScope<'a>>,
    links: &'a [mesh::Link],
}

#[derive(Serialize)]
struct ClusterScope<'a> {
    name: &'a str,
    id: u16,
    nodes: usize,
    agents: usize,
}

impl<'a> From<&'a Mesh> for Scope<'a> {
    fn from(mesh: &'a Mesh) -> Self {
        let cluster = |cluster: &'a mesh::Cluster| ClusterScope {
            name: &cluster.name,
            id: cluster.id,
            nodes: cluster.nodes.len(),
            agents: agents(cluster),
        };
        Self {
            name: &mesh.name,
            clusters: mesh.clusters.iter().map(cluster).collect(),
            links: &mesh.links,
        }
    }
}

fn json(name: &str, exit_code: u8, parsed: &Result<Mesh, Errors>) -> String {
    let report = Report {
        schema_version: 1,
        tool: Tool {
            version: env!("CARGO_PKG_VERSION"),
        },
        command: "validate",
        source: name,
        result: if parsed.is_ok() { "VALID" } else { "INVALID" },
        exit_code,
        mesh: parsed.as_ref().ok().map(Scope::from),
        problems: parsed.as_ref().err().map_or(&[], Errors::problems),
        unlisted_problems: parsed.as_ref().err().map_or(0, Errors::unlisted),
    };
    let mut text = serde_json::to_string_pretty(&report)
        .expect("the report has only text, numbers, lists and structs");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../examples/aggrik8s-net.yaml");

    #[test]
    fn a_good_file_is_summed_up() {
        let answer = answer("m.yaml", EXAMPLE, Output::Text);
        assert_eq!(answer.exit, 0);
        assert_eq!(
            answer.stdout,
            "ok: mesh `aggrik8s-net`: 3 clusters, 17 nodes, 6 links in scope\n  \
             talos-east  id 1       0 with an agent of 6     → talos-west, picluster\n  \
             talos-west  id 2       0 with an agent of 6     → talos-east, picluster\n  \
             picluster   id 3       0 with an agent of 5     → talos-east, talos-west\n"
        );
        assert_eq!(
            answer.stderr,
            "note: no node of `talos-east`, `talos-west`, `picluster` has an `agent`: `verify` could not measure there\n"
        );
    }

    #[test]
    fn nodes_may_be_left_to_the_api_server() {
        let file = "mesh: m\nclusters:\n  - {name: a, id: 1, node_networks: [192.168.1.0/24], pod_cidrs: [10.1.0.0/16]}\n";
        let answer = answer("m.yaml", file, Output::Text);
        assert_eq!(
            (answer.exit, answer.stderr.as_str()),
            (0, ""),
            "{}",
            answer.stdout
        );
        assert_eq!(
            answer.stdout,
            "ok: mesh `m`: 1 cluster, 0 nodes, 1 link in scope\n  \
             a  id 1    nodes from its API server  → a\n"
        );
    }

    #[test]
    fn a_bad_file_brings_every_problem_on_stderr() {
        let bad = EXAMPLE
            .replace("id: 2", "id: 1")
            .replace("links: all", "links: []");
        let answer = answer("m.yaml", &bad, Output::Text);
        assert_eq!((answer.exit, answer.stdout.as_str()), (2, ""));
        assert!(
            answer.stderr.contains("m.yaml:24:9: clusters[1].id: "),
            "{}",
            answer.stderr
        );
        assert!(answer.stderr.contains("empty scope"), "{}", answer.stderr);
        assert!(
            answer.stderr.ends_with("2 problems in `m.yaml`\n"),
            "{}",
            answer.stderr
        );
    }

    #[test]
    fn json_carries_the_same() {
        let json = |text: &str| -> (u8, serde_json::Value) {
            let answer = answer("m.yaml", text, Output::Json);
            assert_eq!(answer.stderr, "");
            (answer.exit, serde_json::from_str(&answer.stdout).unwrap())
        };
        let (exit, good) = json(EXAMPLE);
        assert_eq!(exit, 0);
        assert_eq!(good["result"], "VALID");
        assert_eq!(good["mesh"]["clusters"][2]["nodes"], 5);
        assert_eq!(good["mesh"]["links"].as_array().unwrap().len(), 6);
        assert_eq!(good["problems"], serde_json::json!([]));

        let (exit, bad) = json(&EXAMPLE.replace("id: 2", "id: 1"));
        assert_eq!((exit, &bad["result"]), (2, &"INVALID".into()));
        assert_eq!(bad["exitCode"], 2);
        assert!(bad.get("mesh").is_none());
        let problem = &bad["problems"][0];
        assert_eq!(problem["at"], serde_json::json!({"line": 24, "column": 9}));
        assert_eq!(problem["path"], "clusters[1].id");
        assert_eq!(problem["related"][0]["at"]["line"], 9);
    }
}
