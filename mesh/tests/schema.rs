//! schema/mesh.schema.json is what the code says, and agrees with the reader on good and bad files.

use std::path::PathBuf;

use mesh::Mesh;

fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(path)
}

#[test]
fn the_committed_schema_is_current() {
    let path = repository("schema/mesh.schema.json");
    let mut current = serde_json::to_string_pretty(mesh::json_schema().as_value()).unwrap();
    current.push('\n');
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    if committed != current {
        std::fs::write(&path, current).unwrap();
        panic!(
            "{} was stale and has been written anew: commit it",
            path.display()
        );
    }
}

/// Whether the schema accepts `yaml`; types only, as an editor sees it.
fn schema_accepts(yaml: &str) -> bool {
    let value: serde_json::Value = serde_saphyr::from_str(yaml).unwrap();
    jsonschema::validator_for(mesh::json_schema().as_value())
        .unwrap()
        .is_valid(&value)
}

#[test]
fn schema_and_reader_agree() {
    let example = std::fs::read_to_string(repository("examples/aggrik8s-net.yaml")).unwrap();
    assert!(schema_accepts(&example));
    assert!(Mesh::parse("example", &example).is_ok());
    // Changes that both must refuse.
    for (from, to) in [
        ("mesh: aggrik8s-net\n", ""),
        ("mesh: aggrik8s-net\n", "mesh: Aggrik8s\n"),
        ("mesh: aggrik8s-net\n", "mesh: 7\n"),
        ("mesh: aggrik8s-net\n", "mesh: ~\n"),
        ("links: all", "links: every"),
        ("links: all", "links: []"),
        ("links: all", "links: [{source: talos-east}]"),
        ("links: all", "colour: red"),
        ("links: all", "tls: {ca: a, cert: b}"),
        ("links: all", "max_connected_clusters: 300"),
        ("id: 1\n", "id: 512\n"),
        ("id: 1\n", "id: \"1\"\n"),
        ("context: picluster", "context: ~"),
        ("context: picluster", "contexts: picluster"),
        ("[10.246.0.0/16]", "10.246.0.0/16"),
        ("[10.246.0.0/16]", "[10.246.0.0]"),
        ("[10.246.0.0/16]", "[]"),
        ("kind: ndvi", "kind: grpc"),
        ("port: 8080", "port: 0"),
        ("port: 8080", "port: 61000"),
        ("port: 8080", "port: http"),
        ("loss: 1%", "loss: 0.01"),
        ("loss: 1%", "loss: 1 percent"),
        ("2.5s", "2.5 s"),
        ("[192.168.10.91]", "[pi-master-01]"),
        ("[192.168.10.91]", "[192.168.10.91], agent: 192.168.10.91"),
        (
            "[192.168.10.91]",
            "[192.168.10.91], agent: \"http://192.168.10.91:1\"",
        ),
        ("name: pi-master-01", "name: pi_master"),
    ] {
        let bad = example.replace(from, to);
        assert_ne!(bad, example, "{from}");
        assert!(!schema_accepts(&bad), "the schema accepts `{to}`");
        assert!(
            Mesh::parse("example", &bad).is_err(),
            "the reader accepts `{to}`"
        );
    }
}

#[test]
fn the_manual_names_every_key_and_its_example_is_valid() {
    let manual = std::fs::read_to_string(repository("docs/mesh-yaml.md")).unwrap();
    let schema = mesh::json_schema();
    let objects = schema.as_value()["$defs"].as_object().unwrap().values();
    let keys = objects
        .chain([schema.as_value()])
        .filter_map(|object| object["properties"].as_object())
        .flat_map(|properties| properties.keys());
    for key in keys {
        assert!(
            manual.contains(&format!("`{key}`")),
            "`{key}` is not in the manual"
        );
    }
    let example = manual
        .split_once("```yaml\n")
        .and_then(|(_, rest)| rest.split_once("```"))
        .unwrap()
        .0;
    assert!(schema_accepts(example));
    if let Err(errors) = Mesh::parse("the manual's example", example) {
        panic!("{}", errors.render(example));
    }
}
