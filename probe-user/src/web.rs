//! `/metrics`, `/healthz` and `/readyz`: plain HTTP with limits. No body names an address.

use std::convert::Infallible;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use probe_api::words::Word;
use serde::Serialize;
use tokio::net::TcpListener;

use crate::agent::Agent;
use crate::http_server;
use crate::metrics;

const OPENMETRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// The body of `/readyz`.
#[derive(Debug, Serialize)]
struct Ready {
    ready: bool,
    cluster: String,
    node: String,
    plane: &'static str,
    version: &'static str,
    kernel: KernelReady,
    /// Rights that this process should not have; null if it has none.
    privileged: Option<String>,
    /// What keeps the agent from being ready, or limits it.
    reasons: Vec<String>,
}

#[derive(Debug, Serialize)]
struct KernelReady {
    wanted: bool,
    witness: bool,
    detail: String,
}

fn ready(agent: &Agent) -> Ready {
    let (witness, detail) = agent.kernel.witness();
    let wanted = agent.kernel.is_wanted();
    let mut reasons = Vec::new();
    if wanted && !witness {
        reasons.push(format!("no kernel witness: {detail}"));
    }
    if let Some(privileges) = &agent.privileged {
        reasons.push(format!("privileged by --allow-privileged: {privileges}"));
    }
    let problem = agent
        .reloads
        .problem
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    if let Some(problem) = problem {
        reasons.push(format!("mesh.yaml as it is now is not in force: {problem}"));
    }
    Ready {
        ready: witness || !wanted,
        cluster: agent.me.cluster.clone(),
        node: agent.me.node.clone(),
        plane: agent.plane.word(),
        version: env!("CARGO_PKG_VERSION"),
        kernel: KernelReady {
            wanted,
            witness,
            detail,
        },
        privileged: agent.privileged.clone(),
        reasons,
    }
}

fn answer(agent: &Agent, method: &Method, path: &str) -> (StatusCode, HeaderValue, String) {
    if method != Method::GET && method != Method::HEAD {
        return (StatusCode::METHOD_NOT_ALLOWED, TEXT, String::new());
    }
    match path {
        "/metrics" => match metrics::text(agent) {
            Ok(text) => (StatusCode::OK, OPENMETRICS, text),
            Err(error) => {
                tracing::error!(%error, "metrics could not be written");
                (StatusCode::INTERNAL_SERVER_ERROR, TEXT, String::new())
            }
        },
        "/healthz" => (StatusCode::OK, TEXT, "ok\n".to_owned()),
        "/readyz" => {
            let ready = ready(agent);
            let status = if ready.ready {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            match serde_json::to_string(&ready) {
                Ok(body) => (status, JSON, body),
                Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, TEXT, String::new()),
            }
        }
        _ => (StatusCode::NOT_FOUND, TEXT, String::new()),
    }
}

/// Serves until the listener fails for good.
pub async fn serve(listener: TcpListener, agent: Arc<Agent>) -> io::Result<Infallible> {
    let counted = Arc::clone(&agent);
    let service = move |request: Request<Incoming>| {
        let (status, content_type, body) = answer(&agent, request.method(), request.uri().path());
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        async move { Ok::<_, Infallible>(response) }
    };
    let limits = http_server::Limits::default();
    http_server::serve(listener, limits, service_fn(service), move |_| {
        counted.http.refused.fetch_add(1, Ordering::Relaxed);
    })
    .await
}
