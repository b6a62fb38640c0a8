//! `aggrik8s install --render`: one file per cluster, the same again the second time, and errors that say what to do.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const MESH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/aggrik8s-net.yaml");

fn install(args: &[&str], out: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_aggrik8s"))
        .args(["install", "-f", MESH, "--render"])
        .arg(out)
        .args(args)
        .env_remove("AGGRIK8S_IMAGE")
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn objects(file: &Path) -> Vec<Value> {
    serde_saphyr::from_multiple(&fs::read_to_string(file).unwrap()).unwrap()
}

#[test]
fn every_cluster_gets_its_file() {
    let out = tempfile::tempdir().unwrap();
    let values = out.path().join("values.yaml");
    fs::write(&values, "{agent: {log: debug}, image: {tag: ignored}}").unwrap();
    let args = [
        "--image",
        "r.lan:5000/a:v1",
        "--values",
        values.to_str().unwrap(),
    ];
    let first = install(&args, out.path());
    assert_eq!(first.status.code(), Some(0), "{}", said(&first));
    let files: Vec<_> = String::from_utf8(first.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    assert_eq!(files.len(), 3);
    for (file, cluster) in files.iter().zip(["talos-east", "talos-west", "picluster"]) {
        let file = Path::new(file);
        assert_eq!(file, out.path().join(cluster).join("aggrik8s.yaml"));
        let objects = objects(file);
        // Nobody else makes the namespace, and it must be there before what lies in it.
        assert_eq!(objects[0]["kind"], "Namespace");
        let mesh = objects
            .iter()
            .find(|object| object["kind"] == "ConfigMap")
            .unwrap();
        assert_eq!(mesh["data"]["mesh.yaml"], fs::read_to_string(MESH).unwrap());
        let daemon_set = objects
            .iter()
            .find(|object| object["kind"] == "DaemonSet")
            .unwrap();
        let agent = &daemon_set["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(agent["image"], "r.lan:5000/a:v1");
        let args: Vec<_> = agent["args"]
            .as_array()
            .unwrap()
            .iter()
            .map(|arg| arg.as_str().unwrap())
            .collect();
        assert!(
            args.windows(2).any(|pair| pair == ["--cluster", cluster]),
            "{args:?}"
        );
        assert!(
            args.windows(2).any(|pair| pair == ["--log", "debug"]),
            "{args:?}"
        );
    }
    let before = fs::read(&files[0]).unwrap();
    assert_eq!(install(&args, out.path()).status.code(), Some(0));
    assert_eq!(fs::read(&files[0]).unwrap(), before);
    assert_eq!(
        fs::read_dir(out.path().join("picluster")).unwrap().count(),
        1
    );
}

#[test]
fn one_cluster_alone_and_without_the_namespace() {
    let out = tempfile::tempdir().unwrap();
    let values = out.path().join("values.yaml");
    fs::write(&values, "{namespace: {create: false}}").unwrap();
    let done = install(
        &[
            "--image",
            "a",
            "--clusters",
            "picluster",
            "-n",
            "mesh",
            "--values",
            values.to_str().unwrap(),
        ],
        out.path(),
    );
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    assert!(!out.path().join("talos-east").exists());
    for object in objects(&out.path().join("picluster/aggrik8s.yaml")) {
        assert_ne!(object["kind"], "Namespace");
        assert_eq!(object["metadata"]["namespace"], "mesh");
    }
}

#[test]
fn what_is_wrong_is_said_with_what_to_do() {
    let out = tempfile::tempdir().unwrap();
    let values = out.path().join("values.yaml");
    fs::write(&values, "{image: {tagg: v1}}").unwrap();
    let values = values.to_str().unwrap();
    for (args, expected) in [
        (
            vec![],
            "`image.repository` is not set\nhint: push the image with `aggrik8s image push REF`",
        ),
        (vec!["--image", "a:b:c d"], "is no image"),
        (
            vec!["--image", "a", "--clusters", "mars"],
            "declares no cluster `mars`\nhint: it declares `talos-east`",
        ),
        (
            vec!["--image", "a", "-n", "Mesh"],
            "`Mesh` is no name of a namespace\nhint: ",
        ),
        (vec!["--image", "a", "--values", values], "tagg"),
        (
            vec!["--image", "a", "--values", "/none/values.yaml"],
            "cannot read `/none/values.yaml`: No such file",
        ),
    ] {
        let done = install(&args, out.path());
        assert_eq!(done.status.code(), Some(2), "{args:?}");
        assert!(said(&done).contains(expected), "{args:?}: {}", said(&done));
        assert_eq!(
            fs::read_dir(out.path()).unwrap().count(),
            1,
            "{args:?}: wrote something"
        );
    }
}
