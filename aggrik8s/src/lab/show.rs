//! The lab's status as text.

use std::fmt::Write;

use lab::line::stats::LineStats;
use lab::{PlaceStatus, Status};

pub(super) fn status(status: &Status) -> String {
    let mut text = format!(
        "lab {} ({}), mesh {}\n",
        status.lab,
        word(&status.phase),
        status.mesh_yaml
    );
    places(&mut text, "nodes", &status.nodes);
    places(&mut text, "pods", &status.pods);
    places(&mut text, "external clients", &status.clients);
    let _ = writeln!(text, "services ({})", word(&status.service_translation));
    for s in &status.services {
        let _ = writeln!(
            text,
            "  {:<12} {:<12} {} port {}, node port {}, backends {}",
            s.name,
            s.cluster,
            s.addresses.join(" "),
            s.port,
            s.node_port,
            s.backends.join(", ")
        );
    }
    let dead: Vec<_> = status.processes.iter().filter(|p| !p.alive).collect();
    let _ = writeln!(
        text,
        "processes\n  {} alive, {} dead",
        status.processes.len() - dead.len(),
        dead.len()
    );
    for p in dead {
        let _ = writeln!(text, "  dead: {} (pid {}, log {})", p.name, p.pid, p.log);
    }
    text += "faults\n";
    for f in &status.faults {
        let _ = writeln!(text, "  {}: {}", f.fault.id, f.text);
    }
    if status.faults.is_empty() {
        text += "  none\n";
    }
    text += "traffic\n";
    for (name, counters) in status.traffic.as_object().into_iter().flatten() {
        let _ = writeln!(text, "  {name:<16} {counters}");
    }
    text += "line";
    line(&mut text, status.line.as_ref());
    text
}

/// A state by the word that JSON has for it.
fn word(state: &impl serde::Serialize) -> String {
    serde_json::to_value(state)
        .ok()
        .and_then(|v| v.as_str().map(str::to_owned))
        .unwrap_or_default()
}

fn places(text: &mut String, title: &str, places: &[PlaceStatus]) {
    let _ = writeln!(text, "{title}");
    let width = places.iter().map(|p| p.name.len()).max().unwrap_or(0);
    for p in places {
        let _ = writeln!(
            text,
            "  {:<width$} {:<12} {}",
            p.name,
            p.cluster,
            p.addresses.join(" ")
        );
    }
}

fn line(text: &mut String, line: Option<&LineStats>) {
    let Some(line) = line else {
        *text += "\n  does not answer";
        return;
    };
    for p in &line.paths {
        let _ = write!(
            text,
            "\n  {:<28} -> {:<28} {} packets, {} delivered, {} dropped",
            p.source.to_string(),
            p.target.to_string(),
            p.counts.packets,
            p.counts.delivered,
            p.counts.dropped.total()
        );
    }
    let lost = &line.counters;
    let _ = write!(
        text,
        "\n  {} packets of nobody, {} malformed; late p99 {:.0} µs, starved {} times",
        lost.unknown, lost.malformed, line.lateness.p99_us, line.starved.count
    );
}
