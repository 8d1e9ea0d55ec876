//! Writes that are carried out but never answered, and what else is decided before the cache shows them.
//!
//! The write itself is safe: its repetition fails on a version or finds it done. But a decision about another object may take the
//! old state for granted, when a user's edit brings it forward.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::owner;
use crate::pods;
use crate::testing::api::{FakeApi, Running};

fn workload(spec: &Value) -> Value {
    let mut whole = json!({
        "metadata": {"name": "web", "namespace": "ns", "generation": 1},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}}}},
    });
    whole["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    set_image(&mut whole, "v0");
    whole
}

fn set_image(workload: &mut Value, image: &str) {
    workload["spec"]["template"]["spec"]["containers"] = json!([{"name": "main", "image": image}]);
}

fn image_of(template: Option<&k8s_openapi::api::core::v1::PodSpec>) -> &str {
    template.and_then(|spec| spec.containers[0].image.as_deref()).unwrap_or_default()
}

/// Name and size of the Deployment's set with that image.
fn set_of(api: &FakeApi, image: &str) -> Option<(String, i32)> {
    let sets: Vec<ReplicaSet> = api.list("apps/replicasets");
    sets.iter().find_map(|set| {
        let spec = set.spec.as_ref()?;
        let runs = image_of(spec.template.as_ref()?.spec.as_ref()) == image;
        runs.then(|| (owner::name(&set.metadata).to_owned(), spec.replicas.unwrap_or(1)))
    })
}

fn serving(api: &FakeApi, image: &str) -> Vec<String> {
    let pods: Vec<Pod> = api.list("/pods");
    let of = pods.iter().filter(|pod| image_of(pod.spec.as_ref()) == image && pods::is_ready(pod));
    of.map(|pod| owner::name(&pod.metadata).to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_set_that_may_have_grown_leaves_no_room_for_another() {
    let api = FakeApi::default();
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 2, "maxUnavailable": 0}});
    api.create("apps/deployments", &workload(&json!({"replicas": 4, "strategy": strategy})));
    let running = Running::start(&api, &["deployment-controller", "replicaset-controller"]);
    api.until("four pods serve", FakeApi::run_pods, |api| serving(api, "v0").len() == 4).await;
    api.edit("apps/deployments", "ns", "web", |web| set_image(web, "v1"));
    api.until("there is a new set", |_| {}, |api| set_of(api, "v1").is_some()).await;
    let (name, size) = set_of(&api, "v1").unwrap();
    assert_eq!(size, 2, "as many as the surge allows");
    api.lose_answer("apps/replicasets", &name);
    let grown = |api: &FakeApi| set_of(api, "v1").is_some_and(|(_, size)| size == 4);
    api.until("it grows, and nobody is told", FakeApi::run_pods, grown).await;
    api.edit("apps/deployments", "ns", "web", |web| set_image(web, "v2"));
    api.settle().await;
    let sizes: Vec<i32> =
        ["v0", "v1", "v2"].iter().filter_map(|it| set_of(&api, it)).map(|(_, size)| size).collect();
    assert!(sizes.iter().sum::<i32>() <= 6, "four and two more: {sizes:?}");
    api.release("apps/replicasets");
    api.until("the last edit is out", FakeApi::run_pods, |api| {
        serving(api, "v2").len() == 4 && api.list::<Pod>("/pods").len() == 4
    })
    .await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_may_be_deleted_is_not_built_upon() {
    let api = FakeApi::default();
    let update = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}});
    let spec = json!({"replicas": 2, "serviceName": "web", "updateStrategy": update});
    api.create("apps/statefulsets", &workload(&spec));
    let running = Running::start(&api, &["statefulset-controller"]);
    api.until("two pods serve", FakeApi::run_pods, |api| serving(api, "v0").len() == 2).await;
    api.lose_answer("/pods", "web-0");
    api.edit("apps/statefulsets", "ns", "web", |web| set_image(web, "v1"));
    let going = |api: &FakeApi| {
        let first: Option<Pod> = api.get("/pods", "ns", "web-0");
        first.is_none_or(|pod| pods::is_terminating(&pod))
    };
    let run_second = |api: &FakeApi| {
        if !going(api) {
            api.run_pods();
        }
    };
    api.until("the first goes, and nobody is told", run_second, going).await;
    api.edit("apps/statefulsets", "ns", "web", |web| web["spec"]["replicas"] = json!(3));
    api.settle().await;
    assert!(api.get::<Pod>("/pods", "ns", "web-2").is_none(), "the third waits for the first");
    api.release("/pods");
    let all = |api: &FakeApi| serving(api, "v1") == ["web-0", "web-1", "web-2"];
    api.until("all three serve", FakeApi::run_pods, all).await;
    running.stop().await;
}
