//! The prober's thread: one poller, one loop, every socket.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use mesh::observation::{Outcome, ProbeKind, Sample};
use mio::{Events, Interest, Poll, Token};
use tokio::sync::mpsc::error::TrySendError;

use super::exchange::Exchange;
use super::flight::{Flight, NotOpened, Wire, nanos, open};
use super::ports::SourcePorts;
use super::schedule::{Due, Schedule};
use super::{Job, Stats};
use crate::frame::{Key, Nonce};

pub(super) const WAKER: Token = Token(0);

/// How late the thread may be run before the probes in flight count as starved.
pub const STALL_LIMIT: Duration = Duration::from_millis(5);
/// Longest sleep while a probe is in flight, so that a stall is noticed.
const TICK: Duration = Duration::from_millis(2);
const IDLE: Duration = Duration::from_secs(3_600);

/// A job that is being worked on.
struct Running {
    job: Job,
    schedule: Schedule,
    start: Instant,
    /// How far the schedule has slipped: after a stall probes go on at their pace, not in a bunch.
    slip: Duration,
    /// Run id per target: receivers count per target.
    runs: Vec<u64>,
    in_flight: u64,
}

impl Running {
    /// When the next probe is due.
    fn next_at(&self) -> Option<Instant> {
        Some(self.start + self.slip + self.schedule.next_at()?)
    }
}

pub(super) struct Engine {
    poll: Poll,
    queue: Receiver<Job>,
    tcp_ports: SourcePorts,
    udp_ports: SourcePorts,
    stats: Arc<Stats>,
    jobs: HashMap<u64, Running>,
    flights: HashMap<Token, Flight>,
    deadlines: BinaryHeap<Reverse<(Instant, usize)>>,
    next_job: u64,
    next_token: usize,
    open: bool,
}

/// A probe that leaves this much after its time is starved.
fn late_limit(interval: Duration) -> Duration {
    (interval / 2).max(STALL_LIMIT)
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

impl Engine {
    pub(super) fn new(
        poll: Poll,
        queue: Receiver<Job>,
        ports: SourcePorts,
        stats: Arc<Stats>,
    ) -> Self {
        Self {
            poll,
            queue,
            udp_ports: ports.clone(),
            tcp_ports: ports,
            stats,
            jobs: HashMap::new(),
            flights: HashMap::new(),
            deadlines: BinaryHeap::new(),
            next_job: 0,
            next_token: 1,
            open: true,
        }
    }

    /// Ends without an error when the last handle is gone and the last run is over.
    pub(super) fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        let mut woke = Instant::now();
        loop {
            self.accept_jobs()?;
            self.drop_abandoned();
            self.expire(Instant::now());
            self.send_one()?;
            if !self.open && self.jobs.is_empty() {
                return Ok(());
            }
            let before = Instant::now();
            let timeout = self.timeout(before);
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            }
            let previous = woke;
            woke = Instant::now();
            self.note_stall(previous, before, timeout, woke);
            for event in &events {
                self.ready(event.token(), woke);
            }
        }
    }

    pub(super) fn accept_jobs(&mut self) -> io::Result<()> {
        loop {
            match self.queue.try_recv() {
                Ok(job) => self.start(job)?,
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => {
                    self.open = false;
                    return Ok(());
                }
            }
        }
    }

    fn start(&mut self, job: Job) -> io::Result<()> {
        let runs = job
            .plan
            .targets
            .iter()
            .map(|_| random().map(u64::from_be_bytes))
            .collect::<io::Result<_>>()?;
        let running = Running {
            schedule: Schedule::new(&job.plan),
            start: Instant::now(),
            slip: Duration::ZERO,
            runs,
            in_flight: 0,
            job,
        };
        self.jobs.insert(self.next_job, running);
        self.next_job += 1;
        Ok(())
    }

    /// Ends runs whose reader has gone: nothing more is sent for them.
    fn drop_abandoned(&mut self) {
        let before = self.jobs.len();
        self.jobs
            .retain(|_, running| !running.job.results.is_closed());
        if self.jobs.len() != before {
            let jobs = &self.jobs;
            let flights = self.flights.len();
            self.flights
                .retain(|_, flight| jobs.contains_key(&flight.job));
            let dropped = flights - self.flights.len();
            Stats::add(&self.stats.abandoned, dropped as u64);
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some(Reverse((at, token))) = self.deadlines.peek().copied() {
            if at > now {
                return;
            }
            self.deadlines.pop();
            if let Some(flight) = self.flights.get(&Token(token)) {
                let sample = flight.expired();
                self.land(Token(token), sample);
            }
        }
    }

    fn timeout(&self, now: Instant) -> Duration {
        let next_send = self.jobs.values().filter_map(Running::next_at).min();
        let next_deadline = self.deadlines.peek().map(|Reverse((at, _))| *at);
        let next = next_send.into_iter().chain(next_deadline).min();
        let wait = next.map_or(IDLE, |at| at.saturating_duration_since(now));
        if self.flights.is_empty() {
            wait
        } else {
            wait.min(TICK)
        }
    }

    /// The thread was away for longer than it asked for: what was measured meanwhile decides nothing.
    fn note_stall(&mut self, previous: Instant, before: Instant, timeout: Duration, woke: Instant) {
        // The poller rounds its timeout up to whole milliseconds.
        let asked = Duration::from_millis(
            u64::try_from(timeout.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX),
        );
        let working = before.saturating_duration_since(previous);
        let late = woke.saturating_duration_since(before).saturating_sub(asked);
        if working.max(late) > STALL_LIMIT && !self.flights.is_empty() {
            Stats::add(&self.stats.stalls, 1);
            for flight in self.flights.values_mut() {
                flight.starved = true;
                flight.stalled += working.max(late);
            }
        }
    }

    /// One at most, so that answers are looked at between two sends.
    fn send_one(&mut self) -> io::Result<()> {
        let now = Instant::now();
        let ready = self
            .jobs
            .iter()
            .filter_map(|(id, running)| {
                let at = running.next_at()?;
                (at <= now).then_some((at, *id))
            })
            .min();
        let Some((intended, id)) = ready else {
            return Ok(());
        };
        let Some(running) = self.jobs.get_mut(&id) else {
            return Ok(());
        };
        let elapsed = now.saturating_duration_since(running.start + running.slip);
        let Some(due) = running.schedule.pop(elapsed) else {
            return Ok(());
        };
        running.in_flight += 1;
        let late = now.saturating_duration_since(intended);
        if late > late_limit(running.job.plan.interval) {
            running.slip += late;
        }
        self.send(id, due, intended)
    }

    fn send(&mut self, id: u64, due: Due, intended: Instant) -> io::Result<()> {
        let nonce: Nonce = random()?;
        let Some(running) = self.jobs.get(&id) else {
            return Ok(());
        };
        let planned = &running.job.plan.targets[due.target as usize];
        let key = Key {
            nonce,
            run: running.runs[due.target as usize],
            sequence: due.sequence,
        };
        let start = running.start;
        let late_limit = late_limit(running.job.plan.interval);
        let timeout = running.job.plan.timeout;
        let exchange = Exchange::new(
            &planned.target,
            planned.kind,
            key,
            running.job.tile,
            "aggrik8s-probe",
        );
        let ports = if matches!(planned.kind, ProbeKind::Udp | ProbeKind::Dns) {
            &mut self.udp_ports
        } else {
            &mut self.tcp_ports
        };
        let ports = ports.of(running.job.purpose);
        let (opened, taken) = open(planned.kind, planned.target.address, ports);
        Stats::add(&self.stats.ports_in_use, taken);
        let times = |sent: Instant| {
            (
                nanos(sent.saturating_duration_since(start)),
                sent.saturating_duration_since(intended),
            )
        };
        let (exchange, opened) = match (exchange, opened) {
            (Ok(exchange), Ok(opened)) => (exchange, opened),
            (exchange, opened) => {
                let failure = match opened {
                    Err(failure) => failure,
                    Ok(opened) => NotOpened {
                        outcome: Outcome::LocalError,
                        port: opened.port,
                        sent: opened.sent,
                    },
                };
                if let Err(error) = exchange {
                    tracing::debug!(%error, "a probe could not be made");
                }
                let (sent_ns, delay) = times(failure.sent);
                let sample = Sample {
                    sequence: due.sequence,
                    source_port: failure.port,
                    sent_ns,
                    delay_ns: nanos(delay),
                    outcome: failure.outcome,
                    connect_ns: None,
                    round_trip_ns: None,
                    responder: None,
                    receiver_count: None,
                    starved: delay > late_limit,
                };
                self.report(id, due.target, sample);
                return Ok(());
            }
        };
        let (sent_ns, delay) = times(opened.sent);
        let deadline = opened.sent + timeout;
        let token = Token(self.next_token);
        // Never the waker's.
        self.next_token = self.next_token.wrapping_add(1).max(1);
        let mut flight = Flight::new(id, due, opened, exchange, sent_ns, nanos(delay));
        flight.starved = delay > late_limit;
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registered = match &mut flight.wire {
            Wire::Tcp(stream) => self.poll.registry().register(stream, token, interest),
            Wire::Udp(socket) => self
                .poll
                .registry()
                .register(socket, token, Interest::READABLE),
        };
        registered?;
        let over = flight.send_datagram();
        self.flights.insert(token, flight);
        self.deadlines.push(Reverse((deadline, token.0)));
        if let Some(sample) = over {
            self.land(token, sample);
        }
        Ok(())
    }

    fn ready(&mut self, token: Token, woke: Instant) {
        let Some(flight) = self.flights.get_mut(&token) else {
            return;
        };
        let strays = flight.strays;
        let over = flight.ready(woke);
        let fresh = flight.strays - strays;
        Stats::add(&self.stats.stray_datagrams, fresh);
        if let Some(sample) = over {
            self.land(token, sample);
        }
    }

    /// The probe is over: its socket closes and its sample goes out.
    fn land(&mut self, token: Token, sample: Sample) {
        if let Some(flight) = self.flights.remove(&token) {
            self.report(flight.job, flight.due.target, sample);
        }
        // Deadlines of probes that are over are dropped before they outnumber the others.
        if self.deadlines.len() > 64 && self.deadlines.len() > 4 * self.flights.len() {
            let flights = &self.flights;
            self.deadlines
                .retain(|Reverse((_, token))| flights.contains_key(&Token(*token)));
        }
    }

    fn report(&mut self, id: u64, target: u32, sample: Sample) {
        if sample.starved {
            Stats::add(&self.stats.starved_samples, 1);
        }
        let Some(running) = self.jobs.get_mut(&id) else {
            return;
        };
        running.in_flight -= 1;
        match running.job.results.try_send((target, sample)) {
            Ok(()) => {}
            // The channel holds a whole run, so only a reader that has gone is left.
            Err(TrySendError::Closed(_) | TrySendError::Full(_)) => {
                Stats::add(&self.stats.abandoned, 1);
            }
        }
        if running.in_flight == 0 && running.schedule.next_at().is_none() {
            self.jobs.remove(&id);
        }
    }
}
