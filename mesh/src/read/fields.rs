//! The tools of the reader: take keys out of a mapping, items out of a list, typed values out of scalars,
//! and report what does not fit.

use crate::errors::{MAX_LISTED, Position, Problem, Related, shown};
use crate::spec::{At, List};
use crate::tree::{Kind, Value};

/// Collects the problems of one file.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) problems: Vec<Problem>,
}

impl Report {
    /// Whether a search for what was meant is worth its time: beyond the problems that are listed, it is not.
    pub(crate) fn explains(&self) -> bool {
        self.problems.len() < MAX_LISTED
    }

    pub(crate) fn push(
        &mut self,
        at: Position,
        path: &str,
        message: impl Into<String>,
    ) -> &mut Problem {
        self.problems.push(Problem {
            at,
            path: path.to_owned(),
            message: message.into(),
            hint: None,
            related: Vec::new(),
        });
        self.problems.last_mut().expect("one was pushed")
    }
}

impl Problem {
    pub(crate) fn hint(&mut self, hint: impl Into<String>) -> &mut Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn related(&mut self, at: Position, path: &str, message: &str) -> &mut Self {
        self.related.push(Related {
            at,
            path: path.to_owned(),
            message: message.to_owned(),
        });
        self
    }
}

/// A mapping that `mesh.yaml` knows.
pub(crate) struct Shape {
    /// As in "a cluster".
    pub(crate) what: &'static str,
    pub(crate) required: &'static [&'static str],
    pub(crate) optional: &'static [&'static str],
}

impl Shape {
    fn keys(&self) -> impl Iterator<Item = &'static str> {
        self.required.iter().chain(self.optional).copied()
    }

    /// The known key that `seen` was probably meant to be.
    fn nearest(&self, seen: &str) -> Option<&'static str> {
        let plain = |key: &str| {
            let letters = key.chars().filter(char::is_ascii_alphanumeric).take(64);
            letters.collect::<String>().to_ascii_lowercase()
        };
        let seen = plain(seen);
        self.keys()
            .map(|key| (strsim::osa_distance(&seen, &plain(key)), key))
            .filter(|(distance, key)| *distance <= 1 + key.len() / 4)
            .min_by_key(|(distance, _)| *distance)
            .map(|(_, key)| key)
    }
}

/// The entries of one mapping; each is taken once.
pub(crate) struct Fields {
    at: Position,
    path: String,
    /// Nothing in it could be read: missing keys are not worth a report.
    broken: bool,
    required: &'static [&'static str],
    entries: Vec<(&'static str, Value)>,
}

impl Fields {
    /// Unknown and repeated keys are reported here, missing ones when they are taken.
    pub(crate) fn new(report: &mut Report, value: Value, path: &str, shape: &Shape) -> Self {
        let mut fields = Self {
            at: value.at,
            path: path.to_owned(),
            broken: false,
            required: shape.required,
            entries: Vec::new(),
        };
        let Kind::Map(entries) = value.kind else {
            let expected = format!(
                "expected {} with the keys {}",
                shape.what,
                quoted(shape.keys())
            );
            report.push(value.at, path, format!("{expected}, saw {}", value.saw()));
            fields.broken = true;
            return fields;
        };
        let mut first: Vec<(&'static str, Position)> = Vec::new();
        for (key, value) in entries {
            let Kind::Text(name) = &key.kind else {
                let message = format!("a key is text, this is {}", key.saw());
                report.push(key.at, path, message);
                continue;
            };
            let at_key = fields.child(name);
            let Some(known) = shape.keys().find(|known| known == name) else {
                let message = format!("`{}` is not a key of {}", shown(name), shape.what);
                let nearest = report.explains().then(|| shape.nearest(name)).flatten();
                report.push(key.at, &at_key, message).hint(match nearest {
                    Some(nearest) => format!("did you mean `{nearest}`?"),
                    None => format!("its keys are {}", quoted(shape.keys())),
                });
                continue;
            };
            if let Some((_, at)) = first.iter().find(|(name, _)| *name == known) {
                report
                    .push(key.at, &at_key, format!("`{known}` is given twice"))
                    .related(*at, &at_key, "the first one is here")
                    .hint("keep one of them");
                continue;
            }
            first.push((known, key.at));
            fields.entries.push((known, value));
        }
        fields
    }

    fn child(&self, key: &str) -> String {
        let key = shown(key);
        if self.path.is_empty() {
            key
        } else {
            format!("{}.{key}", self.path)
        }
    }

    pub(crate) fn at(&self) -> Position {
        self.at
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The value of `key` and its path; reported when it is missing though required.
    pub(crate) fn take(
        &mut self,
        report: &mut Report,
        key: &'static str,
    ) -> Option<(Value, String)> {
        let path = self.child(key);
        if let Some(index) = self.entries.iter().position(|(name, _)| *name == key) {
            return Some((self.entries.swap_remove(index).1, path));
        }
        if self.required.contains(&key) && !self.broken {
            report
                .push(self.at, &path, format!("`{key}` is missing"))
                .hint(format!("add `{key}: …`"));
        }
        None
    }

    /// A scalar written as text, given to `parse`, whose error says why it is refused.
    pub(crate) fn text<T>(
        &mut self,
        report: &mut Report,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, Refusal>,
    ) -> Option<At<T>> {
        let (value, path) = self.take(report, key)?;
        text(report, value, path, parse)
    }

    pub(crate) fn integer(
        &mut self,
        report: &mut Report,
        key: &'static str,
        range: std::ops::RangeInclusive<u16>,
    ) -> Option<At<u16>> {
        let (value, path) = self.take(report, key)?;
        let (from, to) = (*range.start(), *range.end());
        match value.kind {
            Kind::Integer(number) => match u16::try_from(number) {
                Ok(number) if range.contains(&number) => Some(At {
                    value: number,
                    at: value.at,
                    path,
                }),
                _ => {
                    let message = format!("{number} is not within {from} to {to}");
                    report.push(value.at, &path, message);
                    None
                }
            },
            _ => {
                let message = format!("expected a number from {from} to {to}, saw {}", value.saw());
                let problem = report.push(value.at, &path, message);
                if let Kind::Text(text) = &value.kind
                    && text.parse::<u16>().is_ok()
                {
                    problem.hint("write it without quotes");
                }
                None
            }
        }
    }

    /// A list of `what`, each item read by `item`; a missing list is an empty one.
    pub(crate) fn list<T>(
        &mut self,
        report: &mut Report,
        key: &'static str,
        what: &str,
        item: impl FnMut(&mut Report, Value, String) -> Option<T>,
    ) -> List<T> {
        match self.take(report, key) {
            Some((value, path)) => list(report, value, path, what, item),
            None => List {
                items: Vec::new(),
                at: self.at,
                path: self.child(key),
                complete: !self.broken && !self.required.contains(&key),
            },
        }
    }
}

/// Why a text is refused, and what to write instead.
pub(crate) struct Refusal {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Refusal {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
        }
    }

    pub(crate) fn with_hint(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: Some(hint.into()),
        }
    }
}

pub(crate) fn text<T>(
    report: &mut Report,
    value: Value,
    path: String,
    parse: impl FnOnce(&str) -> Result<T, Refusal>,
) -> Option<At<T>> {
    let Kind::Text(text) = &value.kind else {
        let message = format!("expected text, saw {}", value.saw());
        let problem = report.push(value.at, &path, message);
        match value.kind {
            Kind::Integer(_) | Kind::Float(_) | Kind::Bool(_) => {
                problem.hint("put it in quotes if it is meant as text");
            }
            Kind::Null => {
                problem.hint("give it a value or remove the key");
            }
            _ => {}
        }
        return None;
    };
    match parse(text) {
        Ok(parsed) => Some(At {
            value: parsed,
            at: value.at,
            path,
        }),
        Err(refusal) => {
            report.push(value.at, &path, refusal.message).hint = refusal.hint;
            None
        }
    }
}

pub(crate) fn list<T>(
    report: &mut Report,
    value: Value,
    path: String,
    what: &str,
    mut item: impl FnMut(&mut Report, Value, String) -> Option<T>,
) -> List<T> {
    let at = value.at;
    let mut read = List {
        items: Vec::new(),
        at,
        path,
        complete: true,
    };
    let Kind::List(values) = value.kind else {
        let message = format!("expected a list of {what}, saw {}", value.saw());
        let problem = report.push(at, &read.path, message);
        match &value.kind {
            Kind::Text(text) => {
                problem.hint(format!("write `[{}]`", shown(text)));
            }
            Kind::Null => {
                problem.hint("give it a value or remove the key");
            }
            _ => {}
        }
        read.complete = false;
        return read;
    };
    for (index, value) in values.into_iter().enumerate() {
        match item(report, value, format!("{}[{index}]", read.path)) {
            Some(item) => read.items.push(item),
            None => read.complete = false,
        }
    }
    read
}

fn quoted(keys: impl Iterator<Item = &'static str>) -> String {
    keys.map(|key| format!("`{key}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

impl Value {
    /// The value as a message names it.
    pub(crate) fn saw(&self) -> String {
        match &self.kind {
            Kind::Null => "nothing".to_owned(),
            Kind::Bool(value) => format!("`{value}`"),
            Kind::Integer(value) => format!("the number {value}"),
            Kind::Float(value) => format!("the number {value}"),
            Kind::Text(text) => format!("the text `{}`", shown(text)),
            Kind::List(_) => "a list".to_owned(),
            Kind::Map(_) => "a mapping".to_owned(),
        }
    }
}
