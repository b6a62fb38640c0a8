//! What cannot be read is undecided, names what is lacking, and never passes.

use verify::control::view::{Facts, Unread};
use verify::control::{CERTIFICATE_SECRETS, ClusterView};
use verify::{Outcome, Status};

use super::world::*;

fn forbidden(verb: &str, resource: &str) -> Unread {
    Unread::Forbidden {
        verb: verb.to_owned(),
        resource: resource.to_owned(),
    }
}

type Hide = fn(&mut Facts, Unread);

/// One read that is refused, and what must no longer pass.
#[test]
fn each_read_leaves_its_checks_undecided() {
    let cases: [(&str, Hide, &[&str]); 13] = [
        (
            "cilium-config",
            |f, u| f.config = Err(u),
            &[
                "config.ids",
                "config.cidrs",
                "config.mesh_size",
                "config.routing",
                "config.encryption",
                "config.mtu",
                "config.kube_proxy west",
                "config.policy_default",
                "clustermesh.remotes east→west",
                "clustermesh.status east→west",
            ],
        ),
        (
            "agents",
            |f, u| f.agents = Err(u),
            &[
                "cilium.agents west",
                "version.support west",
                "version.skew",
                "config.policy_default",
            ],
        ),
        (
            "nodes",
            |f, u| f.nodes = Err(u),
            &[
                "config.cidrs",
                "clustermesh.endpoints east→west",
                "clustermesh.endpoints west→east",
                "clustermesh.redundancy east→west",
            ],
        ),
        ("pod_cidrs", |f, u| f.pod_cidrs = Err(u), &["config.cidrs"]),
        (
            "service_cidrs",
            |f, u| f.service_cidrs = Err(u),
            &["config.cidrs"],
        ),
        (
            "kube_proxy",
            |f, u| f.kube_proxy = Err(u),
            &["config.kube_proxy west"],
        ),
        (
            "server",
            |f, u| f.server = Err(u),
            &[
                "clustermesh.server west",
                "clustermesh.own_server east→west",
                "clustermesh.own_server west→east",
                "clustermesh.endpoints east→west",
                "clustermesh.kvstoremesh west",
            ],
        ),
        (
            "remotes",
            |f, u| f.remotes = Err(u),
            &[
                "clustermesh.remotes west→east",
                "clustermesh.kvstoremesh west",
            ],
        ),
        (
            "kvstoremesh",
            |f, u| f.kvstoremesh = Err(u),
            &[
                "clustermesh.endpoints west→east",
                "clustermesh.redundancy west→pi",
                "clustermesh.kvstoremesh west",
            ],
        ),
        (
            "certificates",
            |f, u| {
                for secret in CERTIFICATE_SECRETS {
                    f.certificates.insert(secret.to_owned(), Err(u.clone()));
                }
            },
            &[
                "certificate.ca east→west",
                "certificate.ca west→east",
                "certificate.expiry west",
                "certificate.renewal west",
            ],
        ),
        (
            "trust",
            |f, u| f.trust = Err(u),
            &["certificate.ca west→east"],
        ),
        (
            "status",
            |f, u| f.status = Err(u),
            &["clustermesh.status west→east", "clustermesh.status west→pi"],
        ),
        (
            "services",
            |f, u| f.services = Err(u),
            &["service.global", "service.global_intent"],
        ),
    ];
    for (name, hide, undecided) in cases {
        let mut views = healthy();
        hide(facts(&mut views, "west"), forbidden("get", name));
        let verdict = judged(views);
        assert_eq!(failed(&verdict), [""; 0], "{name}: {:#?}", verdict.causes);
        for label in undecided {
            let found = check(&verdict, label);
            assert_eq!(found.status, Status::Undecided, "{name}: {label}");
            let why = found.cause.as_deref().unwrap_or_default();
            assert!(
                why.contains(&format!("not allowed to get {name}")) && why.contains("`west`"),
                "{name}: {label}: {why}"
            );
            assert!(
                found
                    .hint
                    .as_ref()
                    .unwrap()
                    .contains("deploy/verify-reader.yaml")
            );
        }
    }
    let mut views = healthy();
    facts(&mut views, "west").open_policies = Err(forbidden("list", "networkpolicies"));
    assert_eq!(
        statuses(&judged(views), "config.policy_default"),
        [Status::Undecided]
    );
}

#[test]
fn backends_that_cannot_be_counted_are_no_fault() {
    let mut views = healthy();
    for (context, ready) in [
        ("east", Ok(0)),
        ("west", Err(forbidden("list", "endpointslices"))),
        ("pi", Ok(0)),
    ] {
        facts(&mut views, context)
            .services
            .as_mut()
            .unwrap()
            .global
            .get_mut("ndvi/tiles")
            .unwrap()
            .ready = ready;
    }
    assert_eq!(
        statuses(&judged(views), "service.global"),
        [Status::Undecided]
    );
}

/// Nothing at all can be read: everything is undecided, nothing passes but what needs no reading.
#[test]
fn a_user_who_may_read_nothing() {
    let mut views = healthy();
    for view in &mut views {
        let facts = view.state.as_mut().unwrap();
        let no = || forbidden("get", "anything");
        facts.config = Err(no());
        facts.agents = Err(no());
        facts.nodes = Err(no());
        facts.pod_cidrs = Err(no());
        facts.service_cidrs = Err(no());
        facts.kube_proxy = Err(no());
        facts.server = Err(no());
        facts.remotes = Err(no());
        facts.kvstoremesh = Err(no());
        facts
            .certificates
            .values_mut()
            .for_each(|held| *held = Err(no()));
        facts.trust = Err(no());
        facts.status = Err(no());
        facts.services = Err(no());
        facts.open_policies = Err(no());
    }
    let verdict = judged(views);
    assert_eq!(verdict.result, Outcome::Undecided);
    for check in &verdict.checks {
        let expected = if check.id == "evidence.api_server" {
            Status::Pass
        } else {
            Status::Undecided
        };
        assert_eq!(check.status, expected, "{}", check.label());
    }
}

#[test]
fn a_cluster_that_does_not_answer_leaves_the_others_judged() {
    let mut views = healthy();
    views[1].state = Err("the API server did not answer within 3s".to_owned());
    let dead = judged(views.clone());
    assert_eq!(dead.result, Outcome::Undecided);
    let silent = check(&dead, "evidence.api_server west");
    assert_eq!(silent.status, Status::Undecided);
    assert!(
        silent
            .cause
            .as_ref()
            .unwrap()
            .contains("`west`, the API server did not answer within 3s")
    );
    // Between the others everything is judged.
    assert_eq!(
        statuses(&dead, "clustermesh.remotes east→pi"),
        [Status::Pass]
    );
    assert_eq!(statuses(&dead, "certificate.ca pi→east"), [Status::Pass]);
    assert_eq!(statuses(&dead, "clustermesh.remotes east→west"), []);
    for mesh_wide in [
        "config.ids",
        "config.cidrs",
        "config.mesh_size",
        "config.routing",
        "config.encryption",
        "version.skew",
        "service.global",
    ] {
        assert_eq!(
            statuses(&dead, mesh_wide),
            [Status::Undecided],
            "{mesh_wide}"
        );
    }
    // A fault among the rest is found all the same.
    set(&mut views, "pi", "cluster-id", Some("1"));
    assert_eq!(judged(views).result, Outcome::NotReady);
}

#[test]
fn all_dead_is_undecided() {
    let views: Vec<ClusterView> = healthy()
        .into_iter()
        .map(|view| ClusterView {
            state: Err("down".to_owned()),
            ..view
        })
        .collect();
    let verdict = judged(views);
    assert_eq!(verdict.result, Outcome::Undecided);
    assert!(
        verdict
            .checks
            .iter()
            .all(|check| check.status == Status::Undecided || check.status == Status::Info)
    );
}
