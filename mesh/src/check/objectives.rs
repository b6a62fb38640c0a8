//! Objectives that can be decided: within range, for links in scope, and not tighter than probes can prove.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use super::{cluster_names, link_list};
use crate::read::fields::Report;
use crate::spec::{At, LinkSpec, Spec};
use crate::units::{format_duration, format_percent, format_rate};

/// At this share of failures and below, probing cannot decide: see [`tight`].
const TIGHTEST: f64 = 0.0001;
const LOOSEST: f64 = 0.5;
/// What the latency histograms resolve.
const LATENCY: RangeInclusive<f64> = 0.0001..=60.0;
const ROUND_TRIP: RangeInclusive<f64> = 0.001..=600.0;
/// IPv6 demands the one, and nothing above the other is ever tried.
pub(crate) const MTU: RangeInclusive<u16> = 1_280..=9_216;
/// What a bounded transfer can tell, bit/s.
const THROUGHPUT: RangeInclusive<f64> = 1e5..=1e11;
const COVERAGE: RangeInclusive<f64> = 0.5..=1.0;
const CONFIDENCE: RangeInclusive<f64> = 0.8..=0.999;

pub(super) fn check(report: &mut Report, spec: &Spec) {
    let objectives = &spec.objectives;
    if let Some(loss) = &objectives.loss {
        failures(report, loss, loss.value, TIGHTEST, LOOSEST);
    }
    for success in [&objectives.connect_success, &objectives.ndvi_success]
        .into_iter()
        .flatten()
    {
        failures(
            report,
            success,
            1.0 - success.value,
            1.0 - TIGHTEST,
            LOOSEST,
        );
    }
    within(report, &objectives.coverage, COVERAGE, format_percent);
    within(report, &objectives.confidence, CONFIDENCE, format_percent);
    within(report, &objectives.latency_p99, LATENCY, format_duration);
    within(report, &objectives.jitter_p99, LATENCY, format_duration);
    within(report, &objectives.throughput, THROUGHPUT, format_rate);
    within(
        report,
        &objectives.ndvi_round_trip,
        ROUND_TRIP,
        format_duration,
    );

    let overrides = &objectives.links.items;
    let names = cluster_names(spec);
    link_list(
        report,
        names.as_deref(),
        overrides.iter().map(|(link, _)| link),
    );
    let listed: Option<HashSet<(&str, &str)>> = spec.links.as_ref().map(|links| {
        let ends = links.items.iter().filter_map(LinkSpec::ends);
        ends.map(|(source, target)| (source.value.as_str(), target.value.as_str()))
            .collect()
    });
    let readable = spec
        .links
        .as_ref()
        .is_none_or(|links| links.complete && links.items.iter().all(|link| link.ends().is_some()));
    let in_scope = |source: &str, target: &str| match &listed {
        Some(listed) => !readable || listed.contains(&(source, target)),
        None => source != target || spec.clusters.items.len() == 1,
    };
    for (link, latency) in overrides {
        within(report, latency, LATENCY, format_duration);
        let (Some((source, target)), Some(names)) = (link.ends(), &names) else {
            continue;
        };
        let known = |end: &At<String>| names.contains(&end.value.as_str());
        if known(source) && known(target) && !in_scope(&source.value, &target.value) {
            let message = format!("{} → {} is not in scope", source.value, target.value);
            report
                .push(link.at, &link.path, message)
                .hint("add it to `links`, or remove its objective");
        }
    }
}

/// `share` of failures is what `objective` allows; `tightest` is how the limit is written for it.
fn failures(report: &mut Report, objective: &At<f64>, share: f64, tightest: f64, loosest: f64) {
    let seen = format_percent(objective.value);
    // Compared in the form in which it was written: 1 - 0.9999 is not exactly 0.0001.
    let too_tight = if tightest < 0.5 {
        objective.value <= tightest
    } else {
        objective.value >= tightest
    };
    if too_tight {
        report
            .push(objective.at, &objective.path, tight(&seen))
            .hint("0.1% failures, or 99.9% success, is the tightest that fresh probing proves in its budget");
    } else if share > loosest {
        report.push(
            objective.at,
            &objective.path,
            format!("`{seen}` would accept a mesh that fails more often than it works"),
        );
    }
}

/// n clean probes prove a share of failures p at 95 % from n ≥ ln 0.05 / ln(1 − p).
fn tight(seen: &str) -> String {
    let probes = (0.05_f64.ln() / (-TIGHTEST).ln_1p()).ceil();
    let days = probes * 10.0 / 86_400.0;
    format!(
        "`{seen}` cannot be proven by probing: it takes {probes} probes in a row without one failure, \
         {days:.1} days at one probe in 10s, and a single lost probe starts it again"
    )
}

fn within(
    report: &mut Report,
    objective: &Option<At<f64>>,
    range: RangeInclusive<f64>,
    format: fn(f64) -> String,
) {
    let Some(objective) = objective else { return };
    if !range.contains(&objective.value) {
        let message = format!(
            "`{}` is not within `{}` to `{}`",
            format(objective.value),
            format(*range.start()),
            format(*range.end())
        );
        report.push(objective.at, &objective.path, message);
    }
}
