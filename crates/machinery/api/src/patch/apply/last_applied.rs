//! Taking over from client-side apply: what its annotation says was applied, and what it says after a server-side apply.
//!
//! Both only for the manager `kubectl`. Source: upstream's `lastAppliedManager` and `lastAppliedUpdater`.

use serde_json::Value;

use crate::codec::{self, FieldValidation};
use crate::patch::field_set::FieldSet;
use crate::patch::typed::{self, Node};
use crate::schema::TypeId;

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Larger annotations are not written. Source: upstream's `TotalAnnotationSizeLimitB`.
const MAX_SIZE: usize = 256 * 1024;

fn annotation(object: &Value) -> Option<&str> {
    object["metadata"]["annotations"][ANNOTATION].as_str().filter(|text| !text.is_empty())
}

/// What was applied by the client and still has that value; `None` without a legible annotation of this version.
pub(super) fn kept(live: &Value, ty: TypeId, api_version: &str) -> Option<FieldSet> {
    let mut last: Value = serde_json::from_str(annotation(live)?).ok()?;
    if codec::kind_of(&last).0 != api_version {
        return None;
    }
    let node = Node::Struct(ty);
    let mut errors = Vec::new();
    typed::check(node, &mut last, "", &mut errors);
    if !errors.is_empty() {
        return None;
    }
    let live = codec::check(live.clone(), ty, FieldValidation::Ignore).ok()?.object;
    let comparison = typed::compare(node, &last, &live);
    let mut kept = typed::field_set(node, &last);
    kept.subtract(&comparison.changed);
    kept.subtract(&comparison.removed);
    Some(kept)
}

/// Brings an annotation that is there up to date, so that a client-side apply afterwards knows what was applied.
pub(super) fn renew(object: &mut Value, mut config: Value) {
    if annotation(object).is_none() {
        return;
    }
    if let Some(metadata) = config.get_mut("metadata").and_then(Value::as_object_mut)
        && let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut)
    {
        annotations.remove(ANNOTATION);
        if annotations.is_empty() {
            metadata.remove("annotations");
        }
    }
    let mut text = config.to_string();
    text.push('\n');
    let annotations = object["metadata"]["annotations"].as_object_mut();
    let Some(annotations) = annotations else { return };
    annotations.remove(ANNOTATION);
    let size: usize = annotations.iter().map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum();
    if size + ANNOTATION.len() + text.len() <= MAX_SIZE {
        annotations.insert(ANNOTATION.to_owned(), Value::String(text));
    }
}
