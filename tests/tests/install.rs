//! `aggrik8s install` and `uninstall` on real API servers: everything is there and ours, the second time changes
//! nothing, one value changes one object, another owner's objects stay, and afterwards nothing is left.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context, Result};
use serde_json::Value;
use tests::kube::{self, Cluster, Plan, peer};
use tests::netns::skip;

const MESH: &str = "
mesh: test
clusters:
  - name: east
    id: 1
    context: ctx-east
    node_networks: [192.168.15.0/24]
    pod_cidrs: [10.244.0.0/16]
    nodes: [{name: e-1, addresses: [192.168.15.11]}]
  - name: west
    id: 2
    node_networks: [192.168.16.0/24]
    pod_cidrs: [10.245.0.0/16]
    nodes: [{name: w-1, addresses: [192.168.16.11]}]
";

/// Everything that the API servers know without more definitions.
const FULL: &str = "{nodePlane: {enabled: true}, api: {tls: {source: secret}}}";

/// Kinds in which something could be left behind.
const KINDS: &str =
    "daemonsets,pods,networkpolicies,services,configmaps,serviceaccounts,secrets,endpointslices";

/// Two clusters and what a person would have in a folder.
struct Site {
    clusters: Vec<Cluster>,
    folder: tempfile::TempDir,
}

impl Site {
    fn start(names: &[&str]) -> Result<Self> {
        let clusters = names.iter().map(|name| Cluster::start(Plan::new(name)));
        let site = Self {
            clusters: clusters.collect::<Result<_>>()?,
            folder: tempfile::tempdir()?,
        };
        fs::write(site.folder.path().join("mesh.yaml"), MESH)?;
        Ok(site)
    }

    fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.path().join(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    fn run(&self, args: &[&str]) -> Result<Output> {
        let this = std::env::current_exe()?;
        let program = this
            .ancestors()
            .skip(1)
            .take(2)
            .map(|folder| folder.join("aggrik8s"))
            .find(|path| path.is_file())
            .context("no `aggrik8s` (hint: cargo build -p aggrik8s)")?;
        let clusters: Vec<_> = self.clusters.iter().collect();
        let output = Command::new(program)
            .args(args)
            .current_dir(self.folder.path())
            .env("KUBECONFIG", kube::kubeconfig(&clusters)?)
            .output()?;
        Ok(output)
    }

    /// Installs with these values; the lines of the answer as (context, object) → what became of it.
    fn install(&self, values: &str, more: &[&str]) -> Result<BTreeMap<(String, String), String>> {
        let output = self.try_install(values, more)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{said}");
        Ok(lines(&output))
    }

    fn try_install(&self, values: &str, more: &[&str]) -> Result<Output> {
        let values = self.file("values.yaml", values)?;
        let values = values.to_str().context("a path of text")?;
        let mut args = vec![
            "install",
            "-f",
            "mesh.yaml",
            "--image",
            "r.lan/a:v1",
            "--values",
            values,
        ];
        args.extend(more);
        self.run(&args)
    }
}

fn lines(output: &Output) -> BTreeMap<(String, String), String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .filter_map(|line| {
            let mut words = line.splitn(3, "  ");
            let key = (words.next()?.to_owned(), words.next()?.to_owned());
            Some((key, words.next()?.to_owned()))
        })
        .collect()
}

fn objects(cluster: &Cluster, namespace: &str) -> Result<Vec<Value>> {
    let list = cluster.kubectl(&[
        "get",
        KINDS,
        "-n",
        namespace,
        "-o",
        "json",
        "--show-managed-fields",
    ])?;
    let list: Value = serde_json::from_str(&list)?;
    let items = list["items"].as_array().context("a list has items")?;
    // What every namespace has.
    let own = |object: &&Value| {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        name != "kube-root-ca.crt" && name != "default"
    };
    Ok(items.iter().filter(own).cloned().collect())
}

fn versions(objects: &[Value]) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    objects
        .iter()
        .map(|object| {
            let metadata = &object["metadata"];
            let name = format!("{}/{}", text(&object["kind"]), text(&metadata["name"]));
            (name, text(&metadata["resourceVersion"]))
        })
        .collect()
}

#[test]
fn install_is_ours_alone_repeatable_and_leaves_nothing() -> Result<()> {
    if skip(kube::missing())? {
        return Ok(());
    }
    let mut site = Site::start(&["east", "west"])?;
    let contexts = ["--contexts", "east,west"];

    // The API servers take every object, and keep none.
    let dry = site.install("{}", &["--contexts", "east,west", "--dry-run", "server"])?;
    assert_eq!(
        dry[&("east".to_owned(), "namespace/aggrik8s".to_owned())],
        "created"
    );
    let there = site.clusters[0].kubectl(&["get", "ns", "aggrik8s", "--ignore-not-found"])?;
    assert_eq!(there, "");
    site.clusters[0].kubectl(&["create", "namespace", "aggrik8s"])?;
    let unmade = FULL.replacen('{', "{namespace: {create: false}, ", 1);
    let dry = site.install(&unmade, &["--contexts", "east", "--dry-run", "server"])?;
    assert_eq!(dry.len(), 7);
    assert!(dry.values().all(|change| change == "created"), "{dry:?}");
    assert_eq!(objects(&site.clusters[0], "aggrik8s")?, [] as [Value; 0]);

    // A namespace that somebody else made is not taken over.
    let refused = site.try_install("{}", &contexts)?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(
        said.contains("`namespace/aggrik8s` belongs to somebody else"),
        "{said}"
    );
    assert!(
        said.contains("hint: set `namespace.create: false`"),
        "{said}"
    );
    for cluster in &mut site.clusters {
        cluster.start_controllers()?;
    }
    site.clusters[0].kubectl(&["delete", "namespace", "aggrik8s"])?;

    let first = site.install(FULL, &contexts)?;
    assert_eq!(first.len(), 16);
    assert!(
        first.values().all(|change| change == "created"),
        "{first:?}"
    );
    for cluster in &site.clusters {
        let namespace = cluster.kubectl(&["get", "ns", "aggrik8s", "-o", "json"])?;
        let namespace: Value = serde_json::from_str(&namespace)?;
        let enforce = &namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"];
        assert_eq!(*enforce, "privileged");
        let objects = objects(cluster, "aggrik8s")?;
        for object in objects
            .iter()
            .filter(|object| object["kind"] != "EndpointSlice")
        {
            let fields = object["metadata"]["managedFields"].as_array();
            let ours =
                |field: &Value| field["manager"] == "aggrik8s" && field["operation"] == "Apply";
            assert!(
                fields.is_some_and(|fields| fields.iter().any(ours)),
                "{object}"
            );
        }
        let mesh = objects.iter().find(|object| object["kind"] == "ConfigMap");
        assert_eq!(mesh.context("its mesh")?["data"]["mesh.yaml"], MESH);
    }

    let before = versions(&objects(&site.clusters[0], "aggrik8s")?);
    let second = site.install(FULL, &contexts)?;
    assert!(
        second.values().all(|change| change == "unchanged"),
        "{second:?}"
    );
    let stable = |versions: &BTreeMap<String, String>| {
        let mut versions = versions.clone();
        // The controllers' own, and the status that they write.
        versions
            .retain(|name, _| !name.starts_with("EndpointSlice") && !name.starts_with("DaemonSet"));
        versions
    };
    let after = versions(&objects(&site.clusters[0], "aggrik8s")?);
    assert_eq!(stable(&after), stable(&before));
    let generation = |name: &str| {
        site.clusters[0].kubectl(&[
            "get",
            "ds",
            name,
            "-n",
            "aggrik8s",
            "-o",
            "jsonpath={.metadata.generation}",
        ])
    };
    assert_eq!(generation("aggrik8s")?, "1");

    // One value: one object changes, once.
    let debug = FULL.replacen('{', "{holder: {log: debug}, ", 1);
    let third = site.install(&debug, &contexts)?;
    let changed: Vec<_> = third
        .iter()
        .filter(|(_, change)| *change != "unchanged")
        .collect();
    assert_eq!(changed.len(), 2, "{third:?}");
    assert_eq!(
        third[&("east".to_owned(), "daemonset/aggrik8s".to_owned())],
        "configured"
    );
    assert_eq!(
        (generation("aggrik8s")?, generation("aggrik8s-node")?),
        ("2".into(), "1".into())
    );

    // What is no longer wanted goes.
    let fourth = site.install("{}", &contexts)?;
    for gone in ["daemonset/aggrik8s-node", "service/aggrik8s-node"] {
        assert_eq!(
            fourth[&("west".to_owned(), gone.to_owned())],
            "removed",
            "{fourth:?}"
        );
    }

    let gone = site.run(&["uninstall", "--contexts", "east,west"])?;
    let said = String::from_utf8_lossy(&gone.stderr).into_owned();
    assert_eq!(gone.status.code(), Some(0), "{said}");
    assert!(lines(&gone).contains_key(&("east".into(), "namespace/aggrik8s".into())));
    for cluster in &site.clusters {
        let left = cluster.kubectl(&["get", "ns", "aggrik8s", "--ignore-not-found"])?;
        assert_eq!(left, "");
    }
    let again = site.run(&["uninstall", "--contexts", "east"])?;
    assert_eq!(
        String::from_utf8_lossy(&again.stdout),
        "east  nothing was there\n"
    );
    Ok(())
}

#[test]
fn what_helm_installed_is_left_to_helm() -> Result<()> {
    if skip(kube::missing())? || skip(peer("helm", "helm").err().map(|error| format!("{error:#}")))?
    {
        return Ok(());
    }
    let site = Site::start(&["east"])?;
    let cluster = &site.clusters[0];
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/aggrik8s");
    let output = Command::new(peer("helm", "helm")?)
        .args([
            "install",
            "mine",
            chart,
            "-n",
            "aggrik8s",
            "--create-namespace",
        ])
        .args([
            "--set",
            "cluster=east,image.repository=r.lan/a",
            "--set-file",
            "mesh=mesh.yaml",
        ])
        .current_dir(site.folder.path())
        .env("KUBECONFIG", cluster.kubeconfig())
        .env("HELM_CACHE_HOME", site.folder.path())
        .env("HELM_CONFIG_HOME", site.folder.path())
        .env("HELM_DATA_HOME", site.folder.path())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let before = versions(&objects(cluster, "aggrik8s")?);
    let refused = site.try_install("{namespace: {create: false}}", &["--contexts", "east"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(
        said.contains("`serviceaccount/aggrik8s` belongs to helm's release `mine`"),
        "{said}"
    );
    assert!(said.contains("hint: change it by `helm upgrade`"), "{said}");
    assert_eq!(versions(&objects(cluster, "aggrik8s")?), before);
    // Nor does uninstalling touch it.
    let gone = site.run(&["uninstall", "--contexts", "east"])?;
    assert_eq!(
        String::from_utf8_lossy(&gone.stdout),
        "east  nothing was there\n"
    );
    assert_eq!(versions(&objects(cluster, "aggrik8s")?), before);
    Ok(())
}

#[test]
fn a_cluster_that_does_not_answer_stops_all_before_anything_changes() -> Result<()> {
    if skip(kube::missing())? {
        return Ok(());
    }
    let mut site = Site::start(&["east", "west"])?;
    site.clusters[1].stop_api()?;
    let refused = site.try_install("{}", &["--contexts", "east,west"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(
        said.contains("`west` cannot be reached; nothing was changed anywhere"),
        "{said}"
    );
    let there = site.clusters[0].kubectl(&["get", "ns", "aggrik8s", "--ignore-not-found"])?;
    assert_eq!(there, "");

    // A kind that this cluster does not have, and a context of nobody.
    let monitor = site.try_install("{podMonitor: {enabled: true}}", &["--contexts", "east"])?;
    let said = String::from_utf8_lossy(&monitor.stderr).into_owned();
    assert_eq!(monitor.status.code(), Some(4), "{said}");
    assert!(
        said.contains("podmonitor/aggrik8s") && said.contains("hint: the cluster does not know"),
        "{said}"
    );
    let nobody = site.try_install("{}", &["--contexts", "mars"])?;
    let said = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert_eq!(nobody.status.code(), Some(2), "{said}");
    assert!(
        said.contains("context `mars` is of no cluster of the mesh"),
        "{said}"
    );
    Ok(())
}
