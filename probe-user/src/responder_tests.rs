//! The responder against honest and hostile clients, on loopback.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::*;
use crate::frame::{HEADER_BYTES, Key, PROBE_BYTES, Reply, Request};

struct Peer {
    echo: SocketAddr,
    http: SocketAddr,
    stats: Arc<ResponderStats>,
    stop: CancellationToken,
}

fn ports() -> ResponderPorts {
    ResponderPorts { echo: 0, http: 0 }
}

async fn start() -> Peer {
    let any = ports();
    let bound = bind(&["127.0.0.1".parse().unwrap()], any).await.unwrap();
    let peer = Peer {
        echo: bound.echo_addresses().unwrap()[0],
        http: bound.http_addresses().unwrap()[0],
        stats: Arc::default(),
        stop: CancellationToken::new(),
    };
    let me = NodeRef {
        cluster: "talos-east".into(),
        node: "cp-e-1".into(),
    };
    tokio::spawn(bound.serve(me, Arc::clone(&peer.stats), peer.stop.clone()));
    peer
}

fn request(sequence: u32, length: usize) -> Request {
    Request {
        key: Key {
            nonce: [7; 16],
            run: 1,
            sequence,
        },
        length,
    }
}

async fn until(counter: &AtomicU64, expected: u64) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while counter.load(Ordering::Relaxed) != expected {
        assert!(
            Instant::now() < deadline,
            "{} instead of {expected}",
            counter.load(Ordering::Relaxed)
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn udp_never_sends_more_than_it_got_and_ignores_noise() {
    let peer = start().await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(peer.echo).await.unwrap();
    let good = request(0, PROBE_BYTES).encode().unwrap();
    let reply = Reply {
        key: request(0, 0).key,
        receiver_count: 1,
        responder: NodeRef {
            cluster: "x".into(),
            node: "y".into(),
        },
    };
    let noise: [&[u8]; 6] = [
        b"",
        b"hello",
        &good[..200],
        &request(0, HEADER_BYTES).encode().unwrap(),
        &request(probe_api::MAX_COUNT, PROBE_BYTES).encode().unwrap(),
        // Two responders must not talk to each other for ever.
        &reply.encode(PROBE_BYTES).unwrap(),
    ];
    for datagram in noise {
        socket.send(datagram).await.unwrap();
    }
    until(&peer.stats.ignored, 6).await;
    socket.send(&good).await.unwrap();
    let mut buffer = [0; 2_048];
    let n = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut buffer))
        .await
        .expect("an answer")
        .unwrap();
    assert_eq!(n, PROBE_BYTES);
    let reply = Reply::decode(&buffer[..n]).unwrap();
    assert_eq!(reply.receiver_count, 1, "noise is not counted");
    assert_eq!(reply.responder.node, "cp-e-1");
    assert_eq!(peer.stats.udp_answered.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn tcp_answers_frames_however_they_are_cut_and_hangs_up_on_noise() {
    let peer = start().await;
    let mut stream = TcpStream::connect(peer.echo).await.unwrap();
    let two = [
        request(0, 100).encode().unwrap(),
        request(1, PROBE_BYTES).encode().unwrap(),
    ]
    .concat();
    for byte in &two[..90] {
        stream.write_all(&[*byte]).await.unwrap();
    }
    stream.write_all(&two[90..]).await.unwrap();
    let mut answer = vec![0; two.len()];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(Reply::decode(&answer[..100]).unwrap().key.sequence, 0);
    assert_eq!(Reply::decode(&answer[100..]).unwrap().key.sequence, 1);

    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut answer)).await;
    assert!(matches!(end, Ok(Ok(0) | Err(_))), "hung up: {end:?}");
    until(&peer.stats.ignored, 1).await;
}

#[tokio::test]
async fn http_refuses_oversized_heads_and_a_slow_client_costs_only_its_slot() {
    let peer = start().await;
    let mut slow = TcpStream::connect(peer.http).await.unwrap();
    slow.write_all(b"GET /v1/echo?nonce=0 HTTP/1.1\r\nx: ")
        .await
        .unwrap();

    let mut big = TcpStream::connect(peer.http).await.unwrap();
    let head = format!(
        "GET /v1/echo?nonce=0 HTTP/1.1\r\nx: {}\r\n\r\n",
        "y".repeat(20_000)
    );
    let _ = big.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), big.read_to_end(&mut answer)).await;
    let text = String::from_utf8_lossy(&answer);
    assert!(!text.starts_with("HTTP/1.1 200"), "{text}");

    let mut good = TcpStream::connect(peer.http).await.unwrap();
    good.write_all(b"GET /v1/echo?nonce=0f HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    good.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.ends_with(r#"{"cluster":"talos-east","node":"cp-e-1","nonce":"0f"}"#),
        "{answer}"
    );
    // The slow one is cut off by the server, not by us.
    let mut rest = Vec::new();
    let cut = tokio::time::timeout(Duration::from_secs(30), slow.read_to_end(&mut rest)).await;
    assert!(cut.is_ok(), "still open");
    until(&peer.stats.expired, 1).await;
}

#[tokio::test]
async fn a_port_in_use_and_a_wildcard_are_named() {
    let peer = start().await;
    let ports = ResponderPorts {
        echo: peer.echo.port(),
        http: 0,
    };
    let error = bind(&[peer.echo.ip()], ports).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot listen on `{}` (TCP)", peer.echo)
    );
    let error = bind(&["::".parse().unwrap()], ports).await.unwrap_err();
    assert!(
        error.to_string().contains("hint: name the addresses"),
        "{error}"
    );
    peer.stop.cancel();
}

/// Whether the kernel has a connection between these two that is half open.
fn half_open(responder: SocketAddr, peer: SocketAddr) -> bool {
    let hex = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => {
            let ip = u32::from_ne_bytes(v4.ip().octets());
            format!("{ip:08X}:{:04X}", v4.port())
        }
        SocketAddr::V6(_) => unreachable!("the test is of IPv4"),
    };
    let wanted = format!("{} {} 03", hex(responder), hex(peer));
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    table.lines().any(|line| line.contains(&wanted))
}

/// As on a path that loses every answer: the next run, after it was mended, may come from the same ports.
#[tokio::test]
async fn what_stays_half_open_is_forgotten_soon() {
    let bound = bind(&["127.0.0.1".parse().unwrap()], ports())
        .await
        .unwrap();
    let responder = bound.echo_addresses().unwrap()[0];
    let deaf = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).unwrap();
    deaf.attach_filter(&[socket2::SockFilter::new(0x06, 0, 0, 0)])
        .unwrap();
    deaf.bind(&SockAddr::from(SocketAddr::from(([127, 0, 0, 1], 0))))
        .unwrap();
    let peer = deaf.local_addr().unwrap().as_socket().unwrap();
    assert!(deaf.connect(&SockAddr::from(responder)).is_err());
    let begun = Instant::now();
    while !half_open(responder, peer) {
        assert!(begun.elapsed() < Duration::from_secs(10), "no SYN arrived");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The kernel's own way is to answer again for a minute. The deaf end goes on asking, at 1, 3 and 7 s: in between it is
    // forgotten.
    let begun = Instant::now();
    while half_open(responder, peer) {
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "still half open after 20 s"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(deaf);
}
