//! Faults of single clusters and links: each with the line to change.

use std::collections::BTreeMap;

use verify::Status;
use verify::control::ClusterView;
use verify::control::view::{Endpoint, GlobalService};

use super::world::*;

/// Breaks a healthy mesh and expects exactly these checks to fail, by this cause, with these words in summary and hint.
pub(crate) fn fault(
    change: impl FnOnce(&mut Vec<ClusterView>),
    failing: &[&str],
    id: &str,
    words: &[&str],
) {
    let mut views = healthy();
    change(&mut views);
    let verdict = judged(views);
    assert_eq!(failed(&verdict), failing, "{:#?}", verdict.causes);
    let found: Vec<_> = verdict
        .causes
        .iter()
        .filter(|cause| cause.id == id)
        .collect();
    assert!(!found.is_empty(), "{:#?}", verdict.causes);
    let text = found
        .iter()
        .map(|c| format!("{}\n{}\n{}", c.summary, c.evidence.join("\n"), c.hint))
        .collect::<Vec<_>>()
        .join("\n");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in\n{text}");
    }
    for cause in found {
        assert!(!cause.hint.is_empty() && !cause.explains.is_empty());
    }
}

/// What is seen and must not be blamed.
pub(crate) fn fine(change: impl FnOnce(&mut Vec<ClusterView>)) {
    let mut views = healthy();
    change(&mut views);
    let verdict = judged(views);
    assert_eq!(failed(&verdict), [""; 0], "{:#?}", verdict.causes);
}

#[test]
fn the_same_node_port_below_1_19_is_a_mesh_that_talks_to_itself() {
    let same = |views: &mut Vec<ClusterView>| {
        service(views, "west").node_port = Some(32379);
        way(views, "east", "west").endpoints[0].port = 32379;
        way(views, "pi", "west").endpoints[0].port = 32379;
    };
    let both = [
        "clustermesh.own_server east→west",
        "clustermesh.own_server west→east",
    ];
    // 32380 is free again, as west left it.
    fault(
        same,
        &both,
        "clustermesh.self_talk",
        &[
            "`east` talks to itself when it means `west`: both have NodePort 32379",
            "`west` talks to itself when it means `east`",
            "`clustermesh.apiserver.service.nodePort: 32380` in the Helm values of Cilium on `west`",
            "--kube-context west -n kube-system upgrade cilium cilium/cilium --version 1.18.5 --reuse-values --set clustermesh.apiserver.service.nodePort=32380",
            "service.nodeport.port",
        ],
    );
    // Only the older side translates wrongly.
    fault(
        |views| {
            same(views);
            facts(views, "west")
                .agents
                .as_mut()
                .unwrap()
                .as_mut()
                .unwrap()
                .version = Some("v1.19.0".to_owned());
            facts(views, "west").kubernetes = "v1.33.0".to_owned();
        },
        &both[..1],
        "clustermesh.self_talk",
        &["`east` talks to itself"],
    );
    // kube-proxy leaves foreign addresses alone.
    fine(|views| {
        same(views);
        for context in ["east", "west", "pi"] {
            set(views, context, "kube-proxy-replacement", Some("false"));
        }
    });
    // A load balancer is asked on its own port; but its cluster has that NodePort too, and asks the other on it.
    fault(
        |views| {
            service(views, "west").node_port = Some(32379);
            service(views, "west").kind = "LoadBalancer".to_owned();
            service(views, "west").balancer = vec!["192.0.2.7".to_owned()];
            for from in ["east", "pi"] {
                let endpoint = &mut way(views, from, "west").endpoints[0];
                endpoint.port = 2379;
                endpoint.addresses = vec![ip("192.0.2.7")];
            }
        },
        &both[1..],
        "clustermesh.self_talk",
        &["`west` talks to itself"],
    );
}

#[test]
fn an_unknown_version_with_the_same_node_port_is_undecided() {
    let mut views = healthy();
    service(&mut views, "west").node_port = Some(32379);
    way(&mut views, "east", "west").endpoints[0].port = 32379;
    way(&mut views, "pi", "west").endpoints[0].port = 32379;
    facts(&mut views, "east")
        .agents
        .as_mut()
        .unwrap()
        .as_mut()
        .unwrap()
        .version = None;
    let verdict = judged(views);
    assert_eq!(
        statuses(&verdict, "clustermesh.own_server east→west"),
        [Status::Undecided]
    );
    assert_eq!(
        statuses(&verdict, "clustermesh.own_server west→east"),
        [Status::Fail]
    );
    assert_eq!(
        statuses(&verdict, "version.support east"),
        [Status::Undecided]
    );
}

#[test]
fn an_own_address_is_a_mesh_that_talks_to_itself() {
    fault(
        |views| way(views, "east", "west").endpoints[0].addresses = vec![ip("192.168.15.12")],
        &["clustermesh.own_server east→west"],
        "clustermesh.self_talk",
        &[
            "192.168.15.12 is node `east-2` of `east`",
            "`ips: [192.168.20.11, 192.168.20.12, 192.168.20.13]` for `talos-west`",
        ],
    );
    fault(
        |views| {
            for agent in &mut facts(views, "east").status.as_mut().unwrap().answers {
                agent.remotes[0].cluster_id = Some(1);
            }
        },
        &["clustermesh.own_server east→west"],
        "clustermesh.self_talk",
        &["states cluster-id 1, which is its own"],
    );
}

#[test]
fn a_remote_in_one_direction_or_in_none() {
    let forget = |views: &mut Vec<ClusterView>, from: &str, to: &str| {
        let facts = facts(views, from);
        for remotes in [&mut facts.remotes, &mut facts.kvstoremesh] {
            remotes
                .as_mut()
                .unwrap()
                .as_mut()
                .unwrap()
                .retain(|remote| remote.name != cilium_name(to));
        }
    };
    fault(
        |views| forget(views, "west", "east"),
        &["clustermesh.remotes west→east"],
        "clustermesh.one_sided",
        &[
            "`east` has `west` configured, but not the other way round",
            "{name: talos-east, ips: [192.168.15.11, 192.168.15.12, 192.168.15.13], port: 32379}",
            "in the Helm values of Cilium on `west`",
            "Secret cilium-clustermesh lists `talos-pi`",
        ],
    );
    fault(
        |views| {
            forget(views, "west", "east");
            forget(views, "east", "west");
        },
        &[
            "clustermesh.remotes east→west",
            "clustermesh.remotes west→east",
        ],
        "clustermesh.not_connected",
        &["`east` does not have `west` configured"],
    );
}

#[test]
fn addresses_that_lead_elsewhere() {
    fault(
        |views| way(views, "east", "west").endpoints[0].port = 31111,
        &["clustermesh.endpoints east→west"],
        "clustermesh.wrong_port",
        &["port 31111 instead of 32380, which `west` serves"],
    );
    fault(
        |views| {
            way(views, "east", "west").endpoints[0].addresses =
                vec![ip("192.168.10.11"), ip("192.168.20.11")]
        },
        &["clustermesh.endpoints east→west"],
        "clustermesh.wrong_address",
        &["192.168.10.11 is a node of `pi`"],
    );
    fault(
        |views| way(views, "east", "west").endpoints.clear(),
        &["clustermesh.endpoints east→west"],
        "clustermesh.wrong_address",
        &["`east` has no address for `west`"],
    );
    fault(
        |views| service(views, "west").node_port = None,
        &[
            "clustermesh.endpoints east→west",
            "clustermesh.endpoints pi→west",
        ],
        "clustermesh.wrong_port",
        &["its Service has no NodePort"],
    );
}

#[test]
fn a_stranger_is_believed_when_the_agents_are_connected() {
    let stranger = |views: &mut Vec<ClusterView>| {
        way(views, "east", "west").endpoints = vec![Endpoint {
            host: "mesh.example.net".to_owned(),
            port: 2379,
            addresses: Vec::new(),
        }];
    };
    fine(stranger);
    let mut views = healthy();
    stranger(&mut views);
    facts(&mut views, "east")
        .status
        .as_mut()
        .unwrap()
        .answers
        .clear();
    let verdict = judged(views);
    let found = check(&verdict, "clustermesh.endpoints east→west");
    assert_eq!(found.status, Status::Undecided);
    assert!(
        found
            .cause
            .as_ref()
            .unwrap()
            .contains("https://mesh.example.net:2379")
    );
}

#[test]
fn one_address_is_a_single_point_of_failure() {
    let one = |views: &mut Vec<ClusterView>| {
        way(views, "east", "west").endpoints[0]
            .addresses
            .truncate(1);
    };
    fault(
        one,
        &["clustermesh.redundancy east→west"],
        "clustermesh.single_address",
        &[
            "by one node alone, 192.168.20.11",
            "`ips: [192.168.20.11, 192.168.20.12, 192.168.20.13]`",
        ],
    );
    // It warns, and decides nothing.
    let mut views = healthy();
    one(&mut views);
    assert_eq!(judged(views).result, verify::Outcome::Undecided);
    fine(|views| {
        one(views);
        facts(views, "west").nodes.as_mut().unwrap().truncate(1);
    });
}

#[test]
fn kvstoremesh_and_agents_have_to_agree() {
    fault(
        |views| {
            facts(views, "west")
                .server
                .as_mut()
                .unwrap()
                .as_mut()
                .unwrap()
                .kvstoremesh = false
        },
        &["clustermesh.kvstoremesh west"],
        "clustermesh.kvstoremesh_mixed",
        &[
            "`talos-east`, `talos-pi`, where no KVStoreMesh mirrors it",
            "clustermesh.apiserver.kvstoremesh.enabled",
        ],
    );
    fault(
        |views| {
            facts(views, "west")
                .kvstoremesh
                .as_mut()
                .unwrap()
                .as_mut()
                .unwrap()
                .retain(|r| r.name != "talos-pi")
        },
        &["clustermesh.kvstoremesh west"],
        "clustermesh.kvstoremesh_mixed",
        &["KVStoreMesh of `west` has no entry for `talos-pi`"],
    );
}

#[test]
fn what_agents_say_of_a_remote() {
    let change = |with: fn(&mut verify::control::view::RemoteStatus)| {
        move |views: &mut Vec<ClusterView>| {
            let answers = &mut facts(views, "east").status.as_mut().unwrap().answers;
            with(&mut answers[1].remotes[0]);
        }
    };
    let failing = ["clustermesh.status east→west"];
    fault(
        change(|remote| {
            remote.ready = false;
            remote.config_retrieved = false;
            remote.cluster_id = None;
        }),
        &failing,
        "clustermesh.not_ready",
        &[
            "1 of 3 agents of `east` are not ready for `west`",
            "`east-2`",
            "see clustermesh.own_server",
            "cilium-dbg troubleshoot clustermesh talos-west",
        ],
    );
    fault(
        change(|remote| {
            remote.ready = false;
            remote.unsynced = vec!["nodes".to_owned()];
        }),
        &failing,
        "clustermesh.not_ready",
        &["synchronisation in progress for nodes"],
    );
    fault(
        change(|remote| {
            remote.ready = false;
            remote.status = "x509: certificate signed by unknown authority".to_owned();
        }),
        &failing,
        "clustermesh.not_ready",
        &["see certificate.ca"],
    );
    fault(
        change(|remote| remote.name = "other".to_owned()),
        &failing,
        "clustermesh.not_ready",
        &["does not know `talos-west`"],
    );
}

#[test]
fn silent_agents_are_no_pass() {
    let mut views = healthy();
    let statuses_of = facts(&mut views, "east").status.as_mut().unwrap();
    statuses_of.answers.pop();
    statuses_of
        .silent
        .push(("east-3".to_owned(), "no answer in time".to_owned()));
    let verdict = judged(views);
    let found = check(&verdict, "clustermesh.status east→west");
    assert_eq!(found.status, Status::Undecided);
    assert!(
        found
            .cause
            .as_ref()
            .unwrap()
            .contains("1 of 3 on `east`, the first `east-3`: no answer in time")
    );
    let mut views = healthy();
    facts(&mut views, "east")
        .status
        .as_mut()
        .unwrap()
        .answers
        .clear();
    assert_eq!(
        statuses(&judged(views), "clustermesh.status east→west"),
        [Status::Undecided]
    );
}

#[test]
fn a_server_that_is_not_there() {
    fault(
        |views| {
            facts(views, "west")
                .server
                .as_mut()
                .unwrap()
                .as_mut()
                .unwrap()
                .ready = 0
        },
        &["clustermesh.server west"],
        "clustermesh.server_down",
        &["the control plane that `west` offers other clusters is not ready"],
    );
    fault(
        |views| {
            facts(views, "west").server = Ok(None);
            for remotes in [&mut facts(views, "west").remotes] {
                // Without its own server no agent may be sent to it.
                for remote in remotes.as_mut().unwrap().as_mut().unwrap() {
                    remote.endpoints[0].host = "elsewhere".to_owned();
                }
            }
        },
        &["clustermesh.server west"],
        "clustermesh.server_down",
        &[
            "`west` offers other clusters no control plane",
            "clustermesh.useAPIServer: true",
        ],
    );
    fault(
        |views| {
            facts(views, "west")
                .server
                .as_mut()
                .unwrap()
                .as_mut()
                .unwrap()
                .service = None
        },
        &["clustermesh.server west"],
        "clustermesh.server_down",
        &["has no Service"],
    );
    fault(
        |views| facts(views, "west").agents = Ok(None),
        &["cilium.agents west"],
        "cilium.agent_down",
        &["no DaemonSet `cilium`"],
    );
}

#[test]
fn services_that_do_not_fit_together() {
    let name = "ndvi/tiles";
    let of = |views: &mut Vec<ClusterView>, context: &str, with: fn(&mut GlobalService)| {
        with(
            facts(views, context)
                .services
                .as_mut()
                .unwrap()
                .global
                .get_mut(name)
                .unwrap(),
        );
    };
    fault(
        |views| {
            of(views, "west", |s| {
                s.ports = BTreeMap::from([("web TCP".to_owned(), 8080)])
            })
        },
        &["service.global"],
        "service.ports_differ",
        &[
            "`ndvi/tiles` has other named ports in `west` than in `east`",
            "web TCP 8080",
        ],
    );
    // The number is each cluster's own affair.
    fine(|views| {
        of(views, "west", |s| {
            s.ports = BTreeMap::from([("http TCP".to_owned(), 80)])
        })
    });
    fault(
        |views| {
            of(views, "east", |s| s.ready = Ok(0));
            of(views, "west", |s| s.ready = Ok(0));
            of(views, "pi", |s| s.shared = false);
        },
        &["service.global"],
        "service.no_backend_anywhere",
        &[
            "no ready backend in any cluster that shares it",
            "`pi`: 2 ready, kept to itself",
        ],
    );
    fault(
        |views| of(views, "pi", |s| s.affinity = Some("local".to_owned())),
        &["service.global_intent"],
        "service.affinity_differs",
        &["service.cilium.io/affinity"],
    );
    fault(
        |views| of(views, "pi", |s| s.legacy = true),
        &["service.global_intent"],
        "service.legacy_annotation",
        &["service.cilium.io/global"],
    );
    fault(
        |views| {
            drop(
                facts(views, "pi")
                    .services
                    .as_mut()
                    .unwrap()
                    .global
                    .remove(name),
            )
        },
        &["service.global_intent"],
        "service.global_in_part",
        &["does not exist on `pi`"],
    );
    fault(
        |views| {
            let services = facts(views, "pi").services.as_mut().unwrap();
            services.global.remove(name);
            services.others.insert(name.to_owned());
        },
        &["service.global_intent"],
        "service.global_in_part",
        &["is not global on `pi`: only its own backends answer there"],
    );
}
