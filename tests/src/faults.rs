//! Faults of the default lab by kind and place, each with its only right verdict.

mod kinds;
mod measured;
mod objections;

pub use kinds::{SIX_KINDS, every_case, six};
pub use objections::{Objections, expect, healthy, unreachable};

/// Clusters of the default lab.
pub const EAST: &str = "talos-east";
pub const WEST: &str = "talos-west";
pub const PI: &str = "picluster";

/// Source and target cluster.
pub type Direction = (&'static str, &'static str);

/// Faults that are made together, and the only right verdict.
#[derive(Clone, Debug, Default)]
pub struct Case {
    /// What kind of trouble it is, whatever its place.
    pub kind: &'static str,
    /// Options of `lab up` that its lab needs.
    pub lab: &'static [&'static str],
    /// Kernels remember it after it was mended: its lab is of no use for another fault.
    pub remembered: bool,
    /// Lines below `objectives:` in mesh.yaml, which is all of the lab that verify reads.
    pub objectives: &'static [&'static str],
    /// As `lab fault` is told them.
    pub faults: Vec<Vec<String>>,
    pub exit: i32,
    /// What comes first among the causes: one per fault, in any order.
    pub causes: Vec<Named>,
    /// Initiator links that it hurts; all others stay READY.
    pub links: Vec<Direction>,
    /// Path directions that it hurts.
    pub paths: Vec<Direction>,
    /// Links and paths of which evidence is missing.
    pub undecided: Vec<Direction>,
}

/// A cause as a verdict has to name it; `-` where it names nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    pub id: &'static str,
    pub source: &'static str,
    pub target: &'static str,
    pub node: String,
    /// The evidence cannot tell which of the two directions it is.
    pub either: bool,
}

/// The cause of everything that no rule of verify knows.
pub const UNKNOWN: &str = "unknown";

impl Case {
    /// Its kind and where it is.
    pub fn name(&self) -> String {
        let places: Vec<String> = self.causes.iter().map(Named::place).collect();
        format!("{} {}", self.kind, places.join(" + "))
    }

    /// No rule of verify knows it.
    pub fn unknown(&self) -> bool {
        self.causes.iter().any(|cause| cause.id == UNKNOWN)
    }

    pub fn result(&self) -> &'static str {
        if self.exit == 1 {
            "NOT_READY"
        } else {
            "UNDECIDED"
        }
    }

    /// Results that a link may have, or its path direction.
    fn accepts(&self, at: (&str, &str), path: bool) -> &'static [&'static str] {
        let hurt = if path { &self.paths } else { &self.links };
        let (hurt, open) = (hurt.contains(&at), self.undecided.contains(&at));
        match (hurt, open) {
            // The lost share of a path may be too small to prove beside all that TCP makes of it.
            (true, _) if path => &["NOT_READY", "UNDECIDED"],
            (true, false) => &["NOT_READY"],
            (true, true) => &["NOT_READY", "UNDECIDED"],
            (false, true) if path => &["UNDECIDED", "READY"],
            (false, true) => &["UNDECIDED"],
            (false, false) => &["READY"],
        }
    }

    /// Both at once.
    fn and(mut self, kind: &'static str, other: Self) -> Self {
        self.kind = kind;
        self.faults.extend(other.faults);
        // A proven failure outranks a missing answer.
        self.exit = self.exit.min(other.exit);
        self.causes.extend(other.causes);
        self.links.extend(other.links);
        self.paths.extend(other.paths);
        self.undecided.extend(other.undecided);
        self
    }
}

impl Named {
    fn place(&self) -> String {
        let end = match (self.source, self.target) {
            ("-", target) => target.to_owned(),
            (source, "-") => source.to_owned(),
            (source, target) => format!("{source}→{target}"),
        };
        if self.node == "-" {
            end
        } else {
            format!("{end} ({})", self.node)
        }
    }
}
