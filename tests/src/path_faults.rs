//! Faults of the paths that only measurements find: floors drawn at random for every direction, and a port of half the speed.

use anyhow::Result;
use serde_json::Value;

use crate::faults::Objections;
use crate::lab_rig::Lab;
use crate::verify_rig::{Verdict, verify, word};

const CLUSTERS: [&str; 3] = ["talos-east", "talos-west", "picluster"];
/// What nodes and, inside VXLAN over IPv4, pods of the lab send at most.
const NODE_MTU: u64 = 1_500;
const TUNNEL: u64 = 50;

/// splitmix64.
pub struct Seeded(pub u64);

impl Seeded {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// The floor of one path direction.
#[derive(Clone, Debug)]
pub struct Floor {
    pub source: &'static str,
    pub target: &'static str,
    pub bytes: u64,
    /// As the line knows it; `none` leaves the path whole.
    pub mode: &'static str,
}

/// A floor from 1280 to 1500 for every direction; each way to fail comes up at least once, and one direction stays whole.
pub fn draw(seed: u64) -> Vec<Floor> {
    let mut random = Seeded(seed);
    let mut modes = vec!["silent", "ptb", "fragment", "none"];
    modes.extend((0..2).map(|_| ["silent", "ptb", "fragment"][random.below(3) as usize]));
    for at in (1..modes.len()).rev() {
        modes.swap(at, random.below(at as u64 + 1) as usize);
    }
    let mut floors = Vec::new();
    for source in CLUSTERS {
        for target in CLUSTERS {
            if source != target
                && let Some(mode) = modes.pop()
            {
                let bytes = 1_280 + random.below(221);
                floors.push(Floor {
                    source,
                    target,
                    bytes,
                    mode,
                });
            }
        }
    }
    floors
}

impl Floor {
    pub fn set(&self, lab: &Lab) -> Result<()> {
        if self.mode != "none" {
            let rule = format!("mtu={}:{}", self.bytes, self.mode);
            let args = [
                "path",
                &rule,
                "--source",
                self.source,
                "--target",
                self.target,
            ];
            lab.ok("fault", &args)?;
        }
        Ok(())
    }

    /// What a packet of the nodes, or of the pods, may have at most.
    fn expected(&self, pods: bool) -> u64 {
        let tunnel = if pods { TUNNEL } else { 0 };
        let floor = if self.mode == "none" {
            NODE_MTU
        } else {
            self.bytes
        };
        floor - tunnel
    }

    fn objections(&self, verdict: &Verdict, found: &mut Objections) {
        let mut object = |text: String| found.wrong.push(format!("{self:?}: {text}"));
        let mut failing = Vec::new();
        for (id, pods) in [("mtu.path", true), ("mtu.node_path", false)] {
            let Some(check) = row(verdict, id, self.source, self.target) else {
                object(format!("no {id}"));
                continue;
            };
            let expected = self.expected(pods);
            let (bytes, limit) = (
                check["observed"]["mtu_bytes"].as_u64(),
                word(&check["observed"]["mtu_limit"]),
            );
            if bytes != Some(expected) {
                object(format!("{id} is {bytes:?}, not {expected}"));
            }
            // Pods are told of nothing here: the ICMP error goes to their node, whose tunnel has no use for it.
            let whole = expected == if pods { NODE_MTU - TUNNEL } else { NODE_MTU };
            let right = match (whole, self.mode) {
                (true, _) => "local",
                (false, "ptb") if !pods => "packet_too_big",
                _ => "silent",
            };
            if limit != right {
                object(format!("{id} is `{limit}`, not `{right}`"));
            }
            let fails = right == "silent";
            if (check["status"] == "fail") != fails || (check["status"] == "pass") == fails {
                object(format!("{id}: {}", word(&check["status"])));
            }
            if fails {
                failing.push(id);
            }
        }
        let named = verdict.list("causes").iter().find(|cause| {
            cause["source_cluster"] == self.source && cause["target_cluster"] == self.target
        });
        match named {
            None if failing.is_empty() => {}
            None => object("is not named".to_owned()),
            Some(cause) if failing.is_empty() => {
                object(format!("is blamed for {}", word(&cause["id"])));
            }
            Some(cause) => {
                let set = format!("MTU: {}`", self.bytes);
                if cause["id"] != "mtu.black_hole" || !word(&cause["hint"]).contains(&set) {
                    object(format!(
                        "{} advises {}",
                        word(&cause["id"]),
                        word(&cause["hint"])
                    ));
                }
            }
        }
        let path = verdict
            .list("links")
            .iter()
            .find(|link| {
                link["source_cluster"] == self.source && link["target_cluster"] == self.target
            })
            .map_or("-", |link| word(&link["path_result"]));
        let right = if failing.is_empty() {
            "READY"
        } else {
            "NOT_READY"
        };
        if path != right {
            object(format!("the path is {path}, not {right}"));
        }
    }
}

fn row<'v>(verdict: &'v Verdict, id: &str, source: &str, target: &str) -> Option<&'v Value> {
    verdict.list("checks").iter().find(|check| {
        check["id"] == id && check["source_cluster"] == source && check["target_cluster"] == target
    })
}

/// Draws floors on a lab that has no fault, and holds what verify says against them.
pub fn floors(lab: &Lab, seed: u64) -> Result<(Verdict, Objections)> {
    let floors = draw(seed);
    for floor in &floors {
        floor.set(lab)?;
    }
    let verdict = verify(lab, &["--only", "mtu.*"])?;
    let mut found = Objections::default();
    for floor in &floors {
        floor.objections(&verdict, &mut found);
    }
    if verdict.exit != Some(1) {
        found.wrong.push(format!("exit {:?}, not 1", verdict.exit));
    }
    Ok((verdict, found))
}

/// Both directions of one node's port.
pub fn slow_port(lab: &Lab, node: &str, rate: &str) -> Result<()> {
    let rule = format!("rate={rate}");
    for (source, target) in [(node, "*"), ("*", node)] {
        let args = ["path", &rule, "--source", source, "--target", target];
        lab.ok("fault", &args)?;
    }
    Ok(())
}

/// Objections to a verdict while the port of `cluster/node` is the only slow one.
pub fn slow_port_objections(verdict: &Verdict, cluster: &str, node: &str) -> Objections {
    let mut found = Objections::default();
    if verdict.exit != Some(1) {
        found.wrong.push(format!("exit {:?}, not 1", verdict.exit));
    }
    let top = &verdict.report["causes"][0];
    let named = ["id", "source_cluster", "target_cluster", "node"].map(|key| word(&top[key]));
    if named != ["node.slow_port", cluster, "-", node] {
        found.wrong.push(format!("blames {named:?}"));
    }
    for check in verdict.list("checks") {
        let (source, target) = (
            word(&check["source_cluster"]),
            word(&check["target_cluster"]),
        );
        let touched = source == cluster || target == cluster;
        if check["id"] == "throughput.tcp" && (check["status"] == "fail") != touched {
            found.wrong.push(format!(
                "{source}→{target} carries {}: {}",
                check["observed"]["goodput_bits_per_second"],
                word(&check["status"])
            ));
        }
    }
    found
}
