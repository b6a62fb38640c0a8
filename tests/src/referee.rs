//! The independent witness: reads SYN, RST and FIN segments off an interface with AF_PACKET and the
//! kernel's timestamps, and reconstructs connections from them. It shares nothing with the probe.
//! A capture that lost packets of its own is void: it proves neither agreement nor disagreement.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::netns::Netns;
use crate::sys::{Packet, PacketSocket};

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// Doubled by the kernel; room for about 200 000 waiting segments.
const BUFFER_BYTES: i32 = 128 << 20;

/// One segment that carried SYN, RST or FIN.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// CLOCK_REALTIME nanoseconds, by the kernel at the interface.
    pub stamp_ns: u64,
    pub outgoing: bool,
    pub source: SocketAddr,
    pub target: SocketAddr,
    pub flags: u8,
    pub sequence: u32,
    pub acknowledgement: u32,
}

/// A running capture at one interface.
pub struct Referee {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Capture>>,
}

/// What a finished capture saw.
#[derive(Debug)]
pub struct Capture {
    pub frames: Vec<Frame>,
    /// Segments the capture itself lost.
    pub dropped: u64,
}

impl Referee {
    /// Captures at `interface` inside `namespace`; when this returns, no later segment is missed.
    pub fn start(namespace: &Netns, interface: &str) -> Result<Self> {
        crate::stamping::keep_on()?;
        let mut socket = namespace
            .run(|| PacketSocket::open(interface, &control_segments(), BUFFER_BYTES))?
            .with_context(|| format!("capture at `{interface}` in `{}`", namespace.name()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("referee".into())
            .spawn(move || {
                let mut frames = Vec::new();
                let mut deadline = None;
                loop {
                    let count = socket.receive(|packet| frames.extend(decode(&packet)))?;
                    if stopping.load(Ordering::Relaxed) {
                        // What is queued is still read; traffic that never ends is not waited for.
                        let end = *deadline
                            .get_or_insert_with(|| Instant::now() + Duration::from_secs(3));
                        if count == 0 || Instant::now() > end {
                            let dropped = socket.dropped()?;
                            return Ok(Capture { frames, dropped });
                        }
                    }
                }
            })?;
        Ok(Self { stop, thread })
    }

    /// Drains the queue and ends the capture.
    pub fn stop(self) -> Result<Capture> {
        self.stop.store(true, Ordering::Relaxed);
        let capture = self
            .thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(capture)
    }
}

/// One connection attempt: a client's first SYN and everything that belongs to it.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub client: SocketAddr,
    pub server: SocketAddr,
    sequence: u32,
    /// Kernel stamps of the first SYN and the first SYN-ACK, and of the last SYN.
    pub syn_ns: u64,
    pub last_syn_ns: u64,
    pub syn_ack_ns: Option<u64>,
    pub syns: u32,
    pub syn_acks: u32,
    /// RST from the server before any SYN-ACK.
    pub refused: bool,
    /// RST segments after the SYN-ACK, by sender.
    pub resets_by_client: u32,
    pub resets_by_server: u32,
}

/// Totals over a capture. Segment counts are what crossed the wire, the rest counts attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub syn_segments: u64,
    pub syn_ack_segments: u64,
    pub rst_segments: u64,
    pub attempts: u64,
    /// Attempts with more than one SYN.
    pub retransmitted: u64,
    /// Attempts answered by a SYN-ACK.
    pub answered: u64,
    pub refused: u64,
    /// Answered attempts with at least one RST, by who sent the first kind seen.
    pub reset_by_client: u64,
    pub reset_by_server: u64,
    /// RST segments that fit no attempt.
    pub stray_resets: u64,
}

impl Capture {
    /// Fails when the capture is void.
    pub fn ensure_complete(&self) -> Result<()> {
        ensure!(
            self.dropped == 0,
            "void: the referee itself dropped {} segments (seen {})",
            self.dropped,
            self.frames.len()
        );
        Ok(())
    }

    pub fn attempts(&self) -> Vec<Attempt> {
        self.reconstruct().0
    }

    pub fn totals(&self) -> Totals {
        let (attempts, stray_resets) = self.reconstruct();
        let mut totals = Totals {
            stray_resets,
            attempts: attempts.len() as u64,
            ..Totals::default()
        };
        for frame in &self.frames {
            let (syn, ack) = (frame.flags & SYN != 0, frame.flags & ACK != 0);
            totals.syn_segments += u64::from(syn && !ack);
            totals.syn_ack_segments += u64::from(syn && ack);
            totals.rst_segments += u64::from(frame.flags & RST != 0);
        }
        for attempt in &attempts {
            totals.retransmitted += u64::from(attempt.syns > 1);
            totals.answered += u64::from(attempt.syn_ack_ns.is_some());
            totals.refused += u64::from(attempt.refused);
            totals.reset_by_client += u64::from(attempt.resets_by_client > 0);
            totals.reset_by_server +=
                u64::from(attempt.resets_by_client == 0 && attempt.resets_by_server > 0);
        }
        totals
    }

    fn reconstruct(&self) -> (Vec<Attempt>, u64) {
        let mut attempts: Vec<Attempt> = Vec::new();
        let mut latest: HashMap<(SocketAddr, SocketAddr), usize> = HashMap::new();
        let mut stray = 0;
        for frame in &self.frames {
            let forward = (frame.source, frame.target);
            let backward = (frame.target, frame.source);
            let (syn, ack) = (frame.flags & SYN != 0, frame.flags & ACK != 0);
            if frame.flags & RST != 0 {
                if let Some(attempt) = latest.get(&forward).map(|i| &mut attempts[*i]) {
                    attempt.resets_by_client += 1;
                } else if let Some(attempt) = latest.get(&backward).map(|i| &mut attempts[*i]) {
                    if attempt.syn_ack_ns.is_none() {
                        attempt.refused = true;
                    } else {
                        attempt.resets_by_server += 1;
                    }
                } else {
                    stray += 1;
                }
            } else if syn && !ack {
                if let Some(attempt) = latest.get(&forward).map(|i| &mut attempts[*i])
                    && attempt.sequence == frame.sequence
                {
                    attempt.syns += 1;
                    attempt.last_syn_ns = frame.stamp_ns;
                    continue;
                }
                latest.insert(forward, attempts.len());
                attempts.push(Attempt {
                    client: frame.source,
                    server: frame.target,
                    sequence: frame.sequence,
                    syn_ns: frame.stamp_ns,
                    last_syn_ns: frame.stamp_ns,
                    syn_ack_ns: None,
                    syns: 1,
                    syn_acks: 0,
                    refused: false,
                    resets_by_client: 0,
                    resets_by_server: 0,
                });
            } else if syn
                && let Some(attempt) = latest.get(&backward).map(|i| &mut attempts[*i])
                && frame.acknowledgement == attempt.sequence.wrapping_add(1)
            {
                attempt.syn_acks += 1;
                attempt.syn_ack_ns.get_or_insert(frame.stamp_ns);
            }
        }
        (attempts, stray)
    }
}

fn decode(packet: &Packet<'_>) -> Option<Frame> {
    let bytes = packet.bytes;
    let (source, target, tcp): (IpAddr, IpAddr, &[u8]) = match bytes.first()? >> 4 {
        4 => {
            let address = |at: usize| {
                Some(Ipv4Addr::from(
                    <[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?,
                ))
            };
            let header = usize::from(bytes[0] & 15) * 4;
            (
                address(12)?.into(),
                address(16)?.into(),
                bytes.get(header..)?,
            )
        }
        6 => {
            let address = |at: usize| {
                Some(Ipv6Addr::from(
                    <[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?,
                ))
            };
            (address(8)?.into(), address(24)?.into(), bytes.get(40..)?)
        }
        _ => return None,
    };
    let word = |at: usize| Some(u32::from_be_bytes(tcp.get(at..at + 4)?.try_into().ok()?));
    let ports = word(0)?;
    Some(Frame {
        stamp_ns: packet.stamp_ns,
        outgoing: packet.outgoing,
        source: SocketAddr::new(source, (ports >> 16) as u16),
        target: SocketAddr::new(target, ports as u16),
        flags: *tcp.get(13)?,
        sequence: word(4)?,
        acknowledgement: word(8)?,
    })
}

/// Classic BPF: unfragmented IPv4 or extension-free IPv6, TCP, any of SYN, RST, FIN.
fn control_segments() -> [libc::sock_filter; 17] {
    const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    const LOAD_HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
    const LOAD_BYTE_X: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_IND;
    const HEADER_X: u32 = libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH;
    const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const BITS: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    const FLAGS: u32 = (SYN | RST | FIN) as u32;
    // Targets are absolute here; the kernel wants distances from the next instruction.
    const ACCEPT: u8 = 15;
    const REJECT: u8 = 16;
    let program: [(u32, u8, u8, u32); 17] = [
        (LOAD_BYTE, 0, 0, 0),
        (AND, 0, 0, 0xf0),
        (EQUAL, 3, 10, 0x40),
        (LOAD_BYTE, 0, 0, 9),
        (EQUAL, 5, REJECT, 6),
        (LOAD_HALF, 0, 0, 6),
        (BITS, REJECT, 7, 0x1fff),
        (HEADER_X, 0, 0, 0),
        (LOAD_BYTE_X, 0, 0, 13),
        (BITS, ACCEPT, REJECT, FLAGS),
        (EQUAL, 11, REJECT, 0x60),
        (LOAD_BYTE, 0, 0, 6),
        (EQUAL, 13, REJECT, 6),
        (LOAD_BYTE, 0, 0, 40 + 13),
        (BITS, ACCEPT, REJECT, FLAGS),
        (RETURN, 0, 0, u32::MAX),
        (RETURN, 0, 0, 0),
    ];
    let mut at = 0_u8;
    program.map(|(code, yes, no, k)| {
        at += 1;
        libc::sock_filter {
            code: code as u16,
            jt: yes.saturating_sub(at),
            jf: no.saturating_sub(at),
            k,
        }
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::netns::{missing, skip, veth};

    #[test]
    fn sees_connections_refusals_and_resets_of_both_families() -> Result<()> {
        if skip(missing())? {
            return Ok(());
        }
        let (a, b) = (Netns::create("ref-a")?, Netns::create("ref-b")?);
        veth(
            (&a, "eth0", &["10.98.0.1/24", "fd98::1/64"]),
            (&b, "eth0", &["10.98.0.2/24", "fd98::2/64"]),
        )?;
        let referee = Referee::start(&a, "eth0")?;
        for address in ["10.98.0.2", "fd98::2"] {
            let address: IpAddr = address.parse()?;
            let listener = b.run(|| TcpListener::bind((address, 0)))??;
            let open = listener.local_addr()?;
            for round in 0..10 {
                let mut client = a.run(|| TcpStream::connect(open))??;
                let (mut server, _) = listener.accept()?;
                client.write_all(b"hello")?;
                server.read_exact(&mut [0; 5])?;
                if round % 2 == 0 {
                    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
                }
            }
            drop(listener);
            for _ in 0..3 {
                assert!(a.run(|| TcpStream::connect(open))?.is_err());
            }
        }
        let capture = referee.stop()?;
        capture.ensure_complete()?;
        let totals = capture.totals();
        let expected = Totals {
            syn_segments: 26,
            syn_ack_segments: 20,
            rst_segments: 16,
            attempts: 26,
            answered: 20,
            refused: 6,
            reset_by_client: 10,
            ..Totals::default()
        };
        assert_eq!(totals, expected);
        for attempt in capture.attempts() {
            if let Some(answer) = attempt.syn_ack_ns {
                assert!(answer > attempt.syn_ns, "{attempt:?}");
            }
        }
        Ok(())
    }

    #[test]
    fn says_when_it_lost_segments_itself() -> Result<()> {
        if skip(missing())? {
            return Ok(());
        }
        let (a, b) = (Netns::create("drop-a")?, Netns::create("drop-b")?);
        veth(
            (&a, "eth0", &["10.97.0.1/24"]),
            (&b, "eth0", &["10.97.0.2/24"]),
        )?;
        let socket = a.run(|| PacketSocket::open("eth0", &control_segments(), 1))??;
        let listener = b.run(|| TcpListener::bind("10.97.0.2:0"))??;
        let address = listener.local_addr()?;
        for _ in 0..50 {
            a.run(|| TcpStream::connect(address))??;
        }
        let capture = Capture {
            frames: Vec::new(),
            dropped: socket.dropped()?,
        };
        assert!(capture.dropped > 0);
        assert!(capture.ensure_complete().is_err());
        Ok(())
    }
}
