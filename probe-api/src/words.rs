//! The words that stand for enum variants on the wire. They are also label values of the metrics.

use mesh::measurement::{MeasureKind, MeasureOutcome, MtuLimit, PathDirection};
use mesh::observation::{Direction, KernelOutcome, Origin, Outcome, Plane, ProbeKind};

/// An enum whose variants have one fixed word each.
pub trait Word: Sized + Copy + PartialEq + 'static {
    /// Every variant with its word.
    const ALL: &'static [(Self, &'static str)];

    fn word(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(value, _)| *value == self)
            .map_or("unknown", |(_, word)| word)
    }

    fn from_word(word: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(_, known)| *known == word)
            .map(|(value, _)| *value)
    }
}

impl Word for Plane {
    const ALL: &'static [(Self, &'static str)] = &[(Self::Pod, "pod"), (Self::Node, "node")];
}

impl Word for ProbeKind {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::Tcp, "tcp"),
        (Self::Udp, "udp"),
        (Self::Http, "http"),
        (Self::NdviTile, "ndvi_tile"),
        (Self::Dns, "dns"),
    ];
}

impl Word for Outcome {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::Ok, "ok"),
        (Self::Refused, "refused"),
        (Self::Timeout, "timeout"),
        (Self::Reset, "reset"),
        (Self::Unreachable, "unreachable"),
        (Self::WrongResponder, "wrong_responder"),
        (Self::BadReply, "bad_reply"),
        (Self::NoSuchName, "no_such_name"),
        (Self::ServerFailure, "server_failure"),
        (Self::WrongAddress, "wrong_address"),
        (Self::LocalError, "local_error"),
    ];
}

impl Word for Direction {
    const ALL: &'static [(Self, &'static str)] =
        &[(Self::Initiator, "initiator"), (Self::Acceptor, "acceptor")];
}

impl Word for KernelOutcome {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::Established, "established"),
        (Self::Refused, "refused"),
        (Self::Timeout, "timeout"),
        (Self::AbortedByApplication, "aborted_by_application"),
        (Self::IcmpError, "icmp_error"),
        (Self::Local, "local"),
        (Self::SynOnly, "syn_only"),
    ];
}

impl Word for Origin {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::Probe, "probe"),
        (Self::Burst, "burst"),
        (Self::Traffic, "traffic"),
    ];
}

impl Word for MeasureKind {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::PathMtu, "path_mtu"),
        (Self::Throughput, "throughput"),
    ];
}

impl Word for PathDirection {
    const ALL: &'static [(Self, &'static str)] =
        &[(Self::Forward, "forward"), (Self::Return, "return")];
}

impl Word for MeasureOutcome {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::Ok, "ok"),
        (Self::Busy, "busy"),
        (Self::Undecided, "undecided"),
        (Self::Refused, "refused"),
        (Self::Timeout, "timeout"),
        (Self::Reset, "reset"),
        (Self::Unreachable, "unreachable"),
        (Self::WrongResponder, "wrong_responder"),
        (Self::BadReply, "bad_reply"),
        (Self::LocalError, "local_error"),
    ];
}

impl Word for MtuLimit {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::Local, "local"),
        (Self::PacketTooBig, "packet_too_big"),
        (Self::Absorbed, "absorbed"),
        (Self::Silent, "silent"),
        (Self::Ceiling, "ceiling"),
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Word + std::fmt::Debug + serde::Serialize>() {
        for (value, word) in T::ALL {
            assert_eq!(value.word(), *word);
            assert_eq!(T::from_word(word), Some(*value));
            // One vocabulary: the word on the wire is the word in JSON.
            assert_eq!(serde_json::to_value(value).unwrap(), *word);
        }
        assert_eq!(T::from_word("Ok"), None);
        assert_eq!(T::from_word(""), None);
    }

    #[test]
    fn words_are_those_of_the_json_form_and_come_back() {
        check::<Plane>();
        check::<ProbeKind>();
        check::<Outcome>();
        check::<Direction>();
        check::<KernelOutcome>();
        check::<Origin>();
        check::<MeasureKind>();
        check::<PathDirection>();
        check::<MeasureOutcome>();
        check::<MtuLimit>();
    }
}
