//! What users get wrong: the right condition and event for them, and nobody else is harmed.
//!
//! Each test runs a second, sound object of the same kind beside the bad one. Times of CronJobs that do not exist or come twice are
//! in `cronjob/tests.rs`.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::owner;
use crate::pods;
use crate::testing::api::{FakeApi, Running};

fn template(app: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "main", "image": "v1"}]}})
}

/// A ReplicaSet or Deployment whose selector is `app`.
fn workload(name: &str, app: &str, replicas: i32) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "ns", "generation": 1},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": app}}, "template": template(app)},
    })
}

/// The uids of the pods that an object controls.
fn pods_of(api: &FakeApi, owner: &str) -> BTreeSet<String> {
    let pods: Vec<Pod> = api.list("/pods");
    let of = pods.iter().filter(|pod| owner::controller_of(&pod.metadata).is_some_and(|it| it.uid == owner));
    of.map(|pod| owner::uid(&pod.metadata).to_owned()).collect()
}

fn uid(stored: &Value) -> &str {
    stored["metadata"]["uid"].as_str().unwrap()
}

fn available(api: &FakeApi, deployment: &str) -> i32 {
    let stored: Deployment = api.get("apps/deployments", "ns", deployment).unwrap();
    stored.status.and_then(|status| status.available_replicas).unwrap_or(0)
}

#[tokio::test(start_paused = true)]
async fn a_selector_that_matches_anothers_pods_takes_none_of_them() {
    let api = FakeApi::default();
    let first = api.create("apps/replicasets", &workload("first", "shared", 2));
    let running = Running::start(&api, &["replicaset-controller"]);
    api.until("two pods", FakeApi::run_pods, |api| pods_of(api, uid(&first)).len() == 2).await;
    let before = pods_of(&api, uid(&first));
    let second = api.create("apps/replicasets", &workload("second", "shared", 3));
    api.until("three of its own", FakeApi::run_pods, |api| pods_of(api, uid(&second)).len() == 3).await;
    api.edit("apps/replicasets", "ns", "second", |set| set["spec"]["replicas"] = json!(0));
    api.until("its own go", FakeApi::run_pods, |api| pods_of(api, uid(&second)).is_empty()).await;
    api.settle().await;
    assert_eq!(pods_of(&api, uid(&first)), before, "the first one's are untouched");
    let count =
        |name: &str| api.get::<ReplicaSet>("apps/replicasets", "ns", name).unwrap().status.unwrap().replicas;
    assert_eq!((count("first"), count("second")), (2, 0), "and each counts only its own");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_selector_of_everything_selects_nothing_and_says_so() {
    let api = FakeApi::default();
    api.create(
        "/nodes",
        &json!({"metadata": {"name": "n1"}, "spec": {}, "status": {
        "conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"pods": "110"}}}),
    );
    let lonely = json!({"metadata": {"name": "lonely", "namespace": "ns"}, "spec": {"containers": []}});
    api.create("/pods", &lonely);
    for (resource, name) in [("apps/deployments", "greedy"), ("apps/daemonsets", "greedier")] {
        let mut greedy = workload(name, "any", 2);
        greedy["spec"]["selector"] = json!({});
        api.create(resource, &greedy);
    }
    api.create("apps/deployments", &workload("web", "web", 1));
    let names = ["deployment-controller", "replicaset-controller", "daemonset-controller"];
    let running = Running::start(&api, &names);
    api.until("the sound one is up", FakeApi::run_pods, |api| available(api, "web") == 1).await;
    let told = |api: &FakeApi| {
        let messages: BTreeSet<_> = api.events("SelectingAll").into_iter().collect();
        messages.into_iter().collect::<Vec<_>>()
    };
    let expected = ["daemon set", "deployment"]
        .map(|kind| format!("This {kind} is selecting all pods. A non-empty selector is required."));
    api.until("both are told", |_| {}, |api| told(api) == expected).await;
    api.settle().await;
    let pods: Vec<Pod> = api.list("/pods");
    assert_eq!(pods.len(), 2);
    let lonely: Pod = api.get("/pods", "ns", "lonely").unwrap();
    assert!(lonely.metadata.owner_references.is_none());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_owner_made_again_under_its_name_does_not_inherit() {
    let api = FakeApi::default();
    let old = api.create("apps/replicasets", &workload("web", "web", 2));
    let other = api.create("apps/replicasets", &workload("other", "other", 1));
    let running = Running::start(&api, &["replicaset-controller", "garbage-collector-controller"]);
    let count = |api: &FakeApi, set: &Value| pods_of(api, uid(set)).len();
    api.until("pods", FakeApi::run_pods, |api| (count(api, &old), count(api, &other)) == (2, 1)).await;
    let others = pods_of(&api, uid(&other));
    // Gone and there again before any cache can have seen it gone.
    api.delete("apps/replicasets", "ns", "web", "Background");
    let new = api.create("apps/replicasets", &workload("web", "web", 2));
    assert_ne!(uid(&old), uid(&new));
    api.until("the old ones go, new ones come", FakeApi::run_pods, |api| {
        (count(api, &old), count(api, &new)) == (0, 2)
    })
    .await;
    // And a pod whose owner never was.
    let mut lost = json!({"metadata": {"name": "lost", "namespace": "ns", "labels": {"app": "web"}}, "spec": {"containers": []}});
    lost["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "never", "uid": "never", "controller": true}]);
    api.create("/pods", &lost);
    api.until("it goes", FakeApi::run_pods, |api| api.get::<Pod>("/pods", "ns", "lost").is_none()).await;
    api.settle().await;
    assert_eq!((count(&api, &new), pods_of(&api, uid(&other))), (2, others));
    running.stop().await;
}

fn job(name: &str, spec: &Value) -> Value {
    let mut job = json!({
        "metadata": {"name": name, "namespace": "ns", "generation": 1},
        "spec": {
            "completions": 1, "parallelism": 1, "backoffLimit": 1,
            "selector": {"matchLabels": {"app": name}}, "template": template(name),
        },
    });
    for (field, value) in spec.as_object().unwrap() {
        job["spec"][field] = value.clone();
    }
    job
}

/// Ends every running pod with that exit code.
fn end_pods(api: &FakeApi, code: i32) {
    for pod in api.list::<Pod>("/pods").iter().filter(|pod| !pods::is_finished(pod)) {
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        api.edit("/pods", "ns", owner::name(&pod.metadata), |pod| {
            pod["status"] = json!({"phase": phase, "containerStatuses": [{
                "name": "main", "image": "v1", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": code, "finishedAt": "1970-01-12T13:46:40Z"}}}]});
        });
    }
}

/// Type, reason and message of a Job's final condition.
fn outcome(api: &FakeApi, name: &str) -> Option<(String, String, String)> {
    let job: Job = api.get("batch/jobs", "ns", name)?;
    let conditions = job.status?.conditions?;
    let last = conditions.into_iter().find(|it| matches!(it.type_.as_str(), "Complete" | "Failed"))?;
    Some((last.type_, last.reason.unwrap_or_default(), last.message.unwrap_or_default()))
}

#[tokio::test(start_paused = true)]
async fn a_job_with_policies_that_cannot_be_met_ends_by_its_limits() {
    let indexed = |more: Value| {
        let mut spec = json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    for (case, spec, code, expected) in [
        (
            "an action that nobody knows, and a container that there is not",
            json!({"podFailurePolicy": {"rules": [
                {"action": "Explode", "onExitCodes": {"operator": "In", "values": [7]}},
                {"action": "FailJob", "onExitCodes": {"containerName": "nobody", "operator": "In", "values": [7]}},
            ]}}),
            7,
            ("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit"),
        ),
        (
            "everything is ignored until the deadline",
            json!({"activeDeadlineSeconds": 300, "podFailurePolicy": {"rules": [
                {"action": "Ignore", "onExitCodes": {"operator": "NotIn", "values": [0]}},
            ]}}),
            7,
            ("Failed", "DeadlineExceeded", "Job was active longer than specified deadline"),
        ),
        (
            "a success that needs an index that there is not",
            indexed(json!({"successPolicy": {"rules": [{"succeededIndexes": "7-9", "succeededCount": 3}]}})),
            0,
            ("Complete", "CompletionsReached", "Reached expected number of succeeded pods"),
        ),
        (
            "no failure is allowed, of any index or of all",
            indexed(json!({"backoffLimitPerIndex": 0, "maxFailedIndexes": 0, "backoffLimit": i32::MAX})),
            7,
            (
                "Failed",
                "MaxFailedIndexesExceeded",
                "Job has exceeded the specified maximal number of failed indexes",
            ),
        ),
    ] {
        let api = FakeApi::default();
        api.create("batch/jobs", &job("bad", &spec));
        let running = Running::start(&api, &["job-controller"]);
        api.until(case, |api| end_pods(api, code), |api| outcome(api, "bad").is_some()).await;
        let (type_, reason, message) = outcome(&api, "bad").unwrap();
        assert_eq!((type_.as_str(), reason.as_str(), message.as_str()), expected, "{case}");
        api.settle().await;
        let active = api.list::<Pod>("/pods").into_iter().filter(pods::is_active).count();
        assert_eq!(active, 0, "{case}: nothing runs on");
        api.create("batch/jobs", &job("sound", &json!({})));
        let done = |api: &FakeApi| outcome(api, "sound").is_some_and(|it| it.0 == "Complete");
        api.until("a sound job runs after it", |api| end_pods(api, 0), done).await;
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_cron_job_that_cannot_be_understood_says_so() {
    let api = FakeApi::default();
    let cron = |name: &str, schedule: &str, zone: Value| {
        json!({
            "metadata": {"name": name, "namespace": "ns", "generation": 1, "creationTimestamp": "1970-01-12T13:46:40Z"},
            "spec": {"schedule": schedule, "timeZone": zone, "jobTemplate": {"spec": {"template": template(name)}}},
        })
    };
    api.create("batch/cronjobs", &cron("mad", "every now and then", Value::Null));
    api.create("batch/cronjobs", &cron("lost", "* * * * *", json!("Middle/Earth")));
    // A day that comes in no year.
    api.create("batch/cronjobs", &cron("never", "0 0 30 2 *", Value::Null));
    api.create("batch/cronjobs", &cron("sound", "* * * * *", Value::Null));
    let running = Running::start(&api, &["cronjob-controller"]);
    let jobs_of = |api: &FakeApi, name: &str| {
        let jobs: Vec<Job> = api.list("batch/jobs");
        jobs.iter()
            .filter(|job| owner::controller_of(&job.metadata).is_some_and(|it| it.name == name))
            .count()
    };
    api.until("the sound one runs", |_| {}, |api| jobs_of(api, "sound") >= 3).await;
    let told = |api: &FakeApi| {
        !api.events("UnparseableSchedule").is_empty() && !api.events("UnknownTimeZone").is_empty()
    };
    api.until("the others are told", |_| {}, told).await;
    assert!(
        api.events("UnparseableSchedule")[0].contains("\"every now and then\""),
        "{:?}",
        api.events("UnparseableSchedule")
    );
    assert!(
        api.events("UnknownTimeZone")[0].contains("\"Middle/Earth\""),
        "{:?}",
        api.events("UnknownTimeZone")
    );
    for name in ["mad", "lost", "never"] {
        assert_eq!(jobs_of(&api, name), 0, "{name}");
        let stored: CronJob = api.get("batch/cronjobs", "ns", name).unwrap();
        assert!(stored.status.is_none_or(|status| status.last_schedule_time.is_none()), "{name}");
    }
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_deployment_edited_a_hundred_times_a_second_ends_at_the_last_edit() {
    let api = FakeApi::default();
    let mut restless = workload("restless", "restless", 3);
    restless["spec"]["revisionHistoryLimit"] = json!(10);
    api.create("apps/deployments", &restless);
    api.create("apps/deployments", &workload("calm", "calm", 2));
    let running = Running::start(&api, &["deployment-controller", "replicaset-controller"]);
    api.until("both are up", FakeApi::run_pods, |api| {
        (available(api, "restless"), available(api, "calm")) == (3, 2)
    })
    .await;
    let calm: ReplicaSet = set_of(&api, "calm").remove(0);
    let calm_pods = pods_of(&api, owner::uid(&calm.metadata));
    for edit in 1..=200 {
        api.edit("apps/deployments", "ns", "restless", |web| {
            web["spec"]["template"]["spec"]["containers"][0]["image"] = json!(format!("edit-{edit}"));
        });
        tokio::time::advance(std::time::Duration::from_millis(10)).await;
        api.run_pods();
        let live = api.list::<Pod>("/pods").len();
        // Three, one more while rolling, two of the other.
        assert!(live <= 3 + 1 + 2, "{live} pods after edit {edit}");
    }
    let at_last = |api: &FakeApi| {
        let pods: Vec<Pod> = api.list("/pods");
        let last = pods
            .iter()
            .filter(|pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("edit-200"));
        let stored: Deployment = api.get("apps/deployments", "ns", "restless").unwrap();
        let seen = stored.status.as_ref().and_then(|status| status.observed_generation);
        last.count() == 3
            && pods.len() == 5
            && available(api, "restless") == 3
            && seen == stored.metadata.generation
    };
    api.until("the last edit is out", FakeApi::run_pods, at_last).await;
    api.settle().await;
    let scaled: i32 =
        set_of(&api, "restless").iter().map(|set| set.spec.as_ref().unwrap().replicas.unwrap()).sum();
    assert_eq!(scaled, 3, "all others are scaled down");
    // Ten old ones are kept, and the newest.
    api.until("history is trimmed", FakeApi::run_pods, |api| set_of(api, "restless").len() <= 11).await;
    assert_eq!(pods_of(&api, owner::uid(&calm.metadata)), calm_pods, "the other one has its pods");
    running.stop().await;
}

fn set_of(api: &FakeApi, deployment: &str) -> Vec<ReplicaSet> {
    let mut sets: Vec<ReplicaSet> = api.list("apps/replicasets");
    sets.retain(|set| owner::controller_of(&set.metadata).is_some_and(|it| it.name == deployment));
    sets
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_is_left_alone() {
    let api = FakeApi::default();
    let mut broken = workload("broken", "broken", 1);
    broken["spec"]["replicas"] = json!("three");
    // Both in the first list and by a watch.
    api.create("apps/deployments", &broken);
    let running = Running::start(&api, &["deployment-controller", "replicaset-controller"]);
    api.create("apps/deployments", &workload("web", "web", 2));
    let ready = |api: &FakeApi, count: i32| available(api, "web") == count;
    api.until("the sound one is up", FakeApi::run_pods, move |api| ready(api, 2)).await;
    broken["metadata"]["name"] = json!("also-broken");
    api.create("apps/deployments", &broken);
    api.edit("apps/deployments", "ns", "web", |web| web["spec"]["replicas"] = json!(3));
    api.until("it goes on", FakeApi::run_pods, move |api| ready(api, 3)).await;
    assert_eq!(api.list::<ReplicaSet>("apps/replicasets").len(), 1, "nothing was made for the others");
    // Mended, it is taken up.
    api.edit("apps/deployments", "ns", "broken", |it| it["spec"]["replicas"] = json!(1));
    api.until("it is up", FakeApi::run_pods, |api| available(api, "broken") == 1).await;
    running.stop().await;
}
