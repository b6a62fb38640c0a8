//! Drones against the real server and against servers that lie, stall or vanish, on loopback.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

fn drone(target: SocketAddr) -> Drone {
    Drone {
        target: Target::Address(target),
        name: "drone-1".to_owned(),
        side: 16,
    }
}

async fn deliver(target: SocketAddr) -> Counters {
    let mut counters = Counters::default();
    drone(target).deliver(7, &mut counters).await;
    counters
}

/// A server that reads one request per connection and answers with these bytes.
async fn server(answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let length = drone(address).request(7).unwrap().encode().len();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            let mut end = None;
            while end.is_none_or(|end| request.len() < end + length) {
                if stream.read_buf(&mut request).await.unwrap() == 0 {
                    break;
                }
                let found = request.windows(4).position(|w| w == b"\r\n\r\n");
                end = found.map(|at| at + 4);
            }
            let reply = answer(&request[end.unwrap()..]);
            stream.write_all(&reply).await.unwrap();
        }
    });
    address
}

fn http(status: u16, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn right_reply(body: &[u8]) -> ndvi::Reply {
    let request = ndvi::Request::decode(body).unwrap();
    ndvi::compute(&request, "east/n").unwrap()
}

#[tokio::test]
async fn a_right_answer_counts_once() {
    let address = crate::role::ndvi_server::tests::start("east/n").await;
    let mut counters = Counters::default();
    for tile in 0..5 {
        drone(address).deliver(tile, &mut counters).await;
    }
    let summary = serde_json::to_value(counters.summary()).unwrap();
    for (name, expected) in [
        ("tiles", 5),
        ("answered", 5),
        ("given_up", 0),
        ("retries", 0),
    ] {
        assert_eq!(summary[name], expected, "{name}");
    }
    assert_eq!(summary["responders"], serde_json::json!({"east/n": 5}));
    assert_eq!(
        summary["bytes_sent"],
        5 * drone(address).request(0).unwrap().encode().len()
    );
    assert!(summary["round_trip_max_seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(counters.round_trip.len(), 5);
}

#[tokio::test]
async fn wrong_answers_are_never_counted_as_right() {
    let right = server(|body| http(200, &right_reply(body).encode())).await;
    assert_eq!(deliver(right).await.answered, 1);

    let other_tile = ndvi::Tile::synthetic(99, 16, 16).unwrap();
    let other = ndvi::Request::new(7, "drone-1", other_tile).unwrap();
    let stale = ndvi::compute(&other, "east/n").unwrap().encode();
    let stale = server(move |_| http(200, &stale)).await;
    let damaged = server(|body| {
        let mut reply = right_reply(body).encode();
        reply[40] ^= 1;
        http(200, &reply)
    })
    .await;
    let failing = server(|_| http(503, b"no GPU\x1b[2J")).await;
    let short = server(|_| b"HTTP/1.1 200 x\r\ncontent-length: 100\r\n\r\nshort".to_vec()).await;
    let endless = server(|_| http(200, &vec![0; ndvi::MAX_REPLY_BYTES + 1])).await;
    let nonsense = server(|_| b"nonsense\r\n\r\n".to_vec()).await;
    let silent = server(|_| Vec::new()).await;
    for (address, step, text) in [
        (stale, "verify", "for a request with checksum"),
        (damaged, "decode", "checksum"),
        (
            failing,
            "status",
            "503 Service Unavailable: no GPU\\u{1b}[2J",
        ),
        (short, "post", ""),
        (endless, "post", "length limit"),
        (nonsense, "post", ""),
        (silent, "post", ""),
    ] {
        let counters = deliver(address).await;
        assert_eq!(counters.answered, 0, "{step} {text}");
        assert_eq!(counters.given_up, 1);
        assert_eq!(counters.retries, u64::from(TRIES) - 1);
        let failures: Vec<_> = counters.failures.iter().collect();
        let last = counters.last_failure.as_deref().unwrap_or_default();
        assert_eq!(failures, [(&step, &u64::from(TRIES))], "{last}");
        assert!(last.starts_with(step) && last.contains(text), "{last}");
        assert_eq!(counters.round_trip.len(), 0);
    }
}

#[tokio::test]
async fn it_comes_back_when_the_service_does() {
    let refusals = std::sync::atomic::AtomicU32::new(0);
    let address = server(move |body| {
        if refusals.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < TRIES - 1 {
            http(503, b"later")
        } else {
            http(200, &right_reply(body).encode())
        }
    })
    .await;
    let counters = deliver(address).await;
    assert_eq!((counters.answered, counters.given_up), (1, 0));
    assert_eq!(counters.retries, u64::from(TRIES) - 1);
}

#[tokio::test]
async fn nobody_there_is_a_failed_connect() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let start = Instant::now();
    let counters = deliver(address).await;
    assert_eq!(counters.failures["connect"], u64::from(TRIES));
    // Each wait is twice the one before.
    assert!(start.elapsed() >= BACKOFF * 3, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_name_is_resolved_by_the_given_server() {
    let service = crate::role::ndvi_server::tests::start("east/n").await;
    let server = crate::role::dns::tests::start("ndvi.svc.east.mesh 127.0.0.1\n").await;
    for (name, answered) in [("ndvi.svc.east.mesh", 1), ("other.svc.east.mesh", 0)] {
        let target = format!("{name}:{}", service.port());
        let drone = Drone {
            target: Target::parse(&target, Some(server)).unwrap(),
            ..drone(service)
        };
        let mut counters = Counters::default();
        drone.deliver(0, &mut counters).await;
        assert_eq!(counters.answered, answered, "{name}");
        if answered == 0 {
            assert_eq!(counters.failures["resolve"], u64::from(TRIES));
        }
    }
}

#[test]
fn slots_without_a_tile_are_counted() {
    let second = Duration::from_secs(1);
    for (elapsed, tiles, expected) in [(0, 1, 0), (3, 3, 0), (7, 3, 4), (2, 3, 0)] {
        assert_eq!(skipped(second * elapsed, second, tiles), expected);
    }
}

#[test]
fn targets() {
    assert!(matches!(
        Target::parse("10.0.0.1:80", None),
        Some(Target::Address(_))
    ));
    assert!(matches!(
        Target::parse("[fd00::1]:80", None),
        Some(Target::Address(_))
    ));
    assert!(
        matches!(Target::parse("ndvi.mesh:80", None), Some(Target::Name { name, port: 80, .. }) if name == "ndvi.mesh")
    );
    for wrong in ["", "ndvi.mesh", ":80", "ndvi:", "ndvi:http", "ndvi:70000"] {
        assert!(Target::parse(wrong, None).is_none(), "{wrong}");
    }
}

#[test]
fn arguments_are_checked_before_anything_is_sent() {
    let check = |args: &[&str], expected: &str| {
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        let error = main(&args).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(&["--interval", "1s"], "--target must be given once");
    check(&["--target", "a:1"], "--interval must be given once");
    check(&["--target", "a", "--interval", "1s"], "HOST:PORT");
    check(&["--target", "a:1", "--interval", "soon"], "--interval");
    check(&["--target", "a:1", "--interval", "0s"], "above 0");
    check(
        &["--target", "a:1", "--interval", "1s", "--side", "0"],
        "--side",
    );
    check(
        &["--target", "a:1", "--interval", "1s", "--name", "a b"],
        "--name",
    );
}
