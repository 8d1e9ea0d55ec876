//! Values in error messages as upstream shows them: a struct of its internal types has Go's names, every field, in the
//! order of its declaration; one of the meta types is shown as it is written.

use std::fmt::Write;

use serde_json::Value;

use super::tree::value;
use crate::field::{Errors, Path, Reason};
use crate::schema::{self, Field, Kind, Shape, TypeId};

/// One [`Reason::Invalid`] for a value that upstream shows as a struct of this type, such as `policy.v1.SuccessPolicy`.
pub(crate) fn invalid(name: &str, object: &Value, detail: &str, path: &Path<'_>, errors: &mut Errors) {
    errors.push(Reason::Invalid, path, format!("Invalid value: {}: {detail}", shown(name, object)));
}

/// One [`Reason::NotSupported`] for a value that upstream shows as a struct of this type.
pub(crate) fn not_supported(
    name: &str,
    object: &Value,
    supported: &[&str],
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let supported: Vec<String> = supported.iter().map(|choice| format!("{choice:?}")).collect();
    let message =
        format!("Unsupported value: {}: supported values: {}", shown(name, object), supported.join(", "));
    errors.push(Reason::NotSupported, path, message);
}

/// The value as a struct of this type.
pub(crate) fn shown(name: &str, object: &Value) -> String {
    let mut text = String::new();
    match schema::by_name(name) {
        Some(ty) => put_object(ty, object, &mut text),
        None => text = object.to_string(),
    }
    text
}

fn put_object(ty: TypeId, object: &Value, text: &mut String) {
    let written = ty.name().starts_with("meta.");
    let mut separator = '{';
    for field in ty.fields_by_tag() {
        let content = value(object, field.name);
        if written && content.is_null() && field.omits_empty() {
            continue;
        }
        let name = if written { field.name.to_owned() } else { go_name(field.name) };
        write!(text, "{separator}\"{name}\":").expect(TEXT);
        put_field(field, content, text);
        separator = ',';
    }
    text.push_str(if separator == '{' { "{}" } else { "}" });
}

const TEXT: &str = "text takes all";

fn put_field(field: &Field, content: &Value, text: &mut String) {
    match (field.shape, content) {
        (Shape::List, Value::Array(items)) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                put(field.kind, item, text);
            }
            text.push(']');
        }
        (Shape::Map, Value::Object(entries)) => {
            text.push('{');
            for (index, (key, item)) in entries.iter().enumerate() {
                let comma = if index > 0 { "," } else { "" };
                write!(text, "{comma}{}:", Value::from(key.as_str())).expect(TEXT);
                put(field.kind, item, text);
            }
            text.push('}');
        }
        (Shape::One, Value::Null) if !field.is_pointer() => put(field.kind, content, text),
        (_, Value::Null) => text.push_str("null"),
        (_, content) => put(field.kind, content, text),
    }
}

fn put(kind: Kind, content: &Value, text: &mut String) {
    match (kind, content) {
        (Kind::Object(ty), content) => put_object(ty, content, text),
        (Kind::String, Value::Null) => text.push_str("\"\""),
        (Kind::Bool, Value::Null) => text.push_str("false"),
        (Kind::Int32 | Kind::Int64 | Kind::Double | Kind::IntOrString, Value::Null) => text.push('0'),
        (Kind::Quantity, Value::Null) => text.push_str("\"0\""),
        (_, content) => write!(text, "{content}").expect(TEXT),
    }
}

/// The name of a field in Go: initials in capitals, where Go writes them so.
fn go_name(name: &str) -> String {
    const INITIALS: &[(&str, &str)] = &[
        ("api", "API"),
        ("cidrs", "CIDRs"),
        ("cidr", "CIDR"),
        ("cpu", "CPU"),
        ("csi", "CSI"),
        ("dns", "DNS"),
        ("fc", "FC"),
        ("fs", "FS"),
        ("grpc", "GRPC"),
        ("http", "HTTP"),
        ("iops", "IOPS"),
        ("ips", "IPs"),
        ("ip", "IP"),
        ("iscsi", "ISCSI"),
        ("nfs", "NFS"),
        ("rbd", "RBD"),
        ("se", "SE"),
        ("tcp", "TCP"),
        ("tls", "TLS"),
        ("ttl", "TTL"),
        ("uid", "UID"),
        ("url", "URL"),
    ];
    let initials = INITIALS.iter().find_map(|(written, go)| {
        let rest = name.strip_prefix(written)?;
        (!rest.starts_with(|c: char| c.is_ascii_lowercase())).then(|| format!("{go}{rest}"))
    });
    initials.unwrap_or_else(|| {
        let mut letters = name.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
    })
}

#[test]
fn structs_are_shown_as_go_does() {
    let budget = serde_json::json!({"minAvailable": "50%", "selector": {"matchLabels": {"a": "b"}}});
    assert_eq!(
        shown("policy.v1.PodDisruptionBudgetSpec", &budget),
        r#"{"MinAvailable":"50%","Selector":{"matchLabels":{"a":"b"}},"MaxUnavailable":null,"UnhealthyPodEvictionPolicy":null}"#
    );
    assert_eq!(
        shown("batch.v1.SuccessPolicy", &serde_json::json!({"rules": [{"succeededCount": 1}]})),
        r#"{"Rules":[{"SucceededIndexes":null,"SucceededCount":1}]}"#
    );
    for (name, go) in [
        ("apiGroup", "APIGroup"),
        ("seLinuxOptions", "SELinuxOptions"),
        ("server", "Server"),
        ("cidrs", "CIDRs"),
    ] {
        assert_eq!(go_name(name), go);
    }
}
