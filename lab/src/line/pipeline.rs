//! The pure centre: a packet and the time go in; packets and their due times come out. No sockets, no clock.
//!
//! Order of effects on one packet: blackhole, loss, corrupt and reset, MTU, rate, delay, jitter and setup, reorder, duplicate.

use std::net::IpAddr;
use std::time::Duration;

use super::alter;
use super::book::{AddressBook, PathId};
use super::config::{ActiveFault, ConfigError, LineConfig, Router, UnknownAction};
use super::effect::Nanos;
use super::fault::{DfSet, Fault};
use super::mtu;
use super::order::Order;
use super::packet::{View, view};
use super::queue::{DelayQueue, Departure};
use super::rulebook::{Plan, Rulebook, SetFaultError};
use super::stats::{Counters, LineStats, PathCounts, PathRecords, PathStats, Recorder, StarvedLog};

/// What became of a pushed packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This many packets are under way because of it: copies and fragments included.
    Queued(usize),
    Dropped(DropReason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    Blackhole,
    Loss,
    Rate,
    Mtu,
    Overflow,
    Unknown,
    LinkScope,
    Malformed,
}

pub struct Pipeline {
    config: LineConfig,
    book: AddressBook,
    rulebook: Rulebook,
    order: Order,
    queue: DelayQueue,
    paths: PathRecords,
    counters: Counters,
    lateness: Recorder,
    wakeups: Recorder,
    starved: StarvedLog,
}

impl Pipeline {
    pub fn new(config: LineConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let book = AddressBook::new(&config);
        Ok(Self {
            rulebook: Rulebook::new(&config, &book),
            queue: DelayQueue::new(config.queue),
            book,
            order: Order::new(),
            paths: PathRecords::default(),
            counters: Counters::default(),
            lateness: Recorder::new(),
            wakeups: Recorder::new(),
            starved: StarvedLog::default(),
            config,
        })
    }

    pub fn faults(&self) -> &[ActiveFault] {
        self.rulebook.faults()
    }

    /// Replaces the fault of the same id, if there is one.
    pub fn set_fault(&mut self, fault: ActiveFault) -> Result<(), SetFaultError> {
        self.rulebook.set(&self.config, &self.book, fault)
    }

    /// False if there was none.
    pub fn clear_fault(&mut self, id: &str) -> bool {
        self.rulebook.clear(&self.book, id)
    }

    pub fn clear_faults(&mut self) {
        self.rulebook.clear_all(&self.book);
    }

    pub fn push(&mut self, now: Nanos, packet: Vec<u8>) -> Outcome {
        let Ok(view) = view(&packet, &self.config.vxlan_ports) else {
            self.counters.malformed += 1;
            return Outcome::Dropped(DropReason::Malformed);
        };
        if is_link_scope(view.outer.source) || is_link_scope(view.outer.target) {
            self.counters.link_scope += 1;
            return Outcome::Dropped(DropReason::LinkScope);
        }
        let owners = (
            self.book.owner(view.outer.source),
            self.book.owner(view.outer.target),
        );
        let (Some(source), Some(target)) = owners else {
            self.counters.unknown += 1;
            return match self.config.unknown {
                UnknownAction::Drop => Outcome::Dropped(DropReason::Unknown),
                UnknownAction::Pass => self.enqueue_free(now, packet),
            };
        };
        let path = PathId { source, target };
        let counts = &mut self.paths.of(path).counts;
        counts.packets += 1;
        counts.bytes += packet.len() as u64;
        let mut plan = self.rulebook.plan(&self.book, path);

        let pieces = match admit(packet, &view, &mut plan, counts, &self.config.router) {
            Ok(pieces) => pieces,
            Err(Refusal { reason, answer }) => {
                if let Some(answer) = answer {
                    self.enqueue_free(now, answer);
                }
                return Outcome::Dropped(reason);
            }
        };
        let last_due = self.order.of(connection(&view), now);
        let mut outcome = Outcome::Queued(0);
        for piece in pieces {
            let Some(Timing { due, copies }) =
                time(now, piece.len(), &view, &mut plan, last_due, counts)
            else {
                outcome = outcome.and(Outcome::Dropped(DropReason::Rate));
                continue;
            };
            for _ in 1..copies {
                let copy = Departure {
                    packet: piece.clone(),
                    due,
                    path: Some(path),
                };
                outcome = outcome.and(enqueue(&mut self.queue, copy, &mut counts.dropped.overflow));
            }
            let departure = Departure {
                packet: piece,
                due,
                path: Some(path),
            };
            outcome = outcome.and(enqueue(
                &mut self.queue,
                departure,
                &mut counts.dropped.overflow,
            ));
        }
        outcome
    }

    fn enqueue_free(&mut self, now: Nanos, packet: Vec<u8>) -> Outcome {
        let departure = Departure {
            packet,
            due: now,
            path: None,
        };
        enqueue(&mut self.queue, departure, &mut self.counters.overflow)
    }

    /// The next packet whose time has come, earliest first.
    pub fn pop_due(&mut self, now: Nanos) -> Option<Departure> {
        self.queue.pop_due(now)
    }

    pub fn next_due(&self) -> Option<Nanos> {
        self.queue.next_due()
    }

    /// To be called for every popped packet, after it was written.
    pub fn written(&mut self, departure: &Departure, now: Nanos) {
        let late = now.saturating_sub(departure.due);
        self.lateness.record(late);
        if let Some(path) = departure.path {
            let record = self.paths.of(path);
            record.counts.delivered += 1;
            record.counts.delivered_bytes += departure.packet.len() as u64;
            record.lateness.record(late);
        }
        self.punctual(departure.due, now);
    }

    pub fn write_failed(&mut self, departure: &Departure, error: String) {
        self.counters.write_errors += 1;
        self.counters.last_error = Some(error);
        if let Some(path) = departure.path {
            self.paths.of(path).counts.dropped.write_error += 1;
        }
    }

    pub fn read_failed(&mut self, error: String) {
        self.counters.read_errors += 1;
        self.counters.last_error = Some(error);
    }

    /// The line should have run at `intended` and ran at `now`.
    pub fn woke(&mut self, intended: Nanos, now: Nanos) {
        self.wakeups.record(now.saturating_sub(intended));
        self.punctual(intended, now);
    }

    fn punctual(&mut self, intended: Nanos, now: Nanos) {
        if u128::from(now.saturating_sub(intended)) > self.config.timing.starved_after().as_nanos()
        {
            self.starved.add(intended, now);
        }
    }

    pub fn stats(&self, now: Nanos) -> LineStats {
        let path = |(id, record): (PathId, &super::stats::PathRecord)| {
            let scope = self.book.scope(id)?;
            Some(PathStats {
                source: scope.source,
                target: scope.target,
                counts: record.counts.clone(),
                lateness: record.lateness.summary(),
            })
        };
        LineStats {
            now_ns: now,
            paths: self.paths.iter().filter_map(path).collect(),
            counters: self.counters.clone(),
            queued_packets: self.queue.len() as u64,
            queued_bytes: self.queue.bytes() as u64,
            device_dropped: None,
            lateness: self.lateness.summary(),
            wakeups: self.wakeups.summary(),
            starved: self.starved.snapshot(),
        }
    }
}

impl Outcome {
    /// Of several packets from one; a drop shows only if nothing is under way.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Queued(a), Self::Queued(b)) => Self::Queued(a + b),
            (Self::Queued(0) | Self::Dropped(_), other) => other,
            (queued, Self::Dropped(_)) => queued,
        }
    }
}

fn enqueue(queue: &mut DelayQueue, departure: Departure, overflow: &mut u64) -> Outcome {
    if queue.push(departure) {
        return Outcome::Queued(1);
    }
    *overflow += 1;
    Outcome::Dropped(DropReason::Overflow)
}

struct Refusal {
    reason: DropReason,
    /// What the router says to the source.
    answer: Option<Vec<u8>>,
}

/// The stages that decide whether a packet passes, and in how many pieces.
fn admit(
    packet: Vec<u8>,
    view: &View,
    plan: &mut Plan<'_>,
    counts: &mut PathCounts,
    router: &Router,
) -> Result<Vec<Vec<u8>>, Refusal> {
    let refuse = |reason| {
        Err(Refusal {
            reason,
            answer: None,
        })
    };
    let mut pieces = vec![packet];
    for step in 0..plan.len() {
        let effect = plan.get(step);
        if !view.matches(effect.rule.filter) {
            continue;
        }
        match effect.rule.fault {
            Fault::Blackhole => {
                counts.dropped.blackhole += 1;
                return refuse(DropReason::Blackhole);
            }
            Fault::Loss(loss) => {
                if effect.loses(&loss, view) {
                    counts.dropped.loss += 1;
                    return refuse(DropReason::Loss);
                }
            }
            Fault::Corrupt { share } => {
                if effect.happens(share) {
                    let bit = effect.draw();
                    counts.corrupted +=
                        u64::from(pieces.iter_mut().any(|p| alter::corrupt(p, view, bit)));
                }
            }
            Fault::Reset { share } => {
                if effect.happens(share) {
                    counts.reset += u64::from(pieces.iter_mut().any(|p| alter::reset(p, view)));
                }
            }
            Fault::Mtu {
                bytes,
                df_set,
                df_clear,
            } => match mtu::squeeze(pieces, bytes, view.dont_fragment, df_clear) {
                Ok(squeezed) => {
                    counts.fragmented += squeezed.cut;
                    counts.fragments += squeezed.made;
                    pieces = squeezed.pieces;
                }
                Err(whole) => {
                    counts.dropped.mtu += whole.len() as u64;
                    let answer = match (df_set, &whole[..]) {
                        (DfSet::PacketTooBig, [packet]) if view.dont_fragment => {
                            mtu::packet_too_big(packet, view, bytes, router)
                        }
                        _ => None,
                    };
                    counts.too_big_sent += u64::from(answer.is_some());
                    return Err(Refusal {
                        reason: DropReason::Mtu,
                        answer,
                    });
                }
            },
            // Later stages.
            _ => break,
        }
    }
    Ok(pieces)
}

struct Timing {
    due: Nanos,
    copies: u32,
}

/// The stages that move a packet in time or multiply it. `None`: dropped by a rate limit.
fn time(
    now: Nanos,
    length: usize,
    view: &View,
    plan: &mut Plan<'_>,
    last_due: &mut Nanos,
    counts: &mut PathCounts,
) -> Option<Timing> {
    let mut due = now;
    let mut held = None;
    let mut copies = 1;
    let nanos = |duration: Duration| duration.as_nanos() as Nanos;
    for step in 0..plan.len() {
        let effect = plan.get(step);
        if !view.matches(effect.rule.filter) {
            continue;
        }
        match effect.rule.fault {
            Fault::Blackhole
            | Fault::Loss(_)
            | Fault::Corrupt { .. }
            | Fault::Reset { .. }
            | Fault::Mtu { .. } => {}
            Fault::Rate { .. } => match effect.departure(due, length) {
                Some(at) => due = at,
                None => {
                    counts.dropped.rate += 1;
                    return None;
                }
            },
            Fault::Delay(extra) => due += nanos(extra),
            Fault::Setup(extra) => {
                if effect.first(view.innermost(), now) {
                    due += nanos(extra);
                }
            }
            Fault::Jitter(jitter) => due += nanos(effect.jitter(&jitter)),
            Fault::Reorder { share, hold } => {
                if effect.happens(share) {
                    held = Some(held.unwrap_or(0) + nanos(hold));
                }
            }
            Fault::Duplicate { share } => copies += u32::from(effect.happens(share)),
        }
    }
    match held {
        // Left out of the order, so that the packets behind it overtake.
        Some(hold) => {
            due += hold;
            counts.reordered += 1;
        }
        None => {
            due = due.max(*last_due);
            *last_due = due;
        }
    }
    counts.delayed += u64::from(due > now);
    counts.duplicated += u64::from(copies - 1);
    Some(Timing { due, copies })
}

/// Of the innermost 5-tuple and the one around it, if there is one.
fn connection(view: &View) -> u64 {
    let inner = view.inner.map_or(0, |inner| inner.hash(1));
    view.outer.hash(inner)
}

fn is_link_scope(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            address.is_multicast()
                || address.is_link_local()
                || address.is_unspecified()
                || address.is_broadcast()
        }
        IpAddr::V6(address) => {
            address.is_multicast() || address.is_unicast_link_local() || address.is_unspecified()
        }
    }
}

#[cfg(test)]
mod tests;
