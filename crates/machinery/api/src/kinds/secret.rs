//! Secrets: `stringData` merged, types with required keys, `immutable`. Contents never appear in messages.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::Metadata;
use super::config_map::{CONTENT_MAX, decoded_length, frozen};
use super::kind::Kind;
use super::print::{AGE, NAME, age, name, string};
use super::tree::{default_text, ensure_map, entries, has, remove, set, text, value};
use super::validate::{config_key, meta::immutable};
use crate::field::{Errors, Path};

pub(super) static RULES: Kind = Kind {
    default: |object| {
        merge_text(object);
        default_text(object, "type", "Opaque");
    },
    prepare_update: |new, old| {
        // A client that leaves the type out does not mean to change it; the default has filled it by now.
        if text(new, "type").is_empty() {
            let kind = text(old, "type").to_owned();
            set(new, "type", kind);
        }
    },
    validate,
    validate_update: |new, old, errors| {
        immutable(value(new, "type"), value(old, "type"), &Path::new("type"), errors);
        frozen(new, old, &["data"], errors);
    },
    fields: |object| vec![("type", text(object, "type").to_owned())],
    columns: &[NAME, string("Type"), string("Data"), AGE],
    row: |object, now| {
        vec![
            name(object),
            text(object, "type").into(),
            entries(object, "data").count().into(),
            age(object, now),
        ]
    },
    metadata: Metadata::CHANGE_NEW,
    ..Kind::BASE
};

/// `stringData` is for writing only: it becomes part of `data`.
fn merge_text(object: &mut Value) {
    if object.get("stringData").is_none() {
        return;
    }
    let added: Vec<(String, String)> = entries(object, "stringData")
        .map(|(key, content)| (key.to_owned(), STANDARD.encode(content.as_str().unwrap_or_default())))
        .collect();
    if !added.is_empty()
        && let Some(data) = ensure_map(object, "data")
    {
        for (key, content) in added {
            set(data, &key, content);
        }
    }
    remove(object, "stringData");
}

fn validate(object: &Value, errors: &mut Errors) {
    let path = Path::new("data");
    let data = value(object, "data");
    let mut size = 0;
    for (key, content) in entries(object, "data") {
        for fault in config_key(key) {
            errors.invalid(&path.key(key), key, &fault);
        }
        size += decoded_length(content);
    }
    if size > CONTENT_MAX {
        errors.too_long(&path, CONTENT_MAX);
    }
    let mut require = |keys: &[&str]| {
        for key in keys.iter().filter(|key| !has(data, key)) {
            errors.required(&path.key(key), "");
        }
    };
    match text(object, "type") {
        "kubernetes.io/service-account-token" => {
            const ACCOUNT: &str = "kubernetes.io/service-account.name";
            if text(value(value(object, "metadata"), "annotations"), ACCOUNT).is_empty() {
                let meta = Path::new("metadata");
                errors.required(&meta.child("annotations").key(ACCOUNT), "");
            }
        }
        "kubernetes.io/dockercfg" => json_object(data, ".dockercfg", &path, errors),
        "kubernetes.io/dockerconfigjson" => json_object(data, ".dockerconfigjson", &path, errors),
        "kubernetes.io/basic-auth" if !has(data, "username") && !has(data, "password") => {
            require(&["username", "password"]);
        }
        "kubernetes.io/ssh-auth" if text(data, "ssh-privatekey").is_empty() => {
            errors.required(&path.key("ssh-privatekey"), "");
        }
        "kubernetes.io/tls" => require(&["tls.crt", "tls.key"]),
        _ => {}
    }
}

fn json_object(data: &Value, key: &str, path: &Path<'_>, errors: &mut Errors) {
    if !has(data, key) {
        errors.required(&path.key(key), "");
        return;
    }
    let bytes = STANDARD.decode(text(data, key)).unwrap_or_default();
    if let Err(fault) = serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes) {
        // The position is enough; the words of the fault could quote the content.
        let why = if bytes.is_empty() {
            "unexpected end of JSON input".to_owned()
        } else {
            format!("invalid JSON object at line {} column {}", fault.line(), fault.column())
        };
        errors.invalid(&path.key(key), "<secret contents redacted>", &why);
    }
}
