//! The search against a real responder and against hostile ones, on loopback.

use std::sync::Arc;

use mesh::measurement::MeasureKind;
use probe_api::{MeasurePlan, TransferCaps};
use tokio_util::sync::CancellationToken;

use super::super::Measurer;
use super::*;
use crate::frame::sized::MAX_PADDED;
use crate::prober::{Limits, Prober, SourcePorts};
use crate::responder::{self, ResponderPorts, ResponderStats};

fn node(name: &str) -> NodeRef {
    NodeRef {
        cluster: "west".into(),
        node: name.into(),
    }
}

/// Each test has source ports of its own.
fn measurer(ports: std::ops::RangeInclusive<u16>) -> Measurer {
    let none = SourcePorts::within(*ports.start()..=*ports.start());
    let prober = Prober::start(Limits::default(), none).unwrap().0;
    Measurer::new(Ports::new(ports, 0), prober)
}

async fn run(measurer: &Measurer, address: SocketAddr) -> [Measurement; 2] {
    let plan = MeasurePlan {
        targets: vec![MeasureTarget {
            node: node("w-1"),
            address,
            kind: MeasureKind::PathMtu,
        }],
        transfer: TransferCaps::default(),
    };
    let mut results = measurer.submit(plan).expect("accepted");
    let forward = results.recv().await.expect("forward").1;
    let back = results.recv().await.expect("return").1;
    assert_eq!(results.recv().await, None);
    assert_eq!(forward.direction, PathDirection::Forward);
    assert_eq!(back.direction, PathDirection::Return);
    [forward, back]
}

async fn respond(ip: &str) -> (SocketAddr, Arc<ResponderStats>, CancellationToken) {
    let any = ResponderPorts { echo: 0, http: 0 };
    let bound = responder::bind(&[ip.parse().unwrap()], any).await.unwrap();
    let echo = bound.echo_addresses().unwrap()[0];
    let (stop, stats) = (CancellationToken::new(), Arc::<ResponderStats>::default());
    tokio::spawn(bound.serve(node("w-1"), Arc::clone(&stats), stop.clone()));
    (echo, stats, stop)
}

/// A peer that answers each request with what `answer` makes of it.
fn peer(answer: impl Fn(&SizedRequest) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = StdUdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 10_000];
        while let Ok((n, peer)) = socket.recv_from(&mut buffer) {
            let request = SizedRequest::decode(&buffer[..n]).expect("a request");
            for datagram in answer(&request) {
                let _ = socket.send_to(&datagram, peer);
            }
        }
    });
    address
}

fn reply_to(request: &SizedRequest) -> SizedReply {
    SizedReply {
        key: request.key,
        token: [1; 16],
        request_length: u16::try_from(request.length).unwrap(),
        padding: Padding::AsAsked,
        local_mtu: None,
        route_mtu: None,
        reported: None,
        responder: node("w-1"),
    }
}

fn honest(request: &SizedRequest) -> Vec<Vec<u8>> {
    let length = request.reply_length.map_or(SMALL_BYTES, usize::from);
    vec![reply_to(request).encode(length).unwrap()]
}

fn mtu(measurement: &Measurement) -> &PathMtu {
    match &measurement.figure {
        Some(Figure::PathMtu(mtu)) => mtu,
        _ => panic!("no figure: {measurement:?}"),
    }
}

#[tokio::test]
async fn a_path_wider_than_the_ceiling_is_found_over_both_families() {
    let measurer = measurer(61_000..=61_009);
    for ip in ["127.0.0.1", "::1"] {
        let (echo, stats, stop) = respond(ip).await;
        for measurement in run(&measurer, echo).await {
            let found = mtu(&measurement);
            assert_eq!((found.bytes, found.local_bytes), (CEILING, CEILING));
            assert_eq!(found.limit, MtuLimit::Ceiling);
            assert_eq!(found.reported, None);
            assert_eq!(measurement.responder, Some(node("w-1")));
            assert!((61_000..=61_009).contains(&measurement.source_port));
        }
        use std::sync::atomic::Ordering;
        assert_eq!(stats.padded_refused.load(Ordering::Relaxed), 0);
        assert!(stats.sized_answered.load(Ordering::Relaxed) >= 4);
        stop.cancel();
    }
}

#[tokio::test]
async fn a_silent_limit_of_either_direction_is_found_to_the_byte() {
    let measurer = measurer(61_010..=61_019);
    // Loses requests above 1399 bytes of packet, and asked replies above 1203.
    let address = peer(|request| {
        if request.length + 28 > 1_399 || request.reply_length.is_some_and(|l| l + 28 > 1_203) {
            return Vec::new();
        }
        honest(request)
    });
    let [forward, back] = run(&measurer, address).await;
    assert_eq!(mtu(&forward).bytes, 1_399);
    assert_eq!(mtu(&forward).limit, MtuLimit::Silent);
    assert_eq!(mtu(&forward).fragments_pass, Some(false));
    assert_eq!(mtu(&back).bytes, 1_203);
    assert!(mtu(&back).sized.sent > mtu(&back).sized.answered);
}

#[tokio::test]
async fn a_loss_of_one_in_five_is_no_mtu() {
    let measurer = measurer(61_020..=61_029);
    // Its own pattern, so that pairs are hit alike.
    let address = peer(|request| {
        let lost = request.key.nonce[0] < 51;
        if lost { Vec::new() } else { honest(request) }
    });
    for measurement in run(&measurer, address).await {
        assert_eq!(mtu(&measurement).bytes, CEILING);
    }
}

#[tokio::test]
async fn hostile_responders_give_no_figure() {
    type Answer = fn(&SizedRequest) -> Vec<Vec<u8>>;
    let cases: [(Answer, MeasureOutcome, &str); 8] = [
        (
            |r| {
                let mut reply = reply_to(r);
                reply.responder.node = "w-2".into();
                vec![reply.encode(SMALL_BYTES).unwrap()]
            },
            MeasureOutcome::WrongResponder,
            "another node",
        ),
        (
            |r| {
                let mut reply = reply_to(r);
                reply.key.nonce[3] ^= 1;
                vec![reply.encode(SMALL_BYTES).unwrap()]
            },
            MeasureOutcome::Timeout,
            "a nonce that was never sent",
        ),
        (
            |r| {
                let mut reply = reply_to(r);
                reply.key.run ^= 1;
                vec![reply.encode(SMALL_BYTES).unwrap()]
            },
            MeasureOutcome::Timeout,
            "another run",
        ),
        (
            |r| {
                let mut reply = reply_to(r);
                reply.request_length += 1;
                vec![reply.encode(SMALL_BYTES).unwrap()]
            },
            MeasureOutcome::BadReply,
            "a request of another length",
        ),
        (
            |r| vec![reply_to(r).encode(SMALL_BYTES + 1).unwrap()],
            MeasureOutcome::BadReply,
            "a longer reply than was asked",
        ),
        (
            |r| vec![honest(r)[0][..100].to_vec()],
            MeasureOutcome::BadReply,
            "a cut reply",
        ),
        (|_| vec![Vec::new()], MeasureOutcome::BadReply, "nothing"),
        (|_| Vec::new(), MeasureOutcome::Timeout, "silence"),
    ];
    let mut going_on = tokio::task::JoinSet::new();
    for (n, (answer, expected, what)) in (0..).zip(cases) {
        going_on.spawn(async move {
            let measurer = measurer(61_030 + 8 * n..=61_037 + 8 * n);
            for measurement in run(&measurer, peer(answer)).await {
                assert_eq!(measurement.outcome, expected, "{what}");
                assert_eq!(measurement.figure, None, "{what}");
            }
        });
    }
    going_on.join_all().await;
    let measurer = measurer(61_094..=61_099);
    let gone = StdUdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    assert_eq!(
        run(&measurer, gone).await[0].outcome,
        MeasureOutcome::Refused
    );
}

#[tokio::test]
async fn a_responder_may_not_claim_what_cannot_be() {
    let measurer = measurer(61_100..=61_129);
    // It says "too big here", of a size that its own stated limit allows.
    let address = peer(|request| {
        if request.reply_length.is_none() {
            return honest(request);
        }
        let reply = SizedReply {
            padding: Padding::TooBigHere,
            local_mtu: Some(u16::MAX),
            ..reply_to(request)
        };
        vec![reply.encode(SMALL_BYTES).unwrap()]
    });
    let [forward, back] = run(&measurer, address).await;
    assert_eq!(forward.outcome, MeasureOutcome::Ok);
    assert_eq!(back.outcome, MeasureOutcome::BadReply);
    // It answers a padded request with a small reply that says "as asked".
    let address = peer(|request| vec![reply_to(request).encode(SMALL_BYTES).unwrap()]);
    let [_, back] = run(&measurer, address).await;
    assert!(
        back.figure.is_none() || mtu(&back).bytes == 476,
        "a short reply is no padded one: {back:?}"
    );
    // Its budget is used up.
    let address = peer(|request| {
        let padding = match request.reply_length {
            Some(_) => Padding::Exhausted,
            None => Padding::AsAsked,
        };
        let reply = SizedReply {
            padding,
            ..reply_to(request)
        };
        vec![reply.encode(SMALL_BYTES).unwrap()]
    });
    assert_eq!(
        run(&measurer, address).await[1].outcome,
        MeasureOutcome::Busy
    );
    // Only one at a time, and a dropped one frees the place.
    let plan = MeasurePlan {
        targets: vec![MeasureTarget {
            node: node("w-1"),
            address: peer(|_| Vec::new()),
            kind: MeasureKind::PathMtu,
        }],
        transfer: TransferCaps::default(),
    };
    let first = measurer.submit(plan.clone()).unwrap();
    assert!(measurer.submit(plan.clone()).is_err());
    drop(first);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while measurer.submit(plan.clone()).is_err() {
        assert!(
            std::time::Instant::now() < deadline,
            "the place is not free"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_late_refusal_is_of_its_own_size() {
    let measurer = measurer(61_130..=61_139);
    // The first size is refused again and again, the last time while a smaller one is asked.
    let address = peer(|request| {
        let Some(wanted) = request.reply_length else {
            return honest(request);
        };
        if usize::from(wanted) + 28 <= 1_400 {
            return honest(request);
        }
        std::thread::sleep(Duration::from_millis(12));
        let reply = SizedReply {
            padding: Padding::TooBigHere,
            local_mtu: Some(1_400),
            ..reply_to(request)
        };
        vec![reply.encode(SMALL_BYTES).unwrap()]
    });
    let [_, back] = run(&measurer, address).await;
    let found = mtu(&back);
    assert_eq!((found.bytes, found.limit), (1_400, MtuLimit::Local));
}

#[tokio::test]
async fn the_responder_is_no_amplifier() {
    let (echo, stats, _stop) = respond("127.0.0.1").await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(echo).await.unwrap();
    let mut asked = 0_u8;
    let mut ask = async |token: Token, reply_length: Option<u16>| {
        asked = asked.wrapping_add(1);
        let request = SizedRequest {
            key: Key {
                nonce: [asked; 16],
                run: 1,
                sequence: 0,
            },
            token,
            reply_length,
            may_fragment: false,
            length: SMALL_BYTES,
        };
        socket.send(&request.encode().unwrap()).await.unwrap();
        let mut buffer = vec![0; 10_000];
        let answer = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut buffer));
        let length = answer.await.expect("an answer").unwrap();
        let reply = SizedReply::decode(&buffer[..length]).unwrap();
        assert_eq!(reply.key, request.key);
        (length, reply)
    };
    for forged in [[0; 16], [7; 16]] {
        let (length, reply) = ask(forged, Some(9_000)).await;
        assert_eq!((length, reply.padding), (SMALL_BYTES, Padding::NoToken));
    }
    let (_, first) = ask([0; 16], None).await;
    let (length, reply) = ask(first.token, Some(9_000)).await;
    assert_eq!((length, reply.padding), (9_000, Padding::AsAsked));
    // From another port the token is worth nothing.
    let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let request = SizedRequest {
        key: first.key,
        token: first.token,
        reply_length: Some(9_000),
        may_fragment: false,
        length: SMALL_BYTES,
    };
    other
        .send_to(&request.encode().unwrap(), echo)
        .await
        .unwrap();
    let mut buffer = vec![0; 10_000];
    let (length, _) = other.recv_from(&mut buffer).await.unwrap();
    assert_eq!(length, SMALL_BYTES);
    let mut padded = 1;
    while ask(first.token, Some(500)).await.1.padding == Padding::AsAsked {
        padded += 1;
    }
    assert_eq!(padded, MAX_PADDED);
    use std::sync::atomic::Ordering;
    assert_eq!(stats.padded_refused.load(Ordering::Relaxed), 4);
}
