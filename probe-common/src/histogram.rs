//! Log-linear histograms: 16 buckets per power of two of a tick of 0.2 s / 2²³ (≈ 23.84 ns).
//!
//! The tick makes every 0.2 s · 2ᵏ, 0.25 s · 2ᵏ, 0.3125 s · 2ᵏ (and so on in sixteenths) a bucket
//! edge, so 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5 and 10 s serve classic Prometheus buckets and every
//! power of two of a second serves native ones (schema 0), without interpolation.
//! A value is at most 1/32 = 3.125 % away from its bucket's midpoint from 1 µs up to [`RANGE_NS`].

/// Buckets of one histogram: 16 linear ones, then 16 for each of 28 octaves of ticks.
pub const BUCKETS: usize = 16 + 28 * 16;
/// Mask that every bucket number survives.
pub const BUCKET_MASK: u64 = 511;
/// Largest tick, exclusive: 2³² ticks ≈ 102.4 s. Longer samples go into the last bucket and are counted.
pub const TICKS: u64 = 1 << 32;
/// Largest sample in range, ns, exclusive.
pub const RANGE_NS: u64 = 102_400_000_000;

/// Ticks per nanosecond × 2³⁰ = 2²³ / 0.2e9 · 2³⁰, rounded down. The rounding is 6·10⁻⁹, and makes
/// a sample exactly on an edge fall into the bucket below it, as Prometheus' `le` wants.
const TICKS_PER_NS_30: u64 = 45_035_996;
/// 0.2 s is this many ticks.
const TICKS_PER_FIFTH: u64 = 1 << 23;

/// One histogram as it lies in a slot. The count of samples is the sum of the buckets.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// Sum of the samples, ns.
    pub sum_ns: u64,
    pub buckets: [u64; BUCKETS],
}

impl Histogram {
    pub const EMPTY: Self = Self {
        sum_ns: 0,
        buckets: [0; BUCKETS],
    };

    /// Adds a sample; the same arithmetic as in the kernel. True if it was above the range.
    pub fn record(&mut self, ns: u64) -> bool {
        self.sum_ns = self.sum_ns.wrapping_add(ns);
        let bucket = &mut self.buckets[index(ns)];
        *bucket = bucket.wrapping_add(1);
        clamps(ns)
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, b| sum.wrapping_add(*b))
    }

    pub fn merge(&mut self, other: &Self) {
        self.sum_ns = self.sum_ns.wrapping_add(other.sum_ns);
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine = mine.wrapping_add(*theirs);
        }
    }
}

/// Whether a sample is above the range and belongs to [`crate::Counter::Clamped`].
#[inline(always)]
pub const fn clamps(ns: u64) -> bool {
    ns >= RANGE_NS
}

/// Bucket of a sample.
#[inline(always)]
pub const fn index(ns: u64) -> usize {
    if clamps(ns) {
        return BUCKETS - 1;
    }
    // Below 2³⁷ · 2²⁶: no overflow.
    let ticks = (ns * TICKS_PER_NS_30) >> 30;
    if ticks < 16 {
        return ticks as usize;
    }
    let octave = 63 - ticks.leading_zeros();
    let shift = octave - 4;
    (16 + shift * 16) as usize + ((ticks >> shift) & 15) as usize
}

/// Lower edge of a bucket in ticks; `edge_ticks(BUCKETS)` is the end of the range.
pub const fn edge_ticks(bucket: usize) -> u64 {
    if bucket < 16 {
        return bucket as u64;
    }
    let shift = (bucket - 16) / 16;
    ((16 + (bucket - 16) % 16) as u64) << shift
}

/// A tick count in seconds; exact in `f64` up to one rounding.
pub const fn ticks_seconds(ticks: u64) -> f64 {
    (ticks as f64) / ((5 * TICKS_PER_FIFTH) as f64)
}

/// Upper edge of a bucket in seconds: the `le` of a classic Prometheus bucket.
pub const fn upper_seconds(bucket: usize) -> f64 {
    ticks_seconds(edge_ticks(bucket + 1))
}

/// Middle of a bucket in seconds: what a quantile reports.
pub const fn midpoint_seconds(bucket: usize) -> f64 {
    (ticks_seconds(edge_ticks(bucket)) + ticks_seconds(edge_ticks(bucket + 1))) / 2.0
}

/// The number of buckets whose upper edge is at most `seconds`, if `seconds` is an edge.
pub fn buckets_up_to(seconds: f64) -> Option<usize> {
    (0..BUCKETS)
        .find(|bucket| {
            let edge = upper_seconds(*bucket);
            (edge - seconds).abs() <= seconds * 1e-12
        })
        .map(|bucket| bucket + 1)
}

/// Edges of a classic Prometheus ladder that are bucket edges here, in seconds.
pub const CLASSIC_SECONDS: [f64; 17] = [
    0.000_390_625,
    0.000_781_25,
    0.001_562_5,
    0.003_125,
    0.006_25,
    0.012_5,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    20.0,
    40.0,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_contiguous_and_monotone() {
        for bucket in 0..BUCKETS {
            assert!(edge_ticks(bucket) < edge_ticks(bucket + 1), "{bucket}");
        }
        assert_eq!(edge_ticks(BUCKETS), TICKS);
        let mut last = 0;
        let mut ns: u64 = 0;
        while ns < 2 * RANGE_NS {
            let bucket = index(ns);
            assert!(bucket >= last && bucket < BUCKETS, "{ns} ns");
            last = bucket;
            ns = ns + ns / 997 + 1;
        }
        assert_eq!(last, BUCKETS - 1);
    }

    #[test]
    fn error_is_at_most_one_thirty_second_from_a_microsecond_to_a_minute() {
        let mut ns: u64 = 1_000;
        let mut worst: f64 = 0.0;
        while ns <= 60_000_000_000 {
            let seconds = ns as f64 / 1e9;
            let error = (midpoint_seconds(index(ns)) - seconds).abs() / seconds;
            worst = worst.max(error);
            ns = ns + ns / 4_001 + 1;
        }
        assert!(worst <= 0.031_26, "{worst}");
        assert!(worst > 0.025, "the sweep missed the edges: {worst}");
    }

    #[test]
    fn classic_and_native_edges_are_exact() {
        for seconds in CLASSIC_SECONDS {
            assert!(buckets_up_to(seconds).is_some(), "{seconds} s");
        }
        for k in -18..=6 {
            let seconds = 2f64.powi(k);
            assert!(buckets_up_to(seconds).is_some(), "2^{k} s");
        }
        assert_eq!(buckets_up_to(0.003), None);
    }

    #[test]
    fn a_sample_on_an_edge_is_counted_below_it() {
        for (ns, seconds) in [
            (25_000_000, 0.025),
            (100_000_000, 0.1),
            (250_000_000, 0.25),
            (1_000_000_000, 1.0),
            (2_500_000_000, 2.5),
        ] {
            let upto = buckets_up_to(seconds).unwrap();
            assert!(index(ns) < upto, "{ns} ns");
            // The tick's rounding blurs an edge by 6e-9 of itself.
            assert!(index(ns + ns / 100_000_000 + 1) >= upto, "{ns} ns");
        }
    }

    #[test]
    fn the_range_ends_where_it_says() {
        assert!(!clamps(RANGE_NS - 1) && clamps(RANGE_NS) && clamps(u64::MAX));
        assert_eq!(index(RANGE_NS - 1), BUCKETS - 1);
        assert_eq!(index(u64::MAX), BUCKETS - 1);
        assert_eq!(index(0), 0);
    }

    #[test]
    fn merging_adds_counts_and_sums() {
        let mut a = Histogram::EMPTY;
        let mut b = Histogram::EMPTY;
        a.record(1_000_000);
        b.record(1_000_000);
        assert!(b.record(200_000_000_000));
        a.merge(&b);
        assert_eq!(a.count(), 3);
        assert_eq!(a.sum_ns, 200_002_000_000);
        assert_eq!(a.buckets[index(1_000_000)], 2);
    }
}
