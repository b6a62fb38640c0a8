//! One probe on its way: opening its socket, and what an event on it leads to.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use mesh::observation::{Outcome, ProbeKind, Sample};
use mio::net::{TcpStream, UdpSocket};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::exchange::{Answer, Exchange};
use super::outcome::{Stage, is_port_taken, of_error};
use super::ports::Ports;
use super::schedule::Due;

/// Ports tried for one probe.
const PORT_ATTEMPTS: u32 = 64;

#[derive(Debug)]
pub(super) enum Wire {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

/// A socket that has sent its SYN, or is ready to send its datagram.
pub(super) struct Opened {
    pub wire: Wire,
    pub port: u16,
    /// Right before `connect`.
    pub sent: Instant,
}

/// Why no socket came of it.
pub(super) struct NotOpened {
    pub outcome: Outcome,
    pub port: u16,
    pub sent: Instant,
}

/// Opens a socket towards `target` from a new port of the reserved range. The second value counts taken ports.
pub(super) fn open(
    kind: ProbeKind,
    target: SocketAddr,
    ports: &mut Ports,
) -> (Result<Opened, NotOpened>, u64) {
    if target.ip().is_unspecified() {
        // The agent's own resolv.conf names no resolver.
        let failure = NotOpened {
            outcome: Outcome::LocalError,
            port: 0,
            sent: Instant::now(),
        };
        return (Err(failure), 0);
    }
    let mut taken = 0;
    let mut failure = None;
    for _ in 0..PORT_ATTEMPTS {
        let port = ports.take();
        match open_from(kind, target, port) {
            Ok(opened) => return (Ok(opened), taken),
            Err((error, sent)) if is_port_taken(&error) => {
                taken += 1;
                failure = Some(NotOpened {
                    outcome: Outcome::LocalError,
                    port,
                    sent,
                });
            }
            Err((error, sent)) => {
                let outcome = of_error(&error, Stage::Connecting);
                return (
                    Err(NotOpened {
                        outcome,
                        port,
                        sent,
                    }),
                    taken,
                );
            }
        }
    }
    let failure = failure.unwrap_or_else(|| NotOpened {
        outcome: Outcome::LocalError,
        port: 0,
        sent: Instant::now(),
    });
    (Err(failure), taken)
}

fn open_from(
    kind: ProbeKind,
    target: SocketAddr,
    port: u16,
) -> Result<Opened, (io::Error, Instant)> {
    let udp = matches!(kind, ProbeKind::Udp | ProbeKind::Dns);
    let (socket_type, protocol) = if udp {
        (Type::DGRAM, Protocol::UDP)
    } else {
        (Type::STREAM, Protocol::TCP)
    };
    let any = match target {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let prepare = || -> io::Result<Socket> {
        let socket = Socket::new(
            Domain::for_address(target),
            socket_type.nonblocking().cloexec(),
            Some(protocol),
        )?;
        if target.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        if !udp {
            // Closing resets: a probe leaves no TIME_WAIT, which would use up the reserved range.
            socket.set_linger(Some(Duration::ZERO))?;
            socket.set_tcp_nodelay(true)?;
        }
        socket.bind(&SockAddr::from(SocketAddr::new(any, port)))?;
        Ok(socket)
    };
    let socket = prepare().map_err(|error| (error, Instant::now()))?;
    let address = SockAddr::from(target);
    let sent = Instant::now();
    match socket.connect(&address) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EINPROGRESS as i32) => {}
        Err(error) => return Err((error, sent)),
    }
    let wire = if udp {
        Wire::Udp(UdpSocket::from_std(socket.into()))
    } else {
        Wire::Tcp(TcpStream::from_std(socket.into()))
    };
    Ok(Opened { wire, port, sent })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Connecting,
    /// Bytes of the request that are written.
    Sending(usize),
    Receiving,
}

/// One probe whose outcome is not known yet.
pub(super) struct Flight {
    pub job: u64,
    pub due: Due,
    pub wire: Wire,
    pub starved: bool,
    /// How long the thread was away while this probe was in flight.
    pub stalled: Duration,
    pub strays: u64,
    port: u16,
    state: State,
    exchange: Exchange,
    received: Vec<u8>,
    sent: Instant,
    sent_ns: u64,
    delay_ns: u64,
    connect_ns: Option<u64>,
    /// When the request began to leave.
    asked: Option<Instant>,
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Flight {
    pub(super) fn new(
        job: u64,
        due: Due,
        opened: Opened,
        exchange: Exchange,
        sent_ns: u64,
        delay_ns: u64,
    ) -> Self {
        let state = match opened.wire {
            Wire::Tcp(_) => State::Connecting,
            Wire::Udp(_) => State::Sending(0),
        };
        Self {
            job,
            due,
            wire: opened.wire,
            starved: false,
            stalled: Duration::ZERO,
            strays: 0,
            port: opened.port,
            state,
            exchange,
            received: Vec::new(),
            sent: opened.sent,
            sent_ns,
            delay_ns,
            connect_ns: None,
            asked: None,
        }
    }

    /// Sends the datagram of a UDP probe. Its send time is taken here.
    pub(super) fn send_datagram(&mut self) -> Option<Sample> {
        let Wire::Udp(socket) = &self.wire else {
            return None;
        };
        let now = Instant::now();
        let sent = socket.send(&self.exchange.request);
        self.asked = Some(now);
        self.state = State::Receiving;
        match sent {
            Ok(_) => None,
            Err(error) => Some(self.failed(of_error(&error, Stage::Connecting))),
        }
    }

    /// What an event that was seen at `woke` leads to: the sample, if the probe is over.
    pub(super) fn ready(&mut self, woke: Instant) -> Option<Sample> {
        if self.state == State::Connecting {
            if let Some(over) = self.connected(woke) {
                return over.map(|outcome| self.failed(outcome));
            }
            if self.exchange.request.is_empty() {
                let answer = self.exchange.judge(&[], false)?;
                return Some(self.sample(answer, None));
            }
            // Bytes that are there before the question are no answer to it. What comes after this read makes a
            // new event, so the answer's time is always taken after the question's.
            if let Some(outcome) = self.spoken_to() {
                return Some(self.failed(outcome));
            }
            return self.ask(0);
        }
        if let State::Sending(written) = self.state
            && let Some(sample) = self.ask(written)
        {
            return Some(sample);
        }
        match &self.wire {
            Wire::Tcp(_) => self.read_stream(woke),
            Wire::Udp(_) => self.read_datagrams(woke),
        }
    }

    /// `None`: connected. `Some(None)`: not yet. `Some(Some(_))`: it failed.
    fn connected(&mut self, woke: Instant) -> Option<Option<Outcome>> {
        let Wire::Tcp(stream) = &self.wire else {
            return None;
        };
        match stream.take_error() {
            Ok(Some(error)) | Err(error) => return Some(Some(of_error(&error, Stage::Connecting))),
            Ok(None) => {}
        }
        match stream.peer_addr() {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotConnected => return Some(None),
            Err(error) => return Some(Some(of_error(&error, Stage::Connecting))),
        }
        self.connect_ns = Some(nanos(woke.saturating_duration_since(self.sent)));
        self.state = State::Sending(0);
        // Acknowledge at once, so that the acceptor's kernel measures the path and not our delayed ACK.
        let _ = SockRef::from(stream).set_tcp_quickack(true);
        None
    }

    /// How the probe ends when the peer has spoken first, or hung up.
    fn spoken_to(&mut self) -> Option<Outcome> {
        let Wire::Tcp(stream) = &mut self.wire else {
            return None;
        };
        match stream.read(&mut [0; 1]) {
            Ok(_) => Some(Outcome::BadReply),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => Some(of_error(&error, Stage::Exchanging)),
        }
    }

    /// Writes what is left of the request: the sample, if that fails.
    fn ask(&mut self, written: usize) -> Option<Sample> {
        let error = self.write(written).err()?;
        Some(self.failed(of_error(&error, Stage::Exchanging)))
    }

    fn write(&mut self, mut written: usize) -> io::Result<()> {
        let Wire::Tcp(stream) = &mut self.wire else {
            return Ok(());
        };
        if self.asked.is_none() {
            self.asked = Some(Instant::now());
        }
        while written < self.exchange.request.len() {
            match stream.write(&self.exchange.request[written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => written += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.state = State::Sending(written);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.state = State::Receiving;
        Ok(())
    }

    fn read_stream(&mut self, woke: Instant) -> Option<Sample> {
        let Wire::Tcp(stream) = &mut self.wire else {
            return None;
        };
        let mut chunk = [0; 4_096];
        let mut eof = false;
        let before = self.received.len();
        while self.received.len() <= self.exchange.most {
            match stream.read(&mut chunk) {
                Ok(0) => {
                    eof = true;
                    break;
                }
                Ok(n) => self.received.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Some(self.failed(of_error(&error, Stage::Exchanging))),
            }
        }
        if self.received.len() == before && !eof {
            return None;
        }
        let answer = self.exchange.judge(&self.received, eof)?;
        Some(self.sample(answer, Some(woke)))
    }

    fn read_datagrams(&mut self, woke: Instant) -> Option<Sample> {
        let Wire::Udp(socket) = &self.wire else {
            return None;
        };
        let mut datagram = [0; 2_048];
        loop {
            match socket.recv(&mut datagram) {
                Ok(n) => match self.exchange.judge(&datagram[..n], true) {
                    Some(answer) if answer.outcome != Outcome::BadReply => {
                        return Some(self.sample(answer, Some(woke)));
                    }
                    // Anybody can send us a datagram; the right one may still come.
                    _ => self.strays += 1,
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Some(self.failed(of_error(&error, Stage::Exchanging))),
            }
        }
    }

    /// The deadline has passed.
    pub(super) fn expired(&self) -> Sample {
        let mut sample = self.failed(if self.strays > 0 {
            Outcome::BadReply
        } else {
            Outcome::Timeout
        });
        // In two seconds some short stall nearly always happens; it cannot have hidden the answer.
        sample.starved = 4 * self.stalled > self.sent.elapsed();
        sample
    }

    fn failed(&self, outcome: Outcome) -> Sample {
        let answer = Answer {
            outcome,
            responder: None,
            receiver_count: None,
        };
        self.sample(answer, None)
    }

    fn sample(&self, answer: Answer, answered: Option<Instant>) -> Sample {
        let round_trip = match (self.asked, answered) {
            (Some(asked), Some(answered)) if answer.outcome == Outcome::Ok => {
                Some(answered.saturating_duration_since(asked))
            }
            _ => None,
        };
        Sample {
            sequence: self.due.sequence,
            source_port: self.port,
            sent_ns: self.sent_ns,
            delay_ns: self.delay_ns,
            outcome: answer.outcome,
            connect_ns: self.connect_ns,
            round_trip_ns: round_trip.map(nanos),
            responder: answer.responder,
            receiver_count: answer.receiver_count,
            starved: self.starved,
        }
    }
}
