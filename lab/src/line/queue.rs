//! Packets under way, ordered by due time and, for equal due times, by arrival. Bounded in packets and bytes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::book::PathId;
use super::config::QueueLimit;
use super::effect::Nanos;

/// A packet and when it is to be written.
#[derive(Debug, PartialEq, Eq)]
pub struct Departure {
    pub packet: Vec<u8>,
    pub due: Nanos,
    /// `None`: passed unclassified, or an answer of the router itself.
    pub(super) path: Option<PathId>,
}

struct Entry {
    sequence: u64,
    departure: Departure,
}

impl Entry {
    fn key(&self) -> (Nanos, u64) {
        (self.departure.due, self.sequence)
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

pub(super) struct DelayQueue {
    heap: BinaryHeap<Reverse<Entry>>,
    sequence: u64,
    bytes: usize,
    limit: QueueLimit,
}

impl DelayQueue {
    pub(super) fn new(limit: QueueLimit) -> Self {
        Self {
            heap: BinaryHeap::new(),
            sequence: 0,
            bytes: 0,
            limit,
        }
    }

    /// False if there was no room.
    #[must_use]
    pub(super) fn push(&mut self, departure: Departure) -> bool {
        if self.heap.len() >= self.limit.packets
            || self.bytes + departure.packet.len() > self.limit.bytes
        {
            return false;
        }
        self.bytes += departure.packet.len();
        self.heap.push(Reverse(Entry {
            sequence: self.sequence,
            departure,
        }));
        self.sequence += 1;
        true
    }

    pub(super) fn next_due(&self) -> Option<Nanos> {
        self.heap.peek().map(|Reverse(entry)| entry.departure.due)
    }

    pub(super) fn pop_due(&mut self, now: Nanos) -> Option<Departure> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse(entry) = self.heap.pop()?;
        self.bytes -= entry.departure.packet.len();
        Some(entry.departure)
    }

    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn departure(due: Nanos, mark: u8) -> Departure {
        Departure {
            packet: vec![mark; 10],
            due,
            path: None,
        }
    }

    #[test]
    fn leaves_by_due_time_then_by_arrival() {
        let mut queue = DelayQueue::new(QueueLimit::default());
        for (due, mark) in [(30, 1), (10, 2), (20, 3), (10, 4), (10, 5), (30, 6)] {
            assert!(queue.push(departure(due, mark)));
        }
        assert_eq!(queue.next_due(), Some(10));
        assert!(queue.pop_due(9).is_none());
        let order: Vec<u8> = std::iter::from_fn(|| queue.pop_due(30))
            .map(|d| d.packet[0])
            .collect();
        assert_eq!(order, [2, 4, 5, 3, 1, 6]);
        assert_eq!((queue.len(), queue.bytes(), queue.next_due()), (0, 0, None));
    }

    #[test]
    fn both_bounds_hold() {
        let mut queue = DelayQueue::new(QueueLimit {
            packets: 2,
            bytes: 1000,
        });
        assert!(queue.push(departure(1, 1)) && queue.push(departure(1, 2)));
        assert!(!queue.push(departure(1, 3)));
        let mut queue = DelayQueue::new(QueueLimit {
            packets: 100,
            bytes: 25,
        });
        assert!(queue.push(departure(1, 1)) && queue.push(departure(1, 2)));
        assert!(!queue.push(departure(1, 3)));
        assert!(queue.pop_due(1).is_some() && queue.push(departure(1, 3)));
    }
}
