//! An agent at each end of a [`LineRig`], as shipped: `aggrik8s-probe run` as an ordinary user.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mesh::AgentEndpoint;
use mesh::observation::NodeRef;

use crate::agent::{USER, binary};
use crate::leftovers;
use crate::line_rig::LineRig;
use crate::netns::Netns;

/// Clusters `near` and `far` of the rig, each with one node and its agent.
pub struct LineAgents {
    folder: tempfile::TempDir,
    agents: Vec<Child>,
}

impl LineAgents {
    /// Starts both at the rig's own addresses and waits until they serve.
    pub fn start(rig: &LineRig) -> Result<Self> {
        let both = |of: fn(&LineRig, bool) -> IpAddr| [of(rig, false), of(rig, true)];
        let near = both(LineRig::client_address);
        let far = both(LineRig::server_address);
        Self::start_at(rig, &near, &far)
    }

    /// Starts both at the given addresses, whose networks `mesh.yaml` must know.
    pub fn start_at(rig: &LineRig, near: &[IpAddr], far: &[IpAddr]) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix(&leftovers::name(""))
            .tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        chown(folder.path(), Some(USER), Some(USER))?;
        fs::write(folder.path().join("mesh.yaml"), MESH)?;
        let mut agents = Self {
            folder,
            agents: Vec::new(),
        };
        agents.spawn(&rig.client, "near", "client", near)?;
        agents.spawn(&rig.server, "far", "server", far)?;
        Ok(agents)
    }

    fn spawn(
        &mut self,
        namespace: &Netns,
        cluster: &str,
        node: &str,
        addresses: &[IpAddr],
    ) -> Result<()> {
        let socket = self.socket(cluster);
        let log = fs::File::create(self.folder.path().join(format!("{cluster}.log")))?;
        let mut command = Command::new(binary()?);
        command
            .arg("run")
            .arg("--mesh")
            .arg(self.folder.path().join("mesh.yaml"))
            .args(["--cluster", cluster, "--node", node])
            .arg("--api")
            .arg(format!("unix:{}", socket.display()))
            .arg("--metrics")
            .arg(SocketAddr::new(addresses[0], 9_100).to_string())
            .arg("--respond")
            .arg(
                addresses
                    .iter()
                    .map(IpAddr::to_string)
                    .collect::<Vec<_>>()
                    .join(","),
            )
            .args(["--background-interval", "off"])
            .uid(USER)
            .gid(USER)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let child = namespace.run(|| command.spawn())??;
        self.agents.push(child);
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            let ended = self.agents.last_mut().context("started")?.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                bail!(
                    "the agent of `{cluster}` does not serve:\n{}",
                    self.log(cluster)
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn socket(&self, cluster: &str) -> PathBuf {
        self.folder.path().join(format!("{cluster}.sock"))
    }

    /// What the agent of `cluster` wrote.
    pub fn log(&self, cluster: &str) -> String {
        fs::read_to_string(self.folder.path().join(format!("{cluster}.log"))).unwrap_or_default()
    }

    /// The agent of `near`, which measures.
    pub fn near(&self) -> AgentEndpoint {
        AgentEndpoint::Unix(self.socket("near").display().to_string())
    }

    /// Effective capabilities and uid of both agents, as the kernel tells.
    pub fn privileges(&self) -> Result<Vec<(String, String)>> {
        self.agents
            .iter()
            .map(|agent| {
                let status = fs::read_to_string(format!("/proc/{}/status", agent.id()))?;
                let field = |name: &str| {
                    status
                        .lines()
                        .find_map(|line| line.strip_prefix(name))
                        .map(|value| value.trim().to_owned())
                        .unwrap_or_default()
                };
                Ok((field("CapEff:"), field("Uid:")))
            })
            .collect()
    }

    pub fn far_node() -> NodeRef {
        NodeRef {
            cluster: "far".into(),
            node: "server".into(),
        }
    }
}

impl Drop for LineAgents {
    fn drop(&mut self) {
        for agent in &mut self.agents {
            // Ended already at the worst.
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}

const MESH: &str = "\
mesh: line
clusters:
  - name: near
    id: 1
    node_networks: [10.71.0.0/24, \"fd71::/64\"]
    pod_cidrs: [10.73.0.0/24]
    nodes:
      - {name: client, addresses: [10.71.0.2, \"fd71::2\"]}
  - name: far
    id: 2
    node_networks: [10.72.0.0/24, \"fd72::/64\"]
    pod_cidrs: [10.74.0.0/24]
    nodes:
      - {name: server, addresses: [10.72.0.2, \"fd72::2\"]}
";
