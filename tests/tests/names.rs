//! Names of services on real packets: what a foreign client gets from the lab's DNS servers, and what verify makes of it.

use std::process::Command;

use anyhow::{Result, ensure};
use tests::lab_rig::{Lab, missing, wait};
use tests::netns::skip;
use tests::verify_rig::{Verdict, verify, word};

const NAMES: [&str; 2] = [
    "ndvi.default.svc.cluster.local",
    "ndvi.default.svc.clusterset.local",
];
const OPTIONS: [&str; 4] = ["--only", "dns.*", "--window", "4s"];
const CLUSTER: &str = "talos-west";

/// What a DNS server does, what `dig` says of it, and what verify must call it.
struct Trouble {
    fault: &'static [&'static str],
    dig: Dig,
    cause: &'static str,
    exit: i32,
}

enum Dig {
    /// The code of the answer.
    Says(&'static str),
    /// The right code and this address.
    Has(&'static str),
    /// The right answer, no sooner than this, ms.
    Late(u64),
    Nothing,
}

const TROUBLES: [Trouble; 6] = [
    Trouble {
        fault: &["dns", CLUSTER, "--how", "nxdomain"],
        dig: Dig::Says("NXDOMAIN"),
        cause: "dns.no_such_name",
        exit: 1,
    },
    Trouble {
        fault: &["dns", CLUSTER, "--how", "servfail"],
        dig: Dig::Says("SERVFAIL"),
        cause: "dns.server_failure",
        exit: 1,
    },
    Trouble {
        fault: &["dns", CLUSTER, "--how", "wrong"],
        dig: Dig::Has("192.0.2.53"),
        cause: "dns.wrong_address",
        exit: 1,
    },
    Trouble {
        fault: &["dns", CLUSTER, "--how", "silent"],
        dig: Dig::Nothing,
        cause: "dns.unanswered",
        exit: 1,
    },
    // A warning: nothing fails for it.
    Trouble {
        fault: &["dns", CLUSTER, "--how", "slow"],
        dig: Dig::Late(300),
        cause: "dns.slow",
        exit: 0,
    },
    Trouble {
        fault: &["dns-down", CLUSTER],
        dig: Dig::Nothing,
        cause: "dns.unanswered",
        exit: 1,
    },
];

#[test]
fn names_resolve_in_every_cluster_and_each_trouble_of_a_resolver_has_its_name() -> Result<()> {
    let dig = || {
        let found = Command::new("dig").arg("-v").output();
        found
            .is_err()
            .then(|| "no `dig`; install bind9-dnsutils".to_owned())
    };
    if skip(missing().or_else(dig))? {
        return Ok(());
    }
    let lab = Lab::up(&[])?;
    for cluster in ["e", "w"] {
        for name in NAMES {
            for (kind, address) in [("A", "10.96.0.80"), ("AAAA", "fd41:6b38:0:f96::50")] {
                let answer = ask(&lab, &format!("client-cp-{cluster}-1"), name, kind)?;
                ensure!(answer.code == "NOERROR", "{name} {kind}: {}", answer.text);
                ensure!(
                    answer.text.contains(address),
                    "{name} {kind}: {}",
                    answer.text
                );
            }
        }
    }
    let healthy = verify(&lab, &OPTIONS)?;
    ensure!(healthy.exit == Some(0), "{}", healthy.told());
    ensure!(
        rows(&healthy, "dns.resolve", "pass") == 6,
        "{}",
        healthy.told()
    );
    for trouble in &TROUBLES {
        lab.ok("fault", trouble.fault)?;
        let what = trouble.fault.join(" ");
        seen_by_dig(&lab, &trouble.dig).map_err(|e| e.context(what.clone()))?;
        let verdict = verify(&lab, &OPTIONS)?;
        lab.ok("fault", &["clear", "--all"])?;
        let told = || format!("{what}: {}", verdict.told());
        ensure!(verdict.exit == Some(trouble.exit), "{}", told());
        let causes = verdict.list("causes");
        ensure!(
            causes.len() == 1
                && causes[0]["id"] == trouble.cause
                && causes[0]["source_cluster"] == CLUSTER
                && causes[0]["node"].is_null(),
            "{}",
            told()
        );
        // Other clusters have resolvers of their own.
        ensure!(rows(&verdict, "dns.resolve", "pass") >= 4, "{}", told());
        let failed = if trouble.exit == 0 { 0 } else { 2 };
        ensure!(
            rows(&verdict, "dns.resolve", "fail") == failed,
            "{}",
            told()
        );
        ensure!(rows(&verdict, "dns.latency", "fail") == 2, "{}", told());
    }
    wait("the mended server", || {
        Ok(ask(&lab, "client-cp-w-1", NAMES[0], "A")?.code == "NOERROR")
    })?;
    let mended = verify(&lab, &OPTIONS)?;
    ensure!(mended.exit == Some(0), "{}", mended.told());
    Ok(())
}

fn rows(verdict: &Verdict, id: &str, status: &str) -> usize {
    let checks = verdict.list("checks").iter();
    checks
        .filter(|check| check["id"] == id && word(&check["status"]) == status)
        .count()
}

fn seen_by_dig(lab: &Lab, expected: &Dig) -> Result<()> {
    let answer = ask(lab, "client-cp-w-1", NAMES[0], "A")?;
    let right = match expected {
        Dig::Says(code) => answer.code == *code,
        Dig::Has(address) => answer.code == "NOERROR" && answer.text.contains(address),
        Dig::Late(ms) => answer.code == "NOERROR" && answer.ms >= *ms,
        Dig::Nothing => answer.code.is_empty(),
    };
    ensure!(right, "{}", answer.text);
    Ok(())
}

struct Answer {
    /// Empty without an answer.
    code: String,
    ms: u64,
    text: String,
}

/// One question by `dig` from a pod, of its own resolv.conf's server.
fn ask(lab: &Lab, pod: &str, name: &str, kind: &str) -> Result<Answer> {
    let output = lab.cli(
        "exec",
        &[
            pod,
            "--",
            "dig",
            "+tries=1",
            "+time=2",
            "+nosearch",
            kind,
            name,
        ],
    )?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let after = |mark: &str| {
        let (_, rest) = text.split_once(mark)?;
        rest.split([',', ' ', '\n']).next().map(str::to_owned)
    };
    Ok(Answer {
        code: after("status: ").unwrap_or_default(),
        ms: after("Query time: ")
            .and_then(|ms| ms.parse().ok())
            .unwrap_or(0),
        text,
    })
}
