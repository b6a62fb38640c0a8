//! The holder's side: a socket over which one user is handed the maps, and nobody anything else.

use std::fs;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use nix::sys::socket::{
    ControlMessage, MsgFlags, UnixAddr, getsockopt, sendmsg, sockopt::PeerCredentials,
};
use nix::sys::stat::{Mode, umask};
use socket2::{Domain, SockAddr, Socket, Type};

use super::hello::Hello;
use crate::sys::loader::{self, Held, LoadError};

/// Connections that are kept: one per agent, and room for one that is just being replaced.
const MOST_LEASES: usize = 8;
const BACKLOG: i32 = 16;

/// Why the maps cannot be handed over.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("cannot make the socket `{}`", path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("another holder serves `{}`", path.display())]
    Taken { path: PathBuf },
    #[error("`{}` is there and is no socket", path.display())]
    Foreign { path: PathBuf },
    #[error(transparent)]
    Group(LoadError),
    #[error("cannot wait for connections")]
    Wait(#[source] nix::errno::Errno),
}

impl SocketError {
    /// What to do next, if we know.
    pub fn hint(&self) -> Option<std::borrow::Cow<'static, str>> {
        match self {
            Self::Make { .. } => Some("its folder must exist and be writable for uid 0 (in Kubernetes: an emptyDir that the agent has, too)".into()),
            Self::Taken { .. } => Some("one holder per node and socket: end that one first".into()),
            Self::Foreign { .. } => Some("name another path; this one is not removed".into()),
            Self::Group(error) => error.hint(),
            Self::Wait(_) => None,
        }
    }
}

/// Makes room for a socket: removes what a holder left that is gone.
pub fn free(path: &Path) -> Result<(), SocketError> {
    let failed = |source| SocketError::Make {
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::Foreign {
                path: path.to_owned(),
            });
        }
        Ok(_) => {}
    }
    let address = SockAddr::unix(path).map_err(failed)?;
    match socket().map_err(failed)?.connect(&address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Ok(()) => Err(SocketError::Taken {
            path: path.to_owned(),
        }),
        Err(error) => Err(failed(error)),
    }
}

fn socket() -> io::Result<Socket> {
    Socket::new(Domain::UNIX, Type::SEQPACKET.nonblocking(), None)
}

/// The socket's file, removed on drop. Nobody is let in yet.
pub struct Bound {
    socket: Socket,
    path: PathBuf,
}

impl Bound {
    /// For this group to connect to; `None`: our own.
    pub fn new(path: &Path, gid: Option<u32>) -> Result<Self, SocketError> {
        let failed = |source| SocketError::Make {
            path: path.to_owned(),
            source,
        };
        let _group = loader::take_group(gid).map_err(SocketError::Group)?;
        let socket = socket().map_err(failed)?;
        let address = SockAddr::unix(path).map_err(failed)?;
        // The file has its mode from the start.
        let before = umask(Mode::from_bits_truncate(0o117));
        let bound = socket.bind(&address);
        umask(before);
        bound.map_err(failed)?;
        Ok(Self {
            socket,
            path: path.to_owned(),
        })
    }

    /// Lets `uid` in, and to a word that all is well whoever we are ourselves.
    pub fn listen(self, uid: u32) -> Result<Server, SocketError> {
        self.socket
            .listen(BACKLOG)
            .map_err(|source| SocketError::Make {
                path: self.path.clone(),
                source,
            })?;
        Ok(Server { bound: self, uid })
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "the socket's file was gone");
        }
    }
}

pub struct Server {
    bound: Bound,
    uid: u32,
}

/// Who asked so far.
#[derive(Default)]
struct Asked {
    served: u64,
    refused: u64,
}

impl Server {
    /// Serves until a signal comes.
    pub fn serve(&self, held: &Held, signals: &SignalFd) -> Result<(), SocketError> {
        let mut leases: Vec<Socket> = Vec::new();
        let mut asked = Asked::default();
        loop {
            let mut waiting = vec![
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.bound.socket.as_fd(), PollFlags::POLLIN),
            ];
            let held_open = leases.iter().map(Socket::as_fd);
            waiting.extend(held_open.map(|lease| PollFd::new(lease, PollFlags::POLLIN)));
            match poll(&mut waiting, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(SocketError::Wait(errno)),
            }
            let ready: Vec<bool> = waiting.iter().map(|fd| fd.any().unwrap_or(true)).collect();
            // Taken, so that it is not still pending when signals end us again.
            if ready[0] && !matches!(signals.read_signal(), Ok(None)) {
                tracing::info!(served = asked.served, refused = asked.refused, "stopping");
                return Ok(());
            }
            // An agent says nothing: what can be read is its end, or what it must not say.
            let mut done = ready[2..].iter();
            leases.retain(|_| !done.next().copied().unwrap_or(false));
            if ready[1] {
                match self.bound.socket.accept() {
                    Ok((peer, _)) => {
                        leases.extend(self.serve_one(held, peer, &mut asked, leases.len()))
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be taken");
                        // It may be for want of descriptors: do not spin.
                        std::thread::sleep(Duration::from_millis(100));
                    }
                }
            }
        }
    }

    /// What one that connects is given; the connection if it goes on as a lease.
    fn serve_one(
        &self,
        held: &Held,
        peer: Socket,
        asked: &mut Asked,
        leases: usize,
    ) -> Option<Socket> {
        let who = getsockopt(&peer, PeerCredentials).ok()?;
        let own = nix::unistd::geteuid().as_raw();
        if who.uid() == self.uid && leases < MOST_LEASES {
            return match hand_over(held, &peer) {
                Ok(()) => {
                    asked.served += 1;
                    tracing::info!(uid = who.uid(), pid = who.pid(), "maps handed over");
                    Some(peer)
                }
                Err(error) => {
                    tracing::warn!(%error, pid = who.pid(), "maps not handed over");
                    None
                }
            };
        }
        if who.uid() == own && who.uid() != self.uid {
            // Our own probes: a word, and no map.
            if let Err(error) = say(&peer, &Hello::new(Vec::new()), &[]) {
                tracing::debug!(%error, "nobody heard that all is well");
            }
            return None;
        }
        asked.refused += 1;
        if asked.refused.is_power_of_two() {
            tracing::warn!(
                uid = who.uid(),
                pid = who.pid(),
                refused = asked.refused,
                "refused: not the agent's user, or too many connections"
            );
        }
        None
    }
}

fn hand_over(held: &Held, peer: &Socket) -> io::Result<()> {
    let (names, descriptors): (Vec<_>, Vec<_>) = held
        .descriptors()
        .map(|(name, fd)| (name.to_owned(), fd.as_raw_fd()))
        .unzip();
    say(peer, &Hello::new(names), &descriptors)
}

fn say(peer: &Socket, hello: &Hello, descriptors: &[i32]) -> io::Result<()> {
    let text = serde_json::to_vec(hello)?;
    let rights = [ControlMessage::ScmRights(descriptors)];
    let control = if descriptors.is_empty() {
        &[][..]
    } else {
        &rights
    };
    sendmsg::<UnixAddr>(
        peer.as_raw_fd(),
        &[IoSlice::new(&text)],
        control,
        MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}
