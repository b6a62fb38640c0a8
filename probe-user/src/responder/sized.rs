//! Who may have replies longer than his requests, and how many: tokens, counts and bytes. Pure; time is an argument.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use mesh::measurement::PacketTooBig;
use sha2::{Digest as _, Sha256};

use crate::frame::sized::{MAX_PADDED, Padding, SizedRequest, TOKEN_EPOCH, Token};

/// Token holders at one time.
const MAX_HOLDERS: usize = 64;
/// A holder is forgotten after this; no token lives longer.
const HOLDER_LIFE: Duration = Duration::from_secs(2 * TOKEN_EPOCH.as_secs());
/// Bytes of replies beyond their requests, of all holders together.
const EXCESS_PER_WINDOW: u64 = 16 << 20;
const WINDOW: Duration = Duration::from_secs(60);

/// What is known of one prober that has proven its address.
#[derive(Debug, Default)]
struct Holder {
    since: Duration,
    padded: u32,
    local_mtu: Option<u16>,
    reported: Option<PacketTooBig>,
}

/// Times are since the start of the responder.
pub(super) struct Holders {
    secret: [u8; 32],
    known: HashMap<SocketAddr, Holder>,
    window: Duration,
    excess: u64,
}

impl Holders {
    pub(super) fn new(secret: [u8; 32]) -> Self {
        Self {
            secret,
            known: HashMap::new(),
            window: Duration::ZERO,
            excess: 0,
        }
    }

    /// The token of `peer` at `now`. The input has one length and the digest is cut, so that a plain hash of
    /// secret and message will do.
    pub(super) fn token(&self, peer: SocketAddr, now: Duration) -> Token {
        self.token_of(peer, epoch(now))
    }

    fn token_of(&self, peer: SocketAddr, epoch: u64) -> Token {
        let ip = match peer.ip() {
            std::net::IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            std::net::IpAddr::V6(ip) => ip,
        };
        let digest = Sha256::new()
            .chain_update(self.secret)
            .chain_update(epoch.to_be_bytes())
            .chain_update(ip.octets())
            .chain_update(peer.port().to_be_bytes())
            .finalize();
        let mut token = Token::default();
        let bytes = token.len();
        token.copy_from_slice(&digest[..bytes]);
        token
    }

    pub(super) fn is_valid(&self, token: &Token, peer: SocketAddr, now: Duration) -> bool {
        let epoch = epoch(now);
        *token == self.token_of(peer, epoch)
            || (epoch > 0 && *token == self.token_of(peer, epoch - 1))
    }

    /// Whether `request` gets the longer reply that it asks for. Counts it if so.
    pub(super) fn grant(
        &mut self,
        peer: SocketAddr,
        request: &SizedRequest,
        now: Duration,
    ) -> Padding {
        if !self.is_valid(&request.token, peer, now) {
            return Padding::NoToken;
        }
        if now.saturating_sub(self.window) >= WINDOW {
            self.window = now;
            self.excess = 0;
        }
        self.known
            .retain(|_, holder| now.saturating_sub(holder.since) < HOLDER_LIFE);
        let full = self.known.len() >= MAX_HOLDERS && !self.known.contains_key(&peer);
        let more = usize::from(request.reply_length.unwrap_or(0)).saturating_sub(request.length);
        let more = more as u64;
        if full || self.excess + more > EXCESS_PER_WINDOW {
            return Padding::Exhausted;
        }
        let holder = self.known.entry(peer).or_insert_with(|| Holder {
            since: now,
            ..Holder::default()
        });
        if holder.padded >= MAX_PADDED {
            return Padding::Exhausted;
        }
        holder.padded += 1;
        self.excess += more;
        Padding::AsAsked
    }

    /// What this host's stack lets out towards `peer`; kept only for holders.
    pub(super) fn refused_locally(&mut self, peer: SocketAddr, mtu: u16) {
        if let Some(holder) = self.known.get_mut(&peer) {
            holder.local_mtu = Some(mtu);
        }
    }

    /// A hop dropped a reply to `peer`; kept only for holders.
    pub(super) fn too_big(&mut self, peer: SocketAddr, reported: PacketTooBig) {
        if let Some(holder) = self.known.get_mut(&peer) {
            holder.reported = Some(reported);
        }
    }

    /// What is known of `peer`: the stack's limit and a hop's complaint.
    pub(super) fn facts(&self, peer: SocketAddr) -> Option<(Option<u16>, Option<PacketTooBig>)> {
        let holder = self.known.get(&peer)?;
        Some((holder.local_mtu, holder.reported))
    }
}

fn epoch(now: Duration) -> u64 {
    now.as_secs() / TOKEN_EPOCH.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Key;
    use crate::frame::sized::SMALL_BYTES;

    const START: Duration = Duration::from_secs(1_000);

    fn peer(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    fn request(token: Token, reply_length: u16) -> SizedRequest {
        SizedRequest {
            key: Key {
                nonce: [1; 16],
                run: 1,
                sequence: 0,
            },
            token,
            reply_length: Some(reply_length),
            may_fragment: false,
            length: SMALL_BYTES,
        }
    }

    fn later(seconds: u64) -> Duration {
        START + Duration::from_secs(seconds)
    }

    #[test]
    fn a_token_is_of_one_address_and_port_and_of_its_time() {
        let mut holders = Holders::new([7; 32]);
        let token = holders.token(peer(1), START);
        let mut ask = |token: Token, peer, now| holders.grant(peer, &request(token, 1_400), now);
        assert_eq!(ask([0; 16], peer(1), START), Padding::NoToken);
        assert_eq!(ask(token, peer(2), START), Padding::NoToken);
        let other = SocketAddr::from(([10, 0, 0, 2], 1));
        assert_eq!(ask(token, other, START), Padding::NoToken);
        assert_eq!(ask(token, peer(1), START), Padding::AsAsked);
        assert_eq!(ask(token, peer(1), later(30)), Padding::AsAsked);
        assert_eq!(ask(token, peer(1), later(60)), Padding::NoToken);
        assert_eq!(
            Holders::new([8; 32]).grant(peer(1), &request(token, 1_400), START),
            Padding::NoToken,
            "another responder's"
        );
    }

    #[test]
    fn longer_replies_are_counted_per_holder_and_in_bytes() {
        let mut holders = Holders::new([7; 32]);
        let token = holders.token(peer(1), START);
        for n in 0..MAX_PADDED {
            assert_eq!(
                holders.grant(peer(1), &request(token, 1_400), START),
                Padding::AsAsked,
                "{n}"
            );
        }
        let more = request(token, 1_400);
        assert_eq!(holders.grant(peer(1), &more, START), Padding::Exhausted);
        let own = holders.token(peer(2), START);
        assert_eq!(
            holders.grant(peer(2), &request(own, 1_400), START),
            Padding::AsAsked,
            "each holder has a count of its own"
        );

        let mut holders = Holders::new([7; 32]);
        let mut bytes = 0;
        let refused = (0..10_000_u16).find(|n| {
            let peer = peer(n / 256);
            let token = holders.token(peer, START);
            let answer = holders.grant(peer, &request(token, 9_188), START);
            if answer == Padding::AsAsked {
                bytes += 9_188 - SMALL_BYTES as u64;
            }
            answer != Padding::AsAsked
        });
        assert!(refused.is_some() && bytes <= EXCESS_PER_WINDOW, "{bytes}");
        assert!(bytes > EXCESS_PER_WINDOW - 9_188);
        // The next minute is a new one.
        let token = holders.token(peer(1), later(60));
        let answer = holders.grant(peer(1), &request(token, 9_188), later(60));
        assert_eq!(answer, Padding::AsAsked);
    }

    #[test]
    fn holders_are_few_and_only_those_with_a_token_take_a_place() {
        let mut holders = Holders::new([7; 32]);
        for port in 0..1_000 {
            holders.grant(peer(port), &request([9; 16], 1_400), START);
        }
        assert!(holders.known.is_empty(), "nobody has proven anything");
        for port in 0..64 {
            let token = holders.token(peer(port), START);
            let answer = holders.grant(peer(port), &request(token, 500), START);
            assert_eq!(answer, Padding::AsAsked);
        }
        let token = holders.token(peer(64), START);
        let answer = holders.grant(peer(64), &request(token, 500), START);
        assert_eq!(answer, Padding::Exhausted);
        let token = holders.token(peer(64), later(60));
        let answer = holders.grant(peer(64), &request(token, 500), later(60));
        assert_eq!(answer, Padding::AsAsked, "the others have left");
        assert_eq!(holders.known.len(), 1);

        holders.refused_locally(peer(64), 1_500);
        holders.refused_locally(peer(3), 1_500);
        assert_eq!(holders.facts(peer(64)), Some((Some(1_500), None)));
        assert_eq!(holders.facts(peer(3)), None);
    }
}
