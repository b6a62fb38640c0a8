//! Makes the namespaces of a topology, and removes everything under a lab's name.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::script::{self, OuterDf, Script};
use super::services::Services;
use super::tools::{Tools, sysctl};
use crate::cgroup;
use crate::error::{During, LabError, Result};
use crate::sys::in_netns;
use crate::topology::{NETNS_DIR, Topology, netns_prefix};

const WORKERS: usize = 4;

pub(crate) fn netns_path(name: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(name)
}

/// Builds the network; the lab's cgroups exist. `proceed` is asked between steps and may end the work with its error.
pub(crate) fn build(
    topology: &Topology,
    df: OuterDf,
    services: Services,
    proceed: &(dyn Fn() -> Result<()> + Sync),
) -> Result<()> {
    let names = topology.netns_names();
    let tools = Tools {
        cgroup: Some(cgroup::lab_dir(&topology.lab)?.join(cgroup::OUTSIDE)),
    };
    tools.ip(&names
        .iter()
        .map(|n| format!("netns add {n}"))
        .collect::<Vec<_>>())?;
    proceed()?;
    let routers: Vec<&str> = std::iter::once(topology.fabric.netns.as_str())
        .chain(topology.nodes().map(|(_, n)| n.netns.as_str()))
        .chain(topology.uplinks().map(|(_, u)| u.netns.as_str()))
        .collect();
    each(&names, |name| {
        proceed()?;
        in_netns(&netns_path(name), || sysctls(routers.contains(name)))
            .during(|| format!("enter namespace `{name}`"))?
    })?;
    // A cable is made by the namespace nearer to the fabric, its far end is set up afterwards.
    let fabric = [script::fabric(topology)];
    let mut nodes: Vec<_> = topology
        .nodes()
        .map(|(c, n)| script::node(topology, c, n, df, services))
        .collect();
    for (client, uplink) in topology.uplinks() {
        let cluster = topology.clusters.iter().find(|c| c.name == uplink.cluster);
        nodes.extend(cluster.map(|cluster| script::router(cluster, client, uplink)));
    }
    let mut ends: Vec<_> = topology.pods().map(|(_, n, p)| script::pod(n, p)).collect();
    ends.extend(topology.hosts().map(|(c, h)| script::host(c, h)));
    for layer in [&fabric[..], &nodes, &ends] {
        each(layer, |script| {
            proceed().and_then(|()| apply(&tools, script))
        })?;
    }
    Ok(())
}

fn apply(tools: &Tools, script: &Script) -> Result<()> {
    tools.ip_in(&script.netns, &[], &script.ip)?;
    tools.ip_in(&script.netns, &["-6"], &script.ip6)?;
    tools.bridge_in(&script.netns, &script.fdb)?;
    if script.nft.is_empty() {
        Ok(())
    } else {
        tools.nft_in(&script.netns, &script.nft)
    }
}

fn sysctls(router: bool) -> Result<()> {
    for set in ["all", "default"] {
        sysctl(&format!("net/ipv4/conf/{set}/rp_filter"), "0")?;
        sysctl(&format!("net/ipv4/conf/{set}/accept_redirects"), "0")?;
        sysctl(&format!("net/ipv4/conf/{set}/send_redirects"), "0")?;
        sysctl(&format!("net/ipv6/conf/{set}/accept_dad"), "0")?;
        sysctl(&format!("net/ipv6/conf/{set}/accept_ra"), "0")?;
    }
    if router {
        sysctl("net/ipv4/ip_forward", "1")?;
        sysctl("net/ipv6/conf/all/forwarding", "1")?;
        sysctl("net/ipv6/conf/default/forwarding", "1")?;
    }
    Ok(())
}

/// Removes every namespace whose name says that it belongs to this lab. Returns how many.
pub(crate) fn remove(lab: &str) -> Result<usize> {
    let prefix = netns_prefix(lab);
    let names = match fs::read_dir(NETNS_DIR) {
        Ok(entries) => entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with(&prefix))
            .collect::<Vec<_>>(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(source) => {
            return Err(LabError::Io {
                what: format!("list {NETNS_DIR}"),
                source,
            });
        }
    };
    Tools { cgroup: None }.ip(&names
        .iter()
        .map(|n| format!("netns del {n}"))
        .collect::<Vec<_>>())?;
    Ok(names.len())
}

/// Applies `work` to all items on a few threads; the first error in time wins and stops the rest.
pub(crate) fn each<T: Sync>(items: &[T], work: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..WORKERS.min(items.len()) {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = work(item) {
                        next.store(items.len(), Ordering::Relaxed);
                        failure
                            .lock()
                            .unwrap_or_else(|e| e.into_inner())
                            .get_or_insert(error);
                    }
                }
            });
        }
    });
    failure
        .into_inner()
        .unwrap_or_else(|e| e.into_inner())
        .map_or(Ok(()), Err)
}
