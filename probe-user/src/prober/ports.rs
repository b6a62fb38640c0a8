//! Source ports: a new one from the reserved range for every probe, in rotation.

use std::ops::RangeInclusive;

/// Rotates through a range of ports. The kernel knows which are in use.
#[derive(Clone, Debug)]
pub struct Ports {
    range: RangeInclusive<u16>,
    next: u16,
}

impl Ports {
    /// Starts somewhere in the range, so that a restart does not repeat the tuples of the run before.
    #[must_use]
    pub fn new(range: RangeInclusive<u16>, seed: u64) -> Self {
        let width = u64::from(*range.end() - *range.start()) + 1;
        // Smaller than the range, so it fits.
        let offset = u16::try_from(seed % width).unwrap_or(0);
        Self {
            next: range.start().saturating_add(offset),
            range,
        }
    }

    pub(crate) fn take(&mut self) -> u16 {
        let port = self.next;
        self.next = if port == *self.range.end() {
            *self.range.start()
        } else {
            port + 1
        };
        port
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_comes_once_per_round() {
        let mut ports = Ports::new(mesh::PROBE_SOURCE_PORTS, 4_000);
        let mut round: Vec<u16> = (0..4_536).map(|_| ports.take()).collect();
        assert_eq!(round[0], 65_000);
        assert_eq!(ports.take(), 65_000);
        round.sort_unstable();
        assert!(round.iter().copied().eq(61_000..=65_535));
    }
}
