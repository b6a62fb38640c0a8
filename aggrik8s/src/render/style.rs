//! Colour, symbols and their words; ASCII where asked for. Meaning never rests on colour or symbol alone.

use std::io::IsTerminal;
use std::os::fd::AsFd;

use anstyle::{AnsiColor, Color};
use clap::ValueEnum;
use terminal_size::terminal_size_of;
use verify::{Outcome, Status};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On terminals, unless NO_COLOR is set
    #[default]
    Auto,
    Always,
    Never,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    pub color: bool,
    pub ascii: bool,
    /// Columns of the terminal; elsewhere lines are not broken.
    pub columns: Option<usize>,
}

impl Style {
    pub fn for_stream(choice: ColorChoice, ascii: bool, stream: &(impl IsTerminal + AsFd)) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let color = match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => !refused && stream.is_terminal(),
        };
        let columns = terminal_size_of(stream).map(|(width, _)| usize::from(width.0));
        Self {
            color,
            ascii,
            columns,
        }
    }

    pub(crate) fn paint(self, text: &str, color: AnsiColor, bold: bool) -> String {
        if !self.color {
            return text.to_owned();
        }
        let style = anstyle::Style::new().fg_color(Some(Color::Ansi(color)));
        let style = if bold { style.bold() } else { style };
        format!("{style}{text}{style:#}")
    }

    pub(crate) fn bold(self, text: &str) -> String {
        if !self.color {
            return text.to_owned();
        }
        let style = anstyle::Style::new().bold();
        format!("{style}{text}{style:#}")
    }

    /// Symbol and word of a status, the word at least `width` characters wide.
    pub(crate) fn status(self, status: Status, width: usize) -> String {
        let (_, _, color) = Self::words(status);
        self.paint(&self.status_text(status, width), color, false)
    }

    /// Characters that a status takes without padding.
    pub(crate) fn status_width(self, status: Status) -> usize {
        self.status_text(status, 0).chars().count()
    }

    fn status_text(self, status: Status, width: usize) -> String {
        let ((symbol, ascii), word, _) = Self::words(status);
        let symbol = if self.ascii { ascii } else { symbol };
        format!("{symbol} {word:width$}")
    }

    fn words(status: Status) -> ((&'static str, &'static str), &'static str, AnsiColor) {
        match status {
            Status::Pass => (("✓", "ok"), "ok", AnsiColor::Green),
            Status::Fail => (("✗", "xx"), "fail", AnsiColor::Red),
            Status::Undecided => (("?", "??"), "unknown", AnsiColor::Yellow),
            Status::Info => (("·", "--"), "info", AnsiColor::Cyan),
        }
    }

    /// A warning: a check that failed and decides nothing.
    pub(crate) fn warning(self, width: usize) -> String {
        let symbol = if self.ascii { "!!" } else { "!" };
        self.paint(
            &format!("{symbol} {:width$}", "warn"),
            AnsiColor::Yellow,
            false,
        )
    }

    pub(crate) fn warning_width(self) -> usize {
        if self.ascii { 7 } else { 6 }
    }

    /// A finding that mesh.yaml accepts.
    pub(crate) fn waived(self, width: usize) -> String {
        self.paint(&format!("~ {:width$}", "waived"), AnsiColor::Magenta, false)
    }

    /// Symbol and words of a result, `width` characters wide.
    pub(crate) fn outcome(self, outcome: Outcome, width: usize) -> String {
        let (symbol, ascii, color) = match outcome {
            Outcome::Ready => ("✓", "ok", AnsiColor::Green),
            Outcome::NotReady => ("✗", "xx", AnsiColor::Red),
            Outcome::Undecided => ("?", "??", AnsiColor::Yellow),
        };
        let symbol = if self.ascii { ascii } else { symbol };
        self.paint(
            &format!("{:width$}", format!("{symbol} {}", outcome.words())),
            color,
            true,
        )
    }

    pub(crate) fn arrow(self) -> &'static str {
        if self.ascii { "->" } else { "→" }
    }

    /// Sentences made by `verify` use arrows and signs that ASCII has not.
    pub(crate) fn plain(self, text: &str) -> String {
        if !self.ascii {
            return text.to_owned();
        }
        let text = text
            .replace('→', "->")
            .replace('±', "+-")
            .replace('×', "x")
            .replace('≤', "<=")
            .replace('…', "...");
        text.chars()
            .map(|c| if c.is_ascii() { c } else { '?' })
            .collect()
    }
}
