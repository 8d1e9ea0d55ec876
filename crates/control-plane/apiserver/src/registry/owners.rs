//! Owner references that are there twice: kept once, with a warning.
//!
//! Source: upstream's `dedupOwnerReferencesAndAddWarning`.

use serde_json::Value;

use super::Call;

impl Call {
    /// Keeps each owner reference once. Upstream looks before and after admission, and says which it was; at patches
    /// only after it.
    pub(super) fn dedup_owners(&self, object: &mut Value, after_admission: bool) {
        let twice = dedup(object);
        if twice.is_empty() {
            return;
        }
        let when = if after_admission { " after mutating admission happens" } else { "" };
        self.warn(vec![format!(
            ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            twice.join(", ")
        )]);
    }
}

/// Takes out references that equal an earlier one; their uids.
fn dedup(object: &mut Value) -> Vec<String> {
    let references = object.get_mut("metadata").and_then(|metadata| metadata.get_mut("ownerReferences"));
    let Some(references) = references.and_then(Value::as_array_mut).filter(|list| list.len() > 1) else {
        return Vec::new();
    };
    let mut kept: Vec<Value> = Vec::with_capacity(references.len());
    let mut twice = Vec::new();
    for reference in references.drain(..) {
        if kept.contains(&reference) {
            twice.push(reference["uid"].as_str().unwrap_or_default().to_owned());
        } else {
            kept.push(reference);
        }
    }
    *references = kept;
    twice
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn equal_references_are_kept_once() {
        let reference = |name: &str, uid: &str| json!({"kind": "Pod", "name": name, "uid": uid});
        let list = [reference("a", "1"), reference("b", "1"), reference("a", "1"), reference("a", "2")];
        let mut object = json!({"metadata": {"ownerReferences": list}});
        assert_eq!(dedup(&mut object), ["1"]);
        let expected = [reference("a", "1"), reference("b", "1"), reference("a", "2")];
        assert_eq!(object["metadata"]["ownerReferences"], json!(expected));
        assert!(dedup(&mut object).is_empty());
        assert!(dedup(&mut json!({})).is_empty());
    }
}
