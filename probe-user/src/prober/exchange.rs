//! What a probe says on its socket, and the judgement of what comes back. Pure: bytes in, outcome out.

use std::borrow::Cow;

use mesh::observation::{NodeRef, Outcome, ProbeKind, ProbeTarget};
use serde::Deserialize;

use crate::frame::{self, Key, Nonce, PROBE_BYTES, Reply, Request};

/// Longest head and body of an HTTP answer.
const MAX_HTTP_HEAD: usize = 8_192;
const MAX_HTTP_BODY: usize = 8_192;

/// Side of the NDVI tiles of a run, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TileSide(pub u16);

/// One question and what must come back.
#[derive(Debug)]
pub(super) struct Exchange {
    /// Bytes to send; empty when the connect itself is the probe.
    pub request: Vec<u8>,
    /// More bytes than this are no answer.
    pub most: usize,
    expect: Expect,
    target: ProbeTarget,
}

#[derive(Debug)]
enum Expect {
    Nothing,
    Echo { key: Key, udp: bool },
    HttpEcho(String),
    HttpAnswer,
    Ndvi(Box<ndvi::Request>),
    Dns(Box<super::dns::Lookup>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub outcome: Outcome,
    pub responder: Option<NodeRef>,
    pub receiver_count: Option<u32>,
}

impl Answer {
    fn plain(outcome: Outcome) -> Self {
        Self {
            outcome,
            responder: None,
            receiver_count: None,
        }
    }
}

/// The agent's JSON answer to `GET /v1/echo`.
#[derive(Debug, Deserialize)]
struct HttpEcho {
    cluster: String,
    node: String,
    nonce: String,
}

/// The nonce as HTTP carries it.
pub(crate) fn hex(nonce: &Nonce) -> String {
    nonce.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Exchange {
    /// Fails only for a tile that cannot be made.
    pub(super) fn new(
        target: &ProbeTarget,
        kind: ProbeKind,
        key: Key,
        tile: TileSide,
        client: &str,
    ) -> Result<Self, String> {
        let host = target.address;
        let (request, expect, most) = match kind {
            ProbeKind::Tcp if target.node.is_none() => (Vec::new(), Expect::Nothing, 0),
            ProbeKind::Tcp | ProbeKind::Udp => {
                let request = Request {
                    key,
                    length: PROBE_BYTES,
                };
                let bytes = request.encode().map_err(|error| error.to_string())?;
                let udp = kind == ProbeKind::Udp;
                (bytes, Expect::Echo { key, udp }, PROBE_BYTES)
            }
            ProbeKind::Dns => {
                let question = target.question.as_ref().ok_or("no name to ask for")?;
                let lookup = super::dns::Lookup::new(question, key.id())?;
                (
                    lookup.query()?,
                    Expect::Dns(Box::new(lookup)),
                    super::dns::MOST_BYTES,
                )
            }
            ProbeKind::Http => {
                let (path, expect) = if target.node.is_some() {
                    let nonce = hex(&key.nonce);
                    (format!("/v1/echo?nonce={nonce}"), Expect::HttpEcho(nonce))
                } else {
                    ("/".to_owned(), Expect::HttpAnswer)
                };
                let head = format!(
                    "GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: aggrik8s-probe\r\nconnection: close\r\n\r\n"
                );
                (head.into_bytes(), expect, MAX_HTTP_HEAD + MAX_HTTP_BODY)
            }
            ProbeKind::NdviTile => {
                let id = key.run ^ u64::from(key.sequence);
                let tile = ndvi::Tile::synthetic(id, tile.0, tile.0).map_err(|e| e.to_string())?;
                let request = ndvi::Request::new(id, client, tile).map_err(|e| e.to_string())?;
                let body = request.encode();
                let mut bytes = format!(
                    "POST {} HTTP/1.1\r\nhost: {host}\r\nuser-agent: aggrik8s-probe\r\ncontent-type: {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    ndvi::HTTP_PATH,
                    ndvi::CONTENT_TYPE,
                    body.len()
                )
                .into_bytes();
                bytes.extend_from_slice(&body);
                // The answer is half as long as the question: one band instead of two.
                let most = MAX_HTTP_HEAD + body.len();
                (bytes, Expect::Ndvi(Box::new(request)), most)
            }
        };
        Ok(Self {
            request,
            most,
            expect,
            target: target.clone(),
        })
    }

    /// Judges everything received so far; `None` means that more must come. With `eof` nothing more will.
    pub(super) fn judge(&self, received: &[u8], eof: bool) -> Option<Answer> {
        if received.len() > self.most {
            return Some(Answer::plain(Outcome::BadReply));
        }
        let judged = match &self.expect {
            Expect::Nothing => Some(Answer::plain(Outcome::Ok)),
            Expect::Echo { key, udp } => self.judge_echo(key, *udp, received),
            Expect::HttpEcho(nonce) => http_body(received, eof).map(|body| match body {
                Ok((200, body)) => self.judge_http_echo(nonce, &body),
                _ => Answer::plain(Outcome::BadReply),
            }),
            Expect::HttpAnswer => http_head(received).map(|head| match head {
                Ok(head) if (200..500).contains(&head.status) => {
                    self.answered_by_service(head.responder)
                }
                _ => Answer::plain(Outcome::BadReply),
            }),
            Expect::Dns(lookup) => Some(Answer::plain(lookup.judge(received))),
            Expect::Ndvi(request) => http_body(received, eof).map(|body| match body {
                Ok((200, body)) => self.judge_ndvi(request, &body),
                _ => Answer::plain(Outcome::BadReply),
            }),
        };
        match judged {
            None if eof => Some(Answer::plain(Outcome::BadReply)),
            judged => judged,
        }
    }

    fn judge_echo(&self, key: &Key, udp: bool, received: &[u8]) -> Option<Answer> {
        let bad = Some(Answer::plain(Outcome::BadReply));
        match frame::frame_length(received) {
            Err(_) => bad,
            Ok(None) => None,
            // A reply is exactly as long as its request.
            Ok(Some(length)) if length != self.request.len() => bad,
            Ok(Some(length)) if received.len() < length => None,
            Ok(Some(_)) => match Reply::decode(received) {
                Ok(reply) if reply.key == *key => {
                    // Over TCP it counts the frames of one connection.
                    let count = udp.then_some(reply.receiver_count);
                    Some(self.answered_by(reply.responder, count))
                }
                _ => bad,
            },
        }
    }

    fn judge_http_echo(&self, nonce: &str, body: &[u8]) -> Answer {
        match serde_json::from_slice::<HttpEcho>(body) {
            Ok(echo)
                if echo.nonce == nonce
                    && frame::is_name(echo.cluster.as_bytes())
                    && frame::is_name(echo.node.as_bytes()) =>
            {
                let responder = NodeRef {
                    cluster: echo.cluster,
                    node: echo.node,
                };
                self.answered_by(responder, None)
            }
            _ => Answer::plain(Outcome::BadReply),
        }
    }

    fn judge_ndvi(&self, request: &ndvi::Request, body: &[u8]) -> Answer {
        let Ok(reply) = ndvi::Reply::decode(body) else {
            return Answer::plain(Outcome::BadReply);
        };
        if ndvi::verify(request, &reply).is_err() {
            return Answer::plain(Outcome::BadReply);
        }
        self.answered_by_service(named(reply.responder()))
    }

    fn answered_by_service(&self, responder: Option<NodeRef>) -> Answer {
        match responder {
            Some(responder) => self.answered_by(responder, None),
            None => Answer::plain(Outcome::Ok),
        }
    }

    fn answered_by(&self, responder: NodeRef, receiver_count: Option<u32>) -> Answer {
        let asked = responder.cluster == self.target.cluster
            && self
                .target
                .node
                .as_ref()
                .is_none_or(|node| *node == responder.node);
        Answer {
            outcome: if asked {
                Outcome::Ok
            } else {
                Outcome::WrongResponder
            },
            responder: Some(responder),
            receiver_count,
        }
    }
}

/// Header in which the backend of an HTTP service may say who it is, as `cluster/node`.
const RESPONDER_HEADER: &str = "aggrik8s-responder";

/// Servers may call themselves anything; only `cluster/node` says who they are.
fn named(text: &str) -> Option<NodeRef> {
    let (cluster, node) = text.split_once('/')?;
    let named = frame::is_name(cluster.as_bytes()) && frame::is_name(node.as_bytes());
    named.then(|| NodeRef {
        cluster: cluster.to_owned(),
        node: node.to_owned(),
    })
}

/// Not HTTP, or HTTP that is not understood here.
#[derive(Debug, PartialEq, Eq)]
struct NotHttp;

#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    bytes: usize,
    length: BodyLength,
    /// Who says to have answered; `None` also where two headers say it.
    responder: Option<NodeRef>,
}

/// How the end of a body is told (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyLength {
    Stated(usize),
    Chunked,
    UntilClose,
}

/// The head of an answer once it is whole.
fn http_head(received: &[u8]) -> Option<Result<Head, NotHttp>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let bytes = match response.parse(received) {
        Err(_) => return Some(Err(NotHttp)),
        Ok(httparse::Status::Partial) if received.len() > MAX_HTTP_HEAD => {
            return Some(Err(NotHttp));
        }
        Ok(httparse::Status::Partial) => return None,
        Ok(httparse::Status::Complete(bytes)) => bytes,
    };
    let mut length = BodyLength::UntilClose;
    let mut responders = Vec::new();
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case(RESPONDER_HEADER) {
            responders.push(std::str::from_utf8(header.value).ok().and_then(named));
        }
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            // Both at once, or twice, is how answers are smuggled.
            if length != BodyLength::UntilClose || !header.value.eq_ignore_ascii_case(b"chunked") {
                return Some(Err(NotHttp));
            }
            length = BodyLength::Chunked;
        }
        if header.name.eq_ignore_ascii_case("content-length") {
            let stated = std::str::from_utf8(header.value)
                .ok()
                .filter(|text| text.bytes().all(|b| b.is_ascii_digit()))
                .and_then(|text| text.parse::<usize>().ok());
            match (stated, length) {
                (Some(stated), BodyLength::UntilClose) => length = BodyLength::Stated(stated),
                (Some(stated), BodyLength::Stated(known)) if stated == known => {}
                _ => return Some(Err(NotHttp)),
            }
        }
    }
    Some(Ok(Head {
        status: response.code.unwrap_or(0),
        bytes,
        length,
        responder: match &mut responders[..] {
            [only] => only.take(),
            _ => None,
        },
    }))
}

/// The payload of a chunked body once it is whole (RFC 9112 §7.1); trailers are read and forgotten.
fn dechunked(mut body: &[u8]) -> Option<Result<Vec<u8>, NotHttp>> {
    let mut payload = Vec::new();
    loop {
        let (start, size) = match httparse::parse_chunk_size(body) {
            Ok(httparse::Status::Partial) => return None,
            Ok(httparse::Status::Complete(chunk)) => chunk,
            Err(_) => return Some(Err(NotHttp)),
        };
        body = &body[start..];
        if size == 0 {
            let mut trailers = [httparse::EMPTY_HEADER; 32];
            return match httparse::parse_headers(body, &mut trailers) {
                Ok(httparse::Status::Partial) => None,
                Ok(httparse::Status::Complete((end, _))) if end == body.len() => Some(Ok(payload)),
                _ => Some(Err(NotHttp)),
            };
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let Some(chunk) = body.get(..size) else {
            // More than is ever read is not waited for: the exchange has its own cap.
            return None;
        };
        payload.extend_from_slice(chunk);
        body = &body[size..];
        if !b"\r\n".starts_with(&body[..body.len().min(2)]) {
            return Some(Err(NotHttp));
        }
        body = body.get(2..)?;
    }
}

/// Status and body.
type Answered<'a> = (u16, Cow<'a, [u8]>);

/// Both once they are whole; a body without a length ends with the connection.
fn http_body(received: &[u8], eof: bool) -> Option<Result<Answered<'_>, NotHttp>> {
    let head = match http_head(received)? {
        Ok(head) => head,
        Err(error) => return Some(Err(error)),
    };
    let body = &received[head.bytes..];
    match head.length {
        BodyLength::Stated(length) if body.len() < length => None,
        BodyLength::Stated(length) if body.len() > length => Some(Err(NotHttp)),
        BodyLength::Chunked => {
            dechunked(body).map(|body| body.map(|body| (head.status, Cow::Owned(body))))
        }
        BodyLength::UntilClose if !eof => None,
        BodyLength::Stated(_) | BodyLength::UntilClose => {
            Some(Ok((head.status, Cow::Borrowed(body))))
        }
    }
}

#[cfg(test)]
#[path = "../prober_tests/exchange.rs"]
mod tests;
