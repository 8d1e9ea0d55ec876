//! How objects stand in etcd: upstream's keys, with the stored JSON as the value, so that one can follow the other.
//!
//! Upstream's API server reads JSON as well as protobuf, and takes `resourceVersion` from etcd whatever the value says;
//! so ours is stored with the empty place for it. What upstream wrote (protobuf with its magic, or JSON without that
//! place) is read, converted to the version that we store, and is ours with the next write.

use std::collections::HashMap;
use std::sync::OnceLock;

use bytes::Bytes;
use podium_api::resources::{self, Resource};
use podium_store::{Codec, Key, Value as StoredValue};
use serde_json::Value;

/// What stands before all our keys in the store; in etcd it is the store's prefix.
const ROOT: &[u8] = b"/registry/";

/// The places of kinds whose name in etcd is not that of the resource. Source: upstream's
/// `SpecialDefaultResourcePrefixes`.
const SPECIAL: [(&str, &str, &str); 5] = [
    ("core", "replicationcontrollers", "controllers"),
    ("core", "endpoints", "services/endpoints"),
    ("core", "nodes", "minions"),
    ("core", "services", "services/specs"),
    ("networking.k8s.io", "ingresses", "ingress"),
];

/// Groups whose kinds are stored below the group's name though they are built in: those of the two servers that
/// upstream's is made of besides the main one.
const BY_GROUP: [&str; 2] = ["apiextensions.k8s.io", "apiregistration.k8s.io"];

/// Upstream's layout.
#[derive(Clone, Copy, Debug, Default)]
pub struct EtcdCodec;

/// Both directions of the names of built-in kinds: `core/pods` and `pods`.
struct Names {
    to_etcd: HashMap<String, String>,
    from_etcd: HashMap<String, String>,
}

fn names() -> &'static Names {
    static NAMES: OnceLock<Names> = OnceLock::new();
    NAMES.get_or_init(|| {
        let mut names = Names { to_etcd: HashMap::new(), from_etcd: HashMap::new() };
        for resource in resources::all().iter().filter(|resource| resource.is_stored()) {
            let group = if resource.storage_group.is_empty() { "core" } else { resource.storage_group };
            if BY_GROUP.contains(&group) {
                continue;
            }
            let special = SPECIAL.iter().find(|(g, plural, _)| *g == group && *plural == resource.plural);
            let theirs = special.map_or(resource.plural, |(_, _, place)| place);
            let ours = format!("{group}/{}", resource.plural);
            names.to_etcd.insert(ours.clone(), theirs.to_owned());
            names.from_etcd.insert(theirs.to_owned(), ours);
        }
        names
    })
}

/// The first two segments of a path, and what is behind them, with its slash.
fn split(path: &str) -> Option<(&str, &str)> {
    let first = path.find('/')?;
    let second = path[first + 1..].find('/').map_or(path.len(), |at| first + 1 + at);
    Some(path.split_at(second))
}

impl Codec for EtcdCodec {
    fn key_to_etcd(&self, key: &[u8]) -> Vec<u8> {
        let path = key.strip_prefix(ROOT).and_then(|path| std::str::from_utf8(path).ok());
        let moved = path.and_then(split).and_then(|(kind, rest)| {
            let theirs = names().to_etcd.get(kind)?;
            Some(format!("/{theirs}{rest}").into_bytes())
        });
        moved.unwrap_or_else(|| key.strip_prefix(&ROOT[..ROOT.len() - 1]).unwrap_or(key).to_vec())
    }

    fn key_from_etcd(&self, key: &[u8]) -> Option<Key> {
        let path = std::str::from_utf8(key.strip_prefix(b"/")?).ok()?;
        let (first, rest) = path.split_at(path.find('/')?);
        let root = std::str::from_utf8(ROOT).ok()?;
        if let Some(ours) = names().from_etcd.get(first) {
            return Some(Key::from(format!("{root}{ours}{rest}")));
        }
        // The two that have two segments.
        if let Some((both, rest)) = split(path)
            && let Some(ours) = names().from_etcd.get(both)
        {
            return Some(Key::from(format!("{root}{ours}{rest}")));
        }
        // Kinds below their group's name. Everything else (upstream's own records: `ranges`, `masterleases`) is not ours.
        first.contains('.').then(|| Key::from(format!("{root}{path}")))
    }

    fn encode(&self, _: &Key, value: &StoredValue) -> Bytes {
        value.bytes.clone()
    }

    fn decode(&self, key: &Key, bytes: Bytes) -> Result<StoredValue, String> {
        if bytes.starts_with(b"k8s\0") {
            let object = podium_api::codec::protobuf_to_json(&bytes).map_err(|error| error.to_string())?;
            return as_stored(key, object);
        }
        if let Some(at) = place(&bytes) {
            return Ok(StoredValue { bytes, revision_at: Some(at) });
        }
        match serde_json::from_slice::<Value>(&bytes) {
            Ok(object) if object["metadata"].is_object() => as_stored(key, object),
            // Not an object: a record of our own.
            _ => Ok(StoredValue::plain(bytes)),
        }
    }
}

/// An object that others wrote, as we store it.
fn as_stored(key: &Key, object: Value) -> Result<StoredValue, String> {
    let kind = object["kind"].as_str().unwrap_or_default();
    let (group, version) = resources::split_api_version(object["apiVersion"].as_str().unwrap_or_default());
    let object = match resource_of(key, group, version, kind) {
        Some(resource) => {
            podium_api::codec::to_storage(object, resource).map_err(|error| error.to_string())?
        }
        None => object,
    };
    Ok(super::encode(&object))
}

fn resource_of(key: &Key, group: &str, version: &str, kind: &str) -> Option<&'static Resource> {
    let found = resources::by_kind(group, version, kind);
    if found.is_none() {
        tracing::warn!(%key, kind, "an object in etcd is of a kind that is not built in");
    }
    found
}

/// Where the empty text of `metadata.resourceVersion` is, in the bytes of an object.
fn place(json: &[u8]) -> Option<usize> {
    let mut depth = 0;
    let mut in_metadata = false;
    let mut at = 0;
    while let Some(byte) = json.get(at) {
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            b'"' => {
                let start = at + 1;
                at = end_of_text(json, start)?;
                if depth <= 2
                    && let Some(value) = behind_colon(json, at + 1)
                {
                    let name = &json[start..at];
                    if depth == 1 {
                        in_metadata = name == b"metadata";
                    } else if in_metadata && name == b"resourceVersion" {
                        return json[value..].starts_with(b"\"\"").then_some(value + 1);
                    }
                    // The value is looked at next; the colon between is passed over.
                    at = value - 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// The quotation mark that ends the text which starts here.
fn end_of_text(json: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match json.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Where a member's value starts, if a colon comes next.
fn behind_colon(json: &[u8], at: usize) -> Option<usize> {
    let blank = |byte: &&u8| byte.is_ascii_whitespace();
    let colon = at + json.get(at..)?.iter().take_while(blank).count();
    (json.get(colon) == Some(&b':')).then_some(())?;
    let value = colon + 1;
    Some(value + json.get(value..)?.iter().take_while(blank).count())
}

#[cfg(test)]
mod tests {
    use podium_api::codec;
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_upstreams() {
        for (ours, theirs) in [
            ("/registry/core/pods/ns/a", "/pods/ns/a"),
            ("/registry/core/namespaces/ns", "/namespaces/ns"),
            ("/registry/core/nodes/n", "/minions/n"),
            ("/registry/core/services/ns/a", "/services/specs/ns/a"),
            ("/registry/core/endpoints/ns/a", "/services/endpoints/ns/a"),
            ("/registry/core/replicationcontrollers/ns/a", "/controllers/ns/a"),
            ("/registry/networking.k8s.io/ingresses/ns/a", "/ingress/ns/a"),
            ("/registry/apps/deployments/ns/a", "/deployments/ns/a"),
            ("/registry/coordination.k8s.io/leases/ns/a", "/leases/ns/a"),
            ("/registry/rbac.authorization.k8s.io/clusterroles/system:node", "/clusterroles/system:node"),
            ("/registry/core/events/ns/a", "/events/ns/a"),
            (
                "/registry/apiextensions.k8s.io/customresourcedefinitions/a.b.c",
                "/apiextensions.k8s.io/customresourcedefinitions/a.b.c",
            ),
            ("/registry/stable.example.com/crontabs/ns/a", "/stable.example.com/crontabs/ns/a"),
            ("/registry/allocations.podium/nodeports/30000", "/allocations.podium/nodeports/30000"),
        ] {
            assert_eq!(String::from_utf8_lossy(&EtcdCodec.key_to_etcd(ours.as_bytes())), theirs);
            assert_eq!(EtcdCodec.key_from_etcd(theirs.as_bytes()), Some(Key::from(ours)));
        }
        for foreign in ["/ranges/serviceips", "/masterleases/10.0.0.1", "/pods", "pods/ns/a", "/health"] {
            assert_eq!(EtcdCodec.key_from_etcd(foreign.as_bytes()), None, "{foreign}");
        }
    }

    #[test]
    fn every_stored_kind_has_a_place_of_its_own() {
        for resource in resources::all().iter().filter(|resource| resource.is_stored()) {
            let prefix = crate::catalogue::prefix(resource.storage_group, resource.plural);
            let ours = format!("{prefix}ns/name");
            let theirs = EtcdCodec.key_to_etcd(ours.as_bytes());
            assert_eq!(EtcdCodec.key_from_etcd(&theirs), Some(Key::from(ours)));
        }
    }

    #[test]
    fn what_is_stored_comes_back() {
        let key = Key::from("/registry/core/configmaps/ns/a");
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "data": {"metadata": "{\"resourceVersion\":\"\"}", "resourceVersion": "", "back\\slash\"": "\\\""},
            "metadata": {"annotations": {"resourceVersion": ""}, "name": "a", "namespace": "ns", "uid": "u"},
        });
        let stored = super::super::encode(&object);
        let back = EtcdCodec.decode(&key, EtcdCodec.encode(&key, &stored)).unwrap();
        assert_eq!(back, stored);
    }

    #[test]
    fn what_upstream_wrote_is_read() {
        let key = Key::from("/registry/core/configmaps/ns/a");
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "v"},
            "metadata": {"name": "a", "namespace": "ns", "uid": "u"},
        });
        let stored = super::super::encode(&object);
        let json = Bytes::from(format!("{object}\n"));
        assert_eq!(EtcdCodec.decode(&key, json).unwrap(), stored, "JSON without a resourceVersion");
        let protobuf = Bytes::from(codec::json_to_protobuf(&object).unwrap());
        assert!(protobuf.starts_with(b"k8s\0"));
        let read = EtcdCodec.decode(&key, protobuf).unwrap();
        let back: Value = serde_json::from_slice(&read.at_revision(7)).unwrap();
        assert_eq!(back["metadata"]["resourceVersion"], "7");
        assert_eq!((&back["data"], &back["metadata"]["uid"]), (&object["data"], &object["metadata"]["uid"]));
    }

    #[test]
    fn what_is_no_object_is_kept() {
        let key = Key::from("/registry/allocations.podium/nodeports/30000");
        for bytes in ["", "x", "{", "[1]", "{\"a\":1}", "\"text"] {
            let bytes = Bytes::from(bytes);
            assert_eq!(EtcdCodec.decode(&key, bytes.clone()), Ok(StoredValue::plain(bytes)));
        }
        assert!(EtcdCodec.decode(&key, Bytes::from_static(b"k8s\0damaged")).is_err());
    }
}
