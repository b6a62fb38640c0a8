//! What the line is told at its start: who lives where, how each path direction behaves by default, and its limits.
//! Read from `line.json`; no knowledge of namespaces or processes.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::fault::{EndpointRef, FaultError, Rule, Scope};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineConfig {
    /// Clusters, and external clients as clusters without nodes.
    pub endpoints: Vec<Endpoint>,
    /// How a path direction behaves when nothing is wrong. The most specific scope wins (the node counts more than the
    /// cluster, the source more than the target); the others are then ignored.
    #[serde(default)]
    pub profiles: Vec<Profile>,
    /// Faults active from the start. All that match apply, on top of the profile.
    #[serde(default)]
    pub faults: Vec<ActiveFault>,
    #[serde(default)]
    pub router: Router,
    /// What happens to packets whose source or target belongs to nobody. They are counted either way.
    #[serde(default)]
    pub unknown: UnknownAction,
    /// UDP target ports whose payload is looked into as VXLAN.
    #[serde(default = "default_vxlan_ports")]
    pub vxlan_ports: Vec<u16>,
    #[serde(default)]
    pub queue: QueueLimit,
    #[serde(default)]
    pub timing: Timing,
    /// Same seed, same packets at the same times: same result.
    #[serde(default)]
    pub seed: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    pub name: String,
    /// Node networks, and pod networks where they cross the fabric unencapsulated.
    pub networks: Vec<IpNet>,
    #[serde(default)]
    pub nodes: Vec<EndpointNode>,
    /// The endpoint through whose uplink its packets go: a fault of that one's paths is one of its own, too, and so is
    /// a profile, unless it has one itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointNode {
    pub name: String,
    pub addresses: Vec<IpAddr>,
    /// Pod networks behind this node that cross the fabric unencapsulated.
    #[serde(default)]
    pub networks: Vec<IpNet>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    pub scope: Scope,
    pub rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActiveFault {
    /// Chosen by whoever sets it; setting the same id again replaces the fault.
    pub id: String,
    pub scope: Scope,
    pub rule: Rule,
}

/// Where ICMP errors come from. Neither address may be assigned to an interface of the fabric namespace: the kernel
/// drops packets that arrive with one of its own IPv4 addresses as their source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Router {
    pub ipv4: Ipv4Addr,
    pub ipv6: Ipv6Addr,
}

impl Default for Router {
    fn default() -> Self {
        Self {
            ipv4: Ipv4Addr::new(192, 0, 2, 1),
            ipv6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnknownAction {
    /// The default: a packet that no fault could reach must not look like a healthy path.
    #[default]
    Drop,
    Pass,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueLimit {
    pub packets: usize,
    pub bytes: usize,
}

impl Default for QueueLimit {
    fn default() -> Self {
        Self {
            packets: 100_000,
            bytes: 64 << 20,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timing {
    /// A packet written this much after its due time, or a wake-up this late, makes a `starved` interval.
    pub starved_after_us: u64,
    /// How often the line checks its own wake-ups while idle; 0 switches that off.
    pub heartbeat_us: u64,
    /// Busy-waits this long before a due time instead of sleeping through it.
    pub spin_us: u64,
    /// SCHED_FIFO priority 1–99; 0 stays with the normal scheduler.
    pub fifo_priority: u8,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            starved_after_us: 1_000,
            heartbeat_us: 5_000,
            spin_us: 0,
            fifo_priority: 50,
        }
    }
}

impl Timing {
    pub fn starved_after(&self) -> Duration {
        Duration::from_micros(self.starved_after_us)
    }
}

fn default_vxlan_ports() -> Vec<u16> {
    vec![4789, 8472]
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read `{path}`")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("`{path}` is not a line configuration")]
    Parse {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("endpoint `{0}` is declared twice")]
    DuplicateEndpoint(String),
    #[error("node `{cluster}/{node}` is declared twice")]
    DuplicateNode { cluster: String, node: String },
    #[error("fault `{0}` is declared twice")]
    DuplicateFault(String),
    #[error("`{prefix}` belongs to both `{first}` and `{second}`")]
    SharedPrefix {
        prefix: IpNet,
        first: String,
        second: String,
    },
    #[error("`{0}` is not an endpoint of this lab; known are {known}", known = .1.join(", "))]
    UnknownEndpoint(EndpointRef, Vec<String>),
    #[error("more than {0} endpoints and nodes")]
    TooMany(usize),
    #[error("SCHED_FIFO priority {0} is above 99")]
    Priority(u8),
    #[error("rule `{rule}`")]
    Rule {
        rule: String,
        #[source]
        source: FaultError,
    },
}

/// Bounds the table of path directions, which is quadratic.
pub const MAX_ENDPOINTS: usize = 256;

impl LineConfig {
    pub fn new(endpoints: Vec<Endpoint>) -> Self {
        Self {
            endpoints,
            profiles: Vec::new(),
            faults: Vec::new(),
            router: Router::default(),
            unknown: UnknownAction::default(),
            vxlan_ports: default_vxlan_ports(),
            queue: QueueLimit::default(),
            timing: Timing::default(),
            seed: 0,
        }
    }

    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let config: Self = serde_json::from_str(&text).map_err(|source| ConfigError::Parse {
            path: path.to_owned(),
            source,
        })?;
        config.validate()?;
        Ok(config)
    }

    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut names = BTreeSet::new();
        let mut count = 0;
        for endpoint in &self.endpoints {
            if !names.insert(&endpoint.name) {
                return Err(ConfigError::DuplicateEndpoint(endpoint.name.clone()));
            }
            let mut nodes = BTreeSet::new();
            for node in &endpoint.nodes {
                if !nodes.insert(&node.name) {
                    return Err(ConfigError::DuplicateNode {
                        cluster: endpoint.name.clone(),
                        node: node.name.clone(),
                    });
                }
            }
            if let Some(uplink) = &endpoint.behind {
                self.validate_endpoint(&EndpointRef::cluster(uplink))?;
            }
            count += 1 + endpoint.nodes.len();
        }
        if count > MAX_ENDPOINTS {
            return Err(ConfigError::TooMany(MAX_ENDPOINTS));
        }
        if self.timing.fifo_priority > 99 {
            return Err(ConfigError::Priority(self.timing.fifo_priority));
        }
        let mut ids = BTreeSet::new();
        for fault in &self.faults {
            if !ids.insert(&fault.id) {
                return Err(ConfigError::DuplicateFault(fault.id.clone()));
            }
            self.validate_scope(&fault.scope)?;
            validate_rule(&fault.rule)?;
        }
        for profile in &self.profiles {
            self.validate_scope(&profile.scope)?;
            profile.rules.iter().try_for_each(validate_rule)?;
        }
        Ok(())
    }

    pub(crate) fn validate_scope(&self, scope: &Scope) -> Result<(), ConfigError> {
        self.validate_endpoint(&scope.source)?;
        self.validate_endpoint(&scope.target)
    }

    fn validate_endpoint(&self, wanted: &EndpointRef) -> Result<(), ConfigError> {
        let known = match (&wanted.cluster, &wanted.node) {
            (None, _) => true,
            (Some(cluster), node) => self.endpoints.iter().any(|endpoint| {
                endpoint.name == *cluster
                    && node
                        .as_ref()
                        .is_none_or(|node| endpoint.nodes.iter().any(|known| known.name == *node))
            }),
        };
        if known {
            return Ok(());
        }
        let names = self.endpoints.iter().flat_map(|endpoint| {
            std::iter::once(endpoint.name.clone()).chain(
                endpoint
                    .nodes
                    .iter()
                    .map(|node| format!("{}/{}", endpoint.name, node.name)),
            )
        });
        Err(ConfigError::UnknownEndpoint(
            wanted.clone(),
            names.collect(),
        ))
    }
}

pub(crate) fn validate_rule(rule: &Rule) -> Result<(), ConfigError> {
    rule.validate().map_err(|source| ConfigError::Rule {
        rule: rule.to_string(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_clusters() -> LineConfig {
        let cluster = |name: &str, net: &str, node: &str, address: &str| Endpoint {
            name: name.to_owned(),
            networks: vec![net.parse().unwrap()],
            nodes: vec![EndpointNode {
                name: node.to_owned(),
                addresses: vec![address.parse().unwrap()],
                networks: Vec::new(),
            }],
            behind: None,
        };
        LineConfig::new(vec![
            cluster("east", "192.168.15.0/24", "e-1", "192.168.15.11"),
            cluster("west", "192.168.20.0/24", "w-1", "192.168.20.11"),
        ])
    }

    #[test]
    fn json_reads_back_and_defaults_fill_in() {
        let mut config = two_clusters();
        config.faults.push(ActiveFault {
            id: "a".to_owned(),
            scope: Scope::new(
                EndpointRef::cluster("east"),
                EndpointRef::node("west", "w-1"),
            ),
            rule: "delay=5ms@udp".parse().unwrap(),
        });
        let json = serde_json::to_string_pretty(&config).unwrap();
        assert_eq!(serde_json::from_str::<LineConfig>(&json).unwrap(), config);
        let least: LineConfig = serde_json::from_str(r#"{"endpoints": []}"#).unwrap();
        assert_eq!(least, LineConfig::new(Vec::new()));
        assert!(serde_json::from_str::<LineConfig>(r#"{"endpoints": [], "sed": 1}"#).is_err());
    }

    #[test]
    fn mistakes_are_named() {
        let mut config = two_clusters();
        config.endpoints.push(config.endpoints[0].clone());
        assert!(
            matches!(config.validate(), Err(ConfigError::DuplicateEndpoint(name)) if name == "east")
        );

        let mut config = two_clusters();
        config.profiles.push(Profile {
            scope: Scope::new(EndpointRef::cluster("est"), EndpointRef::any()),
            rules: Vec::new(),
        });
        let error = config.validate().unwrap_err().to_string();
        assert!(
            error.contains("`est`") && error.contains("east/e-1"),
            "{error}"
        );

        let mut config = two_clusters();
        config.endpoints[1].behind = Some("mars".to_owned());
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains("`mars`"), "{error}");

        let mut config = two_clusters();
        config.timing.fifo_priority = 100;
        assert!(matches!(config.validate(), Err(ConfigError::Priority(100))));
    }
}
