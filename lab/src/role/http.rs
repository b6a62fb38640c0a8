//! A plain HTTP/1.1 service: answers every request with 200, its name and its own address.

use std::convert::Infallible;
use std::net::SocketAddr;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::{Arguments, RoleError, block_on, listening};

const ROLE: &str = "http";

/// Says which backend answers; what probes read.
const NAME_HEADER: &str = "aggrik8s-responder";

/// `--listen ADDRESS:PORT`, any number; `--name CLUSTER/NODE`, which the answers carry.
pub(super) fn main(args: &[String]) -> Result<(), RoleError> {
    let args = Arguments::parse(ROLE, args, &["listen", "name"])?;
    let name: Option<String> = args.optional("name")?;
    let addresses: Vec<SocketAddr> = args.all("listen")?;
    block_on(ROLE, async {
        let mut servers = tokio::task::JoinSet::new();
        for address in addresses {
            let listener = TcpListener::bind(address)
                .await
                .map_err(listening(ROLE, address))?;
            servers.spawn(serve(listener, address, name.clone()));
        }
        match servers.join_next().await {
            Some(Ok(Err(source))) => Err(RoleError::Io {
                role: ROLE,
                what: "serve".into(),
                source,
            }),
            Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
            Some(Ok(Ok(()))) | None => Ok(()),
        }
    })
}

async fn serve(
    listener: TcpListener,
    own: SocketAddr,
    name: Option<String>,
) -> std::io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let name = name.as_deref().and_then(|n| HeaderValue::from_str(n).ok());
        tokio::spawn(async move {
            let answer = service_fn(move |_: Request<hyper::body::Incoming>| {
                let mut response = Response::new(Full::new(Bytes::from(format!("{own}\n"))));
                if let Some(name) = &name {
                    response.headers_mut().insert(NAME_HEADER, name.clone());
                }
                async move { Ok::<_, Infallible>(response) }
            });
            // What a single client breaks concerns only that client.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}
