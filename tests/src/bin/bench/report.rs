//! The table on standard output and the JSON file beside it.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

#[derive(Serialize)]
pub(crate) struct Report {
    machine: String,
    kernel: String,
    cpus: usize,
    load_average: String,
    unix_time: u64,
    command: String,
    seconds: f64,
    rows: Vec<Row>,
    /// Tables that stand below that of the figures.
    #[serde(skip)]
    texts: Vec<String>,
    /// Everything the rows were computed from.
    raw: serde_json::Map<String, Value>,
}

#[derive(Serialize)]
struct Row {
    what: String,
    value: f64,
    unit: &'static str,
    /// Spread or what the figure is made of.
    note: String,
    goal: Option<String>,
    met: Option<bool>,
}

/// A bound that a figure must keep.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Report {
    pub(crate) fn new() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let machine = read("/proc/cpuinfo").lines().find_map(|line| {
            line.strip_prefix("model name")?
                .split(": ")
                .nth(1)
                .map(str::to_owned)
        });
        Self {
            machine: machine.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            load_average: read("/proc/loadavg")
                .split(' ')
                .take(3)
                .collect::<Vec<_>>()
                .join(" "),
            unix_time: SystemTime::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_secs()),
            command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
            seconds: 0.0,
            rows: Vec::new(),
            texts: Vec::new(),
            raw: serde_json::Map::new(),
        }
    }

    /// A figure with a goal.
    pub(crate) fn judge(
        &mut self,
        what: impl Into<String>,
        value: f64,
        unit: &'static str,
        goal: Goal,
        note: impl Into<String>,
    ) {
        let (met, text) = match goal {
            Goal::AtLeast(bound) => (value >= bound, format!("≥ {}", number(bound))),
            Goal::AtMost(bound) => (value <= bound, format!("≤ {}", number(bound))),
        };
        self.push(Row {
            what: what.into(),
            value,
            unit,
            note: note.into(),
            goal: Some(text),
            met: Some(met),
        });
    }

    /// A figure without one.
    pub(crate) fn note(
        &mut self,
        what: impl Into<String>,
        value: f64,
        unit: &'static str,
        note: impl Into<String>,
    ) {
        self.push(Row {
            what: what.into(),
            value,
            unit,
            note: note.into(),
            goal: None,
            met: None,
        });
    }

    /// A table of its own.
    pub(crate) fn text(&mut self, text: String) {
        self.texts.push(text);
    }

    pub(crate) fn raw(&mut self, name: &str, value: impl Serialize) -> Result<()> {
        self.raw
            .insert(name.to_owned(), serde_json::to_value(value)?);
        Ok(())
    }

    pub(crate) fn all_met(&self) -> bool {
        self.rows.iter().all(|row| row.met != Some(false))
    }

    #[allow(
        clippy::print_stderr,
        reason = "progress of a bench that takes minutes"
    )]
    fn push(&mut self, row: Row) {
        eprintln!("{}: {} {}", row.what, number(row.value), row.unit);
        self.rows.push(row);
    }

    #[allow(clippy::print_stdout, reason = "the result of this program")]
    pub(crate) fn finish(&mut self, json: &Path, took: Duration) -> Result<()> {
        self.seconds = took.as_secs_f64();
        let mut table = format!(
            "{}, {} CPUs, Linux {}, load average {} at start, {:.0} s\n\n| figure | value | goal | | made of |\n|---|---|---|---|---|\n",
            self.machine, self.cpus, self.kernel, self.load_average, self.seconds
        );
        for row in &self.rows {
            let met = match row.met {
                Some(true) => "met",
                Some(false) => "MISSED",
                None => "",
            };
            let goal = row.goal.as_deref().unwrap_or("");
            let value = number(row.value);
            writeln!(
                table,
                "| {} | {value} {} | {goal} | {met} | {} |",
                row.what, row.unit, row.note
            )?;
        }
        for text in &self.texts {
            table += "\n";
            table += text;
        }
        println!("{table}");
        if let Some(folder) = json.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(json, serde_json::to_string_pretty(self)?)
            .with_context(|| format!("write `{}`", json.display()))
    }
}

fn number(value: f64) -> String {
    match value.abs() {
        v if v == 0.0 || v >= 1000.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.01 => format!("{value:.3}"),
        _ => format!("{value:.5}"),
    }
}
