//! Names, values and metadata, with upstream's words.

use serde_json::json;

use super::*;
use crate::field::Errors;
use crate::kinds::{Plain, validate_metadata};

#[test]
fn names() {
    for good in ["a", "a-b", "1", "a.b", "a1.2b"] {
        assert!(subdomain(good).is_empty(), "{good}");
    }
    for bad in ["", "-a", "a-", "A", "a_b", "a..b", ".a", "a."] {
        assert_eq!(subdomain(bad).len(), 1, "{bad}");
    }
    assert_eq!(
        subdomain("A"),
        [
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
        ]
    );
    assert_eq!(label("a.b"), ["must not contain dots"]);
    assert_eq!(label(&"a".repeat(64)), ["must be no more than 63 characters"]);
    assert_eq!(subdomain(&"a".repeat(254)), ["must be no more than 253 characters"]);
    assert!(label_1035("a1").is_empty());
    assert_eq!(label_1035("1a").len(), 1);
    assert!(dns_subdomain("web-", true).is_empty());
    assert!(dns_subdomain("-", true).len() == 1);
    assert!(dns_subdomain("web-", false).len() == 1);
    assert!(path_segment("system:node", false).is_empty());
    assert_eq!(path_segment("a/b", false), ["may not contain '/'"]);
    assert_eq!(path_segment("..", false), ["may not be '..'"]);
}

#[test]
fn qualified_names_and_values() {
    for good in ["a", "A.b_c-d", "example.com/x", &"a".repeat(63)] {
        assert!(qualified_name(good).is_empty(), "{good}");
    }
    assert_eq!(qualified_name("/x"), ["prefix part must be non-empty"]);
    assert_eq!(qualified_name("x/").len(), 2);
    assert_eq!(qualified_name(&"a".repeat(64)), ["name part must be no more than 63 bytes"]);
    assert!(qualified_name("a/b/c")[0].starts_with("a valid label key must consist of"));
    assert!(label_value("").is_empty());
    assert_eq!(label_value("-a").len(), 1);
    assert_eq!(label_value(&"a".repeat(64)), ["must be no more than 63 bytes"]);
}

#[test]
fn ports_and_keys() {
    assert_eq!(port_number(0), Some("must be between 1 and 65535, inclusive".to_owned()));
    assert_eq!(port_number(65535), None);
    assert!(port_name("http").is_empty());
    assert_eq!(port_name("1"), ["must contain at least one letter (a-z)"]);
    assert_eq!(
        port_name("-a--b"),
        ["must not contain consecutive hyphens", "must not begin or end with a hyphen"]
    );
    assert!(config_key("a.b").is_empty());
    assert_eq!(config_key(".."), ["must not be '..'"]);
    assert_eq!(config_key("..a"), ["must not start with '..'"]);
    assert!(env_name("my var").is_empty());
    assert_eq!(env_name("a=b").len(), 1);
    assert_eq!(percent("25%"), None);
    assert!(percent("%").is_some());
}

#[test]
fn addresses() {
    for good in ["10.0.0.1", "fe80::1", "0.0.0.0"] {
        assert!(ip(good).is_ok(), "{good}");
    }
    for (bad, fault) in [
        ("010.0.0.1", "must not have leading 0s"),
        ("::ffff:1.2.3.4", "must not be an IPv4-mapped IPv6 address"),
        ("1.2.3", "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
        ("", "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
    ] {
        assert_eq!(ip(bad), Err(fault), "{bad}");
    }
    assert!(cidr("10.0.0.0/8").is_ok());
    assert!(cidr("2001:db8::/64").is_ok());
    assert!(cidr("0.0.0.0/0").is_ok());
    for (bad, fault) in [
        ("10.0.0.1/8", "must not have bits set beyond the prefix length"),
        ("10.0.0.0/08", "must not have leading 0s in IP or prefix length"),
        ("10.0.0.0/33", "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),
        ("10.0.0.0", "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"),
    ] {
        assert_eq!(cidr(bad), Err(fault), "{bad}");
    }
}

fn texts(errors: &Errors) -> Vec<String> {
    errors.0.iter().map(ToString::to_string).collect()
}

#[test]
fn metadata_of_a_new_object() {
    let check = |meta: serde_json::Value, expected: &[&str]| {
        let mut errors = Errors::new();
        validate_metadata(&Plain, true, &json!({"metadata": meta}), &mut errors);
        assert_eq!(texts(&errors), expected);
    };
    check(
        json!({"name": "a", "namespace": "b", "labels": {"a/b": "c"}, "annotations": {"A.b/C": "any text"}}),
        &[],
    );
    check(json!({"namespace": "b"}), &["metadata.name: Required value: name or generateName is required"]);
    check(json!({"name": "a"}), &["metadata.namespace: Required value"]);
    check(
        json!({"name": "a", "namespace": "a.b"}),
        &["metadata.namespace: Invalid value: \"a.b\": must not contain dots"],
    );
    check(
        json!({"name": "a", "namespace": "b", "annotations": {"k": "v".repeat(256 * 1024)}}),
        &["metadata.annotations: Too long: may not be more than 262144 bytes"],
    );
    check(
        json!({"name": "a", "namespace": "b", "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "uid": "1", "controller": true},
            {"apiVersion": "", "kind": "Pod", "name": "", "uid": "2"}]}),
        &[
            "metadata.ownerReferences.apiVersion: Invalid value: \"\": version must not be empty",
            "metadata.ownerReferences.name: Invalid value: \"\": must not be empty",
        ],
    );
    check(
        json!({"name": "a", "namespace": "b", "finalizers": ["orphan", "foregroundDeletion"]}),
        &[
            "metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and foregroundDeletion cannot be both set",
        ],
    );
    let mut errors = Errors::new();
    validate_metadata(&Plain, false, &json!({"metadata": {"name": "a", "namespace": "b"}}), &mut errors);
    assert_eq!(texts(&errors), ["metadata.namespace: Forbidden: not allowed on this type"]);
}

#[test]
fn metadata_of_a_change() {
    let old = json!({"metadata": {"name": "a", "uid": "1", "resourceVersion": "5", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x/y"]}});
    let check = |new: serde_json::Value, expected: &[&str]| {
        let mut errors = Errors::new();
        metadata_update(&new, &old, &mut errors);
        assert_eq!(texts(&errors), expected);
    };
    check(old.clone(), &[]);
    let mut new = old.clone();
    new["metadata"]["name"] = json!("b");
    check(new, &["metadata.name: Invalid value: \"b\": field is immutable"]);
    let mut new = old.clone();
    new["metadata"]["finalizers"] = json!(["x/y", "z/w"]);
    check(
        new,
        &[
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"z/w\"}",
        ],
    );
    let mut new = old.clone();
    new["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    check(new, &["metadata.resourceVersion: Invalid value: \"\": must be specified for an update"]);
}
