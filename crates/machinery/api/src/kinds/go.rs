//! Values in error messages as upstream shows them: a struct of its internal types has Go's names, every field, in the
//! order of its declaration; one of the meta types is shown as it is written.

mod declared;

use std::fmt::Write;

use serde_json::Value;

use super::difference::{indented, unified};
use super::tree::{same, value};
use super::validate::IMMUTABLE;
use crate::field::{Errors, Path, Reason};
use crate::schema::{self, Field, Kind, Shape, TypeId};
use declared::{DECLARED, Declared, POD};

/// One [`Reason::Invalid`] for a value that upstream shows as a struct of this type, such as `policy.v1.SuccessPolicy`.
pub fn invalid(name: &str, object: &Value, detail: &str, path: &Path<'_>, errors: &mut Errors) {
    let colon = if detail.is_empty() { "" } else { ": " };
    errors.push(Reason::Invalid, path, format!("Invalid value: {}{colon}{detail}", shown(name, object)));
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

/// One error if the meaning of a field of two structs of this type changed. It is shown as upstream's struct has it.
pub(crate) fn immutable(
    of: &str,
    name: &str,
    new: &Value,
    old: &Value,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let after = value(new, name);
    if same(after, value(old, name)) {
        return;
    }
    let mut shown = String::new();
    match schema::by_name(of).and_then(|ty| ty.field(name)) {
        Some(field) => put_field(field, after, new, &mut shown),
        None => shown = after.to_string(),
    }
    errors.push(Reason::Invalid, path, format!("Invalid value: {shown}: {IMMUTABLE}"));
}

/// How two structs of this type differ, line by line.
pub(crate) fn difference(name: &str, old: &Value, new: &Value) -> String {
    unified(&indented(&shown(name, old)), &indented(&shown(name, new)))
}

/// The value as a struct of this type.
pub(crate) fn shown(name: &str, object: &Value) -> String {
    let mut text = String::new();
    let declared = DECLARED.iter().find(|declared| declared.name == name);
    match schema::by_name(declared.map_or(name, |declared| declared.of)) {
        Some(ty) => put_struct(&members(ty, declared), object, &mut text),
        None => text = object.to_string(),
    }
    text
}

/// The values as a list of structs of this type.
pub(crate) fn shown_list(name: &str, objects: &[Value]) -> String {
    let shown: Vec<String> = objects.iter().map(|object| shown(name, object)).collect();
    format!("[{}]", shown.join(","))
}

/// A field of a struct as upstream declares it.
struct Member {
    name: String,
    field: &'static Field,
    place: Place,
}

enum Place {
    Here,
    /// In the struct around this one.
    Outside,
    /// Its fields stand in its place.
    Embedded,
}

fn members(ty: TypeId, declared: Option<&Declared>) -> Vec<Member> {
    let written = ty.name().starts_with("meta.");
    let named = |field: &'static Field, name: Option<&str>, place| {
        let own = if written { field.name.to_owned() } else { go_name(field.name) };
        Member { name: name.map_or(own, str::to_owned), field, place }
    };
    let Some(declared) = declared else {
        return ty.fields_by_tag().map(|field| named(field, None, Place::Here)).collect();
    };
    let member = |word: &str| {
        let (field, name) = word.split_once('=').map_or((word, None), |(field, name)| (field, Some(name)));
        if let Some(field) = field.strip_prefix('^') {
            return Some(named(schema::by_name(POD)?.field(field)?, name, Place::Outside));
        }
        match field.strip_prefix('*') {
            Some(field) => Some(named(ty.field(field)?, name, Place::Embedded)),
            None => Some(named(ty.field(field)?, name, Place::Here)),
        }
    };
    declared.fields.split_whitespace().filter_map(member).collect()
}

fn put_struct(members: &[Member], object: &Value, text: &mut String) {
    put_within(members, object, &Value::Null, text);
}

fn put_object(ty: TypeId, object: &Value, outside: &Value, text: &mut String) {
    let declared = DECLARED.iter().find(|declared| declared.name == ty.name());
    put_within(&members(ty, declared), object, outside, text);
}

fn put_within(members: &[Member], object: &Value, outside: &Value, text: &mut String) {
    text.push('{');
    let start = text.len();
    put_members(members, object, outside, start, text);
    text.push('}');
}

fn put_members(members: &[Member], object: &Value, outside: &Value, start: usize, text: &mut String) {
    for Member { name, field, place } in members {
        let content = match place {
            Place::Here | Place::Embedded => value(object, field.name),
            Place::Outside => value(outside, field.name),
        };
        if let (Place::Embedded, Kind::Object(ty)) = (place, field.kind) {
            put_members(&self::members(ty, None), content, object, start, text);
            continue;
        }
        // One of the meta types is shown as it is written.
        if content.is_null() && field.omits_empty() && *name == field.name {
            continue;
        }
        if text.len() > start {
            text.push(',');
        }
        write!(text, "\"{name}\":").expect(TEXT);
        put_field(field, content, object, text);
    }
}

const TEXT: &str = "text takes all";

fn put_field(field: &Field, content: &Value, outside: &Value, text: &mut String) {
    match (field.shape, content) {
        (Shape::List, Value::Array(items)) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                put(field.kind, item, outside, text);
            }
            text.push(']');
        }
        (Shape::Map, Value::Object(entries)) => {
            text.push('{');
            for (index, (key, item)) in entries.iter().enumerate() {
                let comma = if index > 0 { "," } else { "" };
                write!(text, "{comma}{}:", quoted(key)).expect(TEXT);
                put(field.kind, item, outside, text);
            }
            text.push('}');
        }
        (Shape::One, Value::Null) if !field.is_pointer() => put(field.kind, content, outside, text),
        (_, Value::Null) => text.push_str("null"),
        (_, content) => put(field.kind, content, outside, text),
    }
}

fn put(kind: Kind, content: &Value, outside: &Value, text: &mut String) {
    match (kind, content) {
        (Kind::Object(ty), content) => put_object(ty, content, outside, text),
        (Kind::String, Value::Null) => text.push_str("\"\""),
        (Kind::Bool, Value::Null) => text.push_str("false"),
        (Kind::Int32 | Kind::Int64 | Kind::Double | Kind::IntOrString, Value::Null) => text.push('0'),
        (Kind::Quantity, Value::Null) => text.push_str("\"0\""),
        (_, Value::String(words)) => text.push_str(&quoted(words)),
        (_, content) => write!(text, "{content}").expect(TEXT),
    }
}

/// Text in quotes, safe within HTML as Go writes it.
fn quoted(text: &str) -> String {
    let mut quoted = Value::from(text).to_string();
    for (letter, code) in [
        ('<', "\\u003c"),
        ('>', "\\u003e"),
        ('&', "\\u0026"),
        ('\u{2028}', "\\u2028"),
        ('\u{2029}', "\\u2029"),
    ] {
        if quoted.contains(letter) {
            quoted = quoted.replace(letter, code);
        }
    }
    quoted
}

/// The name of a field in Go: initials in capitals, where Go writes them so.
fn go_name(name: &str) -> String {
    const INITIALS: &[(&str, &str)] = &[
        ("api", "API"),
        ("aws", "AWS"),
        ("cel", "CEL"),
        ("cidrs", "CIDRs"),
        ("cidr", "CIDR"),
        ("cpu", "CPU"),
        ("csi", "CSI"),
        ("dns", "DNS"),
        ("fc", "FC"),
        ("fs", "FS"),
        ("gce", "GCE"),
        ("gmsa", "GMSA"),
        ("grpc", "GRPC"),
        ("http", "HTTP"),
        ("iops", "IOPS"),
        ("ips", "IPs"),
        ("ip", "IP"),
        ("iqn", "IQN"),
        ("iscsi", "ISCSI"),
        ("nfs", "NFS"),
        ("os", "OS"),
        ("rbd", "RBD"),
        ("se", "SE"),
        ("ssl", "SSL"),
        ("tcp", "TCP"),
        ("tls", "TLS"),
        ("ttl", "TTL"),
        ("tty", "TTY"),
        ("uid", "UID"),
        ("url", "URL"),
        ("wwids", "WWIDs"),
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

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(quoted("<a&\"b\">"), r#""\u003ca\u0026\"b\"\u003e""#);
    }

    #[test]
    fn what_is_declared_otherwise_is_shown_so() {
        let template = serde_json::json!({
            "metadata": {"labels": {"a": "b"}}, "spec": {"hostPID": true, "securityContext": {"runAsUser": 5}},
        });
        let text = shown("core.v1.PodTemplateSpec", &template);
        assert!(
            text.starts_with(r#"{"labels":{"a":"b"},"Spec":{"Volumes":null,"InitContainers":null,"#),
            "{text}"
        );
        let context = r#""SecurityContext":{"HostNetwork":false,"HostPID":true,"HostIPC":false,"ShareProcessNamespace":null,"#;
        assert!(text.contains(context), "{text}");
        assert!(
            shown("core.v1.PersistentVolumeSource", &Value::Null)
                .starts_with(r#"{"GCEPersistentDisk":null,"#)
        );
    }

    #[test]
    fn nothing_declared_is_left_out() {
        for declared in DECLARED {
            let ty = schema::by_name(declared.of).unwrap();
            let shown: Vec<&str> =
                members(ty, Some(declared)).iter().map(|member| member.field.name).collect();
            assert_eq!(shown.len(), declared.fields.split_whitespace().count(), "{}", declared.name);
            // Written for old readers only; what the security context has; and the part that has a name of its own.
            let elsewhere = match declared.name {
                POD => &[
                    "hostIPC",
                    "hostNetwork",
                    "hostPID",
                    "hostUsers",
                    "serviceAccount",
                    "shareProcessNamespace",
                ][..],
                name if name != declared.of => continue,
                _ => &[],
            };
            for field in ty.fields_by_tag().filter(|field| !elsewhere.contains(&field.name)) {
                assert!(shown.contains(&field.name), "{}.{}", declared.name, field.name);
            }
        }
    }

    #[test]
    fn differences_are_told_by_line() {
        let (old, new) = (serde_json::json!({"key": "k", "value": "v"}), serde_json::json!({"key": "k"}));
        assert_eq!(
            difference("core.v1.Taint", &old, &new),
            "@@ -1,6 +1,6 @@\n {\n  \"Key\": \"k\",\n- \"Value\": \"v\",\n+ \"Value\": \"\",\n  \"Effect\": \"\",\n  \"TimeAdded\": null\n }\n"
        );
    }
}
