//! The agent's side: asks for the maps, and keeps the connection as a lease that ends when the holder does.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use probe_common::LAYOUT;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::hello::{Hello, MAX_BYTES, PROTOCOL};
use crate::sys::handover::{self, Message};
use crate::sys::maps::{Maps, MapsError};
use crate::sys::source::NEEDED;

/// How long an answer may take; a holder answers at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest part of another's words in an error.
const MOST_QUOTED: usize = 40;
/// A holder's user.
const ROOT: u32 = 0;

/// Why there are no maps from a holder.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("cannot reach the holder at `{}`", path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error("the socket `{}` is served by uid {uid}, and not by uid 0 as a holder's is", path.display())]
    NotRoot { path: PathBuf, uid: u32 },
    #[error("the holder at `{}` closed the connection without a word", path.display())]
    Refused { path: PathBuf },
    #[error("the holder at `{}` said nothing for {} s", path.display(), PATIENCE.as_secs())]
    Silent { path: PathBuf },
    #[error("the holder at `{}` gave an answer that cannot be used: {why}", path.display())]
    Unusable { path: PathBuf, why: String },
    #[error("the holder at `{}` (version `{version}`) speaks {what} {theirs}, this agent {what} {ours}; both must come from one release", path.display())]
    Version {
        path: PathBuf,
        /// `layout` or `protocol`.
        what: &'static str,
        version: String,
        theirs: u32,
        ours: u32,
    },
    #[error("the holder at `{}` handed over maps that cannot be used", path.display())]
    Maps {
        path: PathBuf,
        source: Box<MapsError>,
    },
}

impl AskError {
    /// What to do next, if we know.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Connect { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => Some(
                    "the holder makes its socket once the programs are attached: look at its log, and whether both have the same folder",
                ),
                io::ErrorKind::ConnectionRefused => Some("no holder is running there any more"),
                io::ErrorKind::PermissionDenied => Some(
                    "the socket belongs to another group: run the holder with the agent's group, or give it `--gid`",
                ),
                _ => None,
            },
            Self::Refused { .. } => Some(
                "it hands maps to one user only (`hold --uid`), and to few connections at a time: its log says which",
            ),
            Self::Version { .. } => Some(
                "during a rollout this ends by itself; if it stays, holder and agent run different images",
            ),
            _ => None,
        }
    }
}

/// A holder's answer, and the connection over which it came.
pub struct Greeting {
    pub hello: Hello,
    maps: BTreeMap<String, OwnedFd>,
    socket: UnixStream,
}

/// Ends when the holder does. A holder serves this connection as long as it is open.
pub struct Lease {
    socket: UnixStream,
}

impl Lease {
    /// Waits for the end. Cancel safe.
    pub async fn ended(&self) {
        // A holder says nothing more: whatever comes instead is no holder, and its end.
        let _ = next(&self.socket, &mut [0; 1]).await;
    }
}

async fn next(socket: &UnixStream, text: &mut [u8]) -> io::Result<Message> {
    loop {
        socket.readable().await?;
        match socket.try_io(Interest::READABLE, || handover::receive(socket, text)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Connects and takes the answer, in bounded time.
pub async fn greet(path: &Path) -> Result<Greeting, AskError> {
    greet_of(path, ROOT).await
}

async fn greet_of(path: &Path, uid: u32) -> Result<Greeting, AskError> {
    match tokio::time::timeout(PATIENCE, converse(path, uid)).await {
        Ok(done) => done,
        Err(_) => Err(AskError::Silent {
            path: path.to_owned(),
        }),
    }
}

fn connect(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET.nonblocking(), None)?;
    // A unix socket never connects later: if its queue is full this fails at once.
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket)
}

async fn converse(path: &Path, uid: u32) -> Result<Greeting, AskError> {
    let unreachable = |source| AskError::Connect {
        path: path.to_owned(),
        source,
    };
    let unusable = |why: String| AskError::Unusable {
        path: path.to_owned(),
        why,
    };
    let socket = connect(path).map_err(unreachable)?;
    let peer = getsockopt(&socket, PeerCredentials).map_err(|errno| unreachable(errno.into()))?;
    if peer.uid() != uid {
        return Err(AskError::NotRoot {
            path: path.to_owned(),
            uid: peer.uid(),
        });
    }
    // It keeps the bounds of messages, which this type does not know; it is only waited for, and read by `handover`.
    let socket = UnixStream::from_std(socket.into()).map_err(unreachable)?;
    let mut text = [0; MAX_BYTES];
    let message = next(&socket, &mut text).await.map_err(unreachable)?;
    if message.bytes == 0 {
        return Err(AskError::Refused {
            path: path.to_owned(),
        });
    }
    if message.cut {
        return Err(unusable(
            "it is too long, or brings more descriptors than this process may have".to_owned(),
        ));
    }
    let hello: Hello = serde_json::from_slice(&text[..message.bytes])
        .map_err(|error| unusable(format!("its text is none of ours ({error})")))?;
    for (what, theirs, ours) in [
        ("protocol", hello.protocol, PROTOCOL),
        ("layout", hello.layout, LAYOUT),
    ] {
        if theirs != ours {
            return Err(AskError::Version {
                path: path.to_owned(),
                what,
                version: quoted(&hello.version),
                theirs,
                ours,
            });
        }
    }
    let (names, descriptors) = (hello.maps.len(), message.descriptors.len());
    if names != descriptors {
        return Err(unusable(format!(
            "it names {names} maps and brings {descriptors} descriptors"
        )));
    }
    Ok(Greeting {
        maps: hello
            .maps
            .iter()
            .cloned()
            .zip(message.descriptors)
            .collect(),
        hello,
        socket,
    })
}

/// Another's words, short and without anything that steers a terminal.
fn quoted(text: &str) -> String {
    text.chars()
        .filter(|char| char.is_ascii_graphic())
        .take(MOST_QUOTED)
        .collect()
}

/// The maps, and the lease on them.
pub async fn ask(path: &Path) -> Result<(Maps, Lease), AskError> {
    ask_of(path, ROOT).await
}

async fn ask_of(path: &Path, uid: u32) -> Result<(Maps, Lease), AskError> {
    let Greeting {
        mut maps, socket, ..
    } = greet_of(path, uid).await?;
    // What a newer holder hands over beyond that is closed.
    maps.retain(|name, _| NEEDED.contains(&name.as_str()));
    let missing: Vec<_> = NEEDED
        .into_iter()
        .filter(|name| !maps.contains_key(*name))
        .collect();
    if !missing.is_empty() {
        return Err(AskError::Unusable {
            path: path.to_owned(),
            why: format!("it lacks the maps {}", missing.join(", ")),
        });
    }
    let maps = Maps::handed(path, maps).map_err(|source| AskError::Maps {
        path: path.to_owned(),
        source: Box::new(source),
    })?;
    Ok((maps, Lease { socket }))
}

#[cfg(test)]
#[path = "../hold_tests.rs"]
mod tests;
