//! How many callers the API holds at one time. A connection above the cap is closed at once and counted, and one that
//! says nothing loses its place, so that idle connections keep nobody out for long.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::server::Connected;

/// Connections at one time. With [`STREAMS`] each it bounds the replies that wait for slow readers.
pub(crate) const CONNECTIONS: usize = 32;
/// Calls at one time on one connection.
pub(crate) const STREAMS: u32 = 16;
/// For the first bytes of a caller, which HTTP/2 and TLS both begin with.
const GREETING: Duration = Duration::from_secs(5);
/// Length of HTTP/2's connection preface; no TLS greeting is shorter.
const GREETING_BYTES: usize = 24;

/// Connections that were not served.
#[derive(Debug, Default)]
pub struct AdmissionStats {
    /// Above the cap.
    pub refused: AtomicU64,
    /// Silent for too long.
    pub silent: AtomicU64,
}

/// A connection with a place. The place is free when it closes.
#[derive(Debug)]
pub(crate) struct Admitted<S> {
    io: S,
    _slot: OwnedSemaphorePermit,
    /// Until the caller has greeted: when it must have, and how much is missing.
    greeting: Option<(Pin<Box<Sleep>>, usize)>,
    stats: Arc<AdmissionStats>,
}

/// The connections of `incoming` that find a place.
pub(crate) fn admit<S: Send + 'static>(
    incoming: impl Stream<Item = io::Result<S>>,
    stats: Arc<AdmissionStats>,
) -> impl Stream<Item = io::Result<Admitted<S>>> {
    admit_within(incoming, stats, GREETING)
}

fn admit_within<S: Send + 'static>(
    incoming: impl Stream<Item = io::Result<S>>,
    stats: Arc<AdmissionStats>,
    greeting: Duration,
) -> impl Stream<Item = io::Result<Admitted<S>>> {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    incoming.filter_map(move |connection| {
        let io = match connection {
            Ok(io) => io,
            Err(error) => return Some(Err(error)),
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            stats.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        Some(Ok(Admitted {
            io,
            _slot: slot,
            greeting: Some((Box::pin(sleep(greeting)), GREETING_BYTES)),
            stats: Arc::clone(&stats),
        }))
    })
}

impl<S: AsyncRead + Unpin> AsyncRead for Admitted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.io).poll_read(context, buffer);
        if let Some((deadline, missing)) = &mut this.greeting {
            let fresh = buffer.filled().len() - before;
            *missing = missing.saturating_sub(fresh);
            if *missing == 0 {
                this.greeting = None;
            } else if deadline.as_mut().poll(context).is_ready() {
                this.stats.silent.fetch_add(1, Ordering::Relaxed);
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Admitted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl<S: Connected> Connected for Admitted<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    type Connections = Pin<Box<dyn Stream<Item = io::Result<Admitted<DuplexStream>>>>>;

    const SHORT: Duration = Duration::from_millis(60);

    fn take(count: usize) -> (Vec<DuplexStream>, Connections, Arc<AdmissionStats>) {
        let (ours, theirs): (Vec<_>, Vec<_>) = (0..count).map(|_| duplex(64)).unzip();
        let stats = Arc::<AdmissionStats>::default();
        let incoming = tokio_stream::iter(theirs.into_iter().map(Ok));
        (
            ours,
            Box::pin(admit_within(incoming, Arc::clone(&stats), SHORT)),
            stats,
        )
    }

    #[tokio::test]
    async fn a_place_is_free_again_when_its_connection_closes() {
        let (_ours, mut admitted, stats) = take(CONNECTIONS + 1);
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS {
            held.push(admitted.next().await.expect("one").expect("open"));
        }
        held.pop();
        assert!(admitted.next().await.is_some());
        assert_eq!(stats.refused.load(Ordering::Relaxed), 0);

        let (_ours, mut admitted, stats) = take(CONNECTIONS + 5);
        let mut held = Vec::new();
        while let Some(connection) = admitted.next().await {
            held.push(connection);
        }
        assert_eq!(held.len(), CONNECTIONS);
        assert_eq!(stats.refused.load(Ordering::Relaxed), 5);
    }

    #[tokio::test]
    async fn a_caller_that_says_nothing_loses_its_place_and_one_that_greets_keeps_it() {
        let (mut ours, mut admitted, stats) = take(2);
        let mut silent = admitted.next().await.expect("one").expect("open");
        let mut polite = admitted.next().await.expect("two").expect("open");
        ours[0].write_all(&[1; GREETING_BYTES - 1]).await.unwrap();
        ours[1].write_all(&[1; GREETING_BYTES]).await.unwrap();
        let mut buffer = [0; 64];
        assert_eq!(polite.read(&mut buffer).await.unwrap(), GREETING_BYTES);
        assert_eq!(silent.read(&mut buffer).await.unwrap(), GREETING_BYTES - 1);
        let error = silent.read(&mut buffer).await.expect_err("too late");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let quiet = tokio::time::timeout(3 * SHORT, polite.read(&mut buffer)).await;
        assert!(quiet.is_err(), "it may take its time now");
        assert_eq!(stats.silent.load(Ordering::Relaxed), 1);
    }
}
