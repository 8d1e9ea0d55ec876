//! When counts are written, and the controller against a server.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, Pod, PodSpec, ResourceQuota, ResourceQuotaSpec, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::decide::{Contents, Counted, Decision, decide, kinds, recounts};
use crate::testing::api::{FakeApi, Running};
use crate::testing::{PodExt, at, meta, pod};

fn list(pairs: &[(&str, &str)]) -> BTreeMap<String, Wire> {
    pairs.iter().map(|(name, amount)| ((*name).to_owned(), Wire((*amount).to_owned()))).collect()
}

fn container(requests: &[(&str, &str)], limits: &[(&str, &str)]) -> Container {
    let resources =
        ResourceRequirements { requests: Some(list(requests)), limits: Some(list(limits)), claims: None };
    Container { resources: Some(resources), ..Container::default() }
}

fn with(containers: Vec<Container>) -> Pod {
    pod("p").edit(|pod| pod.spec.as_mut().unwrap().containers = containers)
}

fn of_pods(pods: &[Pod]) -> ((String, String), Counted) {
    let trees = pods.iter().map(|pod| serde_json::to_value(pod).unwrap()).collect();
    ((String::new(), "pods".to_owned()), Counted::Objects(trees))
}

fn quota(hard: &[(&str, &str)], scopes: &[&str]) -> ResourceQuota {
    ResourceQuota {
        metadata: meta("quota"),
        spec: Some(ResourceQuotaSpec {
            hard: Some(list(hard)),
            scopes: (!scopes.is_empty()).then(|| scopes.iter().map(|it| (*it).to_owned()).collect()),
            scope_selector: None,
        }),
        status: None,
    }
}

fn written(decision: Decision) -> BTreeMap<String, Wire> {
    match decision {
        Decision::Write(status) => status.used.unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn counts_go_up_at_once_and_down_when_it_is_quiet() {
    let mut current = quota(&[("pods", "5"), ("requests.cpu", "2"), ("configmaps", "9")], &[]);
    assert_eq!(kinds(&current).len(), 2);
    let contents = |pods: usize| {
        let pods: Vec<Pod> = (0..pods).map(|_| with(vec![container(&[("cpu", "250m")], &[])])).collect();
        Contents::from([of_pods(&pods), ((String::new(), "configmaps".to_owned()), Counted::Number(1))])
    };
    let first = decide(&current, &contents(2), false, at(0));
    assert_eq!(written(first.clone()), list(&[("pods", "2"), ("requests.cpu", "500m"), ("configmaps", "1")]));
    let Decision::Write(status) = first else { panic!("written") };
    current.status = Some(status);
    assert_eq!(decide(&current, &contents(2), false, at(0)), Decision::Keep);
    assert_eq!(written(decide(&current, &contents(3), false, at(0)))["pods"], Wire("3".to_owned()));
    assert_eq!(decide(&current, &contents(1), false, at(0)), Decision::Later);
    assert_eq!(written(decide(&current, &contents(1), true, at(0)))["pods"], Wire("1".to_owned()));
}

#[test]
fn scopes_choose_pods() {
    let burdened = with(vec![container(&[("cpu", "1")], &[])]);
    let free = with(vec![container(&[], &[])]);
    let brief = free.clone().edit(|pod| pod.spec.as_mut().unwrap().active_deadline_seconds = Some(5));
    let contents = Contents::from([of_pods(&[burdened, free, brief])]);
    for (scopes, expected) in [
        (&[][..], "3"),
        (&["BestEffort"], "2"),
        (&["NotBestEffort"], "1"),
        (&["Terminating"], "1"),
        (&["BestEffort", "NotTerminating"], "1"),
    ] {
        let used = written(decide(&quota(&[("pods", "9")], scopes), &contents, true, at(0)));
        assert_eq!(used["pods"], Wire(expected.to_owned()), "{scopes:?}");
    }
}

fn used(api: &FakeApi, name: &str) -> Option<String> {
    let quota: ResourceQuota = api.get("/resourcequotas", "ns", "quota").unwrap();
    quota.status.and_then(|it| it.used).and_then(|it| it.get(name).map(|amount| amount.0.clone()))
}

#[tokio::test(start_paused = true)]
async fn a_quota_follows_its_namespace() {
    let api = FakeApi::default();
    api.create("/resourcequotas", &quota(&[("pods", "5"), ("count/configmaps", "5")], &[]));
    let running = Running::start(&api, &["resourcequota-controller"]);
    api.until("counted", |_| {}, |api| used(api, "pods").as_deref() == Some("0")).await;
    api.create("/pods", &Pod { metadata: ObjectMeta { uid: None, ..meta("p") }, ..pod("p") });
    api.create(
        "/configmaps",
        &ConfigMap { metadata: ObjectMeta { uid: None, ..meta("c") }, ..ConfigMap::default() },
    );
    api.until(
        "one of each",
        |_| {},
        |api| {
            used(api, "pods").as_deref() == Some("1") && used(api, "count/configmaps").as_deref() == Some("1")
        },
    )
    .await;
    api.end_pod("ns", "p");
    api.delete("/configmaps", "ns", "c", "Background");
    api.until(
        "freed",
        |_| {},
        |api| {
            used(api, "pods").as_deref() == Some("0") && used(api, "count/configmaps").as_deref() == Some("0")
        },
    )
    .await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_kind_is_counted_wherever_it_is_served() {
    let api = FakeApi::default();
    api.serve("batch", &["v1beta1"]);
    let create = |name: &str| {
        api.create("batch/cronjobs", &serde_json::json!({"metadata": {"name": name, "namespace": "ns"}}));
    };
    create("one");
    api.create("/resourcequotas", &quota(&[("count/cronjobs.batch", "5")], &[]));
    let running = Running::start(&api, &["resourcequota-controller"]);
    api.until("counted", |_| {}, |api| used(api, "count/cronjobs.batch").as_deref() == Some("1")).await;
    api.serve("batch", &["v1"]);
    create("two");
    api.until("counted again", |_| {}, |api| used(api, "count/cronjobs.batch").as_deref() == Some("2")).await;
    running.stop().await;
}

#[test]
fn some_changes_of_pods_change_what_they_count_for() {
    let spec = |edit: fn(&mut PodSpec)| {
        with(vec![container(&[("cpu", "1")], &[])]).edit(|pod| edit(pod.spec.as_mut().unwrap()))
    };
    let old = spec(|_| {});
    for (case, new, expected) in [
        ("nothing", old.clone(), false),
        ("its node", old.clone().on("n"), false),
        ("it serves", old.clone().ready(1), false),
        ("it ends", old.clone().phase("Failed"), true),
        ("its size", spec(|spec| spec.containers = vec![container(&[("cpu", "2")], &[])]), true),
        (
            "its size as a whole",
            spec(|spec| spec.resources = container(&[("cpu", "2")], &[]).resources),
            true,
        ),
        ("its scope", spec(|spec| spec.active_deadline_seconds = Some(5)), true),
    ] {
        assert_eq!(recounts(&old, &new), expected, "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_resized_counts_for_its_new_size() {
    let api = FakeApi::default();
    api.create("/resourcequotas", &quota(&[("requests.cpu", "5")], &[]));
    api.create("/pods", &with(vec![container(&[("cpu", "1")], &[])]));
    let running = Running::start(&api, &["resourcequota-controller"]);
    api.until("counted", |_| {}, |api| used(api, "requests.cpu").as_deref() == Some("1")).await;
    for size in ["3", "2"] {
        // Otherwise it is looked at because of its own status.
        api.settle().await;
        api.edit("/pods", "ns", "p", |pod| {
            pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = size.into();
        });
        api.until("counted anew", |_| {}, |api| used(api, "requests.cpu").as_deref() == Some(size)).await;
    }
    running.stop().await;
}

/// Its node is lost: nobody ends it.
#[tokio::test(start_paused = true)]
async fn a_pod_that_should_be_gone_is_let_off() {
    for deleted_before in [true, false] {
        let api = FakeApi::default();
        api.create("/resourcequotas", &quota(&[("pods", "5")], &[]));
        api.create("/pods", &pod("p"));
        api.run_pods();
        if deleted_before {
            api.delete("/pods", "ns", "p", "Background");
        }
        let running = Running::start(&api, &["resourcequota-controller"]);
        api.until("counted", |_| {}, |api| used(api, "pods").as_deref() == Some("1")).await;
        if !deleted_before {
            api.settle().await;
            api.delete("/pods", "ns", "p", "Background");
        }
        api.settle().await;
        assert_eq!(used(&api, "pods").as_deref(), Some("1"), "it has its time to end");
        api.until("let off", |_| {}, |api| used(api, "pods").as_deref() == Some("0")).await;
        assert_eq!(api.list::<Pod>("/pods").len(), 1);
        running.stop().await;
    }
}
