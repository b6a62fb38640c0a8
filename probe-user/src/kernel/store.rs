//! Kernel records of probe connections: bounded, the newest kept, what is dropped counted. Pure.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use mesh::observation::{Direction, KernelOutcome};
use probe_api::wire::Connection;
use probe_api::words::Word as _;
use probe_common::Event;

use crate::sys::maps::from_address;

/// Records kept: one verify run of a node with ten peers, both ends, several times over.
pub const CAPACITY: usize = 32_768;
/// Records that make room at one time.
const CHUNK: usize = 256;
/// Chunks whose time is remembered; older ones count as one.
const CHUNKS: usize = 64;
/// A SYN this much later on the same ports is another attempt.
const ATTEMPT_NS: u64 = 60_000_000_000;

/// One record without the node, which is always ours.
#[derive(Clone, Debug)]
struct Record {
    local: SocketAddr,
    remote: SocketAddr,
    direction: Direction,
    outcome: KernelOutcome,
    at_ns: u64,
    connect_ns: u64,
    handshake_rtt_us: u32,
    min_rtt_us: u32,
    syn_retransmits: u16,
}

type Tuple = (SocketAddr, SocketAddr);

/// The newest records, in the order in which they came.
#[derive(Debug, Default)]
pub struct Store {
    records: VecDeque<Record>,
    /// Number of the oldest record kept.
    first: u64,
    /// SYNs that reached a listener and whose end is not known: number of the record.
    pending: HashMap<Tuple, u64>,
    evicted: u64,
    /// Newest time and size of evicted chunks.
    chunks: VecDeque<(u64, u64)>,
    unusable: u64,
}

impl Store {
    /// Takes one event of a probe connection.
    pub fn push(&mut self, event: &Event) {
        let Some(record) = record(event) else {
            self.unusable += 1;
            return;
        };
        let tuple = (record.local, record.remote);
        if record.direction == Direction::Acceptor
            && let Some(number) = self.pending.get(&tuple).copied()
            && let Some(index) = number.checked_sub(self.first)
            && let Some(known) = usize::try_from(index)
                .ok()
                .and_then(|index| self.records.get_mut(index))
            && record.at_ns.saturating_sub(known.at_ns) < ATTEMPT_NS
        {
            if record.outcome != KernelOutcome::SynOnly {
                *known = record;
                self.pending.remove(&tuple);
            }
            return;
        }
        if record.outcome == KernelOutcome::SynOnly {
            let number = self.first + self.records.len() as u64;
            self.pending.insert(tuple, number);
        }
        self.records.push_back(record);
        if self.records.len() > CAPACITY {
            self.evict();
        }
    }

    fn evict(&mut self) {
        let mut newest = 0;
        for record in self.records.drain(..CHUNK) {
            newest = newest.max(record.at_ns);
            let tuple = (record.local, record.remote);
            if self.pending.get(&tuple) == Some(&self.first) {
                self.pending.remove(&tuple);
            }
            self.first += 1;
        }
        self.evicted += CHUNK as u64;
        self.chunks.push_back((newest, CHUNK as u64));
        if self.chunks.len() > CHUNKS
            && let Some((_, oldest)) = self.chunks.pop_front()
            && let Some((_, next)) = self.chunks.front_mut()
        {
            *next += oldest;
        }
    }

    /// Records at or after `since_ns`, oldest first, and an upper bound of how many of that window are no longer kept.
    #[must_use]
    pub fn since(&self, since_ns: u64) -> (Vec<Connection>, u64) {
        let mut connections: Vec<Connection> = self
            .records
            .iter()
            .filter(|record| record.at_ns >= since_ns)
            .map(Record::connection)
            .collect();
        // CPUs write to the ring side by side.
        connections.sort_by_key(|connection| connection.at_ns);
        let dropped = self
            .chunks
            .iter()
            .filter(|(newest, _)| *newest >= since_ns)
            .map(|(_, records)| records)
            .sum();
        (connections, dropped)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Events that are no record of a probe connection.
    #[must_use]
    pub fn unusable(&self) -> u64 {
        self.unusable
    }
}

fn record(event: &Event) -> Option<Record> {
    use probe_common::event::Outcome as Seen;
    let direction = match probe_common::Direction::from_u8(event.direction)? {
        probe_common::Direction::Initiator => Direction::Initiator,
        probe_common::Direction::Acceptor => Direction::Acceptor,
        probe_common::Direction::Unknown => return None,
    };
    let outcome = match Seen::from_u8(event.outcome)? {
        Seen::Established => KernelOutcome::Established,
        Seen::Refused => KernelOutcome::Refused,
        Seen::Timeout => KernelOutcome::Timeout,
        Seen::AbortedByApplication => KernelOutcome::AbortedByApplication,
        Seen::IcmpError => KernelOutcome::IcmpError,
        Seen::Local => KernelOutcome::Local,
        Seen::SynSeen if direction == Direction::Acceptor => KernelOutcome::SynOnly,
        Seen::SynSeen | Seen::Unknown | Seen::SlowConnect => return None,
    };
    Some(Record {
        local: SocketAddr::new(from_address(event.local), event.local_port),
        remote: SocketAddr::new(from_address(event.remote), event.remote_port),
        direction,
        outcome,
        at_ns: event.at_ns,
        connect_ns: event.connect_ns,
        handshake_rtt_us: event.handshake_rtt_us,
        min_rtt_us: event.min_rtt_us,
        syn_retransmits: event.syn_retransmits,
    })
}

impl Record {
    /// As the API sends it: thousands go out at one time, so they are not turned into anything else first.
    fn connection(&self) -> Connection {
        let initiated = self.direction == Direction::Initiator;
        Connection {
            direction: self.direction.word().to_owned(),
            local: self.local.to_string(),
            remote: self.remote.to_string(),
            outcome: self.outcome.word().to_owned(),
            at_ns: self.at_ns,
            connect_ns: (initiated && self.outcome == KernelOutcome::Established)
                .then_some(self.connect_ns),
            handshake_rtt_us: (self.handshake_rtt_us > 0).then_some(self.handshake_rtt_us),
            min_rtt_us: (self.min_rtt_us > 0).then_some(self.min_rtt_us),
            syn_retransmits: u32::from(self.syn_retransmits),
        }
    }
}

#[cfg(test)]
mod tests {
    use probe_common::address::from_v4;
    use probe_common::event::Outcome as Seen;

    use super::*;

    fn event(outcome: Seen, direction: probe_common::Direction, port: u16, at_ns: u64) -> Event {
        Event {
            at_ns,
            connect_ns: 5_000_000,
            netns_cookie: 1,
            local: from_v4([10, 0, 0, 1]),
            remote: from_v4([10, 0, 0, 2]),
            local_port: 7411,
            remote_port: port,
            handshake_rtt_us: 400,
            min_rtt_us: 0,
            syn_retransmits: 2,
            remote_id: 8,
            outcome: outcome as u8,
            direction: direction as u8,
            origin: 1,
            class: 0,
            reserved: 0,
        }
    }

    fn outcomes(store: &Store, since: u64) -> Vec<KernelOutcome> {
        let (connections, _) = store.since(since);
        connections
            .iter()
            .map(|c| KernelOutcome::from_word(&c.outcome).unwrap())
            .collect()
    }

    use probe_common::Direction::{Acceptor, Initiator, Unknown};

    #[test]
    fn a_syn_and_its_connection_are_one_record() {
        let mut store = Store::default();
        store.push(&event(Seen::SynSeen, Acceptor, 61_000, 10));
        assert_eq!(outcomes(&store, 0), [KernelOutcome::SynOnly]);
        // A SYN sent again is still the same attempt.
        store.push(&event(Seen::SynSeen, Acceptor, 61_000, 20));
        assert_eq!(store.len(), 1);
        store.push(&event(Seen::Established, Acceptor, 61_000, 30));
        let (connections, dropped) = store.since(0);
        assert_eq!((connections.len(), dropped), (1, 0));
        let connection = &connections[0];
        assert_eq!(connection.outcome, "established");
        assert_eq!(connection.at_ns, 30);
        assert_eq!(connection.remote, "10.0.0.2:61000");
        assert_eq!(connection.connect_ns, None, "only the initiator connects");
        assert_eq!(connection.handshake_rtt_us, Some(400));
        assert_eq!(connection.min_rtt_us, None);

        // The same ports again are the next probe.
        store.push(&event(Seen::SynSeen, Acceptor, 61_000, 40));
        assert_eq!(
            outcomes(&store, 0),
            [KernelOutcome::Established, KernelOutcome::SynOnly]
        );
        // Much later it is another attempt, even if the first was never resolved.
        store.push(&event(Seen::Established, Acceptor, 61_000, 40 + ATTEMPT_NS));
        assert_eq!(
            outcomes(&store, 0)[1..],
            [KernelOutcome::SynOnly, KernelOutcome::Established]
        );
    }

    #[test]
    fn both_ends_on_one_node_stay_apart() {
        let mut store = Store::default();
        store.push(&event(Seen::SynSeen, Acceptor, 61_000, 10));
        let mut other_end = event(Seen::Established, Initiator, 7411, 20);
        other_end.local = from_v4([10, 0, 0, 2]);
        other_end.remote = from_v4([10, 0, 0, 1]);
        other_end.local_port = 61_000;
        store.push(&other_end);
        store.push(&event(Seen::Established, Acceptor, 61_000, 30));
        let (connections, _) = store.since(0);
        assert_eq!(connections.len(), 2);
        assert_eq!(connections[0].connect_ns, Some(5_000_000));
    }

    #[test]
    fn the_window_is_sorted_and_inclusive() {
        let mut store = Store::default();
        for at in [30, 10, 20] {
            store.push(&event(Seen::Refused, Initiator, 61_000, at));
        }
        let times: Vec<u64> = store.since(20).0.iter().map(|c| c.at_ns).collect();
        assert_eq!(times, [20, 30]);
    }

    #[test]
    fn what_is_no_probe_record_is_counted() {
        let mut store = Store::default();
        store.push(&event(Seen::SlowConnect, Initiator, 61_000, 1));
        store.push(&event(Seen::Established, Unknown, 61_000, 1));
        store.push(&event(Seen::SynSeen, Initiator, 61_000, 1));
        let mut broken = event(Seen::Refused, Initiator, 61_000, 1);
        broken.outcome = 200;
        store.push(&broken);
        assert_eq!((store.len(), store.unusable()), (0, 4));
    }

    #[test]
    fn the_newest_are_kept_and_every_loss_in_the_window_is_said() {
        let mut store = Store::default();
        let total = CAPACITY as u64 + 20_000;
        for at in 0..total {
            let port = u16::try_from(61_000 + at % 4_000).unwrap();
            store.push(&event(Seen::SynSeen, Acceptor, port, at * ATTEMPT_NS));
        }
        assert!(store.len() <= CAPACITY);
        assert_eq!(store.len() as u64 + store.evicted(), total);
        assert!(store.pending.len() <= store.len());
        let (kept, dropped) = store.since(0);
        assert_eq!(kept.len() as u64 + dropped, total);
        assert_eq!(kept.last().unwrap().at_ns, (total - 1) * ATTEMPT_NS);
        // In a window that lies within what is kept nothing is missing.
        let (kept, dropped) = store.since((total - 100) * ATTEMPT_NS);
        assert_eq!((kept.len(), dropped), (100, 0));
        // A window that reaches further back never says less than is missing.
        let from = store.evicted() - 1_000;
        let (_, dropped) = store.since(from * ATTEMPT_NS);
        assert!(
            (1_000..=1_000 + CHUNK as u64).contains(&dropped),
            "{dropped}"
        );
    }
}
