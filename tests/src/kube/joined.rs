//! Clusters with a real node each, joined: pods of one reach pods of another with their own addresses. Needs root.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};

use super::{Cluster, Node, Place, Plan};
use crate::netns::{Netns, veth};

/// A cluster of one node, which runs its control plane, too. Pods of DaemonSets are scheduled.
pub struct Member {
    pub node: Node,
    pub cluster: Cluster,
}

/// Joined by a router of their own. On drop everything ends.
pub struct Joined {
    pub members: Vec<Member>,
    /// Reaches every API server, node and pod: the router, and a person's workstation.
    pub outside: Netns,
}

impl Joined {
    /// One cluster per name, at most 200; its node is called `<name>-1`. Cluster n from 0 has its node in
    /// 192.168.n.0/24, its pods in 10.n.0.0/16 and its services in 10.(n+200).0.0/16.
    pub fn start(names: &[&str]) -> Result<Self> {
        let outside = Netns::create("outside")?;
        outside.sysctl("net/ipv4/ip_forward", "1")?;
        let mut plans = Vec::new();
        for (name, n) in names.iter().zip(0..200) {
            plans.push(plan(&outside, name, n)?);
        }
        let members = thread::scope(|scope| {
            let starts: Vec<_> = plans
                .into_iter()
                .map(|plan| scope.spawn(|| Member::start(plan)))
                .collect();
            let ends = starts.into_iter().map(|start| {
                start
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            ends.collect::<Result<Vec<_>>>()
        })?;
        Ok(Self { members, outside })
    }
}

impl Member {
    fn start(plan: Plan) -> Result<Self> {
        let name = format!("{}-1", plan.name);
        let mut cluster = Cluster::start(plan)?;
        cluster.start_controllers()?;
        cluster.start_scheduler()?;
        let node = Node::start(&cluster, &name)?;
        Ok(Self { node, cluster })
    }
}

fn plan(outside: &Netns, name: &str, n: u8) -> Result<Plan> {
    let network = Netns::create(name)?;
    let (node, router) = (
        Ipv4Addr::new(192, 168, n, 1),
        Ipv4Addr::new(192, 168, n, 254),
    );
    veth(
        (&network, "eth0", &[&format!("{node}/24")]),
        (outside, &format!("eth{n}"), &[&format!("{router}/24")]),
    )?;
    network.default_route(IpAddr::V4(router))?;
    let mut plan = Plan::new(name);
    plan.pod_cidr = format!("10.{n}.0.0/16").parse()?;
    plan.service_cidr = format!("10.{}.0.0/16", n + 200).parse()?;
    let (pods, node_text) = (plan.pod_cidr.to_string(), node.to_string());
    outside
        .ip(&["route", "add", &pods, "via", &node_text])
        .context("route to pods")?;
    plan.place = Place::Network(Arc::new(network), node.into());
    Ok(plan)
}
