//! One message with descriptors over a unix socket. The safe crates at hand lose descriptors when a message was cut;
//! here each that the kernel installed has an owner before anything is judged.

use std::{
    io,
    mem::zeroed,
    os::fd::{AsFd, AsRawFd, FromRawFd as _, OwnedFd, RawFd},
};

/// Most descriptors of a message: the kernel's `SCM_MAX_FD`.
pub const MOST_DESCRIPTORS: usize = 253;

/// What came.
#[derive(Debug)]
pub struct Message {
    /// Length of the text; 0 also when the other side closed.
    pub bytes: usize,
    pub descriptors: Vec<OwnedFd>,
    /// Text or descriptors were more than there was room for, or more than this process may hold.
    pub cut: bool,
}

#[repr(C, align(8))]
struct Control([u8; 1088]);

// SAFETY: the macro only computes.
const _: () = assert!(
    unsafe { libc::CMSG_SPACE((MOST_DESCRIPTORS * size_of::<RawFd>()) as u32) } as usize
        <= size_of::<Control>()
);

/// Takes the next message of a socket, its text into `text`. Does not wait: `WouldBlock` if there is none.
pub fn receive(socket: impl AsFd, text: &mut [u8]) -> io::Result<Message> {
    let mut control = Control([0; 1088]);
    let mut iov = libc::iovec {
        iov_base: text.as_mut_ptr().cast(),
        iov_len: text.len(),
    };
    // SAFETY: zeroes are a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: every pointer of `message` is to a live buffer of the length that stands beside it.
    let received = unsafe {
        libc::recvmsg(
            socket.as_fd().as_raw_fd(),
            &mut message,
            libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC,
        )
    };
    let bytes = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    let mut descriptors = Vec::new();
    // SAFETY: `message` was filled by the kernel, so its control data is well-formed.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&message) };
    // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return null or a whole header inside `control`.
    while let Some(head) = unsafe { header.as_ref() } {
        if (head.cmsg_level, head.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: the macro only computes.
            let before = unsafe { libc::CMSG_LEN(0) } as usize;
            #[allow(clippy::unnecessary_cast, reason = "not so wide with musl")]
            let length = head.cmsg_len as usize;
            let count = length.saturating_sub(before) / size_of::<RawFd>();
            // SAFETY: the header is inside `control`, and its data follows it.
            let data = unsafe { libc::CMSG_DATA(header) }.cast::<RawFd>();
            descriptors.extend((0..count).map(|index| {
                // SAFETY: the kernel installed so many descriptors for us and wrote their numbers here; nobody else
                // knows them. The read needs no alignment.
                unsafe { OwnedFd::from_raw_fd(data.add(index).read_unaligned()) }
            }));
        }
        // SAFETY: as above.
        header = unsafe { libc::CMSG_NXTHDR(&message, header) };
    }
    Ok(Message {
        bytes,
        descriptors,
        cut: message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0,
    })
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
    use socket2::{Domain, Socket, Type};

    use super::*;

    fn pair() -> (Socket, Socket) {
        Socket::pair(Domain::UNIX, Type::SEQPACKET, None).unwrap()
    }

    fn send(socket: &Socket, text: &[u8], descriptors: &[RawFd]) {
        sendmsg::<UnixAddr>(
            socket.as_raw_fd(),
            &[IoSlice::new(text)],
            &[ControlMessage::ScmRights(descriptors)],
            MsgFlags::empty(),
            None,
        )
        .unwrap();
    }

    /// Whether the far end of `pipe` is still open somewhere.
    fn is_open(pipe: &OwnedFd) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::ZERO).unwrap();
        !fds[0].any().unwrap_or_default()
    }

    #[test]
    fn text_and_descriptors_come_together_and_dropping_them_closes_them() {
        let (a, b) = pair();
        let (reader, writer) = nix::unistd::pipe().unwrap();
        send(&a, b"hello", &[writer.as_raw_fd(); MOST_DESCRIPTORS]);
        drop(writer);
        let mut text = [0; 16];
        let message = receive(&b, &mut text).unwrap();
        assert_eq!(&text[..message.bytes], b"hello");
        assert_eq!(
            (message.descriptors.len(), message.cut),
            (MOST_DESCRIPTORS, false)
        );
        assert!(is_open(&reader));
        drop(message);
        assert!(!is_open(&reader), "a descriptor was lost");
    }

    #[test]
    fn a_message_that_is_too_long_is_cut_and_loses_no_descriptor() {
        let (a, b) = pair();
        let (reader, writer) = nix::unistd::pipe().unwrap();
        send(&a, b"hello", &[writer.as_raw_fd()]);
        drop(writer);
        let message = receive(&b, &mut [0; 2]).unwrap();
        assert!(message.cut && message.descriptors.len() == 1);
        drop(message);
        assert!(!is_open(&reader));
    }

    #[test]
    fn nothing_yet_and_nothing_more_are_told_apart() {
        let (a, b) = pair();
        let mut text = [0; 16];
        let error = receive(&b, &mut text).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(a);
        assert_eq!(receive(&b, &mut text).unwrap().bytes, 0);
    }
}
