//! Socket options that no safe crate offers: fragmentation, the error queue, what TCP knows of a connection.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::ptr::{from_mut, from_ref};

use socket2::SockAddr;

/// What may happen to a packet that is too big for a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragmenting {
    /// As the kernel does by itself, by what it knows of the path.
    Usual,
    /// "Don't fragment", whatever MTU the kernel has learnt of the path; only the interface's own limits.
    Never,
    /// IPv4 routers may cut it.
    Allowed,
}

fn set(fd: RawFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: `value` outlives the call and the length is its own.
    let result = unsafe {
        libc::setsockopt(
            fd,
            level,
            option,
            from_ref(&value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// How datagrams are sent from now on.
pub fn set_fragmenting(socket: impl AsFd, ipv6: bool, how: Fragmenting) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    if ipv6 {
        let (discover, dont) = match how {
            Fragmenting::Usual => (libc::IPV6_PMTUDISC_WANT, 0),
            Fragmenting::Never => (libc::IPV6_PMTUDISC_PROBE, 1),
            Fragmenting::Allowed => (libc::IPV6_PMTUDISC_OMIT, 0),
        };
        set(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, discover)?;
        set(fd, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, dont)
    } else {
        let discover = match how {
            Fragmenting::Usual => libc::IP_PMTUDISC_WANT,
            Fragmenting::Never => libc::IP_PMTUDISC_PROBE,
            Fragmenting::Allowed => libc::IP_PMTUDISC_OMIT,
        };
        set(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, discover)
    }
}

/// Has errors queued with their details, for [`next_error`].
pub fn queue_errors(socket: impl AsFd, ipv6: bool) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    if ipv6 {
        set(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)
    } else {
        set(fd, libc::IPPROTO_IP, libc::IP_RECVERR, 1)
    }
}

/// Bytes that may wait unsent in a TCP socket; more would blur when they were sent.
pub fn set_unsent_limit(socket: impl AsFd, bytes: i32) -> io::Result<()> {
    set(
        socket.as_fd().as_raw_fd(),
        libc::IPPROTO_TCP,
        libc::TCP_NOTSENT_LOWAT,
        bytes,
    )
}

/// How often a listening socket answers a SYN again while the handshake is not over: what is half open after that it forgets.
pub fn set_syn_ack_retries(socket: impl AsFd, times: i32) -> io::Result<()> {
    set(
        socket.as_fd().as_raw_fd(),
        libc::IPPROTO_TCP,
        libc::TCP_SYNCNT,
        times,
    )
}

fn get<T: Copy>(fd: RawFd, level: i32, option: i32, value: &mut T) -> io::Result<usize> {
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `value`; callers ask for plain numbers and bytes.
    let result =
        unsafe { libc::getsockopt(fd, level, option, from_mut(value).cast(), &mut length) };
    if result == 0 {
        Ok(length as usize)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The MTU that the kernel knows for the route of a connected socket: the interface's, the route's, or what was learnt.
pub fn route_mtu(socket: impl AsFd, ipv6: bool) -> io::Result<u32> {
    let (level, option) = if ipv6 {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU)
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU)
    };
    let mut mtu = 0_i32;
    get(socket.as_fd().as_raw_fd(), level, option, &mut mtu)?;
    u32::try_from(mtu).map_err(io::Error::other)
}

/// What the kernel says of a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpInfo {
    pub retransmits: u32,
    /// Payload that the peer has acknowledged.
    pub bytes_acked: u64,
    /// µs; `None` before the first sample.
    pub min_rtt_us: Option<u32>,
}

/// Offsets of `struct tcp_info`, which is kernel ABI and only ever grows.
const TOTAL_RETRANS: usize = 100;
const BYTES_ACKED: usize = 120;
const MIN_RTT: usize = 148;

fn parse(info: &[u8]) -> Option<TcpInfo> {
    let word = |at: usize| Some(u32::from_ne_bytes(info.get(at..at + 4)?.try_into().ok()?));
    let bytes_acked = info.get(BYTES_ACKED..BYTES_ACKED + 8)?.try_into().ok()?;
    Some(TcpInfo {
        retransmits: word(TOTAL_RETRANS)?,
        bytes_acked: u64::from_ne_bytes(bytes_acked),
        min_rtt_us: word(MIN_RTT).filter(|rtt| *rtt != u32::MAX && *rtt != 0),
    })
}

pub fn tcp_info(socket: impl AsFd) -> io::Result<TcpInfo> {
    let mut bytes = [0_u8; 192];
    let fd = socket.as_fd().as_raw_fd();
    let length = get(fd, libc::IPPROTO_TCP, libc::TCP_INFO, &mut bytes)?;
    parse(&bytes[..length.min(bytes.len())])
        .ok_or_else(|| io::Error::other("this kernel's `tcp_info` is too short"))
}

/// One entry of a socket's error queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuedError {
    pub errno: i32,
    /// From the local stack, not from the network.
    pub local: bool,
    /// For EMSGSIZE: the MTU that was exceeded.
    pub mtu: u32,
    /// Where the datagram was going.
    pub peer: Option<SocketAddr>,
    /// Who sent the ICMP error.
    pub hop: Option<IpAddr>,
}

#[repr(C, align(8))]
struct Control([u8; 512]);

/// The oldest queued error, if any; never waits.
pub fn next_error(socket: impl AsFd) -> Option<QueuedError> {
    let fd = socket.as_fd().as_raw_fd();
    let mut control = Control([0; 512]);
    let mut quoted = [0_u8; 64];
    let mut iov = libc::iovec {
        iov_base: quoted.as_mut_ptr().cast(),
        iov_len: quoted.len(),
    };
    // SAFETY: zeroes are a valid `msghdr` and a valid `sockaddr_storage`.
    let (mut message, mut name): (libc::msghdr, libc::sockaddr_storage) =
        unsafe { (zeroed(), zeroed()) };
    message.msg_name = from_mut(&mut name).cast();
    message.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    message.msg_iov = &mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: every pointer of `message` is to a live buffer of the length that stands beside it.
    let received =
        unsafe { libc::recvmsg(fd, &mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) };
    if received < 0 {
        return None;
    }
    let mut found = None;
    // SAFETY: `message` was filled by the kernel, so its control data is well-formed.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&message) };
    // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return null or a whole header inside `control`.
    while let Some(head) = unsafe { header.as_ref() } {
        let kind = (head.cmsg_level, head.cmsg_type);
        if kind == (libc::IPPROTO_IP, libc::IP_RECVERR)
            || kind == (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
        {
            // SAFETY: the kernel puts a `sock_extended_err` and a `sockaddr_in6`-sized offender there for both
            // families; the buffer is larger than both together.
            found = Some(unsafe { extended(libc::CMSG_DATA(header)) });
        }
        // SAFETY: as above.
        header = unsafe { libc::CMSG_NXTHDR(&message, header) };
    }
    let (error, hop) = found?;
    let peer = (message.msg_namelen > 0)
        // SAFETY: the kernel wrote `msg_namelen` bytes of an address into `name`.
        .then(|| unsafe { address(from_ref(&name).cast()) })
        .flatten();
    Some(QueuedError {
        errno: i32::try_from(error.ee_errno).unwrap_or(0),
        local: error.ee_origin == libc::SO_EE_ORIGIN_LOCAL,
        mtu: error.ee_info,
        peer,
        hop: hop.map(|hop| hop.ip().to_canonical()),
    })
}

/// # Safety
/// `data` must point to a `sock_extended_err` followed by the offender's address, or zeroes.
unsafe fn extended(data: *const u8) -> (libc::sock_extended_err, Option<SocketAddr>) {
    // SAFETY: by the contract; the reads need no alignment.
    unsafe {
        let error = data.cast::<libc::sock_extended_err>().read_unaligned();
        let offender = data.add(size_of::<libc::sock_extended_err>());
        (error, address(offender))
    }
}

/// # Safety
/// `at` must point to a socket address of its own family's length.
unsafe fn address(at: *const u8) -> Option<SocketAddr> {
    // SAFETY: by the contract.
    let family = unsafe { at.cast::<libc::sa_family_t>().read_unaligned() };
    let length = match i32::from(family) {
        libc::AF_INET => size_of::<libc::sockaddr_in>(),
        libc::AF_INET6 => size_of::<libc::sockaddr_in6>(),
        _ => return None,
    };
    // SAFETY: zeroes are a valid `sockaddr_storage`, which is larger than both families' addresses; `length` bytes are
    // there by the contract.
    let storage = unsafe {
        let mut storage: socket2::SockAddrStorage = zeroed();
        std::ptr::copy_nonoverlapping(at, from_mut(&mut storage).cast::<u8>(), length);
        SockAddr::new(storage, length as libc::socklen_t)
    };
    storage.as_socket()
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    fn pair(ip: &str) -> (UdpSocket, UdpSocket) {
        let ip: IpAddr = ip.parse().unwrap();
        let (a, b) = (
            UdpSocket::bind((ip, 0)).unwrap(),
            UdpSocket::bind((ip, 0)).unwrap(),
        );
        a.connect(b.local_addr().unwrap()).unwrap();
        (a, b)
    }

    #[test]
    fn a_refused_datagram_is_told_with_its_peer() {
        for ip in ["127.0.0.1", "::1"] {
            let (a, b) = pair(ip);
            let gone = b.local_addr().unwrap();
            drop(b);
            queue_errors(&a, gone.is_ipv6()).unwrap();
            assert_eq!(next_error(&a), None);
            a.send(b"x").unwrap();
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
            let error = loop {
                if let Some(error) = next_error(&a) {
                    break error;
                }
                assert!(std::time::Instant::now() < deadline, "no error queued");
                std::thread::yield_now();
            };
            assert_eq!(error.errno, libc::ECONNREFUSED);
            assert_eq!((error.peer, error.hop), (Some(gone), Some(gone.ip())));
            assert!(!error.local);
        }
    }

    #[test]
    fn a_connection_knows_what_was_acknowledged() {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut a = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut b, _) = listener.accept().unwrap();
        a.write_all(&[7; 1_000]).unwrap();
        b.read_exact(&mut [0; 1_000]).unwrap();
        b.write_all(&[7]).unwrap();
        a.read_exact(&mut [0; 1]).unwrap();
        let info = tcp_info(&a).unwrap();
        // The SYN counts as one on some kernels.
        assert!((1_000..=1_001).contains(&info.bytes_acked), "{info:?}");
        assert!(info.min_rtt_us.is_some());
        assert_eq!(info.retransmits, 0);
        assert_eq!(parse(&[0; 100]), None);
    }
}
