//! `aggrik8s-probe run` as shipped: configuration errors, the API through its client, metrics, shutdown.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use mesh::observation::{Outcome, Plane, ProbeKind, ProbeTarget, Question};
use mesh::{AgentEndpoint, Tls};
use probe_api::{Client, ClientError, PlannedTarget, ProbePlan};
use tests::place::{self, Agent, Place, at_a_place, get, wait_until};

fn planned(place: &Place, kind: ProbeKind, node: &str, count: u32) -> PlannedTarget {
    let (cluster, ip) = place.node(node);
    let port = if kind == ProbeKind::Http {
        mesh::RESPONDER_HTTP_PORT
    } else {
        mesh::RESPONDER_ECHO_PORT
    };
    PlannedTarget {
        target: ProbeTarget {
            cluster,
            node: Some(node.to_owned()),
            service: None,
            address: (ip, port).into(),
            question: None,
        },
        kind,
        count,
    }
}

fn plan(targets: Vec<PlannedTarget>) -> ProbePlan {
    ProbePlan {
        targets,
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(3),
    }
}

async fn results(client: &Client, plan: &ProbePlan) -> Vec<(usize, mesh::observation::Sample)> {
    let mut stream = client.probe(plan).await.expect("accepted");
    let mut samples = Vec::new();
    while let Some(sample) = stream.next().await.expect("a believable result") {
        samples.push(sample);
    }
    samples
}

#[test]
fn two_agents_probe_each_other_over_the_api() -> anyhow::Result<()> {
    at_a_place("pair", async |place| {
        let east = Agent::start(place, "e-1", &["--background-interval", "off"]);
        let _west = Agent::start(place, "w-1", &["--background-interval", "off"]);
        let client = Client::connect(&east.endpoint(), None).await.unwrap();
        let mode = std::fs::metadata(place.socket("e-1"))
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o660);

        let identity = client.identity().await.unwrap();
        assert_eq!(
            (identity.node.cluster.as_str(), identity.node.node.as_str()),
            ("east", "e-1")
        );
        assert_eq!(identity.plane, Plane::Pod);
        assert!(
            !identity.kernel_witness,
            "nothing is loaded, and it says so"
        );
        assert!(
            identity.kernel_detail.contains("--pin-dir"),
            "{}",
            identity.kernel_detail
        );

        let asked = plan(vec![
            planned(place, ProbeKind::Tcp, "w-1", 15),
            planned(place, ProbeKind::Udp, "w-1", 15),
            planned(place, ProbeKind::Http, "w-1", 15),
            // Nobody runs there.
            planned(place, ProbeKind::Tcp, "w-2", 5),
        ]);
        let samples = results(&client, &asked).await;
        assert_eq!(samples.len(), 50);
        for (target, sample) in &samples {
            let expected = if *target == 3 {
                Outcome::Refused
            } else {
                Outcome::Ok
            };
            assert_eq!(sample.outcome, expected, "{sample:?}");
            assert!(mesh::BURST_SOURCE_PORTS.contains(&sample.source_port));
        }
        let received = samples.iter().filter_map(|(_, s)| s.receiver_count).max();
        assert_eq!(received, Some(15));

        // The wrong node's address: somebody answers, but not who was asked.
        let mut wrong = planned(place, ProbeKind::Udp, "w-1", 1);
        wrong.target.address = (place.node("e-1").1, mesh::RESPONDER_ECHO_PORT).into();
        let samples = results(&client, &plan(vec![wrong])).await;
        assert_eq!(samples[0].1.outcome, Outcome::WrongResponder);

        let before = client.observe().await.unwrap();
        let after = client.observe().await.unwrap();
        let account = after.account_since(&before, &identity);
        assert_eq!(account.boot_id, identity.boot_id);
        assert_eq!((account.events_produced, account.events_lost), (0, 0));
        assert!(account.clock_step_seconds.abs() < 0.5, "{account:?}");
        let refusal = client.connections(&identity.node, 0).await.unwrap_err();
        assert!(refusal.to_string().contains("--pin-dir"), "{refusal}");
    })
}

#[test]
fn what_is_not_declared_or_too_much_is_refused() -> anyhow::Result<()> {
    at_a_place("refused", async |place| {
        let agent = Agent::start(place, "e-1", &["--background-interval", "off"]);
        let client = Client::connect(&agent.endpoint(), None).await.unwrap();
        let refusal = async |plan: ProbePlan| match client.probe(&plan).await {
            Err(ClientError::Refused { code, message, .. }) => (code, message),
            other => panic!("not refused: {other:?}"),
        };
        let mut elsewhere = planned(place, ProbeKind::Tcp, "w-1", 1);
        elsewhere.target.address = "127.0.0.1:22".parse().unwrap();
        let (code, message) = refusal(plan(vec![elsewhere])).await;
        assert_eq!(code, tonic::Code::PermissionDenied);
        assert_eq!(
            message,
            "target `127.0.0.1:22` is neither an agent nor a service of the agent's mesh.yaml"
        );
        // Pods come and go: at an agent's port any pod of the mesh may be one, at no other.
        let mut unlisted = planned(place, ProbeKind::Tcp, "w-1", 1);
        unlisted.target.address = (place.address(90), mesh::RESPONDER_ECHO_PORT).into();
        assert!(client.probe(&plan(vec![unlisted.clone()])).await.is_ok());
        unlisted.target.address.set_port(22);
        let (code, _) = refusal(plan(vec![unlisted])).await;
        assert_eq!(code, tonic::Code::PermissionDenied);

        let mut question = planned(place, ProbeKind::Dns, "e-1", 1);
        question.target.node = None;
        question.target.service = Some("ndvi".to_owned());
        question.target.address = "0.0.0.0:53".parse().unwrap();
        question.target.question = Some(Question {
            name: "intranet.example".to_owned(),
            addresses: vec!["10.0.0.1".parse().unwrap()],
        });
        let (code, message) = refusal(plan(vec![question])).await;
        assert_eq!(code, tonic::Code::PermissionDenied);
        assert_eq!(
            message,
            "name `intranet.example` is not in the agent's mesh.yaml"
        );

        let mut many = plan(vec![planned(place, ProbeKind::Tcp, "w-1", 100); 100]);
        many.interval = Duration::from_millis(1);
        let (code, message) = refusal(many).await;
        assert_eq!(code, tonic::Code::ResourceExhausted);
        assert_eq!(message, "100000 probes/s asked, 4000 of 4000 are free");

        assert_eq!(agent.metric("aggrik8s_api_refused_runs_total"), 4.0);
    })
}

#[test]
fn a_cancelled_run_stops_and_frees_its_budget() -> anyhow::Result<()> {
    at_a_place("cancel", async |place| {
        let agent = Agent::start(place, "e-1", &["--background-interval", "off"]);
        let _west = Agent::start(place, "w-1", &["--background-interval", "off"]);
        let client = Client::connect(&agent.endpoint(), None).await.unwrap();
        let long = plan(vec![planned(place, ProbeKind::Udp, "w-1", 100_000)]);
        let mut stream = client.probe(&long).await.unwrap();
        stream.next().await.unwrap().expect("one result");
        drop(stream);
        let answered = || agent.metric("aggrik8s_burst_probes_total");
        let mut last = -1.0;
        // Not a blocking wait: the client's own task has to send the cancellation.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(15);
        while answered() != last {
            assert!(tokio::time::Instant::now() < deadline, "still probing");
            last = answered();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let stopped = agent.metric("aggrik8s_prober_abandoned_total");
        assert!(
            stopped <= 1.0,
            "{stopped} probes in flight at 50 per second"
        );
    })
}

#[test]
fn background_probes_are_counted_and_metrics_are_openmetrics() -> anyhow::Result<()> {
    at_a_place("background", async |place| {
        let agent = Agent::start(place, "e-1", &["--background-interval", "4s"]);
        let _west = Agent::start(place, "w-1", &["--background-interval", "off"]);
        wait_until("a round of probes", || {
            agent.metric("aggrik8s_probe_attempts_total")
                + agent.metric("aggrik8s_probe_excluded_total")
                >= 3.0
        });
        let text = agent.metrics();
        assert!(text.ends_with("# EOF\n"));
        assert!(
        text.contains("aggrik8s_probe_attempts_total{probe=\"udp\",plane=\"pod\",source_cluster=\"east\",target_cluster=\"west\"} "),
        "{text}"
    );
        assert_eq!(agent.metric("aggrik8s_kernel_witness"), 0.0);
        assert!(agent.metric("process_resident_memory_bytes") > 0.0);

        let (status, body) = get(agent.metrics_address(), "/readyz");
        assert_eq!(status, 200, "{body}");
        assert!(body.contains("\"wanted\":false"), "{body}");
        assert!(body.contains("\"witness\":false"), "{body}");
        assert!(body.contains("\"privileged\":null"), "{body}");
        assert_eq!(get(agent.metrics_address(), "/healthz").0, 200);
        assert_eq!(get(agent.metrics_address(), "/").0, 404);
    })
}

#[test]
fn missing_pins_make_the_agent_run_but_not_ready() -> anyhow::Result<()> {
    at_a_place("nopins", async |place| {
        let agent = Agent::start(place, "e-1", &["--pin-dir", "/nonexistent/pins"]);
        wait_until("the reason", || {
            let (status, body) = get(agent.metrics_address(), "/readyz");
            status == 503 && body.contains("/nonexistent/pins")
        });
    })
}

#[test]
fn a_changed_mesh_is_followed() -> anyhow::Result<()> {
    at_a_place("reload", async |place| {
        let agent = Agent::start(place, "e-1", &["--background-interval", "off"]);
        let client = Client::connect(&agent.endpoint(), None).await.unwrap();
        let mut elsewhere = planned(place, ProbeKind::Tcp, "w-1", 1);
        let ip = place.address(99);
        elsewhere.target.address = (ip, mesh::RESPONDER_ECHO_PORT).into();
        let asked = plan(vec![elsewhere]);
        assert!(client.probe(&asked).await.is_err());

        std::fs::write(place.mesh_path(), "mesh: [").unwrap();
        wait_until("the broken file to be refused", || {
            agent.metrics().contains(
                "aggrik8s_mesh_reloads_total{source_cluster=\"east\",result=\"refused\"} 1\n",
            )
        });
        let (_, body) = get(agent.metrics_address(), "/readyz");
        assert!(body.contains("is not in force"), "{body}");

        place.write_mesh(&[("w-3", ip)]);
        wait_until("the new file", || {
            agent.metrics().contains(
                "aggrik8s_mesh_reloads_total{source_cluster=\"east\",result=\"applied\"} 1\n",
            )
        });
        assert!(client.probe(&asked).await.is_ok());
    })
}

#[test]
fn configuration_errors_end_the_start_with_their_reason() -> anyhow::Result<()> {
    at_a_place("config", async |place| {
        let cases: Vec<(&str, BTreeMap<&str, String>, &str)> = vec![
            (
                "a TCP address without TLS",
                BTreeMap::from([("--api", "192.0.2.1:7400".to_owned())]),
                "the API may not listen on `192.0.2.1:7400` without TLS\nhint:",
            ),
            (
                "no such node",
                BTreeMap::from([("--node", "e-9".to_owned())]),
                "declares no node `e-9` in cluster `east`",
            ),
            (
                "a wildcard to answer on",
                BTreeMap::from([("--respond", "0.0.0.0".to_owned())]),
                "cannot answer probes on `0.0.0.0`",
            ),
            (
                "no mesh",
                BTreeMap::from([("--mesh", "/nonexistent/mesh.yaml".to_owned())]),
                "cannot read `/nonexistent/mesh.yaml`",
            ),
            (
                "an interval that costs too much",
                BTreeMap::from([("--background-interval", "1s".to_owned())]),
                "must be 4s to 1 h",
            ),
            (
                "a relative socket",
                BTreeMap::from([("--api", "unix:agent.sock".to_owned())]),
                "the path must be absolute",
            ),
        ];
        for (name, edit, expected) in cases {
            let mut args = place.args("e-1");
            for pair in args.chunks_mut(2) {
                if let Some(value) = edit.get(pair[0].as_str()) {
                    pair[1] = value.clone();
                }
            }
            for (flag, value) in &edit {
                if !args.iter().any(|arg| arg == flag) {
                    args.extend([(*flag).to_owned(), value.clone()]);
                }
            }
            let (code, stderr) = place::fail(&args);
            assert_eq!(code, Some(2), "{name}: {stderr}");
            assert!(stderr.contains(expected), "{name}: {stderr}");
        }
        // Ports and socket of a running agent.
        let _running = Agent::start(place, "e-1", &["--background-interval", "off"]);
        let (code, stderr) = place::fail(&place.args("e-1"));
        assert_eq!(code, Some(2));
        assert!(stderr.contains("is in use by another agent"), "{stderr}");
    })
}

#[test]
fn privileges_are_refused_unless_allowed() -> anyhow::Result<()> {
    at_a_place("root", async |place| {
        let args = place.args("e-1");
        let (code, stderr) = place::fail_as_root(&args);
        assert_eq!(code, Some(2));
        assert!(
            stderr.contains("must not run with privileges: uid 0"),
            "{stderr}"
        );
    })
}

#[test]
fn a_signal_drains_and_the_socket_is_gone() -> anyhow::Result<()> {
    at_a_place("drain", async |place| {
        let mut agent = Agent::start(place, "e-1", &["--background-interval", "off"]);
        agent.terminate();
        assert_eq!(agent.wait(), Some(0));
        assert!(!place.socket("e-1").exists());
        // A socket that a killed agent left behind does not stop the next one.
        let mut agent = Agent::start(place, "e-1", &["--background-interval", "off"]);
        agent.kill();
        assert!(place.socket("e-1").exists());
        let _next = Agent::start(place, "e-1", &["--background-interval", "off"]);
    })
}

#[test]
fn work_in_flight_is_finished_before_the_end_and_a_second_signal_cuts_it_off() -> anyhow::Result<()>
{
    at_a_place("inflight", async |place| {
        for second in [false, true] {
            let mut agent = Agent::start(place, "e-1", &["--background-interval", "off"]);
            let west = Agent::start(place, "w-1", &["--background-interval", "off"]);
            let client = Client::connect(&agent.endpoint(), None).await.unwrap();
            // One second of probes, or far more than a drain may take.
            let count = if second { 5_000 } else { 50 };
            let asked = plan(vec![planned(place, ProbeKind::Udp, "w-1", count)]);
            let mut stream = client.probe(&asked).await.unwrap();
            stream.next().await.unwrap().expect("one result");
            agent.terminate();
            if second {
                // The first signal must have been taken before the second counts.
                stream.next().await.unwrap().expect("still going on");
                std::thread::sleep(Duration::from_millis(300));
                agent.terminate();
                let mut cut = false;
                while !cut {
                    match stream.next().await {
                        Ok(Some(_)) => {}
                        Ok(None) => panic!("all 5000 probes within a moment"),
                        Err(_) => cut = true,
                    }
                }
                assert_eq!(agent.wait(), Some(1));
            } else {
                let mut seen = 1;
                while stream.next().await.expect("goes on to its end").is_some() {
                    seen += 1;
                }
                assert_eq!(seen, count);
                drop(client);
                assert_eq!(agent.wait(), Some(0));
            }
            drop(west);
        }
    })
}

#[test]
fn over_tcp_only_a_known_certificate_is_served() -> anyhow::Result<()> {
    at_a_place("tls", async |place| {
        let pki = place::Pki::new(place.folder(), place.address(1));
        let address = format!("{}:7443", place.address(1));
        let agent = Agent::start(
            place,
            "e-1",
            &[
                "--background-interval",
                "off",
                "--api",
                &address,
                "--tls-ca",
                &pki.ca,
                "--tls-cert",
                &pki.cert,
                "--tls-key",
                &pki.key,
            ],
        );
        let endpoint = AgentEndpoint::Https {
            host: place.address(1).to_string(),
            port: 7_443,
        };
        let tls = Tls {
            ca: pki.ca.clone(),
            cert: pki.cert.clone(),
            key: pki.key.clone(),
        };
        let client = Client::connect(&endpoint, Some(&tls)).await.unwrap();
        assert_eq!(client.identity().await.unwrap().node.node, "e-1");

        let missing = Client::connect(&endpoint, None).await;
        assert!(matches!(missing, Err(ClientError::TlsMissing { .. })));
        let stranger = place::Pki::new(&place.folder().join("stranger"), place.address(1));
        let tls = Tls {
            cert: stranger.cert,
            key: stranger.key,
            ..tls
        };
        let refused = match Client::connect(&endpoint, Some(&tls)).await {
            Err(_) => true,
            // With TLS 1.3 the client learns of the refusal at its first call.
            Ok(client) => client.identity().await.is_err(),
        };
        assert!(refused, "a stranger's certificate was served");
        let plain = AgentEndpoint::HttpLoopback(address.parse().unwrap());
        let refused = match Client::connect(&plain, None).await {
            Err(_) => true,
            Ok(client) => client.identity().await.is_err(),
        };
        assert!(refused, "plain HTTP/2 was served");
        drop(agent);
    })
}
