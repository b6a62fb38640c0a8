//! `evidence.*`: did the agents answer, do the kernels have records of our probes, do the witnesses agree.

use std::collections::BTreeMap;

use mesh::Link;
use mesh::observation::{KernelOutcome, NodeRef, Outcome, Plane, ProbeKind};

use super::{Draft, link_nodes, percent, plane_word, silent, spec, unwitnessed};
use crate::checks::{AGENTS, AGREEMENT, COVERAGE};
use crate::verdict::{Expected, Observed, Status};
use crate::view::{Probe, View};

/// User-space delay between the kernel's and the prober's end of a connect that nine of ten samples of one prober may
/// exceed before its clock is to blame: the larger of the two, s and share of the kernel's time.
/// Scheduling delays some connects and spares others; a wrong clock is wrong for all of them.
const ORDINARY_DELAY_SECONDS: f64 = 0.0005;
const ORDINARY_DELAY_SHARE: f64 = 0.25;
/// The prober cannot have been faster than the kernel by more than its clock's grain.
const ORDINARY_LEAD_SECONDS: f64 = 0.0002;
/// Fewer connects of one prober say nothing about its clock.
const FEWEST_TIMED: usize = 20;

/// One row per declared agent of every cluster in scope.
pub(super) fn agents(view: &View<'_>) -> Vec<Draft> {
    let mut seen = std::collections::BTreeSet::new();
    let mut rows = Vec::new();
    for link in &view.mesh.links {
        for node in link_nodes(view, link) {
            if !seen.insert(node.clone()) {
                continue;
            }
            for plane in [Plane::Pod, Plane::Node] {
                let reason = view.silent(plane, &node);
                let status = if reason.is_some() {
                    Status::Undecided
                } else {
                    Status::Pass
                };
                let mut row = Draft::settled(spec(AGENTS), status);
                let check = &mut row.check;
                check.source_cluster = Some(node.cluster.clone());
                check.node = Some(node.node.clone());
                check.plane = Some(plane.into());
                check.expected.text = "answers for the whole run".to_owned();
                if let Some(reason) = reason {
                    check.hint = Some(format!(
                        "look at the {} agent on `{}` (its log, its socket or port), then run verify again",
                        plane_word(plane),
                        node.node
                    ));
                    check.cause = Some(reason);
                } else if let Some(account) = view.account(plane, &node) {
                    check.evidence.push(format!("boot id {}", account.boot_id));
                }
                rows.push(row);
            }
        }
    }
    rows
}

pub(super) fn link_rows(view: &View<'_>, link: &Link) -> Vec<Draft> {
    vec![agreement(view, link), coverage(view, link)]
}

/// Probes of the link that are TCP connections between two nodes, of both planes.
fn connections<'v, 'a>(view: &'v View<'a>, link: &'v Link) -> impl Iterator<Item = &'v Probe<'a>> {
    [
        (Plane::Pod, ProbeKind::Tcp),
        (Plane::Pod, ProbeKind::Http),
        (Plane::Node, ProbeKind::Tcp),
    ]
    .into_iter()
    .flat_map(move |(plane, kind)| view.of(link, plane, kind))
    .filter(|probe| probe.sample.outcome != Outcome::LocalError)
}

fn witness_gaps(view: &View<'_>, link: &Link) -> Vec<String> {
    let mut gaps = silent(view, link, Plane::Pod);
    gaps.extend(unwitnessed(view, &link.source));
    if link.target != link.source {
        gaps.extend(unwitnessed(view, &link.target));
    }
    gaps
}

fn coverage(view: &View<'_>, link: &Link) -> Draft {
    let (mut sent, mut recorded, mut established, mut accepted) = (0_u64, 0_u64, 0_u64, 0_u64);
    for probe in connections(view, link) {
        sent += 1;
        if let Some(record) = probe.source {
            recorded += 1;
            if record.outcome == KernelOutcome::Established {
                established += 1;
                accepted += u64::from(probe.target.is_some());
            }
        }
    }
    let objective = view.mesh.objectives.coverage;
    let gaps = witness_gaps(view, link);
    let share = |part: u64, whole: u64| {
        if whole == 0 {
            0.0
        } else {
            part as f64 / whole as f64
        }
    };
    let (at_source, at_target) = (share(recorded, sent), share(accepted, established));
    // Nothing established leaves nothing for the target to confirm.
    let target_holds = established == 0 || at_target >= objective;
    let holds = sent > 0 && at_source >= objective && target_holds && gaps.is_empty();
    let status = if holds {
        Status::Pass
    } else {
        Status::Undecided
    };
    let mut row = Draft::settled(spec(COVERAGE), status).on_link(link);
    let check = &mut row.check;
    check.observed = Observed {
        n: Some(sent),
        bad: Some(sent - recorded + (established - accepted)),
        rate: Some(1.0 - at_source.min(if established == 0 { 1.0 } else { at_target })),
        ..Observed::default()
    };
    check.expected = Expected {
        text: format!(
            "the kernels know at least {} of our probes",
            percent(objective)
        ),
        rate_at_most: Some(1.0 - objective),
        ..Expected::default()
    };
    check.evidence = vec![
        format!("the kernel of the source recorded {recorded} of {sent} probes"),
        format!(
            "the kernel of the target recorded {accepted} of the {established} that the source's saw established"
        ),
    ];
    for node in link_nodes(view, link) {
        if let Some(account) = view.account(Plane::Pod, &node)
            && (account.events_lost > 0 || account.flags_lost > 0)
        {
            check.evidence.push(format!(
                "`{}` lost {} of {} kernel events, {} sockets lost their callback flags to another program",
                node.node, account.events_lost, account.events_produced, account.flags_lost
            ));
        }
    }
    if !holds {
        check.cause = Some(match gaps.first() {
            Some(gap) => gap.clone(),
            None if sent == 0 => "no probe of this link was sent".to_owned(),
            None => format!(
                "READY cannot rest on this coverage: {} at the source, {} at the target",
                percent(at_source),
                percent(at_target)
            ),
        });
        check.hint =
            Some("run `aggrik8s-probe load --check` on the node that misses records".to_owned());
    }
    row
}

/// How one connection's witnesses contradict each other, if they do.
fn contradiction(probe: &Probe<'_>) -> Option<&'static str> {
    let source = probe.source?;
    let connected = probe.sample.connect_ns.is_some();
    let established = source.outcome == KernelOutcome::Established;
    if connected && !established {
        return Some("the prober connected, its kernel did not");
    }
    // The prober may give up in the moment in which the kernel succeeds.
    if !connected && established && probe.sample.outcome != Outcome::Timeout {
        return Some("the prober did not connect, its kernel did");
    }
    let target = probe.target?;
    match (established, target.outcome) {
        (true, KernelOutcome::Established) => None,
        (true, _) => Some("established at the source, not at the target"),
        (false, KernelOutcome::Established) => Some("established at the target, not at the source"),
        (false, _) => None,
    }
}

/// How a prober's times compare with its kernel's of the same connections, s.
#[derive(Default)]
struct Timing {
    delays: Vec<f64>,
    kernel: Vec<f64>,
}

struct Compared {
    typical: f64,
    /// Nine of ten are off by more.
    least: f64,
    kernel: f64,
    n: usize,
}

impl Timing {
    fn add(&mut self, probe: &Probe<'_>) {
        if let Some(source) = probe.source
            && !probe.sample.starved
            && source.syn_retransmits == 0
            && let (Some(prober), Some(kernel)) = (probe.sample.connect_ns, source.connect_ns)
        {
            self.delays
                .push(prober as f64 * 1e-9 - kernel as f64 * 1e-9);
            self.kernel.push(kernel as f64 * 1e-9);
        }
    }

    fn compare(&mut self) -> Option<Compared> {
        Some(Compared {
            typical: quantile(&mut self.delays, 0.5)?,
            least: quantile(&mut self.delays, 0.1)?,
            kernel: quantile(&mut self.kernel, 0.5)?,
            n: self.delays.len(),
        })
    }
}

impl Compared {
    /// By how much no scheduling explains, s.
    fn off(&self) -> Option<f64> {
        let ordinary = ORDINARY_DELAY_SECONDS.max(ORDINARY_DELAY_SHARE * self.kernel);
        if self.n < FEWEST_TIMED {
            None
        } else if self.least > ordinary {
            Some(self.least)
        } else if self.typical < -ORDINARY_LEAD_SECONDS {
            Some(self.typical)
        } else {
            None
        }
    }

    fn line(&self, whose: &str) -> String {
        format!(
            "{whose} connect takes {:.3} ms longer than the kernel's (median of {}; nine of ten more than {:.3} ms; the kernel's median is {:.3} ms)",
            self.typical * 1e3,
            self.n,
            self.least * 1e3,
            self.kernel * 1e3
        )
    }
}

fn agreement(view: &View<'_>, link: &Link) -> Draft {
    let mut row = Draft::settled(spec(AGREEMENT), Status::Undecided).on_link(link);
    let check = &mut row.check;
    let tolerated = 1.0 - view.mesh.objectives.coverage;
    let (mut n, mut bad) = (0_u64, 0_u64);
    let mut all = Timing::default();
    // Every prober has a clock of its own: that of one node among many must not hide.
    let mut probers: BTreeMap<(String, Plane), Timing> = BTreeMap::new();
    let mut example = None;
    for probe in connections(view, link) {
        let Some(source) = probe.source else { continue };
        n += 1;
        if let Some(what) = contradiction(probe) {
            bad += 1;
            *check.observed.failures.entry(what.to_owned()).or_default() += 1;
            example.get_or_insert_with(|| {
                let node = |node: &NodeRef| format!("{}/{}", node.cluster, node.node);
                format!(
                    "{what}: {} port {} to {}",
                    node(&source.node),
                    probe.sample.source_port,
                    probe.run.target.address
                )
            });
        }
        all.add(probe);
        let prober = (source.node.node.clone(), probe.run.plane);
        probers.entry(prober).or_default().add(probe);
    }
    check.observed.n = Some(n);
    check.observed.bad = Some(bad);
    check.expected = Expected {
        text: format!(
            "at most {} of the connections contradict, user-space delay ordinary",
            percent(tolerated)
        ),
        rate_at_most: Some(tolerated),
        ..Expected::default()
    };
    check.evidence.extend(example);
    let gaps = witness_gaps(view, link);
    if n == 0 {
        let reason = gaps.into_iter().next();
        check.cause = Some(
            reason.unwrap_or_else(|| "no probe has a kernel record to compare with".to_owned()),
        );
        return row;
    }
    let rate = bad as f64 / n as f64;
    check.observed.rate = Some(rate);
    let mut why = (rate > tolerated)
        .then(|| format!("{bad} of {n} connections have witnesses that contradict each other"));
    if let Some(compared) = all.compare() {
        check.observed.user_space_delay_seconds = Some(compared.typical);
        check.evidence.push(compared.line("the prober's"));
    }
    let mut wrong: Vec<(String, f64)> = Vec::new();
    for ((node, plane), timing) in &mut probers {
        let Some(compared) = timing.compare() else {
            continue;
        };
        if let Some(off) = compared.off() {
            let whose = format!("of `{node}` ({} plane), a", plane_word(*plane));
            check.evidence.push(compared.line(&whose));
            wrong.push((node.clone(), off));
        }
    }
    if let Some((first, off)) = wrong.first() {
        let alone =
            wrong.iter().all(|(node, _)| node == first) && view.nodes(&link.source).len() > 1;
        if alone && why.is_none() {
            check.node = Some(first.clone());
        }
        let whose = if alone {
            format!("the prober's times on `{first}`")
        } else {
            "the prober's times".to_owned()
        };
        why.get_or_insert_with(|| {
            format!(
                "{whose} are off by {:.3} ms against the kernel's for the same connections",
                off * 1e3
            )
        });
    }
    if let Some(why) = why {
        check.status = Status::Fail;
        check.cause = Some(why);
        check.hint = Some(
            "do not trust figures of this link before the contradiction is explained: compare `aggrik8s-probe load --check` on both nodes, look for a proxy in between"
                .to_owned(),
        );
    } else if let Some(gap) = gaps.into_iter().next() {
        check.cause = Some(gap);
    } else {
        check.status = Status::Pass;
    }
    row
}

fn quantile(values: &mut [f64], q: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    values.get((q * last as f64) as usize).copied()
}
