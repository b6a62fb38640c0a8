//! What the chart ships beside its templates is what the code says: schema, version, and the fields that security
//! hangs on, as goldens. A stale file is rewritten and the test fails.

use std::path::PathBuf;

use install::{SeccompProfile, TlsSource, Values, ValuesError, objects};
use serde_json::{Value, json};

fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(path)
}

fn current(path: &str, text: &str) {
    let path = repository(path);
    if std::fs::read_to_string(&path).unwrap_or_default() != text {
        std::fs::write(&path, text).unwrap();
        panic!(
            "`{}` was stale and has been rewritten: look at the difference, then commit it",
            path.display()
        );
    }
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap() + "\n"
}

fn values(more: &str) -> Values {
    let needed = "{cluster: east, mesh: 'mesh: test', image: {repository: r.lan/aggrik8s}}";
    Values::load(&[("needed.yaml", needed), ("more.yaml", more)])
        .unwrap_or_else(|error| panic!("{more}: {error}"))
}

#[test]
fn the_committed_schema_is_current() {
    current(
        "charts/aggrik8s/values.schema.json",
        &pretty(&install::schema()),
    );
}

#[test]
fn the_chart_has_the_version_of_the_programs() {
    let chart = std::fs::read_to_string(repository("charts/aggrik8s/Chart.yaml")).unwrap();
    let chart: Value = serde_saphyr::from_str(&chart).unwrap();
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["name"], install::NAME);
}

/// Everything of a pod template that decides what its containers may do.
fn security(daemon_set: &Value) -> Value {
    let spec = &daemon_set["spec"]["template"]["spec"];
    let containers = |key: &str| {
        let containers = spec[key].as_array().into_iter().flatten();
        let container = |container: &Value| {
            let kept = [
                "name",
                "args",
                "env",
                "envFrom",
                "securityContext",
                "volumeMounts",
                "volumeDevices",
                "lifecycle",
                "ports",
            ];
            kept.into_iter()
                .filter_map(|key| Some((key.to_owned(), container.get(key)?.clone())))
                .collect::<Value>()
        };
        containers.map(container).collect::<Vec<_>>()
    };
    json!({
        "daemonSet": daemon_set["metadata"]["name"],
        "hostNetwork": spec["hostNetwork"],
        "hostPID": spec["hostPID"],
        "hostIPC": spec["hostIPC"],
        "serviceAccountName": spec["serviceAccountName"],
        "automountServiceAccountToken": spec["automountServiceAccountToken"],
        "securityContext": spec["securityContext"],
        "initContainers": containers("initContainers"),
        "containers": containers("containers"),
        "volumes": spec["volumes"],
    })
}

#[test]
fn what_pods_may_do_is_as_committed() {
    let all =
        "{nodePlane: {enabled: true}, api: {tls: {source: secret}}, namespace: {create: true}}";
    let objects = objects(&values(all), "aggrik8s").unwrap();
    let namespace = objects.iter().find(|object| object["kind"] == "Namespace");
    let daemon_sets: Vec<_> = objects
        .iter()
        .filter(|object| object["kind"] == "DaemonSet")
        .map(security)
        .collect();
    assert_eq!(daemon_sets.len(), 2);
    let golden = json!({
        "namespaceLabels": namespace.unwrap()["metadata"]["labels"],
        "daemonSets": daemon_sets,
    });
    current("install/tests/golden/security.json", &pretty(&golden));
}

/// No rule at all: the pods ask the API server nothing.
#[test]
fn the_account_has_no_role() {
    let all = "{nodePlane: {enabled: true}, api: {tls: {source: certManager, certManager: {issuer: {name: i}}}},
        podMonitor: {enabled: true}, serviceMonitor: {enabled: true}, namespace: {create: true}}";
    let mut kinds: Vec<_> = objects(&values(all), "aggrik8s")
        .unwrap()
        .iter()
        .map(|object| format!("{}/{}", object["apiVersion"], object["kind"]).replace('"', ""))
        .collect();
    kinds.sort();
    assert_eq!(
        kinds,
        [
            "apps/v1/DaemonSet",
            "apps/v1/DaemonSet",
            "cert-manager.io/v1/Certificate",
            "monitoring.coreos.com/v1/PodMonitor",
            "monitoring.coreos.com/v1/ServiceMonitor",
            "networking.k8s.io/v1/NetworkPolicy",
            "v1/ConfigMap",
            "v1/Namespace",
            "v1/Service",
            "v1/Service",
            "v1/ServiceAccount",
        ]
    );
}

#[test]
fn values_are_merged_as_by_helm() {
    let merged = values(
        "{agent: {resources: {limits: {memory: 1Gi, cpu: 1}}}, nodeSelector: {kubernetes.io/os: null, a: b}, tolerations: []}",
    );
    assert_eq!(
        Value::Object(merged.agent.resources),
        json!({"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"memory": "1Gi", "cpu": 1}})
    );
    assert_eq!(json!(merged.node_selector), json!({"a": "b"}));
    assert!(merged.tolerations.is_empty());
    assert_eq!(merged.seccomp.profile, SeccompProfile::Localhost);
    assert_eq!(merged.api.tls.source, TlsSource::None);
}

#[test]
fn bad_values_are_named_with_their_place() {
    for (bad, place) in [
        ("{colour: red}", "'colour'"),
        ("{image: {tag: 1.5}}", "/image/tag"),
        ("{image: {digest: 'sha256:12'}}", "/image/digest"),
        ("{image: {pullPolicy: Sometimes}}", "/image/pullPolicy"),
        ("{api: {tls: {source: plain}}}", "/api/tls/source"),
        ("{api: {port: 61000}}", "/api/port"),
        ("{listen: localhost}", "/listen"),
        ("{seccomp: {profile: Off}}", "/seccomp/profile"),
        ("{podLabels: {app.kubernetes.io/name: x}}", "/podLabels"),
        ("{podAnnotations: {a: 1}}", "/podAnnotations/a"),
        ("{tolerations: [all]}", "/tolerations/0"),
        ("{agent: null}", "'agent'"),
        (
            "{serviceMonitor: {enabled: yes please}}",
            "/serviceMonitor/enabled",
        ),
    ] {
        let error = Values::load(&[("bad.yaml", bad)]).unwrap_err();
        let ValuesError::Schema(lines) = &error else {
            panic!("{bad}: {error}");
        };
        let lines = lines.join("\n").replace('"', "'");
        assert!(lines.contains(place), "{bad}: {lines}");
    }
    let error = Values::load(&[("bad.yaml", "- a")]).unwrap_err();
    assert_eq!(error.to_string(), "the values in `bad.yaml` are no mapping");
    assert!(Values::load(&[("bad.yaml", "a: [")]).is_err());
}

#[test]
fn what_is_missing_is_named() {
    let refused = |more: &str| objects(&values(more), "aggrik8s").unwrap_err().to_string();
    assert_eq!(refused("{cluster: ''}"), "`cluster` is not set");
    assert_eq!(refused("{mesh: ''}"), "`mesh` is not set");
    assert_eq!(
        refused("{image: {repository: ''}}"),
        "`image.repository` is not set"
    );
    assert_eq!(
        refused("{nodePlane: {enabled: true}}"),
        "`nodePlane.enabled` needs `api.tls.source` `secret` or `certManager`"
    );
    assert_eq!(
        refused("{api: {tls: {source: certManager}}}"),
        "`api.tls.certManager.issuer.name` is not set"
    );
}

#[test]
fn yaml_says_what_the_object_says() {
    let object = json!({
        "yes": "yes", "no": "off", "number": "0123", "octal": "0o17", "sexagesimal": "1:30",
        "version": "1.10", "null": "null", "tilde": "~", "empty": "", "date": "2026-11-22",
        "colon": "a: b", "hash": "a #b", "tab": "\ta", "lines": "a\n b\n\n", "end": "a\n\n",
        "carriage": "a\r\nb", "list": [], "map": {}, "quote": "it's \"so\"", "bom": "\u{feff}a",
        "long": "word ".repeat(60), "star": "*a", "nested": [[1, 2], [{"a": [true, null]}]],
    });
    let text = install::to_yaml(&[object.clone(), json!({"second": "---\n"})]);
    let back: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    assert_eq!(back, [object, json!({"second": "---\n"})], "{text}");
}
