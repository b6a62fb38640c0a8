//! The search for the largest packet that passes, exact to the byte. Pure: it says what to send next and is told
//! what came of it.
//!
//! Every sized datagram travels beside a small one. A size is given up only after silences beside answered small
//! ones, as many as it takes for loss to explain them with a probability below [`DOUBT`]; the loss itself is
//! estimated from the small ones. The size after the result is given up twice, independently. An answer
//! is a proof at any time, also a late one, and reopens what was given up.

/// Fewest silences that give a size up.
const LEAST: u32 = 3;
/// Above this many the path loses too much to tell.
const MOST: u32 = 16;
/// How probable a false "does not pass" may be, per size.
const DOUBT: f64 = 1e-4;
/// Small ones before their loss is believed to be too much.
const TRUST: u32 = 32;
/// Pairs in a row of which not even the small one was answered: an outage.
const OUTAGE: u32 = 24;
const MAX_REOPENED: u32 = 3;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Send a pair; so many more decide this size if all stay silent.
    Try { size: u16, pairs: u32 },
    /// The largest size that passes.
    Found(u16),
    /// No figure is better than a wrong one.
    Hopeless,
}

#[derive(Clone, Debug)]
pub(super) struct Search {
    /// Passes for certain.
    passes: u16,
    /// Given up, or refused by the sender's stack: exclusive upper bound.
    fails: u16,
    /// What the sender's stack lets out, plus one.
    local: u16,
    /// A hop named this MTU.
    hint: Option<u16>,
    /// The size whose silences are counted.
    trying: u16,
    silences: u32,
    confirmed: bool,
    small_sent: u32,
    small_lost: u32,
    dark: u32,
    reopened: u32,
}

impl Search {
    /// `passes` is known to pass; nothing above `ceiling` is tried.
    pub(super) fn new(passes: u16, ceiling: u16) -> Self {
        let above = ceiling.saturating_add(1).max(passes + 1);
        Self {
            passes,
            fails: above,
            local: above,
            hint: None,
            trying: 0,
            silences: 0,
            confirmed: false,
            small_sent: 0,
            small_lost: 0,
            dark: 0,
            reopened: 0,
        }
    }

    /// Silences that it takes, by the loss seen so far.
    fn needed(&self) -> Option<u32> {
        let loss = f64::from(self.small_lost + 1) / f64::from(self.small_sent + 2);
        let needed = (DOUBT.ln() / loss.ln()).ceil();
        (needed <= f64::from(MOST)).then_some((needed as u32).max(LEAST))
    }

    pub(super) fn next(&self) -> Next {
        if self.dark >= OUTAGE || self.reopened > MAX_REOPENED {
            return Next::Hopeless;
        }
        // A bad start is no proof of a bad path.
        let early = self.small_sent < TRUST;
        let Some(needed) = self.needed().or(early.then_some(MOST)) else {
            return Next::Hopeless;
        };
        let size = if self.passes + 1 < self.fails {
            self.candidate()
        } else if self.fails == self.local || self.confirmed {
            return Next::Found(self.passes);
        } else {
            self.fails
        };
        let silences = if size == self.trying {
            self.silences
        } else {
            0
        };
        Next::Try {
            size,
            pairs: needed.saturating_sub(silences).max(1),
        }
    }

    fn candidate(&self) -> u16 {
        if self.fails == self.local && self.hint.is_none() {
            // Most paths are as wide as the interface.
            return self.fails - 1;
        }
        match self.hint {
            Some(hint) if hint > self.passes && hint < self.fails => hint,
            Some(hint) if hint == self.passes => hint + 1,
            _ => self.passes + (self.fails - self.passes) / 2,
        }
    }

    /// A datagram of `size` was answered, now or earlier.
    pub(super) fn heard(&mut self, size: u16) {
        if size >= self.fails {
            self.reopened += 1;
            self.fails = self.local;
            self.confirmed = false;
        }
        self.passes = self.passes.max(size).min(self.local - 1);
        if size == self.trying {
            self.silences = 0;
        }
    }

    /// A pair of which the sized one was not answered.
    pub(super) fn silent(&mut self, size: u16, small_answered: bool) {
        self.small(small_answered);
        if !small_answered || size <= self.passes {
            return;
        }
        if self.trying != size {
            self.trying = size;
            self.silences = 0;
        }
        self.silences += 1;
        if self.needed().is_none_or(|needed| self.silences < needed) {
            return;
        }
        self.silences = 0;
        if size == self.fails {
            self.confirmed = true;
        } else if size < self.fails {
            self.fails = size;
            self.confirmed = false;
        }
    }

    /// A small datagram had an answer in time, or none.
    pub(super) fn small(&mut self, answered: bool) {
        self.small_sent += 1;
        if answered {
            self.dark = 0;
        } else {
            self.small_lost += 1;
            self.dark += 1;
        }
    }

    /// The sender's stack sends nothing larger than `mtu`.
    pub(super) fn refused_locally(&mut self, mtu: u16) {
        let above = mtu.saturating_add(1).max(self.passes + 1);
        if above < self.local {
            self.local = above;
            self.trying = 0;
        }
        self.fails = self.fails.min(self.local);
    }

    /// A hop says that it takes packets up to `mtu`. It may be wrong: it only says where to look.
    pub(super) fn too_big(&mut self, mtu: u16) {
        self.hint = Some(mtu);
    }

    /// Largest packet that leaves the sender.
    pub(super) fn local(&self) -> u16 {
        self.local - 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Enough of a random generator for a simulated path (xorshift).
    struct Dice(u64);

    impl Dice {
        fn chance(&mut self, probability: f64) -> bool {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 11) as f64 / (1_u64 << 53) as f64 <= probability
        }
    }

    struct Path {
        mtu: u16,
        interface: u16,
        /// That an exchange is lost.
        loss: f64,
        /// What the hop says, if it says anything.
        claims: Option<u16>,
    }

    /// What the search finds, and the pairs that it took.
    fn find(path: &Path, ceiling: u16, seed: u64) -> (Option<u16>, u32) {
        let mut dice = Dice(seed | 1);
        let mut search = Search::new(476, ceiling);
        for pairs in 0..10_000 {
            match search.next() {
                Next::Found(size) => return (Some(size), pairs),
                Next::Hopeless => return (None, pairs),
                Next::Try { size, .. } if size > path.interface => {
                    search.refused_locally(path.interface);
                }
                Next::Try { size, .. } => {
                    let passes = size <= path.mtu;
                    if !passes && let Some(claim) = path.claims {
                        search.too_big(claim);
                    }
                    let small = !dice.chance(path.loss);
                    if passes && !dice.chance(path.loss) {
                        search.heard(size);
                        search.small(small);
                    } else {
                        search.silent(size, small);
                    }
                }
            }
        }
        panic!("the search does not end");
    }

    fn clean(mtu: u16) -> Path {
        Path {
            mtu,
            interface: 1_500,
            loss: 0.0,
            claims: None,
        }
    }

    #[test]
    fn every_mtu_is_found_to_the_byte() {
        for mtu in 476..=1_500 {
            assert_eq!(find(&clean(mtu), 9_216, 1).0, Some(mtu));
        }
        for mtu in [4_000, 8_999, 9_000] {
            let jumbo = Path {
                interface: 9_000,
                ..clean(mtu)
            };
            assert_eq!(find(&jumbo, 9_216, 1).0, Some(mtu));
        }
        // Nothing above the ceiling is tried.
        let loopback = Path {
            interface: 65_535,
            ..clean(65_535)
        };
        assert_eq!(find(&loopback, 9_216, 1), (Some(9_216), 1));
    }

    #[test]
    fn a_clean_path_takes_one_pair_and_a_word_from_a_hop_a_few() {
        assert_eq!(find(&clean(1_500), 1_500, 1), (Some(1_500), 1));
        let told = Path {
            claims: Some(1_400),
            ..clean(1_400)
        };
        let (found, pairs) = find(&told, 1_500, 1);
        assert_eq!(found, Some(1_400));
        let (_, silent) = find(&clean(1_400), 1_500, 1);
        assert!(pairs <= 16 && silent <= 60, "{pairs} and {silent} pairs");
    }

    #[test]
    fn a_hop_that_lies_does_not_decide() {
        for claim in [0, 68, 477, 1_300, 1_450, 1_499, 1_500, 9_000, u16::MAX] {
            let lied = Path {
                claims: Some(claim),
                ..clean(1_400)
            };
            assert_eq!(find(&lied, 1_500, 1).0, Some(1_400), "claims {claim}");
        }
    }

    #[test]
    fn loss_is_not_taken_for_an_mtu() {
        // 2 % each way.
        // 2 % each way, and far more than any mesh is used with.
        for (loss, seed) in [(0.04, 7_919_u64), (0.2, 15_485_863), (0.3, 104_729)] {
            let (mut found, mut false_mtu) = (0, 0);
            for round in 1..=2_000 {
                let lossy = Path {
                    loss,
                    ..clean(1_450)
                };
                match find(&lossy, 1_500, seed * round).0 {
                    Some(1_450) => found += 1,
                    Some(_) => false_mtu += 1,
                    None => {}
                }
            }
            assert_eq!(false_mtu, 0, "of 2000 at loss {loss}");
            assert!(found >= 1_980, "{found} of 2000 at loss {loss}");
        }
    }

    #[test]
    fn an_outage_gives_no_figure() {
        for loss in [0.9, 1.0] {
            let dead = Path {
                loss,
                ..clean(1_500)
            };
            for seed in 1..50 {
                let (found, pairs) = find(&dead, 1_500, seed * 31);
                assert!(found.is_none_or(|mtu| mtu == 1_500), "{found:?} at {loss}");
                assert!(pairs < 1_000);
            }
        }
    }

    /// A search that has seen a path without loss.
    fn seasoned() -> Search {
        let mut search = Search::new(476, 1_500);
        for _ in 0..60 {
            search.small(true);
        }
        search
    }

    #[test]
    fn a_silence_counts_only_beside_an_answered_small_one() {
        let mut search = seasoned();
        for _ in 0..6 {
            search.silent(1_500, false);
        }
        assert!(matches!(search.next(), Next::Try { size: 1_500, .. }));
        for _ in 0..6 {
            search.silent(1_500, true);
        }
        assert!(matches!(search.next(), Next::Try { size, .. } if size < 1_500));
    }

    #[test]
    fn the_size_above_the_result_is_given_up_twice() {
        let mut search = seasoned();
        search.heard(1_450);
        search.fails = 1_451;
        let Next::Try { size: 1_451, pairs } = search.next() else {
            panic!("{:?}", search.next());
        };
        for _ in 0..pairs {
            assert!(matches!(search.next(), Next::Try { size: 1_451, .. }));
            search.silent(1_451, true);
        }
        assert_eq!(search.next(), Next::Found(1_450));
    }

    #[test]
    fn a_late_answer_reopens_what_was_given_up() {
        let mut search = Search::new(476, 1_500);
        while search.next()
            == (Next::Try {
                size: 1_500,
                pairs: match search.next() {
                    Next::Try { pairs, .. } => pairs,
                    other => panic!("{other:?}"),
                },
            })
        {
            search.silent(1_500, true);
        }
        search.heard(1_500);
        assert_eq!(search.next(), Next::Found(1_500));
        // A path that changes its mind again and again has no MTU.
        for _ in 0..4 {
            search.fails = 1_000;
            search.heard(1_200);
        }
        assert_eq!(search.next(), Next::Hopeless);
    }

    proptest! {
        #[test]
        fn whatever_is_told_it_ends_and_never_leaves_its_bounds(
            told in proptest::collection::vec((0_u8..5, any::<u16>(), any::<bool>()), 0..300),
            ceiling in 476_u16..9_300,
        ) {
            let mut search = Search::new(476, ceiling);
            for (what, value, flag) in told {
                match what {
                    0 => search.heard(value.min(search.local())),
                    1 => search.silent(value, flag),
                    2 => search.small(flag),
                    3 => search.refused_locally(value),
                    _ => search.too_big(value),
                }
                match search.next() {
                    Next::Try { size, pairs } => {
                        prop_assert!(size > search.passes && size <= search.local());
                        prop_assert!((1..=MOST).contains(&pairs));
                    }
                    Next::Found(size) => prop_assert!(size >= 476 && size <= search.local()),
                    Next::Hopeless => {}
                }
            }
        }
    }
}
