//! `loss.*`: datagrams lost by one direction of the path, and connects whose SYN had to be sent again.

use std::collections::BTreeMap;

use mesh::Link;
use mesh::observation::{KernelOutcome, NodeRef, Outcome, Plane, ProbeKind, ProbeRun};

use super::{Counted, Draft, Trial, count, percent, unwitnessed};
use crate::checks::{LOSS_TCP_SYN, LOSS_UDP};
use crate::dependence::Event;
use crate::tally::{CellName, Tally, Trials};
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
/// arrived without its echo coming back was lost on the way back. After the last echo nothing is known; without any,
/// what the responders of both ends got tells more than the prober.
fn legs(run: &ProbeRun, responders: impl FnOnce() -> Responders) -> Legs {
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
        return without_echo(run, &responders());
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

/// What the responders of both ends know of all runs between the two nodes of a run, if none of its own was echoed.
#[derive(Clone, Copy, Debug, Default)]
struct Responders {
    /// Datagrams sent by the run's source to its target, and how many of them its target got.
    sent: u64,
    got: u64,
    /// How many the run's source got from its target, of which no echo came back.
    got_here_unechoed: u64,
}

impl Responders {
    fn of(view: &View<'_>, run: &ProbeRun) -> Self {
        let target = NodeRef {
            cluster: run.target.cluster.clone(),
            node: run.target.node.clone().unwrap_or_default(),
        };
        let runs = || view.observations.runs.iter().filter(|r| r.kind == run.kind);
        let same = |other: &&ProbeRun| other.source == run.source && other.target == run.target;
        if runs().filter(same).any(|other| echoed(other) > 0) {
            return Self::default();
        }
        let sent = runs().filter(same).map(sent).sum();
        let answered = |other: &ProbeRun| opposes(other, run) && echoed(other) > 0;
        Self {
            sent,
            got: view.received(&target, &run.source).min(sent),
            got_here_unechoed: if runs().any(answered) {
                0
            } else {
                view.received(&run.source, &target)
            },
        }
    }
}

/// No echo came back. If the responder got some, that is how many crossed, and their echoes were lost. If it is not
/// known to have got any, but our own responder got datagrams from there and not one of its echoes came back to
/// them, then the way there loses everything.
fn without_echo(run: &ProbeRun, responders: &Responders) -> Legs {
    let sent = sent(run);
    if responders.got > 0 {
        let share = responders.got as f64 / responders.sent.max(1) as f64;
        let arrived = (share * sent as f64).round() as u64;
        Legs {
            forward: Trials::of(sent, sent - arrived),
            back: Trials::of(arrived, arrived),
        }
    } else if responders.got_here_unechoed > 0 {
        Legs {
            forward: Trials::of(sent, sent),
            back: Trials::default(),
        }
    } else {
        let unresolved = Trials {
            unresolved: sent,
            ..Trials::default()
        };
        Legs {
            forward: unresolved,
            back: unresolved,
        }
    }
}

/// What became of one datagram, as far as a later echo tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fate {
    look: u32,
    at_ns: u64,
    arrived: bool,
    echoed: bool,
}

impl Fate {
    fn forward(self) -> Option<Event> {
        Some((self.look, self.at_ns, !self.arrived))
    }

    fn back(self) -> Option<Event> {
        self.arrived
            .then_some((self.look, self.at_ns, !self.echoed))
    }
}

/// The datagrams up to the last echo in the order sent. The receiver's counts tell how many of those between two
/// echoes arrived, not which: the lost ones are taken to be the first, so that a burst stays one.
fn fates(run: &ProbeRun) -> impl Iterator<Item = Fate> {
    let mut samples: Vec<_> = run
        .samples
        .iter()
        .filter(|sample| sample.outcome != Outcome::LocalError)
        .collect();
    samples.sort_by_key(|sample| sample.sequence);
    let mut fates = Vec::with_capacity(samples.len());
    let (mut silent, mut counted) = (0, 0);
    for (at, sample) in samples.iter().enumerate() {
        let count = match (sample.outcome, sample.receiver_count) {
            (Outcome::Ok, Some(count)) => u64::from(count),
            _ => continue,
        };
        let gap = (at - silent) as u64;
        let arrived = count.saturating_sub(counted + 1).min(gap);
        for (nth, sample) in samples[silent..=at].iter().enumerate() {
            let last = nth as u64 == gap;
            fates.push(Fate {
                look: run.look,
                at_ns: sample.sent_ns,
                arrived: last || nth as u64 >= gap - arrived,
                echoed: last,
            });
        }
        (silent, counted) = (at + 1, counted.max(count));
    }
    fates.into_iter()
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
    let mut by_responder = 0;
    for run in &runs {
        let target = run.target.node.clone().unwrap_or_default();
        let (from, to) = (&run.source.cluster, &run.target.cluster);
        let touches = (from, to) == (&link.source, &link.target)
            || (from, to) == (&link.target, &link.source);
        if touches && echoed(run) == 0 && runs.iter().any(|other| answers(other, run)) {
            one_sided += sent(run);
            continue;
        }
        let legs = legs(run, || Responders::of(view, run));
        if touches && echoed(run) == 0 && legs.forward.known.n > 0 {
            by_responder += sent(run);
        }
        if from == &link.source && to == &link.target {
            let cell = (run.source.node.clone(), target.clone());
            *echoes.entry(cell.clone()).or_insert(0) += legs.forward.known.n;
            for event in fates(run).filter_map(Fate::forward) {
                tally.note(&cell, event);
            }
            *tally.at_look(cell, run.look) += legs.forward;
        }
        if from == &link.target && to == &link.source {
            let cell = (target, run.source.node.clone());
            *echoes.entry(cell.clone()).or_insert(0) += legs.back.known.n;
            for event in fates(run).filter_map(Fate::back) {
                tally.note(&cell, event);
            }
            *tally.at_look(cell, run.look) += legs.back;
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
        if !arrivals.is_empty() {
            tally.clear(&cell);
            by_syn += 1;
        }
        for event in arrivals {
            tally.add(&cell, event);
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
    if by_responder > 0 {
        draft.check.evidence.push(format!(
            "{by_responder} datagrams stayed without any echo; how many of them and of their echoes were lost, the responders of both ends tell by what they received"
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
    opposes(other, run) && 2 * echoed(other) > sent(other)
}

fn opposes(other: &ProbeRun, run: &ProbeRun) -> bool {
    other.source.cluster == run.target.cluster
        && Some(&other.source.node) == run.target.node.as_ref()
        && other.target.cluster == run.source.cluster
        && other.target.node.as_ref() == Some(&run.source.node)
}

/// Every SYN that the source's kernel sent, bad if the target's kernel has no record of it. Nothing where most
/// of them led to a connection.
fn syn_arrivals(view: &View<'_>, link: &Link, cell: &CellName) -> Vec<Event> {
    let target = NodeRef {
        cluster: link.target.clone(),
        node: cell.1.clone(),
    };
    let mut events = Vec::new();
    if !view.witnessed(&target) {
        return events;
    }
    let mut established = 0;
    for probe in view.of(link, Plane::Pod, ProbeKind::Tcp) {
        let sent = probe
            .source
            .is_some_and(|record| record.outcome != KernelOutcome::Local);
        if sent && &probe.cell() == cell {
            let lost = probe.target.is_none();
            events.push((probe.run.look, probe.sample.sent_ns, lost));
            established += usize::from(probe.sample.connect_ns.is_some());
        }
    }
    if 2 * established > events.len() {
        events.clear();
    }
    events
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
                question: None,
            },
            kind: ProbeKind::Udp,
            plane: Plane::Pod,
            look: 0,
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
            let legs = legs(&run(fates), Responders::default);
            assert_eq!(legs, Legs { forward, back }, "{fates}");
        }
    }

    #[test]
    fn without_an_echo_the_responders_tell_what_they_know() {
        let silent = run(">>>>");
        let told = |sent, got, got_here_unechoed| {
            let responders = Responders {
                sent,
                got,
                got_here_unechoed,
            };
            let legs = legs(&silent, || responders);
            (legs.forward, legs.back)
        };
        let unknown = Trials {
            unresolved: 4,
            ..Trials::default()
        };
        assert_eq!(told(4, 3, 0), (Trials::of(4, 1), Trials::of(3, 3)));
        // Two looks: half of what arrived is this one's.
        assert_eq!(told(8, 8, 0), (Trials::of(4, 0), Trials::of(4, 4)));
        assert_eq!(told(4, 0, 9), (Trials::of(4, 4), Trials::default()));
        assert_eq!(told(4, 0, 0), (unknown, unknown));
    }

    #[test]
    fn each_datagram_has_its_fate() {
        for (sent, there, back) in [
            ("....", "....", "...."),
            (".>.>.", ".x.x.", "..."),
            (".<<<.", ".....", ".xxx."),
            (">>.<.>", "xx...", ".x."),
            // Which of the two was lost on the way there cannot be known.
            (".<>.", ".x..", ".x."),
            (">>>", "", ""),
        ] {
            let drawn = |events: Vec<Event>| -> String {
                let mark = |event: &Event| if event.2 { 'x' } else { '.' };
                events.iter().map(mark).collect()
            };
            let run = run(sent);
            assert_eq!(
                drawn(fates(&run).filter_map(Fate::forward).collect()),
                there,
                "{sent}"
            );
            assert_eq!(
                drawn(fates(&run).filter_map(Fate::back).collect()),
                back,
                "{sent}"
            );
        }
    }

    /// Whether an echo of the opposite run came back decides what datagrams that arrived here say of those sent there.
    #[test]
    fn responders_tell_nothing_of_a_way_that_some_echo_crossed() {
        let cluster = |name: &str, net: u8| mesh::Cluster {
            dns_server: None,
            name: name.to_owned(),
            id: net.into(),
            node_networks: Vec::new(),
            pod_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            nodes: vec![mesh::Node {
                name: "n".to_owned(),
                addresses: Vec::new(),
                agent_pod: vec![[10, 0, net, 1].into()],
                agent: None,
                agent_node_plane: None,
            }],
            context: None,
        };
        let mesh = mesh::Mesh {
            name: "m".to_owned(),
            clusters: vec![cluster("a", 1), cluster("b", 2)],
            clients: Vec::new(),
            services: Vec::new(),
            links: Vec::new(),
            objectives: mesh::Objectives::default(),
            rules: mesh::Rules::default(),
            tls: None,
        };
        let silent = run(">>>>");
        let back = |fates: &str| {
            let mut back = run(fates);
            std::mem::swap(&mut back.source.cluster, &mut back.target.cluster);
            back
        };
        let arrived = |node: &NodeRef, peer: [u8; 4], datagrams| mesh::observation::Received {
            node: node.clone(),
            peer: peer.into(),
            datagrams,
        };
        for (opposite, at_target, expected) in [
            ("<<<<", 0, (Trials::of(4, 4), Trials::default())),
            // Most of it was lost, but what came back crossed the way there, so that this run's loss has no direction.
            ("<<<.", 0, UNKNOWN),
            ("<<<.", 3, (Trials::of(4, 1), Trials::of(3, 3))),
        ] {
            let mut observations = mesh::observation::Observations {
                runs: vec![silent.clone(), back(opposite)],
                received: vec![arrived(&silent.source, [10, 0, 2, 1], 4)],
                ..Default::default()
            };
            if at_target > 0 {
                let target = &observations.runs[1].source;
                let got = arrived(target, [10, 0, 1, 1], at_target);
                observations.received.push(got);
            }
            let view = View::new(&mesh, &observations);
            let legs = legs(&silent, || Responders::of(&view, &silent));
            assert_eq!(
                (legs.forward, legs.back),
                expected,
                "{opposite} {at_target}"
            );
        }
    }

    const UNKNOWN: (Trials, Trials) = {
        let unknown = Trials {
            known: crate::stats::Count { n: 0, bad: 0 },
            unresolved: 4,
        };
        (unknown, unknown)
    };
}
