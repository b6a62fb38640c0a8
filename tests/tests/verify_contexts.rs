//! `aggrik8s verify --contexts` against real API servers with nothing installed: what is wrong is found within seconds,
//! with the line to change; what cannot be known is not passed; nothing is changed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::kube::mesh::{self, Member, MeshCa};
use tests::kube::{self, Cluster, Plan};
use tests::lab_rig::{binary, both};
use tests::netns::skip;

/// What a run may take, of which a cluster that does not answer takes three.
const LIMIT: Duration = Duration::from_secs(5);

/// A mesh of two that is as it should be.
fn members() -> [Member; 2] {
    let member = |name: &str, id, nodes: &str, pods: &str, node_port| Member {
        name: format!("talos-{name}"),
        id,
        nodes: nodes.to_owned(),
        pods: pods.to_owned(),
        node_port,
        cilium: "v1.19.5".to_owned(),
        server_until: (2198, 1, 1),
    };
    [
        member("east", 1, "192.168.15", "10.244", 32379),
        member("west", 2, "192.168.20", "10.245", 32380),
    ]
}

fn plan(name: &str, services: &str) -> Result<Plan> {
    let mut plan = Plan::new(name);
    plan.service_cidr = services.parse()?;
    Ok(plan)
}

struct Verify {
    command: Command,
}

impl Verify {
    fn of(clusters: &[&Cluster], contexts: &str) -> Result<Self> {
        Self::with(&kube::kubeconfig(clusters)?, contexts)
    }

    fn with(kubeconfig: &std::ffi::OsStr, contexts: &str) -> Result<Self> {
        let mut command = Command::new(binary()?);
        command
            .args(["verify", "--contexts", contexts])
            .env("KUBECONFIG", kubeconfig)
            .env_remove("AGGRIK8S_MESH")
            .env_remove("AGGRIK8S_OUTPUT");
        Ok(Self { command })
    }

    fn args(mut self, args: &[&str]) -> Self {
        self.command.args(args);
        self
    }

    /// Within the limit, and with this exit code.
    fn ends(mut self, code: i32) -> Result<Output> {
        let started = Instant::now();
        let output = self.command.output()?;
        let took = started.elapsed();
        ensure!(
            output.status.code() == Some(code),
            "exit {:?} instead of {code}:\n{}",
            output.status.code(),
            both(&output)
        );
        ensure!(took < LIMIT, "{took:?}\n{}", both(&output));
        Ok(output)
    }

    fn report(self, code: i32) -> Result<Report> {
        let output = self.args(&["-o", "json"]).ends(code)?;
        Ok(Report(serde_json::from_slice(&output.stdout)?))
    }
}

struct Report(Value);

impl Report {
    fn list(&self, key: &str) -> &[Value] {
        self.0[key]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    /// Status and cause of every row of a check, by its place.
    fn rows(&self, id: &str) -> BTreeMap<String, (String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let rows = self.list("checks").iter().filter(|check| check["id"] == id);
        rows.map(|check| {
            let ends = [
                text(&check["source_cluster"]),
                text(&check["target_cluster"]),
            ];
            let place = ends.join(" ").trim().to_owned();
            (place, (text(&check["status"]), text(&check["cause"])))
        })
        .collect()
    }

    /// Ids of the checks that failed.
    fn failed(&self) -> Vec<&str> {
        let failed = self
            .list("checks")
            .iter()
            .filter(|check| check["status"] == "fail");
        let mut ids: Vec<&str> = failed.filter_map(|check| check["id"].as_str()).collect();
        ids.dedup();
        ids
    }

    fn cause(&self, id: &str) -> Result<(String, String)> {
        let found = self.list("causes").iter().find(|cause| cause["id"] == id);
        let found =
            found.with_context(|| format!("no cause `{id}` in {:#?}", self.list("causes")))?;
        let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        Ok((text("summary"), text("hint")))
    }
}

/// One of the mistakes that `must show` names, seeded with real objects.
fn contains(text: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(text.contains(word), "`{word}` is not in: {text}");
    }
    Ok(())
}

#[test]
fn a_healthy_pair_lacks_only_measurements_and_stays_as_it_is() -> Result<()> {
    if skip(kube::missing())? {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let (mut east, log) = audited(plan("east", "10.96.0.0/12")?, folder.path())?;
    let west = Cluster::start(plan("west", "10.112.0.0/12")?)?;
    let [a, b] = members();
    let ca = MeshCa::new("Cilium CA")?;
    a.seed(&east, &ca, &[&b])?;
    b.seed(&west, &ca, &[&a])?;
    for cluster in [&east, &west] {
        mesh::grant_reading(cluster)?;
    }
    let reader = |cluster: &Cluster| cluster.user("reader", Some("aggrik8s:verify-readers"));
    let readers = std::env::join_paths([reader(&east)?, reader(&west)?])?;

    let before = (versions(&east)?, versions(&west)?);
    let output = Verify::with(&readers, "east,west")?.ends(3)?;
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    contains(
        &table,
        &[
            "? UNDECIDED",
            "aggrik8s install",
            "clustermesh.own_server",
            "2 of 2 links",
        ],
    )?;
    ensure!(!table.contains("xx") && !table.contains("✗"), "{table}");

    let report = Verify::with(&readers, "east,west")?.report(3)?;
    assert_eq!(report.failed(), [""; 0], "{:#?}", report.list("causes"));
    // Without a single agent's pod nobody says how the agents see each other; all else is known.
    for check in report.list("checks") {
        let (id, status) = (&check["id"], &check["status"]);
        let open = id == "clustermesh.status" || check["cause"] == "not measured";
        let expected = if open { "undecided" } else { "pass" };
        ensure!(
            status == expected || status == "info",
            "{id} is {status}: {check:#}"
        );
    }
    let only = Verify::with(&readers, "east,west")?.args(&[
        "--only",
        "certificate.*",
        "--only",
        "config.ids",
    ]);
    only.ends(0)?;

    ensure!(
        before == (versions(&east)?, versions(&west)?),
        "an object was changed"
    );
    // The log is complete when the server has ended.
    east.stop_api()?;
    let verbs = verbs(&log, "reader")?;
    ensure!(verbs.values().sum::<usize>() > 50, "{verbs:?}");
    ensure!(
        verbs.keys().all(|verb| verb == "get" || verb == "list"),
        "{verbs:?}"
    );
    Ok(())
}

/// The self-talking mesh, CA mismatch, overlapping CIDR, expired certificate, version outside the matrix.
#[test]
fn every_seeded_mistake_is_named_with_the_line_to_change() -> Result<()> {
    if skip(kube::missing())? {
        return Ok(());
    }
    let east = Cluster::start(plan("east", "10.96.0.0/12")?)?;
    let west = Cluster::start(plan("west", "10.112.0.0/12")?)?;
    let [mut a, mut b] = members();
    for member in [&mut a, &mut b] {
        // The chart's own port in both, as a key that it does not know leaves it.
        member.node_port = 32379;
        // Tested with Kubernetes up to 1.33.
        member.cilium = "v1.18.5".to_owned();
    }
    b.pods = a.pods.clone();
    b.server_until = (2021, 2, 3);
    a.seed(&east, &MeshCa::new("east CA")?, &[&b])?;
    b.seed(&west, &MeshCa::new("west CA")?, &[&a])?;

    let report = Verify::of(&[&east, &west], "east,west")?.report(1)?;
    assert_eq!(
        report.failed(),
        [
            "config.cidrs",
            "version.support",
            "clustermesh.own_server",
            "certificate.ca",
            "certificate.expiry"
        ],
        "{:#?}",
        report.list("causes")
    );
    let (seen, cure) = report.cause("clustermesh.self_talk")?;
    contains(
        &seen,
        &[
            "`east` talks to itself when it means `west`",
            "NodePort 32379",
        ],
    )?;
    contains(
        &cure,
        &[
            "`clustermesh.apiserver.service.nodePort: 32380`",
            "--kube-context west",
            "--version 1.18.5",
        ],
    )?;
    assert_eq!(report.rows("clustermesh.own_server").len(), 2);
    let (seen, cure) = report.cause("certificate.untrusted")?;
    contains(
        &seen,
        &["`east` does not trust the CA that signed the server certificate of `west`"],
    )?;
    contains(&cure, &["cilium-ca", "tls.caBundle.content"])?;
    let (seen, cure) = report.cause("config.overlap")?;
    contains(
        &seen,
        &["pod CIDR 10.244.1.0/24 of `east` overlaps pod CIDR 10.244.1.0/24 of `west`"],
    )?;
    contains(&cure, &["podSubnets"])?;
    let (seen, cure) = report.cause("certificate.expired")?;
    contains(
        &seen,
        &[
            "`west`",
            "clustermesh-apiserver-server-cert",
            "expired on 2021-02-03",
        ],
    )?;
    contains(&cure, &["kubectl --context west -n kube-system create job"])?;
    let (seen, cure) = report.cause("version.untested")?;
    contains(
        &seen,
        &[
            "runs Cilium 1.18.5 on Kubernetes 1.3",
            "tested with 1.30 to 1.33",
        ],
    )?;
    contains(&cure, &["upgrade Cilium of `east` to 1.19"])?;

    // The other forms say the same, and none shows a key.
    let short = Verify::of(&[&east, &west], "east,west")?
        .args(&["-o", "short"])
        .ends(1)?;
    contains(
        &String::from_utf8_lossy(&short.stdout),
        &["talks to itself", "NOT READY"],
    )?;
    let junit = Verify::of(&[&east, &west], "east,west")?
        .args(&["-o", "junit"])
        .ends(1)?;
    contains(
        &String::from_utf8_lossy(&junit.stdout),
        &["clustermesh.self_talk", "<failure"],
    )?;
    for output in [&short, &junit] {
        ensure!(!both(output).contains("PRIVATE KEY"), "{}", both(output));
    }
    readme(&String::from_utf8_lossy(&short.stdout))
}

#[test]
fn what_cannot_be_reached_or_read_is_unknown_and_the_rest_is_judged() -> Result<()> {
    if skip(kube::missing())? {
        return Ok(());
    }
    let east = Cluster::start(plan("east", "10.96.0.0/12")?)?;
    let mut west = Cluster::start(plan("west", "10.112.0.0/12")?)?;
    let [a, b] = members();
    let ca = MeshCa::new("Cilium CA")?;
    a.seed(&east, &ca, &[&b])?;
    b.seed(&west, &ca, &[&a])?;

    // A context that does not exist: nothing is asked.
    let unknown = Verify::of(&[&east, &west], "east,wset")?.ends(2)?;
    contains(
        &both(&unknown),
        &["there is no context `wset`", "known contexts: east, west"],
    )?;

    // An agent whose kubelet is nowhere.
    mesh::agent_pod(&east, "talos-east-1")?;
    let report = Verify::of(&[&east, &west], "east,west")?.report(3)?;
    let (status, why) = report.rows("clustermesh.status")["east west"].clone();
    assert_eq!(status, "undecided");
    contains(&why, &["`talos-east-1`"])?;

    // Somebody who may read nothing at all, and somebody who may not ask agents.
    let nobody = std::env::join_paths([east.user("nobody", None)?, west.user("nobody", None)?])?;
    let report = Verify::with(&nobody, "east,west")?.report(3)?;
    let (status, why) = report.rows("config.ids")[""].clone();
    assert_eq!(status, "undecided");
    contains(
        &why,
        &["not allowed to get configmaps `cilium-config` in kube-system"],
    )?;
    for check in report.list("checks") {
        let passes = check["status"] == "pass" && check["id"] != "evidence.api_server";
        ensure!(!passes, "{check:#}");
    }
    mesh::grant_reading(&east)?;
    let reader = east.user("reader", Some("aggrik8s:verify-readers"))?;
    let report = Verify::with(reader.as_os_str(), "east")?.report(3)?;
    assert_eq!(report.rows("cilium.agents")["east"].0, "pass");

    // One cluster is gone: a result, and the other is judged.
    west.stop_api()?;
    let report = Verify::of(&[&east, &west], "east,west")?.report(3)?;
    let rows = report.rows("evidence.api_server");
    assert_eq!(
        (rows["east"].0.as_str(), rows["west"].0.as_str()),
        ("pass", "undecided")
    );
    assert_eq!(report.rows("cilium.agents")["east"].0, "pass");
    assert_eq!(report.rows("config.cidrs")[""].0, "undecided");
    let table = Verify::of(&[&east, &west], "east,west")?.ends(3)?;
    contains(&both(&table), &["no answer from the API server"])
}

/// Kind and name of everything that matters, with the version that each change raises.
fn versions(cluster: &Cluster) -> Result<BTreeMap<String, String>> {
    let mut versions = BTreeMap::new();
    for kinds in [
        "nodes,ciliumnodes,clusterroles,clusterrolebindings,namespaces",
        "secrets,configmaps,services,daemonsets,deployments,pods,roles,rolebindings,endpointslices,serviceaccounts",
    ] {
        let listed: Value =
            serde_json::from_str(&cluster.kubectl(&["get", kinds, "-A", "-o", "json"])?)?;
        for item in listed["items"].as_array().into_iter().flatten() {
            let meta = &item["metadata"];
            let name = format!("{} {} {}", item["kind"], meta["namespace"], meta["name"]);
            versions.insert(name, meta["resourceVersion"].to_string());
        }
    }
    ensure!(versions.len() > 20, "{versions:?}");
    Ok(versions)
}

/// A cluster whose API server logs who asked for what.
fn audited(mut plan: Plan, folder: &Path) -> Result<(Cluster, PathBuf)> {
    let (policy, log) = (folder.join("policy.yaml"), folder.join("audit.log"));
    fs::write(
        &policy,
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n",
    )?;
    plan.api_args = vec![
        format!("--audit-policy-file={}", policy.display()),
        format!("--audit-log-path={}", log.display()),
    ];
    Ok((Cluster::start(plan)?, log))
}

/// How often `user` did what. A read that was refused counts as well.
fn verbs(log: &Path, user: &str) -> Result<BTreeMap<String, usize>> {
    let mut verbs = BTreeMap::new();
    for line in fs::read_to_string(log)?.lines() {
        let event: Value = serde_json::from_str(line)?;
        if event["user"]["username"] == user {
            let verb = event["verb"].as_str().context("an event has a verb")?;
            *verbs.entry(verb.to_owned()).or_default() += 1;
        }
    }
    Ok(verbs)
}

/// What README.md shows is what the program says; when stale it is rewritten and the test fails.
fn readme(said: &str) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = fs::read_to_string(&path)?;
    let (head, rest) = text
        .split_once(OPENS)
        .context("README.md has the transcript")?;
    let (shown, tail) = rest.split_once(CLOSES).context("the transcript ends")?;
    let wanted = transcript(said);
    if shown != wanted {
        fs::write(&path, format!("{head}{OPENS}{wanted}{CLOSES}{tail}"))?;
        anyhow::bail!("the transcript in README.md was stale and has been rewritten: commit it");
    }
    Ok(())
}

const OPENS: &str = "```\n$ aggrik8s verify --contexts east,west -o short\n";
const CLOSES: &str = "```\n";

/// The first causes, without what changes from run to run.
fn transcript(said: &str) -> String {
    let mut shown = String::new();
    let mut blocks = said.split("\n\n");
    for id in [
        "config.overlap",
        "clustermesh.self_talk",
        "certificate.expired",
    ] {
        let block = blocks
            .by_ref()
            .find(|block| block.contains(&format!("id:   {id}")));
        let lines = block.unwrap_or("(missing)").lines();
        shown += &format!("{}\n\n", lines.map(narrow).collect::<Vec<_>>().join("\n"));
    }
    let result = said.lines().last().unwrap_or_default();
    let result = result.split(" (").next().unwrap_or_default();
    shown + "…\n" + result + "\n"
}

/// `line` as a terminal of 120 columns shows it, without what tomorrow would say otherwise.
fn narrow(line: &str) -> String {
    let line = match line.rsplit_once(", ") {
        Some((before, after)) if after.ends_with(" days ago") => before,
        _ => line,
    };
    let hang = if line.starts_with(' ') { 10 } else { 7 };
    let mut shown = String::new();
    let mut length = 0;
    for word in line.split(' ') {
        let more = word.chars().count() + 1;
        if length + more > 120 && !shown.is_empty() {
            shown += &format!("\n{:hang$}", "");
            length = hang;
        } else if !shown.is_empty() || length > 0 {
            shown.push(' ');
        }
        shown += word;
        length += more;
    }
    shown
}
