//! UDP: one reply per request, never longer than the request unless the asker has proven its address.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, UdpSocket as StdUdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mesh::measurement::PacketTooBig;
use mesh::observation::NodeRef;
use nix::errno::Errno;
use tokio::net::UdpSocket;

use super::runs::Runs;
use super::sized::Holders;
use super::{ResponderStats, tolerate};
use crate::frame::sized::{self, Padding, SMALL_BYTES, SizedReply, SizedRequest};
use crate::frame::{Reply, Request};
use crate::sys::socket::{Fragmenting, next_error, queue_errors, route_mtu, set_fragmenting};

/// Queued errors looked at in one go.
const MAX_ERRORS: usize = 64;

/// The reply to one echo request, and whether the request had not come before; `None` for what is none.
pub(super) fn answer(datagram: &[u8], me: &NodeRef, runs: &mut Runs) -> Option<(Vec<u8>, bool)> {
    let request = Request::decode(datagram).ok()?;
    let counted = runs.count(request.key.run, request.key.sequence)?;
    let reply = Reply {
        key: request.key,
        receiver_count: counted.total,
        responder: me.clone(),
    };
    Some((reply.encode(request.length).ok()?, counted.first))
}

struct Responder {
    socket: UdpSocket,
    own: SocketAddr,
    me: Arc<NodeRef>,
    stats: Arc<ResponderStats>,
    runs: Runs,
    holders: Holders,
    start: Instant,
}

pub(super) async fn serve(
    socket: UdpSocket,
    me: Arc<NodeRef>,
    stats: Arc<ResponderStats>,
) -> io::Result<Infallible> {
    let own = socket.local_addr()?;
    // Replies that are too big for a hop are told to whoever asked for them.
    queue_errors(&socket, own.is_ipv6())?;
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(io::Error::other)?;
    let mut responder = Responder {
        socket,
        own,
        me,
        stats,
        runs: Runs::default(),
        holders: Holders::new(secret),
        start: Instant::now(),
    };
    let mut buffer = vec![0; sized::MAX_BYTES + 1];
    loop {
        match responder.socket.recv_from(&mut buffer).await {
            Ok((length, peer)) => responder.reply(&buffer[..length], peer).await,
            Err(error) => {
                responder.drain_errors();
                if !is_of_a_peer(&error) {
                    tolerate(error).await?;
                }
            }
        }
    }
}

/// An ICMP error for an earlier reply: it comes up with the next call, whomever that one is for.
fn is_of_a_peer(error: &io::Error) -> bool {
    error.raw_os_error().map(Errno::from_raw).is_some_and(|e| {
        matches!(
            e,
            Errno::ECONNREFUSED
                | Errno::EMSGSIZE
                | Errno::EHOSTUNREACH
                | Errno::ENETUNREACH
                | Errno::EHOSTDOWN
                | Errno::ENONET
                | Errno::ENOPROTOOPT
                | Errno::EOPNOTSUPP
                | Errno::EACCES
                | Errno::EPROTO
        )
    })
}

impl Responder {
    async fn reply(&mut self, datagram: &[u8], peer: SocketAddr) {
        if let Ok(request) = SizedRequest::decode(datagram) {
            self.reply_sized(&request, peer).await;
            return;
        }
        let Some((reply, first)) = answer(datagram, &self.me, &mut self.runs) else {
            self.stats.ignored.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if first && mesh::BURST_SOURCE_PORTS.contains(&peer.port()) {
            self.stats.arrivals.note(peer.ip());
        }
        self.stats
            .evicted_runs
            .fetch_add(std::mem::take(&mut self.runs.evicted), Ordering::Relaxed);
        let counter = match self.send(&reply, peer).await {
            Ok(()) => &self.stats.udp_answered,
            Err(_) => &self.stats.send_errors,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Once more when the error was another peer's.
    async fn send(&mut self, bytes: &[u8], peer: SocketAddr) -> io::Result<()> {
        for _ in 0..3 {
            match self.socket.send_to(bytes, peer).await {
                Err(error) if is_of_a_peer(&error) => {
                    self.drain_errors();
                }
                result => return result.map(drop),
            }
        }
        self.socket.send_to(bytes, peer).await.map(drop)
    }

    async fn reply_sized(&mut self, request: &SizedRequest, peer: SocketAddr) {
        self.drain_errors();
        let now = self.start.elapsed();
        let mut padding = Padding::AsAsked;
        if let Some(wanted) = request.reply_length {
            padding = self.holders.grant(peer, request, now);
            if padding == Padding::AsAsked {
                padding = self.send_padded(request, peer, wanted, now);
                if padding == Padding::AsAsked {
                    self.stats.sized_answered.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            } else {
                self.stats.padded_refused.fetch_add(1, Ordering::Relaxed);
            }
        }
        let reply = self.sized(request, peer, padding, now);
        let sent = match reply.encode(SMALL_BYTES) {
            Ok(bytes) => self.send(&bytes, peer).await.is_ok(),
            Err(_) => false,
        };
        let counter = if sent {
            &self.stats.sized_answered
        } else {
            &self.stats.send_errors
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// No `await` between the change of the socket's mode and its return: the mode is for this datagram only.
    fn send_padded(
        &mut self,
        request: &SizedRequest,
        peer: SocketAddr,
        wanted: u16,
        now: Duration,
    ) -> Padding {
        let reply = self.sized(request, peer, Padding::AsAsked, now);
        let Ok(bytes) = reply.encode(usize::from(wanted)) else {
            return Padding::NotSent;
        };
        let ipv6 = self.own.is_ipv6();
        let how = if request.may_fragment {
            Fragmenting::Allowed
        } else {
            Fragmenting::Never
        };
        if set_fragmenting(&self.socket, ipv6, how).is_err() {
            return Padding::NotSent;
        }
        let mut outcome = Padding::NotSent;
        for _ in 0..3 {
            match self.socket.try_send_to(&bytes, peer) {
                Ok(_) => outcome = Padding::AsAsked,
                Err(error) if is_of_a_peer(&error) => {
                    // The stack's own refusal is in the queue too, an ICMP error of an earlier reply is not one.
                    if let Some(mtu) = self.drain_errors() {
                        self.holders.refused_locally(peer, mtu);
                        outcome = Padding::TooBigHere;
                    } else {
                        continue;
                    }
                }
                Err(_) => {}
            }
            break;
        }
        if let Err(error) = set_fragmenting(&self.socket, ipv6, Fragmenting::Usual) {
            tracing::warn!(%error, "the echo socket keeps its mode of a path-MTU reply");
        }
        outcome
    }

    fn sized(
        &self,
        request: &SizedRequest,
        peer: SocketAddr,
        padding: Padding,
        now: Duration,
    ) -> SizedReply {
        let (local_mtu, reported) = self.holders.facts(peer).unwrap_or_default();
        SizedReply {
            key: request.key,
            token: self.holders.token(peer, now),
            // Bounded by the frame.
            request_length: u16::try_from(request.length).unwrap_or(u16::MAX),
            padding,
            local_mtu,
            route_mtu: self
                .holders
                .is_valid(&request.token, peer, now)
                .then(|| self.route_to(peer))
                .flatten(),
            reported,
            responder: (*self.me).clone(),
        }
    }

    /// What the kernel believes of the way back.
    fn route_to(&self, peer: SocketAddr) -> Option<u16> {
        let socket = StdUdpSocket::bind((self.own.ip(), 0)).ok()?;
        socket.connect(peer).ok()?;
        let mtu = route_mtu(&socket, peer.is_ipv6()).ok()?;
        Some(u16::try_from(mtu).unwrap_or(u16::MAX))
    }

    /// Empties the queue of errors. The MTU of the last refusal by our own stack, if there was one.
    fn drain_errors(&mut self) -> Option<u16> {
        let mut refused = None;
        for _ in 0..MAX_ERRORS {
            let Some(error) = next_error(&self.socket) else {
                break;
            };
            if error.errno != Errno::EMSGSIZE as i32 {
                continue;
            }
            let mtu = u16::try_from(error.mtu).unwrap_or(u16::MAX);
            if error.local {
                refused = Some(mtu);
            } else if let (Some(peer), Some(hop)) = (error.peer, error.hop) {
                self.holders.too_big(peer, PacketTooBig { mtu, hop });
            }
        }
        refused
    }
}
