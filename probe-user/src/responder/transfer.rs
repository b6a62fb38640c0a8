//! Bounded transfers: who may have one, and how its bytes flow. Few at one time and a total per minute, so that
//! nobody can use the responder to load the network.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use mesh::measurement::PathDirection;
use mesh::observation::NodeRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use super::ResponderStats;
use crate::frame::transfer::{
    CHUNK_HEADER, Caps, Chunks, Granted, MAX_CHUNK, TransferGrant, TransferRequest, TransferResult,
};
use crate::sys::socket::{TcpInfo, set_unsent_limit, tcp_info};

/// Transfers at one time.
pub(crate) const MAX_TRANSFERS: usize = 2;
/// Granted payload bytes of all transfers, per minute.
pub(crate) const BYTES_PER_WINDOW: u64 = 256 << 20;
const WINDOW: Duration = Duration::from_secs(60);
/// Largest caps that are granted.
pub(crate) const MAX_CAPS: Caps = Caps {
    bytes: 64 << 20,
    time: Duration::from_secs(5),
};
/// Unsent bytes that wait in the kernel: enough to keep it busy, too few to outlast the time cap by much.
const UNSENT: i32 = 128 << 10;
/// After the last byte of ours: for the peer to read the result, and for what is still on its way.
const LINGER: Duration = Duration::from_secs(2);

/// One chunk with its header. The payload does not compress.
static CHUNK: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut chunk = vec![0; CHUNK_HEADER + MAX_CHUNK];
    chunk[..CHUNK_HEADER].copy_from_slice(&(MAX_CHUNK as u32).to_be_bytes());
    // Zeroes would do too, only less well on a path that compresses.
    let _ = getrandom::fill(&mut chunk[CHUNK_HEADER..]);
    chunk
});

/// What may still be granted. One for all listeners of a responder.
#[derive(Debug)]
pub(super) struct Gate {
    slots: Arc<Semaphore>,
    window: Mutex<(Instant, u64)>,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self {
            slots: Arc::new(Semaphore::new(MAX_TRANSFERS)),
            window: Mutex::new((Instant::now(), 0)),
        }
    }

    /// Takes `bytes` out of the budget of the minute at `now`.
    fn take(&self, bytes: u64, now: Instant) -> bool {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(window.0) >= WINDOW {
            *window = (now, 0);
        }
        if window.1.saturating_add(bytes) > BYTES_PER_WINDOW {
            return false;
        }
        window.1 += bytes;
        true
    }

    fn give_back(&self, bytes: u64) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        window.1 = window.1.saturating_sub(bytes);
    }
}

/// Whole chunks that reach `bytes`, and no more than a chunk above.
async fn send_chunks(stream: &mut TcpStream, caps: Caps) -> io::Result<(u64, bool)> {
    let deadline = Instant::now() + caps.time;
    let mut sent = 0;
    while sent < caps.bytes {
        let payload = usize::try_from(caps.bytes - sent)
            .unwrap_or(MAX_CHUNK)
            .min(MAX_CHUNK);
        let written = if payload == MAX_CHUNK {
            write_until(stream, &CHUNK, deadline).await
        } else {
            let mut last = (payload as u32).to_be_bytes().to_vec();
            last.extend_from_slice(&CHUNK[CHUNK_HEADER..][..payload]);
            write_until(stream, &last, deadline).await
        }?;
        sent += payload as u64;
        if !written {
            return Ok((sent, true));
        }
    }
    Ok((sent, false))
}

/// Writes a whole chunk, so that the stream stays readable; `false` when that took until after `deadline`.
async fn write_until(stream: &mut TcpStream, chunk: &[u8], deadline: Instant) -> io::Result<bool> {
    match timeout(LINGER + MAX_CAPS.time, stream.write_all(chunk)).await {
        Ok(written) => written?,
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    }
    Ok(Instant::now() < deadline)
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Answers one request; `early` is what was read after it.
pub(super) async fn serve(
    stream: &mut TcpStream,
    request: &TransferRequest,
    early: &[u8],
    gate: &Gate,
    me: &NodeRef,
    stats: &ResponderStats,
) -> io::Result<()> {
    let caps = Caps {
        bytes: request.caps.bytes.min(MAX_CAPS.bytes),
        time: request.caps.time.min(MAX_CAPS.time),
    };
    let slot = gate.slots.try_acquire();
    let granted = if slot.is_err() {
        count(&stats.transfers_busy);
        Granted::Busy
    } else if !gate.take(caps.bytes, Instant::now()) {
        count(&stats.transfers_over_budget);
        Granted::Budget
    } else {
        Granted::Yes
    };
    let grant = TransferGrant {
        key: request.key,
        granted,
        caps,
        responder: me.clone(),
    };
    let grant = grant.encode().map_err(io::Error::other)?;
    if granted != Granted::Yes {
        return stream.write_all(&grant).await;
    }
    let flowed = transfer(stream, request, caps, &grant, early).await;
    let bytes = match &flowed {
        Ok(bytes) => {
            count(&stats.transfers_done);
            *bytes
        }
        Err((bytes, _)) => {
            count(&stats.transfers_cut);
            *bytes
        }
    };
    stats.transfer_bytes.fetch_add(bytes, Ordering::Relaxed);
    gate.give_back(caps.bytes.saturating_sub(bytes));
    flowed.map(drop).map_err(|(_, error)| error)
}

/// The payload bytes that flowed, also when it was cut.
async fn transfer(
    stream: &mut TcpStream,
    request: &TransferRequest,
    caps: Caps,
    grant: &[u8],
    early: &[u8],
) -> Result<u64, (u64, io::Error)> {
    stream.write_all(grant).await.map_err(|e| (0, e))?;
    match request.direction {
        PathDirection::Forward => {
            let received = receive(stream, caps, early, false).await?;
            let info = tcp_info(&*stream).ok();
            let result = TransferResult {
                key: request.key,
                by_time: received.by_time,
                bytes: received.bytes,
                duration: received.duration,
                retransmits: info.map(|info| info.retransmits),
                min_rtt_us: info.and_then(|info| info.min_rtt_us),
            };
            finish(stream, &result)
                .await
                .map_err(|error| (received.bytes, error))?;
            Ok(received.bytes)
        }
        PathDirection::Return => {
            let (bytes, by_time) = send_all(stream, caps).await.map_err(|e| (0, e))?;
            let info = acknowledged(stream).await;
            let result = TransferResult {
                key: request.key,
                by_time,
                bytes: 0,
                duration: Duration::ZERO,
                retransmits: info.map(|info| info.retransmits),
                min_rtt_us: info.and_then(|info| info.min_rtt_us),
            };
            finish(stream, &result)
                .await
                .map_err(|error| (bytes, error))?;
            Ok(bytes)
        }
    }
}

/// Sends chunks up to the caps, and their end.
pub(crate) async fn send_all(stream: &mut TcpStream, caps: Caps) -> io::Result<(u64, bool)> {
    // Not every kernel takes it; the time cap then holds a little later.
    let _ = set_unsent_limit(&*stream, UNSENT);
    let sent = send_chunks(stream, caps).await?;
    stream.write_all(&[0; CHUNK_HEADER]).await?;
    Ok(sent)
}

/// What TCP knows once nothing new is acknowledged any more, or after a moment.
async fn acknowledged(stream: &TcpStream) -> Option<TcpInfo> {
    let deadline = Instant::now() + LINGER / 2;
    let mut info = tcp_info(stream).ok()?;
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = tcp_info(stream).ok()?;
        if now.bytes_acked == info.bytes_acked || Instant::now() > deadline {
            return Some(now);
        }
        info = now;
    }
}

async fn finish(stream: &mut TcpStream, result: &TransferResult) -> io::Result<()> {
    stream
        .write_all(&result.encode().map_err(io::Error::other)?)
        .await?;
    // Closing with unread bytes would reset the connection and could take the result with it.
    let mut sink = vec![0; MAX_CHUNK];
    let gone = async { while matches!(stream.read(&mut sink).await, Ok(1..)) {} };
    let _ = timeout(LINGER, gone).await;
    Ok(())
}

/// What came in, by this end's clock.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub bytes: u64,
    /// First byte to last.
    pub duration: Duration,
    pub by_time: bool,
    /// What came after the end.
    pub rest: Vec<u8>,
}

/// Counts chunks until they end or a cap is reached; with `to_end` what comes later is read too, though not counted.
/// The error has the bytes until then.
pub(crate) async fn receive(
    stream: &mut TcpStream,
    caps: Caps,
    early: &[u8],
    to_end: bool,
) -> Result<Received, (u64, io::Error)> {
    let mut chunks = Chunks::default();
    let fail = |bytes, error| (bytes, io::Error::other(error));
    let mut rest = chunks.take(early).map_err(|error| fail(0, error))?.to_vec();
    // What was counted when the time was over.
    let mut counted = None;
    let mut buffer = vec![0; 256 << 10];
    let mut first: Option<Instant> = (chunks.bytes > 0).then(Instant::now);
    let mut last = Instant::now();
    // Patience for the first byte is the cap too.
    let mut deadline = Instant::now() + caps.time.max(LINGER);
    while !chunks.ended {
        let read = match timeout_at(deadline, stream.read(&mut buffer)).await {
            Err(_) if first.is_some() && counted.is_none() => {
                counted = Some(chunks.bytes);
                if !to_end {
                    break;
                }
                deadline += LINGER;
                continue;
            }
            Err(_) => return Err((0, io::ErrorKind::TimedOut.into())),
            Ok(Ok(0)) => return Err((chunks.bytes, io::ErrorKind::UnexpectedEof.into())),
            Ok(Ok(n)) => n,
            Ok(Err(error)) => return Err((chunks.bytes, error)),
        };
        let now = Instant::now();
        if first.is_none() {
            first = Some(now);
            deadline = now + caps.time;
        }
        let before = chunks.bytes;
        let after = chunks
            .take(&buffer[..read])
            .map_err(|error| fail(before, error))?;
        rest.extend_from_slice(after);
        if chunks.bytes > caps.bytes {
            let why = "more bytes than were granted";
            return Err((chunks.bytes, io::Error::other(why)));
        }
        if chunks.bytes > before && counted.is_none() {
            last = now;
        }
    }
    let duration = first.map_or(Duration::ZERO, |first| {
        last.saturating_duration_since(first)
    });
    Ok(Received {
        bytes: counted.unwrap_or(chunks.bytes),
        duration,
        by_time: counted.is_some(),
        rest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_of_a_minute_is_held_and_unused_bytes_come_back() {
        let gate = Gate::new();
        let now = Instant::now();
        assert!(gate.take(BYTES_PER_WINDOW - 10, now));
        assert!(!gate.take(11, now));
        assert!(gate.take(10, now));
        assert!(!gate.take(1, now + Duration::from_secs(59)));
        gate.give_back(5);
        assert!(!gate.take(6, now));
        assert!(gate.take(5, now));
        assert!(gate.take(1, now + WINDOW));
    }
}
