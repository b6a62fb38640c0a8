//! TCP: echo frames on a connection, each answered at once; or one bounded transfer.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mesh::observation::NodeRef;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::transfer::{self, Gate};
use super::{CONNECTION_DEADLINE, MAX_CONNECTIONS, ResponderStats, tolerate};
use crate::frame::transfer::TransferRequest;
use crate::frame::{MAX_BYTES, Reply, Request, frame_length};

/// Frames on one connection.
const MAX_FRAMES: u32 = 1_000;

pub(super) async fn serve(
    listener: TcpListener,
    me: Arc<NodeRef>,
    gate: Arc<Gate>,
    stats: Arc<ResponderStats>,
) -> io::Result<Infallible> {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tolerate(error).await?;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            stats.rejected.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let (me, gate, stats) = (Arc::clone(&me), Arc::clone(&gate), Arc::clone(&stats));
        tokio::spawn(async move {
            if timeout(CONNECTION_DEADLINE, connection(stream, &me, &gate, &stats))
                .await
                .is_err()
            {
                stats.expired.fetch_add(1, Ordering::Relaxed);
            }
            drop(slot);
        });
    }
}

/// Until the peer is done or says something that is no request.
async fn connection(mut stream: TcpStream, me: &NodeRef, gate: &Gate, stats: &ResponderStats) {
    let _ = stream.set_nodelay(true);
    let mut buffer = Vec::with_capacity(512);
    for count in 1..=MAX_FRAMES {
        // The kernel leaves quick-ACK mode by itself; without it the peer's RTT contains our delay.
        let _ = SockRef::from(&stream).set_tcp_quickack(true);
        let Some(frame) = read_frame(&mut stream, &mut buffer, stats).await else {
            return;
        };
        if let Ok(request) = TransferRequest::decode(&frame) {
            let ended = transfer::serve(&mut stream, &request, &buffer, gate, me, stats).await;
            if let Err(error) = ended {
                tracing::debug!(%error, "a transfer was cut");
            }
            return;
        }
        let reply = Request::decode(&frame).and_then(|request| {
            Reply {
                key: request.key,
                receiver_count: count,
                responder: me.clone(),
            }
            .encode(request.length)
        });
        let Ok(reply) = reply else {
            stats.ignored.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let counter = match stream.write_all(&reply).await {
            Ok(()) => &stats.tcp_answered,
            Err(_) => &stats.send_errors,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The next whole frame; `None` at the end of the stream or at anything else.
async fn read_frame(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    stats: &ResponderStats,
) -> Option<Vec<u8>> {
    loop {
        match frame_length(buffer) {
            Err(_) => {
                stats.ignored.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            Ok(Some(length)) if buffer.len() >= length => {
                let rest = buffer.split_off(length);
                return Some(std::mem::replace(buffer, rest));
            }
            Ok(_) => {}
        }
        debug_assert!(buffer.len() < MAX_BYTES);
        let mut chunk = [0; 1_024];
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => buffer.extend_from_slice(&chunk[..n]),
        }
    }
}
