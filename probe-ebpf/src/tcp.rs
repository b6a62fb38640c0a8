//! Numbers of the kernel's ABI (`include/uapi/linux/bpf.h`): TCP states, sock_ops operations and flags.

pub const ESTABLISHED: u32 = 1;
pub const SYN_SENT: u32 = 2;
pub const SYN_RECV: u32 = 3;
pub const FIN_WAIT1: u32 = 4;
pub const FIN_WAIT2: u32 = 5;
pub const CLOSE: u32 = 7;
pub const CLOSE_WAIT: u32 = 8;
pub const LAST_ACK: u32 = 9;
pub const CLOSING: u32 = 11;

/// sock_ops operations that we handle.
pub mod op {
    pub const TIMEOUT_INIT: u32 = 1;
    pub const TCP_CONNECT: u32 = 3;
    pub const ACTIVE_ESTABLISHED: u32 = 4;
    pub const PASSIVE_ESTABLISHED: u32 = 5;
    pub const RTO: u32 = 8;
    pub const RETRANS: u32 = 9;
    pub const STATE: u32 = 10;
    pub const RTT: u32 = 12;
}

/// Callbacks that must be asked for, per socket: RTO, retransmit, state, RTT.
pub const CALLBACKS: u32 = 1 | 1 << 1 | 1 << 2 | 1 << 3;

pub const AF_INET: u32 = 2;
pub const SOCK_STREAM: u32 = 1;
pub const IPPROTO_TCP: u32 = 6;
