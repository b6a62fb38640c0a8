//! A small HTTP/1.1 server with limits: connections, header bytes and time.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub connections: usize,
    /// Request line and headers.
    pub header_bytes: usize,
    pub header_time: Duration,
    /// A connection's whole life, kept-alive requests included.
    pub connection_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            // The smallest that hyper takes.
            header_bytes: 8_192,
            header_time: Duration::from_secs(5),
            connection_time: Duration::from_secs(30),
        }
    }
}

/// Why a connection got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Full,
    Deadline,
    Protocol,
}

/// Serves until the listener fails for good. Bodies of requests are not read.
pub(crate) async fn serve<S>(
    listener: TcpListener,
    limits: Limits,
    service: S,
    refused: impl Fn(Refused) + Clone + Send + 'static,
) -> io::Result<Infallible>
where
    S: Service<Request<Incoming>, Response = Response<Full<Bytes>>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    let slots = Arc::new(Semaphore::new(limits.connections));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                crate::responder::tolerate(error).await?;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            refused(Refused::Full);
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (service, refused) = (service.clone(), refused.clone());
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.header_time)
                .max_buf_size(limits.header_bytes)
                .serve_connection(TokioIo::new(stream), service);
            match timeout(limits.connection_time, connection).await {
                Err(_) => refused(Refused::Deadline),
                Ok(Err(error)) if error.is_timeout() => refused(Refused::Deadline),
                // A probe's reset after its answer is how probes close.
                Ok(Err(error)) if error.is_parse() => refused(Refused::Protocol),
                Ok(_) => {}
            }
            drop(slot);
        });
    }
}
