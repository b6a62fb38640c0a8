//! When `egress` watches and when it rests. Pure.
//!
//! It watches after the load, until nothing that needs it was found for a while; then it rests, wakes at once when
//! callback flags are lost, and looks up for a moment now and then for old sockets that were silent.

use std::str::FromStr;
use std::time::Duration;

use crate::background::time;

/// How often the maps are asked.
pub const TICK: Duration = Duration::from_secs(1);
/// Open connections older than the probe keep it watching no longer than this after the last one was found.
const HOLD: Duration = Duration::from_secs(600);
/// How long it rests before it looks up.
const REST: Duration = Duration::from_secs(300);
/// How long it then looks; longer if something is found.
const LOOK: Duration = Duration::from_secs(5);

/// How long nothing must be found before it rests; `None`: it never does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quiet(pub Option<Duration>);

impl FromStr for Quiet {
    type Err = String;

    /// `off`, or whole seconds or milliseconds: `30s`, `500ms`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        Ok(Self(Some(time(text)?)))
    }
}

/// What the maps say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// `egress` rests now, whoever said so: a `load` wakes it.
    pub rests: bool,
    /// Sockets older than the probe found so far.
    pub found: u64,
    /// Of those, still open.
    pub open: u64,
    /// Sockets that lost their callback flags so far.
    pub lost: u64,
}

/// What to do with `egress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// `left`: old connections still open, whose bytes and retransmits are not counted while it rests.
    Rest { left: u64 },
    /// Flags are being lost.
    Wake,
    /// For old sockets.
    Look,
}

/// Memory of what was seen. Times are of one monotonic clock.
#[derive(Debug)]
pub struct Watch {
    quiet: Duration,
    before: Option<Seen>,
    /// Since when it rests, or when it began to watch.
    since: Duration,
    /// The last time that something needed it.
    needed: Duration,
    found: Duration,
    looking: bool,
}

impl Watch {
    /// `quiet`: how long nothing must be found.
    #[must_use]
    pub fn new(quiet: Duration) -> Self {
        Self {
            quiet,
            before: None,
            since: Duration::ZERO,
            needed: Duration::ZERO,
            found: Duration::ZERO,
            looking: false,
        }
    }

    /// What to do at `now`, given what the maps say.
    pub fn turn(&mut self, now: Duration, seen: Seen) -> Option<Turn> {
        let before = self.before.replace(seen);
        if before.is_none_or(|before| before.rests != seen.rests) {
            // We have just begun, or it was put to rest or woken since: by us, or by a load.
            self.looking &= before.is_some() && !seen.rests;
            (self.since, self.needed) = (now, now);
            if before.is_none() || !self.looking && !seen.rests {
                self.found = now;
            }
        }
        let before = before.unwrap_or(seen);
        let lost = seen.lost > before.lost;
        if seen.rests {
            if lost {
                return Some(Turn::Wake);
            }
            self.looking = now.saturating_sub(self.since) >= REST;
            return self.looking.then_some(Turn::Look);
        }
        if seen.found > before.found {
            self.found = now;
        }
        if lost || seen.found > before.found {
            self.needed = now;
            self.looking = false;
        }
        let quiet = if self.looking { LOOK } else { self.quiet };
        let held = seen.open > 0 && now.saturating_sub(self.found) < HOLD;
        (now.saturating_sub(self.needed) >= quiet && !held)
            .then_some(Turn::Rest { left: seen.open })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Duration = Duration::from_secs(30);

    #[test]
    fn the_command_line_gives_a_time_or_off() {
        assert_eq!("30s".parse(), Ok(Quiet(Some(QUIET))));
        assert_eq!("off".parse(), Ok(Quiet(None)));
        assert!("30".parse::<Quiet>().is_err());
    }

    /// A kernel that does what it is told, second by second.
    struct Node {
        watch: Watch,
        second: u64,
        seen: Seen,
    }

    impl Node {
        fn new() -> Self {
            Self {
                watch: Watch::new(QUIET),
                second: 1000,
                seen: Seen::default(),
            }
        }

        /// Seconds until the next turn, at most `limit`.
        fn next(&mut self, limit: u64) -> (u64, Option<Turn>) {
            for passed in 1..=limit {
                self.second += 1;
                let turn = self.watch.turn(Duration::from_secs(self.second), self.seen);
                if let Some(turn) = turn {
                    self.seen.rests = matches!(turn, Turn::Rest { .. });
                    return (passed, Some(turn));
                }
            }
            (limit, None)
        }
    }

    const REST_NOW: Option<Turn> = Some(Turn::Rest { left: 0 });

    #[test]
    fn it_rests_when_nothing_was_found_for_a_while_and_looks_up_now_and_then() {
        let mut node = Node::new();
        assert_eq!(node.next(60), (31, REST_NOW));
        for _ in 0..3 {
            assert_eq!(node.next(1000), (301, Some(Turn::Look)));
            assert_eq!(node.next(60), (6, REST_NOW));
        }
    }

    #[test]
    fn every_old_socket_and_every_lost_flag_keeps_it_awake() {
        let mut node = Node::new();
        for _ in 0..4 {
            assert_eq!(node.next(29), (29, None));
            node.seen.found += 1;
            assert_eq!(node.next(29), (29, None));
            node.seen.lost += 1;
        }
        assert_eq!(node.next(60), (31, REST_NOW));
    }

    #[test]
    fn open_old_connections_hold_it_but_not_for_ever() {
        let mut node = Node::new();
        node.next(10);
        (node.seen.found, node.seen.open) = (2, 2);
        assert_eq!(node.next(300), (300, None));
        node.seen.open = 0;
        assert_eq!(node.next(60), (1, REST_NOW));

        let mut node = Node::new();
        node.next(10);
        (node.seen.found, node.seen.open) = (2, 2);
        assert_eq!(node.next(1000), (601, Some(Turn::Rest { left: 2 })));
        // A look does not begin the time anew, a find does.
        assert_eq!(node.next(1000), (301, Some(Turn::Look)));
        assert_eq!(node.next(1000), (6, Some(Turn::Rest { left: 2 })));
        assert_eq!(node.next(1000), (301, Some(Turn::Look)));
        node.next(2);
        (node.seen.found, node.seen.open) = (3, 3);
        assert_eq!(node.next(1000), (601, Some(Turn::Rest { left: 3 })));
    }

    #[test]
    fn lost_flags_wake_it_at_once() {
        let mut node = Node::new();
        assert_eq!(node.next(60), (31, REST_NOW));
        assert_eq!(node.next(7), (7, None));
        node.seen.lost += 1;
        assert_eq!(node.next(60), (1, Some(Turn::Wake)));
        assert_eq!(node.next(60), (31, REST_NOW));
        // Also those of the very second in which it went to rest.
        node.seen.lost += 1;
        assert_eq!(node.next(60), (1, Some(Turn::Wake)));
    }

    #[test]
    fn a_load_wakes_it_and_a_restarted_agent_leaves_it_as_it_is() {
        let mut node = Node::new();
        assert_eq!(node.next(60), (31, REST_NOW));
        node.next(3);
        node.seen.rests = false;
        assert_eq!(node.next(60), (31, REST_NOW));
        node.watch = Watch::new(QUIET);
        assert_eq!(node.next(1000), (301, Some(Turn::Look)));
    }
}
