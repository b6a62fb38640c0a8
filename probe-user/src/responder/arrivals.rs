//! How many datagrams of requested probes came from where: what a prober that got no echo cannot know.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

/// Peers remembered; of more, nothing is said, which proves nothing.
const MAX_PEERS: usize = 4_096;

#[derive(Debug, Default)]
pub struct Arrivals(Mutex<HashMap<IpAddr, u64>>);

impl Arrivals {
    pub(super) fn note(&self, peer: IpAddr) {
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = peers.len();
        let peer = peer.to_canonical();
        if let Some(datagrams) = peers.get_mut(&peer) {
            *datagrams += 1;
        } else if known < MAX_PEERS {
            peers.insert(peer, 1);
        }
    }

    /// Distinct datagrams since the start, by peer.
    pub fn so_far(&self) -> Vec<(IpAddr, u64)> {
        let peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        peers
            .iter()
            .map(|(peer, datagrams)| (*peer, *datagrams))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_counted_apart_and_bounded() {
        let arrivals = Arrivals::default();
        let peer = |n: u32| IpAddr::from(n.to_be_bytes());
        for n in 0..MAX_PEERS as u32 + 10 {
            arrivals.note(peer(n));
        }
        arrivals.note(peer(3));
        arrivals.note("::ffff:0.0.0.3".parse().expect("an address"));
        let mut so_far = arrivals.so_far();
        so_far.sort_unstable();
        assert_eq!(so_far.len(), MAX_PEERS);
        assert_eq!(so_far[3], (peer(3), 3));
        assert_eq!(so_far[4], (peer(4), 1));
    }
}
