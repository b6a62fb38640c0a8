//! The image in a real registry: pushed by `aggrik8s image push`, read back and validated by a client nobody here wrote.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::kube::peer;
use tests::netns::skip;

/// A program of this workspace, built where the running test was.
fn own(program: &str) -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    this.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
        .with_context(|| format!("no `{program}` (hint: cargo build --workspace)"))
}

fn missing() -> Option<String> {
    peer("crane", "crane")
        .err()
        .map(|error| format!("{error:#}"))
}

/// A registry on loopback; ends with the test.
struct Registry {
    server: Child,
    address: String,
}

impl Registry {
    fn start() -> Result<Self> {
        let mut server = Command::new(peer("crane", "crane")?)
            .args(["registry", "serve", "--address", "127.0.0.1:0"])
            .stderr(Stdio::piped())
            .spawn()?;
        let said = server.stderr.take().context("a piped child has a stderr")?;
        let mut lines = BufReader::new(said).lines();
        let port = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| Some(line.split_once("serving on port ")?.1.to_owned()));
        // It must not block on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let port = port.context("the registry said no port")?;
        Ok(Self {
            server,
            address: format!("127.0.0.1:{port}"),
        })
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn crane(args: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new(peer("crane", "crane")?)
        .arg("--insecure")
        .args(args)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "crane {args:?}: {said}");
    Ok(output.stdout)
}

/// Writes an image of small programs.
fn build(folder: &Path, name: &str) -> Result<PathBuf> {
    for architecture in ["amd64", "arm64"] {
        let programs = folder.join(architecture);
        fs::create_dir_all(&programs)?;
        for program in ["aggrik8s", "aggrik8s-probe"] {
            fs::write(
                programs.join(program),
                format!("{program} for {architecture}"),
            )?;
        }
    }
    let archive = folder.join(name);
    let output = Command::new(own("xtask")?)
        .arg("image")
        .args([Path::new("--amd64"), &folder.join("amd64")])
        .args([Path::new("--arm64"), &folder.join("arm64")])
        .arg(&archive)
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .env(
            "CARGO_MANIFEST_DIR",
            concat!(env!("CARGO_MANIFEST_DIR"), "/../xtask"),
        )
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "xtask image: {said}");
    Ok(archive)
}

fn push(archive: &Path, to: &str, more: &[&str]) -> Result<Output> {
    Ok(Command::new(own("aggrik8s")?)
        .args(["image", "push", to, "--archive"])
        .arg(archive)
        .args(more)
        .env_remove("AGGRIK8S_REGISTRY_USER")
        .env("HOME", "/nonexistent")
        .output()?)
}

#[test]
fn a_registry_gets_both_architectures_and_what_they_are_made_of() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let archive = build(folder.path(), "a.tar")?;
    let again = build(folder.path(), "b.tar")?;
    assert!(
        fs::read(&archive)? == fs::read(&again)?,
        "two builds differ"
    );

    let registry = Registry::start()?;
    let repository = format!("{}/mesh/aggrik8s", registry.address);
    let pushed = push(&archive, &format!("{repository}:v1"), &["--plain-http"])?;
    let said = String::from_utf8_lossy(&pushed.stderr).into_owned();
    assert_eq!(pushed.status.code(), Some(0), "{said}");
    let name = String::from_utf8(pushed.stdout)?.trim_end().to_owned();
    let digest = name
        .strip_prefix(&format!("{repository}:v1@"))
        .with_context(|| format!("`{name}` is not the name that was asked for"))?;
    // What is printed is what `install --image` takes.
    let reference: install::ImageRef = name.parse().map_err(anyhow::Error::from)?;
    assert_eq!(reference.digest.as_deref(), Some(digest));

    let by_tag = crane(&["digest", &format!("{repository}:v1")])?;
    assert_eq!(String::from_utf8(by_tag)?.trim_end(), digest);
    // Every digest and size, of every layer of every architecture, as the client computes them.
    crane(&["validate", "--remote", &name])?;
    for architecture in ["amd64", "arm64"] {
        let platform = format!("linux/{architecture}");
        let config: Value =
            serde_json::from_slice(&crane(&["config", "--platform", &platform, &name])?)?;
        assert_eq!(config["architecture"], architecture);
        assert_eq!(config["created"], "2023-11-14T22:13:20Z");
        assert_eq!(config["config"]["User"], "65532:65532");
        let files = crane(&["export", "--platform", &platform, &name, "-"])?;
        let files = String::from_utf8_lossy(&files).into_owned();
        assert!(files.contains(&format!("aggrik8s-probe for {architecture}")));

        // The bill of materials hangs on the image, and names what we link.
        let image = crane(&["digest", "--platform", &platform, &name])?;
        let image = String::from_utf8(image)?.trim_end().replace(':', "-");
        let listed: Value =
            serde_json::from_slice(&crane(&["manifest", &format!("{repository}:{image}")])?)?;
        assert_eq!(
            listed["manifests"][0]["artifactType"],
            "application/vnd.cyclonedx+json"
        );
        let bill = listed["manifests"][0]["digest"]
            .as_str()
            .context("a digest")?;
        let bill: Value =
            serde_json::from_slice(&crane(&["manifest", &format!("{repository}@{bill}")])?)?;
        let blob = bill["layers"][0]["digest"].as_str().context("a digest")?;
        let blob: Value =
            serde_json::from_slice(&crane(&["blob", &format!("{repository}@{blob}")])?)?;
        let components = blob["components"].as_array().context("components")?;
        let has = |name: &str| components.iter().any(|one| one["name"] == name);
        assert!(has("aya") && has("tonic") && has("mesh") && !has("proptest"));
        let hashed = components
            .iter()
            .filter(|one| one["hashes"].is_array())
            .count();
        assert!(hashed > 100, "{hashed} of {}", components.len());
    }

    // The second time everything is there.
    let second = push(
        &archive,
        &format!("{repository}:v1"),
        &["--plain-http", "-v"],
    )?;
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(0), "{said}");
    assert_eq!(String::from_utf8(second.stdout)?.trim_end(), name);
    assert!(!said.contains("pushing"), "{said}");
    Ok(())
}

#[test]
fn what_cannot_be_pushed_is_said() -> Result<()> {
    if skip(missing())? {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let archive = build(folder.path(), "a.tar")?;
    let registry = Registry::start()?;
    let to = format!("{}/aggrik8s", registry.address);
    let refused = |archive: &Path, to: &str, more: &[&str], expected: &str| -> Result<()> {
        let output = push(archive, to, more)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.contains(expected) && said.contains("\nhint: "),
            "{said}"
        );
        Ok(())
    };
    refused(&archive, &to, &[], "cannot push to registry")?;
    refused(&folder.path().join("none.tar"), &to, &[], "cannot read `")?;
    let digest = format!("{to}@sha256:{}", "0".repeat(64));
    refused(&archive, &digest, &[], "a digest cannot be pushed to")?;

    // One byte of a layer: nothing reaches the registry.
    let mut bytes = fs::read(&archive)?;
    let magic = [0x1f, 0x8b, 8];
    let layer = bytes
        .windows(3)
        .position(|window| window == magic)
        .context("a layer")?;
    bytes[layer + 20] ^= 1;
    let damaged = folder.path().join("damaged.tar");
    fs::write(&damaged, bytes)?;
    refused(
        &damaged,
        &to,
        &["--plain-http"],
        "does not have that digest",
    )?;
    assert_eq!(crane(&["catalog", &registry.address])?, b"");
    Ok(())
}
