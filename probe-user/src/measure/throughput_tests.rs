//! Transfers with a real responder and with hostile ones, on loopback.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mesh::measurement::MeasureKind;
use probe_api::MeasurePlan;
use tokio_util::sync::CancellationToken;

use super::super::Measurer;
use super::*;
use crate::frame::transfer::{CHUNK_HEADER, MAX_CHUNK};
use crate::prober::{Limits, SourcePorts};
use crate::responder::{self, ResponderPorts, ResponderStats};

const CAPS: TransferCaps = TransferCaps {
    bytes: 2_000_000,
    time: Duration::from_secs(2),
};

fn node() -> NodeRef {
    NodeRef {
        cluster: "west".into(),
        node: "w-1".into(),
    }
}

/// Each test has source ports of its own, a third of them for the echoes.
fn measurer(first: u16) -> Measurer {
    let echoes = SourcePorts::within(first..=first + 29);
    let (prober, _) = Prober::start(Limits::default(), echoes).unwrap();
    Measurer::new(Ports::new(first + 30..=first + 89, 0), prober)
}

async fn run(measurer: &Measurer, address: SocketAddr, transfer: TransferCaps) -> [Measurement; 2] {
    let plan = MeasurePlan {
        targets: vec![MeasureTarget {
            node: node(),
            address,
            kind: MeasureKind::Throughput,
        }],
        transfer,
    };
    let mut results = measurer.submit(plan).expect("accepted");
    let forward = results.recv().await.expect("forward").1;
    let back = results.recv().await.expect("return").1;
    [forward, back]
}

fn figure(measurement: &Measurement) -> &Throughput {
    match &measurement.figure {
        Some(Figure::Throughput(found)) => found,
        _ => panic!("no figure: {measurement:?}"),
    }
}

async fn respond(ip: &str) -> (SocketAddr, Arc<ResponderStats>, CancellationToken) {
    let any = ResponderPorts { echo: 0, http: 0 };
    let bound = responder::bind(&[ip.parse().unwrap()], any).await.unwrap();
    let echo = bound.echo_addresses().unwrap()[0];
    let (stop, stats) = (CancellationToken::new(), Arc::<ResponderStats>::default());
    tokio::spawn(bound.serve(node(), Arc::clone(&stats), stop.clone()));
    (echo, stats, stop)
}

#[tokio::test]
async fn both_directions_move_what_was_asked_over_both_families() {
    let measurer = measurer(62_000);
    for ip in ["127.0.0.1", "::1"] {
        let (echo, stats, stop) = respond(ip).await;
        for measurement in run(&measurer, echo, CAPS).await {
            let found = figure(&measurement);
            assert_eq!(found.bytes, CAPS.bytes, "{measurement:?}");
            assert!(!found.by_time && found.duration_ns > 0);
            assert!(found.retransmits.is_some() && found.min_rtt_us.is_some());
            assert_eq!(measurement.responder, Some(node()));
            assert!((62_030..=62_089).contains(&measurement.source_port));
        }
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while stats.transfers_done.load(Ordering::Relaxed) < 2 {
            assert!(std::time::Instant::now() < deadline, "{stats:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(stats.transfer_bytes.load(Ordering::Relaxed), 2 * CAPS.bytes);
        assert_eq!(stats.transfers_cut.load(Ordering::Relaxed), 0);
        stop.cancel();
    }
    let latest = measurer.latest();
    assert_eq!(latest.len(), 2);
    assert!(latest.iter().all(|l| l.goodput_bytes_per_second.is_some()));
}

fn request(direction: PathDirection, bytes: u64) -> TransferRequest {
    TransferRequest {
        key: Key {
            nonce: [3; 16],
            run: 1,
            sequence: 0,
        },
        direction,
        caps: Caps {
            bytes,
            time: Duration::from_secs(5),
        },
    }
}

#[tokio::test]
async fn more_than_the_responder_allows_is_refused_and_counted() {
    let measurer = measurer(62_100);
    let (echo, stats, _stop) = respond("127.0.0.1").await;
    // Two that take their time.
    let mut held = Vec::new();
    for _ in 0..responder::transfer::MAX_TRANSFERS {
        let mut stream = TcpStream::connect(echo).await.unwrap();
        let asked = request(PathDirection::Forward, 1_000_000).encode().unwrap();
        stream.write_all(&asked).await.unwrap();
        let grant = read_frame(&mut stream, &[], PATIENCE).await;
        let grant = TransferGrant::decode(&grant.unwrap_or_default()).unwrap();
        assert_eq!(grant.granted, Granted::Yes);
        held.push(stream);
    }
    for measurement in run(&measurer, echo, CAPS).await {
        assert_eq!(measurement.outcome, MeasureOutcome::Busy);
        assert_eq!(measurement.figure, None);
        assert_eq!(measurement.responder, Some(node()));
    }
    assert_eq!(stats.transfers_busy.load(Ordering::Relaxed), 2);
    // Cut in the middle: their places are free again, and it is told.
    drop(held);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while stats.transfers_cut.load(Ordering::Relaxed) < 2 {
        assert!(std::time::Instant::now() < deadline, "{stats:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for measurement in run(&measurer, echo, CAPS).await {
        assert_eq!(measurement.outcome, MeasureOutcome::Ok);
    }
    // The bytes of a minute: a greedy one asks for all that it may, again and again.
    let mut refused = false;
    for _ in 0..=responder::transfer::BYTES_PER_WINDOW / responder::transfer::MAX_CAPS.bytes {
        let mut stream = TcpStream::connect(echo).await.unwrap();
        let asked = request(PathDirection::Return, u64::MAX).encode().unwrap();
        stream.write_all(&asked).await.unwrap();
        let grant = read_frame(&mut stream, &[], PATIENCE).await;
        let grant = TransferGrant::decode(&grant.unwrap_or_default()).unwrap();
        assert!(grant.caps.bytes <= responder::transfer::MAX_CAPS.bytes);
        assert!(grant.caps.time <= responder::transfer::MAX_CAPS.time);
        refused = grant.granted == Granted::Budget;
        if refused {
            break;
        }
        assert_eq!(grant.granted, Granted::Yes);
        let sink = async { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await };
        // Until the responder hangs up, which is after its result.
        let _ = timeout(Duration::from_secs(20), sink).await;
    }
    assert!(refused, "{stats:?}");
    assert_eq!(stats.transfers_over_budget.load(Ordering::Relaxed), 1);
}

/// A peer that grants each request and gives the connection to `serve`.
fn peer(serve: impl Fn(&TransferRequest, &mut std::net::TcpStream) + Send + 'static) -> SocketAddr {
    peer_that_grants(|request| grant(request, request.caps), serve)
}

fn grant(request: &TransferRequest, caps: Caps) -> TransferGrant {
    TransferGrant {
        key: request.key,
        granted: Granted::Yes,
        caps,
        responder: node(),
    }
}

fn peer_that_grants(
    grant: impl Fn(&TransferRequest) -> TransferGrant + Send + 'static,
    serve: impl Fn(&TransferRequest, &mut std::net::TcpStream) + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut frame = [0; FRAME_BYTES];
            if stream.read_exact(&mut frame).is_err() {
                continue;
            }
            let request = TransferRequest::decode(&frame).expect("a request");
            let _ = stream.write_all(&grant(&request).encode().unwrap());
            serve(&request, &mut stream);
        }
    });
    address
}

/// Reads the whole transfer; how long that took.
fn sink(stream: &mut std::net::TcpStream) -> Duration {
    let start = std::time::Instant::now();
    let mut chunks = crate::frame::transfer::Chunks::default();
    let mut buffer = [0; MAX_CHUNK];
    while !chunks.ended {
        match stream.read(&mut buffer) {
            Ok(1..) => {}
            _ => break,
        }
        let _ = chunks.take(&buffer);
    }
    start.elapsed()
}

fn honest(request: &TransferRequest, duration: Duration) -> TransferResult {
    TransferResult {
        key: request.key,
        by_time: false,
        bytes: request.caps.bytes,
        duration,
        retransmits: Some(0),
        min_rtt_us: Some(10),
    }
}

/// Reads everything that there is, then answers with `lie`.
fn liar(lie: fn(&TransferRequest) -> TransferResult) -> SocketAddr {
    peer(move |request, stream| {
        if request.direction == PathDirection::Forward {
            let mut buffer = vec![0; MAX_CHUNK];
            let mut left = usize::try_from(request.caps.bytes).unwrap();
            left += CHUNK_HEADER * (left.div_ceil(MAX_CHUNK) + 1);
            while left > 0 {
                match stream.read(&mut buffer) {
                    Ok(n @ 1..) => left -= n,
                    _ => return,
                }
            }
        } else {
            let _ = stream.write_all(&[0; CHUNK_HEADER]);
        }
        let _ = stream.write_all(&lie(request).encode().unwrap());
        let _ = stream.read(&mut [0; 1]);
    })
}

#[tokio::test]
async fn hostile_claims_give_no_figure() {
    let measurer = measurer(62_200);
    type Lie = fn(&TransferRequest) -> TransferResult;
    let lies: [(Lie, &str); 6] = [
        (
            |r| TransferResult {
                bytes: r.caps.bytes + 1,
                ..honest(r, Duration::from_millis(1))
            },
            "more than was sent",
        ),
        (
            |r| TransferResult {
                bytes: u64::MAX,
                ..honest(r, Duration::from_millis(1))
            },
            "far more than was sent",
        ),
        (|r| honest(r, Duration::ZERO), "no time"),
        (
            |r| honest(r, Duration::from_secs(3_600)),
            "longer than it took",
        ),
        (
            |r| TransferResult {
                bytes: 0,
                ..honest(r, Duration::from_millis(1))
            },
            "nothing",
        ),
        (
            |r| {
                let mut result = honest(r, Duration::from_nanos(1));
                result.key.nonce[0] ^= 1;
                result
            },
            "another's result",
        ),
    ];
    for (lie, what) in lies {
        for measurement in run(&measurer, liar(lie), CAPS).await {
            assert_eq!(measurement.outcome, MeasureOutcome::BadReply, "{what}");
            assert_eq!(measurement.figure, None, "{what}");
        }
    }
    // The same peer without a lie is believed, so the lies were what was refused.
    let [forward, _] = run(
        &measurer,
        liar(|r| honest(r, Duration::from_nanos(1))),
        CAPS,
    )
    .await;
    assert_eq!(forward.outcome, MeasureOutcome::Ok);
}

#[tokio::test]
async fn grants_and_streams_that_cannot_be_are_refused_and_a_cut_is_a_cut() {
    let measurer = measurer(62_300);
    let wrong_name = peer_that_grants(
        |r| {
            let mut grant = grant(r, r.caps);
            grant.responder.node = "w-2".into();
            grant
        },
        |_, _| {},
    );
    let greedy = peer_that_grants(
        |r| {
            grant(
                r,
                Caps {
                    bytes: r.caps.bytes + 1,
                    ..r.caps
                },
            )
        },
        |_, _| {},
    );
    // Takes some, then resets; or sends half a chunk and hangs up.
    let cut = peer(|request, stream| {
        if request.direction == PathDirection::Forward {
            let _ = stream.read_exact(&mut [0; 100_000]);
            let _ = socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO));
        } else {
            let _ = stream.write_all(&1_000_u32.to_be_bytes());
            let _ = stream.write_all(&[1; 500]);
        }
    });
    let endless = peer(|_, stream| {
        let mut chunk = vec![0; CHUNK_HEADER + MAX_CHUNK];
        chunk[..CHUNK_HEADER].copy_from_slice(&(MAX_CHUNK as u32).to_be_bytes());
        while stream.write_all(&chunk).is_ok() {}
    });
    let oversized = peer(|_, stream| {
        let _ = stream.write_all(&u32::MAX.to_be_bytes());
        sink(stream);
    });
    let silent = peer_that_grants(|r| grant(r, r.caps), |_, _| ());
    for (address, direction, expected, what) in [
        (wrong_name, 0, MeasureOutcome::WrongResponder, "wrong name"),
        (greedy, 0, MeasureOutcome::BadReply, "a larger grant"),
        (cut, 0, MeasureOutcome::Reset, "a reset"),
        (cut, 1, MeasureOutcome::Reset, "half a chunk"),
        (endless, 1, MeasureOutcome::BadReply, "more than was asked"),
        (oversized, 1, MeasureOutcome::BadReply, "a chunk too long"),
        (silent, 1, MeasureOutcome::Reset, "no end"),
    ] {
        let measured = run(&measurer, address, CAPS).await;
        assert_eq!(measured[direction].outcome, expected, "{what}");
        assert_eq!(measured[direction].figure, None, "{what}");
    }
    let gone = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    assert_eq!(
        run(&measurer, gone, CAPS).await[0].outcome,
        MeasureOutcome::Refused
    );
}

#[test]
fn a_claim_is_held_against_what_this_end_knows() {
    let claim = Claim {
        sent: 1_000,
        acked: 900,
        elapsed: Duration::from_secs(1),
    };
    let said = |bytes, millis| {
        let request = request(PathDirection::Forward, bytes);
        claim.allows(&honest(&request, Duration::from_millis(millis)))
    };
    assert!(said(900, 1_000) && said(1, 1));
    assert!(!said(901, 1_000), "more than was acknowledged");
    assert!(!said(900, 1_001), "longer than it took");
    assert!(!said(900, 0) && !said(0, 1_000));
    let unsent = Claim { sent: 800, ..claim };
    let request = request(PathDirection::Forward, 801);
    assert!(!unsent.allows(&honest(&request, Duration::from_millis(1))));
}

#[test]
fn round_trips_under_load_are_ranked() {
    let loaded: Vec<u64> = (1..=200).rev().collect();
    let rtt = judge(&[7, 3, 9], &(loaded, 4)).expect("enough");
    assert_eq!((rtt.idle_min_ns, rtt.idle), (3, 3));
    assert_eq!((rtt.loaded_p50_ns, rtt.loaded_p99_ns), (100, 198));
    assert_eq!((rtt.loaded, rtt.lost), (200, 4));
    assert_eq!(rtt.queueing_ns(), 195);
    assert_eq!(judge(&[1], &(vec![1; 4], 0)), None);
    assert_eq!(judge(&[], &(vec![1; 50], 0)), None);
}

#[test]
fn waiting_ends_with_the_last_echo_of_the_transfer() {
    let echo = |sequence: u32, sent_ns: u64, outcome| Sample {
        sequence,
        source_port: 61_500,
        sent_ns,
        delay_ns: 0,
        outcome,
        connect_ns: None,
        round_trip_ns: (outcome == Outcome::Ok).then_some(5),
        responder: None,
        receiver_count: None,
        starved: false,
    };
    let mut waiting = Waiting::default();
    assert!(!waiting.heard(&echo(0, 10, Outcome::Ok), 35));
    // The second is overtaken by one that was sent after the transfer, and a late one is no news.
    assert!(!waiting.heard(&echo(2, 30, Outcome::Ok), 35));
    assert!(!waiting.heard(&echo(4, 50, Outcome::Ok), 35));
    assert!(!waiting.heard(&echo(1, 20, Outcome::Timeout), 35));
    assert!(waiting.heard(&echo(3, 40, Outcome::Ok), 35));
    // What was never sent has no time of sending that counts.
    let mut waiting = Waiting::default();
    assert!(!waiting.heard(&echo(0, 99, Outcome::LocalError), 35));
    assert!(!waiting.heard(&echo(1, 20, Outcome::Ok), 35));
    assert!(waiting.heard(&echo(2, 36, Outcome::Ok), 35));
}
