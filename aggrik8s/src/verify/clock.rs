//! The offset of an agent's clocks to ours, from four time stamps per exchange, best of several.

/// One exchange: asked and answered on our clock, and the agent's clock in between, s.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exchange {
    pub(super) asked: f64,
    pub(super) answered: f64,
    pub(super) theirs: f64,
}

/// Theirs minus ours, s, and the bound of its error: half the shortest round trip.
pub(super) fn offset(exchanges: &[Exchange]) -> Option<(f64, f64)> {
    exchanges
        .iter()
        .map(|e| {
            (
                e.theirs - 0.5 * (e.asked + e.answered),
                0.5 * (e.answered - e.asked),
            )
        })
        .min_by(|a, b| a.1.total_cmp(&b.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_exchange_counts_and_bounds_the_truth() {
        // The true offset is 5; the way there takes 0.010, 0.001, 0.300, the way back 0.020, 0.003, 0.001.
        let exchange = |asked: f64, there: f64, back: f64| Exchange {
            asked,
            answered: asked + there + back,
            theirs: asked + there + 5.0,
        };
        let exchanges = [
            exchange(0.0, 0.010, 0.020),
            exchange(1.0, 0.001, 0.003),
            exchange(2.0, 0.3, 0.001),
        ];
        let (offset, bound) = offset(&exchanges).expect("exchanges");
        assert!((bound - 0.002).abs() < 1e-12);
        assert!(
            (offset - 5.0).abs() <= bound && (offset - 4.999).abs() < 1e-9,
            "{offset}"
        );
        assert!(super::offset(&[]).is_none());
    }
}
