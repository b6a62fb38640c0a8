//! YAML text as a tree of values that know their place. Every value is kept, even of the wrong type,
//! so that the reader can report all mistakes of a file and not only the first.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use crate::errors::{Position, Problem, shown};

/// Largest file that is read, in bytes: room for 10 000 nodes written at length.
pub(crate) const MAX_BYTES: usize = 8 * 1024 * 1024;

#[derive(Debug)]
pub(crate) struct Value {
    pub(crate) at: Position,
    pub(crate) kind: Kind,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Value>),
    /// In the order of the file; a key may come twice.
    Map(Vec<(Value, Value)>),
}

/// Reads exactly one document. The problem is the first one; nothing can be read behind it.
pub(crate) fn parse(text: &str) -> Result<Value, Box<Problem>> {
    if text.len() > MAX_BYTES {
        return Err(problem(
            Position { line: 1, column: 1 },
            format!("the file has {} bytes, more than {MAX_BYTES}", text.len()),
            None,
        ));
    }
    // Aliases may repeat a part of the file, never multiply it: 100 000 replayed events cost
    // less memory than the largest file does.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_reader_input_bytes: Some(MAX_BYTES),
            max_depth: 32,
            flow_nesting_limit: 32,
            max_documents: 1,
            max_aliases: 10_000,
            max_anchors: 1_000,
            max_events: 4_000_000,
            max_nodes: 2_000_000,
            max_total_scalar_bytes: 2 * MAX_BYTES,
            max_merge_keys: 10_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 8,
        },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::PassThrough,
        emit_comments: false,
        strict_booleans: true,
        non_finite_float_policy: serde_saphyr::NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options::<Value>(text, options).map_err(|error| explain(&error))
}

fn problem(at: Position, message: String, hint: Option<&str>) -> Box<Problem> {
    Box::new(Problem {
        at,
        path: String::new(),
        message,
        hint: hint.map(str::to_owned),
        related: Vec::new(),
    })
}

/// A syntax error in the words of the parser, a breached limit in ours.
fn explain(error: &serde_saphyr::Error) -> Box<Problem> {
    use serde_saphyr::Error;
    use serde_saphyr::budget::BudgetBreach;

    let at = error
        .location()
        .map_or(Position { line: 1, column: 1 }, position);
    let mut inner = error;
    while let Error::AliasError { error, .. } = inner {
        inner = error;
    }
    let (message, hint) = match inner {
        Error::MultipleDocuments { .. }
        | Error::Budget {
            breach: BudgetBreach::Documents { .. },
            ..
        } => (
            "a second YAML document begins here".to_owned(),
            Some("one file describes one mesh"),
        ),
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => (
            "the file nests or repeats more than a description of a mesh can need".to_owned(),
            Some("write parts out instead of repeating them through aliases"),
        ),
        _ => {
            // The position is shown beside the message already.
            let text = error.without_snippet().to_string();
            let text = match text.rfind(" at line ") {
                Some(end) => &text[..end],
                None => &text,
            };
            let hint = text
                .contains("tab")
                .then_some("YAML is indented with spaces");
            (format!("not valid YAML: {}", shown(text)), hint)
        }
    };
    problem(at, message, hint)
}

fn position(location: serde_saphyr::Location) -> Position {
    Position {
        line: u32::try_from(location.line()).unwrap_or(u32::MAX).max(1),
        column: u32::try_from(location.column()).unwrap_or(u32::MAX).max(1),
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Kind>::deserialize(deserializer)?;
        Ok(Self {
            at: position(spanned.referenced),
            kind: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KindVisitor)
    }
}

struct KindVisitor;

impl<'de> Visitor<'de> for KindVisitor {
    type Value = Kind;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_none<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
        Kind::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Kind, E> {
        Ok(Kind::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Kind, E> {
        Ok(Kind::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Kind, E> {
        Ok(Kind::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Kind, E> {
        Ok(Kind::Integer(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Kind, E> {
        Ok(i128::try_from(value).map_or_else(|_| Kind::Text(value.to_string()), Kind::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Kind, E> {
        Ok(Kind::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Kind, E> {
        Ok(Kind::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Kind, E> {
        Ok(Kind::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Kind, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Kind::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Kind::Map(entries))
    }
}
