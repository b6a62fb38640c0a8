//! The agent's API under a flood of connections and of calls: bounded, counted, and other callers stay served.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use mesh::observation::{ProbeKind, ProbeTarget};
use probe_api::{Client, ClientError, PlannedTarget, ProbePlan};
use tests::place::{Agent, Place, at_a_place};
use tokio::time::Instant;

const FLOOD: usize = 400;
const REFUSED: &str = "aggrik8s_api_connections_refused_total";
const SILENT: &str = "aggrik8s_api_connections_silent_total";
const MEMORY: &str = "process_resident_memory_bytes";

fn plan(place: &Place, count: u32) -> ProbePlan {
    let (cluster, ip) = place.node("w-1");
    ProbePlan {
        targets: vec![PlannedTarget {
            target: ProbeTarget {
                cluster,
                node: Some("w-1".into()),
                service: None,
                address: (ip, mesh::RESPONDER_ECHO_PORT).into(),
                question: None,
            },
            kind: ProbeKind::Tcp,
            count,
        }],
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(3),
    }
}

async fn run(client: &Client, plan: &ProbePlan) -> Result<usize, ClientError> {
    let mut stream = client.probe(plan).await?;
    let mut results = 0;
    while stream.next().await?.is_some() {
        results += 1;
    }
    Ok(results)
}

#[test]
fn a_flood_of_connections_is_refused_and_nobody_else_notices() -> anyhow::Result<()> {
    at_a_place("flood", async |place| {
        let agent = Agent::start(place, "e-1", &["--background-interval", "off"]);
        let _west = Agent::start(place, "w-1", &["--background-interval", "off"]);
        let client = Client::connect(&agent.endpoint(), None).await.unwrap();
        assert_eq!(run(&client, &plan(place, 5)).await.unwrap(), 5);
        assert_eq!((agent.metric(REFUSED), agent.metric(SILENT)), (0.0, 0.0));
        let before = agent.metric(MEMORY);

        let flood: Vec<UnixStream> = (0..FLOOD)
            .map(|_| UnixStream::connect(place.socket("e-1")).expect("the listener is there"))
            .collect();
        // The caller that was there goes on undisturbed.
        for _ in 0..5 {
            client.identity().await.expect("served beside the flood");
            client.observe().await.expect("served beside the flood");
        }
        assert_eq!(run(&client, &plan(place, 5)).await.unwrap(), 5);
        // All but the free places: one of 32 was ours.
        let expected = (FLOOD - 31) as f64;
        let deadline = Instant::now() + Duration::from_secs(30);
        while agent.metric(REFUSED) < expected {
            let seen = agent.metric(REFUSED);
            assert!(Instant::now() < deadline, "{seen} of {expected} refused");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let grown = agent.metric(MEMORY) - before;
        assert!(grown < 8e6, "{grown} bytes for {FLOOD} connections");

        // Who says nothing loses the place, and others find one although the flood is still there.
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let fresh = Client::connect(&agent.endpoint(), None).await;
            if let Ok(fresh) = fresh
                && fresh.identity().await.is_ok()
            {
                break;
            }
            assert!(Instant::now() < deadline, "no place for a new caller");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(agent.metric(SILENT) >= 1.0);
        client
            .identity()
            .await
            .expect("the first caller is still served");
        drop(flood);
    })
}

#[test]
fn a_flood_of_calls_is_held_to_the_budget() -> anyhow::Result<()> {
    at_a_place("calls", async |place| {
        let agent = Agent::start(place, "e-1", &["--background-interval", "off"]);
        let _west = Agent::start(place, "w-1", &["--background-interval", "off"]);
        let client = Client::connect(&agent.endpoint(), None).await.unwrap();
        let before = agent.metric(MEMORY);
        let asked = plan(place, 25);
        let calls = (0..120).map(|_| {
            let (client, asked) = (client.clone(), asked.clone());
            tokio::spawn(async move { run(&client, &asked).await })
        });
        let (mut whole, mut refused) = (0, 0);
        for call in calls.collect::<Vec<_>>() {
            match call.await.expect("no panic") {
                Ok(25) => whole += 1,
                Err(ClientError::Refused { code, .. }) => {
                    assert_eq!(code, tonic::Code::ResourceExhausted);
                    refused += 1;
                }
                // Sixteen at one time; who waits too long for his turn gives up.
                Err(ClientError::Deadline { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(whole >= 8, "{whole} runs were served");
        assert!(refused >= 1, "eight runs at one time, sixteen calls");
        assert_eq!(
            agent.metric("aggrik8s_api_refused_runs_total"),
            f64::from(refused)
        );
        let grown = agent.metric(MEMORY) - before;
        assert!(grown < 16e6, "{grown} bytes");
        // And then all is as before.
        let deadline = Instant::now() + Duration::from_secs(30);
        while run(&client, &asked).await.is_err() {
            assert!(Instant::now() < deadline, "still refused");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
}
