//! Metrics of the agent: what it knows, as samples of the families in [`definitions`].
//!
//! [`collect`] is pure. Kernel series carry the local cluster as source of what was begun here and as
//! target of what was accepted here. Names of remotes that are no cluster: an external client is
//! `external` with its name in the label `client`; `world`, `vip`, `ambiguous` and `~other` stand for themselves.

pub mod definitions;
mod page;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use mesh::Mesh;
use mesh::measurement::PathDirection;
use mesh::observation::{NodeRef, Outcome, Plane};
use probe_api::words::Word;
use probe_common::{Counter, Direction, GlobalCounter, HistogramKind, Origin};

use crate::agent::Agent;
use crate::kernel::{NamedSeries, Reading};
use crate::measure::LatestFigure;
use crate::probe_counts::{ProbeKey, ProbeSeries};
use definitions as d;

pub use page::{EDGES, Page, Value};

/// Label of an external client where a cluster would stand.
pub const EXTERNAL: &str = "external";

/// Outcomes of connects as the kernel counts them.
const CONNECT_OUTCOMES: [(&str, Counter); 7] = [
    ("established", Counter::Established),
    ("refused", Counter::FailedRefused),
    ("timeout", Counter::FailedTimeout),
    ("aborted_by_application", Counter::FailedAborted),
    ("icmp_error", Counter::FailedIcmp),
    ("local", Counter::FailedLocal),
    ("unknown", Counter::FailedUnknown),
];

/// What one exposition is made of.
pub struct Inputs<'a> {
    pub me: &'a NodeRef,
    pub plane: Plane,
    pub mesh: &'a Mesh,
    pub reading: Option<&'a Reading>,
    pub background: BTreeMap<ProbeKey, ProbeSeries>,
    pub bursts: BTreeMap<(&'static str, &'static str), u64>,
    /// Families of the agent alone: definition, labels after `source_cluster`, value.
    pub own: Vec<(&'static d::Definition, Option<&'static str>, u64)>,
    pub measured: Vec<LatestFigure>,
    pub witness: bool,
    pub process: Process,
}

/// The agent's own use of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    pub open_fds: u64,
}

/// One exposition.
#[must_use]
pub fn collect(inputs: &Inputs<'_>) -> Page {
    let mut page = Page::default();
    let local = inputs.me.cluster.as_str();
    let version = env!("CARGO_PKG_VERSION");
    let plane = inputs.plane.word();
    page.add(&d::BUILD, [version, local, &inputs.me.node, plane], 1);
    kernel_series(&mut page, inputs);
    probes(&mut page, inputs);
    kernel_counters(&mut page, inputs);
    for (definition, label, value) in &inputs.own {
        match label {
            None => page.add(definition, [local], *value),
            Some(label) => page.add(definition, [local, label], *value),
        }
    }
    paths(&mut page, inputs);
    page.add(&d::WITNESS, [local], u64::from(inputs.witness));
    page.add(&d::CPU, [], inputs.process.cpu_seconds);
    page.add(&d::RSS, [], inputs.process.resident_bytes);
    page.add(&d::OPEN_FDS, [], inputs.process.open_fds);
    page
}

fn paths(page: &mut Page, inputs: &Inputs<'_>) {
    let local = inputs.me.cluster.as_str();
    for latest in &inputs.measured {
        let remote = latest.cluster.as_str();
        let (source, target) = match latest.direction {
            PathDirection::Forward => (local, remote),
            PathDirection::Return => (remote, local),
        };
        let labels = [source, target, inputs.plane.word()];
        if let Some(bytes) = latest.path_mtu {
            page.add(&d::PATH_MTU, labels, u64::from(bytes));
        }
        if let Some(rate) = latest.goodput_bytes_per_second {
            page.add(&d::GOODPUT, labels, rate);
        }
    }
}

fn kernel_series(page: &mut Page, inputs: &Inputs<'_>) {
    let Some(reading) = inputs.reading else {
        return;
    };
    let local = inputs.me.cluster.as_str();
    let clients: BTreeSet<&str> = inputs
        .mesh
        .clients
        .iter()
        .map(|c| c.name.as_str())
        .collect();
    let mut probed = BTreeSet::new();
    for series in &reading.series {
        let (remote, client) = if clients.contains(series.remote.as_str()) {
            (EXTERNAL, series.remote.as_str())
        } else {
            (series.remote.as_str(), "")
        };
        if series.key.direction() == Direction::Initiator
            && series.key.origin() == Origin::Probe
            && series.class == "other"
        {
            probed.insert(remote);
        }
        one_series(page, local, remote, client, series);
    }
    // A rate misses the first increment of a series that did not exist, so what is going to be probed exists at 0.
    for link in inputs.mesh.links.iter().filter(|link| link.source == local) {
        if !probed.contains(link.target.as_str()) {
            for (outcome, _) in CONNECT_OUTCOMES {
                let labels = ["probe", local, &link.target, "", "other", outcome];
                page.add(&d::TCP_CONNECTS, labels, 0);
            }
        }
    }
}

fn one_series(page: &mut Page, local: &str, remote: &str, client: &str, series: &NamedSeries) {
    let data = &series.data;
    let class = series.class.as_str();
    let origin = match series.key.origin() {
        Origin::Probe => "probe",
        Origin::Burst => "burst",
        Origin::Traffic => "traffic",
    };
    let (direction, source, target) = match series.key.direction() {
        Direction::Initiator => ("initiator", local, remote),
        Direction::Acceptor => ("acceptor", remote, local),
        Direction::Unknown => ("unknown", local, remote),
    };
    let five = [origin, source, target, client, class];
    let six = [origin, source, target, client, class, direction];
    match series.key.direction() {
        Direction::Initiator => {
            for (outcome, counter) in CONNECT_OUTCOMES {
                let labels = [origin, source, target, client, class, outcome];
                page.add(&d::TCP_CONNECTS, labels, data.counter(counter));
            }
            let connect = data.histogram(HistogramKind::Connect);
            page.add(&d::TCP_CONNECT_DURATION, five, connect);
        }
        Direction::Acceptor => {
            page.add(&d::TCP_ACCEPTS, five, data.counter(Counter::Established));
        }
        Direction::Unknown => {}
    }
    for (definition, kind) in [
        (&d::TCP_HANDSHAKE_RTT, HistogramKind::Handshake),
        (&d::TCP_MIN_RTT, HistogramKind::Minimum),
        (&d::TCP_ACK_LATENCY, HistogramKind::AckLatency),
    ] {
        page.add(definition, six, data.histogram(kind));
    }
    for (definition, counter) in [
        (
            &d::TCP_CONNECTS_RETRANSMITTED,
            Counter::EstablishedAfterRetransmit,
        ),
        (&d::TCP_SYN_RETRANSMITS, Counter::SynRetransmits),
        (&d::TCP_RETRANSMITS, Counter::Retransmits),
        (&d::TCP_RTOS, Counter::Rtos),
        (&d::TCP_TIMED_OUT, Counter::TimedOut),
        (&d::TCP_SENT, Counter::BytesSent),
        (&d::TCP_RECEIVED, Counter::BytesReceived),
        (&d::TCP_ADOPTED, Counter::Adopted),
        (&d::TCP_CLAMPED, Counter::Clamped),
    ] {
        page.add(definition, six, data.counter(counter));
    }
    for (by, counter) in [("local", Counter::ResetLocal), ("peer", Counter::ResetPeer)] {
        let labels = [origin, source, target, client, class, direction, by];
        page.add(&d::TCP_RESETS, labels, data.counter(counter));
    }
    page.add(&d::TCP_OPEN, six, data.open());
}

fn kernel_counters(page: &mut Page, inputs: &Inputs<'_>) {
    let local = inputs.me.cluster.as_str();
    for counter in GlobalCounter::ALL {
        let definition = match counter {
            GlobalCounter::EventsProduced => &d::EVENTS_PRODUCED,
            GlobalCounter::EventsLost => &d::EVENTS_LOST,
            GlobalCounter::EventsSuppressed => &d::EVENTS_SUPPRESSED,
            GlobalCounter::SeriesFull => &d::SERIES_FULL,
            GlobalCounter::StorageFailed => &d::STORAGE_FAILED,
            GlobalCounter::TableTaken => &d::TABLE_TAKEN,
            GlobalCounter::FlagsLost => &d::FLAGS_LOST,
            GlobalCounter::FlagsRefused => &d::FLAGS_REFUSED,
            GlobalCounter::OldSocketsSeen => &d::OLD_SEEN,
            GlobalCounter::OldSocketsCovered => &d::OLD_COVERED,
            GlobalCounter::RttUnrecovered => &d::RTT_UNRECOVERED,
            GlobalCounter::OldSocketsMissed => &d::OLD_MISSED,
            GlobalCounter::BytesUnknown => &d::BYTES_UNKNOWN,
        };
        // Every loss counter exists from the start; whether anything is witnessed at all is `aggrik8s_kernel_witness`.
        let value = inputs
            .reading
            .and_then(|reading| reading.counters.iter().find(|(known, _)| known == counter))
            .map_or(0, |(_, value)| *value);
        page.add(definition, [local], value);
    }
    if let Some(reading) = inputs.reading {
        page.add(&d::EGRESS_RESTS, [local], u64::from(reading.egress_rests));
    }
    for program in inputs.reading.iter().flat_map(|reading| &reading.programs) {
        let attached = u64::from(program.refused.is_none());
        page.add(&d::PROGRAM, [local, program.program], attached);
    }
}

fn probes(page: &mut Page, inputs: &Inputs<'_>) {
    let local = inputs.me.cluster.as_str();
    let plane = inputs.plane.word();
    for ((probe, target), series) in &inputs.background {
        page.add(
            &d::PROBE_DURATION,
            [probe, Outcome::Ok.word(), plane, local, target],
            series.durations.as_ref(),
        );
        let attempts = series.attempts;
        page.add(&d::PROBE_ATTEMPTS, [probe, plane, local, target], attempts);
        for (outcome, count) in &series.outcomes {
            page.add(
                &d::PROBE_RESULTS,
                [probe, outcome, plane, local, target],
                *count,
            );
        }
        for (reason, count) in [
            ("starved", series.starved),
            ("local_error", series.local_errors),
        ] {
            page.add(
                &d::PROBE_EXCLUDED,
                [probe, reason, plane, local, target],
                count,
            );
        }
    }
    for ((probe, outcome), count) in &inputs.bursts {
        page.add(&d::BURST_PROBES, [probe, outcome, local], *count);
    }
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Every family that is the agent's alone, all of them from the start.
fn own(agent: &Agent) -> Vec<(&'static d::Definition, Option<&'static str>, u64)> {
    let kernel = agent.kernel.stats();
    let (records, evicted, unusable) = {
        let store = agent.kernel.store();
        (store.len() as u64, store.evicted(), store.unusable())
    };
    let received = load(&kernel.events_received);
    let traffic = load(&kernel.traffic_events);
    let prober = agent.prober.stats();
    let responder = &agent.responder;
    let measured = agent.measurer.stats();
    vec![
        (&d::PROBE_SKIPPED, None, agent.probes.skipped_probes()),
        (
            &d::EVENTS_RECEIVED,
            Some("probe"),
            received.saturating_sub(traffic),
        ),
        (&d::EVENTS_RECEIVED, Some("traffic"), traffic),
        (&d::EVENTS_UNDECODABLE, None, load(&kernel.decode_errors)),
        (&d::RECORDS, None, records),
        (&d::RECORDS_EVICTED, None, evicted),
        (&d::RECORDS_UNUSABLE, None, unusable),
        (&d::MAP_MESH_WRITES, None, load(&kernel.mesh_writes)),
        (&d::MAP_READ_ERRORS, None, load(&kernel.read_errors)),
        (&d::MAP_WRITE_ERRORS, None, load(&kernel.write_errors)),
        (&d::MAP_HOLDERS_LOST, None, load(&kernel.holders_lost)),
        (&d::MAP_REQUESTS_FAILED, None, load(&kernel.requests_failed)),
        (&d::PROBER_PORTS_TAKEN, None, load(&prober.ports_in_use)),
        (&d::PROBER_STRAYS, None, load(&prober.stray_datagrams)),
        (&d::PROBER_STALLS, None, load(&prober.stalls)),
        (&d::PROBER_STARVED, None, load(&prober.starved_samples)),
        (&d::PROBER_ABANDONED, None, load(&prober.abandoned)),
        (
            &d::PATH_MTU_MEASUREMENTS,
            Some("ok"),
            load(&measured.path_mtu_ok),
        ),
        (
            &d::PATH_MTU_MEASUREMENTS,
            Some("failed"),
            load(&measured.path_mtu_failed),
        ),
        (
            &d::THROUGHPUT_MEASUREMENTS,
            Some("ok"),
            load(&measured.throughput_ok),
        ),
        (
            &d::THROUGHPUT_MEASUREMENTS,
            Some("failed"),
            load(&measured.throughput_failed),
        ),
        (&d::MEASURE_BUSY, None, load(&measured.busy)),
        (
            &d::RESPONDER_ANSWERED,
            Some("tcp"),
            load(&responder.tcp_answered),
        ),
        (
            &d::RESPONDER_ANSWERED,
            Some("udp"),
            load(&responder.udp_answered),
        ),
        (
            &d::RESPONDER_ANSWERED,
            Some("http"),
            load(&responder.http_answered),
        ),
        (
            &d::RESPONDER_ANSWERED,
            Some("path_mtu"),
            load(&responder.sized_answered),
        ),
        (
            &d::RESPONDER_TRANSFERS,
            Some("done"),
            load(&responder.transfers_done),
        ),
        (
            &d::RESPONDER_TRANSFERS,
            Some("cut"),
            load(&responder.transfers_cut),
        ),
        (
            &d::RESPONDER_TRANSFERS,
            Some("busy"),
            load(&responder.transfers_busy),
        ),
        (
            &d::RESPONDER_TRANSFERS,
            Some("budget"),
            load(&responder.transfers_over_budget),
        ),
        (
            &d::RESPONDER_TRANSFER_BYTES,
            None,
            load(&responder.transfer_bytes),
        ),
        (
            &d::RESPONDER_PADDED_REFUSED,
            None,
            load(&responder.padded_refused),
        ),
        (&d::RESPONDER_IGNORED, None, load(&responder.ignored)),
        (&d::RESPONDER_REJECTED, None, load(&responder.rejected)),
        (&d::RESPONDER_EXPIRED, None, load(&responder.expired)),
        (
            &d::RESPONDER_SEND_ERRORS,
            None,
            load(&responder.send_errors),
        ),
        (&d::RESPONDER_EVICTED, None, load(&responder.evicted_runs)),
        (
            &d::MESH_RELOADS,
            Some("applied"),
            load(&agent.reloads.applied),
        ),
        (
            &d::MESH_RELOADS,
            Some("refused"),
            load(&agent.reloads.refused),
        ),
        (&d::API_CALLS, Some("identity"), load(&agent.api.identity)),
        (&d::API_CALLS, Some("observe"), load(&agent.api.observe)),
        (&d::API_CALLS, Some("probe"), load(&agent.api.probe)),
        (
            &d::API_CALLS,
            Some("connections"),
            load(&agent.api.connections),
        ),
        (&d::API_CALLS, Some("measure"), load(&agent.api.measure)),
        (&d::API_REFUSED, None, load(&agent.api.refused)),
        (
            &d::API_CONNECTIONS_REFUSED,
            None,
            load(&agent.api.admission.refused),
        ),
        (
            &d::API_CONNECTIONS_SILENT,
            None,
            load(&agent.api.admission.silent),
        ),
        (&d::HTTP_REFUSED, None, load(&agent.http.refused)),
    ]
}

fn page(agent: &Agent, reading: Option<&Reading>) -> Page {
    collect(&Inputs {
        me: &agent.me,
        plane: agent.plane,
        mesh: &agent.mesh(),
        reading,
        background: agent.probes.background_series(),
        bursts: agent.probes.burst_probes(),
        own: own(agent),
        measured: agent.measurer.latest(),
        witness: agent.kernel.witness().0,
        process: crate::process::usage(),
    })
}

/// The body of `/metrics`.
pub fn text(agent: &Agent) -> Result<String, std::fmt::Error> {
    page(agent, agent.kernel.read().as_ref()).into_text()
}

/// Counters of the agent and the whole kernel side by their exposed name; kernel series are not among them.
#[must_use]
pub fn agent_counters(agent: &Agent, reading: Option<&Reading>) -> BTreeMap<String, u64> {
    let mut counters = BTreeMap::new();
    let mut page = Page::default();
    let local = agent.me.cluster.as_str();
    let mesh = agent.mesh();
    let inputs = Inputs {
        me: &agent.me,
        plane: agent.plane,
        mesh: &mesh,
        reading,
        background: BTreeMap::new(),
        bursts: BTreeMap::new(),
        own: own(agent),
        measured: Vec::new(),
        witness: false,
        process: Process::default(),
    };
    kernel_counters(&mut page, &inputs);
    for (definition, label, value) in &inputs.own {
        match label {
            None => page.add(definition, [local], *value),
            Some(label) => page.add(definition, [local, label], *value),
        }
    }
    for (name, value) in page.counters() {
        *counters.entry(name).or_default() += value;
    }
    counters
}

#[cfg(test)]
#[path = "../metrics_tests.rs"]
mod tests;
