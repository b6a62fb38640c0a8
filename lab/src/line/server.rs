//! The control socket's server: reads requests on ordinary threads and passes them to the line's thread, so that
//! neither a slow nor a hostile client can hold up packets.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::control::{MAX_REQUEST, Reply, Request, parse};

/// A request under way to the line's thread, and where its reply goes.
pub(super) struct Job {
    pub(super) request: Request,
    pub(super) reply: SyncSender<Reply>,
}

/// The line's end: readable when jobs wait.
pub(super) struct Inbox {
    pub(super) bell: Arc<EventFd>,
    jobs: Receiver<Job>,
}

impl Inbox {
    pub(super) fn next(&self) -> Option<Job> {
        self.jobs.try_recv().ok()
    }

    pub(super) fn silence(&self) {
        // Non-blocking; nothing to read means that it does not ring.
        let _ = self.bell.read();
    }
}

const MAX_WAITING: usize = 64;
const MAX_CLIENTS: usize = 16;
const ANSWER_WITHIN: Duration = Duration::from_secs(4);

#[derive(Clone)]
struct Outbox {
    bell: Arc<EventFd>,
    jobs: SyncSender<Job>,
}

/// Binds `path`, replacing the socket a killed line left behind, and serves it until the process ends.
pub(super) fn serve(path: &Path) -> std::io::Result<Inbox> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let bell = Arc::new(EventFd::from_flags(
        EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC,
    )?);
    let (jobs, receiver) = sync_channel(MAX_WAITING);
    let outbox = Outbox {
        bell: Arc::clone(&bell),
        jobs,
    };
    std::thread::Builder::new()
        .name("line-control".to_owned())
        .spawn(move || accept(&listener, &outbox))?;
    Ok(Inbox {
        bell,
        jobs: receiver,
    })
}

fn accept(listener: &UnixListener, outbox: &Outbox) {
    let clients = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a control connection");
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if clients.fetch_add(1, Ordering::Relaxed) >= MAX_CLIENTS {
            clients.fetch_sub(1, Ordering::Relaxed);
            let _ = send(
                &stream,
                &Reply::Error {
                    message: format!("{MAX_CLIENTS} clients are connected already"),
                },
            );
            continue;
        }
        let (outbox, held) = (outbox.clone(), Arc::clone(&clients));
        let spawned = std::thread::Builder::new()
            .name("line-client".to_owned())
            .spawn(move || {
                if let Err(error) = converse(&stream, &outbox) {
                    tracing::debug!(%error, "control connection ended");
                }
                held.fetch_sub(1, Ordering::Relaxed);
            });
        if let Err(error) = spawned {
            clients.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!(%error, "cannot serve a control connection");
        }
    }
}

fn converse(stream: &UnixStream, outbox: &Outbox) -> std::io::Result<()> {
    stream.set_write_timeout(Some(ANSWER_WITHIN))?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let read = (&mut reader)
            .take(MAX_REQUEST)
            .read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') && read as u64 == MAX_REQUEST {
            // What follows cannot be told apart any more.
            return send(
                stream,
                &Reply::Error {
                    message: format!("a request is longer than {MAX_REQUEST} bytes"),
                },
            );
        }
        let reply = match parse(&line) {
            Ok(request) => pass_on(request, outbox),
            Err(reply) => reply,
        };
        send(stream, &reply)?;
    }
}

fn pass_on(request: Request, outbox: &Outbox) -> Reply {
    let failed = |message: &str| Reply::Error {
        message: message.to_owned(),
    };
    let (reply, answer) = sync_channel(1);
    if outbox.jobs.try_send(Job { request, reply }).is_err() {
        return failed("too many requests are waiting");
    }
    if outbox.bell.write(1).is_err() {
        return failed("the line's thread cannot be woken");
    }
    answer
        .recv_timeout(ANSWER_WITHIN)
        .unwrap_or_else(|_| failed("the line's thread does not answer"))
}

fn send(mut stream: &UnixStream, reply: &Reply) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    stream.write_all(&line)
}
