//! Hostile and honest answers, as bytes.

use proptest::prelude::*;

use super::*;

const KEY: Key = Key {
    nonce: *b"0123456789abcdef",
    run: 3,
    sequence: 5,
};
const NONCE: &str = "30313233343536373839616263646566";

fn node() -> NodeRef {
    NodeRef {
        cluster: "west".into(),
        node: "w-1".into(),
    }
}

fn target(service: bool) -> ProbeTarget {
    ProbeTarget {
        cluster: "west".into(),
        node: (!service).then(|| "w-1".into()),
        service: service.then(|| "ndvi".into()),
        address: "10.0.0.1:80".parse().unwrap(),
        question: None,
    }
}

fn exchange(kind: ProbeKind, service: bool) -> Exchange {
    Exchange::new(&target(service), kind, KEY, TileSide(8), "probe").unwrap()
}

fn outcome(exchange: &Exchange, received: &[u8], eof: bool) -> Option<Outcome> {
    exchange.judge(received, eof).map(|answer| answer.outcome)
}

fn reply() -> Reply {
    Reply {
        key: KEY,
        receiver_count: 4,
        responder: node(),
    }
}

#[test]
fn an_echo_is_believed_only_whole_and_from_the_node_asked() {
    let exchange = exchange(ProbeKind::Udp, false);
    let good = reply().encode(PROBE_BYTES).unwrap();
    assert_eq!(
        exchange.judge(&good, false),
        Some(Answer {
            outcome: Outcome::Ok,
            responder: Some(node()),
            receiver_count: Some(4),
        })
    );
    for cut in 0..good.len() {
        assert_eq!(outcome(&exchange, &good[..cut], false), None, "cut {cut}");
        assert_eq!(
            outcome(&exchange, &good[..cut], true),
            Some(Outcome::BadReply),
            "cut {cut}"
        );
    }

    let with = |edit: fn(&mut Reply)| {
        let mut reply = reply();
        edit(&mut reply);
        outcome(&exchange, &reply.encode(PROBE_BYTES).unwrap(), false)
    };
    assert_eq!(with(|r| r.key.nonce[15] = 0), Some(Outcome::BadReply));
    assert_eq!(with(|r| r.key.run = 4), Some(Outcome::BadReply));
    assert_eq!(with(|r| r.key.sequence = 6), Some(Outcome::BadReply));
    assert_eq!(
        with(|r| r.responder.node = "w-2".into()),
        Some(Outcome::WrongResponder)
    );
    assert_eq!(
        with(|r| r.responder.cluster = "east".into()),
        Some(Outcome::WrongResponder)
    );
    assert_eq!(
        with(|r| r.responder.node = "W\u{1b}".into()),
        Some(Outcome::BadReply)
    );

    let request = Request {
        key: KEY,
        length: PROBE_BYTES,
    };
    let mirror = request.encode().unwrap();
    assert_eq!(
        outcome(&exchange, &mirror, false),
        Some(Outcome::BadReply),
        "a mirror is no responder"
    );
    let mut long = good.clone();
    long.push(0);
    assert_eq!(outcome(&exchange, &long, false), Some(Outcome::BadReply));
    let short = reply().encode(PROBE_BYTES - 1).unwrap();
    assert_eq!(outcome(&exchange, &short, false), Some(Outcome::BadReply));
}

#[test]
fn the_count_of_a_tcp_connection_is_not_the_count_of_a_run() {
    let good = reply().encode(PROBE_BYTES).unwrap();
    let answer = exchange(ProbeKind::Tcp, false).judge(&good, false).unwrap();
    assert_eq!((answer.outcome, answer.receiver_count), (Outcome::Ok, None));
}

fn http(head: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = head.replace('\n', "\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

#[test]
fn http_answers() {
    let exchange = exchange(ProbeKind::Http, false);
    let text = String::from_utf8(exchange.request.clone()).unwrap();
    assert!(
        text.starts_with(&format!("GET /v1/echo?nonce={NONCE} HTTP/1.1\r\n")),
        "{text}"
    );
    let body = format!(r#"{{"cluster":"west","node":"w-1","nonce":"{NONCE}"}}"#);
    let head = format!("HTTP/1.1 200 OK\ncontent-length: {}\n\n", body.len());
    let other = body.replace("w-1", "w-2");
    let stale = body.replace("3031", "3032");
    let cases: Vec<(&str, Vec<u8>, bool, Option<Outcome>)> = vec![
        (
            "whole",
            http(&head, body.as_bytes()),
            false,
            Some(Outcome::Ok),
        ),
        (
            "no length, closed",
            http("HTTP/1.1 200 OK\n\n", body.as_bytes()),
            true,
            Some(Outcome::Ok),
        ),
        (
            "no length, open",
            http("HTTP/1.1 200 OK\n\n", body.as_bytes()),
            false,
            None,
        ),
        ("head only", http("HTTP/1.1 200 OK\n", b""), false, None),
        (
            "head only, closed",
            http("HTTP/1.1 200 OK\n", b""),
            true,
            Some(Outcome::BadReply),
        ),
        (
            "truncated body",
            http(&head, &body.as_bytes()[1..]),
            true,
            Some(Outcome::BadReply),
        ),
        (
            "body too long",
            http(&head, format!("{body} ").as_bytes()),
            false,
            Some(Outcome::BadReply),
        ),
        (
            "somebody else",
            http(&head, other.as_bytes()),
            false,
            Some(Outcome::WrongResponder),
        ),
        (
            "another nonce",
            http(&head, stale.as_bytes()),
            false,
            Some(Outcome::BadReply),
        ),
        (
            "an error status",
            http(&head.replace("200", "503"), body.as_bytes()),
            false,
            Some(Outcome::BadReply),
        ),
        (
            "two lengths",
            http(
                &head.replace("\n\n", "\ncontent-length: 1\n\n"),
                body.as_bytes(),
            ),
            false,
            Some(Outcome::BadReply),
        ),
        (
            "negative length",
            http("HTTP/1.1 200 OK\ncontent-length: -1\n\n", body.as_bytes()),
            false,
            Some(Outcome::BadReply),
        ),
        (
            "compressed",
            http("HTTP/1.1 200 OK\ntransfer-encoding: gzip, chunked\n\n", b""),
            false,
            Some(Outcome::BadReply),
        ),
        (
            "chunked and a length",
            http(
                "HTTP/1.1 200 OK\ncontent-length: 5\ntransfer-encoding: chunked\n\n",
                b"0\r\n\r\n",
            ),
            false,
            Some(Outcome::BadReply),
        ),
        (
            "not HTTP",
            b"SSH-2.0-x\r\n".to_vec(),
            false,
            Some(Outcome::BadReply),
        ),
        (
            "html",
            http("HTTP/1.1 200 OK\ncontent-length: 4\n\n", b"<ok>"),
            false,
            Some(Outcome::BadReply),
        ),
        (
            "endless head",
            vec![b'x'; 17_000],
            false,
            Some(Outcome::BadReply),
        ),
    ];
    for (name, bytes, eof, expected) in cases {
        assert_eq!(outcome(&exchange, &bytes, eof), expected, "{name}");
    }
    let slow = [b"HTTP/1.1 200 OK\r\nx: ".as_slice(), &[b'y'; 9_000]].concat();
    assert_eq!(
        outcome(&exchange, &slow, false),
        Some(Outcome::BadReply),
        "a head that never ends"
    );
}

#[test]
fn any_http_answer_below_500_shows_that_a_service_is_there() {
    let exchange = exchange(ProbeKind::Http, true);
    let ask = |status: &str| {
        outcome(
            &exchange,
            &http(&format!("HTTP/1.1 {status}\n\n"), b""),
            false,
        )
    };
    assert_eq!(ask("200 OK"), Some(Outcome::Ok));
    assert_eq!(ask("404 Not Found"), Some(Outcome::Ok));
    assert_eq!(ask("503 Service Unavailable"), Some(Outcome::BadReply));
}

#[test]
fn the_backend_of_an_http_service_may_say_who_it_is() {
    let service = exchange(ProbeKind::Http, true);
    let answer = |headers: &str| {
        let answer = service.judge(&http(&format!("HTTP/1.1 200 OK\n{headers}\n"), b""), false);
        let answer = answer.expect("the head is whole");
        let by = answer
            .responder
            .map(|by| format!("{}/{}", by.cluster, by.node));
        (answer.outcome, by)
    };
    assert_eq!(
        answer("Aggrik8s-Responder: west/w-1\n"),
        (Outcome::Ok, Some("west/w-1".to_owned()))
    );
    // Any node of the cluster that was asked is right, another cluster is told.
    assert_eq!(
        answer("aggrik8s-responder: east/e-1\n"),
        (Outcome::WrongResponder, Some("east/e-1".to_owned()))
    );
    // Who says it twice, or not as a name, says nothing.
    for headers in [
        "",
        "aggrik8s-responder: west\n",
        "aggrik8s-responder: west/\n",
        "aggrik8s-responder: west/w 1\n",
        "aggrik8s-responder: west/w-1\naggrik8s-responder: east/e-1\n",
    ] {
        assert_eq!(answer(headers), (Outcome::Ok, None), "{headers:?}");
    }
}

#[test]
fn a_tile_is_believed_only_when_every_value_is_right() {
    let exchange = exchange(ProbeKind::NdviTile, true);
    let Expect::Ndvi(request) = &exchange.expect else {
        panic!("an NDVI exchange");
    };
    let answer = |responder: &str, edit: &dyn Fn(&mut Vec<u8>)| {
        let mut body = ndvi::compute(request, responder).unwrap().encode();
        edit(&mut body);
        let head = format!("HTTP/1.1 200 OK\ncontent-length: {}\n\n", body.len());
        exchange.judge(&http(&head, &body), false).unwrap()
    };
    let good = answer("west/w-7", &|_| {});
    assert_eq!(good.outcome, Outcome::Ok);
    assert_eq!(good.responder.unwrap().node, "w-7");
    assert_eq!(answer("gpu-3", &|_| {}).outcome, Outcome::Ok);
    assert_eq!(answer("east/e-1", &|_| {}).outcome, Outcome::WrongResponder);
    assert_eq!(
        answer("west/w-7", &|body| {
            body.pop();
        })
        .outcome,
        Outcome::BadReply
    );
    // Another tile's answer, whole and with a right checksum.
    let tile = ndvi::Tile::synthetic(99, 8, 8).unwrap();
    let other = ndvi::Request::new(request.tile_id(), "probe", tile).unwrap();
    let body = ndvi::compute(&other, "west/w-7").unwrap().encode();
    let head = format!("HTTP/1.1 200 OK\ncontent-length: {}\n\n", body.len());
    assert_eq!(
        outcome(&exchange, &http(&head, &body), false),
        Some(Outcome::BadReply)
    );
}

proptest! {
    #[test]
    fn noise_is_never_ok(bytes in proptest::collection::vec(any::<u8>(), 0..800), eof: bool) {
        for (kind, service) in [
            (ProbeKind::Udp, false),
            (ProbeKind::Tcp, false),
            (ProbeKind::Http, false),
            (ProbeKind::NdviTile, true),
        ] {
            let judged = outcome(&exchange(kind, service), &bytes, eof);
            prop_assert!(!matches!(judged, Some(Outcome::Ok)), "{kind:?} {judged:?}");
        }
    }
}

/// `body` in chunks of `size`, with an extension, then `trailers`.
fn chunked(body: &[u8], size: usize, trailers: &str) -> Vec<u8> {
    let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n".to_vec();
    for chunk in body.chunks(size) {
        bytes.extend_from_slice(format!("{:X};a=b\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(format!("0\r\n{trailers}\r\n").as_bytes());
    bytes
}

#[test]
fn a_chunked_answer_is_read_however_it_is_cut() {
    let payload: Vec<u8> = (0..=255).cycle().take(1_000).collect();
    for size in [1, 7, 16, 999, 1_000] {
        for trailers in ["", "x: y\r\n"] {
            let whole = chunked(&payload, size, trailers);
            let (status, body) = http_body(&whole, false).expect("whole").expect("HTTP");
            assert_eq!((status, &*body), (200, &payload[..]), "chunks of {size}");
            for cut in (0..whole.len()).step_by(13).chain([whole.len() - 1]) {
                assert_eq!(http_body(&whole[..cut], false), None, "cut at {cut}");
            }
            let mut more = whole.clone();
            more.push(b'x');
            assert_eq!(http_body(&more, false), Some(Err(NotHttp)));
        }
    }
}

#[test]
fn chunks_that_are_none_are_no_answer() {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    for (body, what) in [
        ("zz\r\n", "no number"),
        ("-1\r\n", "a negative one"),
        ("2\r\nabc\r\n0\r\n\r\n", "a chunk longer than it says"),
        ("2\r\nabX", "no end of a chunk"),
        ("fffffffffffffffff\r\n", "a number beyond 64 bits"),
        ("0\r\nbad header\r\n\r\n", "a trailer that is none"),
    ] {
        let bytes = format!("{head}{body}").into_bytes();
        assert_eq!(http_body(&bytes, false), Some(Err(NotHttp)), "{what}");
    }
    // A chunk that will never fit is waited for until the connection ends or the exchange's cap is reached.
    let huge = format!("{head}ffffffffffffffff\r\nx").into_bytes();
    assert_eq!(http_body(&huge, false), None);
}
