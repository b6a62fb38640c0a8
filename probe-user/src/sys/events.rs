//! The ring buffer's reader.

use std::os::fd::{AsRawFd, RawFd};

use aya::maps::{Map, MapData, RingBuf};
use probe_common::{Event, maps::names};
use tokio::io::{Interest, unix::AsyncFd};

use super::{maps::MapsError, source::Source};

/// Reads events without waiting. Loss is counted by the kernel programs
/// (`GlobalCounter::EventsLost`), undecodable bytes here.
pub struct Events {
    ring: RingBuf<MapData>,
    decode_errors: u64,
}

impl Events {
    pub(super) fn open(source: &Source) -> Result<Self, MapsError> {
        Ok(Self {
            ring: source.open(names::EVENTS, |data| RingBuf::try_from(Map::RingBuf(data)))?,
            decode_errors: 0,
        })
    }

    /// The next event that is already there.
    pub fn try_next(&mut self) -> Option<Event> {
        while let Some(item) = self.ring.next() {
            match Event::decode(&item) {
                Some(event) => return Some(event),
                None => self.decode_errors += 1,
            }
        }
        None
    }

    /// Records that were no events, since this reader was opened.
    pub fn decode_errors(&self) -> u64 {
        self.decode_errors
    }

    /// For use in a tokio runtime (with I/O enabled).
    pub fn into_stream(self) -> Result<EventStream, MapsError> {
        // SAFETY: the descriptor is owned by the ring inside `self`, which never replaces or closes it
        // before it is dropped, and `AsyncFd` deregisters before it drops `self`.
        unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }
            .map(|fd| EventStream { fd })
            .map_err(|error| MapsError::Events(error.into()))
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

/// Events as they come, in a tokio runtime.
pub struct EventStream {
    fd: AsyncFd<Events>,
}

impl EventStream {
    /// Waits until there is at least one event, then appends at most `limit` to `out`. Cancel safe:
    /// an event is either in `out` or still in the ring.
    pub async fn next_batch(
        &mut self,
        out: &mut Vec<Event>,
        limit: usize,
    ) -> Result<(), MapsError> {
        loop {
            let before = out.len();
            let mut guard = self.fd.readable_mut().await.map_err(MapsError::Events)?;
            while out.len() - before < limit {
                match guard.get_inner_mut().try_next() {
                    Some(event) => out.push(event),
                    None => {
                        guard.clear_ready();
                        break;
                    }
                }
            }
            if out.len() > before {
                return Ok(());
            }
        }
    }

    /// See [`Events::decode_errors`].
    pub fn decode_errors(&self) -> u64 {
        self.fd.get_ref().decode_errors()
    }
}
