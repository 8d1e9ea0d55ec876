//! How two values differ, for messages about what cannot change.
//!
//! Upstream prints a diff of its Go structs there, which varies in its white space on purpose; ours names the fields.

use serde_json::Value;

use super::tree::same;

/// The first few fields that differ, two lines for each: what was and what was asked for.
pub(crate) fn difference(at: &str, old: &Value, new: &Value) -> String {
    let mut lines = Vec::new();
    collect(at, old, new, &mut lines);
    lines.truncate(10);
    lines.concat()
}

fn collect(at: &str, old: &Value, new: &Value, lines: &mut Vec<String>) {
    if same(old, new) || lines.len() > 10 {
        return;
    }
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for name in names {
                let (x, y) = (a.get(name).unwrap_or(&Value::Null), b.get(name).unwrap_or(&Value::Null));
                collect(&format!("{at}.{name}"), x, y, lines);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (x, y)) in a.iter().zip(b).enumerate() {
                collect(&format!("{at}[{index}]"), x, y, lines);
            }
        }
        _ => lines.push(format!("- {at}: {old}\n+ {at}: {new}\n")),
    }
}
