//! The system calls of the line that have no safe wrapper: attaching to a tun device and real-time scheduling.
#![allow(unsafe_code, reason = "ioctl on a tun device has no safe wrapper")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

/// Attaches to the tun device `name` without packet information, non-blocking. The device is created if missing.
pub(super) fn open_tun(name: &str) -> io::Result<File> {
    let mut request = interface_request(name)?;
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    // SAFETY: the descriptor is open, and TUNSETIFF reads and writes one `ifreq`, which `request` is.
    let done = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as _, &mut request) };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(tun)
    }
}

/// How many packets the kernel keeps for us while we are not running.
pub(super) fn set_queue_length(name: &str, packets: i32) -> io::Result<()> {
    let mut request = interface_request(name)?;
    request.ifr_ifru.ifru_metric = packets;
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0))
        .or_else(|_| std::net::UdpSocket::bind(("0.0.0.0", 0)))?;
    // SAFETY: the descriptor is open, and SIOCSIFTXQLEN reads one `ifreq`; `ifr_qlen` shares its place with `ifru_metric`.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFTXQLEN as _, &request) };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn interface_request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: `ifreq` is plain old data for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    if name.is_empty() || name.len() >= request.ifr_name.len() || name.contains('\0') {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "an interface name has 1 to 15 bytes",
        ));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

/// Puts the calling thread under SCHED_FIFO.
pub(super) fn set_fifo(priority: u8) -> io::Result<()> {
    crate::sys::set_scheduler(libc::SCHED_FIFO, priority)
}
