//! Everything that `verify` prints on stdout: table, short, JSON. Strings from outside pass through `printable`.

mod causes;
pub mod junit;
pub mod style;
mod table;

use probe_api::reply::printable;
use verify::Report;

pub use junit::junit;
pub use table::{proposal, short, table};

/// The whole report, indented; schema/verify.schema.json.
pub fn json(report: &Report) -> String {
    match serde_json::to_string_pretty(report) {
        Ok(text) => text + "\n",
        // Only non-string map keys and failing serialisers can do this; the report has neither.
        Err(error) => unreachable!("a report is JSON: {error}"),
    }
}

/// Longest foreign string that is shown whole.
const MOST: usize = 1_000;

pub(crate) fn clean(text: &str) -> String {
    printable(text, MOST)
}

/// `text` broken at spaces into lines of at most `width`, each after `indent`.
pub fn wrap(text: &str, indent: &str, width: usize) -> String {
    let mut lines = vec![indent.to_owned()];
    let mut length = indent.chars().count();
    let mut fresh = true;
    for word in text.split_whitespace() {
        let word_length = word.chars().count();
        if !fresh && length + 1 + word_length > width {
            lines.push(indent.to_owned());
            length = indent.chars().count();
            fresh = true;
        }
        if let Some(line) = lines.last_mut() {
            if !fresh {
                line.push(' ');
                length += 1;
            }
            line.push_str(word);
        }
        length += word_length;
        fresh = false;
    }
    lines.join("\n") + "\n"
}

/// `text` in lines of at most `columns`, the first of which stands after `indent` characters of something else.
fn paragraph(text: &str, indent: usize, columns: Option<usize>) -> String {
    let margin = " ".repeat(indent);
    // A terminal too narrow for that is left to break the lines itself.
    let width = columns.filter(|columns| *columns >= indent + 30);
    wrap(text, &margin, width.unwrap_or(usize::MAX))
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_at_spaces() {
        assert_eq!(wrap("aa bb cc", "  ", 7), "  aa bb\n  cc\n");
        assert_eq!(wrap("aaaaaaaaaa b", "  ", 5), "  aaaaaaaaaa\n  b\n");
        assert_eq!(wrap("", "  ", 5), "  \n");
    }

    #[test]
    fn paragraphs_hang_below_their_first_word() {
        let text = "one two three four five six seven eight";
        assert_eq!(
            paragraph(text, 4, Some(36)),
            "one two three four five six\n    seven eight"
        );
        assert_eq!(paragraph(text, 4, None), text);
        assert_eq!(paragraph(text, 4, Some(20)), text);
    }
}
