//! What is counted: per series, and once for the whole probe.

macro_rules! counters {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// All of them, in the order of their index.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Stable snake_case name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

counters! {
    /// Counters of one series; index into [`crate::Slot::counters`].
    ///
    /// For initiators `attempts = established + the six failed_* − failed_local + connecting now`,
    /// and the SYN segments sent are `attempts + syn_retransmits`. A local failure sends no SYN.
    /// Open connections are `established + adopted − closed`.
    Counter {
        /// Initiator: first SYNs handed to IP. Acceptor: always 0.
        Attempts = "attempts",
        /// Connections that reached ESTABLISHED.
        Established = "established",
        /// Of those, the ones whose SYN (initiator) or SYN-ACK (acceptor) was sent more than once.
        EstablishedAfterRetransmit = "established_after_retransmit",
        /// SYN (initiator) or SYN-ACK (acceptor, connections that were established) segments sent again.
        SynRetransmits = "syn_retransmits",
        /// RST in answer to the SYN.
        FailedRefused = "failed_refused",
        /// The kernel gave up after its SYN retransmits.
        FailedTimeout = "failed_timeout",
        /// The application closed the socket before an answer came.
        FailedAborted = "failed_aborted_by_application",
        /// An ICMP error ended the attempt (or `tcp_abort`/`connect(AF_UNSPEC)`, which look the same).
        FailedIcmp = "failed_icmp_error",
        /// `connect()` failed before any SYN: no route, prohibited, no free port, denied by a program.
        FailedLocal = "failed_local",
        /// Failed while the callback flags were lost, so the reason is unknown.
        FailedUnknown = "failed_unknown",
        /// Established or adopted connections that ended, in whatever way.
        Closed = "closed",
        /// ESTABLISHED or CLOSE_WAIT → CLOSE after the application released the socket: we sent a RST.
        /// Our own probes' linger-0 RSTs are not counted, at either end.
        ResetLocal = "resets_local",
        /// ESTABLISHED or CLOSE_WAIT → CLOSE without the application: the peer's RST.
        ResetPeer = "resets_peer",
        /// An established connection that the kernel gave up after its retransmits.
        TimedOut = "timed_out",
        /// Segments retransmitted after the handshake.
        Retransmits = "retransmits",
        /// Retransmission timeouts, those of the SYN included.
        Rtos = "rtos",
        /// Payload bytes acknowledged by the peer, without SYN and FIN. At every round trip at most 64 KiB behind per open connection.
        BytesSent = "bytes_sent",
        /// Payload bytes received in order, without FIN. As `bytes_sent`; what comes without any data going back is added
        /// at the end, or by `egress` while it watches.
        BytesReceived = "bytes_received",
        /// Connections older than the probe, found by their first packet after attach.
        Adopted = "adopted",
        /// Samples above the histogram range, put into its last bucket.
        Clamped = "clamped",
    }
}

counters! {
    /// Counters of the whole probe; index into map `COUNTERS`. All exist at 0 from the start.
    GlobalCounter {
        /// Events that should have gone to the ring: `delivered + events_lost`.
        EventsProduced = "events_produced",
        /// Events for which the ring had no room.
        EventsLost = "events_lost",
        /// Failures and outliers of traffic above [`crate::Config::events_per_second`]; counted in their series all the same.
        EventsSuppressed = "events_suppressed",
        /// New series that found no free slot and were counted as `~other`.
        SeriesFull = "series_full",
        /// Sockets for which the kernel gave no storage; they are invisible.
        StorageFailed = "storage_failed",
        /// Connections whose place in the table was taken, so that their state lies in socket storage: slower, nothing is lost.
        TableTaken = "table_taken",
        /// Sockets whose callback flags another owner's program overwrote.
        FlagsLost = "flags_lost",
        /// `bpf_sock_ops_cb_flags_set` refused a flag we need.
        FlagsRefused = "flags_refused",
        /// Sockets older than the probe seen on the wire since attach.
        OldSocketsSeen = "old_sockets_seen",
        /// Of those, the ones that are counted from then on.
        OldSocketsCovered = "old_sockets_covered",
        /// ACK latency samples that an old kernel did not pass and that could not be recovered.
        RttUnrecovered = "rtt_unrecovered",
        /// Sockets older than the probe that the application let go while `egress` rested, and that never sent while
        /// it watched: of their connections nothing is known.
        OldSocketsMissed = "old_sockets_missed",
        /// Connections whose end another hook than the state callback told, so that bytes since the last look are missing.
        BytesUnknown = "bytes_unknown",
    }
}

/// Room for series counters. More than are in use: behind the last histogram there must be room for
/// the 48 buckets that a masked index could reach, which is how the programs prove their bounds.
pub const COUNTER_SLOTS: usize = 48;
/// Room for global counters.
pub const GLOBAL_COUNTER_SLOTS: u32 = 16;

const _: () = assert!(Counter::ALL.len() <= COUNTER_SLOTS);
const _: () = assert!(GlobalCounter::ALL.len() <= GLOBAL_COUNTER_SLOTS as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_is_the_position_and_names_are_unique() {
        for (i, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, i);
            assert!(Counter::ALL[..i].iter().all(|c| c.name() != counter.name()));
        }
        for (i, counter) in GlobalCounter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, i);
        }
    }
}
