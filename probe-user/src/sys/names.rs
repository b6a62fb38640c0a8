//! Tables of names beside the counts, so that an id means the same after every restart of the
//! agent; and the entries of the service table.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{Array, MapData};
use probe_common::{ClassId, PortClass, ServiceKey, address, maps::NAME_BYTES};

use super::maps::{MapsError, ServicePort, to_address};

/// An array of zero-padded names; the index is the id. A name once given keeps its id for the life
/// of the pins, since series of that id exist.
pub struct Names {
    what: &'static str,
    table: Array<MapData, [u8; NAME_BYTES]>,
    first: u16,
    limit: u16,
}

impl Names {
    pub(super) fn new(
        what: &'static str,
        table: Array<MapData, [u8; NAME_BYTES]>,
        first: u16,
        limit: u16,
    ) -> Self {
        Self {
            what,
            table,
            first,
            limit,
        }
    }

    fn map(&self) -> &'static str {
        match self.what {
            "class" => probe_common::maps::names::CLASSES,
            _ => probe_common::maps::names::REMOTES,
        }
    }

    /// The name of an id, if it has one.
    pub fn name(&self, id: u16) -> Result<Option<String>, MapsError> {
        if id >= self.limit {
            return Ok(None);
        }
        let bytes = self
            .table
            .get(&u32::from(id), 0)
            .map_err(|source| MapsError::Read {
                map: self.map(),
                source,
            })?;
        Ok(decode(&bytes))
    }

    /// All given names.
    pub fn all(&self) -> Result<BTreeMap<String, u16>, MapsError> {
        let mut all = BTreeMap::new();
        for id in self.first..self.limit {
            if let Some(name) = self.name(id)? {
                all.insert(name, id);
            }
        }
        Ok(all)
    }

    /// Gives every name an id, the old one where it has one, and returns all that are known.
    pub fn assign<'a>(
        &mut self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<BTreeMap<String, u16>, MapsError> {
        let mut known = self.all()?;
        let mut taken: BTreeSet<u16> = known.values().copied().collect();
        for name in names {
            if known.contains_key(name) {
                continue;
            }
            if name.is_empty() || name.len() >= NAME_BYTES {
                return Err(MapsError::NameLength {
                    what: self.what,
                    name: name.to_owned(),
                    max: NAME_BYTES - 1,
                });
            }
            let Some(id) = (self.first..self.limit).find(|id| !taken.contains(id)) else {
                return Err(MapsError::NamesFull {
                    what: self.what,
                    name: name.to_owned(),
                });
            };
            let map = self.map();
            self.table
                .set(u32::from(id), encode(name), 0)
                .map_err(|source| MapsError::Write { map, source })?;
            taken.insert(id);
            known.insert(name.to_owned(), id);
        }
        Ok(known)
    }
}

fn encode(name: &str) -> [u8; NAME_BYTES] {
    let mut bytes = [0; NAME_BYTES];
    let len = name.len().min(NAME_BYTES - 1);
    bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
    bytes
}

fn decode(bytes: &[u8; NAME_BYTES]) -> Option<String> {
    let len = bytes.iter().position(|b| *b == 0).unwrap_or(NAME_BYTES);
    (len > 0).then(|| String::from_utf8_lossy(&bytes[..len]).into_owned())
}

/// The entries of map `SERVICES` for a set of declared ports. See [`super::maps::Maps::set_service_ports`].
pub(super) fn service_entries(ports: &[ServicePort]) -> Vec<(ServiceKey, PortClass)> {
    let mut by_port: BTreeMap<u16, Vec<&ServicePort>> = BTreeMap::new();
    for port in ports {
        by_port.entry(port.port).or_default().push(port);
    }
    let entry = |address, port: u16, class: ClassId, by_address: bool| {
        (
            ServiceKey {
                address,
                port: u64::from(port),
            },
            PortClass {
                class: class.0,
                by_address: u8::from(by_address),
                reserved: 0,
            },
        )
    };
    let mut entries = Vec::new();
    for (port, declared) in by_port {
        let classes: BTreeSet<ClassId> = declared.iter().map(|d| d.class).collect();
        if let (1, Some(only)) = (classes.len(), classes.first()) {
            entries.push(entry(address::ANY, port, *only, false));
            continue;
        }
        // Addresses first, so that the second lookup never finds a hole.
        let mut anywhere = ClassId::OTHER;
        for service in declared {
            match service.address {
                Some(ip) => entries.push(entry(to_address(ip), port, service.class, false)),
                None => anywhere = service.class,
            }
        }
        entries.push(entry(address::ANY, port, anywhere, true));
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(address: Option<&str>, port: u16, class: u8) -> ServicePort {
        ServicePort {
            address: address.map(|a| a.parse().unwrap()),
            port,
            class: ClassId(class),
        }
    }

    #[test]
    fn one_class_on_a_port_counts_at_every_address() {
        let entries = service_entries(&[
            port(Some("10.96.0.10"), 8080, 1),
            port(Some("10.244.0.7"), 8080, 1),
        ]);
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].0.address, address::ANY);
        assert_eq!((entries[0].1.class, entries[0].1.by_address), (1, 0));
    }

    #[test]
    fn two_classes_on_a_port_are_told_apart_by_address() {
        let entries = service_entries(&[
            port(Some("10.96.0.10"), 80, 1),
            port(Some("10.96.0.11"), 80, 2),
        ]);
        let any = entries.last().unwrap();
        assert_eq!(any.0.address, address::ANY);
        assert_eq!((any.1.class, any.1.by_address), (0, 1));
        assert_eq!(entries.len(), 3);
        assert_eq!(entries[1].1.class, 2);
    }

    #[test]
    fn names_survive_the_table() {
        assert_eq!(decode(&encode("talos-east")).as_deref(), Some("talos-east"));
        assert_eq!(decode(&encode("")), None);
        let long = "x".repeat(NAME_BYTES);
        assert_eq!(decode(&encode(&long)).unwrap().len(), NAME_BYTES - 1);
    }
}
