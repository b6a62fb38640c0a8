//! Who trusts whom, and until when.

use verify::Status;
use verify::control::ClusterView;

use super::faults::{fault, fine};
use super::world::*;

#[test]
fn a_ca_that_the_other_side_does_not_trust() {
    let other_ca = |views: &mut Vec<ClusterView>| {
        let facts = facts(views, "west");
        for (secret, held) in &mut facts.certificates {
            *held = Ok(Some(pair(secret, "west", "west-ca")));
        }
        facts.trust.as_mut().unwrap().as_mut().unwrap().authorities = vec![authority("west-ca")];
    };
    let four = [
        "certificate.ca east→west",
        "certificate.ca west→east",
        "certificate.ca west→pi",
        "certificate.ca pi→west",
    ];
    fault(
        other_ca,
        &four,
        "certificate.untrusted",
        &[
            "`east` does not trust the CA that signed the server certificate of `west`",
            "signed by west-ca-key",
            "`east` trusts `shared-ca-key`",
            "kubectl --context east -n kube-system get secret cilium-ca -o yaml | kubectl --context west apply -f -",
            "tls.caBundle.content",
        ],
    );
    // A bundle of both on both sides is fine.
    fine(|views| {
        other_ca(views);
        for context in ["east", "west", "pi"] {
            let facts = facts(views, context);
            let both = vec![authority("shared-ca"), authority("west-ca")];
            facts.trust.as_mut().unwrap().as_mut().unwrap().authorities = both.clone();
            for held in facts.certificates.values_mut() {
                held.as_mut().unwrap().as_mut().unwrap().ca = both.clone();
            }
        }
    });
    // On one side alone, its clients are still refused there.
    fault(
        |views| {
            other_ca(views);
            let both = vec![authority("shared-ca"), authority("west-ca")];
            for context in ["east", "pi"] {
                facts(views, context)
                    .trust
                    .as_mut()
                    .unwrap()
                    .as_mut()
                    .unwrap()
                    .authorities = both.clone();
            }
        },
        &four,
        "certificate.untrusted",
        &["`west` does not trust the CA that signed the client certificate of `east`"],
    );
    // An entry's own CA outranks the common one.
    fine(|views| {
        other_ca(views);
        for context in ["east", "pi"] {
            way(views, context, "west").trust = Some(vec![authority("west-ca")]);
            let held = facts(views, context)
                .certificates
                .get_mut("clustermesh-apiserver-server-cert")
                .unwrap();
            held.as_mut()
                .unwrap()
                .as_mut()
                .unwrap()
                .ca
                .push(authority("west-ca"));
        }
        for context in ["east", "pi"] {
            way(views, "west", context).trust = Some(vec![authority("shared-ca")]);
        }
        let held = facts(views, "west")
            .certificates
            .get_mut("clustermesh-apiserver-server-cert")
            .unwrap();
        held.as_mut()
            .unwrap()
            .as_mut()
            .unwrap()
            .ca
            .push(authority("shared-ca"));
    });
}

#[test]
fn certificates_without_key_ids_are_compared_by_the_ca_beside_them() {
    let strip = |views: &mut Vec<ClusterView>, beside: bool| {
        for context in ["east", "west", "pi"] {
            let facts = facts(views, context);
            for held in facts.certificates.values_mut() {
                let pair = held.as_mut().unwrap().as_mut().unwrap();
                pair.chain[0].authority = None;
                if !beside {
                    pair.ca.clear();
                }
            }
        }
    };
    fine(|views| strip(views, true));
    let mut views = healthy();
    strip(&mut views, false);
    assert_eq!(
        statuses(&judged(views), "certificate.ca east→west"),
        [Status::Undecided]
    );
}

#[test]
fn certificates_that_end() {
    let ends = |secret: &'static str, at: i64| {
        move |views: &mut Vec<ClusterView>| {
            let held = facts(views, "west").certificates.get_mut(secret).unwrap();
            held.as_mut().unwrap().as_mut().unwrap().chain[0].not_after = at;
        }
    };
    let server = "clustermesh-apiserver-server-cert";
    fault(
        ends(server, NOW - 3 * DAY),
        &["certificate.expiry west"],
        "certificate.expired",
        &[
            "`west`: the certificate in tls.crt of Secret clustermesh-apiserver-server-cert expired on 2026-11-19, 3 days ago",
            "kubectl --context west -n kube-system create job --from=cronjob/clustermesh-apiserver-generate-certs",
        ],
    );
    // The second at which it ends is no longer good.
    fault(
        ends(server, NOW),
        &["certificate.expiry west"],
        "certificate.expired",
        &["today"],
    );
    let soon = ["certificate.renewal west"];
    fault(
        ends(server, NOW + 1),
        &soon,
        "certificate.expires_soon",
        &["in 0 days"],
    );
    fault(
        ends(server, NOW + 30 * DAY),
        &soon,
        "certificate.expires_soon",
        &["in 30 days", "2026-12-22"],
    );
    fine(ends(server, NOW + 30 * DAY + 1));
    fault(
        ends("clustermesh-apiserver-admin-cert", NOW - DAY),
        &["certificate.expiry west"],
        "certificate.expired",
        &["admin-cert", "a day ago"],
    );
    fault(
        |views| {
            let held = facts(views, "west").certificates.get_mut(server).unwrap();
            held.as_mut().unwrap().as_mut().unwrap().ca[0].not_after = NOW - DAY;
        },
        &["certificate.expiry west"],
        "certificate.expired",
        &["ca.crt of Secret", "tls.ca.cert"],
    );
    fault(
        |views| {
            let held = facts(views, "west").certificates.get_mut(server).unwrap();
            held.as_mut().unwrap().as_mut().unwrap().chain[0].not_before = NOW + DAY;
        },
        &["certificate.expiry west"],
        "certificate.future",
        &["not valid before 2026-11-23", "clocks"],
    );
}
