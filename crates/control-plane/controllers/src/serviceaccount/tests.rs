//! Which namespaces get an account.

use k8s_openapi::api::core::v1::NamespaceStatus;

use super::decide::decide;
use crate::testing::{namespace, time};

#[test]
fn living_namespaces_get_the_account_once() {
    let alive = namespace("a");
    let mut deleting = namespace("a");
    deleting.metadata.deletion_timestamp = Some(time(1));
    let mut terminating = namespace("a");
    terminating.status =
        Some(NamespaceStatus { phase: Some("Terminating".to_owned()), ..NamespaceStatus::default() });
    let created = decide(&alive, false).expect("missing");
    assert_eq!(created.metadata.name.as_deref(), Some("default"));
    assert_eq!(created.metadata.namespace.as_deref(), Some("a"));
    assert!(decide(&alive, true).is_none(), "exists");
    assert!(decide(&deleting, false).is_none(), "being deleted");
    assert!(decide(&terminating, false).is_none(), "terminating");
}
