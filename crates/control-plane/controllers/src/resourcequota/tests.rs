//! What objects use, what quotas count, and the controller against a server.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, PersistentVolumeClaim, PersistentVolumeClaimSpec, Pod, ResourceQuota,
    ResourceQuotaSpec, ResourceRequirements, Service, ServicePort, ServiceSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::decide::{Contents, Decision, decide, kinds};
use super::usage::{self, Amounts, kind_of};
use crate::testing::api::{FakeApi, Running};
use crate::testing::{PodExt, at, meta, pod, time};

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

fn shown(amounts: &Amounts) -> Vec<String> {
    amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect()
}

#[test]
fn pods_use_what_their_containers_ask_for() {
    let two = with(vec![
        container(&[("cpu", "250m"), ("memory", "1Gi")], &[("cpu", "1")]),
        container(&[("cpu", "250m"), ("example.com/gpu", "2")], &[]),
    ]);
    let expected = [
        "cpu=500m",
        "limits.cpu=1",
        "memory=1Gi",
        "pods=1",
        "requests.cpu=500m",
        "requests.example.com/gpu=2",
        "requests.memory=1Gi",
    ];
    assert_eq!(shown(&usage::pod(&two, at(0))), expected);
    let sidecar =
        Container { restart_policy: Some("Always".to_owned()), ..container(&[("cpu", "100m")], &[]) };
    let early = two.clone().edit(|pod| {
        pod.spec.as_mut().unwrap().init_containers = Some(vec![sidecar, container(&[("cpu", "2")], &[])]);
    });
    assert_eq!(
        usage::pod(&early, at(0))["cpu"].to_string(),
        "2100m",
        "the last init container beside the sidecar"
    );
    assert!(usage::pod(&two.clone().phase("Failed"), at(0)).is_empty());
    let stuck = two.deleting().edit(|pod| {
        pod.metadata.deletion_timestamp = Some(time(100));
        pod.metadata.deletion_grace_period_seconds = Some(30);
    });
    assert!(!usage::pod(&stuck, at(130)).is_empty() && usage::pod(&stuck, at(131)).is_empty());
}

#[test]
fn services_and_claims_use_more_than_one_thing() {
    let service = |type_: &str, allocate: Option<bool>| Service {
        spec: Some(ServiceSpec {
            type_: Some(type_.to_owned()),
            allocate_load_balancer_node_ports: allocate,
            ports: Some(vec![
                ServicePort::default(),
                ServicePort { node_port: Some(30000), ..ServicePort::default() },
            ]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    };
    for (type_, allocate, balancers, ports) in [
        ("ClusterIP", None, "0", "0"),
        ("NodePort", None, "0", "2"),
        ("LoadBalancer", None, "1", "2"),
        ("LoadBalancer", Some(false), "1", "1"),
    ] {
        let used = usage::service(&service(type_, allocate));
        let pair = (used["services.loadbalancers"].to_string(), used["services.nodeports"].to_string());
        assert_eq!(pair, (balancers.to_owned(), ports.to_owned()), "{type_}");
    }
    let claim = PersistentVolumeClaim {
        spec: Some(PersistentVolumeClaimSpec {
            storage_class_name: Some("fast".to_owned()),
            resources: Some(VolumeResourceRequirements {
                requests: Some(list(&[("storage", "5Gi")])),
                limits: None,
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    };
    let expected = [
        "fast.storageclass.storage.k8s.io/persistentvolumeclaims=1",
        "fast.storageclass.storage.k8s.io/requests.storage=5Gi",
        "persistentvolumeclaims=1",
        "requests.storage=5Gi",
    ];
    assert_eq!(shown(&usage::claim(&claim)), expected);
}

#[test]
fn names_say_what_they_count() {
    for (name, kind) in [
        ("pods", Some(("", "pods"))),
        ("requests.cpu", Some(("", "pods"))),
        ("limits.memory", Some(("", "pods"))),
        ("hugepages-2Mi", Some(("", "pods"))),
        ("requests.example.com/gpu", Some(("", "pods"))),
        ("requests.storage", Some(("", "persistentvolumeclaims"))),
        ("fast.storageclass.storage.k8s.io/requests.storage", Some(("", "persistentvolumeclaims"))),
        ("services.nodeports", Some(("", "services"))),
        ("secrets", Some(("", "secrets"))),
        ("count/deployments.apps", Some(("apps", "deployments"))),
        ("count/configmaps", Some(("", "configmaps"))),
        ("nonsense", None),
    ] {
        let expected = kind.map(|(group, plural)| (group.to_owned(), plural.to_owned()));
        assert_eq!(kind_of(name), expected, "{name}");
    }
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
    let contents = |pods: usize| Contents {
        pods: (0..pods).map(|_| with(vec![container(&[("cpu", "250m")], &[])])).collect(),
        counts: BTreeMap::from([((String::new(), "configmaps".to_owned()), 1)]),
        ..Contents::default()
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
    let contents = Contents { pods: vec![burdened, free, brief], ..Contents::default() };
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

#[tokio::test(start_paused = true)]
async fn a_quota_follows_its_namespace() {
    let api = FakeApi::default();
    api.create("/resourcequotas", &quota(&[("pods", "5"), ("count/configmaps", "5")], &[]));
    let running = Running::start(&api, &["resourcequota-controller"]);
    let used = |api: &FakeApi, name: &str| {
        let quota: ResourceQuota = api.get("/resourcequotas", "ns", "quota").unwrap();
        quota.status.and_then(|it| it.used).and_then(|it| it.get(name).map(|amount| amount.0.clone()))
    };
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
