//! The agent with its kernel programs: prober and kernel agree connection by connection, a restart loses
//! no count, and a changed mesh.yaml reaches the kernel without one.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use mesh::observation::{
    Direction, KernelConnection, KernelOutcome, NodeRef, Origin, Outcome, ProbeKind, ProbeTarget,
    Sample,
};
use probe_api::{Client, PlannedTarget, ProbePlan};
use probe_user::sys::loader::{self, Options};
use tests::agent::USER;
use tests::cgroup::{Cgroup, join, mount};
use tests::leftovers;
use tests::netns::skip;
use tests::place::{Agent, Place, at_a_place, get, wait_until};
use tests::probe::missing;

/// What the prober's thread can add to the kernel's connect time without noticing: a stall of 5 ms between two polls,
/// one of 5 ms in a poll and its tick of 2 ms; anything longer makes the sample starved.
const USER_SPACE_NS: u64 = 15_000_000;

fn target(place: &Place, kind: ProbeKind, host: u8, node: &str, count: u32) -> PlannedTarget {
    let port = if kind == ProbeKind::Http {
        mesh::RESPONDER_HTTP_PORT
    } else {
        mesh::RESPONDER_ECHO_PORT
    };
    PlannedTarget {
        target: ProbeTarget {
            cluster: "west".into(),
            node: Some(node.into()),
            service: None,
            address: (place.address(host), port).into(),
            question: None,
        },
        kind,
        count,
    }
}

async fn probe(client: &Client, targets: Vec<PlannedTarget>) -> Vec<(usize, Sample)> {
    let plan = ProbePlan {
        targets,
        interval: Duration::from_millis(10),
        timeout: Duration::from_secs(3),
    };
    let mut stream = client.probe(&plan).await.expect("accepted");
    let mut samples = Vec::new();
    while let Some(sample) = stream.next().await.expect("a believable result") {
        samples.push(sample);
    }
    samples
}

fn start(place: &Place, pins: &str) -> Agent {
    let agent = Agent::start(
        place,
        "e-1",
        &["--background-interval", "off", "--pin-dir", pins],
    );
    wait_until("the kernel witness", || {
        get(agent.metrics_address(), "/readyz").0 == 200
    });
    agent
}

/// Records since `since`, once `expected` of them are there.
async fn records(
    client: &Client,
    node: &NodeRef,
    since: u64,
    expected: usize,
) -> Vec<KernelConnection> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let reply = client.connections(node, since).await.expect("records");
        assert_eq!(reply.dropped, 0);
        let known = reply.connections.len();
        if known >= expected {
            return reply.connections;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{known} of {expected} records"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Established and failed probe connections towards `remote` that this node began.
async fn counted(client: &Client, node: &NodeRef, remote: &str) -> (u64, u64) {
    let observation = client.observe().await.expect("an observation");
    let mut sums = (0, 0);
    for series in observation
        .series
        .iter()
        .filter_map(|s| s.kernel_series(node))
    {
        if series.remote == remote
            && series.origin == Origin::Burst
            && series.direction == Direction::Initiator
        {
            sums.0 += series.established;
            sums.1 += series.failed;
        }
    }
    sums
}

#[test]
fn prober_and_kernel_agree_and_a_restart_loses_nothing() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let attached = Attached::new()?;
    at_a_place("witness", async |place| {
        agree(place, &attached.pins.display().to_string()).await;
    })
}

/// The programs attached to a cgroup in which this process is; undone on drop, also by a failed test.
struct Attached {
    pins: PathBuf,
    _cgroup: Cgroup,
}

impl Attached {
    fn new() -> Result<Self> {
        let cgroup = Cgroup::create("witness")?;
        let pins = leftovers::pins();
        let options = Options {
            gid: Some(USER),
            ..Options::new(cgroup.path())
        };
        loader::load(&options, &pins)?;
        // Agents inherit the cgroup; this is the only test of its process.
        join(cgroup.path(), std::process::id())?;
        Ok(Self {
            pins,
            _cgroup: cgroup,
        })
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let left = mount().and_then(|root| join(&root, std::process::id()));
        let unloaded = loader::unload(&self.pins);
        tracing::debug!(?left, ?unloaded, "cleaned up");
    }
}

async fn agree(place: &Place, pins: &str) {
    let mut east = start(place, pins);
    let _west = Agent::start(place, "w-1", &["--background-interval", "off"]);
    let client = Client::connect(&east.endpoint(), None).await.unwrap();
    let identity = client.identity().await.unwrap();
    assert!(identity.kernel_witness, "{}", identity.kernel_detail);
    let node = &identity.node;

    let samples = probe(
        &client,
        vec![
            target(place, ProbeKind::Tcp, 65, "w-1", 200),
            target(place, ProbeKind::Http, 65, "w-1", 50),
            target(place, ProbeKind::Tcp, 66, "w-2", 5),
        ],
    )
    .await;
    // Both ends of what was established, one end of what was refused.
    let records = records(&client, node, identity.monotonic_ns, 2 * 250 + 5).await;
    assert_eq!(records.len(), 505);
    let ends: HashMap<(Direction, u16), &KernelConnection> = records
        .iter()
        .map(|record| match record.direction {
            Direction::Initiator => ((record.direction, record.local.port()), record),
            Direction::Acceptor => ((record.direction, record.remote.port()), record),
        })
        .collect();
    let mut differences = Vec::new();
    for (index, sample) in &samples {
        let initiator = ends[&(Direction::Initiator, sample.source_port)];
        if *index == 2 {
            assert_eq!(sample.outcome, Outcome::Refused);
            assert_eq!(initiator.outcome, KernelOutcome::Refused);
            continue;
        }
        assert_eq!(sample.outcome, Outcome::Ok);
        assert_eq!(initiator.outcome, KernelOutcome::Established);
        let acceptor = ends[&(Direction::Acceptor, sample.source_port)];
        assert_eq!(acceptor.outcome, KernelOutcome::Established);
        assert_eq!(acceptor.local, initiator.remote);
        if sample.starved {
            continue;
        }
        let kernel = initiator.connect_ns.expect("connect time");
        let prober = sample.connect_ns.expect("connect time");
        let difference = prober.checked_sub(kernel);
        let difference = difference.expect("the prober starts before and ends after the kernel");
        assert!(difference < USER_SPACE_NS, "{difference} ns: {sample:?}");
        differences.push(difference);
    }
    differences.sort_unstable();
    let at = |share: usize| differences[(differences.len() - 1) * share / 100] / 1_000;
    let count = differences.len();
    let _ = writeln!(
        std::io::stderr(),
        "prober minus kernel, {count} connects: p50 {} µs, p99 {} µs, max {} µs",
        at(50),
        at(99),
        at(100)
    );
    assert_eq!(counted(&client, node, "west").await, (250, 5));
    let metrics = east.metrics();
    // What was asked for is not among the background probes.
    for (origin, outcome, count) in [
        ("burst", "established", 250),
        ("burst", "refused", 5),
        ("burst", "timeout", 0),
        ("probe", "established", 0),
        ("probe", "refused", 0),
    ] {
        let line = format!(
            "aggrik8s_tcp_connects_total{{origin=\"{origin}\",source_cluster=\"east\",target_cluster=\"west\",class=\"other\",outcome=\"{outcome}\"}} {count}\n"
        );
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }

    east.kill();
    let mut east = start(place, pins);
    let client = Client::connect(&east.endpoint(), None).await.unwrap();
    assert_ne!(client.identity().await.unwrap().boot_id, identity.boot_id);
    assert_eq!(counted(&client, node, "west").await, (250, 5));

    // 10.77.0.99 belongs to nobody until the file says so; the agent is not restarted.
    place.write_mesh(&[("w-3", place.address(99))]);
    wait_until("the new mesh in the kernel", || {
        east.metric("aggrik8s_map_mesh_writes_total") == 2.0
    });
    let samples = probe(&client, vec![target(place, ProbeKind::Tcp, 99, "w-3", 3)]).await;
    assert!(samples.iter().all(|(_, s)| s.outcome == Outcome::Refused));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while counted(&client, node, "west").await != (250, 8) {
        let now = counted(&client, node, "west").await;
        assert!(tokio::time::Instant::now() < deadline, "{now:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    east.terminate();
    assert_eq!(east.wait(), Some(0));
}
