//! Which namespaces get an account.

use k8s_openapi::api::core::v1::{NamespaceStatus, ServiceAccount};

use super::decide::decide;
use crate::testing::api::{FakeApi, Running};
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

#[tokio::test(start_paused = true)]
async fn every_living_namespace_has_the_account() {
    const ACCOUNTS: &str = "/serviceaccounts";
    let api = FakeApi::default();
    for name in ["old", "leaving"] {
        api.create("/namespaces", &namespace(name));
    }
    api.delete("/namespaces", "", "leaving", "Background");
    let running = Running::start(&api, &["serviceaccount-controller"]);
    let has =
        |api: &FakeApi, namespace: &str| api.get::<ServiceAccount>(ACCOUNTS, namespace, "default").is_some();
    api.until("an old namespace has it", |_| {}, |api| has(api, "old")).await;
    api.create("/namespaces", &namespace("new"));
    api.until("a new one too", |_| {}, |api| has(api, "new")).await;
    api.delete(ACCOUNTS, "old", "default", "Background");
    api.until("it comes back", |_| {}, |api| has(api, "old")).await;
    api.refuse(ACCOUNTS, "no room");
    api.create("/namespaces", &namespace("late"));
    api.settle().await;
    assert!(!has(&api, "late"));
    api.accept();
    api.until("it is tried again", |_| {}, |api| has(api, "late")).await;
    api.settle().await;
    assert!(!has(&api, "leaving"));
    assert_eq!(api.list::<ServiceAccount>(ACCOUNTS).len(), 3);
    running.stop().await;
}
