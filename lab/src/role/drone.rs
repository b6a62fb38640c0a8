//! A drone: posts synthetic tiles to the NDVI service at a steady pace and checks every answer.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, sleep, timeout};

use super::counters::CountersFile;
use super::{Arguments, RoleError, block_on, resolve};

const ROLE: &str = "drone";
/// Connect, post and answer of one try.
const PATIENCE: Duration = Duration::from_secs(5);
const TRIES: u32 = 3;
/// Wait before the second try; doubled before each further one.
const BACKOFF: Duration = Duration::from_millis(200);

/// `--target HOST:PORT`; `--interval 1s` between tiles; `--dns ADDRESS:PORT`, who resolves HOST if it is a name;
/// `--name NAME` in requests; `--side PIXELS` of a tile; `--stats FILE`.
pub(super) fn main(args: &[String]) -> Result<(), RoleError> {
    let known = ["target", "interval", "dns", "name", "side", "stats"];
    let args = Arguments::parse(ROLE, args, &known)?;
    let interval: String = args.one("interval")?;
    let wrong = |message: String| RoleError::Arguments {
        role: ROLE,
        message,
    };
    let interval = crate::line::unit::parse_duration(&interval)
        .map_err(|error| wrong(format!("`{interval}` is no value of --interval: {error}")))?;
    if interval.is_zero() {
        return Err(wrong("--interval must be above 0".to_owned()));
    }
    let target: String = args.one("target")?;
    let drone = Drone {
        target: Target::parse(&target, args.optional("dns")?)
            .ok_or_else(|| wrong(format!("`{target}` is no HOST:PORT for --target")))?,
        name: args.optional("name")?.unwrap_or_else(|| ROLE.to_owned()),
        side: args.optional("side")?.unwrap_or(ndvi::PROBE_SIDE),
    };
    drone.request(0).map_err(wrong)?;
    let file = CountersFile::from_args(&args)?;
    block_on(ROLE, async {
        let mut counters = Counters::default();
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let start = Instant::now();
        for tile in 0.. {
            ticks.tick().await;
            drone.deliver(tile, &mut counters).await;
            counters.skipped = skipped(start.elapsed(), interval, counters.tiles);
            file.write(&counters.summary())?;
        }
        Ok(())
    })
}

/// Slots that passed while slow tiles were under way.
fn skipped(elapsed: Duration, interval: Duration, tiles: u64) -> u64 {
    let slots = elapsed.as_nanos() / interval.as_nanos();
    u64::try_from(slots)
        .unwrap_or(u64::MAX)
        .saturating_sub(tiles)
}

struct Drone {
    target: Target,
    name: String,
    side: u16,
}

enum Target {
    Address(SocketAddr),
    Name {
        name: String,
        port: u16,
        server: Option<SocketAddr>,
    },
}

impl Target {
    fn parse(text: &str, server: Option<SocketAddr>) -> Option<Self> {
        if let Ok(address) = text.parse() {
            return Some(Self::Address(address));
        }
        let (name, port) = text.rsplit_once(':')?;
        let port = port.parse().ok()?;
        let name = (!name.is_empty()).then(|| name.to_owned())?;
        Some(Self::Name { name, port, server })
    }

    /// Resolved anew for every try: the service may have moved.
    async fn address(&self) -> Result<SocketAddr, Failure> {
        match self {
            Self::Address(address) => Ok(*address),
            Self::Name { name, port, server } => {
                let found: Result<Option<IpAddr>, String> = match server {
                    Some(server) => resolve::lookup(*server, name)
                        .await
                        .map(|found| found.first().copied())
                        .map_err(|error| error.to_string()),
                    None => tokio::net::lookup_host((name.as_str(), *port))
                        .await
                        .map(|mut found| found.next().map(|socket| socket.ip()))
                        .map_err(|error| error.to_string()),
                };
                match found {
                    Ok(Some(address)) => Ok(SocketAddr::new(address, *port)),
                    Ok(None) => Err(Failure::new("resolve", format!("`{name}` has no address"))),
                    Err(error) => Err(Failure::new("resolve", error)),
                }
            }
        }
    }
}

/// Why one try did not bring a right answer.
#[derive(Debug)]
struct Failure {
    /// What it was about to do: a small set, for counting.
    step: &'static str,
    message: String,
}

impl Failure {
    fn new(step: &'static str, error: impl std::fmt::Display) -> Self {
        let message = error.to_string();
        Self { step, message }
    }
}

#[derive(Debug)]
struct Counters {
    tiles: u64,
    answered: u64,
    given_up: u64,
    retries: u64,
    skipped: u64,
    bytes_sent: u64,
    bytes_received: u64,
    failures: BTreeMap<&'static str, u64>,
    last_failure: Option<String>,
    responders: BTreeMap<String, u64>,
    /// From the start of the successful try to the checked answer, µs.
    round_trip: Histogram<u64>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            tiles: 0,
            answered: 0,
            given_up: 0,
            retries: 0,
            skipped: 0,
            bytes_sent: 0,
            bytes_received: 0,
            failures: BTreeMap::new(),
            last_failure: None,
            responders: BTreeMap::new(),
            round_trip: Histogram::new_with_bounds(1, 60_000_000, 3)
                .expect("1 µs to 60 s with 3 digits is a valid range"),
        }
    }
}

#[derive(Serialize)]
struct Summary<'a> {
    /// Tiles begun; each ends as answered or given up.
    tiles: u64,
    answered: u64,
    given_up: u64,
    /// Tries beyond the first.
    retries: u64,
    /// Tiles left out because an earlier one took too long.
    skipped: u64,
    bytes_sent: u64,
    bytes_received: u64,
    /// Failed tries by the step that failed: resolve, connect, post, status, decode, verify, timeout.
    failures: &'a BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_failure: Option<&'a str>,
    /// Answers by who computed them.
    responders: &'a BTreeMap<String, u64>,
    round_trip_p50_seconds: f64,
    round_trip_p99_seconds: f64,
    round_trip_max_seconds: f64,
}

impl Counters {
    fn summary(&self) -> Summary<'_> {
        let seconds = |micros: u64| Duration::from_micros(micros).as_secs_f64();
        Summary {
            tiles: self.tiles,
            answered: self.answered,
            given_up: self.given_up,
            retries: self.retries,
            skipped: self.skipped,
            bytes_sent: self.bytes_sent,
            bytes_received: self.bytes_received,
            failures: &self.failures,
            last_failure: self.last_failure.as_deref(),
            responders: &self.responders,
            round_trip_p50_seconds: seconds(self.round_trip.value_at_quantile(0.5)),
            round_trip_p99_seconds: seconds(self.round_trip.value_at_quantile(0.99)),
            round_trip_max_seconds: seconds(self.round_trip.max()),
        }
    }
}

impl Drone {
    fn request(&self, tile: u64) -> Result<ndvi::Request, String> {
        let bands = ndvi::Tile::synthetic(tile, self.side, self.side)
            .map_err(|error| format!("--side: {error}"))?;
        ndvi::Request::new(tile, &self.name, bands).map_err(|error| format!("--name: {error}"))
    }

    /// One tile, tried until it is answered correctly or the tries are used up.
    async fn deliver(&self, tile: u64, counters: &mut Counters) {
        counters.tiles += 1;
        let request = self
            .request(tile)
            .expect("side and name were checked at the start");
        for attempt in 0..TRIES {
            if attempt > 0 {
                counters.retries += 1;
                sleep(BACKOFF * 2_u32.pow(attempt - 1)).await;
            }
            let start = Instant::now();
            let answer = timeout(PATIENCE, self.attempt(&request, counters)).await;
            let answer = answer.unwrap_or_else(|_| {
                Err(Failure::new(
                    "timeout",
                    format!("no answer in {PATIENCE:?}"),
                ))
            });
            match answer {
                Ok(responder) => {
                    let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
                    counters.round_trip.saturating_record(micros);
                    counters.answered += 1;
                    *counters.responders.entry(responder).or_default() += 1;
                    return;
                }
                Err(failure) => {
                    tracing::debug!(tile, attempt, step = failure.step, error = %failure.message, "tile failed");
                    *counters.failures.entry(failure.step).or_default() += 1;
                    counters.last_failure = Some(format!("{}: {}", failure.step, failure.message));
                }
            }
        }
        counters.given_up += 1;
    }

    /// One post over a connection of its own; who answered.
    async fn attempt(
        &self,
        request: &ndvi::Request,
        counters: &mut Counters,
    ) -> Result<String, Failure> {
        let address = self.target.address().await?;
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| Failure::new("connect", error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Failure::new("post", error))?;
        let body = request.encode();
        counters.bytes_sent += body.len() as u64;
        let post = Request::builder()
            .method(Method::POST)
            .uri(ndvi::HTTP_PATH)
            .header(header::HOST, address.to_string())
            .header(header::CONTENT_TYPE, ndvi::CONTENT_TYPE)
            .header(header::CONNECTION, "close")
            .body(Full::new(Bytes::from(body)))
            .expect("method, path and headers are valid");
        let exchange = async {
            let response = sender.send_request(post).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ndvi::MAX_REPLY_BYTES).collect();
            Ok::<_, hyper::Error>((status, body.await))
        };
        let ((status, body), _) =
            tokio::try_join!(exchange, connection).map_err(|error| Failure::new("post", error))?;
        let body = body
            .map_err(|error| Failure::new("post", error))?
            .to_bytes();
        counters.bytes_received += body.len() as u64;
        if !status.is_success() {
            let text = String::from_utf8_lossy(&body[..body.len().min(200)]);
            let text = text.trim().escape_debug();
            return Err(Failure::new("status", format!("{status}: {text}")));
        }
        let reply = ndvi::Reply::decode(&body).map_err(|error| Failure::new("decode", error))?;
        ndvi::verify(request, &reply).map_err(|error| Failure::new("verify", error))?;
        Ok(reply.responder().to_owned())
    }
}

#[cfg(test)]
mod tests;
