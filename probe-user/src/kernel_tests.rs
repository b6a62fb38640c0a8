//! Declarations of a mesh, and the agent without maps.

use super::*;

const MESH: &str = "
mesh: test
clusters:
  - name: east
    id: 1
    node_networks: [192.168.15.0/24]
    pod_cidrs: [10.244.0.0/16, 'fd00:1::/48']
    service_cidrs: [10.96.0.0/12]
    nodes:
      - {name: e-1, addresses: [192.168.15.11], agent_pod: [10.244.0.5]}
";

#[test]
fn an_agent_without_maps_says_why() {
    let kernel = Kernel::new(None, None);
    let (witness, detail) = kernel.witness();
    assert!(!witness);
    assert!(detail.contains("no --pin-dir"), "{detail}");
    assert!(kernel.read().is_none());
}

#[tokio::test]
async fn missing_pins_are_named_and_looked_for_again() {
    let mesh = Mesh::parse("test", MESH).unwrap_or_else(|e| panic!("{}", e.render(MESH)));
    let (_keep, receiver) = watch::channel(Arc::new(mesh));
    let kernel = Kernel::new(Some(MapSource::Pins("/nonexistent/pins".into())), None);
    let task = tokio::spawn(kernel.clone().run(receiver));
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while kernel.witness().1.contains("not open yet") {
        assert!(
            std::time::Instant::now() < deadline,
            "{:?}",
            kernel.witness()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (witness, detail) = kernel.witness();
    assert!(!witness);
    assert!(detail.contains("/nonexistent/pins"), "{detail}");
    assert!(!task.is_finished(), "it keeps looking");
    task.abort();
}

#[test]
fn a_program_that_is_not_attached_is_a_rung_but_sock_ops_is_the_witness() {
    let state = |program, refused: Option<&str>| ProgramState {
        program,
        refused: refused.map(str::to_owned),
    };
    let (witness, detail) = rungs(&[state("sock_ops", None), state("egress", Some("EPERM"))]);
    assert!(witness);
    assert_eq!(detail, "sock_ops: attached, egress: not attached (EPERM)");
    assert!(!rungs(&[state("sock_ops", Some("EPERM")), state("egress", None)]).0);
    assert!(!rungs(&[]).0);
}
