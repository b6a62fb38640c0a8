//! A holder as it should not be: whatever it says, the agent gets a clear error in bounded time and loses no descriptor.

use std::io::IoSlice;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};

use super::*;

struct Fake {
    folder: tempfile::TempDir,
    listener: Socket,
}

impl Fake {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        let address = SockAddr::unix(folder.path().join("hold.sock")).unwrap();
        listener.bind(&address).unwrap();
        listener.listen(4).unwrap();
        Self { folder, listener }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("hold.sock")
    }

    /// Asks it, while it does `act` with the connection.
    async fn asked(&self, act: impl FnOnce(&Socket)) -> Result<(), AskError> {
        let path = self.path();
        let asking = tokio::spawn(async move { ask_of(&path, own()).await });
        let listener = self.listener.try_clone().unwrap();
        let (peer, _) = tokio::task::spawn_blocking(move || listener.accept())
            .await
            .unwrap()
            .unwrap();
        act(&peer);
        // Open until the answer was judged, unless `act` closed it.
        let result = asking.await.unwrap().map(drop);
        drop(peer);
        result
    }
}

fn say(socket: &Socket, text: &[u8], descriptors: &[RawFd]) {
    let rights = [ControlMessage::ScmRights(descriptors)];
    let control = if descriptors.is_empty() {
        &[][..]
    } else {
        &rights
    };
    let text = [IoSlice::new(text)];
    sendmsg::<UnixAddr>(socket.as_raw_fd(), &text, control, MsgFlags::empty(), None).unwrap();
}

fn own() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Whether nobody has the other end of a pipe any more.
fn is_orphaned(reader: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(reader.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).unwrap();
    fds[0].any().unwrap_or(true)
}

#[tokio::test]
async fn nobody_there_is_said_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hold.sock");
    let error = ask(&path).await.map(drop).unwrap_err();
    assert!(matches!(error, AskError::Connect { .. }), "{error}");
    assert!(error.hint().unwrap().contains("once the programs"));

    let fake = Fake::new();
    let path = fake.path();
    drop(fake.listener);
    let error = ask(&path).await.map(drop).unwrap_err();
    assert_eq!(error.hint(), Some("no holder is running there any more"));
}

#[tokio::test]
async fn one_that_is_not_root_is_no_holder() {
    let fake = Fake::new();
    let error = ask_of(&fake.path(), own() + 1).await.map(drop).unwrap_err();
    assert!(matches!(error, AskError::NotRoot { .. }), "{error}");
}

#[tokio::test]
async fn whatever_it_says_no_descriptor_is_lost() {
    let hello = |protocol, layout, maps: Vec<String>| {
        serde_json::to_vec(&Hello {
            protocol,
            layout,
            version: "9.9\u{1b}[2J".into(),
            maps,
        })
        .unwrap()
    };
    let needed: Vec<String> = NEEDED.map(str::to_owned).into();
    let cases: [(&str, Vec<u8>, usize, &str); 9] = [
        ("no JSON", b"hello".to_vec(), 11, "none of ours"),
        (
            "half of it",
            hello(PROTOCOL, LAYOUT, needed.clone())[..40].to_vec(),
            11,
            "none of ours",
        ),
        ("too long", vec![b' '; MAX_BYTES + 1], 11, "too long"),
        (
            "another protocol",
            hello(PROTOCOL + 1, LAYOUT, needed.clone()),
            11,
            "speaks protocol 2, this agent protocol 1",
        ),
        (
            "another layout",
            hello(PROTOCOL, LAYOUT + 1, needed.clone()),
            11,
            "(version `9.9[2J`) speaks layout",
        ),
        (
            "no descriptors",
            hello(PROTOCOL, LAYOUT, needed.clone()),
            0,
            "names 11 maps and brings 0",
        ),
        (
            "too many",
            hello(PROTOCOL, LAYOUT, needed.clone()),
            253,
            "names 11 maps and brings 253",
        ),
        (
            "one map short",
            hello(PROTOCOL, LAYOUT, needed[1..].to_vec()),
            10,
            "lacks the maps META",
        ),
        (
            "no maps at all",
            hello(PROTOCOL, LAYOUT, needed),
            11,
            "cannot be used",
        ),
    ];
    let fake = Fake::new();
    for (what, text, count, expected) in cases {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let descriptors = vec![writer.as_raw_fd(); count];
        let error = fake
            .asked(|peer| say(peer, &text, &descriptors))
            .await
            .unwrap_err();
        let said = error.to_string();
        assert!(said.contains(expected), "{what}: {said}");
        assert!(!said.chars().any(char::is_control), "{what}: {said}");
        drop(writer);
        assert!(is_orphaned(&reader), "{what}: a descriptor was lost");
    }
}

#[tokio::test]
async fn silence_and_a_closed_door_end_in_bounded_time() {
    let fake = Fake::new();
    let begun = Instant::now();
    let error = fake.asked(|_| ()).await.unwrap_err();
    assert!(matches!(error, AskError::Silent { .. }), "{error}");
    assert!(begun.elapsed() >= PATIENCE);

    let error = fake
        .asked(|peer| peer.shutdown(std::net::Shutdown::Both).unwrap())
        .await
        .unwrap_err();
    assert!(matches!(error, AskError::Refused { .. }), "{error}");
    // Nobody accepts: the queue fills up, and asking fails at once or in time.
    let mut last = None;
    for _ in 0..8 {
        last = Some(connect(&fake.path()));
        if last.as_ref().is_some_and(Result::is_err) {
            break;
        }
        std::mem::forget(last.take());
    }
    let full = last.expect("a full queue").unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
}
