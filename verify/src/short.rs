//! Statements that the run leaves undecided: how far from a decision they are, in words, and what would decide them.

use crate::checks::LOSS_UDP;
use crate::looks;
use crate::rows::percent;
use crate::statement::Statement;
use crate::stats::{samples_needed, samples_tolerating};
use crate::tally::Trials;
use crate::verdict::Side;

/// A statement is too close to its objective if it needs more than this many times the samples of the run, or
/// this many times those that would prove the objective without a bad one, if the run had fewer.
const MOST_TIMES: u64 = 10;

/// One voided sample in so many judged ones is no accident: the source lacks the processor.
const MOST_VOIDED: u64 = 20;

/// The node that a statement is about, and on which side; `None` for all nodes of the link together.
pub(crate) type Subject = Option<(Side, String)>;

/// The undecided statement of a row that is furthest from a decision.
pub(crate) struct Short {
    subject: Subject,
    trials: Trials,
    /// Samples that this run lacked at the observed rate; `None` when no bearable number decides.
    pub(crate) more: Option<u64>,
    effect: f64,
    burst: f64,
    looks: usize,
    p0: f64,
    /// Confidence that a decision at one look alone would need.
    asked: f64,
}

impl Short {
    /// Of a statement that is one of `statements`: to be a proven failure it needs more than to be one by itself.
    pub(crate) fn of(statement: &Statement, p0: f64, confidence: f64, statements: usize) -> Self {
        let count = statement.trials.worst();
        let asked = if count.rate() > p0 {
            1.0 - (1.0 - confidence) / statements.max(1) as f64
        } else {
            confidence
        };
        let mut short = Self {
            subject: statement.subject.clone(),
            trials: statement.trials,
            effect: statement.bursts.design_effect(),
            burst: statement.burst,
            looks: statement.looks,
            p0,
            asked,
            more: None,
        };
        short.more = short.further(0);
        short
    }

    /// Samples beyond those at hand that decide at look `look` at the observed rate, if a bearable number does.
    fn further(&self, look: usize) -> Option<u64> {
        let count = self.trials.worst();
        let confidence = looks::confidence_at(look, self.asked);
        let mut needed = samples_needed(self.p0, confidence, count.rate(), self.burst)?;
        if count.rate() > self.p0 {
            needed = (needed as f64 * self.effect).ceil() as u64;
        }
        let clean = samples_tolerating(self.p0, self.asked, 0, self.burst).unwrap_or(0);
        (needed <= MOST_TIMES * count.n.max(clean)).then(|| needed.saturating_sub(count.n).max(1))
    }

    /// Samples that this run's next look would have to add.
    pub(crate) fn next(&self) -> Option<u64> {
        if self.looks < looks::MOST {
            self.further(self.looks)
        } else {
            None
        }
    }

    pub(crate) fn samples(&self) -> u64 {
        self.trials.worst().n
    }

    pub(crate) fn worse(&self, other: &Self) -> bool {
        match (self.more, other.more) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(this), Some(other)) => this > other,
        }
    }

    /// What is lacking, and after the colon the figures.
    pub(crate) fn words(&self, id: &str, p0: f64) -> String {
        let Trials { known, unresolved } = self.trials;
        let n = known.n + unresolved;
        let at = self
            .subject
            .as_ref()
            .map_or_else(String::new, |subject| format!(" {}", place(subject)));
        let objective = percent(p0);
        if n == 0 {
            return "no sample: no evidence is never a pass".to_owned();
        }
        if unresolved > known.bad {
            return if id == LOSS_UDP {
                format!(
                    "lost without telling in which direction: {unresolved} of {n} datagrams{at}"
                )
            } else {
                format!(
                    "the prober was starved and may have missed answers: {unresolved} of {n} samples{at}"
                )
            };
        }
        let bad = known.bad + unresolved;
        match self.more {
            Some(more) => format!(
                "too few samples to tell: {bad} of {n} bad{at}, objective {objective}; {more} more at this rate would"
            ),
            None => format!(
                "too close to the objective to tell: {bad} of {n} bad{at}, objective {objective}"
            ),
        }
    }

    /// What to do, `voided` samples of the check having been left out because their source was stalled.
    pub(crate) fn advice(&self, voided: u64) -> String {
        let Trials { known, unresolved } = self.trials;
        let n = known.n + unresolved;
        if MOST_VOIDED * voided > n {
            return "the probers were stalled while they measured: CPU pressure on their nodes (`cat /proc/pressure/cpu`), then verify again".to_owned();
        }
        match self.more {
            _ if unresolved > known.bad => {
                "verify again with a longer `--window`, or where the prober gets the processor"
                    .to_owned()
            }
            Some(more) if n > 0 => format!(
                "verify again with a `--window` {} times as long, which sends that many times the probes",
                1 + more.div_ceil(n)
            ),
            _ => "find what the bad ones have in common (`observed` in -o json); near the objective only a run many times longer can tell".to_owned(),
        }
    }
}

/// "from `node`" or "to `node`".
pub(crate) fn place((side, node): &(Side, String)) -> String {
    match side {
        Side::Source => format!("from `{node}`"),
        Side::Target => format!("to `{node}`"),
    }
}
