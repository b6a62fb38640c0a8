//! One question to a resolver, and what its answer says. Pure: bytes in, outcome out.

use std::net::IpAddr;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use mesh::observation::{Outcome, Question};

/// Longest answer that is read: more than a resolver may send over UDP to who offers no more.
pub(super) const MOST_BYTES: usize = 1_500;

/// A question with the id that its answer must carry.
#[derive(Debug)]
pub(super) struct Lookup {
    message: Message,
    addresses: Vec<IpAddr>,
}

impl Lookup {
    /// Fails only for what is no name, or without an address to expect.
    pub(super) fn new(question: &Question, id: u16) -> Result<Self, String> {
        let mut name = Name::from_ascii(&question.name).map_err(|error| error.to_string())?;
        // Complete: search lists are the stub resolver's business, and would blur what is measured.
        name.set_fqdn(true);
        let kind = match question.addresses.first() {
            Some(IpAddr::V4(_)) => RecordType::A,
            Some(IpAddr::V6(_)) => RecordType::AAAA,
            None => return Err("no address to expect".to_owned()),
        };
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name, kind));
        Ok(Self {
            message,
            addresses: question.addresses.clone(),
        })
    }

    pub(super) fn query(&self) -> Result<Vec<u8>, String> {
        self.message.to_vec().map_err(|error| error.to_string())
    }

    /// [`Outcome::BadReply`] for what does not answer this question at all: the right answer may still come.
    pub(super) fn judge(&self, datagram: &[u8]) -> Outcome {
        let Ok(answer) = Message::from_vec(datagram) else {
            return Outcome::BadReply;
        };
        let ours = answer.metadata.message_type == MessageType::Response
            && answer.metadata.id == self.message.metadata.id
            && answer.queries == self.message.queries;
        if !ours {
            return Outcome::BadReply;
        }
        match answer.metadata.response_code {
            ResponseCode::NoError => {}
            ResponseCode::NXDomain => return Outcome::NoSuchName,
            _ => return Outcome::ServerFailure,
        }
        // Aliases on the way to them are no addresses.
        let found: Vec<IpAddr> = answer
            .answers
            .iter()
            .filter_map(|record| match record.data {
                RData::A(v4) => Some(IpAddr::V4(v4.0)),
                RData::AAAA(v6) => Some(IpAddr::V6(v6.0)),
                _ => None,
            })
            .collect();
        if found.is_empty() {
            // What did not fit into a datagram is not known to be missing.
            return if answer.metadata.truncation {
                Outcome::ServerFailure
            } else {
                Outcome::NoSuchName
            };
        }
        if found.iter().all(|ip| self.addresses.contains(ip)) {
            Outcome::Ok
        } else {
            Outcome::WrongAddress
        }
    }
}

/// The first resolver of a resolv.conf.
pub(super) fn first_resolver(resolv_conf: &str) -> Option<IpAddr> {
    resolv_conf.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver"))
            .then(|| words.next()?.parse().ok())
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::Record;
    use proptest::prelude::*;

    use super::*;

    fn lookup() -> Lookup {
        let question = Question {
            name: "ndvi.default.svc.cluster.local".to_owned(),
            addresses: vec!["10.96.0.80".parse().unwrap(), "10.96.0.81".parse().unwrap()],
        };
        Lookup::new(&question, 7).unwrap()
    }

    /// An answer with these addresses.
    fn answer(code: ResponseCode, addresses: &[&str]) -> Message {
        let question = Message::from_vec(&lookup().query().unwrap()).unwrap();
        let mut answer = Message::response(question.metadata.id, OpCode::Query);
        answer.metadata.response_code = code;
        answer.queries = question.queries;
        let name = answer.queries[0].name().clone();
        for address in addresses {
            let data = match address.parse().unwrap() {
                IpAddr::V4(v4) => RData::A(v4.into()),
                IpAddr::V6(v6) => RData::AAAA(v6.into()),
            };
            answer
                .answers
                .push(Record::from_rdata(name.clone(), 5, data));
        }
        answer
    }

    fn judged(answer: &Message) -> Outcome {
        lookup().judge(&answer.to_vec().unwrap())
    }

    #[test]
    fn codes_and_addresses_become_outcomes() {
        use ResponseCode::{NXDomain, NoError, Refused, ServFail};
        for (code, addresses, outcome) in [
            (NoError, &["10.96.0.80"][..], Outcome::Ok),
            (NoError, &["10.96.0.81", "10.96.0.80"], Outcome::Ok),
            (NoError, &["10.96.0.80", "10.96.9.9"], Outcome::WrongAddress),
            (NoError, &["fd00::1"], Outcome::WrongAddress),
            (NoError, &[], Outcome::NoSuchName),
            (NXDomain, &[], Outcome::NoSuchName),
            (ServFail, &[], Outcome::ServerFailure),
            // An address beside an error is none.
            (ServFail, &["10.96.0.80"], Outcome::ServerFailure),
            (Refused, &[], Outcome::ServerFailure),
        ] {
            assert_eq!(
                judged(&answer(code, addresses)),
                outcome,
                "{code} {addresses:?}"
            );
        }
        let mut cut = answer(NoError, &[]);
        cut.metadata.truncation = true;
        assert_eq!(judged(&cut), Outcome::ServerFailure);
    }

    #[test]
    fn what_does_not_answer_this_question_is_no_answer() {
        let right = || answer(ResponseCode::NoError, &["10.96.0.80"]);
        let mut other_id = right();
        other_id.metadata.id = 8;
        let mut question = right();
        question.metadata.message_type = MessageType::Query;
        let mut other_name = right();
        other_name.queries[0].set_name(Name::from_ascii("a.b.").unwrap());
        let mut other_type = right();
        other_type.queries[0].set_query_type(RecordType::AAAA);
        for wrong in [other_id, question, other_name, other_type] {
            assert_eq!(judged(&wrong), Outcome::BadReply, "{wrong:?}");
        }
        assert_eq!(judged(&right()), Outcome::Ok);
    }

    #[test]
    fn the_first_nameserver_is_the_resolver() {
        for (text, resolver) in [
            (
                "search a.b\nnameserver 10.96.0.10\nnameserver 1.1.1.1\n",
                Some("10.96.0.10"),
            ),
            (
                "# nameserver 9.9.9.9\n\tnameserver\tfd00::a # here\n",
                Some("fd00::a"),
            ),
            ("nameserver ten\nnameserver 10.0.0.1", Some("10.0.0.1")),
            ("options ndots:5\n", None),
        ] {
            let expected = resolver.map(|ip: &str| ip.parse().unwrap());
            assert_eq!(first_resolver(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn noise_is_never_ok(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(lookup().judge(&bytes), Outcome::BadReply);
        }
    }
}
