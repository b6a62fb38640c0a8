//! Keeps the order of packets within a connection: none is due before an earlier one of its 5-tuple, and none waits for
//! a packet of another.

use std::collections::HashMap;

use super::effect::Nanos;

/// Connections remembered before the first look for those that have nothing under way.
const FIRST_SWEEP: usize = 4096;

/// Last due time by the 64-bit hash of a 5-tuple, of every connection that may have a packet under way.
pub(super) struct Order {
    last_due: HashMap<u64, Nanos>,
    sweep_at: usize,
}

impl Order {
    pub(super) fn new() -> Self {
        Self {
            last_due: HashMap::new(),
            sweep_at: FIRST_SWEEP,
        }
    }

    /// The last due time of a connection, to be read and raised; 0 if nothing of it is under way.
    pub(super) fn of(&mut self, connection: u64, now: Nanos) -> &mut Nanos {
        if self.last_due.len() >= self.sweep_at {
            // What was due by now holds nobody back.
            self.last_due.retain(|_, due| *due > now);
            self.sweep_at = FIRST_SWEEP.max(2 * self.last_due.len());
        }
        self.last_due.entry(connection).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_apart_and_forgotten_once_nothing_is_under_way() {
        let mut order = Order::new();
        *order.of(1, 0) = 1_000_000;
        for connection in 2..100_000 {
            let due = order.of(connection, connection);
            assert_eq!(*due, 0, "connection {connection}");
            *due = connection + 10;
        }
        assert_eq!(*order.of(1, 100_000), 1_000_000);
        assert!(
            order.last_due.len() <= FIRST_SWEEP,
            "{}",
            order.last_due.len()
        );
    }
}
