//! Sockets that behave badly on purpose.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};

/// Classic BPF: `ret #0`, which drops the packet.
fn drop_all() -> [SockFilter; 1] {
    [SockFilter::new(0x06, 0, 0, 0)]
}

/// Listens on IPv4 loopback.
pub fn listen4() -> Result<TcpListener> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?)
}

/// Listens on every address, IPv4 included.
pub fn listen_dual() -> Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into())?;
    socket.listen(128)?;
    Ok(socket.into())
}

/// A connected pair, and who closes how is the caller's matter.
pub fn pair(listener: &TcpListener, to: SocketAddr) -> Result<(TcpStream, TcpStream)> {
    let client = TcpStream::connect(to)?;
    Ok((client, listener.accept()?.0))
}

/// The same from a given source port.
pub fn pair_from(
    listener: &TcpListener,
    to: SocketAddr,
    port: u16,
) -> Result<(TcpStream, TcpStream)> {
    let client = bound(to, port)?;
    client.connect(&to.into())?;
    Ok((client.into(), listener.accept()?.0))
}

/// A socket for connections to `to`, bound to a port of ours.
pub fn bound(to: SocketAddr, port: u16) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    let own = match to {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    };
    socket.bind(&own.into())?;
    Ok(socket)
}

/// A socket that begins to connect and does not wait.
pub fn begin(to: SocketAddr) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    start(&socket, to)?;
    Ok(socket)
}

pub fn start(socket: &Socket, to: SocketAddr) -> Result<()> {
    socket.set_nonblocking(true)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(()) => anyhow::bail!("connected at once"),
    }
}

/// Makes a socket deaf: what is sent to it is dropped without a word.
pub fn deafen(socket: &impl AsSocket) -> Result<()> {
    socket.with(|socket| socket.attach_filter(&drop_all()))?;
    Ok(())
}

/// Makes it hear again.
pub fn undeafen(socket: &impl AsSocket) -> Result<()> {
    socket.with(Socket::detach_filter)?;
    Ok(())
}

/// What has a socket.
pub trait AsSocket {
    fn with<T>(&self, work: impl FnOnce(&Socket) -> io::Result<T>) -> io::Result<T>;
}

impl AsSocket for Socket {
    fn with<T>(&self, work: impl FnOnce(&Socket) -> io::Result<T>) -> io::Result<T> {
        work(self)
    }
}

impl AsSocket for TcpListener {
    fn with<T>(&self, work: impl FnOnce(&Socket) -> io::Result<T>) -> io::Result<T> {
        work(&self.try_clone()?.into())
    }
}

impl AsSocket for TcpStream {
    fn with<T>(&self, work: impl FnOnce(&Socket) -> io::Result<T>) -> io::Result<T> {
        work(&self.try_clone()?.into())
    }
}

/// Closes with a RST, and waits until the peer has it: a softirq that comes late would let the peer close first,
/// and then it was not reset.
pub fn reset(stream: TcpStream, peer: &TcpStream) -> Result<()> {
    let stream = Socket::from(stream);
    stream.set_linger(Some(Duration::ZERO))?;
    drop(stream);
    let error = wait_for_error(peer)?;
    ensure!(
        error.kind() == io::ErrorKind::ConnectionReset,
        "not reset: {error}"
    );
    Ok(())
}

/// Sends `count` bytes one way and reads them all at the other end.
pub fn transfer(from: &mut TcpStream, to: &mut TcpStream, count: usize) -> Result<()> {
    let mut left = count;
    let chunk = [7; 8192];
    let mut buffer = [0; 8192];
    while left > 0 {
        let part = left.min(chunk.len());
        from.write_all(&chunk[..part])?;
        to.read_exact(&mut buffer[..part])?;
        left -= part;
    }
    Ok(())
}

/// Ends the client's side first and waits for the server's end of stream.
pub fn half_close(client: TcpStream, server: TcpStream) -> Result<()> {
    client.shutdown(Shutdown::Write)?;
    at_end(&server)?;
    drop(server);
    at_end(&client)
}

/// Reads the end of the stream.
pub fn at_end(mut stream: &TcpStream) -> Result<()> {
    ensure!(stream.read(&mut [0; 1])? == 0, "data instead of the end");
    Ok(())
}

/// Waits for a socket's error, and until the kernel is through with what caused it: the error can be read a moment
/// before the state changes, and who closes in between has let go of a connection that had not failed yet.
pub fn wait_for_error(socket: &impl AsSocket) -> Result<io::Error> {
    let deadline = std::time::Instant::now() + super::PATIENCE;
    loop {
        if let Some(error) = socket.with(Socket::take_error)? {
            // Takes the socket's lock, which the kernel holds all that while.
            socket.with(|socket| socket.set_tcp_nodelay(true))?;
            return Ok(error);
        }
        ensure!(
            std::time::Instant::now() < deadline,
            "the socket has no error"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sees every TCP packet that arrives in this namespace, and can answer for a router.
pub struct Router {
    tcp: Socket,
    icmp: Socket,
}

impl Router {
    pub fn new() -> Result<Self> {
        let tcp = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP))?;
        tcp.set_read_timeout(Some(super::PATIENCE))?;
        let icmp = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
        Ok(Self { tcp, icmp })
    }

    /// Answers the next SYN to `port` with ICMP "host unreachable" (type 3, code 1).
    pub fn refuse_next_syn(&self, port: u16) -> Result<()> {
        const SYN: u8 = 0x02;
        loop {
            let mut buffer = [0; 256];
            let length = (&self.tcp).read(&mut buffer).context("wait for a SYN")?;
            let packet = &buffer[..length];
            let header = usize::from(packet[0] & 15) * 4;
            let tcp = &packet[header..];
            if u16::from_be_bytes([tcp[2], tcp[3]]) != port || tcp[13] & 0x17 != SYN {
                continue;
            }
            let mut message = vec![3, 1, 0, 0, 0, 0, 0, 0];
            message.extend_from_slice(&packet[..header + 8]);
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            let to = SockAddr::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
            self.icmp.send_to(&message, &to)?;
            return Ok(());
        }
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
