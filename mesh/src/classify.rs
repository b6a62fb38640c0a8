//! Whose an address is, by longest prefix: the same answers that the kernel map gives.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use crate::Mesh;

/// Whose an address is. Never guessed: what is not declared is [`Remote::World`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Remote {
    /// A node or a pod of this cluster.
    Cluster(String),
    /// A declared external client.
    Client(String),
    /// A service's cluster address: which cluster answers there cannot be told.
    Vip,
    /// Declared more than once, with different meanings.
    Ambiguous,
    World,
}

impl Remote {
    /// As metrics label it.
    #[must_use]
    pub fn label(&self) -> &str {
        match self {
            Self::Cluster(name) | Self::Client(name) => name,
            Self::Vip => "vip",
            Self::Ambiguous => "ambiguous",
            Self::World => "world",
        }
    }
}

impl Mesh {
    /// Every declared prefix with its meaning, none twice, sorted. A longest-prefix map with exactly these
    /// entries, and [`Remote::World`] where nothing matches, answers as [`Mesh::classify`] does.
    ///
    /// A prefix is [`Remote::Ambiguous`] when it is declared with two meanings, or lies within a prefix
    /// that has another meaning.
    #[must_use]
    pub fn prefixes(&self) -> Vec<(IpNet, Remote)> {
        let mut declared: Vec<(IpNet, Remote)> = Vec::new();
        for cluster in &self.clusters {
            let own = cluster.node_networks.iter().chain(&cluster.pod_cidrs);
            declared.extend(own.map(|net| (net.trunc(), Remote::Cluster(cluster.name.clone()))));
            let vips = cluster.service_cidrs.iter();
            declared.extend(vips.map(|net| (net.trunc(), Remote::Vip)));
        }
        for client in &self.clients {
            let own = client.prefixes.iter();
            declared.extend(own.map(|net| (net.trunc(), Remote::Client(client.name.clone()))));
        }
        // A prefix comes before those that it contains, so that a meaning is handed down.
        declared.sort_by(|(a, x), (b, y)| {
            (a.addr(), a.prefix_len(), x).cmp(&(b.addr(), b.prefix_len(), y))
        });
        let mut resolved: Vec<(IpNet, Remote)> = Vec::with_capacity(declared.len());
        let mut around: Vec<usize> = Vec::new();
        for (net, meaning) in declared {
            while around
                .pop_if(|outer| !resolved[*outer].0.contains(&net))
                .is_some()
            {}
            let Some(&outer) = around.last() else {
                around.push(resolved.len());
                resolved.push((net, meaning));
                continue;
            };
            let meaning = if resolved[outer].1 == meaning {
                meaning
            } else {
                Remote::Ambiguous
            };
            if resolved[outer].0 == net {
                resolved[outer].1 = meaning;
            } else {
                around.push(resolved.len());
                resolved.push((net, meaning));
            }
        }
        resolved
    }

    /// Whose `address` is; an IPv4 address in an IPv6 dress (`::ffff:a.b.c.d`) counts as IPv4.
    #[must_use]
    pub fn classify(&self, address: IpAddr) -> Remote {
        let address = address.to_canonical();
        self.prefixes()
            .into_iter()
            .filter(|(net, _)| net.contains(&address))
            .max_by_key(|(net, _)| net.prefix_len())
            .map_or(Remote::World, |(_, remote)| remote)
    }
}
