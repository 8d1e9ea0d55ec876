//! However many controllers follow a kind, and whatever of it they need, the process lists and watches it once.

use std::collections::BTreeMap;

use serde_json::json;

use crate::testing::api::{FakeApi, Running};
use crate::testing::pass;

/// Something of every sort that has controllers follow what they do not follow from the start.
fn furnish(api: &FakeApi) {
    api.serve("autoscaling", &["v2", "v1"]);
    api.serve("internal.apiserver.k8s.io", &["v1alpha1"]);
    for name in ["ns", "doomed"] {
        api.create(
            "/namespaces",
            &json!({"metadata": {"name": name}, "spec": {"finalizers": ["kubernetes"]}}),
        );
    }
    let hard = json!({"pods": "5", "services": "5", "persistentvolumeclaims": "5", "configmaps": "5",
        "count/jobs.batch": "5", "count/crews.example.com": "5"});
    api.create(
        "/resourcequotas",
        &json!({"metadata": {"name": "all", "namespace": "ns"}, "spec": {"hard": hard}}),
    );
    for resource in ["/configmaps", "/secrets", "batch/jobs", "example.com/loners"] {
        let metadata = json!({"name": "kept", "namespace": "doomed", "finalizers": ["example.com/keep"]});
        let template = json!({"spec": {"containers": [], "restartPolicy": "Never"}});
        api.create(resource, &json!({"metadata": metadata, "spec": {"template": template}}));
    }
    api.delete("/namespaces", "", "doomed", "Background");
}

#[track_caller]
fn check(api: &FakeApi, at_least: usize) {
    let mut count = BTreeMap::new();
    for resource in api.watched() {
        *count.entry(resource).or_insert(0) += 1;
    }
    let too_often: Vec<_> = count.iter().filter(|(_, count)| **count > 1).collect();
    assert!(too_often.is_empty(), "{too_often:?}");
    assert!(count.len() >= at_least, "only {count:?}");
}

#[tokio::test(start_paused = true)]
async fn every_kind_is_watched_once() {
    let api = FakeApi::default();
    furnish(&api);
    let all = ["*", "bootstrap-signer-controller", "token-cleaner-controller"];
    let running = Running::start(&api, &all);
    pass(120).await;
    // The garbage collector follows whatever there is.
    check(&api, 35);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn so_it_is_whichever_controllers_run() {
    for controllers in [
        &["*", "-garbage-collector-controller"][..],
        &["*", "-namespace-controller", "-job-controller", "-serviceaccount-token-controller"],
        &["garbage-collector-controller", "resourcequota-controller", "namespace-controller"],
        &["resourcequota-controller", "namespace-controller"],
    ] {
        let api = FakeApi::default();
        furnish(&api);
        let running = Running::start(&api, controllers);
        pass(120).await;
        check(&api, 5);
        running.stop().await;
    }
}
