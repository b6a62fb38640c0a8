//! The problems of one `mesh.yaml`: all of them at once, each with its place and what to do.
//!
//! Text that came from the file is escaped before it is put into a message: see [`shown`].

use std::fmt::Write;

use serde::Serialize;

/// Problems beyond this many are counted, not listed.
pub const MAX_LISTED: usize = 100;

/// A place in the file; line and column count characters from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Position {
    pub line: u32,
    pub column: u32,
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub at: Position,
    /// The field, e.g. `clusters[0].pod_cidrs[1]`; empty for the document itself.
    pub path: String,
    /// What was seen and why it cannot stand.
    pub message: String,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Other places that the message speaks of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub related: Vec<Related>,
}

/// A second place of a [`Problem`], such as the other half of an overlapping pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Related {
    pub at: Position,
    pub path: String,
    pub message: String,
}

/// Why a `mesh.yaml` was refused: at least one problem, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{}", summary(.source_name, .problems.len() + .unlisted))]
pub struct Errors {
    /// The file as the user named it.
    #[serde(rename = "source")]
    pub source_name: String,
    problems: Vec<Problem>,
    /// Problems found beyond [`MAX_LISTED`].
    unlisted: usize,
}

fn summary(source_name: &str, count: usize) -> String {
    let source_name = shown(source_name);
    match count {
        1 => format!("1 problem in `{source_name}`"),
        _ => format!("{count} problems in `{source_name}`"),
    }
}

impl Errors {
    pub(crate) fn new(source_name: &str, mut problems: Vec<Problem>) -> Self {
        debug_assert!(!problems.is_empty());
        problems.sort_by(|a, b| (a.at, &a.path).cmp(&(b.at, &b.path)));
        let unlisted = problems.len().saturating_sub(MAX_LISTED);
        problems.truncate(MAX_LISTED);
        Self {
            source_name: source_name.to_owned(),
            problems,
            unlisted,
        }
    }

    /// The problems in the order of the file, [`MAX_LISTED`] at most.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// How many problems there are beyond those listed.
    #[must_use]
    pub fn unlisted(&self) -> usize {
        self.unlisted
    }

    /// For a person: per problem `file:line:column: message`, the line of `text` with a caret, and the hint.
    /// `text` is what was parsed. Ends with the number of problems.
    #[must_use]
    pub fn render(&self, text: &str) -> String {
        let lines: Vec<&str> = text.lines().collect();
        let name = shown(&self.source_name);
        let mut out = String::new();
        for problem in &self.problems {
            problem.render(&name, &lines, &mut out);
            out.push('\n');
        }
        if self.unlisted > 0 {
            _ = writeln!(out, "… and {} more problems\n", self.unlisted);
        }
        out.push_str(&self.to_string());
        out.push('\n');
        out
    }
}

impl Problem {
    fn render(&self, name: &str, lines: &[&str], out: &mut String) {
        _ = write!(out, "{name}:{}: ", self.at);
        if !self.path.is_empty() {
            _ = write!(out, "{}: ", self.path);
        }
        _ = writeln!(out, "{}", self.message);
        excerpt(self.at, lines, out);
        for related in &self.related {
            _ = writeln!(
                out,
                "  {name}:{}: {}: {}",
                related.at, related.path, related.message
            );
            excerpt(related.at, lines, out);
        }
        if let Some(hint) = &self.hint {
            _ = writeln!(out, "  hint: {hint}");
        }
    }
}

/// Characters shown on either side of the caret.
const EXCERPT_RADIUS: usize = 60;

fn excerpt(at: Position, lines: &[&str], out: &mut String) {
    let Some(line) = (at.line as usize)
        .checked_sub(1)
        .and_then(|index| lines.get(index))
    else {
        return;
    };
    let caret = (at.column as usize).saturating_sub(1);
    let from = caret.saturating_sub(EXCERPT_RADIUS);
    // One character each, so that the caret stays below its place.
    let part: String = line
        .chars()
        .skip(from)
        .take(2 * EXCERPT_RADIUS)
        .map(|c| match c {
            '\t' => ' ',
            c if is_unsafe(c) => '\u{fffd}',
            c => c,
        })
        .collect();
    let number = at.line.to_string();
    let cut = if from > 0 { "…" } else { "" };
    let indent = " ".repeat(caret - from + cut.chars().count());
    _ = writeln!(out, "  {number} | {cut}{}", part.trim_end());
    _ = writeln!(out, "  {} | {indent}^", " ".repeat(number.len()));
}

/// Longest piece of the user's text in a message, in characters.
const MAX_SHOWN: usize = 80;

/// Text from a file as it may be printed: control and direction-changing characters are escaped
/// and a long text is cut with `…`.
pub(crate) fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(4 * MAX_SHOWN));
    for (count, c) in text.chars().enumerate() {
        if count == MAX_SHOWN {
            out.push('…');
            break;
        }
        if is_unsafe(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// Characters that can move the cursor, hide text or reorder it on a terminal.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}
