//! The decisions: why a connect failed, whose reset it was, which bytes are payload, what a round trip was.

use probe_common::{Counter, Outcome};

use crate::tcp;

/// Why SYN_SENT became CLOSE. `segs_in`: segments received; `released`: the application had closed
/// the socket; `rto_expired`: the last timeout callback said that the kernel gives up. It says so before the
/// application can read the error and close, and the state changes after that.
#[inline(always)]
pub const fn failure(segs_in: u32, released: bool, rto_expired: bool) -> Outcome {
    if segs_in > 0 {
        Outcome::Refused
    } else if rto_expired {
        Outcome::Timeout
    } else if released {
        Outcome::AbortedByApplication
    } else {
        Outcome::IcmpError
    }
}

/// The counter of a failed connect.
#[inline(always)]
pub const fn failure_counter(outcome: Outcome) -> Counter {
    match outcome {
        Outcome::Refused => Counter::FailedRefused,
        Outcome::Timeout => Counter::FailedTimeout,
        Outcome::AbortedByApplication => Counter::FailedAborted,
        Outcome::IcmpError => Counter::FailedIcmp,
        Outcome::Local => Counter::FailedLocal,
        _ => Counter::FailedUnknown,
    }
}

/// How a connection in `old_state` ended with CLOSE, if not by FIN. From FIN_WAIT onwards a RST is
/// part of an ending that this side began, so it is no reset of an established connection.
#[inline(always)]
pub const fn abnormal_end(old_state: u32, released: bool, rto_expired: bool) -> Option<Counter> {
    if old_state != tcp::ESTABLISHED && old_state != tcp::CLOSE_WAIT {
        return None;
    }
    Some(if released {
        Counter::ResetLocal
    } else if rto_expired {
        Counter::TimedOut
    } else {
        Counter::ResetPeer
    })
}

/// Our own probes close with linger 0: that RST is counted at neither end.
#[inline(always)]
pub const fn own_reset(end: Counter, initiator: bool, probe: bool) -> bool {
    probe
        && match end {
            Counter::ResetLocal => initiator,
            Counter::ResetPeer => !initiator,
            _ => false,
        }
}

/// `bytes_acked` counts an initiator's SYN and the FIN.
#[inline(always)]
pub const fn sent_payload(bytes_acked: u64, initiator: bool, fin_acked: bool) -> u64 {
    bytes_acked.saturating_sub(initiator as u64 + fin_acked as u64)
}

/// Whether our FIN was acknowledged when `old_state` became CLOSE.
#[inline(always)]
pub const fn fin_acked(old_state: u32, all_acked: bool) -> bool {
    match old_state {
        tcp::FIN_WAIT2 => true,
        tcp::LAST_ACK | tcp::CLOSING => all_acked,
        _ => false,
    }
}

/// How far the bytes of an open connection may lag behind when there is an occasion to add them.
pub const LAG: u64 = 64 * 1024;

/// Payload of a connection that goes on: sent and acknowledged, received. `state`: one that the kernel is not just
/// leaving; the peer's FIN is among the bytes in the states that follow it, ours once it is acknowledged.
#[inline(always)]
pub const fn payload(
    state: u32,
    bytes_acked: u64,
    bytes_received: u64,
    initiator: bool,
) -> (u64, u64) {
    let fin = matches!(state, tcp::CLOSE_WAIT | tcp::LAST_ACK | tcp::CLOSING);
    (
        sent_payload(bytes_acked, initiator, state == tcp::FIN_WAIT2),
        bytes_received.saturating_sub(fin as u64),
    )
}

/// Whether what was added so far lags so far behind that more must be.
#[inline(always)]
pub const fn lags(added: u64, now: u64) -> bool {
    now >= added + LAG
}

/// Marks that the application had not released the socket when it entered FIN_WAIT2.
pub const NOT_RELEASED: u32 = u32::MAX;

/// Whether the peer's FIN is among `bytes_received` when `old_state` became CLOSE.
///
/// FIN_WAIT2 ends either by the peer's FIN, or because the application is gone and the kernel keeps
/// only a TIME_WAIT stub. A released socket accepts no data (that would be a RST), so one byte more
/// than at the entry into FIN_WAIT2 (`at_fin_wait2`, low 32 bits) is the FIN.
#[inline(always)]
pub const fn fin_received(
    old_state: u32,
    released: bool,
    at_fin_wait2: u32,
    bytes_received: u64,
) -> bool {
    match old_state {
        tcp::CLOSE_WAIT | tcp::LAST_ACK | tcp::CLOSING => true,
        tcp::FIN_WAIT2 if !released => true,
        tcp::FIN_WAIT2 if at_fin_wait2 == NOT_RELEASED => false,
        tcp::FIN_WAIT2 => bytes_received as u32 != at_fin_wait2,
        _ => false,
    }
}

/// The raw round trip between two successive smoothed values (µs × 8), as the kernel's estimator
/// makes one from the other: new = old − old/8 + raw. `None` if the estimator clamped.
#[inline(always)]
pub const fn raw_rtt(old: u32, new: u32) -> Option<u32> {
    let raw = (new as i64) - (old as i64) + (old >> 3) as i64;
    if raw > 0 && old != 0 {
        Some(raw as u32)
    } else {
        None
    }
}

/// Whether `sock_release`, which does not hold the socket lock, can be sure that a state change was
/// not reported. `state` must have been read before `reported`: then a change in between makes
/// `reported` the newer one, which is never taken for a loss.
#[inline(always)]
pub const fn change_missed(state: u32, reported: u32) -> bool {
    match reported {
        tcp::SYN_SENT => state != tcp::SYN_SENT,
        tcp::SYN_RECV => state != tcp::SYN_RECV,
        tcp::ESTABLISHED => {
            state != tcp::ESTABLISHED && state != tcp::SYN_SENT && state != tcp::SYN_RECV
        }
        _ => state == tcp::CLOSE && reported != tcp::CLOSE,
    }
}

/// Whether a segment sent in this state belongs to a connection that can be adopted.
#[inline(always)]
pub const fn adoptable(state: u32) -> bool {
    matches!(
        state,
        tcp::ESTABLISHED
            | tcp::FIN_WAIT1
            | tcp::FIN_WAIT2
            | tcp::CLOSE_WAIT
            | tcp::LAST_ACK
            | tcp::CLOSING
    )
}

/// Whether a socket in this state has sent, or is sending, its last segment of its own accord.
#[inline(always)]
pub const fn leaving(state: u32) -> bool {
    matches!(
        state,
        tcp::FIN_WAIT1 | tcp::FIN_WAIT2 | tcp::LAST_ACK | tcp::CLOSING | tcp::CLOSE
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_connect_has_one_reason() {
        assert_eq!(failure(1, false, false), Outcome::Refused);
        assert_eq!(failure(1, true, true), Outcome::Refused);
        assert_eq!(failure(0, true, false), Outcome::AbortedByApplication);
        assert_eq!(failure(0, false, true), Outcome::Timeout);
        // It read the error and closed before the state changed.
        assert_eq!(failure(0, true, true), Outcome::Timeout);
        assert_eq!(failure(0, false, false), Outcome::IcmpError);
        assert_eq!(failure_counter(Outcome::Local), Counter::FailedLocal);
        assert_eq!(failure_counter(Outcome::Unknown), Counter::FailedUnknown);
    }

    #[test]
    fn resets_belong_to_established_connections_and_to_a_side() {
        assert_eq!(
            abnormal_end(tcp::ESTABLISHED, true, false),
            Some(Counter::ResetLocal)
        );
        assert_eq!(
            abnormal_end(tcp::ESTABLISHED, false, false),
            Some(Counter::ResetPeer)
        );
        assert_eq!(
            abnormal_end(tcp::CLOSE_WAIT, false, true),
            Some(Counter::TimedOut)
        );
        for state in [tcp::FIN_WAIT1, tcp::FIN_WAIT2, tcp::LAST_ACK, tcp::CLOSING] {
            assert_eq!(abnormal_end(state, false, false), None);
        }
    }

    #[test]
    fn probes_own_resets_are_left_out_at_both_ends_only() {
        assert!(own_reset(Counter::ResetLocal, true, true));
        assert!(own_reset(Counter::ResetPeer, false, true));
        assert!(!own_reset(Counter::ResetPeer, true, true));
        assert!(!own_reset(Counter::ResetLocal, false, true));
        assert!(!own_reset(Counter::ResetLocal, true, false));
        assert!(!own_reset(Counter::TimedOut, true, true));
    }

    #[test]
    fn syn_and_fin_are_no_payload() {
        assert_eq!(sent_payload(102, true, true), 100);
        assert_eq!(sent_payload(101, false, true), 100);
        assert_eq!(sent_payload(0, true, true), 0);
        assert!(fin_acked(tcp::FIN_WAIT2, false));
        assert!(fin_acked(tcp::LAST_ACK, true) && !fin_acked(tcp::LAST_ACK, false));
        assert!(!fin_acked(tcp::FIN_WAIT1, true));
    }

    #[test]
    fn bytes_of_an_open_connection_are_payload_in_every_state() {
        assert_eq!(payload(tcp::ESTABLISHED, 101, 7, true), (100, 7));
        assert_eq!(payload(tcp::ESTABLISHED, 100, 7, false), (100, 7));
        // The peer has finished, we go on sending.
        assert_eq!(payload(tcp::CLOSE_WAIT, 100, 8, false), (100, 7));
        // We have finished, the peer goes on.
        assert_eq!(payload(tcp::FIN_WAIT1, 101, 7, true), (100, 7));
        assert_eq!(payload(tcp::FIN_WAIT2, 102, 7, true), (100, 7));
        assert_eq!(payload(tcp::LAST_ACK, 101, 8, true), (100, 7));
        assert!(lags(1, LAG + 1) && !lags(1, LAG));
    }

    #[test]
    fn the_peers_fin_is_told_from_a_time_wait_stub() {
        // The application waits for the end of the stream.
        assert!(fin_received(tcp::FIN_WAIT2, false, NOT_RELEASED, 11));
        // close() while FIN_WAIT2 waits for the peer.
        assert!(!fin_received(tcp::FIN_WAIT2, true, NOT_RELEASED, 11));
        // close() first; the peer's ACK comes alone, then with its FIN.
        assert!(!fin_received(tcp::FIN_WAIT2, true, 10, 10));
        assert!(fin_received(tcp::FIN_WAIT2, true, 10, 11));
        assert!(fin_received(tcp::LAST_ACK, true, 0, 11));
        assert!(!fin_received(tcp::ESTABLISHED, true, 0, 11));
    }

    #[test]
    fn the_raw_round_trip_is_recovered_exactly() {
        for old in [8u32, 800, 15_300 * 8, 60_000 * 8] {
            for raw in [1u32, 7, 250, 15_300, 900_000] {
                let new = old - (old >> 3) + raw;
                assert_eq!(raw_rtt(old, new), Some(raw));
            }
        }
        assert_eq!(raw_rtt(0, 80), None);
        assert_eq!(raw_rtt(800, 600), None);
    }

    #[test]
    fn a_race_with_a_state_change_is_not_taken_for_a_lost_flag() {
        // Read state, then the change is reported, then read the report.
        assert!(!change_missed(tcp::ESTABLISHED, tcp::CLOSE_WAIT));
        assert!(!change_missed(tcp::SYN_SENT, tcp::ESTABLISHED));
        assert!(!change_missed(tcp::CLOSE_WAIT, tcp::CLOSE));
        assert!(change_missed(tcp::CLOSE_WAIT, tcp::ESTABLISHED));
        assert!(change_missed(tcp::CLOSE, tcp::ESTABLISHED));
        assert!(change_missed(tcp::CLOSE, tcp::CLOSE_WAIT));
        assert!(change_missed(tcp::ESTABLISHED, tcp::SYN_RECV));
        assert!(!change_missed(tcp::ESTABLISHED, tcp::ESTABLISHED));
    }
}
