//! What a run leaves open that more probes would settle: the question that the next look answers.

use mesh::Link;

use crate::short::Short;
use crate::verdict::{Check, PlaneName};

/// An undecided check of a link with all its evidence at hand: it only lacks samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Open {
    /// Id of the check.
    pub check: String,
    pub link: Link,
    pub plane: Option<PlaneName>,
    /// Samples of the statement that is furthest from a decision, and how many more would decide it at its
    /// observed rate; `None` when that rate is too close to the objective for any bearable number.
    pub samples: u64,
    pub more: Option<u64>,
}

impl Open {
    pub(crate) fn of(check: &Check, short: &Short) -> Option<Self> {
        Some(Self {
            check: check.id.clone(),
            link: Link {
                source: check.source_cluster.clone()?,
                target: check.target_cluster.clone()?,
            },
            plane: check.plane,
            samples: short.samples(),
            more: short.next(),
        })
    }
}
