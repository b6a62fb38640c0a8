//! One rule at work: its random stream and whatever it remembers between packets.
//! The same seed gives the same decisions.

use std::collections::HashMap;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

use super::fault::{Fault, FlowKey, Jitter, Loss, Rule};
use super::packet::{Tuple, View, finish};

/// Nanoseconds of one monotonic clock.
pub type Nanos = u64;

/// A flow without a packet for this long is new again, as in a switch's flow table.
const FLOW_IDLE: Nanos = 30_000_000_000;
/// Flows remembered at most; when all are active, all are forgotten.
const FLOWS: usize = 65_536;

pub(super) struct Effect {
    pub(super) rule: Rule,
    rng: ChaCha8Rng,
    /// Decides which hash buckets are bad.
    salt: u64,
    /// Gilbert–Elliott: in the bad state.
    bad: bool,
    /// When each 5-tuple was last seen, for `Fault::Setup`.
    flows: HashMap<u64, Nanos>,
    /// When a rate limiter will have sent everything it accepted.
    busy_until: Nanos,
}

/// A random stream of its own for everything that has a name.
pub(super) fn derive_seed(seed: u64, name: &str) -> u64 {
    name.bytes()
        .fold(finish(seed ^ 0x9e37_79b9_7f4a_7c15), |hash, byte| {
            finish(hash ^ u64::from(byte))
        })
}

impl Effect {
    pub(super) fn new(rule: Rule, seed: u64) -> Self {
        Self {
            rule,
            rng: ChaCha8Rng::seed_from_u64(seed),
            salt: finish(seed),
            bad: false,
            flows: HashMap::new(),
            busy_until: 0,
        }
    }

    fn roll(&mut self, share: f64) -> bool {
        self.rng.random::<f64>() < share
    }

    /// For `Fault::Loss`.
    pub(super) fn loses(&mut self, loss: &Loss, view: &View) -> bool {
        match *loss {
            Loss::Random { share } => self.roll(share),
            Loss::Burst {
                enter,
                leave,
                bad,
                good,
            } => {
                let lost = self.roll(if self.bad { bad } else { good });
                self.bad = if self.bad {
                    !self.roll(leave)
                } else {
                    self.roll(enter)
                };
                lost
            }
            Loss::Flows { buckets, key } => {
                let tuple = match key {
                    FlowKey::Inner => view.innermost(),
                    FlowKey::Outer => &view.outer,
                };
                tuple.hash(self.salt).is_multiple_of(u64::from(buckets))
            }
        }
    }

    pub(super) fn jitter(&mut self, jitter: &Jitter) -> Duration {
        match *jitter {
            Jitter::Uniform { range } => range.mul_f64(self.rng.random::<f64>()),
            Jitter::Normal { mean, deviation } => {
                let (mean, deviation) = (mean.as_secs_f64(), deviation.as_secs_f64());
                let Ok(normal) = Normal::new(mean, deviation) else {
                    return Duration::ZERO;
                };
                // The deviation is at most the mean, so at least two draws of three are kept.
                let kept = (0..64)
                    .map(|_| normal.sample(&mut self.rng))
                    .find(|x| (0.0..=2.0 * mean).contains(x));
                Duration::from_secs_f64(kept.unwrap_or(mean))
            }
            Jitter::Pareto { scale, shape, cap } => {
                // Inverse of the Lomax distribution; 1 − u is never 0.
                let u = 1.0 - self.rng.random::<f64>();
                let seconds = scale.as_secs_f64() * (u.powf(-1.0 / shape) - 1.0);
                Duration::try_from_secs_f64(seconds).map_or(cap, |extra| extra.min(cap))
            }
            Jitter::Bimodal { extra, share } => {
                if self.roll(share) {
                    extra
                } else {
                    Duration::ZERO
                }
            }
        }
    }

    /// For faults that meet a share of the packets.
    pub(super) fn happens(&mut self, share: f64) -> bool {
        self.roll(share)
    }

    /// Any number.
    pub(super) fn draw(&mut self) -> u64 {
        self.rng.random()
    }

    /// For `Fault::Setup`: no packet of this 5-tuple came within the last [`FLOW_IDLE`].
    pub(super) fn first(&mut self, tuple: &Tuple, now: Nanos) -> bool {
        let known = |seen: Nanos| now.saturating_sub(seen) < FLOW_IDLE;
        if self.flows.len() >= FLOWS {
            self.flows.retain(|_, seen| known(*seen));
        }
        if self.flows.len() >= FLOWS {
            self.flows.clear();
        }
        let before = self.flows.insert(tuple.hash(self.salt), now);
        !before.is_some_and(known)
    }

    /// For `Fault::Rate`: when the last bit of a packet of `bytes` arriving at `at` has left; `None` if the queue has
    /// no room for it.
    pub(super) fn departure(&mut self, at: Nanos, bytes: usize) -> Option<Nanos> {
        let Fault::Rate {
            bits_per_second,
            queue_bytes,
            burst_bytes,
        } = self.rule.fault
        else {
            return Some(at);
        };
        let time = |bytes: u64| -> Nanos {
            (u128::from(bytes) * 8 * 1_000_000_000 / u128::from(bits_per_second))
                .try_into()
                .unwrap_or(Nanos::MAX)
        };
        let waiting = self.busy_until.saturating_sub(at);
        let bytes = bytes as u64;
        // An empty queue takes any packet, however small the limit is.
        if waiting > 0 && waiting.saturating_add(time(bytes)) > time(queue_bytes) {
            return None;
        }
        let unused = at.saturating_sub(time(burst_bytes));
        self.busy_until = self.busy_until.max(unused).saturating_add(time(bytes));
        Some(self.busy_until.max(at))
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::view;
    use super::super::samples;
    use super::*;

    const MS: Nanos = 1_000_000;

    fn effect(text: &str, seed: u64) -> Effect {
        Effect::new(text.parse().unwrap(), seed)
    }

    fn losses(text: &str, seed: u64, count: usize) -> Vec<bool> {
        let mut effect = effect(text, seed);
        let Fault::Loss(loss) = effect.rule.fault else {
            panic!("not a loss")
        };
        let view = view(&samples::udp4(1, 2, 10), &[]).unwrap();
        (0..count).map(|_| effect.loses(&loss, &view)).collect()
    }

    fn delays(text: &str, count: usize) -> Vec<f64> {
        let mut effect = effect(text, 11);
        let Fault::Jitter(jitter) = effect.rule.fault else {
            panic!("not a jitter")
        };
        let mut all: Vec<f64> = (0..count)
            .map(|_| effect.jitter(&jitter).as_secs_f64() * 1e3)
            .collect();
        all.sort_by(f64::total_cmp);
        all
    }

    fn quantile(sorted: &[f64], q: f64) -> f64 {
        sorted[((sorted.len() - 1) as f64 * q) as usize]
    }

    #[test]
    fn random_loss_is_binomial_and_independent() {
        for (share, seed) in [(0.05_f64, 1), (0.05, 2), (0.3, 3)] {
            let lost = losses(&format!("loss={share}"), seed, 20_000);
            let count = lost.iter().filter(|lost| **lost).count() as f64;
            let deviation = (20_000.0 * share * (1.0 - share)).sqrt();
            assert!(
                (count - 20_000.0 * share).abs() < 4.0 * deviation,
                "{count} at {share}"
            );
            // Of the packets after a lost one, the same share is lost.
            let pairs = lost.windows(2).filter(|pair| pair[0] && pair[1]).count() as f64;
            let expected = 20_000.0 * share * share;
            assert!(
                (pairs - expected).abs() < 4.0 * expected.sqrt(),
                "{pairs} pairs at {share}"
            );
        }
        assert!(losses("loss=100%", 1, 1000).iter().all(|lost| *lost));
        assert!(!losses("loss=0%", 1, 1000).iter().any(|lost| *lost));
    }

    #[test]
    fn bursts_have_geometric_lengths() {
        let lost = losses("loss=burst:1%:25%", 5, 200_000);
        let bursts: Vec<usize> = lost
            .chunk_by(|a, b| a == b)
            .filter(|run| run[0])
            .map(<[bool]>::len)
            .collect();
        // Mean 1/leave = 4, variance (1 − leave)/leave² = 12; share enter/(enter + leave) = 3.85 %.
        let mean = bursts.iter().sum::<usize>() as f64 / bursts.len() as f64;
        let bound = 4.0 * (12.0 / bursts.len() as f64).sqrt();
        assert!(
            (mean - 4.0).abs() < bound,
            "mean burst {mean} of {}",
            bursts.len()
        );
        let single = bursts.iter().filter(|len| **len == 1).count() as f64 / bursts.len() as f64;
        assert!((single - 0.25).abs() < 0.05, "single {single}");
        let share = lost.iter().filter(|lost| **lost).count() as f64 / lost.len() as f64;
        assert!((share - 0.0385).abs() < 0.005, "share {share}");
    }

    #[test]
    fn bad_flows_are_always_the_same() {
        let mut effect = effect("loss=flows:4", 9);
        let Fault::Loss(loss) = effect.rule.fault else {
            panic!("not a loss")
        };
        let mut fate = |packet: &[u8]| effect.loses(&loss, &view(packet, &[4789]).unwrap());
        let mut bad = 0;
        for port in 0..4000 {
            let inner = samples::tcp4(20_000 + port, 80, 0);
            let plain = fate(&inner);
            bad += u32::from(plain);
            assert_eq!(fate(&samples::tcp4(20_000 + port, 80, 500)), plain);
            // Encapsulated, whatever the outer port: the same connection.
            for outer in [40_000, 50_000] {
                assert_eq!(fate(&samples::vxlan4(outer, &inner)), plain);
            }
        }
        // Binomial(4000, 1/4): deviation 27.4.
        assert!((1000_i64 - i64::from(bad)).abs() < 110, "{bad} of 4000");
    }

    #[test]
    fn the_outer_key_follows_the_outer_port() {
        let mut effect = effect("loss=flows:2:outer", 9);
        let Fault::Loss(loss) = effect.rule.fault else {
            panic!("not a loss")
        };
        let inner = samples::tcp4(20_000, 80, 0);
        let fates: Vec<bool> = (0..200)
            .map(|port| {
                effect.loses(
                    &loss,
                    &view(&samples::vxlan4(40_000 + port, &inner), &[4789]).unwrap(),
                )
            })
            .collect();
        let bad = fates.iter().filter(|bad| **bad).count();
        assert!((70..=130).contains(&bad), "{bad} of 200");
    }

    #[test]
    fn jitter_follows_its_named_distribution() {
        // The bound of the Kolmogorov–Smirnov test at 10 000 draws and α = 10⁻⁴ is 0.022.
        let check = |text: &str, cdf: &dyn Fn(f64) -> f64| {
            let all = delays(text, 10_000);
            let worst = all
                .iter()
                .enumerate()
                .map(|(index, x)| (cdf(*x) - index as f64 / 1e4).abs())
                .fold(0.0, f64::max);
            assert!(worst < 0.023, "{text}: distance {worst}");
        };
        check("jitter=uniform:5ms", &|x| x / 5.0);
        check("jitter=pareto:1ms:1.5:60s", &|x| 1.0 - (1.0 + x).powf(-1.5));

        let normal = delays("jitter=normal:10ms:2ms", 10_000);
        for (q, expected) in [(0.5, 10.0), (0.159, 8.0), (0.841, 12.0), (0.977, 14.0)] {
            assert!(
                (quantile(&normal, q) - expected).abs() < 0.15,
                "{q}: {}",
                quantile(&normal, q)
            );
        }
        let wide = delays("jitter=normal:1ms:1ms", 10_000);
        assert!(wide[0] >= 0.0 && wide[9_999] <= 2.0);

        let bimodal = delays("jitter=bimodal:20ms:10%", 10_000);
        let late = bimodal.iter().filter(|x| **x == 20.0).count();
        assert!(
            bimodal.iter().all(|x| *x == 0.0 || *x == 20.0) && (880..=1120).contains(&late),
            "{late}"
        );

        let capped = delays("jitter=pareto:1ms:0.5:50ms", 10_000);
        assert_eq!(capped[9_999], 50.0);
    }

    #[test]
    fn a_rate_limit_spaces_packets_and_drops_the_tail() {
        let mut effect = effect("rate=8mbit:10000:0", 1);
        // 1000 bytes take 1 ms; ten fit, the rest of a burst is dropped.
        let sent: Vec<Option<Nanos>> = (0..15).map(|_| effect.departure(5 * MS, 1000)).collect();
        for (index, at) in sent.iter().enumerate() {
            let expected = (index < 10).then_some((6 + index as Nanos) * MS);
            assert_eq!(*at, expected, "packet {index}");
        }
        // Two milliseconds later two have left.
        assert_eq!(effect.departure(7 * MS, 1000), Some(16 * MS));
        assert_eq!(effect.departure(7 * MS, 1000), Some(17 * MS));
        assert_eq!(effect.departure(7 * MS, 1000), None);
        // An idle limiter keeps no credit.
        assert_eq!(effect.departure(100 * MS, 1000), Some(101 * MS));
    }

    #[test]
    fn a_bucket_lets_its_burst_pass_at_once() {
        let mut effect = effect("rate=8mbit:10000:3000", 1);
        let at: Vec<_> = (0..5)
            .map(|_| effect.departure(100 * MS, 1000).unwrap() / MS)
            .collect();
        assert_eq!(at, [100, 100, 100, 101, 102]);
    }

    #[test]
    fn throughput_is_the_rate() {
        let mut effect = effect("rate=10mbit:64k:0", 1);
        let mut bytes = 0;
        for tick in 0..100_000 {
            // 12 Mbit/s offered for a second.
            if tick % 100 == 0
                && effect
                    .departure(tick * 10_000, 1500)
                    .is_some_and(|at| at <= 1_000 * MS)
            {
                bytes += 1500;
            }
        }
        assert!(
            (1_185_000..=1_250_000).contains(&bytes),
            "{bytes} bytes in a second at 10 Mbit/s"
        );
    }

    #[test]
    fn a_small_queue_still_passes_single_packets() {
        let mut effect = effect("rate=8mbit:100:0", 1);
        assert_eq!(effect.departure(0, 1500), Some(1_500_000));
        assert_eq!(effect.departure(MS, 1500), None);
    }

    #[test]
    fn the_same_seed_decides_the_same() {
        assert_eq!(losses("loss=20%", 4, 500), losses("loss=20%", 4, 500));
        assert_ne!(losses("loss=20%", 4, 500), losses("loss=20%", 5, 500));
        assert_ne!(derive_seed(1, "a"), derive_seed(1, "b"));
        assert_ne!(derive_seed(1, "a"), derive_seed(2, "a"));
    }
}
