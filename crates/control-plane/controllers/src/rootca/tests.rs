//! When the ConfigMap is written.

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;

use super::decide::{Decision, KEY, NAME, decide};
use crate::testing::api::{FakeApi, Running};
use crate::testing::{namespace, time};

#[test]
fn the_config_map_follows_the_certificates() {
    let alive = namespace("a");
    let Decision::Create(mut published) = decide(&alive, None, "PEM") else {
        panic!("missing one is created")
    };
    assert_eq!(published.metadata.name.as_deref(), Some(NAME));
    assert_eq!(published.data.as_ref().unwrap()[KEY], "PEM");
    assert_eq!(decide(&alive, Some(&published), "PEM"), Decision::Keep);
    let Decision::Update(rotated) = decide(&alive, Some(&published), "NEW") else {
        panic!("other certificates")
    };
    assert_eq!(rotated.data.as_ref().unwrap()[KEY], "NEW");
    published.data.as_mut().unwrap().insert("more".to_owned(), "x".to_owned());
    assert!(matches!(decide(&alive, Some(&published), "PEM"), Decision::Update(_)), "additions are removed");
    let mut deleting = namespace("a");
    deleting.metadata.deletion_timestamp = Some(time(1));
    assert_eq!(decide(&deleting, None, "PEM"), Decision::Keep);
}

#[tokio::test(start_paused = true)]
async fn every_namespace_has_the_certificates_whatever_users_do_to_them() {
    const CONFIG_MAPS: &str = "/configmaps";
    let api = FakeApi::default();
    api.create("/namespaces", &namespace("a"));
    let running = Running::start(&api, &["root-ca-certificate-publisher-controller"]);
    let published = |api: &FakeApi, namespace: &str| {
        let map: Option<ConfigMap> = api.get(CONFIG_MAPS, namespace, NAME);
        map.and_then(|map| map.data).is_some_and(|data| data.len() == 1 && data[KEY] == "PEM")
    };
    api.until("an old namespace has it", |_| {}, |api| published(api, "a")).await;
    api.create("/namespaces", &namespace("b"));
    api.until("a new one too", |_| {}, |api| published(api, "b")).await;
    api.edit(CONFIG_MAPS, "a", NAME, |map| map["data"] = json!({KEY: "mine", "more": "x"}));
    assert!(!published(&api, "a"));
    api.until("an edit is undone", |_| {}, |api| published(api, "a")).await;
    api.delete(CONFIG_MAPS, "b", NAME, "Background");
    api.until("a deletion too", |_| {}, |api| published(api, "b")).await;
    // Another map is nobody's business.
    api.create(CONFIG_MAPS, &json!({"metadata": {"name": "other", "namespace": "a"}, "data": {"x": "y"}}));
    api.settle().await;
    let other: ConfigMap = api.get(CONFIG_MAPS, "a", "other").unwrap();
    assert_eq!(other.data.unwrap()["x"], "y");
    api.refuse(CONFIG_MAPS, "no room");
    api.create("/namespaces", &namespace("c"));
    api.settle().await;
    api.accept();
    api.until("it is tried again", |_| {}, |api| published(api, "c")).await;
    running.stop().await;
    let mut text = String::new();
    crate::collect_metrics(&mut text);
    for code in ["200", "403"] {
        assert!(text.contains(&format!("root_ca_cert_publisher_sync_total{{code=\"{code}\"}}")), "{text}");
        let row = format!("root_ca_cert_publisher_sync_duration_seconds_count{{code=\"{code}\"}}");
        assert!(text.contains(&row), "{text}");
    }
}
