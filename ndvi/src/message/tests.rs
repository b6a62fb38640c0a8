//! The wire layout pinned byte by byte, and peers that send anything.

use proptest::prelude::*;

use super::*;
use crate::{DecodeError, InvalidTile, MAX_NAME_BYTES, MAX_SIDE, PROBE_SIDE};

fn request() -> Request {
    let tile = Tile::new(2, 1, vec![1, 0x0203], vec![3, 0x0506]).unwrap();
    Request::new(0x1122_3344_5566_7788, "d-1", tile).unwrap()
}

/// Puts the right checksum behind bytes whose checksum is to be ignored.
fn sealed(mut content: Vec<u8>) -> Vec<u8> {
    let checksum = crc32fast::hash(&content);
    content.extend(checksum.to_le_bytes());
    content
}

#[test]
fn request_layout_is_pinned() {
    let mut expected = b"NDVQ\x01\x03\x02\0\x01\0\0\0\x88\x77\x66\x55\x44\x33\x22\x11d-1".to_vec();
    expected.extend([1, 0, 3, 2, 3, 0, 6, 5]);
    let encoded = request().encode();
    assert_eq!(encoded, sealed(expected));
    // As Python's zlib.crc32 computes it over the same bytes.
    assert_eq!(encoded[encoded.len() - 4..], 0x3668_02ae_u32.to_le_bytes());
}

#[test]
fn reply_layout_is_pinned() {
    let request = request();
    let reply = compute(&request, "e/n").unwrap();
    let mut expected = b"NDVR\x01\x03\x02\0\x01\0\0\0\x88\x77\x66\x55\x44\x33\x22\x11".to_vec();
    expected.extend(&request.encode()[31..]);
    expected.extend(b"e/n");
    // (3-1)/(3+1) = 0.5; (0x506-0x203)/(0x506+0x203) = 771/1801 = 0.4281.
    expected.extend(5_000_i16.to_le_bytes());
    expected.extend(4_281_i16.to_le_bytes());
    assert_eq!(reply.encode(), sealed(expected));
}

#[test]
fn probe_tile_is_16_kib_up_and_8_kib_down() {
    let tile = Tile::synthetic(1, PROBE_SIDE, PROBE_SIDE).unwrap();
    let request = Request::new(1, "p", tile).unwrap();
    assert_eq!(request.encode().len(), 16 * 1024 + 20 + 1 + 4);
    let reply = compute(&request, "r").unwrap();
    assert_eq!(reply.encode().len(), 8 * 1024 + 24 + 1 + 4);
}

#[test]
fn synthetic_tiles_are_the_same_in_every_build() {
    let tile = Tile::synthetic(42, 64, 64).unwrap();
    let request = Request::new(42, "drone-1", tile).unwrap();
    assert_eq!(request.checksum, 0xf41b_add8);
}

#[test]
fn largest_messages_meet_the_limits_exactly() {
    let name = "n".repeat(MAX_NAME_BYTES);
    let tile = Tile::synthetic(1, MAX_SIDE, MAX_SIDE).unwrap();
    let request = Request::new(1, &name, tile).unwrap();
    let bytes = request.encode();
    assert_eq!(bytes.len(), MAX_REQUEST_BYTES);
    assert_eq!(Request::decode(&bytes), Ok(request.clone()));
    let reply = compute(&request, &name).unwrap();
    assert_eq!(reply.encode().len(), MAX_REPLY_BYTES);
    assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
}

#[test]
fn every_shortened_message_is_refused() {
    let request = request().encode();
    let reply = compute(&self::request(), "e").unwrap().encode();
    for length in 0..request.len() {
        // Header, name, two bands of 2 pixels, checksum: what is missing is announced field by field.
        let expected = *[4, 6, 8, 10, 12, 20, 23, 27, 31, 35]
            .iter()
            .find(|&&end| end > length)
            .unwrap();
        let found = length;
        assert_eq!(
            Request::decode(&request[..length]),
            Err(DecodeError::Truncated { found, expected })
        );
    }
    for length in 0..reply.len() {
        assert!(Reply::decode(&reply[..length]).is_err(), "{length}");
    }
}

#[test]
fn every_single_changed_byte_is_refused() {
    let request = request().encode();
    let reply = compute(&self::request(), "e").unwrap().encode();
    for flip in [0x01, 0x80, 0xff] {
        for at in 0..request.len() {
            let mut bytes = request.clone();
            bytes[at] ^= flip;
            assert!(Request::decode(&bytes).is_err(), "byte {at}");
        }
        for at in 0..reply.len() {
            let mut bytes = reply.clone();
            bytes[at] ^= flip;
            assert!(Reply::decode(&bytes).is_err(), "byte {at}");
        }
    }
}

#[test]
fn hostile_requests_are_named() {
    let good = request().encode();
    let check = |change: &dyn Fn(&mut Vec<u8>), expected: DecodeError| {
        let mut content = good[..good.len() - 4].to_vec();
        change(&mut content);
        assert_eq!(Request::decode(&sealed(content)), Err(expected));
    };
    check(
        &|b| b[0] = b'X',
        DecodeError::Magic {
            found: *b"XDVQ",
            expected: *b"NDVQ",
        },
    );
    check(&|b| b[4] = 2, DecodeError::Version(2));
    check(&|b| b[10] = 7, DecodeError::Reserved(7));
    check(&|b| b[20] = b'\n', DecodeError::Name);
    check(&|b| b[20] = 0xff, DecodeError::Name);
    check(&|b| b.push(0), DecodeError::TrailingBytes(1));
    // A huge size is refused by its header alone.
    check(
        &|b| b[6..10].fill(0xff),
        DecodeError::Tile(InvalidTile::Size {
            width: u16::MAX,
            height: u16::MAX,
        }),
    );
    check(
        &|b| b[6..8].fill(0),
        DecodeError::Tile(InvalidTile::Size {
            width: 0,
            height: 1,
        }),
    );
    let long = vec![0; MAX_REQUEST_BYTES + 1];
    assert!(matches!(
        Request::decode(&long),
        Err(DecodeError::TooLong { .. })
    ));
    let mut empty_name = good.clone();
    empty_name[5] = 0;
    assert_eq!(Request::decode(&empty_name), Err(DecodeError::Name));
}

#[test]
fn an_index_out_of_range_is_refused() {
    let good = compute(&request(), "e").unwrap().encode();
    let mut content = good[..good.len() - 4].to_vec();
    let at = content.len() - 2;
    content[at..].copy_from_slice(&10_001_i16.to_le_bytes());
    assert_eq!(
        Reply::decode(&sealed(content)),
        Err(DecodeError::Pixel {
            pixel: 1,
            value: 10_001
        })
    );
}

#[test]
fn names_are_plain() {
    let tile = || Tile::synthetic(0, 1, 1).unwrap();
    for name in [
        "",
        "a b",
        "ü",
        "a\u{1b}[2J",
        &"n".repeat(MAX_NAME_BYTES + 1),
    ] {
        assert_eq!(Request::new(0, name, tile()), Err(DecodeError::Name));
        assert_eq!(compute(&request(), name), Err(DecodeError::Name));
    }
    assert!(Request::new(0, "drone-1.edge_a/b", tile()).is_ok());
}

#[test]
fn only_the_right_answer_verifies() {
    let request = Request::new(5, "d", Tile::synthetic(5, 8, 4).unwrap()).unwrap();
    let right = compute(&request, "e").unwrap();
    assert_eq!(verify(&request, &right), Ok(()));

    let mut other_tile = right.clone();
    other_tile.tile_id = 6;
    assert_eq!(
        verify(&request, &other_tile),
        Err(Mismatch::TileId {
            found: 6,
            expected: 5
        })
    );

    // Same tile id, other content: a stale answer.
    let stale = Request::new(5, "d", Tile::synthetic(6, 8, 4).unwrap()).unwrap();
    let stale = compute(&stale, "e").unwrap();
    assert!(matches!(
        verify(&request, &stale),
        Err(Mismatch::Request { .. })
    ));

    let mut turned = right.clone();
    (turned.width, turned.height) = (4, 8);
    assert!(matches!(
        verify(&request, &turned),
        Err(Mismatch::Size { .. })
    ));

    let mut wrong = right.clone();
    wrong.ndvi[3] -= 1;
    wrong.ndvi[9] = 0;
    assert_eq!(
        verify(&request, &wrong),
        Err(Mismatch::Pixel {
            pixel: 3,
            found: wrong.ndvi[3],
            expected: right.ndvi[3],
            wrong: 2
        })
    );
}

proptest! {
    #[test]
    fn messages_survive_the_wire(
        tile_id: u64,
        seed: u64,
        width in 1u16..40,
        height in 1u16..40,
        client in "[a-zA-Z0-9._/-]{1,127}",
    ) {
        let tile = Tile::synthetic(seed, width, height).unwrap();
        let request = Request::new(tile_id, &client, tile).unwrap();
        let received = Request::decode(&request.encode()).unwrap();
        prop_assert_eq!(&received, &request);
        let reply = Reply::decode(&compute(&received, "e/n").unwrap().encode()).unwrap();
        prop_assert_eq!(verify(&request, &reply), Ok(()));
        prop_assert_eq!(reply.responder(), "e/n");
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        magic in prop_oneof![Just(*b"NDVQ\x01"), Just(*b"NDVR\x01")],
        seal: bool,
    ) {
        if bytes.len() > 5 {
            bytes[..5].copy_from_slice(&magic);
        }
        if seal {
            bytes = sealed(bytes);
        }
        if let Ok(request) = Request::decode(&bytes) {
            prop_assert_eq!(request.encode(), bytes.clone());
        }
        if let Ok(reply) = Reply::decode(&bytes) {
            prop_assert_eq!(reply.encode(), bytes);
        }
    }
}
