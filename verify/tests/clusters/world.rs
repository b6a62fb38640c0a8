//! A healthy mesh of three clusters under Cilium 1.18 with KVStoreMesh, for tests to break in one place.

use std::collections::BTreeMap;

use verify::control::view::{
    AgentStatus, Agents, Certificate, Endpoint, GlobalService, KeyPair, Node, Remote, RemoteStatus,
    Server, ServerService, Services, Statuses, Trust,
};
use verify::control::{CERTIFICATE_SECRETS, ClusterView, Facts};
use verify::{Cause, Check, ClustersPolicy, JudgeError, Status, Verdict, judge_clusters};

/// 2026-11-22.
pub(crate) const NOW: i64 = 1_795_305_600;
pub(crate) const DAY: i64 = 86_400;

/// Name, id, network of the nodes, first two octets of pods, services, NodePort.
const CLUSTERS: [(&str, u32, &str, &str, &str, u16); 3] = [
    ("east", 1, "192.168.15", "10.244", "10.96.0.0/12", 32379),
    ("west", 2, "192.168.20", "10.245", "10.112.0.0/12", 32380),
    ("pi", 3, "192.168.10", "10.246", "10.128.0.0/12", 32381),
];

/// Contexts `east`, `west`, `pi`, which Cilium knows as `talos-east` and so on.
pub(crate) fn healthy() -> Vec<ClusterView> {
    let view =
        |&(name, id, net, pods, services, port): &(&str, u32, &str, &str, &str, u16)| ClusterView {
            context: name.to_owned(),
            state: Ok(Box::new(facts_of(name, id, (net, pods, services), port))),
        };
    CLUSTERS.iter().map(view).collect()
}

pub(crate) fn cilium_name(context: &str) -> String {
    format!("talos-{context}")
}

fn facts_of(name: &str, id: u32, (net, pods, services): (&str, &str, &str), port: u16) -> Facts {
    let config = [
        ("cluster-name", cilium_name(name)),
        ("cluster-id", id.to_string()),
        ("routing-mode", "tunnel".to_owned()),
        ("tunnel-protocol", "vxlan".to_owned()),
        ("kube-proxy-replacement", "true".to_owned()),
        ("max-connected-clusters", "255".to_owned()),
        ("enable-wireguard", "true".to_owned()),
        ("mtu", "1450".to_owned()),
        ("ipam", "kubernetes".to_owned()),
        ("policy-default-local-cluster", "false".to_owned()),
    ];
    let others: Vec<_> = CLUSTERS
        .iter()
        .filter(|(other, ..)| *other != name)
        .collect();
    let local = |other: &str| Remote {
        name: cilium_name(other),
        endpoints: vec![Endpoint {
            host: "clustermesh-apiserver.kube-system.svc".to_owned(),
            port: 2379,
            addresses: Vec::new(),
        }],
        trust: None,
    };
    let far = |other: &str, net: &str, port: u16| Remote {
        name: cilium_name(other),
        endpoints: vec![Endpoint {
            host: format!("{}.mesh.cilium.io", cilium_name(other)),
            port,
            addresses: (11..=13).map(|n| ip(&format!("{net}.{n}"))).collect(),
        }],
        trust: None,
    };
    let node = |n: u32| Node {
        name: format!("{name}-{n}"),
        addresses: vec![ip(&format!("{net}.{}", 10 + n))],
        pod_cidrs: vec![format!("{pods}.{n}.0/24").parse().expect("a range")],
    };
    let ready = |other: &&(&str, u32, &str, &str, &str, u16)| RemoteStatus {
        name: cilium_name(other.0),
        connected: true,
        ready: true,
        status: "etcd: 1/1 connected".to_owned(),
        config_required: true,
        config_retrieved: true,
        cluster_id: Some(other.1),
        unsynced: Vec::new(),
        nodes: Some(3),
        failures: 0,
    };
    let service = GlobalService {
        ports: BTreeMap::from([("http TCP".to_owned(), 8080)]),
        shared: true,
        affinity: None,
        legacy: false,
        ready: Ok(2),
    };
    Facts {
        kubernetes: "v1.33.2".to_owned(),
        config: Ok(Some(
            config.map(|(key, value)| (key.to_owned(), value)).into(),
        )),
        agents: Ok(Some(Agents {
            version: Some("v1.18.5".to_owned()),
            wanted: 3,
            ready: 3,
            updated: 3,
        })),
        nodes: Ok((1..=3).map(node).collect()),
        pod_cidrs: Ok(vec![format!("{pods}.1.0/24").parse().expect("a range")]),
        service_cidrs: Ok(vec![services.parse().expect("a range")]),
        kube_proxy: Ok(Vec::new()),
        server: Ok(Some(Server {
            wanted: 1,
            ready: 1,
            kvstoremesh: true,
            service: Some(ServerService {
                kind: "NodePort".to_owned(),
                port: 2379,
                node_port: Some(port),
                balancer: Vec::new(),
            }),
        })),
        remotes: Ok(Some(
            others.iter().map(|(other, ..)| local(other)).collect(),
        )),
        kvstoremesh: Ok(Some(
            others
                .iter()
                .map(|(other, _, net, _, _, port)| far(other, net, *port))
                .collect(),
        )),
        certificates: CERTIFICATE_SECRETS
            .iter()
            .map(|secret| {
                (
                    (*secret).to_owned(),
                    Ok(Some(pair(secret, name, "shared-ca"))),
                )
            })
            .collect(),
        trust: Ok(Some(Trust {
            place: "ca.crt of Secret clustermesh-apiserver-remote-cert".to_owned(),
            authorities: vec![authority("shared-ca")],
        })),
        status: Ok(Statuses {
            answers: (1..=3)
                .map(|n| AgentStatus {
                    node: format!("{name}-{n}"),
                    remotes: others.iter().map(ready).collect(),
                })
                .collect(),
            silent: Vec::new(),
        }),
        services: Ok(Services {
            global: BTreeMap::from([("ndvi/tiles".to_owned(), service)]),
            others: ["default/kubernetes".to_owned()].into(),
        }),
        open_policies: Ok(Vec::new()),
    }
}

/// A cluster that knows nothing of Cilium.
pub(crate) fn without_cilium(pods: &str) -> Facts {
    let mut facts = facts_of("pi", 3, ("192.168.10", pods, "10.128.0.0/12"), 32381);
    facts.config = Ok(None);
    facts.agents = Ok(None);
    facts.server = Ok(None);
    facts.remotes = Ok(None);
    facts.kvstoremesh = Ok(None);
    facts.certificates = CERTIFICATE_SECRETS
        .iter()
        .map(|secret| ((*secret).to_owned(), Ok(None)))
        .collect();
    facts.trust = Ok(None);
    facts.status = Ok(Statuses::default());
    facts
}

pub(crate) fn authority(name: &str) -> Certificate {
    Certificate {
        subject: format!("CN={name}"),
        issuer: format!("CN={name}"),
        key_id: Some(format!("{name}-key")),
        authority: Some(format!("{name}-key")),
        fingerprint: format!("{name}-print"),
        not_before: NOW - 100 * DAY,
        not_after: NOW + 900 * DAY,
    }
}

/// What a Secret of `cluster` holds, signed by `ca`.
pub(crate) fn pair(secret: &str, cluster: &str, ca: &str) -> KeyPair {
    let leaf = Certificate {
        subject: format!("CN={secret}"),
        issuer: format!("CN={ca}"),
        key_id: Some(format!("{secret}-{cluster}-key")),
        authority: Some(format!("{ca}-key")),
        fingerprint: format!("{secret}-{cluster}-print"),
        not_before: NOW - 10 * DAY,
        not_after: NOW + 300 * DAY,
    };
    KeyPair {
        ca: vec![authority(ca)],
        chain: vec![leaf],
    }
}

pub(crate) fn ip(text: &str) -> std::net::IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn facts<'a>(views: &'a mut [ClusterView], context: &str) -> &'a mut Facts {
    let view = views
        .iter_mut()
        .find(|view| view.context == context)
        .expect("a context");
    view.state.as_mut().expect("it answers")
}

pub(crate) fn set(views: &mut [ClusterView], context: &str, key: &str, value: Option<&str>) {
    let config = facts(views, context)
        .config
        .as_mut()
        .expect("read")
        .as_mut()
        .expect("Cilium");
    match value {
        Some(value) => config.insert(key.to_owned(), value.to_owned()),
        None => config.remove(key),
    };
}

/// The entry of `to` by which `from` leaves its cluster.
pub(crate) fn way<'a>(views: &'a mut [ClusterView], from: &str, to: &str) -> &'a mut Remote {
    let remotes = facts(views, from)
        .kvstoremesh
        .as_mut()
        .expect("read")
        .as_mut()
        .expect("a Secret");
    remotes
        .iter_mut()
        .find(|remote| remote.name == cilium_name(to))
        .expect("an entry")
}

pub(crate) fn service<'a>(views: &'a mut [ClusterView], context: &str) -> &'a mut ServerService {
    let server = facts(views, context)
        .server
        .as_mut()
        .expect("read")
        .as_mut()
        .expect("a server");
    server.service.as_mut().expect("a Service")
}

pub(crate) fn judged(views: Vec<ClusterView>) -> Verdict {
    judge_clusters(&views, &ClustersPolicy::default(), NOW).expect("clusters")
}

pub(crate) fn judged_only(views: Vec<ClusterView>, only: &[&str]) -> Result<Verdict, JudgeError> {
    let only = only.iter().map(|&glob| glob.to_owned()).collect();
    judge_clusters(&views, &ClustersPolicy { only }, NOW)
}

/// The one check with this label.
pub(crate) fn check<'v>(verdict: &'v Verdict, label: &str) -> &'v Check {
    let mut found = verdict.checks.iter().filter(|check| check.label() == label);
    match (found.next(), found.next()) {
        (Some(check), None) => check,
        _ => panic!(
            "no single `{label}` among {:#?}",
            verdict.checks.iter().map(Check::label).collect::<Vec<_>>()
        ),
    }
}

pub(crate) fn statuses(verdict: &Verdict, label: &str) -> Vec<Status> {
    let of = verdict.checks.iter().filter(|check| check.label() == label);
    of.map(|check| check.status).collect()
}

pub(crate) fn cause<'v>(verdict: &'v Verdict, id: &str) -> &'v Cause {
    let mut found = verdict.causes.iter().filter(|cause| cause.id == id);
    match (found.next(), found.next()) {
        (Some(cause), None) => cause,
        _ => panic!("no single `{id}` among {:#?}", verdict.causes),
    }
}

/// The labels of all checks that failed.
pub(crate) fn failed(verdict: &Verdict) -> Vec<String> {
    let failed = verdict
        .checks
        .iter()
        .filter(|check| check.status == Status::Fail);
    failed.map(Check::label).collect()
}
