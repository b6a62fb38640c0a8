//! Keeps the kernel stamping packets as they pass. It starts to only some time after the first socket asked, from a
//! work queue; until then a capture gets the moment of its own reading instead, milliseconds late on a busy machine.

use std::io::IoSliceMut;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt::ReceiveTimestampns,
};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

/// Asks for stamps until the process ends.
static KEEPER: Mutex<Option<UdpSocket>> = Mutex::new(None);

/// When this returns, every packet on the machine is stamped when it passes.
pub fn keep_on() -> Result<()> {
    let mut keeper = KEEPER.lock().unwrap_or_else(PoisonError::into_inner);
    if keeper.is_some() {
        return Ok(());
    }
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(socket.local_addr()?)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    setsockopt(&socket, ReceiveTimestampns, &true)?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while !stamped_on_the_way(&socket)? {
        ensure!(
            Instant::now() < deadline,
            "the kernel does not stamp packets after 10 s"
        );
    }
    *keeper = Some(socket);
    Ok(())
}

/// Reads a datagram some time after it arrived: its stamp is older than the reading, or it was made up then.
fn stamped_on_the_way(socket: &UdpSocket) -> Result<bool> {
    socket.send(b"?")?;
    std::thread::sleep(Duration::from_millis(2));
    let before = clock_gettime(ClockId::CLOCK_REALTIME)?;
    let mut byte = [0; 1];
    let mut buffer = [IoSliceMut::new(&mut byte)];
    let mut control = nix::cmsg_space!(TimeSpec);
    let message = recvmsg::<SockaddrIn>(
        socket.as_raw_fd(),
        &mut buffer,
        Some(&mut control),
        MsgFlags::empty(),
    )?;
    let stamp = message.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::ScmTimestampns(stamp) => Some(stamp),
        _ => None,
    });
    Ok(stamp.context("a datagram without a stamp")? < before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_made_on_the_way() -> Result<()> {
        keep_on()?;
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(socket.local_addr()?)?;
        setsockopt(&socket, ReceiveTimestampns, &true)?;
        for _ in 0..20 {
            assert!(stamped_on_the_way(&socket)?);
        }
        Ok(())
    }
}
