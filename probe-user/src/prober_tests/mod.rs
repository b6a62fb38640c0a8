//! The prober against real responders, and against peers that misbehave, on loopback.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::{RData, Record};
use mesh::observation::{NodeRef, Outcome, ProbeKind, ProbeTarget, Question};
use probe_api::PlannedTarget;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::frame::{PROBE_BYTES, Reply, Request};
use crate::responder::{self, ResponderPorts, ResponderStats};

/// Each test has source ports of its own, since tests share one network namespace.
fn prober(ports: std::ops::RangeInclusive<u16>) -> Prober {
    Prober::start(Limits::default(), SourcePorts::within(ports))
        .unwrap()
        .0
}

fn node(name: &str) -> NodeRef {
    NodeRef {
        cluster: "west".into(),
        node: name.into(),
    }
}

fn planned(kind: ProbeKind, address: SocketAddr, count: u32) -> PlannedTarget {
    PlannedTarget {
        target: ProbeTarget {
            cluster: "west".into(),
            node: (kind != ProbeKind::NdviTile).then(|| "w-1".into()),
            service: (kind == ProbeKind::NdviTile).then(|| "ndvi".into()),
            address,
            question: None,
        },
        kind,
        count,
    }
}

fn plan(targets: Vec<PlannedTarget>, timeout_ms: u64) -> ProbePlan {
    ProbePlan {
        targets,
        interval: Duration::from_millis(5),
        timeout: Duration::from_millis(timeout_ms),
    }
}

async fn run(prober: &Prober, plan: ProbePlan) -> Vec<(u32, Sample)> {
    let expected = plan.probes();
    let mut results = prober
        .submit(plan, TileSide(8), Purpose::Burst)
        .expect("accepted");
    let mut samples = Vec::new();
    while let Some(sample) = results.recv().await {
        samples.push(sample);
    }
    assert_eq!(samples.len() as u64, expected, "one sample per probe");
    samples
}

async fn respond(ip: IpAddr, name: &str) -> (SocketAddr, SocketAddr, CancellationToken) {
    let any = ResponderPorts { echo: 0, http: 0 };
    let bound = responder::bind(&[ip], any).await.unwrap();
    let echo = bound.echo_addresses().unwrap()[0];
    let http = bound.http_addresses().unwrap()[0];
    let stop = CancellationToken::new();
    let stats = Arc::new(ResponderStats::default());
    tokio::spawn(bound.serve(node(name), stats, stop.clone()));
    (echo, http, stop)
}

#[tokio::test]
async fn every_kind_measures_a_real_responder_over_both_families() {
    let prober = prober(61_000..=61_199);
    for ip in ["127.0.0.1", "::1"] {
        let (echo, http, stop) = respond(ip.parse().unwrap(), "w-1").await;
        let samples = run(
            &prober,
            plan(
                vec![
                    planned(ProbeKind::Tcp, echo, 20),
                    planned(ProbeKind::Udp, echo, 20),
                    planned(ProbeKind::Http, http, 20),
                ],
                5_000,
            ),
        )
        .await;
        for (target, sample) in &samples {
            assert_eq!(sample.outcome, Outcome::Ok, "{sample:?}");
            assert_eq!(sample.responder, Some(node("w-1")));
            assert!((61_000..=61_199).contains(&sample.source_port));
            assert!(sample.round_trip_ns.is_some());
            assert_eq!(sample.connect_ns.is_some(), *target != 1);
            assert_eq!(sample.receiver_count.is_some(), *target == 1);
        }
        let tcp_ports: Vec<u16> = samples
            .iter()
            .filter(|(target, _)| *target != 1)
            .map(|(_, sample)| sample.source_port)
            .collect();
        let mut distinct = tcp_ports.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), tcp_ports.len(), "a new port per probe");
        let most = samples
            .iter()
            .filter_map(|(_, sample)| sample.receiver_count)
            .max();
        assert_eq!(most, Some(20), "the receiver counted them all");
        stop.cancel();
    }
}

/// A UDP peer that answers each request with what `answer` makes of it.
fn udp_peer(answer: impl Fn(&Request) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2_048];
        while let Ok((n, peer)) = socket.recv_from(&mut buffer) {
            let request = Request::decode(&buffer[..n]).expect("a request");
            for datagram in answer(&request) {
                let _ = socket.send_to(&datagram, peer);
            }
        }
    });
    address
}

/// A TCP peer that gives each connection to `serve` after it has read the request.
fn tcp_peer(serve: impl Fn(&[u8], &mut std::net::TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut buffer = [0; 2_048];
            let n = stream.read(&mut buffer).unwrap_or(0);
            serve(&buffer[..n], &mut stream);
        }
    });
    address
}

fn reply_to(request: &Request, name: &str) -> Reply {
    Reply {
        key: request.key,
        receiver_count: 1,
        responder: node(name),
    }
}

async fn only_outcome(prober: &Prober, kind: ProbeKind, address: SocketAddr) -> Outcome {
    let samples = run(prober, plan(vec![planned(kind, address, 3)], 300)).await;
    for (_, sample) in &samples {
        assert_eq!(sample.outcome, samples[0].1.outcome, "{samples:?}");
        assert_eq!(sample.round_trip_ns, None, "a failed probe has no figure");
    }
    samples[0].1.outcome
}

#[tokio::test]
async fn hostile_udp_peers_are_never_ok() {
    let prober = prober(61_200..=61_299);
    let cases: Vec<(SocketAddr, Outcome)> = vec![
        (
            udp_peer(|r| vec![reply_to(r, "w-2").encode(PROBE_BYTES).unwrap()]),
            Outcome::WrongResponder,
        ),
        (
            udp_peer(|r| {
                let mut reply = reply_to(r, "w-1");
                reply.key.nonce[0] ^= 1;
                vec![reply.encode(PROBE_BYTES).unwrap()]
            }),
            Outcome::BadReply,
        ),
        (
            udp_peer(|r| vec![reply_to(r, "w-1").encode(PROBE_BYTES).unwrap()[..200].to_vec()]),
            Outcome::BadReply,
        ),
        (udp_peer(|r| vec![r.encode().unwrap()]), Outcome::BadReply),
        (udp_peer(|_| vec![Vec::new()]), Outcome::BadReply),
        (udp_peer(|_| vec![]), Outcome::Timeout),
    ];
    for (n, (address, expected)) in cases.into_iter().enumerate() {
        let outcome = only_outcome(&prober, ProbeKind::Udp, address).await;
        assert_eq!(outcome, expected, "case {n}");
    }
    assert!(prober.stats().stray_datagrams.load(Ordering::Relaxed) >= 12);
}

#[tokio::test]
async fn a_stray_datagram_does_not_hide_the_right_one() {
    let prober = prober(61_300..=61_319);
    let address = udp_peer(|r| {
        let mut forged = reply_to(r, "w-1");
        forged.key.nonce = [0; 16];
        vec![
            forged.encode(PROBE_BYTES).unwrap(),
            reply_to(r, "w-1").encode(PROBE_BYTES).unwrap(),
        ]
    });
    let samples = run(
        &prober,
        plan(vec![planned(ProbeKind::Udp, address, 5)], 5_000),
    )
    .await;
    assert!(
        samples.iter().all(|(_, s)| s.outcome == Outcome::Ok),
        "{samples:?}"
    );
    assert_eq!(prober.stats().stray_datagrams.load(Ordering::Relaxed), 5);
}

#[tokio::test]
async fn hostile_tcp_peers_are_never_ok() {
    let prober = prober(61_320..=61_499);
    let echo = |name: &'static str| {
        move |request: &[u8]| {
            let request = Request::decode(request).expect("a request");
            reply_to(&request, name).encode(PROBE_BYTES).unwrap()
        }
    };
    let cases: Vec<(SocketAddr, Outcome)> = vec![
        (
            tcp_peer(move |r, s| s.write_all(&echo("w-2")(r)).unwrap()),
            Outcome::WrongResponder,
        ),
        (
            tcp_peer(move |r, s| s.write_all(&echo("w-1")(r)[..100]).unwrap()),
            Outcome::BadReply,
        ),
        (tcp_peer(|_, _| ()), Outcome::BadReply),
        (
            tcp_peer(|_, s| {
                socket2::SockRef::from(&*s)
                    .set_linger(Some(Duration::ZERO))
                    .unwrap();
            }),
            Outcome::Reset,
        ),
        (
            tcp_peer(|_, s| {
                let _ = s.write_all(&[b'x'; 100_000]);
            }),
            Outcome::BadReply,
        ),
        (
            // One byte at a time, for longer than the deadline.
            tcp_peer(move |r, s| {
                for byte in echo("w-1")(r) {
                    if s.write_all(&[byte]).is_err() {
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            }),
            Outcome::Timeout,
        ),
    ];
    for (n, (address, expected)) in cases.into_iter().enumerate() {
        let outcome = only_outcome(&prober, ProbeKind::Tcp, address).await;
        assert_eq!(outcome, expected, "case {n}");
    }
}

#[tokio::test]
async fn a_peer_that_speaks_first_is_no_responder() {
    let prober = prober(61_500..=61_519);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(b"220 mail ready\r\n");
            let _ = stream.read(&mut [0; 1_000]);
        }
    });
    assert_eq!(
        only_outcome(&prober, ProbeKind::Tcp, address).await,
        Outcome::BadReply
    );
}

#[tokio::test]
async fn silence_refusal_and_no_route_are_told_apart() {
    let prober = prober(61_520..=61_699);
    // Nothing listens on a port that was just free.
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for kind in [ProbeKind::Tcp, ProbeKind::Http, ProbeKind::NdviTile] {
        assert_eq!(only_outcome(&prober, kind, free).await, Outcome::Refused);
    }
    let free = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    assert_eq!(
        only_outcome(&prober, ProbeKind::Udp, free).await,
        Outcome::Refused
    );

    // A listener whose queue is full drops further SYNs.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
        .unwrap();
    full.listen(0).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let _first = std::net::TcpStream::connect(address).unwrap();
    let samples = run(
        &prober,
        plan(vec![planned(ProbeKind::Tcp, address, 1)], 300),
    )
    .await;
    assert_eq!(samples[0].1.outcome, Outcome::Timeout);
    assert_eq!(samples[0].1.connect_ns, None);

    // TCP has no broadcast: the local stack refuses before any packet leaves.
    let broadcast = "255.255.255.255:7411".parse().unwrap();
    assert_eq!(
        only_outcome(&prober, ProbeKind::Tcp, broadcast).await,
        Outcome::Unreachable
    );
}

/// The prober tells a result before it closes the socket.
fn bind_when_free(port: u16) -> TcpListener {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match TcpListener::bind(("0.0.0.0", port)) {
            Ok(listener) => return listener,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test]
async fn taken_ports_are_passed_over_and_counted_and_none_left_is_our_own_error() {
    let prober = prober(61_700..=61_702);
    let taken = TcpListener::bind("0.0.0.0:61700").unwrap();
    let (echo, _, _stop) = respond("127.0.0.1".parse().unwrap(), "w-1").await;
    let samples = run(&prober, plan(vec![planned(ProbeKind::Tcp, echo, 2)], 5_000)).await;
    assert!(
        samples.iter().all(|(_, s)| s.outcome == Outcome::Ok),
        "{samples:?}"
    );
    assert!(prober.stats().ports_in_use.load(Ordering::Relaxed) >= 1);

    let more = [61_701, 61_702].map(bind_when_free);
    let samples = run(&prober, plan(vec![planned(ProbeKind::Tcp, echo, 1)], 5_000)).await;
    assert_eq!(samples[0].1.outcome, Outcome::LocalError);
    drop((taken, more));
}

#[tokio::test]
async fn dropping_the_results_stops_the_run() {
    let prober = prober(61_720..=61_799);
    let (seen, count) = std_mpsc::channel();
    let address = udp_peer(move |request| {
        let _ = seen.send(request.key.sequence);
        vec![]
    });
    let long = plan(vec![planned(ProbeKind::Udp, address, 10_000)], 100);
    let results = prober.submit(long, TileSide(8), Purpose::Burst).unwrap();
    let first = count.recv_timeout(Duration::from_secs(10));
    assert_eq!(first, Ok(0));
    drop(results);
    // The share of the budget comes back, which is when the run has ended.
    let deadline = Instant::now() + Duration::from_secs(10);
    while prober
        .budget
        .take(&plan(vec![planned(ProbeKind::Tcp, address, 1); 20], 100))
        .is_err()
    {
        assert!(Instant::now() < deadline, "the run still holds its budget");
        std::thread::sleep(Duration::from_millis(5));
    }
    let sent = count.try_iter().count();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(
        count.try_iter().count(),
        0,
        "nothing after the {sent} before"
    );
}

#[tokio::test]
async fn two_runs_share_the_prober() {
    let prober = prober(61_800..=61_899);
    let (echo, _, _stop) = respond("127.0.0.1".parse().unwrap(), "w-1").await;
    let one = plan(vec![planned(ProbeKind::Tcp, echo, 10)], 5_000);
    let (a, b) = tokio::join!(run(&prober, one.clone()), run(&prober, one));
    for (_, sample) in a.iter().chain(&b) {
        assert_eq!(sample.outcome, Outcome::Ok);
    }
}

#[test]
fn a_stall_makes_the_schedule_slip_instead_of_bunching() {
    // The engine is driven by hand: the thread that stalls is this one.
    let poll = mio::Poll::new().unwrap();
    let (jobs, queue) = std_mpsc::sync_channel(1);
    let stats = Arc::new(Stats::default());
    let ports = SourcePorts::within(61_900..=61_999);
    let mut engine = Engine::new(poll, queue, ports, Arc::clone(&stats));
    let address = udp_peer(|r| vec![reply_to(r, "w-1").encode(PROBE_BYTES).unwrap()]);
    let plan = plan(vec![planned(ProbeKind::Udp, address, 20)], 5_000);
    let permit = Budget::new(Limits::default()).take(&plan).unwrap();
    let (results, mut receiver) = mpsc::channel(20);
    jobs.send(Job {
        plan,
        purpose: Purpose::Burst,
        tile: TileSide(8),
        results,
        _permit: permit,
    })
    .unwrap();
    drop(jobs);
    engine.accept_jobs().unwrap();
    std::thread::sleep(Duration::from_millis(60));
    engine.run().unwrap();
    let mut samples = Vec::new();
    while let Ok((_, sample)) = receiver.try_recv() {
        samples.push(sample);
    }
    assert_eq!(samples.len(), 20);
    samples.sort_by_key(|sample| sample.sequence);
    assert!(samples[0].starved, "{:?}", samples[0]);
    assert!(samples[0].delay_ns >= 60_000_000);
    // Twelve were due when the stall ended; they keep their distance of 5 ms, give or take a late wake-up.
    let bunched = samples
        .windows(2)
        .filter(|pair| pair[1].sent_ns - pair[0].sent_ns < 1_000_000)
        .count();
    assert!(bunched <= 2, "{bunched} of 19 right after one another");
}

/// A resolver that answers each question with what `answer` makes of it.
fn resolver(answer: impl Fn(&mut Message) -> usize + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut bytes) {
            let mut message = Message::from_vec(&bytes[..length]).unwrap();
            message.metadata.message_type = MessageType::Response;
            for _ in 0..answer(&mut message) {
                let _ = socket.send_to(&message.to_vec().unwrap(), peer);
            }
        }
    });
    address
}

fn lookup(resolver: SocketAddr, count: u32) -> PlannedTarget {
    let mut planned = planned(ProbeKind::NdviTile, resolver, count);
    planned.kind = ProbeKind::Dns;
    planned.target.question = Some(Question {
        name: "ndvi.default.svc.cluster.local".into(),
        addresses: vec!["10.96.0.80".parse().unwrap()],
    });
    planned
}

#[tokio::test]
async fn names_are_asked_for_and_each_answer_is_told() {
    let prober = prober(61_500..=61_599);
    let has = |ip: [u8; 4]| {
        move |message: &mut Message| {
            let name = message.queries[0].name().clone();
            let data = RData::A(Ipv4Addr::from(ip).into());
            message.answers.push(Record::from_rdata(name, 5, data));
            1
        }
    };
    let says = |code| {
        move |message: &mut Message| {
            message.metadata.response_code = code;
            1
        }
    };
    let closed = {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap()
    };
    let forged = |message: &mut Message| {
        message.metadata.id ^= 1;
        2
    };
    let targets = [
        (resolver(has([10, 96, 0, 80])), Outcome::Ok),
        (resolver(has([10, 96, 0, 99])), Outcome::WrongAddress),
        (resolver(says(ResponseCode::NXDomain)), Outcome::NoSuchName),
        (
            resolver(says(ResponseCode::ServFail)),
            Outcome::ServerFailure,
        ),
        (resolver(|_| 0), Outcome::Timeout),
        // What answers another question is somebody else's, however often it comes.
        (resolver(forged), Outcome::BadReply),
        (closed, Outcome::Refused),
    ];
    let planned = targets.iter().map(|(address, _)| lookup(*address, 5));
    let samples = run(&prober, plan(planned.collect(), 300)).await;
    let mut ports: Vec<u16> = Vec::new();
    for (target, sample) in samples {
        let (address, outcome) = targets[target as usize];
        assert_eq!(sample.outcome, outcome, "{address}: {sample:?}");
        assert_eq!(sample.round_trip_ns.is_some(), outcome == Outcome::Ok);
        assert_eq!(sample.connect_ns, None);
        ports.push(sample.source_port);
    }
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 35, "a new port per question");
}
