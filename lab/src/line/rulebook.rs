//! Which effects meet a packet of each path direction, in which order: profiles and faults laid out over all pairs of
//! owners, so that a packet only has to look its plan up.

use std::collections::BTreeMap;

use super::book::{AddressBook, OwnerId, PathId};
use super::config::{ActiveFault, ConfigError, LineConfig, validate_rule};
use super::effect::{Effect, derive_seed};
use super::fault::{EndpointRef, Fault, Rule, Scope};

/// Bounds what a client of the control socket can pile up.
pub const MAX_FAULTS: usize = 256;

#[derive(Debug, thiserror::Error)]
pub enum SetFaultError {
    #[error("fault `{0}`")]
    Invalid(String, #[source] ConfigError),
    #[error("a fault's id has 1 to 64 letters, digits, `-`, `_`, `.` or `:`")]
    Id,
    #[error("{MAX_FAULTS} faults are active already")]
    TooMany,
}

pub(super) struct Rulebook {
    /// Effects of profiles come first and live for ever; those of faults follow, in the order of `faults`.
    effects: Vec<Effect>,
    profile_effects: usize,
    faults: Vec<ActiveFault>,
    /// By `AddressBook::index`: indices of effects, in order of their stages.
    plans: Vec<Vec<usize>>,
    profile_plans: Vec<Vec<usize>>,
}

/// The effects of one path direction, in order.
pub(super) struct Plan<'a> {
    effects: &'a mut [Effect],
    indices: &'a [usize],
}

impl Plan<'_> {
    pub(super) fn len(&self) -> usize {
        self.indices.len()
    }

    pub(super) fn get(&mut self, step: usize) -> &mut Effect {
        &mut self.effects[self.indices[step]]
    }
}

impl Rulebook {
    /// `config` has been validated.
    pub(super) fn new(config: &LineConfig, book: &AddressBook) -> Self {
        let mut rulebook = Self {
            effects: Vec::new(),
            profile_effects: 0,
            faults: Vec::new(),
            plans: Vec::new(),
            profile_plans: Vec::new(),
        };
        rulebook.lay_out_profiles(config, book);
        for fault in &config.faults {
            rulebook.add(config, fault.clone());
        }
        rulebook.lay_out(book);
        rulebook
    }

    pub(super) fn faults(&self) -> &[ActiveFault] {
        &self.faults
    }

    pub(super) fn plan(&mut self, book: &AddressBook, path: PathId) -> Plan<'_> {
        Plan {
            effects: &mut self.effects,
            indices: &self.plans[book.index(path)],
        }
    }

    pub(super) fn set(
        &mut self,
        config: &LineConfig,
        book: &AddressBook,
        fault: ActiveFault,
    ) -> Result<(), SetFaultError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        if fault.id.is_empty() || fault.id.len() > 64 || !fault.id.chars().all(allowed) {
            return Err(SetFaultError::Id);
        }
        let checked = config
            .validate_scope(&fault.scope)
            .and_then(|()| validate_rule(&fault.rule));
        checked.map_err(|source| SetFaultError::Invalid(fault.id.clone(), source))?;
        let replaced = self.remove(&fault.id);
        if !replaced && self.faults.len() >= MAX_FAULTS {
            return Err(SetFaultError::TooMany);
        }
        self.add(config, fault);
        self.lay_out(book);
        Ok(())
    }

    /// False if there was none.
    pub(super) fn clear(&mut self, book: &AddressBook, id: &str) -> bool {
        let removed = self.remove(id);
        self.lay_out(book);
        removed
    }

    pub(super) fn clear_all(&mut self, book: &AddressBook) {
        self.faults.clear();
        self.effects.truncate(self.profile_effects);
        self.lay_out(book);
    }

    fn add(&mut self, config: &LineConfig, fault: ActiveFault) {
        self.effects
            .push(Effect::new(fault.rule, derive_seed(config.seed, &fault.id)));
        self.faults.push(fault);
    }

    fn remove(&mut self, id: &str) -> bool {
        let Some(index) = self.faults.iter().position(|fault| fault.id == id) else {
            return false;
        };
        self.faults.remove(index);
        self.effects.remove(self.profile_effects + index);
        true
    }

    /// A profile over several clusters stands for a line of its own between each ordered pair, so each pair gets
    /// effects of its own. A fault is one thing that is broken: all it covers share its state.
    fn lay_out_profiles(&mut self, config: &LineConfig, book: &AddressBook) {
        let mut instances: BTreeMap<(usize, OwnerId, OwnerId), Vec<usize>> = BTreeMap::new();
        for path in book.paths() {
            let matching = config
                .profiles
                .iter()
                .enumerate()
                .filter(|(_, profile)| book.matches(path, &profile.scope));
            // The first declared wins among equals.
            let best = matching.rev().max_by_key(|(_, profile)| {
                let own = book.names(path, &profile.scope);
                (own, specificity(&profile.scope))
            });
            let Some((index, profile)) = best else {
                self.profile_plans.push(Vec::new());
                continue;
            };
            let end = |owner, scope: &EndpointRef| {
                if scope.node.is_some() {
                    owner
                } else {
                    book.cluster_of(owner)
                }
            };
            let (source, target) = (
                end(path.source, &profile.scope.source),
                end(path.target, &profile.scope.target),
            );
            let effects = &mut self.effects;
            let plan = instances.entry((index, source, target)).or_insert_with(|| {
                let instance = |(number, rule): (usize, &Rule)| {
                    let name = format!("profile {index}.{number} {source} {target}");
                    effects.push(Effect::new(*rule, derive_seed(config.seed, &name)));
                    effects.len() - 1
                };
                profile.rules.iter().enumerate().map(instance).collect()
            });
            self.profile_plans.push(plan.clone());
        }
        self.profile_effects = self.effects.len();
    }

    fn lay_out(&mut self, book: &AddressBook) {
        let plan = |(path, profile): (PathId, &Vec<usize>)| {
            let faults = self
                .faults
                .iter()
                .enumerate()
                .filter(|(_, fault)| book.matches(path, &fault.scope));
            let mut plan = profile.clone();
            plan.extend(faults.map(|(index, _)| self.profile_effects + index));
            plan.sort_by_key(|index| stage(&self.effects[*index].rule.fault));
            plan
        };
        self.plans = book.paths().zip(&self.profile_plans).map(plan).collect();
    }
}

fn stage(fault: &Fault) -> u8 {
    match fault {
        Fault::Blackhole => 0,
        Fault::Loss(_) => 1,
        Fault::Corrupt { .. } | Fault::Reset { .. } => 2,
        Fault::Mtu { .. } => 3,
        Fault::Rate { .. } => 4,
        Fault::Delay(_) | Fault::Jitter(_) | Fault::Setup(_) => 5,
        Fault::Reorder { .. } => 6,
        Fault::Duplicate { .. } => 7,
    }
}

/// The node counts more than the cluster, the source more than the target.
fn specificity(scope: &Scope) -> (u8, u8) {
    let (source, target) = (scope.source.specificity(), scope.target.specificity());
    (source + target, source)
}

#[cfg(test)]
mod tests {
    use super::super::config::Profile;
    use super::super::samples;
    use super::*;

    fn rules(
        book: &AddressBook,
        rulebook: &mut Rulebook,
        source: &str,
        target: &str,
    ) -> Vec<String> {
        let owner = |address: &str| book.owner(address.parse().unwrap()).unwrap();
        let mut plan = rulebook.plan(
            book,
            PathId {
                source: owner(source),
                target: owner(target),
            },
        );
        (0..plan.len())
            .map(|step| plan.get(step).rule.to_string())
            .collect()
    }

    fn profile(source: &str, target: &str, rules: &[&str]) -> Profile {
        Profile {
            scope: Scope::new(source.parse().unwrap(), target.parse().unwrap()),
            rules: rules.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    fn fault(id: &str, source: &str, target: &str, rule: &str) -> ActiveFault {
        ActiveFault {
            id: id.to_owned(),
            scope: Scope::new(source.parse().unwrap(), target.parse().unwrap()),
            rule: rule.parse().unwrap(),
        }
    }

    #[test]
    fn the_most_specific_profile_wins_and_faults_add_up_in_order_of_stages() {
        let mut config = samples::config();
        config.profiles = vec![
            profile("*", "*", &["delay=1ms"]),
            profile("east", "west", &["delay=2ms"]),
            profile("*", "west/w-1", &["delay=3ms"]),
            profile("drones", "*", &["delay=5ms"]),
            profile("east/e-2", "west", &["delay=4ms", "loss=1%"]),
        ];
        config.faults = vec![
            fault("d", "east", "west", "duplicate=1%"),
            fault("l", "east/e-1", "*", "loss=5%"),
        ];
        let book = AddressBook::new(&config);
        let mut rulebook = Rulebook::new(&config, &book);
        let mut rules = |source, target| rules(&book, &mut rulebook, source, target);
        assert_eq!(
            rules("192.168.15.11", "192.168.50.1"),
            ["loss=5%", "delay=1ms"]
        );
        assert_eq!(
            rules("192.168.15.11", "192.168.20.11"),
            ["loss=5%", "delay=2ms", "duplicate=1%"]
        );
        assert_eq!(
            rules("192.168.15.99", "192.168.20.99"),
            ["delay=2ms", "duplicate=1%"]
        );
        assert_eq!(rules("192.168.50.1", "192.168.20.11"), ["delay=3ms"]);
        assert_eq!(
            rules("192.168.15.12", "192.168.20.11"),
            ["loss=1%", "delay=4ms", "duplicate=1%"]
        );
        // The way back is a path direction of its own.
        assert_eq!(rules("192.168.20.11", "192.168.15.11"), ["delay=1ms"]);
    }

    #[test]
    fn what_lies_behind_a_cluster_suffers_with_it_and_keeps_a_profile_of_its_own() {
        let mut config = samples::config();
        config.endpoints[2].behind = Some("west".to_owned());
        config.profiles = vec![
            profile("west", "east", &["delay=1ms"]),
            profile("east", "west", &["delay=2ms"]),
            profile("*", "drones", &["delay=3ms"]),
        ];
        config.faults = vec![
            fault("a", "west", "east", "loss=1%"),
            fault("b", "west/w-1", "east", "loss=2%"),
            fault("c", "drones", "east", "loss=3%"),
            fault("d", "east", "west", "loss=4%"),
        ];
        let book = AddressBook::new(&config);
        let mut rulebook = Rulebook::new(&config, &book);
        let mut rules = |source, target| rules(&book, &mut rulebook, source, target);
        let (east, west, drone) = ("192.168.15.11", "192.168.20.11", "192.168.50.1");
        assert_eq!(rules(drone, east), ["loss=1%", "loss=3%", "delay=1ms"]);
        assert_eq!(rules(west, east), ["loss=1%", "loss=2%", "delay=1ms"]);
        // Its own profile, however vague, comes before that of the cluster before it.
        assert_eq!(rules(east, drone), ["loss=4%", "delay=3ms"]);
        assert_eq!(rules(east, west), ["loss=4%", "delay=2ms"]);
    }

    #[test]
    fn a_profile_is_a_line_per_cluster_pair_and_a_fault_is_one_thing() {
        let mut config = samples::config();
        config.profiles = vec![profile("*", "*", &["rate=1mbit"])];
        let book = AddressBook::new(&config);
        let mut rulebook = Rulebook::new(&config, &book);
        // Ordered pairs of three clusters, each with itself as well.
        assert_eq!(rulebook.profile_effects, 9);
        rulebook
            .set(&config, &book, fault("r", "east", "*", "rate=2mbit"))
            .unwrap();
        assert_eq!(rulebook.effects.len(), 10);
        assert_eq!(
            rules(&book, &mut rulebook, "192.168.15.11", "192.168.20.11"),
            ["rate=1mbit:49152:0", "rate=2mbit:49152:0"]
        );
        assert!(rulebook.clear(&book, "r") && !rulebook.clear(&book, "r"));
        assert_eq!(
            rules(&book, &mut rulebook, "192.168.15.11", "192.168.20.11"),
            ["rate=1mbit:49152:0"]
        );
    }
}
