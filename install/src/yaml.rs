//! Objects as YAML that readers of YAML 1.1 and 1.2 understand alike.

use serde_json::Value;

/// One document per object, in order.
///
/// # Panics
/// Never: JSON values always have a YAML form.
#[must_use]
pub fn to_yaml(objects: &[Value]) -> String {
    let mut text = String::new();
    for object in objects {
        text += "---\n";
        text += &serde_saphyr::to_string(object).expect("a JSON value is a YAML value");
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    text
}
