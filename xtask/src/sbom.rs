//! What the programs are made of: CycloneDX from `cargo metadata` and the checksums in Cargo.lock, without a time
//! or a random number, so that it is the same for the same commit.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Everything that `roots` link or run at build time for the platform that `metadata` was made for; tests left out.
pub(crate) fn cyclonedx(
    metadata: &Value,
    lock: &str,
    roots: &[&str],
    version: &str,
) -> Result<Value> {
    let packages: BTreeMap<&str, &Value> = list(metadata, "packages")?
        .iter()
        .filter_map(|package| Some((package["id"].as_str()?, package)))
        .collect();
    let nodes: BTreeMap<&str, &Value> = list(&metadata["resolve"], "nodes")?
        .iter()
        .filter_map(|node| Some((node["id"].as_str()?, node)))
        .collect();
    let checksums = checksums(lock);

    let mut open: Vec<&str> = packages
        .iter()
        .filter(|(_, package)| roots.iter().any(|root| package["name"] == *root))
        .map(|(id, _)| *id)
        .collect();
    let mut uses: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    while let Some(id) = open.pop() {
        if uses.contains_key(id) {
            continue;
        }
        let node = nodes
            .get(id)
            .with_context(|| format!("`{id}` is not resolved"))?;
        let used: BTreeSet<_> = list(node, "deps")?
            .iter()
            .filter(|used| {
                let kinds = used["dep_kinds"].as_array();
                kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"] != "dev"))
            })
            .filter_map(|used| used["pkg"].as_str())
            .collect();
        open.extend(&used);
        uses.insert(id, used);
    }

    let purl = |id: &str| {
        let package = packages[id];
        let part = |key: &str| package[key].as_str().unwrap_or_default();
        format!("pkg:cargo/{}@{}", part("name"), part("version"))
    };
    let mut components: BTreeMap<String, Value> = BTreeMap::new();
    let mut dependencies: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (id, used) in &uses {
        let package = packages[id];
        let reference = purl(id);
        let mut component = json!({
            "type": "library",
            "bom-ref": reference,
            "name": package["name"],
            "version": package["version"],
            "purl": reference,
        });
        if let Some(licence) = package["license"].as_str() {
            // What crates wrote before SPDX expressions.
            let expression = licence.replace('/', " OR ");
            component["licenses"] = json!([{"expression": expression}]);
        }
        let key = (package["name"].as_str(), package["version"].as_str());
        if let (Some(name), Some(version)) = key
            && let Some(sum) = checksums.get(&(name, version))
        {
            component["hashes"] = json!([{"alg": "SHA-256", "content": sum}]);
        }
        dependencies.insert(reference.clone(), used.iter().map(|id| purl(id)).collect());
        components.insert(reference, component);
    }
    let components: Vec<_> = components.into_values().collect();
    let dependencies: Vec<_> = dependencies
        .into_iter()
        .map(|(reference, used)| json!({"ref": reference, "dependsOn": used}))
        .collect();
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "aggrik8s", "version": version}},
        "components": components,
        "dependencies": dependencies,
    }))
}

fn list<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    value[key]
        .as_array()
        .with_context(|| format!("`cargo metadata` has no list `{key}`"))
}

/// Of every package in Cargo.lock that came from a registry.
fn checksums(lock: &str) -> BTreeMap<(&str, &str), &str> {
    lock.split("[[package]]")
        .filter_map(|package| {
            let field = |key: &str| {
                let value = package.lines().find_map(|line| line.strip_prefix(key))?;
                Some(value.trim_matches('"'))
            };
            Some((
                (field("name = ")?, field("version = ")?),
                field("checksum = ")?,
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lists_what_is_linked_and_nothing_of_the_tests() {
        let package = |name: &str, licence: &str| json!({"id": format!("{name}#1"), "name": name, "version": "1.0.0", "license": licence});
        let dep = |name: &str, kind: Value| json!({"pkg": format!("{name}#1"), "dep_kinds": [{"kind": kind}]});
        let node = |name: &str, deps: Vec<Value>| json!({"id": format!("{name}#1"), "deps": deps});
        let metadata = json!({
            "packages": [package("app", "MIT"), package("lib", "MIT/Apache-2.0"), package("deep", "ISC"), package("only-tests", "MIT"), package("other", "MIT")],
            "resolve": {"nodes": [
                node("app", vec![dep("lib", Value::Null), dep("only-tests", json!("dev"))]),
                node("lib", vec![dep("deep", json!("build"))]),
                node("deep", vec![]),
                node("only-tests", vec![]),
                node("other", vec![dep("only-tests", Value::Null)]),
            ]},
        });
        let lock = "[[package]]\nname = \"lib\"\nversion = \"1.0.0\"\nsource = \"x\"\nchecksum = \"00ff\"\n\n[[package]]\nname = \"app\"\nversion = \"1.0.0\"\n";
        let bill = cyclonedx(&metadata, lock, &["app"], "2.0.0").unwrap();
        let components = bill["components"].as_array().unwrap();
        let names: Vec<_> = components
            .iter()
            .map(|one| one["purl"].as_str().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "pkg:cargo/app@1.0.0",
                "pkg:cargo/deep@1.0.0",
                "pkg:cargo/lib@1.0.0"
            ]
        );
        assert_eq!(
            components[2]["hashes"],
            json!([{"alg": "SHA-256", "content": "00ff"}])
        );
        assert_eq!(
            components[2]["licenses"],
            json!([{"expression": "MIT OR Apache-2.0"}])
        );
        assert!(components[0].get("hashes").is_none());
        assert_eq!(
            bill["dependencies"][0],
            json!({"ref": "pkg:cargo/app@1.0.0", "dependsOn": ["pkg:cargo/lib@1.0.0"]})
        );
        assert_eq!(bill["metadata"]["component"]["version"], "2.0.0");
    }
}
