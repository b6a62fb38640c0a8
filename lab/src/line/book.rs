//! Who owns an address, and which rules apply from one owner to another.
//! Owners are clusters (for addresses of no known node) and nodes; the longest matching prefix decides.

use std::net::IpAddr;

use ipnet::IpNet;

use super::config::LineConfig;
use super::fault::{EndpointRef, Scope};

/// Index of an owner.
pub(super) type OwnerId = usize;

/// One path direction between two owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PathId {
    pub(super) source: OwnerId,
    pub(super) target: OwnerId,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) cluster: String,
    pub(super) node: Option<String>,
    home: OwnerId,
    /// The cluster through whose uplink its packets go.
    behind: Option<String>,
}

impl Owner {
    pub(super) fn endpoint(&self) -> EndpointRef {
        EndpointRef {
            cluster: Some(self.cluster.clone()),
            node: self.node.clone(),
        }
    }

    fn is(&self, wanted: &EndpointRef) -> bool {
        let same =
            |name: &Option<String>, own: Option<&String>| name.is_none() || name.as_ref() == own;
        same(&wanted.cluster, Some(&self.cluster)) && same(&wanted.node, self.node.as_ref())
    }

    /// What concerns a whole cluster concerns those behind it as well.
    fn within(&self, wanted: &EndpointRef) -> bool {
        let behind =
            wanted.node.is_none() && self.behind.is_some() && wanted.cluster == self.behind;
        behind || self.is(wanted)
    }
}

pub(super) struct AddressBook {
    owners: Vec<Owner>,
    /// Longest prefixes first.
    prefixes: Vec<(IpNet, OwnerId)>,
}

impl AddressBook {
    pub(super) fn new(config: &LineConfig) -> Self {
        let mut owners = Vec::new();
        let mut prefixes = Vec::new();
        for endpoint in &config.endpoints {
            let cluster = owners.len();
            owners.push(Owner {
                cluster: endpoint.name.clone(),
                node: None,
                home: cluster,
                behind: endpoint.behind.clone(),
            });
            prefixes.extend(endpoint.networks.iter().map(|network| (*network, cluster)));
            for node in &endpoint.nodes {
                let id = owners.len();
                owners.push(Owner {
                    cluster: endpoint.name.clone(),
                    node: Some(node.name.clone()),
                    home: cluster,
                    behind: endpoint.behind.clone(),
                });
                prefixes.extend(
                    node.addresses
                        .iter()
                        .map(|address| (IpNet::from(*address), id)),
                );
                prefixes.extend(node.networks.iter().map(|network| (*network, id)));
            }
        }
        prefixes.sort_by_key(|(network, _)| std::cmp::Reverse(network.prefix_len()));
        Self { owners, prefixes }
    }

    pub(super) fn owner(&self, address: IpAddr) -> Option<OwnerId> {
        self.prefixes
            .iter()
            .find(|(network, _)| network.contains(&address))
            .map(|(_, id)| *id)
    }

    pub(super) fn get(&self, id: OwnerId) -> Option<&Owner> {
        self.owners.get(id)
    }

    /// The owner that stands for a node's whole cluster.
    pub(super) fn cluster_of(&self, id: OwnerId) -> OwnerId {
        self.owners.get(id).map_or(id, |owner| owner.home)
    }

    /// Position of a path direction in the order of `paths`.
    pub(super) fn index(&self, path: PathId) -> usize {
        path.source * self.owners.len() + path.target
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = PathId> + use<> {
        let count = self.owners.len();
        (0..count).flat_map(move |source| (0..count).map(move |target| PathId { source, target }))
    }

    pub(super) fn matches(&self, path: PathId, scope: &Scope) -> bool {
        match (self.get(path.source), self.get(path.target)) {
            (Some(source), Some(target)) => {
                source.within(&scope.source) && target.within(&scope.target)
            }
            _ => false,
        }
    }

    /// [`Self::matches`] by the owners' own names, without what they lie behind.
    pub(super) fn names(&self, path: PathId, scope: &Scope) -> bool {
        match (self.get(path.source), self.get(path.target)) {
            (Some(source), Some(target)) => source.is(&scope.source) && target.is(&scope.target),
            _ => false,
        }
    }

    /// Names both ends of a path.
    pub(super) fn scope(&self, path: PathId) -> Option<Scope> {
        Some(Scope::new(
            self.get(path.source)?.endpoint(),
            self.get(path.target)?.endpoint(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn the_longest_prefix_decides() {
        let book = AddressBook::new(&samples::config());
        let name = |address: &str| {
            book.owner(address.parse().unwrap())
                .and_then(|id| book.get(id))
                .map(|owner| owner.endpoint().to_string())
        };
        assert_eq!(name("192.168.15.11").as_deref(), Some("east/e-1"));
        assert_eq!(name("192.168.15.99").as_deref(), Some("east"));
        assert_eq!(name("10.244.1.7").as_deref(), Some("east/e-1"));
        assert_eq!(name("fd00:14::11").as_deref(), Some("west/w-1"));
        assert_eq!(name("192.168.50.3").as_deref(), Some("drones"));
        assert_eq!(name("8.8.8.8"), None);
    }

    #[test]
    fn scopes_cover_clusters_nodes_and_everything() {
        let book = AddressBook::new(&samples::config());
        let owner = |address: &str| book.owner(address.parse().unwrap()).unwrap();
        let path = PathId {
            source: owner("192.168.15.11"),
            target: owner("192.168.20.11"),
        };
        let matches = |source: &str, target: &str| {
            book.matches(
                path,
                &Scope::new(source.parse().unwrap(), target.parse().unwrap()),
            )
        };
        for (source, target) in [
            ("*", "*"),
            ("east", "west"),
            ("east/e-1", "*"),
            ("*", "west/w-1"),
        ] {
            assert!(matches(source, target), "{source} -> {target}");
        }
        for (source, target) in [
            ("west", "east"),
            ("east/e-2", "west"),
            ("east", "drones"),
            ("*", "east"),
        ] {
            assert!(!matches(source, target), "{source} -> {target}");
        }
        assert_eq!(
            book.scope(path).unwrap().to_string(),
            "east/e-1 -> west/w-1"
        );
        // A cluster's address of no known node is not covered by a node's fault.
        let other = PathId {
            source: owner("192.168.15.99"),
            target: path.target,
        };
        assert!(!book.matches(
            other,
            &Scope::new("east/e-1".parse().unwrap(), EndpointRef::any())
        ));
        assert!(book.matches(
            other,
            &Scope::new("east".parse().unwrap(), EndpointRef::any())
        ));
    }
}
