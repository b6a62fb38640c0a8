//! How often the verdict is wrong: simulated links near the objective, probed and judged look by look.
//! The whole of it, with its picture: `cargo xtask simulate`.

mod simulate;
mod world;

use simulate::{ALPHA, Judged, Loss, P0, links, links_against};
use verify::checks::{POD_UDP, burst};
use verify::stats::{Count, holm, p_too_few, p_too_many};
use world::Random;

const LINKS: u64 = 600;

/// α plus three standard errors of the simulation itself.
fn tolerated() -> f64 {
    ALPHA + 3.0 * (ALPHA * (1.0 - ALPHA) / LINKS as f64).sqrt()
}

fn wrong(sum: &Judged, times: f64) -> (f64, &'static str) {
    if times > 1.0 {
        (sum.share(sum.ready), "READY")
    } else {
        (sum.share(sum.not_ready), "NOT READY")
    }
}

#[test]
fn wrong_verdicts_are_rarer_than_stated() {
    for (seed, times) in [(1, 0.8), (2, 1.0), (3, 1.2)] {
        let sum = links(Loss::Independent, P0 * times, LINKS, seed);
        if times == 1.0 {
            assert!(sum.share(sum.ready) <= tolerated(), "{sum:?}");
            assert!(sum.looks > 3 * LINKS, "several looks: {sum:?}");
        }
        let (share, what) = wrong(&sum, times);
        assert!(share <= tolerated(), "wrong {what} {share} at p0 × {times}");
    }
}

#[test]
fn bursts_do_not_make_verdicts_wrong() {
    let expected = burst(POD_UDP);
    for (seed, times) in [(14, 0.8), (15, 1.0), (16, 1.2)] {
        let sum = links(Loss::Bursts(expected), P0 * times, LINKS, seed);
        if times == 1.0 {
            assert!(sum.share(sum.ready) <= tolerated(), "{sum:?}");
            assert!(sum.share(sum.ready) > 0.02, "would not notice: {sum:?}");
        }
        let (share, what) = wrong(&sum, times);
        assert!(share <= tolerated(), "wrong {what} {share} at p0 × {times}");
    }
    let short = simulate::SHORT_BURST;
    for (seed, times) in [(4, 0.5), (5, 2.0)] {
        let sum = links(Loss::Bursts(short), P0 * times, LINKS, seed);
        let (share, what) = wrong(&sum, times);
        assert!(share <= tolerated(), "wrong {what} {share} at p0 × {times}");
    }
    // However long the bursts, they do not make a link fail that keeps its objective.
    for (seed, mean) in [(6, 5.0), (7, 20.0)] {
        let sum = links(Loss::Bursts(mean), P0, LINKS, seed);
        assert!(sum.share(sum.not_ready) <= tolerated(), "{mean} {sum:?}");
    }
}

#[test]
fn clear_cases_are_decided_at_once() {
    let clean = links(Loss::Independent, 0.0002, LINKS, 8);
    assert_eq!(clean.ready, LINKS);
    // Some lose one of their first 486 probes, which may have been a burst.
    assert!(clean.share(clean.looks) < 1.2, "{clean:?}");
    let lossy = links(Loss::Independent, 0.05, LINKS, 9);
    assert_eq!(lossy.not_ready, LINKS);
    assert!(lossy.share(lossy.looks) < 1.02, "{lossy:?}");
}

/// What one look left open, later ones settle.
#[test]
fn unclear_cases_are_decided_later() {
    let healthy = links(Loss::Independent, P0 / 4.0, LINKS, 10);
    assert!(healthy.share(healthy.ready) > 0.98, "{healthy:?}");
    assert!(healthy.looks > LINKS + LINKS / 4, "{healthy:?}");
    let lossy = links(Loss::Independent, 2.5 * P0, LINKS, 11);
    assert!(lossy.share(lossy.not_ready) > 0.98, "{lossy:?}");
}

#[test]
fn one_percent_is_decided_against_a_fifth_of_it() {
    let (p0, count) = (0.002, 100);
    let lossy = links_against(p0, Loss::Independent, 0.01, count, 12);
    assert_eq!((lossy.not_ready, lossy.ready), (count, 0), "{lossy:?}");
    assert!(lossy.share(lossy.looks) < 1.1, "{lossy:?}");
    let healthy = links_against(p0, Loss::Independent, 0.0002, count, 13);
    assert_eq!(healthy.not_ready, 0, "{healthy:?}");
    assert!(healthy.share(healthy.ready) > 0.95, "{healthy:?}");
}

/// Many links that all sit exactly at the objective: the chance of any false NOT READY stays below α.
#[test]
fn holm_holds_over_a_whole_mesh() {
    let mut random = Random::new(6);
    let (runs, links, n) = (4_000, 30, 640);
    // Binomial draws by inversion from the exact distribution.
    let below: Vec<f64> = (0..=40).map(|k| p_too_few(Count::new(n, k), P0)).collect();
    let mut false_alarms = 0;
    for _ in 0..runs {
        let p_values: Vec<f64> = (0..links)
            .map(|_| {
                let u = random.uniform();
                let k = below.iter().position(|p| u <= *p).unwrap_or(40) as u64;
                p_too_many(Count::new(n, k), P0)
            })
            .collect();
        false_alarms += u32::from(holm(&p_values, ALPHA).contains(&true));
    }
    let rate = f64::from(false_alarms) / f64::from(runs);
    assert!(
        rate <= ALPHA + 3.0 * (ALPHA * (1.0 - ALPHA) / f64::from(runs)).sqrt(),
        "{rate}"
    );
    assert!(rate > 0.005, "the test would not notice: {rate}");
}
