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

/// What a run of probes is for: told apart by source port, in the kernel's series too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Continuous probing, on which SLOs are computed.
    Background,
    /// Somebody asked for it.
    Burst,
}

/// A rotation for each purpose.
#[derive(Clone, Debug)]
pub struct SourcePorts {
    background: Ports,
    burst: Ports,
}

impl SourcePorts {
    /// The reserved ranges. For `seed` see [`Ports::new`].
    #[must_use]
    pub fn reserved(seed: u64) -> Self {
        Self {
            background: Ports::new(mesh::BACKGROUND_SOURCE_PORTS, seed),
            burst: Ports::new(mesh::BURST_SOURCE_PORTS, seed),
        }
    }

    pub(crate) fn of(&mut self, purpose: Purpose) -> &mut Ports {
        match purpose {
            Purpose::Background => &mut self.background,
            Purpose::Burst => &mut self.burst,
        }
    }
}

#[cfg(test)]
impl SourcePorts {
    /// One range for every purpose.
    pub(crate) fn within(range: RangeInclusive<u16>) -> Self {
        let ports = Ports::new(range, 0);
        Self {
            background: ports.clone(),
            burst: ports,
        }
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

    #[test]
    fn every_reserved_port_belongs_to_one_purpose() {
        let mut ports = SourcePorts::reserved(7);
        let background = (0..500).map(|_| ports.of(Purpose::Background).take());
        let mut all: Vec<u16> = background.collect();
        all.extend((0..4_036).map(|_| ports.of(Purpose::Burst).take()));
        assert!(all[..500].iter().all(|port| *port < 61_500));
        all.sort_unstable();
        assert!(all.into_iter().eq(mesh::PROBE_SOURCE_PORTS));
    }
}
