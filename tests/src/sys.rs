//! The test crate's only unsafe code: AF_PACKET sockets, which no maintained safe crate offers with
//! kernel timestamps and drop statistics, and a few process controls.
#![allow(
    unsafe_code,
    reason = "packet sockets and their control messages have no safe wrapper"
)]

use std::ffi::CString;
use std::io;
use std::mem::{MaybeUninit, size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Packets fetched by one system call.
const BATCH: usize = 64;
/// Bytes kept of each packet, from its network header on: IPv6 + TCP without options.
pub const SNAP: usize = 80;
const CONTROL: usize = 64;

/// One packet as the kernel handed it over.
pub struct Packet<'a> {
    /// From the network header on, at most [`SNAP`] bytes.
    pub bytes: &'a [u8],
    /// CLOCK_REALTIME nanoseconds of the kernel's own stamp.
    pub stamp_ns: u64,
    /// Sent by this machine through the interface, rather than received from it.
    pub outgoing: bool,
}

/// A packet socket bound to one interface of the calling thread's network namespace.
pub struct PacketSocket {
    fd: OwnedFd,
    batch: Box<Batch>,
}

struct Batch {
    data: [[u8; SNAP]; BATCH],
    control: [[u64; CONTROL / 8]; BATCH],
    from: [libc::sockaddr_ll; BATCH],
}

fn check(rc: libc::c_int) -> io::Result<libc::c_int> {
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(rc)
    }
}

fn set<T>(fd: &OwnedFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    })
    .map(drop)
}

impl PacketSocket {
    /// Opens a socket that sees only what `filter` (classic BPF, offset 0 = network header) lets pass.
    pub fn open(
        interface: &str,
        filter: &[libc::sock_filter],
        buffer_bytes: i32,
    ) -> io::Result<Self> {
        let name = CString::new(interface).map_err(io::Error::other)?;
        // SAFETY: `name` is a NUL-terminated string.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        // Protocol 0: nothing is queued before the filter is in place and the socket is bound.
        // SAFETY: plain system call; the result is checked before it becomes an `OwnedFd`.
        let fd = check(unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)
        })?;
        // SAFETY: `fd` was just returned by socket(2) and has no other owner.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let program = libc::sock_fprog {
            len: filter.len() as u16,
            filter: filter.as_ptr().cast_mut(),
        };
        set(&fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)?;
        set(&fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &buffer_bytes)?;
        set(&fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &1_i32)?;
        let timeout = libc::timeval {
            tv_sec: 0,
            tv_usec: 20_000,
        };
        set(&fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &timeout)?;
        // SAFETY: all-zero is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index as i32;
        // SAFETY: pointer and length describe `address`.
        check(unsafe {
            libc::bind(
                fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        })?;
        // SAFETY: all fields are integers, for which zero is valid.
        let batch = Box::new(unsafe { zeroed::<Batch>() });
        Ok(Self { fd, batch })
    }

    /// Waits up to 20 ms and hands every packet of one batch to `each`; returns how many there were.
    pub fn receive(&mut self, mut each: impl FnMut(Packet<'_>)) -> io::Result<usize> {
        let batch = &mut *self.batch;
        let mut vectors: [MaybeUninit<libc::iovec>; BATCH] = [MaybeUninit::uninit(); BATCH];
        // SAFETY: mmsghdr consists of integers and nullable pointers.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        for i in 0..BATCH {
            let vector = vectors[i].write(libc::iovec {
                iov_base: batch.data[i].as_mut_ptr().cast(),
                iov_len: SNAP,
            });
            let header = &mut messages[i].msg_hdr;
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            header.msg_name = (&raw mut batch.from[i]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            header.msg_control = batch.control[i].as_mut_ptr().cast();
            header.msg_controllen = CONTROL as _;
        }
        // SAFETY: every header points at buffers of `batch` and `vectors`, which outlive the call and
        // are disjoint; the lengths are those of the buffers.
        let received = unsafe {
            libc::recvmmsg(
                self.fd.as_raw_fd(),
                messages.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_WAITFORONE as _,
                std::ptr::null_mut(),
            )
        };
        if received < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
                _ => Err(error),
            };
        }
        for (i, message) in messages.iter().enumerate().take(received as usize) {
            each(Packet {
                bytes: &batch.data[i][..(message.msg_len as usize).min(SNAP)],
                stamp_ns: stamp(&message.msg_hdr)?,
                outgoing: batch.from[i].sll_pkttype == libc::PACKET_OUTGOING,
            });
        }
        Ok(received as usize)
    }

    /// Packets that passed the filter but found no room since the last call.
    pub fn dropped(&self) -> io::Result<u64> {
        let mut stats = libc::tpacket_stats {
            tp_packets: 0,
            tp_drops: 0,
        };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: pointer and length describe `stats`.
        check(unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut length,
            )
        })?;
        Ok(u64::from(stats.tp_drops))
    }
}

fn stamp(header: &libc::msghdr) -> io::Result<u64> {
    // SAFETY: `header` was filled by recvmmsg over a control buffer that is still alive and aligned
    // to 8 bytes; the CMSG macros stay within `msg_controllen`.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            if (*message).cmsg_level == libc::SOL_SOCKET
                && (*message).cmsg_type == libc::SCM_TIMESTAMPNS
            {
                let time: libc::timespec = libc::CMSG_DATA(message)
                    .cast::<libc::timespec>()
                    .read_unaligned();
                return Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64);
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    Err(io::Error::other("packet without a kernel timestamp"))
}

/// bpf(2) commands and the layout of their arguments, as far as hand-assembled programs need them.
mod bpf {
    pub(super) const MAP_CREATE: libc::c_long = 0;
    pub(super) const PROG_LOAD: libc::c_long = 5;
    pub(super) const PROG_QUERY: libc::c_long = 16;
    pub(super) const LINK_CREATE: libc::c_long = 28;

    #[repr(C)]
    pub(super) struct ProgLoad {
        pub prog_type: u32,
        pub insn_cnt: u32,
        pub insns: u64,
        pub license: u64,
        pub log: [u32; 4],
        pub kern_version: u32,
        pub prog_flags: u32,
        pub name: [u8; 16],
        pub ifindex: u32,
        pub expected_attach_type: u32,
    }

    #[repr(C)]
    pub(super) struct MapCreate {
        pub map_type: u32,
        pub key_size: u32,
        pub value_size: u32,
        pub max_entries: u32,
    }

    #[repr(C)]
    pub(super) struct ProgQuery {
        pub target_fd: u32,
        pub attach_type: u32,
        pub query_flags: u32,
        pub attach_flags: u32,
        pub prog_ids: u64,
        pub prog_cnt: u32,
        pub padding: u32,
    }

    #[repr(C)]
    pub(super) struct LinkCreate {
        pub prog_fd: u32,
        pub target_fd: u32,
        pub attach_type: u32,
        pub flags: u32,
    }
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: pointer and size describe `attributes`; what it points at outlives the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all three commands return a new descriptor without another owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Makes the smallest of all maps, an array of one word.
pub fn create_map() -> io::Result<OwnedFd> {
    const ARRAY: u32 = 2;
    bpf(
        bpf::MAP_CREATE,
        &bpf::MapCreate {
            map_type: ARRAY,
            key_size: 4,
            value_size: 4,
            max_entries: 1,
        },
    )
}

/// How many programs of one attach type are attached to the cgroup itself.
pub fn attached_programs(cgroup: &impl AsRawFd, attach_type: u32) -> io::Result<u32> {
    let mut query = bpf::ProgQuery {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: 0,
        prog_cnt: 0,
        padding: 0,
    };
    // SAFETY: pointer and size describe `query`, into which the kernel writes the count.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            bpf::PROG_QUERY,
            &raw mut query,
            size_of::<bpf::ProgQuery>(),
        )
    };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(query.prog_cnt)
}

/// Programs attached to the cgroup itself, of every kind that the probe has.
pub fn attached_everywhere(cgroup: &impl AsRawFd) -> io::Result<u32> {
    /// Ingress, egress, sock_ops, connect4, connect6, sock_release of linux/bpf.h.
    const KINDS: [u32; 6] = [0, 1, 3, 10, 11, 34];
    let mut sum = 0;
    for kind in KINDS {
        sum += attached_programs(cgroup, kind)?;
    }
    Ok(sum)
}

/// Loads a program given as raw instructions.
pub fn load_program(
    name: &str,
    prog_type: u32,
    expected_attach_type: u32,
    instructions: &[u64],
) -> io::Result<OwnedFd> {
    let mut padded = [0; 16];
    for (to, from) in padded.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    bpf(
        bpf::PROG_LOAD,
        &bpf::ProgLoad {
            prog_type,
            insn_cnt: instructions.len() as u32,
            insns: instructions.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            log: [0; 4],
            kern_version: 0,
            prog_flags: 0,
            name: padded,
            ifindex: 0,
            expected_attach_type,
        },
    )
}

/// Attaches a program to a cgroup for as long as the result lives.
pub fn link_to_cgroup(
    program: &OwnedFd,
    cgroup: &std::fs::File,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    bpf(
        bpf::LINK_CREATE,
        &bpf::LinkCreate {
            prog_fd: program.as_raw_fd() as u32,
            target_fd: cgroup.as_raw_fd() as u32,
            attach_type,
            flags: 0,
        },
    )
}

/// Attaches a program to a cgroup the old way and for itself alone, until the cgroup is gone.
pub fn attach_exclusively(
    program: &OwnedFd,
    cgroup: &std::fs::File,
    attach_type: u32,
) -> io::Result<()> {
    const PROG_ATTACH: libc::c_long = 8;
    // target_fd, attach_bpf_fd, attach_type, attach_flags: no "multi", no "override".
    let attributes = [
        cgroup.as_raw_fd() as u32,
        program.as_raw_fd() as u32,
        attach_type,
        0,
    ];
    // SAFETY: pointer and size describe `attributes`, integers only.
    check(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_ATTACH,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    } as i32)
    .map(drop)
}

/// Sets IP_MTU_DISCOVER or its IPv6 twin to one of `libc::IP_PMTUDISC_*`, which both share.
pub fn set_mtu_discovery(socket: &std::net::UdpSocket, mode: i32) -> io::Result<()> {
    let (level, name) = if socket.local_addr()?.is_ipv6() {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER)
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER)
    };
    // SAFETY: the descriptor is open, and the option is an int, which `mode` is.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const mode).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// What the kernel now believes of the path of a connected socket: IP_MTU or IPV6_MTU.
pub fn path_mtu(socket: &std::net::UdpSocket) -> io::Result<i32> {
    let (level, name) = if socket.local_addr()?.is_ipv6() {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU)
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU)
    };
    let (mut mtu, mut length) = (0_i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: the descriptor is open, the option is an int, and `length` says so.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw mut mtu).cast(),
            &raw mut length,
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(mtu)
    }
}

/// Has the process that `command` starts killed when the thread that starts it ends.
pub fn die_with_starter(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;

    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            check(libc::prctl(
                libc::PR_SET_PDEATHSIG,
                libc::SIGKILL as libc::c_ulong,
            ))
            .map(drop)
        });
    }
}
