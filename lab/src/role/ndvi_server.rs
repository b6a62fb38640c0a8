//! The NDVI service: takes tiles over HTTP and answers with their index. The lab's real workload.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::counters::CountersFile;
use super::{Arguments, RoleError, block_on, listening};

const ROLE: &str = "ndvi-server";
/// Connections beyond these wait in the listener's backlog.
const CONNECTIONS: usize = 256;
/// A client that needs longer for its headers, or for the whole of its tile, is let go.
const PATIENCE: Duration = Duration::from_secs(10);
/// Clients beyond these are counted together.
const CLIENTS: usize = 1024;
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// `--listen ADDRESS:PORT`, any number; `--name CLUSTER/NODE`, what replies call this server; `--stats FILE`.
pub(super) fn main(args: &[String]) -> Result<(), RoleError> {
    let args = Arguments::parse(ROLE, args, &["listen", "name", "stats"])?;
    let addresses: Vec<SocketAddr> = args.all("listen")?;
    let counters = CountersFile::from_args(&args)?;
    let server = Server::new(args.optional("name")?.unwrap_or_else(|| ROLE.to_owned()))?;
    block_on(ROLE, async {
        let mut listeners = Vec::new();
        for address in addresses {
            listeners.push(
                TcpListener::bind(address)
                    .await
                    .map_err(listening(ROLE, address))?,
            );
        }
        run(server, listeners, counters).await
    })
}

async fn run(
    server: Arc<Server>,
    listeners: Vec<TcpListener>,
    counters: CountersFile,
) -> Result<(), RoleError> {
    let mut tasks = JoinSet::new();
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    for listener in listeners {
        tasks.spawn(accept(Arc::clone(&server), listener, Arc::clone(&room)));
    }
    tasks.spawn(async move {
        loop {
            counters.write(&*server.counters())?;
            tokio::time::sleep(WRITE_EVERY).await;
        }
    });
    match tasks.join_next().await {
        Some(Ok(result)) => result,
        Some(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
        None => Ok(()),
    }
}

struct Server {
    name: String,
    counters: Mutex<Counters>,
}

#[derive(Debug, Default, Serialize)]
struct Counters {
    /// Tiles answered, by the address of the client.
    tiles: BTreeMap<IpAddr, u64>,
    /// Tiles of clients beyond those listed.
    tiles_other_clients: u64,
    bytes_received: u64,
    bytes_sent: u64,
    /// Requests that were no valid tile, by the status that they got.
    refused: BTreeMap<u16, u64>,
    /// Connections that broke, or whose client was too slow.
    broken_connections: u64,
    accept_errors: u64,
}

impl Counters {
    fn count(&mut self, client: IpAddr) {
        if self.tiles.len() < CLIENTS || self.tiles.contains_key(&client) {
            *self.tiles.entry(client).or_default() += 1;
        } else {
            self.tiles_other_clients += 1;
        }
    }
}

impl Server {
    /// `name` must be one that a reply may carry.
    fn new(name: String) -> Result<Arc<Self>, RoleError> {
        let tile = ndvi::Tile::synthetic(0, 1, 1).expect("1 x 1 is a tile");
        ndvi::Request::new(0, &name, tile).map_err(|error| RoleError::Arguments {
            role: ROLE,
            message: format!("`{name}` is no value of --name: {error}"),
        })?;
        Ok(Arc::new(Self {
            name,
            counters: Mutex::default(),
        }))
    }

    fn counters(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(
    server: Arc<Server>,
    listener: TcpListener,
    room: Arc<Semaphore>,
) -> Result<(), RoleError> {
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return Ok(());
        };
        let Ok((stream, peer)) = listener.accept().await else {
            // Out of files or memory: others may leave meanwhile.
            server.counters().accept_errors += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            converse(&server, stream, peer.ip().to_canonical()).await;
            drop(permit);
        });
    }
}

async fn converse(server: &Arc<Server>, stream: TcpStream, peer: IpAddr) {
    let answer = service_fn(|request| {
        let server = Arc::clone(server);
        async move { Ok::<_, Infallible>(answer(&server, peer, request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if served.is_err() {
        server.counters().broken_connections += 1;
    }
}

type Answer = Response<Full<Bytes>>;

async fn answer(server: &Server, peer: IpAddr, request: Request<hyper::body::Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let refused = match (request.method().clone(), path.as_str()) {
        (Method::POST, ndvi::HTTP_PATH) => match tile(server, peer, request).await {
            Ok(reply) => return reply,
            Err(refused) => refused,
        },
        (Method::GET, "/healthz") => return text(StatusCode::OK, "ok\n"),
        (Method::GET, "/whoami") => {
            let (cluster, node) = server.name.split_once('/').unwrap_or(("", &server.name));
            return json(&serde_json::json!({ "cluster": cluster, "node": node }));
        }
        (Method::GET, "/stats") => return json(&*server.counters()),
        (_, ndvi::HTTP_PATH | "/healthz" | "/whoami" | "/stats") => (
            StatusCode::METHOD_NOT_ALLOWED,
            "this path does not know that method".to_owned(),
        ),
        _ => (StatusCode::NOT_FOUND, "nothing is here".to_owned()),
    };
    let (status, why) = refused;
    *server
        .counters()
        .refused
        .entry(status.as_u16())
        .or_default() += 1;
    text(status, &format!("{why}\n"))
}

async fn tile(
    server: &Server,
    peer: IpAddr,
    request: Request<hyper::body::Incoming>,
) -> Result<Answer, (StatusCode, String)> {
    let body = Limited::new(request.into_body(), ndvi::MAX_REQUEST_BYTES).collect();
    let body = match tokio::time::timeout(PATIENCE, body).await {
        Err(_) => {
            let why = format!("the tile did not arrive within {PATIENCE:?}");
            return Err((StatusCode::REQUEST_TIMEOUT, why));
        }
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let why = format!("a request has at most {} bytes", ndvi::MAX_REQUEST_BYTES);
            return Err((StatusCode::PAYLOAD_TOO_LARGE, why));
        }
        Ok(Err(error)) => return Err((StatusCode::BAD_REQUEST, error.to_string())),
        Ok(Ok(body)) => body.to_bytes(),
    };
    let bad = |error: ndvi::DecodeError| (StatusCode::BAD_REQUEST, error.to_string());
    let request = ndvi::Request::decode(&body).map_err(bad)?;
    let reply = ndvi::compute(&request, &server.name).map_err(bad)?.encode();

    let mut counters = server.counters();
    counters.bytes_received += body.len() as u64;
    counters.bytes_sent += reply.len() as u64;
    counters.count(peer);
    drop(counters);

    let mut response = Response::new(Full::new(Bytes::from(reply)));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(ndvi::CONTENT_TYPE),
    );
    Ok(response)
}

fn text(status: StatusCode, text: &str) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(text.to_owned())));
    *response.status_mut() = status;
    response
}

fn json(value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(text) => Response::new(Full::new(Bytes::from(text))),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A server on loopback, in this test's runtime.
    pub(in crate::role) async fn start(name: &str) -> SocketAddr {
        start_at("127.0.0.1:0", name).await
    }

    async fn start_at(address: &str, name: &str) -> SocketAddr {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::new(name.to_owned()).unwrap();
        tokio::spawn(accept(
            server,
            listener,
            Arc::new(Semaphore::new(CONNECTIONS)),
        ));
        address
    }

    /// Sends `head` and `body` as they are; the status and the body of the answer.
    async fn raw(address: SocketAddr, head: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "{head}\r\nhost: n\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // The server may refuse before it has read everything.
        let _ = stream.write_all(body).await;
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply).await;
        let end = reply.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        let status = std::str::from_utf8(&reply[9..12]).unwrap().parse().unwrap();
        (status, reply.split_off(end))
    }

    fn request(seed: u64) -> ndvi::Request {
        let tile = ndvi::Tile::synthetic(seed, 64, 64).unwrap();
        ndvi::Request::new(seed, "drone-1", tile).unwrap()
    }

    #[tokio::test]
    async fn tiles_are_answered_correctly_and_counted() {
        let address = start("talos-east/wrk-e-1").await;
        for seed in 0..3 {
            let request = request(seed);
            let (status, body) = raw(address, "POST /ndvi HTTP/1.1", &request.encode()).await;
            assert_eq!(status, 200);
            let reply = ndvi::Reply::decode(&body).unwrap();
            assert_eq!(ndvi::verify(&request, &reply), Ok(()));
            assert_eq!(reply.responder(), "talos-east/wrk-e-1");
        }
        let (_, stats) = raw(address, "GET /stats HTTP/1.1", b"").await;
        let stats: serde_json::Value = serde_json::from_slice(&stats).unwrap();
        assert_eq!(stats["tiles"], serde_json::json!({"127.0.0.1": 3}));
        assert_eq!(
            stats["bytes_received"],
            3 * request(0).encode().len() as u64
        );
        assert_eq!(stats["refused"], serde_json::json!({}));
    }

    #[tokio::test]
    async fn a_client_of_a_dual_stack_socket_is_counted_as_the_ipv4_host_that_it_is() {
        let port = start_at("[::]:0", "talos-east/wrk-e-1").await.port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        raw(address, "POST /ndvi HTTP/1.1", &request(1).encode()).await;
        let (_, stats) = raw(address, "GET /stats HTTP/1.1", b"").await;
        let stats: serde_json::Value = serde_json::from_slice(&stats).unwrap();
        assert_eq!(stats["tiles"], serde_json::json!({"127.0.0.1": 1}));
    }

    #[test]
    fn clients_beyond_the_table_are_counted_together() {
        let mut counters = Counters::default();
        let client = |n: usize| IpAddr::from(u32::try_from(n).unwrap().to_be_bytes());
        for n in 0..CLIENTS + 3 {
            counters.count(client(n));
        }
        // Who is listed stays so.
        counters.count(client(0));
        assert_eq!(
            (counters.tiles.len(), counters.tiles_other_clients),
            (CLIENTS, 3)
        );
        assert_eq!(counters.tiles[&client(0)], 2);
    }

    #[tokio::test]
    async fn a_client_that_hangs_up_in_the_middle_is_counted() {
        let address = start("talos-east/wrk-e-1").await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"POST /ndvi HTT").await.unwrap();
        drop(stream);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let (_, stats) = raw(address, "GET /stats HTTP/1.1", b"").await;
            let stats: serde_json::Value = serde_json::from_slice(&stats).unwrap();
            if stats["broken_connections"] == 1 {
                assert_eq!(stats["tiles"], serde_json::json!({}));
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{stats}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn other_requests_are_refused_with_their_reason() {
        let address = start("talos-east/wrk-e-1").await;
        let mut damaged = request(1).encode();
        damaged[100] ^= 1;
        let huge = vec![0; ndvi::MAX_REQUEST_BYTES + 1];
        for (head, body, expected, why) in [
            ("POST /ndvi", &damaged[..], 400, "checksum"),
            ("POST /ndvi", b"", 400, "ends after 0 bytes"),
            ("POST /ndvi", &huge, 413, "at most"),
            ("GET /ndvi", b"", 405, "method"),
            ("POST /stats", b"", 405, "method"),
            ("GET /other", b"", 404, "nothing"),
        ] {
            let (status, text) = raw(address, &format!("{head} HTTP/1.1"), body).await;
            let text = String::from_utf8(text).unwrap();
            assert_eq!(status, expected, "{head}: {text}");
            assert!(text.contains(why), "{head}: {text}");
        }
        let (_, stats) = raw(address, "GET /stats HTTP/1.1", b"").await;
        let stats: serde_json::Value = serde_json::from_slice(&stats).unwrap();
        assert_eq!(
            stats["refused"],
            serde_json::json!({"400": 2, "404": 1, "405": 2, "413": 1})
        );
        assert_eq!(stats["tiles"], serde_json::json!({}));
    }

    #[tokio::test]
    async fn it_says_who_and_how_it_is() {
        let address = start("talos-east/wrk-e-1").await;
        assert_eq!(
            raw(address, "GET /healthz HTTP/1.1", b"").await,
            (200, b"ok\n".to_vec())
        );
        let (status, text) = raw(address, "GET /whoami HTTP/1.1", b"").await;
        assert_eq!(status, 200);
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(&text).unwrap(),
            serde_json::json!({"cluster": "talos-east", "node": "wrk-e-1"})
        );
    }

    #[test]
    fn a_name_that_no_reply_may_carry_is_refused() {
        assert!(Server::new("a b".to_owned()).is_err());
        assert!(Server::new(ROLE.to_owned()).is_ok());
    }
}
