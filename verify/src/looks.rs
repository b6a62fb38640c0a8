//! When a run looks at its samples, and how much of the error each look may spend.
//!
//! A group-sequential plan: the looks are fixed before the run, each at a multiple of the first one's samples,
//! and the chance of an error at look j is at most its share of α. The shares add up to one, so however the looks
//! depend on each other, and whenever the run stops, the chance over all of them is at most α.

use crate::stats::samples_tolerating;

/// Samples at each look, in those of the first.
const TIMES: [u64; 4] = [1, 2, 4, 8];
/// Most of α is for the first look, so that a healthy mesh, which is decided there, pays two samples in a hundred
/// for the right to look again.
const FIRST_SHARE: f64 = 0.9;

/// Looks that a run may take.
pub const MOST: usize = TIMES.len();

/// The share of α that look `look` (from 0) may spend.
pub fn share(look: usize) -> f64 {
    match look {
        0 => FIRST_SHARE,
        1..MOST => (1.0 - FIRST_SHARE) / (MOST - 1) as f64,
        _ => 0.0,
    }
}

/// Samples up to and with look `look`, in those of the first look.
pub fn times(look: usize) -> u64 {
    TIMES[look.min(MOST - 1)]
}

/// Confidence that a single look works at, so that all together keep `confidence`.
pub fn confidence_at(look: usize, confidence: f64) -> f64 {
    1.0 - (1.0 - confidence) * share(look)
}

/// Samples of the first look: the fewest that prove the objective `p0` at that look although `bad` of them were bad.
pub fn first_look(p0: f64, confidence: f64, bad: u64) -> Option<u64> {
    first_look_in_bursts(p0, confidence, bad, 1.0)
}

/// [`first_look`] of trials whose bad ones come in bursts of `mean`.
pub fn first_look_in_bursts(p0: f64, confidence: f64, bad: u64, mean: f64) -> Option<u64> {
    samples_tolerating(p0, confidence_at(0, confidence), bad, mean)
}

/// A p-value over all looks from those of the looks taken: at most α with a chance of at most α.
pub(crate) fn over_looks(at_look: impl Iterator<Item = f64>) -> f64 {
    at_look
        .enumerate()
        .map(|(look, p)| p / share(look))
        .fold(1.0, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{Count, p_too_few};

    #[test]
    fn all_looks_together_spend_no_more_than_everything() {
        let sum: f64 = (0..MOST + 3).map(share).sum();
        assert!((sum - 1.0).abs() < 1e-12, "{sum}");
        assert!((0..MOST).all(|look| share(look) > 0.0));
        assert!((over_looks([0.045].into_iter()) - 0.05).abs() < 1e-12);
        assert!((over_looks([0.5, 0.001, 0.9].into_iter()) - 0.03).abs() < 1e-12);
        assert_eq!(over_looks(std::iter::empty()), 1.0);
    }

    #[test]
    fn no_look_is_too_small_for_a_clean_link() {
        for p0 in [0.05, 0.01, 0.002, 0.001] {
            let first = first_look(p0, 0.95, 1).expect("decidable");
            for look in 0..MOST {
                let clean = Count::new(first * times(look), 0);
                assert!(p_too_few(clean, p0) <= 0.05 * share(look), "{p0} {look}");
            }
        }
    }

    #[test]
    fn the_first_look_hardly_grows() {
        assert_eq!(first_look(0.01, 0.95, 0), Some(309));
        assert_eq!(first_look(0.01, 0.95, 1), Some(486));
    }
}
