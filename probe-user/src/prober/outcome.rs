//! What an error of the socket says about the probe.

use std::io;

use mesh::observation::Outcome;
use nix::errno::Errno;

/// Where in the probe the error came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// No answer from the target yet.
    Connecting,
    /// The target has answered before.
    Exchanging,
}

/// A raw error code as an outcome.
///
/// `ECONNREFUSED` is an RST in answer to the SYN, but an ICMP port-unreachable gives it too; only the
/// kernel's witness tells them apart. `EPERM` and `EACCES` come from a local packet filter or BPF program.
pub(super) fn of_error(error: &io::Error, stage: Stage) -> Outcome {
    let Some(code) = error.raw_os_error() else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => Outcome::BadReply,
            _ => Outcome::LocalError,
        };
    };
    match (Errno::from_raw(code), stage) {
        (Errno::ECONNREFUSED, _) => Outcome::Refused,
        (Errno::ETIMEDOUT, _) => Outcome::Timeout,
        (Errno::ECONNRESET | Errno::EPIPE, _) => Outcome::Reset,
        (
            Errno::EHOSTUNREACH
            | Errno::ENETUNREACH
            | Errno::EHOSTDOWN
            | Errno::ENETDOWN
            | Errno::ENONET
            | Errno::ENOPROTOOPT
            | Errno::EPROTO
            | Errno::EMSGSIZE
            | Errno::EPERM
            | Errno::EACCES,
            _,
        ) => Outcome::Unreachable,
        (Errno::ECONNABORTED | Errno::ENOTCONN, Stage::Exchanging) => Outcome::Reset,
        _ => Outcome::LocalError,
    }
}

/// The port is taken, so the next one may do.
pub(super) fn is_port_taken(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| {
        matches!(
            Errno::from_raw(code),
            Errno::EADDRINUSE | Errno::EADDRNOTAVAIL
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_become_outcomes() {
        let cases = [
            (Errno::ECONNREFUSED, Stage::Connecting, Outcome::Refused),
            (Errno::ECONNREFUSED, Stage::Exchanging, Outcome::Refused),
            (Errno::ETIMEDOUT, Stage::Connecting, Outcome::Timeout),
            (Errno::EHOSTUNREACH, Stage::Connecting, Outcome::Unreachable),
            (Errno::ENETUNREACH, Stage::Exchanging, Outcome::Unreachable),
            (Errno::EPERM, Stage::Connecting, Outcome::Unreachable),
            (Errno::ECONNRESET, Stage::Exchanging, Outcome::Reset),
            (Errno::EPIPE, Stage::Exchanging, Outcome::Reset),
            (Errno::EMFILE, Stage::Connecting, Outcome::LocalError),
            (Errno::ENOBUFS, Stage::Connecting, Outcome::LocalError),
            (Errno::ENOTCONN, Stage::Connecting, Outcome::LocalError),
            (Errno::EINVAL, Stage::Exchanging, Outcome::LocalError),
        ];
        for (code, stage, expected) in cases {
            let error = io::Error::from_raw_os_error(code as i32);
            assert_eq!(of_error(&error, stage), expected, "{code} {stage:?}");
        }
        let eof = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!(of_error(&eof, Stage::Exchanging), Outcome::BadReply);
    }

    #[test]
    fn no_code_is_ok() {
        for code in 1..134 {
            for stage in [Stage::Connecting, Stage::Exchanging] {
                let error = io::Error::from_raw_os_error(code);
                assert_ne!(of_error(&error, stage), Outcome::Ok);
            }
        }
    }
}
