//! `mtu.*`: the largest packet that crosses a path direction, between pods, between nodes, and inside the tunnel of the one over the other.

use std::collections::BTreeMap;

use mesh::Link;
use mesh::measurement::{MtuLimit, PathMtu};
use mesh::observation::{MeasuredPath, NoFigure, NodeRef, Plane};

use super::{Draft, link_nodes, silent, spec};
use crate::checks::{MTU_NODE_PATH, MTU_PATH, MTU_UNDERLAY, Severity};
use crate::tally::{Tally, localise};
use crate::verdict::{Check, Status};
use crate::view::View;

pub(super) fn rows(view: &View<'_>, link: &Link) -> Vec<Draft> {
    vec![
        path(view, link, Plane::Pod, MTU_PATH),
        path(view, link, Plane::Node, MTU_NODE_PATH),
        underlay(view, link),
    ]
}

/// Source and target node.
pub(crate) type Cell = (String, String);

/// What senders on one path direction run into, by pair of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Everything that the sender's kernel lets out arrives.
    Whole,
    /// Less arrives than is let out, and the sender is not told.
    BlackHole,
    /// The sender was told, and still lets out more.
    Ignored,
    /// The sender was told; what its kernel made of it is not visible.
    Unclear,
}

pub(crate) fn fate(mtu: &PathMtu) -> Fate {
    let told = mtu.limit == MtuLimit::PacketTooBig;
    if mtu.bytes >= mtu.let_out() {
        Fate::Whole
    } else if told && mtu.route_after.is_none() {
        Fate::Unclear
    } else if told {
        Fate::Ignored
    } else {
        Fate::BlackHole
    }
}

/// Figures of a path direction by pair of nodes, and why pairs have none.
#[derive(Default)]
pub(crate) struct Found<'a> {
    pub(crate) figures: BTreeMap<Cell, &'a PathMtu>,
    lacking: BTreeMap<Cell, String>,
}

pub(crate) fn found<'a>(view: &View<'a>, link: &Link, plane: Plane) -> Found<'a> {
    let mut found = Found::default();
    for measurement in view.measured(link, plane) {
        let MeasuredPath::PathMtu(result) = &measurement.result else {
            continue;
        };
        let cell = (
            measurement.source.node.clone(),
            measurement.target.node.clone(),
        );
        match result {
            Ok(mtu) => {
                found.lacking.remove(&cell);
                let least = found.figures.entry(cell).or_insert(mtu);
                if mtu.bytes < least.bytes {
                    *least = mtu;
                }
            }
            Err(_) if found.figures.contains_key(&cell) => {}
            Err(why) => {
                found.lacking.insert(cell, reason(why));
            }
        }
    }
    found
}

/// Why there is no figure, for a person.
pub(crate) fn reason(why: &NoFigure) -> String {
    use mesh::measurement::MeasureOutcome as Ended;
    match why {
        NoFigure::NotMade(reason) => reason.clone(),
        NoFigure::Ended(outcome) => match outcome {
            Ended::Ok => "it ended well, without a figure",
            Ended::Busy => "the responder was busy with others",
            Ended::Undecided => "loss hid the answer",
            Ended::Refused => "nobody listens there",
            Ended::Timeout => "nothing came back",
            Ended::Reset => "the connection was cut",
            Ended::Unreachable => "the target cannot be reached",
            Ended::WrongResponder => "somebody else answered",
            Ended::BadReply => "what came back was no valid answer",
            Ended::LocalError => "the measuring agent failed",
        }
        .to_owned(),
    }
}

/// Evidence that is missing: nodes of either end that no figure touches. A pair may lack one while its nodes have others.
pub(crate) fn missing(
    view: &View<'_>,
    link: &Link,
    plane: Plane,
    what: &str,
    has: impl Fn(&NodeRef) -> bool,
    why: impl Fn(&NodeRef) -> Option<String>,
) -> Vec<String> {
    let mut missing = silent(view, link, plane);
    for node in link_nodes(view, link) {
        if view.silent(plane, &node).is_none() && !has(&node) {
            missing.push(format!(
                "no {what} of `{}` in `{}`: {}",
                node.node,
                node.cluster,
                why(&node).unwrap_or_else(|| "it was not measured".to_owned())
            ));
        }
    }
    missing
}

impl Found<'_> {
    fn touches(&self, link: &Link, cell: &Cell, node: &NodeRef) -> bool {
        (node.cluster == link.source && cell.0 == node.node)
            || (node.cluster == link.target && cell.1 == node.node)
    }

    fn missing(&self, view: &View<'_>, link: &Link, plane: Plane) -> Vec<String> {
        missing(
            view,
            link,
            plane,
            "path MTU",
            |node| {
                self.figures
                    .keys()
                    .any(|cell| self.touches(link, cell, node))
            },
            |node| {
                let of_node = |(cell, _): &(&Cell, &String)| self.touches(link, cell, node);
                self.lacking
                    .iter()
                    .find(of_node)
                    .map(|(_, why)| why.clone())
            },
        )
    }
}

fn path(view: &View<'_>, link: &Link, plane: Plane, id: &str) -> Draft {
    let found = found(view, link, plane);
    // What is declared is declared for pods.
    let declared = view
        .mesh
        .objectives
        .mtu_bytes
        .filter(|_| plane == Plane::Pod);
    let bad = |mtu: &PathMtu| {
        matches!(fate(mtu), Fate::BlackHole | Fate::Ignored)
            || declared.is_some_and(|declared| mtu.bytes < declared)
    };
    let mut row = Draft::settled(spec(id), Status::Undecided).on_link(link);
    let check = &mut row.check;
    check.plane = Some(plane.into());
    check.expected.mtu_bytes_at_least = declared;
    check.expected.text = match declared {
        Some(declared) => format!("packets of {declared} bytes cross (declared)"),
        None => "what the sender's kernel lets out crosses".to_owned(),
    };
    let mut missing = found.missing(view, link, plane);
    for ((source, target), mtu) in &found.figures {
        if fate(mtu) == Fate::Unclear {
            missing.push(format!(
                "whether the kernel of `{source}` honours the path MTU towards `{target}` is not visible"
            ));
        }
    }
    settle(check, &found.figures, bad, missing);
    row
}

/// The pod's packet, and what the tunnel around it needs from the nodes' path, in bytes.
pub(crate) struct Outer {
    pub(crate) pod: u16,
    pub(crate) overhead: u16,
    pub(crate) node: u16,
}

impl Outer {
    pub(crate) fn new(pod: &PathMtu, node: &PathMtu) -> Self {
        Self {
            pod: pod.bytes,
            overhead: node.local_bytes.saturating_sub(pod.local_bytes),
            node: node.bytes,
        }
    }

    pub(crate) fn needed(&self) -> u16 {
        self.pod.saturating_add(self.overhead)
    }

    /// Pods get more across than nodes do: something cuts their packets and puts them together again.
    fn proven(&self) -> bool {
        self.node < self.pod
    }

    fn bad(&self) -> bool {
        self.node < self.needed()
    }
}

/// Pairs of nodes that were measured on both planes.
pub(crate) fn outers<'a>(pods: &Found<'a>, nodes: &Found<'a>) -> BTreeMap<Cell, Outer> {
    let both = |(cell, pod): (&Cell, &&PathMtu)| {
        let node = nodes.figures.get(cell)?;
        Some((cell.clone(), Outer::new(pod, node)))
    };
    pods.figures.iter().filter_map(both).collect()
}

fn underlay(view: &View<'_>, link: &Link) -> Draft {
    let (pods, nodes) = (
        found(view, link, Plane::Pod),
        found(view, link, Plane::Node),
    );
    let outers = outers(&pods, &nodes);
    let mut row = Draft::settled(spec(MTU_UNDERLAY), Status::Undecided).on_link(link);
    let check = &mut row.check;
    check.plane = Some(Plane::Node.into());
    check.expected.text =
        "the pods' largest packet with its tunnel header crosses between nodes unfragmented"
            .to_owned();
    check.expected.mtu_bytes_at_least = outers.values().map(Outer::needed).max();
    let mut missing = pods.missing(view, link, Plane::Pod);
    missing.extend(nodes.missing(view, link, Plane::Node));
    let bad = |cell: &Cell| outers.get(cell).is_some_and(Outer::bad);
    let mut tally = Tally::default();
    for cell in outers.keys() {
        tally.cell(cell.clone()).known.add(bad(cell));
    }
    check.observed.mtu_bytes = outers.values().map(|outer| outer.node).min();
    for ((source, target), outer) in outers.iter().filter(|(cell, _)| bad(cell)) {
        check.evidence.push(format!(
            "`{source}` → `{target}`: pods get {} bytes across, which takes {} with the tunnel's {}; between the nodes {} pass whole",
            outer.pod,
            outer.needed(),
            outer.overhead,
            outer.node
        ));
    }
    if outers.values().any(Outer::bad) {
        check.status = Status::Fail;
        check.node = localise(&tally).node();
        if !outers.values().any(Outer::proven) {
            // Without a tunnel the pods' smaller MTU may be a choice.
            check.severity = Severity::Warn;
        }
    } else if let Some(lack) = missing.first() {
        check.cause = Some(lack.clone());
        check.evidence = missing;
    } else {
        check.status = Status::Pass;
    }
    row
}

/// Status, figures and evidence from figures and what is missing of them.
fn settle(
    check: &mut Check,
    figures: &BTreeMap<Cell, &PathMtu>,
    bad: impl Fn(&PathMtu) -> bool,
    missing: Vec<String>,
) {
    let mut tally = Tally::default();
    for (cell, mtu) in figures {
        tally.cell(cell.clone()).known.add(bad(mtu));
    }
    let least = figures.values().min_by_key(|mtu| mtu.bytes);
    check.observed.mtu_bytes = least.map(|mtu| mtu.bytes);
    check.observed.mtu_limit = least.map(|mtu| mtu.limit);
    check.observed.mtu_local_bytes = least.map(|mtu| mtu.local_bytes);
    check.evidence = lines(figures);
    if figures.values().any(|mtu| bad(mtu)) {
        check.status = Status::Fail;
        check.node = localise(&tally).node();
    } else if let Some(lack) = missing.first() {
        check.cause = Some(lack.clone());
        check.hint = Some(
            "verify again when the paths carry small packets; what stands in the way of those is named apart"
                .to_owned(),
        );
    } else {
        check.status = Status::Pass;
    }
    check.evidence.extend(missing);
}

/// One line per kind of figure, with the pairs of nodes that have it.
pub(crate) fn lines(figures: &BTreeMap<Cell, &PathMtu>) -> Vec<String> {
    let mut alike: BTreeMap<(u16, String), Vec<String>> = BTreeMap::new();
    for ((source, target), mtu) in figures {
        alike
            .entry((mtu.bytes, words(mtu)))
            .or_default()
            .push(format!("`{source}` → `{target}`"));
    }
    alike
        .into_iter()
        .map(|((bytes, words), pairs)| format!("{bytes} bytes, {words}: {}", some(&pairs)))
        .collect()
}

/// The first few, and how many more.
pub(crate) fn some(pairs: &[String]) -> String {
    const SHOWN: usize = 4;
    let mut text = pairs[..pairs.len().min(SHOWN)].join(", ");
    if pairs.len() > SHOWN {
        text += &format!(" and {} more", pairs.len() - SHOWN);
    }
    text
}

/// What limits the path, in words.
fn words(mtu: &PathMtu) -> String {
    let out = mtu.let_out();
    let known = if fate(mtu) == Fate::Whole {
        "the sender's kernel knows".to_owned()
    } else {
        format!("the sender's kernel lets out {out}")
    };
    match mtu.limit {
        MtuLimit::Local => "all that the sender's interface lets out".to_owned(),
        MtuLimit::Ceiling => "nothing larger was tried".to_owned(),
        MtuLimit::PacketTooBig => {
            let hop = mtu.reported.as_ref();
            let hop = hop.map_or_else(|| "a hop".to_owned(), |told| format!("hop {}", told.hop));
            format!("{hop} says what is too big, {known}")
        }
        MtuLimit::Absorbed => format!("the tunnel took the \"too big\", {known}"),
        MtuLimit::Silent if mtu.fragments_pass == Some(true) => {
            format!("larger ones vanish without a word unless they may be cut, {known}")
        }
        MtuLimit::Silent => format!("larger ones vanish without a word, {known}"),
    }
}
