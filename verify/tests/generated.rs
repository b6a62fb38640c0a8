//! docs/checks.md and the schemas are what the code says: when stale they are rewritten and the test fails.

use std::path::Path;

fn ensure(path: &str, content: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    if std::fs::read_to_string(&path).ok().as_deref() == Some(content) {
        return;
    }
    std::fs::write(&path, content).expect("the repository is writable");
    panic!(
        "`{}` was stale and has been rewritten: commit it",
        path.display()
    );
}

#[test]
fn checks_are_documented() {
    ensure("docs/checks.md", &verify::checks::markdown());
}

#[test]
fn causes_are_documented() {
    ensure("docs/causes.md", &verify::causes::table::markdown());
}

#[test]
fn schema_is_current() {
    let schema = serde_json::to_string_pretty(&verify::Report::schema()).expect("a schema is JSON");
    ensure("schema/verify.schema.json", &(schema + "\n"));
}

#[test]
fn schema_of_the_baseline_is_current() {
    let schema =
        serde_json::to_string_pretty(&verify::Baseline::schema()).expect("a schema is JSON");
    ensure("schema/baseline.schema.json", &(schema + "\n"));
}
