//! ConfigMaps.

use serde_json::Value;

use super::Metadata;
use super::kind::Kind;
use super::print::{AGE, NAME, age, name, string};
use super::tree::{entries, flag, has, value};
use super::validate::config_key;
use crate::field::{Errors, Path};

/// The content of one ConfigMap or Secret.
pub(super) const CONTENT_MAX: usize = 1024 * 1024;

pub(super) static RULES: Kind = Kind {
    validate,
    validate_update,
    columns: &[NAME, string("Data"), AGE],
    row: |object, now| {
        let count = entries(object, "data").count() + entries(object, "binaryData").count();
        vec![name(object), count.into(), age(object, now)]
    },
    metadata: Metadata::CHANGE_NEW,
    ..Kind::BASE
};

fn validate(object: &Value, errors: &mut Errors) {
    let mut size = 0;
    for field in ["data", "binaryData"] {
        let path = Path::new(field);
        for (key, content) in entries(object, field) {
            for fault in config_key(key) {
                errors.invalid(&path.key(key), key, &fault);
            }
            if field == "data" && has(value(object, "binaryData"), key) {
                errors.invalid(&path.key(key), key, "duplicate of key present in binaryData");
            }
            let length = content.as_str().map_or(0, str::len);
            // Bytes are base64 in JSON.
            size += if field == "data" { length } else { decoded_length(content) };
        }
    }
    if size > CONTENT_MAX {
        errors.too_long(&Path::new(""), CONTENT_MAX);
    }
}

/// The number of bytes that a base64 text stands for.
pub(super) fn decoded_length(content: &Value) -> usize {
    let text = content.as_str().unwrap_or_default();
    text.trim_end_matches('=').len() * 3 / 4
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    frozen(new, old, &["data", "binaryData"], errors);
}

/// What `immutable` forbids: taking it back, and changing the content.
pub(super) fn frozen(new: &Value, old: &Value, fields: &[&str], errors: &mut Errors) {
    const WHY: &str = "field is immutable when `immutable` is set";
    if !flag(old, "immutable") {
        return;
    }
    if !flag(new, "immutable") {
        errors.forbidden(&Path::new("immutable"), WHY);
    }
    for field in fields.iter().filter(|field| !super::tree::same(value(new, field), value(old, field))) {
        errors.forbidden(&Path::new(field), WHY);
    }
}
