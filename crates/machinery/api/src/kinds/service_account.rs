//! Service accounts. Source: `pkg/registry/core/serviceaccount`.

use serde_json::{Value, json};

use super::Metadata;
use super::kind::Kind;
use super::tree::{has, items_mut, text, value};

pub(super) static RULES: Kind = Kind {
    prepare: only_names,
    prepare_update: |new, _| only_names(new),
    warnings,
    metadata: Metadata::CHANGE_NEW,
    ..Kind::BASE
};

const ENFORCE: &str = "kubernetes.io/enforce-mountable-secrets";

/// Secrets are of the account's own namespace: of a reference only the name is kept.
fn only_names(account: &mut Value) {
    for secret in items_mut(account, "secrets") {
        *secret = match text(secret, "name") {
            "" => json!({}),
            name => json!({"name": name}),
        };
    }
}

fn warnings(account: &Value, old: Option<&Value>) -> Vec<String> {
    let enforces = |account: &Value| has(value(value(account, "metadata"), "annotations"), ENFORCE);
    if old.is_some_and(enforces) || !enforces(account) {
        return Vec::new();
    }
    vec![format!(
        "metadata.annotations[{ENFORCE}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_secrets_only_names_are_kept() {
        let mut account =
            json!({"secrets": [{"name": "a", "namespace": "other", "uid": "u"}, {"kind": "Secret"}]});
        only_names(&mut account);
        assert_eq!(account, json!({"secrets": [{"name": "a"}, {}]}));
    }

    #[test]
    fn a_newly_set_annotation_is_warned_of() {
        let plain = json!({"metadata": {}});
        let mut set = plain.clone();
        set["metadata"]["annotations"][ENFORCE] = json!("false");
        assert!(warnings(&plain, None).is_empty() && warnings(&set, Some(&set)).is_empty());
        assert_eq!(warnings(&set, Some(&plain)).len(), 1);
        assert_eq!(warnings(&set, None).len(), 1);
    }
}
