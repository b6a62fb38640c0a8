//! Findings that mesh.yaml accepts: still shown with their reason, counted nowhere, and gating again once expired.

use mesh::rules::names_check;
use mesh::{Day, Rules, Waiver};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::verdict::{Check, Status};

/// Why a finding does not count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Waived {
    pub reason: String,
    /// Its last day, UTC.
    pub until: String,
}

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum WaiverState {
    /// It covers findings of this run.
    Used,
    /// Nothing of this run needs it.
    Unused,
    /// Its last day is over, or the day is not known: it covers nothing.
    Expired,
}

/// What became of one entry of `accept`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WaiverRow {
    /// A check id, or `family.*`.
    pub check: String,
    /// "from `a`", "to `b`", "node `n`", joined; empty for everywhere.
    pub scope: String,
    pub reason: String,
    pub until: String,
    pub state: WaiverState,
    /// Findings that it covers or, once expired, would cover.
    pub findings: u64,
}

/// Marks the findings that are accepted `today`; without a day every waiver counts as expired.
pub(crate) fn apply(rules: &Rules, today: Option<&Day>, checks: &mut [Check]) -> Vec<WaiverRow> {
    let finding = |check: &Check| matches!(check.status, Status::Fail | Status::Undecided);
    let mut rows = Vec::new();
    for waiver in &rules.accept {
        let valid = today.is_some_and(|today| today <= &waiver.until);
        let mut findings = 0;
        for check in checks.iter_mut() {
            if !finding(check) || check.waived.is_some() || !covers(waiver, check) {
                continue;
            }
            findings += 1;
            if valid {
                check.waived = Some(Waived {
                    reason: waiver.reason.clone(),
                    until: waiver.until.to_string(),
                });
            } else {
                check.evidence.push(format!(
                    "was accepted until {} ({}); that is over, so it counts again",
                    waiver.until, waiver.reason
                ));
            }
        }
        rows.push(WaiverRow {
            check: waiver.check.clone(),
            scope: scope(waiver),
            reason: waiver.reason.clone(),
            until: waiver.until.to_string(),
            state: match (valid, findings) {
                (false, _) => WaiverState::Expired,
                (true, 0) => WaiverState::Unused,
                (true, _) => WaiverState::Used,
            },
            findings,
        });
    }
    rows
}

/// What a scope names, the finding must have: a finding of the whole link is not one of a single node.
fn covers(waiver: &Waiver, check: &Check) -> bool {
    let scope = &waiver.scope;
    let same = |wanted: &Option<String>, has: &Option<String>| wanted.is_none() || wanted == has;
    names_check(&waiver.check, &check.id)
        && same(&scope.source, &check.source_cluster)
        && same(&scope.target, &check.target_cluster)
        && same(&scope.node, &check.node)
}

fn scope(waiver: &Waiver) -> String {
    let scope = &waiver.scope;
    let parts = [
        ("from", &scope.source),
        ("to", &scope.target),
        ("node", &scope.node),
    ];
    let named = parts
        .into_iter()
        .filter_map(|(word, name)| Some(format!("{word} `{}`", name.as_ref()?)));
    named.collect::<Vec<_>>().join(" ")
}
