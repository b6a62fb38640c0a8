//! The words' protocol, in every order in which hooks can meet.

extern crate std;

use std::{collections::BTreeSet, vec, vec::Vec};

use super::*;

const OURS: u64 = 7;
const THIEF: u64 = OURS + 16_384;

#[test]
fn a_word_keeps_cookie_phase_and_marks_apart() {
    let word = begin(u64::MAX >> TAG_SHIFT, phase::LET_GO);
    assert!(is_of(word, u64::MAX >> TAG_SHIFT) && phase_of(word) == phase::LET_GO);
    let word = with_phase(
        begin(OURS, phase::CONNECTING) | RELEASED | LOST,
        phase::DONE,
    );
    assert_eq!(word, begin(OURS, phase::DONE) | RELEASED | LOST);
    assert!(!is_of(0, OURS) && !is_of(word, THIEF));
}

#[test]
fn an_entry_is_free_when_nobody_can_come_back_to_it() {
    assert!(is_free(0, 0));
    assert!(is_free(begin(OURS, phase::DONE), 0));
    for phase in [
        phase::NEW,
        phase::ATTEMPTED,
        phase::CONNECTING,
        phase::ESTABLISHED,
        phase::ENDING,
        phase::LET_GO,
    ] {
        assert!(!is_free(begin(OURS, phase), LET_GO_UNITS - 1), "{phase}");
    }
    assert!(is_free(begin(OURS, phase::LET_GO), LET_GO_UNITS));
    assert!(!is_free(begin(OURS, phase::ESTABLISHED), u32::MAX));
}

#[test]
fn letting_go_ends_what_no_callback_will_end() {
    let after = |phase, state, reported| released(begin(OURS, phase), state, reported, true, true);
    let let_go = begin(OURS, phase::LET_GO) | RELEASED;
    assert_eq!(after(phase::ATTEMPTED, tcp::CLOSE, 0), let_go);
    assert_eq!(
        after(phase::CONNECTING, tcp::SYN_SENT, tcp::SYN_SENT),
        let_go
    );
    assert_eq!(
        after(phase::CONNECTING, tcp::CLOSE, tcp::SYN_SENT),
        let_go | LOST
    );
    assert_eq!(
        after(phase::ESTABLISHED, tcp::ESTABLISHED, tcp::ESTABLISHED),
        begin(OURS, phase::ESTABLISHED) | RELEASED
    );
    assert_eq!(
        after(phase::ESTABLISHED, tcp::CLOSE_WAIT, tcp::ESTABLISHED),
        begin(OURS, phase::ESTABLISHED) | RELEASED | LOST
    );
    assert_eq!(
        after(phase::ESTABLISHED, tcp::CLOSE, tcp::ESTABLISHED),
        let_go | LOST
    );
    // No callbacks were asked for, so none is missed.
    let old = begin(OURS, phase::ESTABLISHED);
    assert_eq!(
        released(old, tcp::CLOSE_WAIT, 0, false, true),
        old | RELEASED
    );
    // While `egress` rests, nobody would see how these two end.
    assert_eq!(released(old, tcp::CLOSE_WAIT, 0, false, false), let_go);
    let unwatched = |state, reported| released(old, state, reported, true, false);
    assert_eq!(unwatched(tcp::CLOSE_WAIT, tcp::ESTABLISHED), let_go | LOST);
    assert_eq!(unwatched(tcp::ESTABLISHED, tcp::SYN_RECV), let_go | LOST);
    assert_eq!(
        unwatched(tcp::ESTABLISHED, tcp::ESTABLISHED),
        old | RELEASED
    );
    for counted in [phase::ENDING, phase::DONE, phase::LET_GO] {
        assert_eq!(
            after(counted, tcp::CLOSE, tcp::ESTABLISHED),
            begin(OURS, counted)
        );
    }
}

#[test]
fn only_what_was_closed_and_never_reported_is_abandoned() {
    let closed = begin(OURS, phase::ESTABLISHED) | RELEASED;
    for reported in [tcp::SYN_RECV, tcp::ESTABLISHED, tcp::CLOSE_WAIT] {
        assert!(is_abandoned(closed, reported, ABANDONED_UNITS));
        assert!(!is_abandoned(closed, reported, ABANDONED_UNITS - 1));
        assert!(!is_abandoned(closed & !RELEASED, reported, u32::MAX));
    }
    for reported in [
        tcp::FIN_WAIT1,
        tcp::FIN_WAIT2,
        tcp::CLOSING,
        tcp::LAST_ACK,
        tcp::CLOSE,
    ] {
        assert!(!is_abandoned(closed, reported, u32::MAX), "{reported}");
    }
    for phase in [phase::CONNECTING, phase::ENDING, phase::DONE, phase::LET_GO] {
        let word = begin(OURS, phase) | RELEASED;
        assert!(!is_abandoned(word, tcp::ESTABLISHED, u32::MAX), "{phase}");
    }
}

/// What a hook does in one step that no other can divide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// The entry is looked up and its word read.
    Read,
    /// The word becomes another if it is what was read.
    Exchange,
    /// A field is written, or the word's end.
    Write,
    Over,
}

/// A hook that holds the socket lock, `sock_release`, or another socket that wants the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Hook {
    step: Step,
    read: u64,
    tries: u8,
}

const BEGIN: Hook = Hook {
    step: Step::Read,
    read: 0,
    tries: 0,
};

/// What callbacks do one after another, under the socket lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Callback {
    Connected,
    MarkLost,
    Ended,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    word: u64,
    callback: usize,
    locked: Hook,
    release: Hook,
    thief: Hook,
    ends: u8,
    losses: u8,
}

struct Explorer<'a> {
    callbacks: &'a [Callback],
    /// The TCP state that `sock_release` reads, and whether it is behind what was reported.
    state: u32,
    reported: u32,
    watched: bool,
    seen: BTreeSet<World>,
    finished: Vec<World>,
}

impl Explorer<'_> {
    fn explore(&mut self, world: World) {
        if !self.seen.insert(world.clone()) {
            return;
        }
        let next = [
            self.locked(&world),
            self.release(&world),
            Self::thief(&world),
        ];
        if next.iter().all(Option::is_none) {
            self.finished.push(world);
            return;
        }
        for world in next.into_iter().flatten() {
            self.explore(world);
        }
    }

    /// `connected`, `Socket::lost` and `closed` of the programs.
    fn locked(&self, world: &World) -> Option<World> {
        let mut next = world.clone();
        let callback = *self.callbacks.get(world.callback)?;
        let hook = &mut next.locked;
        let over = |world: &mut World| {
            world.callback += 1;
            world.locked = BEGIN;
        };
        let (from, to) = match callback {
            Callback::Connected => (phase::CONNECTING, phase::ESTABLISHED),
            Callback::MarkLost | Callback::Ended => (phase::ESTABLISHED, phase::ENDING),
        };
        match hook.step {
            Step::Read => {
                hook.read = world.word;
                let mine = is_of(world.word, OURS);
                let go_on = match callback {
                    Callback::MarkLost => world.word & LOST == 0 && phase_of(world.word) == from,
                    _ => phase_of(world.word) == from,
                };
                if mine && go_on {
                    hook.step = Step::Exchange;
                } else {
                    over(&mut next);
                }
            }
            Step::Exchange if world.word == hook.read => {
                let marks = callback == Callback::MarkLost;
                next.word = if marks {
                    hook.read | LOST
                } else {
                    with_phase(hook.read, to)
                };
                match callback {
                    Callback::Connected => over(&mut next),
                    Callback::MarkLost => {
                        next.losses += 1;
                        over(&mut next);
                    }
                    Callback::Ended => {
                        next.ends += 1;
                        next.locked.step = Step::Write;
                    }
                }
            }
            Step::Exchange => {
                hook.tries += 1;
                assert!(hook.tries < 2, "two tries suffice: {world:?}");
                hook.step = Step::Read;
            }
            Step::Write => {
                assert!(is_of(world.word, OURS), "written to a stranger: {world:?}");
                next.word = with_phase(world.word, phase::DONE);
                over(&mut next);
            }
            Step::Over => return None,
        }
        Some(next)
    }

    fn released(&self, word: u64) -> u64 {
        released(word, self.state, self.reported, true, self.watched)
    }

    fn release(&self, world: &World) -> Option<World> {
        let mut next = world.clone();
        let hook = &mut next.release;
        match hook.step {
            Step::Read => {
                hook.read = world.word;
                hook.step = if is_of(world.word, OURS) && self.released(world.word) != world.word {
                    Step::Exchange
                } else {
                    Step::Over
                };
            }
            Step::Exchange if world.word == hook.read => {
                let after = self.released(hook.read);
                next.word = after;
                next.losses += u8::from(after & !hook.read & LOST != 0);
                let ended = phase_of(after) == phase::LET_GO;
                next.ends += u8::from(ended);
                next.release.step = if ended { Step::Write } else { Step::Over };
            }
            Step::Exchange => {
                hook.tries += 1;
                assert!(hook.tries < 4, "four tries suffice: {world:?}");
                hook.step = Step::Read;
            }
            Step::Write => {
                assert!(is_of(world.word, OURS), "written to a stranger: {world:?}");
                next.release.step = Step::Over;
            }
            Step::Over => return None,
        }
        Some(next)
    }

    fn thief(world: &World) -> Option<World> {
        let mut next = world.clone();
        match world.thief.step {
            Step::Read => {
                next.thief.read = world.word;
                next.thief.step = if is_free(world.word, 0) {
                    Step::Exchange
                } else {
                    Step::Over
                };
            }
            Step::Exchange => {
                if world.word == world.thief.read {
                    next.word = begin(THIEF, phase::NEW);
                }
                next.thief.step = Step::Over;
            }
            Step::Write | Step::Over => return None,
        }
        Some(next)
    }
}

fn explore(
    callbacks: &[Callback],
    word: u64,
    (state, reported): (u32, u32),
    watched: bool,
) -> Vec<World> {
    let mut explorer = Explorer {
        callbacks,
        state,
        reported,
        watched,
        seen: BTreeSet::new(),
        finished: vec![],
    };
    explorer.explore(World {
        word,
        callback: 0,
        locked: BEGIN,
        release: BEGIN,
        thief: BEGIN,
        ends: 0,
        losses: 0,
    });
    explorer.finished
}

#[test]
fn in_every_order_a_connection_ends_once_and_nobody_writes_to_a_stranger() {
    use Callback::{Connected, Ended, MarkLost};
    let mut stolen = 0;
    for state in [tcp::SYN_SENT, tcp::ESTABLISHED, tcp::CLOSE] {
        for reported in [tcp::SYN_SENT, tcp::ESTABLISHED, tcp::CLOSE] {
            for callbacks in [
                &[Connected, MarkLost, Ended][..],
                &[Connected, Ended],
                &[Connected],
            ] {
                let begun = begin(OURS, phase::CONNECTING);
                for watched in [true, false] {
                    for world in explore(callbacks, begun, (state, reported), watched) {
                        let will_end = callbacks.contains(&Ended);
                        assert!(world.ends <= 1 && world.losses <= 1, "{world:?}");
                        assert!(world.ends == 1 || !will_end, "{world:?}");
                        stolen += u32::from(is_of(world.word, THIEF));
                    }
                }
            }
        }
    }
    assert!(stolen > 0, "the model never gave the entry away");
}
