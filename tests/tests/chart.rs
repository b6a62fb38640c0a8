//! The chart by real helm: lint, the schema at work, and object by object the same as `aggrik8s install` renders,
//! over every option alone and over seeded mixtures of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use install::{TlsSource, Values};
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use tests::kube::peer;
use tests::netns::skip;

const MIXTURES: usize = 60;

/// What every release must say.
const NEEDED: &str = r#"
cluster: talos-east
mesh: "mesh: test\nclusters:\n  - name: 'talos-east' # \"quoted\"\n\ttab\n"
image: {repository: "registry.lan:5000/mesh/aggrik8s"}
"#;

/// Every option with its variants; what an option needs stands with it.
const OPTIONS: &[&[&str]] = &[
    &[
        "image: {tag: v1.2.3}",
        "image: {digest: 'sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef'}",
        "image: {pullPolicy: Always}",
        "image: {pullPolicy: Never}",
    ],
    &["pullSecrets: [regcred]", "pullSecrets: [a, 'on']"],
    &["namespace: {create: true}"],
    &["serviceAccount: {annotations: {a.b/c: 'yes', d: '1'}}"],
    &[
        "agent: {log: 'probe_user=debug,info'}",
        "agent: {backgroundInterval: 'off'}",
        "agent: {backgroundInterval: 500ms}",
    ],
    &[
        "agent: {resources: {limits: {cpu: 1, memory: 1Gi}}}",
        "agent: {resources: {limits: null}}",
        "agent: {resources: {limits: null, requests: null}}",
    ],
    &[
        "holder: {log: trace}",
        "holder: {resources: {limits: {memory: 512Mi}}}",
        "holder: {resources: {limits: null, requests: null}}",
    ],
    &["cgroup: /sys/fs/cgroup/unified"],
    &[
        "seccomp: {profile: RuntimeDefault}",
        "seccomp: {profile: Unconfined}",
        "seccomp: {kubeletDir: /var/lib/k0s/kubelet}",
    ],
    &["listen: '[::]'"],
    &[
        "api: {tls: {source: secret}}",
        "api: {port: 9000, tls: {source: secret, secretName: mine}}",
        "api: {tls: {source: certManager, certManager: {issuer: {name: mesh}}}}",
        "api: {tls: {source: certManager, certManager: {issuer: {name: mesh, kind: ClusterIssuer}, duration: 24h, renewBefore: 8h, dnsNames: [a.b, c], ipAddresses: [10.0.0.1, 'fd00::1']}}}",
    ],
    &["metrics: {port: 9465}"],
    &[
        "{nodePlane: {enabled: true}, api: {tls: {source: secret}}}",
        "{nodePlane: {enabled: true, apiPort: 8443, metricsPort: 9466}, api: {tls: {source: certManager, certManager: {issuer: {name: mesh}}}}}",
    ],
    &[
        "updateStrategy: {type: OnDelete, rollingUpdate: null}",
        "updateStrategy: {rollingUpdate: {maxUnavailable: 20%}}",
    ],
    &[
        "nodeSelector: {kubernetes.io/os: null}",
        "nodeSelector: {a: 'true'}",
    ],
    &[
        "tolerations: []",
        "tolerations: [{key: node-role.kubernetes.io/control-plane, effect: NoSchedule}]",
    ],
    &[
        "affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}",
    ],
    &["priorityClassName: ''", "priorityClassName: mesh"],
    &["podAnnotations: {a: 'b: c # d', e: '2026-11-22'}"],
    &["podLabels: {team: 'off', z: '0'}"],
    &[
        "networkPolicy: {enabled: false}",
        "networkPolicy: {metricsFrom: [{namespaceSelector: {matchLabels: {a: b}}}], apiFrom: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}",
    ],
    &[
        "podMonitor: {enabled: true}",
        "podMonitor: {enabled: true, labels: {release: prom}, interval: 1m, relabelings: [{action: labeldrop, regex: 'pod'}], metricRelabelings: [{sourceLabels: [a], action: drop, regex: '.*'}]}",
    ],
    &[
        "serviceMonitor: {enabled: true}",
        "serviceMonitor: {enabled: true, labels: {release: prom}, interval: 30s, relabelings: [{action: keep, sourceLabels: [b]}], metricRelabelings: [{action: labelkeep, regex: x}]}",
    ],
    &["global: {imageRegistry: r}"],
];

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/aggrik8s")
}

fn missing() -> Option<String> {
    peer("helm", "helm").err().map(|error| format!("{error:#}"))
}

/// A command of helm's, with a folder of its own for what it keeps.
struct Helm {
    folder: tempfile::TempDir,
}

impl Helm {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("needed.yaml"), NEEDED)?;
        Ok(Self { folder })
    }

    fn run(&self, verb: &[&str], files: &[&str]) -> Result<Output> {
        let mut helm = Command::new(peer("helm", "helm")?);
        for kept in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            helm.env(kept, self.folder.path());
        }
        helm.env_remove("KUBECONFIG").args(verb).arg(chart());
        helm.args(["--namespace", "mesh-agents", "--kube-version", "1.34.0"]);
        for (place, text) in files.iter().enumerate() {
            let file = self.folder.path().join(format!("{place}.yaml"));
            fs::write(&file, text)?;
            helm.arg("--values").arg(file);
        }
        helm.output().context("start `helm`")
    }

    /// The objects that helm renders, or what it says.
    fn template(&self, files: &[&str]) -> Result<Result<Vec<Value>, String>> {
        let output = self.run(&["template", "aggrik8s"], files)?;
        if !output.status.success() {
            return Ok(Err(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        let text = String::from_utf8(output.stdout)?;
        let objects: Vec<Option<Value>> = serde_saphyr::from_multiple(&text)?;
        Ok(Ok(objects.into_iter().flatten().collect()))
    }
}

fn named(files: &[&str]) -> Vec<(String, String)> {
    let numbered = files.iter().enumerate();
    numbered
        .map(|(place, text)| (format!("{place}.yaml"), (*text).to_owned()))
        .collect()
}

fn load(files: &[&str]) -> Result<Values, install::ValuesError> {
    let named = named(files);
    let files: Vec<_> = named
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    Values::load(&files)
}

/// By kind and name, numbers as floats: helm makes floats of all numbers in values.
fn keyed(objects: Vec<Value>) -> Result<BTreeMap<String, Value>> {
    let count = objects.len();
    let keyed: BTreeMap<_, _> = objects
        .into_iter()
        .map(|mut object| {
            floats(&mut object);
            let key = format!("{} {}", object["kind"], object["metadata"]["name"]);
            (key, object)
        })
        .collect();
    ensure!(keyed.len() == count, "two objects of one kind and name");
    Ok(keyed)
}

fn floats(value: &mut Value) {
    match value {
        Value::Number(number) => *value = number.as_f64().into(),
        Value::Array(items) => items.iter_mut().for_each(floats),
        Value::Object(map) => map.values_mut().for_each(floats),
        _ => {}
    }
}

/// Holds the two routes against each other; `files` are values in the order of their rank.
fn compare(helm: &Helm, files: &[&str]) -> Result<()> {
    let mut all = vec![NEEDED];
    all.extend(files);
    let by_helm = helm.template(&all)?;
    let by_us = load(&all)
        .map_err(|error| error.to_string())
        .and_then(|values| {
            install::objects(&values, "mesh-agents").map_err(|error| error.to_string())
        });
    let (by_helm, by_us) = match (by_helm, by_us) {
        (Ok(by_helm), Ok(by_us)) => (keyed(by_helm)?, keyed(by_us)?),
        (Err(_), Err(_)) => return Ok(()),
        (by_helm, by_us) => panic!("{files:#?}: helm: {by_helm:?}, we: {by_us:?}"),
    };
    let names = |objects: &BTreeMap<String, Value>| objects.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&by_helm), names(&by_us), "{files:#?}");
    for (name, object) in by_helm {
        assert_eq!(object, by_us[&name], "{name} with {files:#?}");
    }
    Ok(())
}

#[test]
fn lint_is_content() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let helm = Helm::new()?;
    for files in [vec![], vec![NEEDED], vec![NEEDED, OPTIONS[12][1]]] {
        let output = helm.run(&["lint", "--strict"], &files)?;
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
    }
    Ok(())
}

#[test]
fn both_routes_give_the_same_objects() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let helm = Helm::new()?;
    compare(&helm, &[])?;
    for variant in OPTIONS.iter().copied().flatten() {
        compare(&helm, &[variant])?;
    }
    let seed = 5;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut rendered = 0;
    for _ in 0..MIXTURES {
        let mut files = Vec::new();
        for variants in OPTIONS {
            if random.random_bool(0.5) {
                files.extend(variants.choose(&mut random).copied());
            }
        }
        compare(&helm, &files)?;
        let mut all = vec![NEEDED];
        all.extend(&files);
        rendered += usize::from(
            load(&all).is_ok_and(|values| install::objects(&values, "mesh-agents").is_ok()),
        );
    }
    // Mixtures that both refuse would prove little.
    assert!(rendered * 10 >= MIXTURES * 8, "{rendered} of {MIXTURES}");
    Ok(())
}

#[test]
fn what_one_route_refuses_the_other_refuses() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let helm = Helm::new()?;
    for (bad, said) in [
        ("colour: red", "colour"),
        ("image: {tag: 1.5}", "/image/tag"),
        ("image: {digest: latest}", "/image/digest"),
        ("api: {port: 80}", "/api/port"),
        ("api: {tls: {source: plain}}", "/api/tls/source"),
        ("seccomp: {profile: Off}", "/seccomp/profile"),
        (
            "podLabels: {app.kubernetes.io/component: x}",
            "app.kubernetes.io/component",
        ),
        ("listen: localhost", "/listen"),
        ("agent: null", "agent"),
        ("nodePlane: {enabled: true}", "nodePlane.enabled"),
        ("cluster: ''", "cluster"),
        ("mesh: ''", "mesh"),
        ("image: {repository: ''}", "image.repository"),
        ("api: {tls: {source: certManager}}", "issuer.name"),
    ] {
        let files = [NEEDED, bad];
        let by_helm = helm.template(&files)?;
        let by_helm = by_helm
            .err()
            .with_context(|| format!("helm accepts `{bad}`"))?;
        assert!(by_helm.contains(said), "{bad}: {by_helm}");
        let by_us = match load(&files) {
            Err(error) => error.to_string(),
            Ok(values) => match install::objects(&values, "mesh-agents") {
                Err(error) => error.to_string(),
                Ok(_) => panic!("we accept `{bad}`"),
            },
        };
        assert!(by_us.contains(said), "{bad}: {by_us}");
    }
    Ok(())
}

/// The variants above reach every value: an option that nobody varies is not compared.
#[test]
fn every_value_is_varied() -> Result<()> {
    let defaults = serde_json::to_value(load(&[])?)?;
    let mut untouched = Vec::new();
    leaves("", &defaults, &mut untouched);
    for variant in OPTIONS.iter().copied().flatten() {
        let variant: Value = serde_saphyr::from_str(variant)?;
        untouched.retain(|path| variant.pointer(path).is_none());
    }
    untouched.retain(|path| !NEEDED.contains(path.trim_start_matches('/')));
    let known = [
        "/api/tls/certManager/issuer/group",
        "/image/repository",
        "/tolerations/0/operator",
    ];
    untouched.retain(|path| !known.contains(&path.as_str()));
    assert_eq!(untouched, [""; 0]);
    assert_eq!(load(&[])?.api.tls.source, TlsSource::None);
    Ok(())
}

fn leaves(path: &str, value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) if !map.is_empty() && !path.ends_with("resources") => {
            for (key, value) in map {
                leaves(&format!("{path}/{}", key.replace('/', "~1")), value, found);
            }
        }
        _ => found.push(path.to_owned()),
    }
}

/// The programs understand the arguments that the chart gives them; what comes from the environment is added.
#[test]
fn the_agent_accepts_its_arguments() -> Result<()> {
    use clap::Parser as _;
    let all = "{nodePlane: {enabled: true}, api: {tls: {source: secret}}}";
    let objects = install::objects(&load(&[NEEDED, all])?, "mesh-agents")?;
    let mut parsed = 0;
    for object in objects
        .iter()
        .filter(|object| object["kind"] == "DaemonSet")
    {
        let spec = &object["spec"]["template"]["spec"];
        let both = ["initContainers", "containers"].map(|key| spec[key].as_array());
        for container in both.into_iter().flatten().flatten() {
            let mut args: Vec<_> = container["args"]
                .as_array()
                .context("arguments")?
                .iter()
                .map(|arg| arg.as_str().unwrap_or_default())
                .collect();
            args.insert(0, "aggrik8s-probe");
            let names = |env: &Value| env["name"].as_str().map(str::to_owned);
            let env = container["env"].as_array().into_iter().flatten();
            for name in env.filter_map(names) {
                args.extend(match name.as_str() {
                    "AGGRIK8S_NODE" => ["--node", "n"],
                    "AGGRIK8S_RESPOND" => ["--respond", "10.0.0.1,fd00::1"],
                    other => panic!("`{other}`"),
                });
            }
            probe_user::cli::Cli::try_parse_from(&args)
                .map_err(|error| anyhow::anyhow!("{args:?}: {error}"))?;
            parsed += 1;
        }
    }
    assert_eq!(parsed, 5);
    Ok(())
}
