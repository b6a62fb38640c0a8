//! Secrets without their keys: what ends in `.key` is skipped while the answer is parsed, and nothing holds it afterwards.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::ByteString;
use kube::Client;
use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use verify::control::view::Seen;

use super::NAMESPACE;
use crate::ask::Deadline;

/// The public part of a Secret, by key.
pub(super) type Public = BTreeMap<String, Vec<u8>>;

#[derive(Deserialize)]
struct Bare {
    #[serde(default)]
    data: Keyless,
}

#[derive(Default)]
struct Keyless(Public);

impl<'de> Deserialize<'de> for Keyless {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Skip;
        impl<'de> Visitor<'de> for Skip {
            type Value = Keyless;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the data of a Secret")
            }

            fn visit_unit<E>(self) -> Result<Keyless, E> {
                Ok(Keyless::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keyless, A::Error> {
                let mut kept = Public::new();
                while let Some(key) = map.next_key::<String>()? {
                    if key.ends_with(".key") {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        kept.insert(key, map.next_value::<ByteString>()?.0);
                    }
                }
                Ok(Keyless(kept))
            }
        }
        deserializer.deserialize_any(Skip)
    }
}

/// The public part of a Secret in kube-system.
pub(super) async fn public(
    client: &Client,
    name: &str,
    deadline: Deadline,
) -> Seen<Option<Public>> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets/{name}");
    let request = hyper::Request::get(path).body(Vec::new());
    let resource = format!("secrets `{name}` in kube-system");
    let read = async {
        let request = request.map_err(kube::Error::HttpError)?;
        client.request::<Bare>(request).await
    };
    let secret = deadline.get(&resource, read).await?;
    Ok(secret.map(|secret| secret.data.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_not_read() {
        let text = r#"{"kind":"Secret","data":{"tls.key":"a2V5","tls.crt":"Y3J0","west.etcd-client.key":"a2V5","ca.crt":""}}"#;
        let secret: Bare = serde_json::from_str(text).expect("a Secret");
        let kept: Vec<_> = secret.data.0.keys().map(String::as_str).collect();
        assert_eq!(kept, ["ca.crt", "tls.crt"]);
        assert_eq!(secret.data.0["tls.crt"], b"crt");
        for text in [r#"{"kind":"Secret"}"#, r#"{"data":null}"#] {
            let secret: Bare = serde_json::from_str(text).expect("a Secret without data");
            assert!(secret.data.0.is_empty());
        }
    }
}
