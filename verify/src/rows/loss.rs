//! `loss.*`: datagrams lost by one direction of the path, and connects whose SYN had to be sent again.

use std::collections::BTreeMap;

use mesh::Link;
use mesh::observation::{KernelOutcome, NodeRef, Outcome, Plane, ProbeKind, ProbeRun};

use super::{Counted, Draft, Trial, count, percent, unwitnessed};
use crate::checks::{LOSS_TCP_SYN, LOSS_UDP};
use crate::tally::{Tally, Trials};
use crate::view::View;

pub(super) fn rows(view: &View<'_>, link: &Link) -> Vec<Draft> {
    vec![path(view, link), syn(view, link)]
}

/// What a run of datagrams says about either direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Legs {
    forward: Trials,
    back: Trials,
}

/// Splits the losses of one run. The receiver's highest count tells how many datagrams of those sent
/// up to the last one echoed had arrived; the others of them were lost on the way there, and what
/// arrived without its echo coming back was lost on the way back. After the last echo nothing is known.
fn legs(run: &ProbeRun) -> Legs {
    let sent: Vec<_> = run
        .samples
        .iter()
        .filter(|sample| sample.outcome != Outcome::LocalError)
        .collect();
    let echoed = |sample: &&&mesh::observation::Sample| {
        sample.outcome == Outcome::Ok && sample.receiver_count.is_some()
    };
    let Some(last) = sent
        .iter()
        .filter(echoed)
        .map(|sample| sample.sequence)
        .max()
    else {
        let unresolved = Trials {
            unresolved: sent.len() as u64,
            ..Trials::default()
        };
        return Legs {
            forward: unresolved,
            back: unresolved,
        };
    };
    let asked = sent.iter().filter(|sample| sample.sequence <= last).count() as u64;
    let tail = sent.len() as u64 - asked;
    let echoes = sent.iter().filter(echoed).count() as u64;
    let counted = sent
        .iter()
        .filter_map(|sample| sample.receiver_count)
        .max()
        .map_or(0, u64::from)
        // Fewer than came back or more than were sent cannot be; the wire border refuses such runs.
        .clamp(echoes, asked);
    // A starved prober may have missed an echo that came in time.
    let starved = sent
        .iter()
        .filter(|sample| sample.sequence <= last && sample.starved && !echoed(sample))
        .count() as u64;
    let back_lost = counted - echoes;
    let doubtful = starved.min(back_lost);
    Legs {
        forward: Trials {
            unresolved: tail,
            ..Trials::of(asked, asked - counted)
        },
        back: Trials {
            unresolved: tail + doubtful,
            ..Trials::of(counted - doubtful, back_lost - doubtful)
        },
    }
}

fn path(view: &View<'_>, link: &Link) -> Draft {
    let mut tally = Tally::default();
    let believed = |run: &&ProbeRun| {
        let ends = [
            run.target.node.clone().map(|node| NodeRef {
                cluster: run.target.cluster.clone(),
                node,
            }),
            Some(run.source.clone()),
        ];
        run.kind == ProbeKind::Udp
            && run.plane == Plane::Pod
            && ends.iter().all(|end| {
                end.as_ref()
                    .is_some_and(|end| view.silent(Plane::Pod, end).is_none())
            })
    };
    let runs: Vec<&ProbeRun> = view.observations.runs.iter().filter(believed).collect();
    let mut echoes = BTreeMap::new();
    let mut one_sided = 0;
    for run in &runs {
        let target = run.target.node.clone().unwrap_or_default();
        let (from, to) = (&run.source.cluster, &run.target.cluster);
        let touches = (from, to) == (&link.source, &link.target)
            || (from, to) == (&link.target, &link.source);
        if touches && echoed(run) == 0 && runs.iter().any(|other| answers(other, run)) {
            one_sided += sent(run);
            continue;
        }
        let legs = legs(run);
        if from == &link.source && to == &link.target {
            let cell = (run.source.node.clone(), target.clone());
            *echoes.entry(cell.clone()).or_insert(0) += legs.forward.known.n;
            *tally.cell(cell) += legs.forward;
        }
        if from == &link.target && to == &link.source {
            let cell = (target, run.source.node.clone());
            *echoes.entry(cell.clone()).or_insert(0) += legs.back.known.n;
            *tally.cell(cell) += legs.back;
        }
    }

    // Node pairs that neither echo nor connect crossed: the far kernel still knows which SYNs arrived.
    // A SYN that was sent again and arrived then counts as arrived, so this only ever tells "nothing"
    // from "most". Where connects work, SYNs cannot stand for datagrams that do not.
    let deaf: Vec<_> = echoes
        .iter()
        .filter(|(_, n)| **n == 0)
        .map(|(cell, _)| cell.clone())
        .collect();
    let mut by_syn = 0;
    for cell in deaf {
        let arrivals = syn_arrivals(view, link, &cell);
        if arrivals.known.n > 0 {
            *tally.cell(cell) = arrivals;
            by_syn += 1;
        }
    }

    let p0 = view.mesh.objectives.loss;
    let counted = Counted {
        tally,
        ..Counted::default()
    };
    let mut draft = counted.draft(view, LOSS_UDP, link, Plane::Pod, p0);
    draft.check.observed.excluded_local = None;
    draft.check.expected.text = format!("the path loses at most {} of the datagrams", percent(p0));
    if one_sided > 0 {
        draft.check.evidence.push(format!(
            "{one_sided} datagrams of one role stayed without any echo while those of the other role crossed the same nodes both ways: a filter, see reach.pod_udp, and not counted here"
        ));
    }
    if by_syn > 0 {
        draft.check.evidence.push(format!(
            "no echo came back between {by_syn} node pairs; there, SYNs recorded by the target's kernel stand for datagrams"
        ));
    }
    draft
}

fn sent(run: &ProbeRun) -> u64 {
    let sent = |sample: &&mesh::observation::Sample| sample.outcome != Outcome::LocalError;
    run.samples.iter().filter(sent).count() as u64
}

fn echoed(run: &ProbeRun) -> u64 {
    let ok = |sample: &&mesh::observation::Sample| sample.outcome == Outcome::Ok;
    run.samples.iter().filter(ok).count() as u64
}

/// Whether `other` is the run in the opposite role between the same nodes, and most of it was echoed: then both
/// directions of the path carry datagrams, and what swallows all of `run` looks at who began.
fn answers(other: &ProbeRun, run: &ProbeRun) -> bool {
    other.source.cluster == run.target.cluster
        && Some(&other.source.node) == run.target.node.as_ref()
        && other.target.cluster == run.source.cluster
        && other.target.node.as_ref() == Some(&run.source.node)
        && 2 * echoed(other) > sent(other)
}

fn syn_arrivals(view: &View<'_>, link: &Link, cell: &(String, String)) -> Trials {
    let target = NodeRef {
        cluster: link.target.clone(),
        node: cell.1.clone(),
    };
    let mut trials = Trials::default();
    if !view.witnessed(&target) {
        return trials;
    }
    let mut established = 0;
    for probe in view.of(link, Plane::Pod, ProbeKind::Tcp) {
        let sent = probe
            .source
            .is_some_and(|record| record.outcome != KernelOutcome::Local);
        if sent && &probe.cell() == cell {
            trials.known.add(probe.target.is_none());
            established += u64::from(probe.sample.connect_ns.is_some());
        }
    }
    if 2 * established > trials.known.n {
        Trials::default()
    } else {
        trials
    }
}

fn syn(view: &View<'_>, link: &Link) -> Draft {
    let counted = count(view.of(link, Plane::Pod, ProbeKind::Tcp), |probe| {
        let Some(record) = probe.source else {
            return Trial::Skip;
        };
        match record.outcome {
            KernelOutcome::Timeout => Trial::Bad("timeout"),
            KernelOutcome::AbortedByApplication => Trial::Bad("given_up_unanswered"),
            KernelOutcome::Local | KernelOutcome::SynOnly => Trial::Skip,
            KernelOutcome::Established | KernelOutcome::Refused | KernelOutcome::IcmpError => {
                if record.syn_retransmits > 0 {
                    Trial::Bad("syn_retransmitted")
                } else {
                    Trial::Good
                }
            }
        }
    });
    let p0 = view.mesh.objectives.loss;
    let mut draft = counted.draft(view, LOSS_TCP_SYN, link, Plane::Pod, p0);
    draft.check.expected.text = format!(
        "at most {} of the connects need a SYN retransmit",
        percent(p0)
    );
    if let Some(test) = &mut draft.test {
        test.missing.extend(unwitnessed(view, &link.source));
    }
    draft
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh::observation::{ProbeTarget, Sample};

    /// One character per datagram: `.` echoed, `>` lost on the way there, `<` lost on the way back,
    /// `S` lost on the way back while starved, `!` never sent.
    fn run(fates: &str) -> ProbeRun {
        let mut received = 0;
        let samples = fates
            .chars()
            .enumerate()
            .map(|(at, fate)| {
                received += u32::from(matches!(fate, '.' | '<' | 'S'));
                Sample {
                    sequence: at as u32,
                    source_port: 61_000,
                    sent_ns: at as u64,
                    delay_ns: 0,
                    outcome: match fate {
                        '.' => Outcome::Ok,
                        '!' => Outcome::LocalError,
                        _ => Outcome::Timeout,
                    },
                    connect_ns: None,
                    round_trip_ns: None,
                    responder: None,
                    receiver_count: (fate == '.').then_some(received),
                    starved: fate == 'S',
                }
            })
            .collect();
        let node = |cluster: &str| NodeRef {
            cluster: cluster.to_owned(),
            node: "n".to_owned(),
        };
        ProbeRun {
            source: node("a"),
            target: ProbeTarget {
                cluster: "b".to_owned(),
                node: Some("n".to_owned()),
                service: None,
                address: ([10, 0, 0, 1], 7411).into(),
            },
            kind: ProbeKind::Udp,
            plane: Plane::Pod,
            samples,
        }
    }

    #[test]
    fn each_direction_gets_its_own_losses() {
        let trials = |n, bad, unresolved| Trials {
            unresolved,
            ..Trials::of(n, bad)
        };
        let cases = [
            ("....", trials(4, 0, 0), trials(4, 0, 0)),
            (".>.>..", trials(6, 2, 0), trials(4, 0, 0)),
            (".<.<..", trials(6, 0, 0), trials(6, 2, 0)),
            (">.<.", trials(4, 1, 0), trials(3, 1, 0)),
            // After the last echo nothing is known about either direction.
            (".>.<>", trials(3, 1, 2), trials(2, 0, 2)),
            (">>>", trials(0, 0, 3), trials(0, 0, 3)),
            ("", trials(0, 0, 0), trials(0, 0, 0)),
            (".!.", trials(2, 0, 0), trials(2, 0, 0)),
            (".S.", trials(3, 0, 0), trials(2, 0, 1)),
        ];
        for (fates, forward, back) in cases {
            assert_eq!(legs(&run(fates)), Legs { forward, back }, "{fates}");
        }
    }
}
