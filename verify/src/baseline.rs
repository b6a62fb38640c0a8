//! The distributions of a run, kept so that later runs can be compared with it: the file of `--save-baseline`.
//!
//! Times are kept pair of nodes by pair of nodes, and pooled with each pair's own median taken off: nodes that lie at
//! different distances are no noise then, and a node that came or went takes nothing but itself out of the comparison.

mod pooled;

use std::collections::{BTreeMap, BTreeSet};

use mesh::observation::Observations;
use mesh::{Link, Mesh};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::report::{Occasion, Tool};
use crate::rows::latency::{Reading, Timed, Times};
use crate::tally::{CellName, Tally};
use crate::verdict::Outcome;
use crate::view::View;

pub(crate) use pooled::Pooled;

/// Of the file. What another version wrote is refused.
pub const SCHEMA_VERSION: u32 = 1;
/// What tells the file from other JSON of ours.
pub const KIND: &str = "aggrik8s-baseline";

/// The latency of every initiator link during one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Baseline {
    pub schema_version: u32,
    /// Always `aggrik8s-baseline`.
    pub kind: String,
    pub tool: Tool,
    pub mesh: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    pub duration_seconds: f64,
    /// What the run was judged to be.
    pub result: Outcome,
    /// What it was judged by.
    pub objectives: JudgedBy,
    pub links: Vec<LinkTimes>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JudgedBy {
    pub loss: f64,
    pub connect_success: f64,
    /// Declared for all links; `null` where the default follows each pair of nodes.
    pub latency_p99_seconds: Option<f64>,
    pub confidence: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LinkTimes {
    pub source_cluster: String,
    pub target_cluster: String,
    /// The prober's time of a TCP connect.
    pub connect: Distribution,
    /// SYN to SYN-ACK, by the kernel of the source.
    pub handshake_rtt: Distribution,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Distribution {
    /// Samples, failed ones included: they count as slower than everything.
    pub n: u64,
    pub failed: u64,
    /// So many dependent samples are worth one, for the median and for the p99.
    pub p50_design_effect: f64,
    pub p99_design_effect: f64,
    pub pairs: Vec<PairTimes>,
}

/// The times between two nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PairTimes {
    pub source_node: String,
    pub target_node: String,
    pub failed: u64,
    /// Ascending: a time in µs, and how many samples took that long.
    pub samples_us: Vec<(u32, u64)>,
}

/// Why a baseline cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BaselineError {
    #[error("it is no baseline: `kind` is `{0}`")]
    Kind(String),
    #[error("it has schema version {seen}, and this program reads {SCHEMA_VERSION}")]
    Version { seen: String },
    #[error("it contradicts itself: {0}")]
    Garbled(String),
    #[error("it is of mesh `{mesh}` and has no link in common with this one")]
    OtherMesh { mesh: String },
}

impl Baseline {
    /// What `observations` tell of the latency of the links in scope.
    pub fn of(
        mesh: &Mesh,
        observations: &Observations,
        result: Outcome,
        occasion: Occasion,
    ) -> Self {
        let view = View::new(mesh, observations);
        let objectives = &mesh.objectives;
        Self {
            schema_version: SCHEMA_VERSION,
            kind: KIND.to_owned(),
            tool: occasion.tool,
            mesh: occasion.mesh,
            started_at: occasion.started_at,
            duration_seconds: occasion.duration_seconds,
            result,
            objectives: JudgedBy {
                loss: objectives.loss,
                connect_success: objectives.connect_success,
                latency_p99_seconds: objectives.latency_p99_seconds,
                confidence: objectives.confidence,
            },
            links: mesh
                .links
                .iter()
                .filter(|link| !mesh.rules.denies(link))
                .map(|link| LinkTimes {
                    source_cluster: link.source.clone(),
                    target_cluster: link.target.clone(),
                    connect: Distribution::of(&Times::of(&view, link, Timed::Connect)),
                    handshake_rtt: Distribution::of(&Times::of(&view, link, Timed::Handshake)),
                })
                .collect(),
        }
    }

    /// JSON Schema of the file: schema/baseline.schema.json.
    pub fn schema() -> schemars::Schema {
        schemars::schema_for!(Baseline)
    }

    pub(crate) fn link(&self, link: &Link) -> Option<&LinkTimes> {
        self.links.iter().find(|times| {
            (&times.source_cluster, &times.target_cluster) == (&link.source, &link.target)
        })
    }

    /// "baseline of 2026-11-21T…", for a person.
    pub(crate) fn name(&self) -> String {
        format!("the baseline of {}", self.started_at)
    }

    /// Whether it can be compared with a run of `mesh`: to be asked of every file before anything is sent.
    ///
    /// # Errors
    /// When it is something else, another version's, contradicts itself, or knows no link of `mesh`.
    pub fn check(&self, mesh: &Mesh) -> Result<(), BaselineError> {
        if self.kind != KIND {
            return Err(BaselineError::Kind(self.kind.clone()));
        }
        if self.schema_version != SCHEMA_VERSION {
            return Err(BaselineError::Version {
                seen: self.schema_version.to_string(),
            });
        }
        let mut seen = BTreeSet::new();
        for link in &self.links {
            let name = (&link.source_cluster, &link.target_cluster);
            let at = format!("{} → {}", name.0, name.1);
            if !seen.insert(name) {
                return Err(BaselineError::Garbled(format!("{at} comes twice")));
            }
            for times in [&link.connect, &link.handshake_rtt] {
                times
                    .check()
                    .map_err(|what| BaselineError::Garbled(format!("{at}: {what}")))?;
            }
        }
        if mesh.links.iter().any(|link| self.link(link).is_some()) {
            Ok(())
        } else {
            Err(BaselineError::OtherMesh {
                mesh: self.mesh.clone(),
            })
        }
    }
}

impl LinkTimes {
    pub(crate) fn times(&self, timed: Timed) -> &Distribution {
        match timed {
            Timed::Connect => &self.connect,
            Timed::Handshake => &self.handshake_rtt,
        }
    }
}

/// One sample: look, ns since the start of its run, µs; without a time it failed.
type Taken = (u32, u64, Option<u32>);

fn micros(seconds: f64) -> u32 {
    // Far beyond the deadline of a probe; the cast saturates.
    (seconds * 1e6).round() as u32
}

impl Distribution {
    fn of(times: &Times<'_, '_>) -> Self {
        let mut cells: BTreeMap<CellName, Vec<Taken>> = BTreeMap::new();
        for probe in times.probes() {
            let us = match times.read(probe) {
                Some(Reading::Seconds(seconds)) => Some(micros(seconds)),
                Some(Reading::Failed) => None,
                // Not known well enough to hold others against it.
                Some(Reading::AtMost(_) | Reading::Doubtful | Reading::Nothing) | None => continue,
            };
            let cell = cells.entry(probe.cell()).or_default();
            cell.push((probe.run.look, probe.sample.sent_ns, us));
        }
        let pairs: Vec<PairTimes> = cells
            .iter()
            .map(|((source, target), taken)| {
                let mut counts: BTreeMap<u32, u64> = BTreeMap::new();
                for us in taken.iter().filter_map(|(_, _, us)| *us) {
                    *counts.entry(us).or_default() += 1;
                }
                PairTimes {
                    source_node: source.clone(),
                    target_node: target.clone(),
                    failed: taken.iter().filter(|(_, _, us)| us.is_none()).count() as u64,
                    samples_us: counts.into_iter().collect(),
                }
            })
            .collect();
        let mut all = Self {
            n: cells.values().map(|taken| taken.len() as u64).sum(),
            failed: pairs.iter().map(|pair| pair.failed).sum(),
            p50_design_effect: 1.0,
            p99_design_effect: 1.0,
            pairs,
        };
        let pooled = all.pooled(|_| true);
        all.p50_design_effect = design_effect(&cells, &pooled, 0.5);
        all.p99_design_effect = design_effect(&cells, &pooled, 0.99);
        all
    }

    fn check(&self) -> Result<(), String> {
        let mut n = self.failed;
        let mut seen = BTreeSet::new();
        for pair in &self.pairs {
            let name = (&pair.source_node, &pair.target_node);
            if !seen.insert(name) {
                return Err(format!("the pair {} → {} comes twice", name.0, name.1));
            }
            if !pair.samples_us.is_sorted_by(|a, b| a.0 < b.0) {
                return Err("samples are not ascending".to_owned());
            }
            for (_, count) in &pair.samples_us {
                n = n.saturating_add(*count);
            }
        }
        let failed = self
            .pairs
            .iter()
            .fold(0_u64, |sum, pair| sum.saturating_add(pair.failed));
        if n != self.n || failed != self.failed || n > MOST_SAMPLES {
            return Err(format!("`n` is {} and there are {n} samples", self.n));
        }
        let sound = |effect: f64| effect.is_finite() && effect >= 1.0;
        if !(sound(self.p50_design_effect) && sound(self.p99_design_effect)) {
            return Err("a design effect below 1".to_owned());
        }
        Ok(())
    }

    /// The samples of the pairs that `within` names, and whose median is known.
    pub(crate) fn pooled(&self, within: impl Fn(&CellName) -> bool) -> Pooled {
        let mut pooled = Pooled {
            p50_design_effect: self.p50_design_effect,
            p99_design_effect: self.p99_design_effect,
            ..Pooled::default()
        };
        for pair in &self.pairs {
            let name = (pair.source_node.clone(), pair.target_node.clone());
            if !within(&name) {
                continue;
            }
            let Some(middle) = pair.median() else {
                continue;
            };
            for (us, count) in &pair.samples_us {
                let seconds = f64::from(*us) * 1e-6;
                for _ in 0..*count {
                    pooled.seconds.push(seconds);
                    pooled.beyond.push(seconds - middle);
                }
            }
            pooled.failed += pair.failed;
            let least = pair
                .samples_us
                .first()
                .map_or(middle, |(us, _)| f64::from(*us) * 1e-6);
            pooled.pairs.insert(name, (middle, least));
        }
        pooled.beyond.sort_by(f64::total_cmp);
        pooled
    }
}

/// More than any run sends: a file that claims more is not one of ours.
const MOST_SAMPLES: u64 = 20_000_000;

impl PairTimes {
    /// `None` if it lies among the failed ones.
    fn median(&self) -> Option<f64> {
        let n: u64 = self.samples_us.iter().map(|(_, count)| count).sum();
        let middle = (n + self.failed).div_ceil(2);
        let mut seen = 0;
        self.samples_us.iter().find_map(|(us, count)| {
            seen += count;
            (seen >= middle).then_some(f64::from(*us) * 1e-6)
        })
    }
}

/// By how much the samples above the `q`-quantile hang together in time.
fn design_effect(cells: &BTreeMap<CellName, Vec<Taken>>, pooled: &Pooled, q: f64) -> f64 {
    let Some(limit) = pooled.estimate(q) else {
        return 1.0;
    };
    let mut tally = Tally::default();
    for (cell, taken) in cells {
        let Some((middle, _)) = pooled.pairs.get(cell) else {
            continue;
        };
        for (look, sent, us) in taken {
            let above = us.is_none_or(|us| f64::from(us) * 1e-6 - middle > limit);
            tally.add(cell, (*look, *sent, above));
        }
    }
    tally
        .by_look(|_| true)
        .last()
        .map_or(1.0, |known| known.bursts.design_effect())
}

#[cfg(test)]
mod tests {
    use super::pooled::tests::distribution;
    use super::*;

    #[test]
    fn what_contradicts_itself_is_found() {
        let sound = distribution(&[("a", 1, &[(5, 2), (7, 1)])]);
        assert_eq!(sound.check(), Ok(()));
        let wrong: [fn(&mut Distribution); 6] = [
            |d| d.n += 1,
            |d| d.failed += 1,
            |d| d.pairs[0].samples_us.swap(0, 1),
            |d| d.p99_design_effect = f64::NAN,
            |d| d.p50_design_effect = 0.5,
            |d| d.pairs.push(d.pairs[0].clone()),
        ];
        for edit in wrong {
            let mut edited = sound.clone();
            edit(&mut edited);
            assert!(edited.check().is_err(), "{edited:?}");
        }
    }
}
