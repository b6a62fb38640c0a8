//! HTTP echo: `GET /v1/echo?nonce=…` says who answers, as JSON.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use mesh::observation::NodeRef;
use serde::Serialize;
use tokio::net::TcpListener;

use super::{MAX_CONNECTIONS, ResponderStats};
use crate::http_server;

const MAX_NONCE: usize = 64;

#[derive(Serialize)]
struct Echo<'a> {
    cluster: &'a str,
    node: &'a str,
    nonce: &'a str,
}

/// The answer to one request; 404 or 400 for anything that is no probe.
fn answer(method: &Method, path: &str, query: Option<&str>, me: &NodeRef) -> (StatusCode, String) {
    if path != "/v1/echo" {
        return (StatusCode::NOT_FOUND, String::new());
    }
    if method != Method::GET {
        return (StatusCode::METHOD_NOT_ALLOWED, String::new());
    }
    let nonce = query
        .into_iter()
        .flat_map(|query| query.split('&'))
        .find_map(|pair| pair.strip_prefix("nonce="))
        .filter(|nonce| !nonce.is_empty() && nonce.len() <= MAX_NONCE)
        .filter(|nonce| nonce.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    let Some(nonce) = nonce else {
        return (StatusCode::BAD_REQUEST, String::new());
    };
    let echo = Echo {
        cluster: &me.cluster,
        node: &me.node,
        nonce,
    };
    match serde_json::to_string(&echo) {
        Ok(body) => (StatusCode::OK, body),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, String::new()),
    }
}

pub(super) async fn serve(
    listener: TcpListener,
    me: Arc<NodeRef>,
    stats: Arc<ResponderStats>,
) -> io::Result<Infallible> {
    let limits = http_server::Limits {
        connections: MAX_CONNECTIONS,
        ..http_server::Limits::default()
    };
    let counters = Arc::clone(&stats);
    let service = move |request: Request<Incoming>| {
        let (status, body) = answer(
            request.method(),
            request.uri().path(),
            request.uri().query(),
            &me,
        );
        let counter = if status == StatusCode::OK {
            &stats.http_answered
        } else {
            &stats.ignored
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        async move { Ok::<_, Infallible>(response) }
    };
    http_server::serve(listener, limits, service_fn(service), move |refused| {
        let counter = match refused {
            http_server::Refused::Full => &counters.rejected,
            http_server::Refused::Deadline => &counters.expired,
            http_server::Refused::Protocol => &counters.ignored,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_get_with_a_plain_nonce_is_echoed() {
        let me = NodeRef {
            cluster: "east".into(),
            node: "e-1".into(),
        };
        let ask = |method: Method, path: &str, query: Option<&str>| {
            answer(&method, path, query, &me).0.as_u16()
        };
        assert_eq!(
            answer(&Method::GET, "/v1/echo", Some("a=1&nonce=0f"), &me),
            (
                StatusCode::OK,
                r#"{"cluster":"east","node":"e-1","nonce":"0f"}"#.to_owned()
            )
        );
        assert_eq!(ask(Method::GET, "/", None), 404);
        assert_eq!(ask(Method::POST, "/v1/echo", Some("nonce=0f")), 405);
        assert_eq!(ask(Method::GET, "/v1/echo", None), 400);
        assert_eq!(ask(Method::GET, "/v1/echo", Some("nonce=")), 400);
        assert_eq!(ask(Method::GET, "/v1/echo", Some("nonce=%22%7d")), 400);
        let long = format!("nonce={}", "a".repeat(65));
        assert_eq!(ask(Method::GET, "/v1/echo", Some(&long)), 400);
    }
}
