//! Values of the chart, typed. Defaults are those of `values.yaml`; the schema that the chart ships is made from
//! these types, and both helm and [`Values::load`] hold what users write against it.

use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

const DEFAULTS: &str = include_str!("../../charts/aggrik8s/values.yaml");
const SCHEMA: &str = include_str!("../../charts/aggrik8s/values.schema.json");

/// An object that is passed on to Kubernetes as it is.
pub type Map = serde_json::Map<String, Value>;
/// Annotations and the like.
pub(crate) type Strings = BTreeMap<String, String>;

#[derive(Debug, thiserror::Error)]
pub enum ValuesError {
    #[error("cannot read the values in `{file}`")]
    Syntax {
        file: String,
        #[source]
        source: Box<serde_saphyr::Error>,
    },
    #[error("the values in `{0}` are no mapping")]
    NoMapping(String),
    /// Each line a place and what is wrong there.
    #[error("values do not fit the chart's schema:\n{}", .0.join("\n"))]
    Schema(Vec<String>),
    #[error("values do not fit")]
    Type(#[source] serde_json::Error),
}

macro_rules! section {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, rename_all = "camelCase")]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }
    };
}

section! {
    /// All values; what each means stands in `values.yaml`.
    Values {
        cluster: String,
        mesh: String,
        image: Image,
        pull_secrets: Vec<String>,
        namespace: NamespaceValues,
        service_account: ServiceAccount,
        agent: Agent,
        holder: Holder,
        #[schemars(regex(pattern = r"^/"))]
        cgroup: String,
        seccomp: Seccomp,
        #[schemars(regex(pattern = r"^([0-9]{1,3}(\.[0-9]{1,3}){3}|\[[0-9a-fA-F:]+\])$"))]
        listen: String,
        api: Api,
        metrics: Metrics,
        node_plane: NodePlane,
        update_strategy: Map,
        node_selector: Strings,
        tolerations: Vec<Map>,
        affinity: Map,
        priority_class_name: String,
        pod_annotations: Strings,
        pod_labels: Labels,
        network_policy: NetworkPolicy,
        pod_monitor: Monitor,
        service_monitor: Monitor,
        /// What an umbrella chart shares with all of its charts; nothing of it is used here.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(with = "Map")]
        global: Option<Map>,
    }
}

section! { Image {
    #[schemars(regex(pattern = r"^([a-zA-Z0-9][a-zA-Z0-9._:/-]*)?$"))]
    repository: String,
    #[schemars(regex(pattern = r"^([a-zA-Z0-9_][a-zA-Z0-9._-]{0,127})?$"))]
    tag: String,
    #[schemars(regex(pattern = r"^(sha256:[0-9a-f]{64})?$"))]
    digest: String,
    pull_policy: PullPolicy,
} }

section! { NamespaceValues { create: bool, } }
section! { ServiceAccount { annotations: Strings, } }
section! { Agent {
    log: String,
    #[schemars(regex(pattern = r"^(off|[0-9].*)$"))]
    background_interval: String,
    resources: Map,
} }
section! { Holder { log: String, resources: Map, } }
section! { Seccomp {
    profile: SeccompProfile,
    #[schemars(regex(pattern = r"^/"))]
    kubelet_dir: String,
} }
section! { Api {
    #[schemars(range(min = 1024, max = 60_999))]
    port: u16,
    tls: Tls,
} }
section! { Tls { source: TlsSource, #[schemars(length(min = 1))] secret_name: String, cert_manager: CertManager, } }
section! { CertManager {
    issuer: Issuer,
    duration: String,
    renew_before: String,
    dns_names: Vec<String>,
    ip_addresses: Vec<String>,
} }
section! { Issuer { name: String, kind: String, group: String, } }
section! { Metrics { #[schemars(range(min = 1024, max = 60_999))] port: u16, } }
section! { NodePlane {
    enabled: bool,
    #[schemars(range(min = 1024, max = 60_999))]
    api_port: u16,
    #[schemars(range(min = 1024, max = 60_999))]
    metrics_port: u16,
} }
section! { NetworkPolicy { enabled: bool, metrics_from: Vec<Map>, api_from: Vec<Map>, } }
section! { Monitor {
    enabled: bool,
    labels: Labels,
    #[schemars(regex(pattern = r"^[0-9]+(ms|s|m|h)$"))]
    interval: String,
    relabelings: Vec<Map>,
    metric_relabelings: Vec<Map>,
} }

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SeccompProfile {
    Localhost,
    RuntimeDefault,
    Unconfined,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum TlsSource {
    None,
    Secret,
    CertManager,
}

/// Labels beside those that the chart sets itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(pub Strings);

impl JsonSchema for Labels {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Labels".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "propertyNames": {"not": {"pattern": "^app\\.kubernetes\\.io/(name|version|component)$"}},
            "additionalProperties": {"type": "string"},
        })
    }
}

/// The chart's `values.schema.json`. Draft 7, which every helm 3 knows.
#[must_use]
pub fn schema() -> Value {
    let generator = SchemaSettings::draft07().into_generator();
    generator.into_root_schema_for::<Values>().to_value()
}

impl Values {
    /// The chart's defaults, overridden by each file (its name, its text) in turn, as helm does: mappings are merged,
    /// `null` takes a key away, anything else replaces.
    pub fn load(files: &[(&str, &str)]) -> Result<Self, ValuesError> {
        let mut values = read("values.yaml", DEFAULTS)?;
        for (file, text) in files {
            merge(&mut values, read(file, text)?);
        }
        Self::from_json(values.into())
    }

    fn from_json(values: Value) -> Result<Self, ValuesError> {
        let schema: Value = serde_json::from_str(SCHEMA).map_err(ValuesError::Type)?;
        let validator = jsonschema::validator_for(&schema)
            .map_err(|error| ValuesError::Schema(vec![error.to_string()]))?;
        let problems: Vec<_> = validator
            .iter_errors(&values)
            .map(|error| format!("  {}: {error}", error.instance_path()))
            .collect();
        if !problems.is_empty() {
            return Err(ValuesError::Schema(problems));
        }
        serde_json::from_value(values).map_err(ValuesError::Type)
    }
}

fn read(file: &str, text: &str) -> Result<Map, ValuesError> {
    let value: Value = serde_saphyr::from_str(text).map_err(|source| ValuesError::Syntax {
        file: file.to_owned(),
        source: Box::new(source),
    })?;
    match value {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        _ => Err(ValuesError::NoMapping(file.to_owned())),
    }
}

fn merge(base: &mut Map, over: Map) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Object(below)), Value::Object(above)) => merge(below, above),
            (_, Value::Null) => {
                base.remove(&key);
            }
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}
