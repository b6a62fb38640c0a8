//! A bounded transfer over one TCP connection, and small echoes beside it: goodput by the receiver's clock, and what
//! the load does to the round trip.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Mutex;
use std::time::Duration;

use mesh::measurement::{LoadedRtt, MeasureOutcome, PathDirection, Throughput};
use mesh::observation::{NodeRef, Outcome, ProbeKind, ProbeTarget, Sample};
use probe_api::measure::{Figure, MeasureTarget, Measurement, TransferCaps};
use probe_api::{PlannedTarget, ProbePlan};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::{failed, with_port};
use crate::frame::transfer::{
    Caps, FRAME_BYTES, Granted, TransferGrant, TransferRequest, TransferResult,
};
use crate::frame::{FrameError, Key};
use crate::prober::{Ports, Prober, Purpose, TileSide};
use crate::responder::transfer::{receive, send_all};
use crate::sys::socket::tcp_info;

/// For the connect, and for each frame.
const PATIENCE: Duration = Duration::from_secs(3);
/// Echoes before the transfer, and their distance; during it they go on at the same pace.
const IDLE_ECHOES: u32 = 20;
const ECHO_INTERVAL: Duration = Duration::from_millis(10);
const ECHO_TIMEOUT: Duration = Duration::from_secs(1);
/// Fewer echoes say nothing of a p99.
const LEAST_LOADED: usize = 5;

struct Failure(MeasureOutcome);

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        tracing::debug!(%error, "transfer");
        Self(match error.kind() {
            io::ErrorKind::ConnectionRefused => MeasureOutcome::Refused,
            io::ErrorKind::TimedOut => MeasureOutcome::Timeout,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::UnexpectedEof => MeasureOutcome::Reset,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                MeasureOutcome::Unreachable
            }
            // Frames and chunks that are none.
            io::ErrorKind::Other | io::ErrorKind::InvalidData => MeasureOutcome::BadReply,
            _ => MeasureOutcome::LocalError,
        })
    }
}

impl From<FrameError> for Failure {
    fn from(_: FrameError) -> Self {
        Self(MeasureOutcome::BadReply)
    }
}

/// Both directions of the path to `target`, one after the other.
pub(super) async fn measure(
    target: &MeasureTarget,
    caps: TransferCaps,
    ports: &Mutex<Ports>,
    prober: &Prober,
) -> [Measurement; 2] {
    let echoes = Echoes { target, prober };
    let idle = echoes.idle().await;
    let one = |direction| directed(&echoes, &idle, direction, caps, ports);
    [
        one(PathDirection::Forward).await,
        one(PathDirection::Return).await,
    ]
}

async fn directed(
    echoes: &Echoes<'_>,
    idle: &[u64],
    direction: PathDirection,
    caps: TransferCaps,
    ports: &Mutex<Ports>,
) -> Measurement {
    let target = echoes.target;
    let caps = Caps {
        bytes: caps.bytes,
        time: caps.time,
    };
    let mut port = 0;
    let mut responder = None;
    let loaded = echoes.start(caps.time + PATIENCE);
    let start = Instant::now();
    let flowed = transfer(target, direction, caps, ports, &mut port, &mut responder).await;
    let rtt = match (loaded, &flowed) {
        (Some(results), Ok(flow)) => {
            let span = (
                flow.begin.saturating_duration_since(start),
                flow.end.saturating_duration_since(start),
            );
            judge(idle, &collect(results, span, start).await)
        }
        _ => None,
    };
    match flowed {
        Ok(flow) => Measurement {
            direction,
            outcome: MeasureOutcome::Ok,
            source_port: port,
            responder,
            figure: Some(Figure::Throughput(Throughput { rtt, ..flow.figure })),
        },
        Err(Failure(outcome)) => Measurement {
            responder,
            ..failed(direction, outcome, port)
        },
    }
}

/// A transfer that ended well, and when its bytes flowed.
struct Flow {
    figure: Throughput,
    begin: Instant,
    end: Instant,
}

async fn connect(
    target: SocketAddr,
    ports: &Mutex<Ports>,
    port: &mut u16,
) -> Result<TcpStream, Failure> {
    let (socket, bound) = with_port(ports, |port| {
        let (socket, any) = if target.is_ipv6() {
            (TcpSocket::new_v6()?, IpAddr::V6(Ipv6Addr::UNSPECIFIED))
        } else {
            (TcpSocket::new_v4()?, IpAddr::V4(Ipv4Addr::UNSPECIFIED))
        };
        socket.bind(SocketAddr::new(any, port))?;
        Ok(socket)
    })?;
    *port = bound;
    // A probe leaves no TIME_WAIT, which would use up the reserved range.
    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
    match timeout(PATIENCE, socket.connect(target)).await {
        Ok(connected) => Ok(connected?),
        Err(_) => Err(Failure(MeasureOutcome::Timeout)),
    }
}

async fn read_frame(
    stream: &mut TcpStream,
    early: &[u8],
    patience: Duration,
) -> Result<Vec<u8>, Failure> {
    let mut frame = early
        .get(..early.len().min(FRAME_BYTES))
        .unwrap_or_default()
        .to_vec();
    let known = frame.len();
    frame.resize(FRAME_BYTES, 0);
    match timeout(patience, stream.read_exact(&mut frame[known..])).await {
        Ok(read) => read?,
        Err(_) => return Err(Failure(MeasureOutcome::Timeout)),
    };
    Ok(frame)
}

async fn transfer(
    target: &MeasureTarget,
    direction: PathDirection,
    caps: Caps,
    ports: &Mutex<Ports>,
    port: &mut u16,
    responder: &mut Option<NodeRef>,
) -> Result<Flow, Failure> {
    let mut stream = connect(target.address, ports, port).await?;
    stream.set_nodelay(true)?;
    let mut random = [0; 24];
    getrandom::fill(&mut random).map_err(|_| Failure(MeasureOutcome::LocalError))?;
    let mut key = Key {
        nonce: Default::default(),
        run: 0,
        sequence: 0,
    };
    key.nonce.copy_from_slice(&random[..16]);
    key.run = u64::from_be_bytes([
        random[16], random[17], random[18], random[19], random[20], random[21], random[22],
        random[23],
    ]);
    let request = TransferRequest {
        key,
        direction,
        caps,
    };
    stream.write_all(&request.encode()?).await?;
    let grant = TransferGrant::decode(&read_frame(&mut stream, &[], PATIENCE).await?)?;
    if grant.key != key || grant.caps.bytes > caps.bytes || grant.caps.time > caps.time {
        return Err(Failure(MeasureOutcome::BadReply));
    }
    let asked = grant.responder == target.node;
    *responder = Some(grant.responder);
    if !asked {
        return Err(Failure(MeasureOutcome::WrongResponder));
    }
    if grant.granted != Granted::Yes {
        return Err(Failure(MeasureOutcome::Busy));
    }
    match direction {
        PathDirection::Forward => forward(&mut stream, &key, grant.caps).await,
        PathDirection::Return => back(&mut stream, &key, grant.caps).await,
    }
}

async fn forward(stream: &mut TcpStream, key: &Key, caps: Caps) -> Result<Flow, Failure> {
    let begin = Instant::now();
    let before = tcp_info(&*stream)?.bytes_acked;
    let (sent, by_time) = send_all(stream, caps).await?;
    let frame = read_frame(stream, &[], caps.time + PATIENCE).await?;
    let end = Instant::now();
    let result = TransferResult::decode(&frame)?;
    let info = tcp_info(&*stream)?;
    let claim = Claim {
        sent,
        acked: info.bytes_acked.saturating_sub(before),
        elapsed: end.saturating_duration_since(begin),
    };
    if result.key != *key || !claim.allows(&result) {
        return Err(Failure(MeasureOutcome::BadReply));
    }
    Ok(Flow {
        figure: Throughput {
            bytes: result.bytes,
            duration_ns: nanos(result.duration),
            by_time: by_time || result.by_time,
            retransmits: Some(info.retransmits),
            min_rtt_us: info.min_rtt_us,
            rtt: None,
        },
        begin,
        end,
    })
}

async fn back(stream: &mut TcpStream, key: &Key, caps: Caps) -> Result<Flow, Failure> {
    let begin = Instant::now();
    let received = receive(stream, caps, &[], true)
        .await
        .map_err(|(_, error)| Failure::from(error))?;
    let end = begin + received.duration;
    let frame = read_frame(stream, &received.rest, PATIENCE).await?;
    let result = TransferResult::decode(&frame)?;
    if result.key != *key || received.bytes == 0 || received.duration.is_zero() {
        return Err(Failure(MeasureOutcome::BadReply));
    }
    Ok(Flow {
        figure: Throughput {
            bytes: received.bytes,
            duration_ns: nanos(received.duration),
            by_time: received.by_time || result.by_time,
            retransmits: result.retransmits,
            min_rtt_us: result.min_rtt_us,
            rtt: None,
        },
        begin,
        end,
    })
}

/// What this end knows of a transfer that the other end reports on.
#[derive(Clone, Copy, Debug)]
struct Claim {
    /// Payload written.
    sent: u64,
    /// Bytes that the peer's kernel acknowledged.
    acked: u64,
    /// From the first byte written to the report.
    elapsed: Duration,
}

impl Claim {
    /// Nobody received more than was sent and acknowledged, or for longer than it took; and bytes take time.
    fn allows(&self, result: &TransferResult) -> bool {
        result.bytes > 0
            && result.bytes <= self.sent
            && result.bytes <= self.acked
            && !result.duration.is_zero()
            && result.duration <= self.elapsed
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Small UDP echoes to the same responder, from other ports.
struct Echoes<'a> {
    target: &'a MeasureTarget,
    prober: &'a Prober,
}

impl Echoes<'_> {
    fn submit(&self, count: u32) -> Option<mpsc::Receiver<(u32, Sample)>> {
        let plan = ProbePlan {
            targets: vec![PlannedTarget {
                target: ProbeTarget {
                    cluster: self.target.node.cluster.clone(),
                    node: Some(self.target.node.node.clone()),
                    service: None,
                    address: self.target.address,
                    question: None,
                },
                kind: ProbeKind::Udp,
                count,
            }],
            interval: ECHO_INTERVAL,
            timeout: ECHO_TIMEOUT,
        };
        match self.prober.submit(plan, TileSide(1), Purpose::Burst) {
            Ok(results) => Some(results),
            Err(error) => {
                tracing::debug!(%error, "no echoes beside the transfer");
                None
            }
        }
    }

    /// Round trips without load, ns.
    async fn idle(&self) -> Vec<u64> {
        let Some(mut results) = self.submit(IDLE_ECHOES) else {
            return Vec::new();
        };
        let mut round_trips = Vec::new();
        while let Some((_, sample)) = results.recv().await {
            round_trips.extend(sample.round_trip_ns.filter(|_| !sample.starved));
        }
        round_trips
    }

    /// Starts echoes for at most `time`; dropping the receiver stops them.
    fn start(&self, time: Duration) -> Option<mpsc::Receiver<(u32, Sample)>> {
        let count = time.as_millis() / ECHO_INTERVAL.as_millis();
        self.submit(u32::try_from(count).unwrap_or(1).max(1))
    }
}

/// Which echoes of the transfer are still without a result.
#[derive(Default)]
struct Waiting {
    heard: std::collections::BTreeSet<u32>,
    /// The first echo that was sent after the transfer, as far as is known.
    after: Option<u32>,
}

impl Waiting {
    /// Whether every echo sent before `end` has its result, this one included.
    fn heard(&mut self, sample: &Sample, end: u64) -> bool {
        if sample.sent_ns >= end && sample.outcome != Outcome::LocalError {
            let first = self.after.unwrap_or(sample.sequence).min(sample.sequence);
            self.after = Some(first);
        }
        self.heard.insert(sample.sequence);
        self.after
            .is_some_and(|after| self.heard.range(..after).count() == after as usize)
    }
}

/// Round trips while bytes flowed, and how many echoes were lost.
async fn collect(
    mut results: mpsc::Receiver<(u32, Sample)>,
    span: (Duration, Duration),
    start: Instant,
) -> (Vec<u64>, u32) {
    let deadline = start + span.1 + ECHO_TIMEOUT + Duration::from_millis(100);
    let during = nanos(span.0)..nanos(span.1);
    let (mut round_trips, mut lost) = (Vec::new(), 0);
    let mut waiting = Waiting::default();
    while let Ok(Some((_, sample))) = timeout_at(deadline, results.recv()).await {
        let complete = waiting.heard(&sample, during.end);
        if !sample.starved && during.contains(&sample.sent_ns) {
            match sample.round_trip_ns {
                Some(ns) => round_trips.push(ns),
                None if sample.outcome != Outcome::LocalError => lost += 1,
                None => {}
            }
        }
        if complete {
            break;
        }
    }
    (round_trips, lost)
}

/// `None` where too few echoes came back to say anything.
fn judge(idle: &[u64], (loaded, lost): &(Vec<u64>, u32)) -> Option<LoadedRtt> {
    let mut sorted = loaded.clone();
    sorted.sort_unstable();
    if sorted.len() < LEAST_LOADED {
        return None;
    }
    let rank = |percent: usize| sorted[((sorted.len() * percent).div_ceil(100)).max(1) - 1];
    Some(LoadedRtt {
        idle_min_ns: idle.iter().min().copied()?,
        loaded_p50_ns: rank(50),
        loaded_p99_ns: rank(99),
        idle: u32::try_from(idle.len()).unwrap_or(u32::MAX),
        loaded: u32::try_from(sorted.len()).unwrap_or(u32::MAX),
        lost: *lost,
    })
}

#[cfg(test)]
#[path = "throughput_tests.rs"]
mod tests;
