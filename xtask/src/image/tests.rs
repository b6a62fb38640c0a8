//! The archive, taken apart again: digests, sizes, owners, times, and the same bytes every time.

use std::collections::BTreeMap;
use std::io::Read;

use serde_json::{Value, json};

use super::{Label, Platform, archive, layout};

fn label() -> Label {
    Label {
        version: "1.2.3".to_owned(),
        revision: Some("abc".to_owned()),
        created: Some("2026-11-22T00:00:00Z".to_owned()),
    }
}

fn platforms(order: [usize; 2]) -> Vec<Platform> {
    ["amd64", "arm64"]
        .into_iter()
        .map(|architecture| {
            let programs = [
                (
                    "aggrik8s".to_owned(),
                    format!("cli {architecture}").into_bytes(),
                ),
                ("aggrik8s-probe".to_owned(), vec![7; 100_000]),
            ];
            Platform {
                architecture,
                programs: order.iter().map(|&place| programs[place].clone()).collect(),
                sbom: json!({"bomFormat": "CycloneDX", "for": architecture}),
            }
        })
        .collect()
}

/// Path → (mode, owner, group, time, content).
type Files = BTreeMap<String, (u32, u64, u64, u64, Vec<u8>)>;

fn unpack(tar: &[u8]) -> Files {
    let mut archive = tar::Archive::new(tar);
    let mut files = Files::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let header = entry.header();
        let about = (
            header.mode().unwrap(),
            header.uid().unwrap(),
            header.gid().unwrap(),
            header.mtime().unwrap(),
            content,
        );
        let path = entry.path().unwrap().display().to_string();
        assert!(files.insert(path, about).is_none(), "a path twice");
    }
    files
}

fn json_of(files: &Files, path: &str) -> Value {
    serde_json::from_slice(&files[path].4).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What a descriptor names, checked against its digest and its size.
fn blob(files: &Files, descriptor: &Value) -> Vec<u8> {
    let digest = descriptor["digest"].as_str().unwrap();
    let content = &files[&format!("blobs/{}", digest.replace(':', "/"))].4;
    assert_eq!(layout::digest(content), digest);
    assert_eq!(descriptor["size"], content.len());
    content.clone()
}

fn json_blob(files: &Files, descriptor: &Value) -> Value {
    serde_json::from_slice(&blob(files, descriptor)).unwrap()
}

#[test]
fn the_same_programs_give_the_same_bytes() {
    let first = archive(&label(), &platforms([0, 1])).unwrap();
    let again = archive(&label(), &platforms([1, 0])).unwrap();
    assert!(first == again, "two builds differ");
    let mut other = platforms([0, 1]);
    other[1].programs[0].1.push(b'!');
    assert!(first != archive(&label(), &other).unwrap());
}

#[test]
fn everything_is_named_by_what_it_is() {
    let files = unpack(&archive(&label(), &platforms([0, 1])).unwrap());
    assert_eq!(
        json_of(&files, "oci-layout"),
        json!({"imageLayoutVersion": "1.0.0"})
    );
    let entry = json_of(&files, "index.json");
    let listed = entry["manifests"].as_array().unwrap();
    assert_eq!(listed.len(), 3);
    assert_eq!(
        listed[0]["annotations"]["io.containerd.image.name"],
        "localhost/aggrik8s:1.2.3"
    );
    let index = json_blob(&files, &listed[0]);
    let manifests = index["manifests"].as_array().unwrap();
    let mut reached = 5 + manifests.len() * 3;
    for ((manifest, architecture), sbom) in
        manifests.iter().zip(["amd64", "arm64"]).zip(&listed[1..])
    {
        assert_eq!(
            manifest["platform"],
            json!({"architecture": architecture, "os": "linux"})
        );
        let image = json_blob(&files, manifest);
        let config = json_blob(&files, &image["config"]);
        assert_eq!(config["architecture"], architecture);
        assert_eq!(config["config"]["User"], "65532:65532");
        assert_eq!(
            config["config"]["Entrypoint"],
            json!(["/usr/local/bin/aggrik8s-probe"])
        );
        assert_eq!(config["created"], "2026-11-22T00:00:00Z");

        let packed = blob(&files, &image["layers"][0]);
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(packed.as_slice())
            .read_to_end(&mut plain)
            .unwrap();
        assert_eq!(
            config["rootfs"]["diff_ids"],
            json!([layout::digest(&plain)])
        );
        let layer = unpack(&plain);
        let modes: Vec<_> = layer
            .iter()
            .map(|(path, file)| (path.as_str(), file.0))
            .collect();
        assert_eq!(
            modes,
            [
                ("etc/", 0o755),
                ("etc/group", 0o644),
                ("etc/passwd", 0o644),
                ("usr/", 0o755),
                ("usr/local/", 0o755),
                ("usr/local/bin/", 0o755),
                ("usr/local/bin/aggrik8s", 0o755),
                ("usr/local/bin/aggrik8s-probe", 0o755),
            ]
        );
        assert!(
            layer
                .values()
                .all(|file| (file.1, file.2, file.3) == (0, 0, 0))
        );
        assert_eq!(
            layer["usr/local/bin/aggrik8s"].4,
            format!("cli {architecture}").into_bytes()
        );

        let sbom = json_blob(&files, sbom);
        assert_eq!(sbom["subject"]["digest"], manifest["digest"]);
        assert_eq!(sbom["artifactType"], "application/vnd.cyclonedx+json");
        let bill = json_blob(&files, &sbom["layers"][0]);
        assert_eq!(bill["for"], architecture);
        blob(&files, &sbom["config"]);
        reached += 2;
    }
    let docker = json_of(&files, "manifest.json");
    let image = json_blob(&files, &manifests[0]);
    let path = |descriptor: &Value| {
        format!(
            "blobs/{}",
            descriptor["digest"].as_str().unwrap().replace(':', "/")
        )
    };
    assert_eq!(docker.as_array().unwrap().len(), 1);
    assert_eq!(docker[0]["Config"], path(&image["config"]));
    assert_eq!(docker[0]["Layers"], json!([path(&image["layers"][0])]));
    // Three named files, the index, the empty config, and nothing that no descriptor names.
    let blobs = files.keys().filter(|path| !path.ends_with('/')).count();
    assert_eq!(blobs, reached);
}
