//! What happened to the probes of one kind on one link, in numbers that rules can compare.

use std::collections::BTreeMap;

use mesh::Link;
use mesh::observation::{KernelOutcome, NodeRef, Outcome, Plane, ProbeKind};

use crate::stats::{Count, p_too_many};
use crate::tally::{Scope, Tally, localise};
use crate::view::{Probe, View};

/// Probes of one kind within a scope of one link. Doubtful and never sent ones are left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Facts {
    pub(crate) n: u64,
    pub(crate) failed: u64,
    pub(crate) refused: u64,
    pub(crate) timeout: u64,
    pub(crate) unreachable: u64,
    pub(crate) reset: u64,
    /// Answered by somebody else, or by something that is not our responder.
    pub(crate) foreign: u64,
    /// SYNs that the source's kernel sent again, and the connections that needed it.
    pub(crate) syn_retransmits: u64,
    pub(crate) syn_retransmitted: u64,
    /// Connects that stayed without an answer for the source's kernel …
    pub(crate) unanswered: u64,
    /// … of which the target's kernel recorded the SYN, or nothing although it was watching.
    pub(crate) seen_at_target: u64,
    pub(crate) unseen_at_target: u64,
    /// Refused ones whose SYN the target's kernel recorded.
    pub(crate) refused_seen: u64,
    /// Foreign ones of which the target's kernel recorded the connection all the same.
    pub(crate) foreign_seen: u64,
}

impl Facts {
    pub(crate) fn of(
        view: &View<'_>,
        link: &Link,
        plane: Plane,
        kind: ProbeKind,
        scope: &Scope,
    ) -> Self {
        let mut facts = Self::default();
        for probe in usable(view, link, plane, kind) {
            if scope.covers(&probe.cell()) {
                facts.add(view, probe);
            }
        }
        facts
    }

    fn add(&mut self, view: &View<'_>, probe: &Probe<'_>) {
        self.n += 1;
        let counter = match probe.sample.outcome {
            Outcome::Ok => None,
            Outcome::Refused => Some(&mut self.refused),
            Outcome::Timeout => Some(&mut self.timeout),
            Outcome::Unreachable => Some(&mut self.unreachable),
            Outcome::Reset => Some(&mut self.reset),
            Outcome::WrongResponder | Outcome::BadReply => Some(&mut self.foreign),
            // Of questions to resolvers, which are told elsewhere.
            Outcome::NoSuchName | Outcome::ServerFailure | Outcome::WrongAddress => None,
            Outcome::LocalError => return,
        };
        if let Some(counter) = counter {
            *counter += 1;
            self.failed += 1;
        }
        let foreign = matches!(
            probe.sample.outcome,
            Outcome::WrongResponder | Outcome::BadReply
        );
        self.foreign_seen += u64::from(foreign && probe.target.is_some());
        let Some(source) = probe.source else { return };
        self.syn_retransmits += u64::from(source.syn_retransmits);
        self.syn_retransmitted += u64::from(source.syn_retransmits > 0);
        match source.outcome {
            KernelOutcome::Timeout
            | KernelOutcome::AbortedByApplication
            | KernelOutcome::IcmpError => {
                self.unanswered += 1;
                let watching = probe.run.target.node.as_ref().is_some_and(|node| {
                    view.witnessed(&NodeRef {
                        cluster: probe.run.target.cluster.clone(),
                        node: node.clone(),
                    })
                });
                if probe.target.is_some() {
                    self.seen_at_target += 1;
                } else if watching {
                    self.unseen_at_target += 1;
                }
            }
            KernelOutcome::Refused => self.refused_seen += u64::from(probe.target.is_some()),
            _ => {}
        }
    }

    /// "960 timed out, 3 refused": the kinds that there were.
    pub(crate) fn kinds(&self) -> String {
        let kinds = [
            (self.timeout, "timed out"),
            (self.refused, "refused"),
            (self.unreachable, "unreachable"),
            (self.reset, "reset"),
            (self.foreign, "answered by somebody else"),
        ];
        let there: Vec<String> = kinds
            .iter()
            .filter(|(n, _)| *n > 0)
            .map(|(n, kind)| format!("{n} {kind}"))
            .collect();
        there.join(", ")
    }

    /// Most probes fail.
    pub(crate) fn hard(&self) -> bool {
        self.n > 0 && 2 * self.failed > self.n
    }

    /// So many fail that nothing can be said to pass.
    pub(crate) fn dead(&self) -> bool {
        self.n > 0 && 10 * self.failed >= 9 * self.n
    }

    /// Of the failed ones, most are of this kind.
    pub(crate) fn mostly(&self, part: u64) -> bool {
        self.failed > 0 && 2 * part > self.failed
    }

    /// What the target's kernel knows of the SYNs that stayed unanswered, in words.
    pub(crate) fn arrivals(&self) -> String {
        match (self.seen_at_target, self.unseen_at_target) {
            (0, 0) => "no kernel at the target tells whether their SYNs arrived".to_owned(),
            (0, _) => "none of their SYNs reached the target's kernel".to_owned(),
            (_, 0) => "their SYNs all reached the target's kernel".to_owned(),
            (seen, unseen) => {
                format!("{seen} of their SYNs reached the target's kernel, {unseen} did not")
            }
        }
    }

    /// Whether the target's kernel saw the SYNs that stayed unanswered.
    pub(crate) fn arrival(&self) -> Arrival {
        let judged = self.seen_at_target + self.unseen_at_target;
        if judged == 0 || 2 * judged < self.unanswered {
            Arrival::Unknown
        } else if 10 * self.unseen_at_target >= 9 * judged {
            Arrival::None
        } else if 10 * self.seen_at_target >= 9 * judged {
            Arrival::All
        } else {
            Arrival::Some
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    Unknown,
    None,
    Some,
    All,
}

fn usable<'v, 'a>(
    view: &'v View<'a>,
    link: &'v Link,
    plane: Plane,
    kind: ProbeKind,
) -> impl Iterator<Item = &'v Probe<'a>> {
    view.of(link, plane, kind)
        .filter(|probe| !probe.doubtful() && probe.sample.outcome != Outcome::LocalError)
}

/// Where on the link the probes of this kind fail.
pub(crate) fn failing_scope(view: &View<'_>, link: &Link, plane: Plane, kind: ProbeKind) -> Scope {
    let mut tally = Tally::default();
    for probe in usable(view, link, plane, kind) {
        tally
            .cell(probe.cell())
            .known
            .add(probe.sample.outcome != Outcome::Ok);
    }
    localise(&tally)
}

/// Shortest, median echo on a connection that is already open, within a scope of a link, s.
pub(crate) fn echo_seconds(view: &View<'_>, link: &Link, scope: &Scope) -> Option<(f64, f64)> {
    let mut times: Vec<f64> = usable(view, link, Plane::Pod, ProbeKind::Tcp)
        .filter(|probe| scope.covers(&probe.cell()))
        .filter(|probe| probe.sample.outcome == Outcome::Ok && !probe.sample.starved)
        .filter_map(|probe| probe.sample.round_trip_ns)
        .map(|ns| ns as f64 * 1e-9)
        .collect();
    times.sort_by(f64::total_cmp);
    Some((*times.first()?, *times.get(times.len() / 2)?))
}

/// First SYNs that were lost on a path, or their answers, and what became of the same flows a second later.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Flows {
    pub(crate) connects: u64,
    pub(crate) first_lost: u64,
    /// Of these, connects that never got an answer although the SYN was sent again.
    pub(crate) given_up: u64,
    /// Some of them: source, port and target.
    pub(crate) examples: Vec<String>,
}

/// Chance below which lost SYNs that stay lost are no accident.
const FLOW_CHANCE: f64 = 1e-6;
const FLOW_EXAMPLES: usize = 6;

impl Flows {
    /// Connects of both initiators: either needs both directions of a path.
    pub(crate) fn of(
        view: &View<'_>,
        links: &[Link],
        scope: impl Fn(&Link, &Probe<'_>) -> bool,
    ) -> Self {
        let mut flows = Self::default();
        for link in links {
            for probe in usable(view, link, Plane::Pod, ProbeKind::Tcp) {
                let Some(record) = probe.source.filter(|_| scope(link, probe)) else {
                    continue;
                };
                flows.connects += 1;
                let given_up = matches!(
                    record.outcome,
                    KernelOutcome::Timeout | KernelOutcome::AbortedByApplication
                );
                if record.syn_retransmits == 0 && !given_up {
                    continue;
                }
                flows.first_lost += 1;
                // Without a second SYN nothing is known of the flow.
                if given_up && record.syn_retransmits > 0 {
                    flows.given_up += 1;
                    if flows.examples.len() < FLOW_EXAMPLES {
                        flows.examples.push(format!(
                            "`{}` port {} to {}",
                            probe.run.source.node,
                            probe.sample.source_port,
                            probe.run.target.address
                        ));
                    }
                }
            }
        }
        flows
    }

    /// Whether some flows always fail and the others do not, rather than all of them sometimes: what was lost once
    /// is lost again far more often than a SYN is lost.
    pub(crate) fn some_always_fail(&self) -> bool {
        let first = Count::new(self.connects, self.first_lost);
        let again = Count::new(self.first_lost, self.given_up);
        2 * self.first_lost < self.connects
            && 10 * again.bad >= 8 * again.n
            && p_too_many(again, first.rate()) < FLOW_CHANCE
    }
}

/// Shortest, median connect of the pod plane within a scope of a link, s.
pub(crate) fn connect_seconds(view: &View<'_>, link: &Link, scope: &Scope) -> Option<(f64, f64)> {
    let mut times: Vec<f64> = usable(view, link, Plane::Pod, ProbeKind::Tcp)
        .filter(|probe| scope.covers(&probe.cell()))
        .filter(|probe| probe.sample.outcome == Outcome::Ok)
        .filter_map(
            |probe| match probe.source.and_then(|record| record.connect_ns) {
                // What the prober was starved of, its kernel was not.
                Some(ns) if probe.sample.starved => Some(ns),
                None if probe.sample.starved => None,
                _ => probe.sample.connect_ns,
            },
        )
        .map(|ns| ns as f64 * 1e-9)
        .collect();
    times.sort_by(f64::total_cmp);
    Some((*times.first()?, *times.get(times.len() / 2)?))
}

/// One-way times of the handshake's ACK within a scope of a link. Two clocks are involved.
pub(crate) struct OneWay {
    /// Median, s, with the bound of its error.
    pub(crate) median: f64,
    pub(crate) bound: f64,
    /// 99th percentile minus shortest, s: the clocks' offset is in both, so it has no part in the difference.
    pub(crate) spread: f64,
}

/// `None` without matched records or clock offsets.
pub(crate) fn one_way(view: &View<'_>, link: &Link, scope: &Scope) -> Option<OneWay> {
    // By pair of nodes: each has an offset and a distance of its own.
    let mut pairs: BTreeMap<(NodeRef, NodeRef), Vec<f64>> = BTreeMap::new();
    let mut bound = 0.0_f64;
    for probe in usable(view, link, Plane::Pod, ProbeKind::Tcp) {
        let (Some(source), Some(target), true) =
            (probe.source, probe.target, scope.covers(&probe.cell()))
        else {
            continue;
        };
        if source.outcome != KernelOutcome::Established
            || target.outcome != KernelOutcome::Established
        {
            continue;
        }
        let offset = |node: &NodeRef| {
            let account = view.account(Plane::Pod, node)?;
            Some((
                account.monotonic_offset_seconds?,
                account.clock_offset_bound_seconds?,
            ))
        };
        let (source_offset, source_bound) = offset(&source.node)?;
        let (target_offset, target_bound) = offset(&target.node)?;
        bound = bound.max(source_bound + target_bound);
        // Both offsets are (node − collector), so the collector's time is node time minus offset.
        let elapsed = target.at_ns as f64 * 1e-9
            - target_offset
            - (source.at_ns as f64 * 1e-9 - source_offset);
        let pair = (source.node.clone(), target.node.clone());
        pairs.entry(pair).or_default().push(elapsed);
    }
    let mut all = Vec::new();
    let mut late = Vec::new();
    for times in pairs.values() {
        let shortest = times.iter().copied().fold(f64::INFINITY, f64::min);
        late.extend(times.iter().map(|time| time - shortest));
        all.extend(times);
    }
    all.sort_by(f64::total_cmp);
    late.sort_by(f64::total_cmp);
    Some(OneWay {
        median: *all.get(all.len() / 2)?,
        bound,
        spread: *late.get((0.99 * (late.len() as f64 - 1.0)) as usize)?,
    })
}
