//! `latency.baseline`: whether the median and the p99 of each initiator link are where a run that was kept had them.
//!
//! "The q-quantile is at most the baseline's and its margin" is "at most 1 − q of the samples exceed that", so it is
//! counted like every latency. The baseline's quantile is known up to an interval: what lies between its ends, each with
//! the margin, counts against READY and never for NOT READY.

use std::collections::{BTreeMap, BTreeSet};

use mesh::Link;
use mesh::observation::Plane;

use super::latency::{Reading, Timed, Times, Voided};
use super::{Draft, Spent, Trial, count, spec};
use crate::baseline::{Baseline, Pooled};
use crate::checks::LATENCY_BASELINE;
use crate::quantile::{Quantile, quantile};
use crate::tally::CellName;
use crate::verdict::{Check, Growth, Status, TimedName};
use crate::view::View;

/// Smallest growth that matters: this share of the quantile, and no less than so many seconds.
const GROWTH: f64 = 0.05;
const LEAST_GROWTH_SECONDS: f64 = 0.001;
/// Part of α that goes to the baseline's own uncertainty: of a pass, and of a failure's part of α.
const SPENT_FOR_PASS: f64 = 0.1;
const SPENT_FOR_FAIL: f64 = 0.25;
const QUANTILES: [f64; 2] = [0.5, 0.99];

/// How long what took `seconds` may take now.
fn grown(seconds: f64) -> f64 {
    seconds + (GROWTH * seconds).max(LEAST_GROWTH_SECONDS)
}

/// Rows of all links in scope; `others` statements are tested beside them.
pub(super) fn rows(view: &View<'_>, baseline: &Baseline, others: usize) -> Vec<Draft> {
    let links: Vec<&Link> = view
        .mesh
        .links
        .iter()
        .filter(|link| !view.mesh.rules.denies(link))
        .collect();
    let all = others + links.len() * Timed::ALL.len() * QUANTILES.len();
    let alpha = 1.0 - view.mesh.objectives.confidence;
    let spent = Spent {
        good: SPENT_FOR_PASS * alpha,
        bad: SPENT_FOR_FAIL * alpha / all as f64,
    };
    links
        .into_iter()
        .flat_map(|link| {
            let Some(kept) = baseline.link(link) else {
                return vec![without(link, &format!("{} does not know it", baseline.name()))];
            };
            let mut rows = Vec::new();
            for timed in Timed::ALL {
                let times = Times::of(view, link, timed);
                let cells: BTreeSet<CellName> = times.probes().map(|probe| probe.cell()).collect();
                let was = kept.times(timed).pooled(|cell| cells.contains(cell));
                if was.n() == 0 && kept.times(timed).n > 0 {
                    let why = format!("{} is of other nodes", baseline.name());
                    return vec![without(link, &why)];
                }
                let strangers = cells.iter().filter(|cell| !was.pairs.contains_key(*cell));
                let strangers = strangers.count();
                for q in QUANTILES {
                    let mut row = row(view, link, &times, timed, &was, q, spent);
                    if strangers > 0 {
                        row.check.evidence.push(format!(
                            "{} does not know {strangers} of {} pairs of nodes: they are not compared",
                            baseline.name(),
                            cells.len()
                        ));
                    }
                    rows.push(row);
                }
            }
            rows
        })
        .collect()
}

/// Nothing to compare with is no finding.
fn without(link: &Link, why: &str) -> Draft {
    let mut draft = Draft::settled(spec(LATENCY_BASELINE), Status::Info).on_link(link);
    draft.check.expected.text = expected();
    draft.check.cause = Some(format!("no baseline: {why}"));
    draft.check.hint = Some("`--save-baseline` of a READY run keeps one of this mesh".to_owned());
    draft
}

fn expected() -> String {
    format!(
        "median and p99 of connect and handshake grow by no more than {:.0} %, or {:.0} ms if that is more",
        100.0 * GROWTH,
        1e3 * LEAST_GROWTH_SECONDS
    )
}

fn row(
    view: &View<'_>,
    link: &Link,
    times: &Times<'_, '_>,
    timed: Timed,
    was: &Pooled,
    q: f64,
    spent: Spent,
) -> Draft {
    let confidence = view.mesh.objectives.confidence;
    let (low, high) = (was.at_least(q, spent.good), was.at_most(q, spent.bad));
    let mut now: BTreeMap<CellName, Vec<f64>> = BTreeMap::new();
    let mut failed = 0;
    let mut voided = Voided::default();
    let counted = count(times.probes(), |probe| {
        let cell = probe.cell();
        let Some((middle, _)) = was.pairs.get(&cell) else {
            return Trial::Skip;
        };
        let Some(reading) = times.read(probe) else {
            voided.add(probe);
            return Trial::Skip;
        };
        let surely_in = |seconds: f64| low.is_some_and(|low| seconds <= grown(middle + low));
        let surely_out = |seconds: f64| high.is_some_and(|high| seconds > grown(middle + high));
        match reading {
            Reading::Nothing => Trial::Skip,
            Reading::Doubtful => Trial::Doubtful,
            Reading::Failed => {
                failed += 1;
                Trial::Bad("failed")
            }
            Reading::AtMost(seconds) if surely_in(seconds) => Trial::Good,
            Reading::AtMost(_) => Trial::Doubtful,
            Reading::Seconds(seconds) => {
                now.entry(cell).or_default().push(seconds);
                if surely_in(seconds) {
                    Trial::Good
                } else if surely_out(seconds) {
                    Trial::Bad("slower")
                } else {
                    Trial::Doubtful
                }
            }
        }
    });
    let mut draft = counted.draft(view, LATENCY_BASELINE, link, Plane::Pod, 1.0 - q);
    let values: Vec<f64> = now.values().flatten().copied().collect();
    let (then, at_present) = (
        was.shown(q, confidence),
        quantile(&values, failed, q, confidence),
    );
    let allowed = was.estimate(q).and_then(|beyond| {
        let of_pair = was.pairs.values().map(|(middle, _)| grown(middle + beyond));
        of_pair.reduce(f64::max)
    });
    draft.check.expected.text = expected();
    draft.check.expected.threshold_seconds = allowed;
    draft.check.observed.excluded_stalled = voided.all();
    draft.check.observed.growth = vec![Growth {
        time: timed.into(),
        quantile: q,
        status: Status::Undecided,
        baseline_n: was.n(),
        grew_seconds: if q < 0.9 {
            mean_growth(
                &now,
                was,
                |values| quantile(values, 0, 0.5, 0.95)?.seconds,
                |kept| kept.0,
            )
        } else {
            seconds(&at_present)
                .zip(seconds(&then))
                .map(|(now, then)| now - then)
        },
        shortest_grew_seconds: mean_growth(
            &now,
            was,
            |values| values.iter().copied().reduce(f64::min),
            |kept| kept.1,
        ),
        allowed_seconds: allowed,
        baseline: then,
        now: at_present,
        n: 0,
        bad: 0,
        unresolved: 0,
    }];
    if let Some(test) = &mut draft.test {
        // A pair has a baseline of its own, a node has none: single nodes prove and fail nothing here.
        test.sources.clear();
        test.targets.clear();
        test.spent = spent;
        test.missing.extend(timed.unwitnessed(view, link));
        test.missing.extend(too_few(was, q, confidence));
    }
    draft
}

fn seconds(quantile: &Option<Quantile>) -> Option<f64> {
    quantile.as_ref()?.seconds
}

/// Why the baseline's quantile is not known, if it is not.
fn too_few(was: &Pooled, q: f64, confidence: f64) -> Option<String> {
    let half = 0.5 * (1.0 - confidence);
    let name = if q < 0.9 { "median" } else { "p99" };
    if was.estimate(q).is_none() && was.n() > 0 {
        return Some(format!(
            "the baseline's {name} lies among its failed probes"
        ));
    }
    let needed = (half.ln() / q.ln()).ceil() as u64;
    let worth = was.independent(q);
    (worth < needed).then(|| {
        format!(
            "too few samples in the baseline: its {name} rests on {} of them (worth {worth} independent ones), and {needed} are needed to know it",
            was.n()
        )
    })
}

/// By how much `of` a pair's times grew, over all pairs, s.
fn mean_growth(
    now: &BTreeMap<CellName, Vec<f64>>,
    was: &Pooled,
    of: impl Fn(&[f64]) -> Option<f64>,
    then: impl Fn(&(f64, f64)) -> f64,
) -> Option<f64> {
    let (mut sum, mut n) = (0.0, 0);
    for (cell, values) in now {
        if let (Some(now), Some(kept)) = (of(values), was.pairs.get(cell)) {
            sum += (now - then(kept)) * values.len() as f64;
            n += values.len();
        }
    }
    (n > 0).then(|| sum / n as f64)
}

/// The rows of a link as one check: what any of them says, the worst first.
pub(crate) fn merge(checks: Vec<Check>) -> Vec<Check> {
    let mut merged: Vec<Check> = Vec::new();
    for mut check in checks {
        if check.id != LATENCY_BASELINE {
            merged.push(check);
            continue;
        }
        settle(&mut check);
        match merged.last_mut() {
            Some(last) if last.id == check.id && last.place() == check.place() => join(last, check),
            _ => merged.push(check),
        }
    }
    merged
}

/// The figures of a decided row, as its growth.
fn settle(check: &mut Check) {
    let observed = &mut check.observed;
    let Some(growth) = observed.growth.first_mut() else {
        return;
    };
    growth.status = check.status;
    growth.n = observed.n.take().unwrap_or(0);
    growth.bad = observed.bad.take().unwrap_or(0);
    growth.unresolved = observed.unresolved.take().unwrap_or(0);
    (observed.rate, observed.rate_lower, observed.rate_upper) = (None, None, None);
    observed.bursts = None;
    observed.marginals.clear();
    check.expected.rate_at_most = None;
    check.expected.threshold_seconds = None;
    // Where the slow ones sit was chosen among nodes that are not compared with each other.
    check.node = None;
    let line = growth.words();
    check.evidence.insert(0, line);
    if check.status == Status::Undecided && growth.unresolved > growth.bad {
        check.cause = Some(format!(
            "the baseline does not tell: {} of {} samples lie within the uncertainty of its own",
            growth.unresolved, growth.n
        ));
        check.hint = Some("save a baseline of a longer `--window`".to_owned());
    } else if check.status == Status::Undecided
        && check
            .cause
            .as_ref()
            .is_some_and(|cause| cause.contains("in the baseline"))
    {
        check.hint = Some("save a baseline of a longer `--window`".to_owned());
    }
}

fn join(kept: &mut Check, other: Check) {
    let rank = |status: Status| match status {
        Status::Fail => 3,
        Status::Undecided => 2,
        Status::Pass => 1,
        Status::Info => 0,
    };
    if rank(other.status) > rank(kept.status) {
        kept.status = other.status;
        kept.cause = other.cause;
        kept.hint = other.hint;
        kept.more_samples_needed = other.more_samples_needed;
    }
    let mine = &mut kept.observed;
    mine.growth.extend(other.observed.growth);
    mine.excluded_stalled = mine.excluded_stalled.max(other.observed.excluded_stalled);
    mine.starved = mine.starved.max(other.observed.starved);
    mine.excluded_local = mine.excluded_local.max(other.observed.excluded_local);
    for (what, n) in other.observed.failures {
        let most = mine.failures.entry(what).or_default();
        *most = n.max(*most);
    }
    for line in other.evidence {
        if !kept.evidence.contains(&line) {
            kept.evidence.push(line);
        }
    }
}

impl Growth {
    /// "handshake p99".
    pub fn name(&self) -> String {
        let quantile = if self.quantile < 0.9 { "median" } else { "p99" };
        format!("{} {quantile}", self.time.words())
    }

    /// "connect p99 20.1 ms (19.9 to 20.3) → 22.2 ms, 21.1 ms allowed: 480 of 972 took longer".
    pub(crate) fn words(&self) -> String {
        let ms = |seconds: Option<f64>| {
            seconds.map_or_else(|| "-".to_owned(), |s| format!("{:.2} ms", s * 1e3))
        };
        let end = |of: fn(&Quantile) -> Option<f64>| ms(self.baseline.as_ref().and_then(of));
        let mut text = format!(
            "{}: {} of {} samples ({} to {}) → {}, {} allowed: {} of {} took longer",
            self.name(),
            ms(seconds(&self.baseline)),
            self.baseline_n,
            end(|q| q.low_seconds),
            end(|q| q.high_seconds),
            ms(seconds(&self.now)),
            ms(self.allowed_seconds),
            self.bad,
            self.n
        );
        if self.unresolved > 0 {
            text += &format!(", {} may have", self.unresolved);
        }
        text
    }
}

impl From<Timed> for TimedName {
    fn from(timed: Timed) -> Self {
        match timed {
            Timed::Connect => Self::Connect,
            Timed::Handshake => Self::HandshakeRtt,
        }
    }
}
