//! The committed Rust is what the committed protobuf gives; a stale file is rewritten and the test fails.

use std::fs;
use std::path::Path;

#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let descriptors = protox::compile(
        [root.join("proto/aggrik8s/v1/probe.proto")],
        [root.join("proto")],
    )
    .expect("the protobuf must compile");

    let out = tempfile::tempdir().expect("a temporary folder");
    tonic_prost_build::configure()
        .btree_map(".")
        .out_dir(out.path())
        .compile_fds(descriptors)
        .expect("code must generate");

    let fresh = fs::read_to_string(out.path().join("aggrik8s.v1.rs")).expect("generated file");
    let path = root.join("src/gen/aggrik8s.v1.rs");
    let committed = fs::read_to_string(&path).unwrap_or_default();
    if committed != fresh {
        fs::write(&path, &fresh).expect("write the fresh code");
        panic!("{} was stale; rewritten, commit it", path.display());
    }
}
