//! Path MTU by echoed datagrams: the socket work around the [`Search`].
//!
//! One UDP socket per search, so that every datagram of it has one 5-tuple and takes one path. Forward: the request is
//! padded, its reply is small. Return: the request is small and asks for a padded reply. Datagrams are sent with
//! `IP_PMTUDISC_PROBE` (DF set, what the kernel has learnt of the path ignored). No privilege is needed; but an
//! ICMP "too big" on the way lowers the MTU that both kernels keep for this route, for about ten minutes.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdUdpSocket};
use std::sync::Mutex;
use std::time::Duration;

use mesh::measurement::{MeasureOutcome, MtuLimit, PacketTooBig, PathDirection, PathMtu, Sent};
use mesh::observation::NodeRef;
use nix::errno::Errno;
use probe_api::measure::{Figure, MeasureTarget, Measurement};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::search::{Next, Search};
use super::{both, failed, with_port};
use crate::frame::sized::{
    CEILING, MAX_BYTES, Padding, SMALL_BYTES, SizedReply, SizedRequest, Token, overhead,
};
use crate::frame::{Key, Nonce};
use crate::prober::Ports;
use crate::sys::socket::{Fragmenting, next_error, queue_errors, route_mtu, set_fragmenting};

/// Patience for the first answer, per attempt; each attempt has a source port of its own.
const GREETINGS: [Duration; 3] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_millis(1_000),
];
const FLOWS: usize = 3;
/// Between two pairs of one volley.
const GAP: Duration = Duration::from_millis(5);
/// Wait for answers: three times the slowest round trip, and this.
const SLACK: Duration = Duration::from_millis(80);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// Pairs in one direction; a search needs a tenth of it.
const MAX_PAIRS: u32 = 240;
/// One direction takes no longer.
const DEADLINE: Duration = Duration::from_secs(30);

/// Why a search has no figure.
struct Failure(MeasureOutcome);

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        tracing::debug!(%error, "path MTU search");
        Self(MeasureOutcome::LocalError)
    }
}

/// What a datagram asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    Small,
    Forward(u16),
    Return(u16),
}

struct Pending {
    ask: Ask,
    sent: Instant,
    answered: bool,
}

/// What a volley brought, beside answers.
#[derive(Default)]
struct Volley {
    pairs: Vec<(Nonce, Nonce)>,
    refused_locally: Option<u16>,
}

struct Session<'a> {
    socket: UdpSocket,
    target: &'a MeasureTarget,
    ipv6: bool,
    port: u16,
    run: u64,
    sequence: u32,
    token: Token,
    responder: Option<NodeRef>,
    pending: HashMap<Nonce, Pending>,
    slowest: Duration,
    /// Answers that have not been told to the search yet.
    heard: Vec<Ask>,
    /// What is being asked, and the responder's refusal of it.
    current: Ask,
    there: Option<Padding>,
    reported: Option<PacketTooBig>,
    remote_local: Option<u16>,
    remote_route: Option<u16>,
    remote_reported: Option<PacketTooBig>,
    wrong: Option<MeasureOutcome>,
    refused: bool,
    tally: HashMap<PathDirection, (Sent, Sent)>,
}

/// Both directions of the path to `target`.
pub(super) async fn measure(target: &MeasureTarget, ports: &Mutex<Ports>) -> [Measurement; 2] {
    let mut outcome = (MeasureOutcome::Timeout, 0);
    for _ in 0..FLOWS {
        let mut session = match Session::open(target, ports) {
            Ok(session) => session,
            Err(error) => {
                tracing::debug!(%error, "no socket for a path MTU search");
                let unreachable = matches!(
                    error.kind(),
                    io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable
                );
                let outcome = if unreachable {
                    MeasureOutcome::Unreachable
                } else {
                    MeasureOutcome::LocalError
                };
                return both(outcome, 0);
            }
        };
        match session.greet().await {
            Ok(()) => {
                let forward = session.search(PathDirection::Forward).await;
                let back = session.search(PathDirection::Return).await;
                return [
                    session.result(PathDirection::Forward, forward),
                    session.result(PathDirection::Return, back),
                ];
            }
            // Another flow may take another path.
            Err(Failure(MeasureOutcome::Timeout)) => outcome.1 = session.port,
            Err(Failure(failure)) => return both(failure, session.port),
        }
    }
    both(outcome.0, outcome.1)
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

/// What the kernel believes of the route to `target` now.
fn route_to(target: SocketAddr) -> Option<u16> {
    let any = if target.is_ipv6() {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    };
    let socket = StdUdpSocket::bind((any, 0)).ok()?;
    socket.connect(target).ok()?;
    let mtu = route_mtu(&socket, target.is_ipv6()).ok()?;
    Some(u16::try_from(mtu).unwrap_or(u16::MAX))
}

impl<'a> Session<'a> {
    fn open(target: &'a MeasureTarget, ports: &Mutex<Ports>) -> io::Result<Self> {
        let ipv6 = target.address.is_ipv6();
        let any = if ipv6 {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        } else {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        };
        let (socket, port) = with_port(ports, |port| {
            let socket = Socket::new(
                Domain::for_address(target.address),
                Type::DGRAM.nonblocking().cloexec(),
                Some(Protocol::UDP),
            )?;
            if ipv6 {
                socket.set_only_v6(true)?;
            }
            socket.bind(&SockAddr::from(SocketAddr::new(any, port)))?;
            Ok(socket)
        })?;
        socket.connect(&SockAddr::from(target.address))?;
        queue_errors(&socket, ipv6)?;
        set_fragmenting(&socket, ipv6, Fragmenting::Never)?;
        Ok(Self {
            socket: UdpSocket::from_std(socket.into())?,
            target,
            ipv6,
            port,
            run: u64::from_be_bytes(random()?),
            sequence: 0,
            token: Token::default(),
            responder: None,
            pending: HashMap::new(),
            slowest: Duration::ZERO,
            heard: Vec::new(),
            current: Ask::Small,
            there: None,
            reported: None,
            remote_local: None,
            remote_route: None,
            remote_reported: None,
            wrong: None,
            refused: false,
            tally: HashMap::new(),
        })
    }

    /// An IP packet as large as a small datagram makes it.
    fn small_packet(&self) -> u16 {
        u16::try_from(SMALL_BYTES + overhead(self.ipv6)).unwrap_or(u16::MAX)
    }

    fn frame_of(&self, packet: u16) -> usize {
        usize::from(packet)
            .saturating_sub(overhead(self.ipv6))
            .clamp(SMALL_BYTES, MAX_BYTES)
    }

    /// Largest packet whose frame there is.
    fn ceiling(&self) -> u16 {
        u16::try_from(MAX_BYTES + overhead(self.ipv6))
            .unwrap_or(u16::MAX)
            .min(CEILING)
    }

    /// Learns who is there, the token, and how long answers take.
    async fn greet(&mut self) -> Result<(), Failure> {
        for patience in GREETINGS {
            let small = self.send(Ask::Small, false)?.map_err(|_| {
                // The small one does not fit the interface: no path for a search.
                Failure(MeasureOutcome::LocalError)
            })?;
            let deadline = Instant::now() + patience;
            self.listen(deadline, |session| session.is_answered(&small))
                .await?;
            if self.responder.is_some() {
                self.heard.clear();
                return Ok(());
            }
        }
        Err(Failure(if let Some(wrong) = self.wrong {
            wrong
        } else if self.refused {
            MeasureOutcome::Refused
        } else {
            MeasureOutcome::Timeout
        }))
    }

    fn is_answered(&self, nonce: &Nonce) -> bool {
        self.pending.get(nonce).is_some_and(|p| p.answered)
    }

    /// Sends one datagram; the MTU that our own stack keeps to, if that refuses it.
    fn send(&mut self, ask: Ask, may_fragment: bool) -> io::Result<Result<Nonce, u16>> {
        let nonce: Nonce = random()?;
        let length = match ask {
            Ask::Forward(packet) => self.frame_of(packet),
            Ask::Small | Ask::Return(_) => SMALL_BYTES,
        };
        let reply_length = match ask {
            Ask::Return(packet) => u16::try_from(self.frame_of(packet)).ok(),
            Ask::Small | Ask::Forward(_) => None,
        };
        let request = SizedRequest {
            key: Key {
                nonce,
                run: self.run,
                sequence: self.sequence,
            },
            token: self.token,
            reply_length,
            may_fragment,
            length,
        };
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = request.encode().map_err(io::Error::other)?;
        for _ in 0..4 {
            match self.socket.try_send(&bytes) {
                Ok(_) => break,
                // Either our own stack, or an ICMP error of an earlier datagram that comes up now.
                Err(error) if error.raw_os_error() == Some(Errno::EMSGSIZE as i32) => {
                    if let Some(mtu) = self.drain_errors() {
                        return Ok(Err(mtu));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    self.drain_errors();
                    self.refused = true;
                }
                // Lost, as on the wire.
                Err(_) => {
                    self.drain_errors();
                    break;
                }
            }
        }
        self.pending.insert(
            nonce,
            Pending {
                ask,
                sent: Instant::now(),
                answered: false,
            },
        );
        Ok(Ok(nonce))
    }

    /// Empties the queue of errors; the MTU of our own stack's last refusal, if there was one.
    fn drain_errors(&mut self) -> Option<u16> {
        let mut refused = None;
        for _ in 0..64 {
            let Some(error) = next_error(&self.socket) else {
                break;
            };
            if error.errno != Errno::EMSGSIZE as i32 {
                continue;
            }
            let mtu = u16::try_from(error.mtu).unwrap_or(u16::MAX);
            if error.local {
                refused = Some(mtu);
            } else if let Some(hop) = error.hop {
                self.reported.get_or_insert(PacketTooBig { mtu, hop });
            }
        }
        refused
    }

    /// Takes answers until `enough`, or until `deadline`.
    async fn listen(
        &mut self,
        deadline: Instant,
        enough: impl Fn(&Self) -> bool,
    ) -> Result<(), Failure> {
        let mut buffer = vec![0; MAX_BYTES + 1];
        while !enough(self) {
            match timeout_at(deadline, self.socket.recv(&mut buffer)).await {
                Err(_) => return Ok(()),
                Ok(Ok(length)) => {
                    let datagram = buffer[..length].to_vec();
                    self.take(&datagram);
                }
                Ok(Err(error)) => {
                    self.drain_errors();
                    if error.kind() == io::ErrorKind::ConnectionRefused {
                        self.refused = true;
                    }
                }
            }
        }
        Ok(())
    }

    /// Judges one datagram. What is no answer to an open question is not heard.
    fn take(&mut self, datagram: &[u8]) {
        let Ok(reply) = SizedReply::decode(datagram) else {
            self.wrong.get_or_insert(MeasureOutcome::BadReply);
            return;
        };
        let Some(pending) = self.pending.get(&reply.key.nonce) else {
            return;
        };
        let ask = pending.ask;
        if pending.answered || reply.key.run != self.run {
            return;
        }
        if reply.responder != self.target.node {
            self.wrong = Some(MeasureOutcome::WrongResponder);
            return;
        }
        let (asked, answered) = match ask {
            Ask::Small => (SMALL_BYTES, SMALL_BYTES),
            Ask::Forward(packet) => (self.frame_of(packet), SMALL_BYTES),
            Ask::Return(packet) if reply.padding == Padding::AsAsked => {
                (SMALL_BYTES, self.frame_of(packet))
            }
            Ask::Return(_) => (SMALL_BYTES, SMALL_BYTES),
        };
        if usize::from(reply.request_length) != asked || datagram.len() != answered {
            self.wrong.get_or_insert(MeasureOutcome::BadReply);
            return;
        }
        let took = pending.sent.elapsed();
        self.responder = Some(reply.responder);
        self.token = reply.token;
        self.remote_local = reply.local_mtu.or(self.remote_local);
        self.remote_route = reply.route_mtu.or(self.remote_route);
        self.remote_reported = self.remote_reported.or(reply.reported);
        self.slowest = self.slowest.max(took);
        if let Some(pending) = self.pending.get_mut(&reply.key.nonce) {
            pending.answered = true;
        }
        match (ask, reply.padding) {
            (Ask::Return(_), refusal) if refusal != Padding::AsAsked => {
                // A late one is of an earlier size.
                if ask == self.current {
                    self.there = Some(refusal);
                }
            }
            (ask, _) => self.heard.push(ask),
        }
    }

    /// Up to `count` pairs of a sized and a small datagram; ends early when a sized one is answered.
    async fn volley(
        &mut self,
        ask: Ask,
        count: u32,
        may_fragment: bool,
    ) -> Result<Volley, Failure> {
        let mut volley = Volley::default();
        (self.current, self.there) = (ask, None);
        let known = (self.reported, self.remote_reported);
        for _ in 0..count {
            match self.send(ask, may_fragment)? {
                Err(mtu) => {
                    volley.refused_locally = Some(mtu);
                    return Ok(volley);
                }
                Ok(sized) => {
                    let small = self.send(Ask::Small, false)?.unwrap_or_default();
                    volley.pairs.push((sized, small));
                }
            }
            let pairs = volley.pairs.clone();
            self.listen(Instant::now() + GAP, |s| {
                s.there.is_some() || pairs.iter().any(|(sized, _)| s.is_answered(sized))
            })
            .await?;
            if self.there.is_some()
                || volley
                    .pairs
                    .iter()
                    .any(|(sized, _)| self.is_answered(sized))
            {
                break;
            }
        }
        let wait = (3 * self.slowest + SLACK).min(LONGEST_WAIT);
        let pairs = volley.pairs.clone();
        self.listen(Instant::now() + wait, |s| {
            let told = (s.reported, s.remote_reported) != known;
            let smalls = pairs.iter().all(|(_, small)| s.is_answered(small));
            let sized = pairs.iter().any(|(sized, _)| s.is_answered(sized));
            s.there.is_some() || (smalls && (sized || told))
        })
        .await?;
        Ok(volley)
    }

    async fn search(&mut self, direction: PathDirection) -> Result<PathMtu, Failure> {
        let forward = direction == PathDirection::Forward;
        let route_before = if forward {
            route_to(self.target.address)
        } else {
            // Fresh, with a token that is ours.
            let small = self.send(Ask::Small, false)?.unwrap_or_default();
            let wait = 3 * self.slowest + SLACK;
            self.listen(Instant::now() + wait, |s| s.is_answered(&small))
                .await?;
            self.remote_route
        };
        let mut search = Search::new(self.small_packet(), self.ceiling());
        let found = self.drive(direction, &mut search).await?;
        let local = search.local();
        let fragments_pass = if !self.ipv6 && found < local {
            self.fragments(direction, found, local).await?
        } else {
            None
        };
        let (route_after, reported) = if forward {
            (route_to(self.target.address), self.reported)
        } else {
            let small = self.send(Ask::Small, false)?.unwrap_or_default();
            let wait = 3 * self.slowest + SLACK;
            self.listen(Instant::now() + wait, |s| s.is_answered(&small))
                .await?;
            (self.remote_route, self.remote_reported)
        };
        let (sized, small) = self.tally.get(&direction).copied().unwrap_or_default();
        let learnt = route_after.is_some_and(|after| after < local && route_before != Some(after));
        let limit = if found == local {
            if local == self.ceiling() {
                MtuLimit::Ceiling
            } else {
                MtuLimit::Local
            }
        } else if reported.is_some() {
            MtuLimit::PacketTooBig
        } else if learnt {
            MtuLimit::Absorbed
        } else {
            MtuLimit::Silent
        };
        Ok(PathMtu {
            bytes: found,
            limit,
            local_bytes: local,
            route_before,
            route_after,
            reported,
            fragments_pass,
            sized,
            small,
        })
    }

    /// Follows the search to its end.
    async fn drive(
        &mut self,
        direction: PathDirection,
        search: &mut Search,
    ) -> Result<u16, Failure> {
        let deadline = Instant::now() + DEADLINE;
        let mut pairs = 0;
        loop {
            let (size, count) = match search.next() {
                Next::Found(size) => return Ok(size),
                Next::Hopeless => return Err(self.undecided()),
                Next::Try { size, pairs } => (size, pairs),
            };
            if pairs >= MAX_PAIRS || Instant::now() > deadline {
                return Err(self.undecided());
            }
            let ask = match direction {
                PathDirection::Forward => Ask::Forward(size),
                PathDirection::Return => Ask::Return(size),
            };
            let volley = self.volley(ask, count, false).await?;
            pairs += u32::try_from(volley.pairs.len()).unwrap_or(u32::MAX);
            if let Some(mtu) = volley.refused_locally {
                search.refused_locally(mtu);
            }
            match self.there.take() {
                None | Some(Padding::AsAsked) => {}
                Some(Padding::TooBigHere) => match self.remote_local {
                    Some(mtu) if mtu < size => search.refused_locally(mtu),
                    _ => return Err(Failure(MeasureOutcome::BadReply)),
                },
                // A fresh token came with the answer; the pairs count, so that this ends.
                Some(Padding::NoToken) => continue,
                Some(Padding::Exhausted) => return Err(Failure(MeasureOutcome::Busy)),
                Some(Padding::NotSent) => return Err(Failure(MeasureOutcome::Undecided)),
            }
            let reported = match direction {
                PathDirection::Forward => self.reported,
                PathDirection::Return => self.remote_reported,
            };
            if let Some(reported) = reported {
                search.too_big(reported.mtu);
            }
            self.tell(direction, search, &volley, size);
        }
    }

    /// Tells the search what came of a volley, and which earlier sizes were answered meanwhile.
    fn tell(&mut self, direction: PathDirection, search: &mut Search, volley: &Volley, size: u16) {
        let answers: Vec<bool> = volley
            .pairs
            .iter()
            .map(|(sized, _)| self.is_answered(sized))
            .collect();
        let passes = answers.contains(&true);
        let refused = search.local() < size;
        for ((_, small), answered) in volley.pairs.iter().zip(answers) {
            let small = self.is_answered(small);
            if passes || refused {
                search.small(small);
            } else {
                search.silent(size, small);
            }
            let (sized, smalls) = self.tally.entry(direction).or_default();
            sized.sent += 1;
            sized.answered += u32::from(answered);
            smalls.sent += 1;
            smalls.answered += u32::from(small);
        }
        for ask in self.heard.drain(..) {
            match (ask, direction) {
                (Ask::Forward(size), PathDirection::Forward)
                | (Ask::Return(size), PathDirection::Return) => search.heard(size),
                _ => {}
            }
        }
    }

    /// Whether a packet of `local` bytes passes when routers may cut it.
    async fn fragments(
        &mut self,
        direction: PathDirection,
        found: u16,
        local: u16,
    ) -> Result<Option<bool>, Failure> {
        let ask = match direction {
            PathDirection::Forward => Ask::Forward(local),
            PathDirection::Return => Ask::Return(local),
        };
        self.heard.clear();
        if direction == PathDirection::Forward {
            set_fragmenting(&self.socket, self.ipv6, Fragmenting::Allowed)?;
        }
        let mut search = Search::new(found, local);
        let mut volleys = 0;
        let answer = loop {
            match search.next() {
                Next::Try { size, pairs } if size == local && volleys < 16 => {
                    volleys += 1;
                    let volley = self.volley(ask, pairs, true).await?;
                    if volley.refused_locally.is_some() || self.there.take().is_some() {
                        break None;
                    }
                    self.tell(direction, &mut search, &volley, local);
                }
                Next::Found(_) => break Some(true),
                Next::Try { size, .. } if size != local => break Some(false),
                Next::Try { .. } | Next::Hopeless => break None,
            }
        };
        set_fragmenting(&self.socket, self.ipv6, Fragmenting::Never)?;
        // Late answers to these say nothing of unfragmented packets.
        self.pending
            .retain(|_, pending| pending.answered || pending.ask != ask);
        Ok(answer)
    }

    fn undecided(&self) -> Failure {
        Failure(match self.wrong {
            Some(MeasureOutcome::WrongResponder) => MeasureOutcome::WrongResponder,
            _ => MeasureOutcome::Undecided,
        })
    }

    fn result(&self, direction: PathDirection, found: Result<PathMtu, Failure>) -> Measurement {
        match found {
            Ok(mtu) => Measurement {
                direction,
                outcome: MeasureOutcome::Ok,
                source_port: self.port,
                responder: self.responder.clone(),
                figure: Some(Figure::PathMtu(mtu)),
            },
            Err(Failure(outcome)) => Measurement {
                responder: self.responder.clone(),
                ..failed(direction, outcome, self.port)
            },
        }
    }
}

#[cfg(test)]
#[path = "path_mtu_tests.rs"]
mod tests;
