//! The control socket's protocol and its client: one JSON object per line, one reply per request.
//! ```text
//! {"op":"set_fault","id":"a","scope":{"source":"talos-east","target":"picluster"},"rule":"loss=5%"}
//! {"result":"done"}
//! ```

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::config::ActiveFault;
use super::fault::{Rule, Scope};
use super::pipeline::Pipeline;
use super::stats::LineStats;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Replaces the fault of the same id.
    SetFault {
        id: String,
        scope: Scope,
        rule: Rule,
    },
    Clear {
        id: String,
    },
    ClearAll,
    List,
    Stats,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    Done,
    Faults { faults: Vec<ActiveFault> },
    Stats { stats: Box<LineStats> },
    Error { message: String },
}

/// Longest line either side accepts, in bytes.
pub(super) const MAX_REQUEST: u64 = 64 << 10;
const MAX_REPLY: u64 = 64 << 20;
const TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn answer(pipeline: &mut Pipeline, request: Request, now: u64) -> Reply {
    match request {
        Request::SetFault { id, scope, rule } => {
            match pipeline.set_fault(ActiveFault { id, scope, rule }) {
                Ok(()) => Reply::Done,
                Err(error) => Reply::Error {
                    message: chain(&error),
                },
            }
        }
        Request::Clear { id } => {
            if pipeline.clear_fault(&id) {
                Reply::Done
            } else {
                let ids: Vec<&str> = pipeline
                    .faults()
                    .iter()
                    .map(|fault| fault.id.as_str())
                    .collect();
                let known = if ids.is_empty() {
                    "none".to_owned()
                } else {
                    ids.join(", ")
                };
                let shown: String = id.chars().take(64).collect();
                Reply::Error {
                    message: format!("no fault `{shown}` is active; active are: {known}"),
                }
            }
        }
        Request::ClearAll => {
            pipeline.clear_faults();
            Reply::Done
        }
        Request::List => Reply::Faults {
            faults: pipeline.faults().to_vec(),
        },
        Request::Stats => Reply::Stats {
            stats: Box::new(pipeline.stats(now)),
        },
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// `Err` holds the reply to a line that is no request.
pub(super) fn parse(line: &[u8]) -> Result<Request, Reply> {
    serde_json::from_slice(line).map_err(|error| Reply::Error {
        message: format!("not a request: {error}"),
    })
}

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("cannot reach the line at `{path}`")]
    Connect {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the line did not answer")]
    Io(#[source] std::io::Error),
    #[error("the line closed the connection without an answer")]
    Closed,
    #[error("the line's answer is not understood")]
    Malformed(#[source] serde_json::Error),
    /// In the line's own words.
    #[error("{0}")]
    Refused(String),
    #[error("the line answered something else than was asked")]
    Unexpected,
}

/// A connection to a running line. Every call waits for its reply, at most five seconds.
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    pub fn connect(path: &Path) -> Result<Self, ControlError> {
        let open = || {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            Ok(stream)
        };
        let stream = open().map_err(|source| ControlError::Connect {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    pub fn set_fault(&mut self, id: &str, scope: Scope, rule: Rule) -> Result<(), ControlError> {
        self.done(&Request::SetFault {
            id: id.to_owned(),
            scope,
            rule,
        })
    }

    pub fn clear(&mut self, id: &str) -> Result<(), ControlError> {
        self.done(&Request::Clear { id: id.to_owned() })
    }

    pub fn clear_all(&mut self) -> Result<(), ControlError> {
        self.done(&Request::ClearAll)
    }

    pub fn list(&mut self) -> Result<Vec<ActiveFault>, ControlError> {
        match self.ask(&Request::List)? {
            Reply::Faults { faults } => Ok(faults),
            _ => Err(ControlError::Unexpected),
        }
    }

    pub fn stats(&mut self) -> Result<LineStats, ControlError> {
        match self.ask(&Request::Stats)? {
            Reply::Stats { stats } => Ok(*stats),
            _ => Err(ControlError::Unexpected),
        }
    }

    fn done(&mut self, request: &Request) -> Result<(), ControlError> {
        match self.ask(request)? {
            Reply::Done => Ok(()),
            _ => Err(ControlError::Unexpected),
        }
    }

    fn ask(&mut self, request: &Request) -> Result<Reply, ControlError> {
        let mut line = serde_json::to_vec(request).map_err(ControlError::Malformed)?;
        line.push(b'\n');
        self.stream
            .get_mut()
            .write_all(&line)
            .map_err(ControlError::Io)?;
        let mut reply = Vec::new();
        (&mut self.stream)
            .take(MAX_REPLY)
            .read_until(b'\n', &mut reply)
            .map_err(ControlError::Io)?;
        if reply.last() != Some(&b'\n') {
            return Err(ControlError::Closed);
        }
        match serde_json::from_slice(&reply).map_err(ControlError::Malformed)? {
            Reply::Error { message } => Err(ControlError::Refused(message)),
            reply => Ok(reply),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::finish;
    use super::super::samples;
    use super::*;

    fn ask(pipeline: &mut Pipeline, line: &str) -> Reply {
        match parse(line.as_bytes()) {
            Ok(request) => answer(pipeline, request, 0),
            Err(reply) => reply,
        }
    }

    const SET: &str = r#"{"op":"set_fault","id":"a","scope":{"source":"east/e-1","target":"west"},"rule":"loss=5%@udp"}"#;

    #[test]
    fn faults_are_set_listed_replaced_and_cleared() {
        let mut pipeline = Pipeline::new(samples::config()).unwrap();
        assert_eq!(ask(&mut pipeline, SET), Reply::Done);
        assert_eq!(ask(&mut pipeline, &SET.replace("5%", "6%")), Reply::Done);
        let Reply::Faults { faults } = ask(&mut pipeline, r#"{"op":"list"}"#) else {
            panic!("no list")
        };
        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].rule.to_string(), "loss=6%@udp");
        assert_eq!(faults[0].scope.to_string(), "east/e-1 -> west");
        assert_eq!(
            ask(&mut pipeline, r#"{"op":"clear","id":"a"}"#),
            Reply::Done
        );
        let Reply::Error { message } = ask(&mut pipeline, r#"{"op":"clear","id":"a"}"#) else {
            panic!("no error")
        };
        assert!(
            message.contains("`a`") && message.contains("none"),
            "{message}"
        );
    }

    #[test]
    fn refusals_say_why() {
        let mut pipeline = Pipeline::new(samples::config()).unwrap();
        for (line, part) in [
            ("", "not a request"),
            ("nonsense", "not a request"),
            (r#"{"op":"reboot"}"#, "unknown variant"),
            (r#"{"op":"clear"}"#, "missing field"),
            (r#"{"op":"clear","id":"a","now":1}"#, "unknown field"),
            (&SET.replace("loss=5%", "loss=500%"), "not a share"),
            (
                &SET.replace("east/e-1", "est/e-1"),
                "`est/e-1` is not an endpoint",
            ),
            (&SET.replace(r#""a""#, r#""""#), "a fault's id"),
            (&SET.replace(r#""a""#, r#""a\nb""#), "a fault's id"),
        ] {
            let Reply::Error { message } = ask(&mut pipeline, line) else {
                panic!("accepted: {line}")
            };
            assert!(message.contains(part), "{line}: {message}");
        }
        assert!(pipeline.faults().is_empty());
    }

    #[test]
    fn any_bytes_get_a_reply() {
        let mut pipeline = Pipeline::new(samples::config()).unwrap();
        let mut state = 3;
        for _ in 0..20_000 {
            let mut line = SET.as_bytes().to_vec();
            for _ in 0..1 + state % 4 {
                state = finish(state + 1);
                let at = state as usize % line.len();
                match state >> 60 {
                    0..=5 => line[at] = (state >> 32) as u8,
                    6..=9 => line.truncate(at.max(1)),
                    10..=12 => line.insert(at, (state >> 24) as u8),
                    _ => drop(line.remove(at)),
                }
                if line.is_empty() {
                    line.push(b'{');
                }
            }
            match parse(&line) {
                Ok(request) => drop(answer(&mut pipeline, request, 0)),
                Err(reply) => assert!(matches!(reply, Reply::Error { .. })),
            }
        }
        assert!(pipeline.faults().len() <= super::super::MAX_FAULTS);
    }

    #[test]
    fn faults_are_bounded() {
        let mut pipeline = Pipeline::new(samples::config()).unwrap();
        for index in 0..super::super::MAX_FAULTS {
            assert_eq!(
                ask(
                    &mut pipeline,
                    &SET.replace(r#""a""#, &format!("\"f{index}\""))
                ),
                Reply::Done
            );
        }
        assert!(
            matches!(ask(&mut pipeline, SET), Reply::Error { message } if message.contains("256"))
        );
        // Replacing one of them still works.
        assert_eq!(
            ask(&mut pipeline, &SET.replace(r#""a""#, "\"f7\"")),
            Reply::Done
        );
        assert_eq!(ask(&mut pipeline, r#"{"op":"clear_all"}"#), Reply::Done);
        assert_eq!(ask(&mut pipeline, SET), Reply::Done);
    }
}
