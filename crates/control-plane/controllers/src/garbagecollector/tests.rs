//! The graph, the decisions, and the collector against a server.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::decide::{Action, OwnerState, Propagation, Surroundings, decide};
use super::graph::{Graph, Kind, Outcome, Uid, Work};
use super::{FOREGROUND, ORPHAN};
use crate::testing::api::{FakeApi, Running};
use crate::testing::{controlled_by, meta, namespace, pod, time};

fn uid(name: &str) -> Uid {
    Arc::from(format!("{name}-uid"))
}

fn owned(name: &str, owners: &[&str]) -> ObjectMeta {
    let owners = owners.iter().map(|owner| controlled_by("v1", "Thing", owner)).collect();
    ObjectMeta { owner_references: Some(owners), ..meta(name) }
}

fn deleting(meta: ObjectMeta, finalizer: &str) -> ObjectMeta {
    ObjectMeta { deletion_timestamp: Some(time(1)), finalizers: Some(vec![finalizer.to_owned()]), ..meta }
}

struct Fixture {
    graph: Graph,
    kind: Arc<Kind>,
}

impl Fixture {
    fn new() -> Self {
        let mut graph = Graph::default();
        let kind = graph.kind("v1", "Thing");
        Self { graph, kind }
    }

    fn see(&mut self, meta: &ObjectMeta) -> Vec<Work> {
        self.see_all(meta).work
    }

    fn see_all(&mut self, meta: &ObjectMeta) -> Outcome {
        self.graph.observe(&self.kind, meta)
    }

    fn surroundings(&self, name: &str) -> Surroundings {
        Surroundings::of(&self.graph, self.graph.node(&uid(name)).unwrap())
    }
}

#[test]
fn the_graph_points_at_what_may_be_garbage() {
    let mut it = Fixture::new();
    assert_eq!(it.see(&meta("parent")), []);
    assert_eq!(it.see(&owned("child", &["parent"])), [], "its owner exists");
    assert_eq!(it.see(&owned("stray", &["nobody"])), [Work::Verify(uid("nobody"))]);
    assert_eq!(it.graph.removed("parent-uid").work, [Work::Delete(uid("child"))]);
    let nobody = it.graph.node("nobody-uid").unwrap().identity.clone();
    assert_eq!(it.graph.absent(&nobody).work, [Work::Delete(uid("stray"))]);
    it.graph.removed("child-uid");
    it.graph.removed("stray-uid");
    assert_eq!(it.graph.len(), 0, "nothing is left behind");
}

#[test]
fn references_that_go_leave_no_trace() {
    let mut it = Fixture::new();
    it.see(&owned("child", &["unseen"]));
    assert_eq!(it.graph.len(), 2);
    assert_eq!(it.see(&owned("child", &[])), [Work::Delete(uid("unseen"))]);
    assert_eq!(it.graph.len(), 1);
}

#[test]
fn deletion_with_finalizers_starts_once() {
    let mut it = Fixture::new();
    it.see(&meta("parent"));
    it.see(&owned("child", &["parent"]));
    let going = deleting(meta("parent"), FOREGROUND);
    assert_eq!(it.see(&going), [Work::Delete(uid("child")), Work::Delete(uid("parent"))]);
    assert_eq!(it.see(&going), [], "known");
    assert_eq!(it.graph.removed("child-uid").work, [Work::Delete(uid("parent"))], "it may go now");
    it.see(&meta("giver"));
    assert_eq!(it.see(&deleting(meta("giver"), ORPHAN)), [Work::Orphan(uid("giver"))]);
    assert_eq!(it.see(&deleting(meta("giver"), ORPHAN)), []);
}

#[test]
fn a_dependent_that_stops_blocking_wakes_its_owner() {
    let mut it = Fixture::new();
    it.see(&meta("parent"));
    it.see(&owned("child", &["parent"]));
    it.see(&deleting(meta("parent"), FOREGROUND));
    assert_eq!(it.surroundings("parent").blocking.len(), 1);
    let mut free = owned("child", &["parent"]);
    free.owner_references.as_mut().unwrap()[0].block_owner_deletion = Some(false);
    assert_eq!(it.see(&free), [Work::Delete(uid("parent"))]);
    assert_eq!(it.surroundings("parent").blocking.len(), 0);
}

#[test]
fn an_owner_in_another_namespace_is_reported_and_looked_at() {
    let mut it = Fixture::new();
    let elsewhere = ObjectMeta { namespace: Some("other".to_owned()), ..meta("parent") };
    it.see(&elsewhere);
    let outcome = it.see_all(&owned("child", &["parent"]));
    assert_eq!(outcome.work, [Work::Delete(uid("child"))]);
    assert_eq!(outcome.invalid.len(), 1);
    assert_eq!(&*outcome.invalid[0].1.namespace, "ns", "as the child says");
    // The other way round: the dependent was seen first.
    let mut it = Fixture::new();
    assert_eq!(it.see(&owned("child", &["parent"])), [Work::Verify(uid("parent"))]);
    let outcome = it.see_all(&elsewhere);
    assert_eq!((outcome.work.as_slice(), outcome.invalid.len()), (&[Work::Delete(uid("child"))][..], 1));
    let cluster = ObjectMeta { namespace: None, ..meta("root") };
    it.see(&cluster);
    assert_eq!(it.see(&owned("leaf", &["root"])), [], "cluster-scoped owners reach everywhere");
}

#[test]
fn a_wrong_description_does_not_speak_for_others() {
    let mut it = Fixture::new();
    let mut liar = owned("liar", &["parent"]);
    liar.owner_references.as_mut().unwrap()[0].name = "wrong".to_owned();
    it.see(&liar);
    it.see(&owned("honest", &["parent"]));
    let described = it.graph.node("parent-uid").unwrap().identity.clone();
    assert_eq!(&*described.name, "wrong", "the first description");
    let outcome = it.graph.absent(&described);
    assert_eq!(outcome.work, [Work::Delete(uid("liar")), Work::Verify(uid("parent"))]);
    assert_eq!(
        &*it.graph.node("parent-uid").unwrap().identity.name,
        "parent",
        "the other description is tried next"
    );
}

#[track_caller]
fn check(seen: &Surroundings, live: &ObjectMeta, owners: &[OwnerState], expected: &Action) {
    assert_eq!(decide(seen, live, owners), *expected);
}

#[test]
fn decisions() {
    use OwnerState::{Dangling, Solid, Waiting};
    let alone = Surroundings::default();
    let parent = Surroundings { has_dependents: true, ..Surroundings::default() };
    let plain = |propagation| Action::Delete { propagation, unblock_owners: false };
    let one = owned("x", &["a"]);
    let two = owned("x", &["a", "b"]);
    check(&alone, &meta("x"), &[], &Action::Keep);
    check(&alone, &one, &[Solid], &Action::Keep);
    check(&alone, &two, &[Solid, Dangling], &Action::RemoveOwners(vec!["b-uid".to_owned()]));
    check(&alone, &two, &[Waiting, Solid], &Action::RemoveOwners(vec!["a-uid".to_owned()]));
    check(&alone, &two, &[Dangling, Dangling], &plain(Propagation::Background));
    check(&alone, &one, &[Waiting], &plain(Propagation::Background));
    check(&parent, &one, &[Waiting], &plain(Propagation::Foreground));
    check(&parent, &one, &[Dangling], &plain(Propagation::Background));
    let cycle = Surroundings { dependent_waits: true, ..parent };
    check(
        &cycle,
        &one,
        &[Waiting],
        &Action::Delete { propagation: Propagation::Foreground, unblock_owners: true },
    );
    let held = |finalizer: &str| ObjectMeta { finalizers: Some(vec![finalizer.to_owned()]), ..one.clone() };
    check(&alone, &held(ORPHAN), &[Dangling], &plain(Propagation::Orphan));
    check(&alone, &held(FOREGROUND), &[Dangling], &plain(Propagation::Foreground));
    let waiting = |blocking| Surroundings { deleting_dependents: true, blocking, ..Surroundings::default() };
    check(&waiting(vec![]), &one, &[], &Action::RemoveForegroundFinalizer);
    check(&waiting(vec![(uid("p"), true), (uid("q"), false)]), &one, &[], &Action::LookAt(vec![uid("q")]));
}

/// A ConfigMap in `ns`, owned by others.
fn config_map(name: &str, owners: Vec<OwnerReference>) -> ConfigMap {
    let metadata = ObjectMeta { uid: None, owner_references: Some(owners), ..meta(name) };
    ConfigMap { metadata, ..ConfigMap::default() }
}

/// A reference to a ConfigMap as the server stored it.
fn to(stored: &serde_json::Value) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "ConfigMap".to_owned(),
        name: stored["metadata"]["name"].as_str().unwrap().to_owned(),
        uid: stored["metadata"]["uid"].as_str().unwrap().to_owned(),
        block_owner_deletion: Some(true),
        controller: None,
    }
}

fn names(api: &FakeApi) -> Vec<String> {
    api.list::<ConfigMap>("/configmaps").into_iter().map(|it| it.metadata.name.unwrap()).collect()
}

const CONTROLLER: &[&str] = &["garbage-collector-controller"];

/// Creates `a`, `b` owned by it, and `c` owned by `b`.
fn chain(api: &FakeApi) {
    let a = api.create("/configmaps", &config_map("a", vec![]));
    let b = api.create("/configmaps", &config_map("b", vec![to(&a)]));
    api.create("/configmaps", &config_map("c", vec![to(&b)]));
}

#[tokio::test(start_paused = true)]
async fn background_deletion_reaches_the_last_dependent() {
    let api = FakeApi::default();
    let running = Running::start(&api, CONTROLLER);
    chain(&api);
    api.settle().await;
    assert_eq!(names(&api), ["a", "b", "c"]);
    api.delete("/configmaps", "ns", "a", "Background");
    api.until("all gone", |_| {}, |api| names(api).is_empty()).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn foreground_deletion_goes_from_the_leaves() {
    let api = FakeApi::default();
    chain(&api);
    let running = Running::start(&api, CONTROLLER);
    api.settle().await;
    api.delete("/configmaps", "ns", "a", "Foreground");
    let no_owner_before_its_dependents = |api: &FakeApi| {
        let names = names(api);
        assert!(names.is_empty() || names[0] == "a", "{names:?}");
        assert!(names.len() != 2 || names[1] == "b", "{names:?}");
    };
    api.until("all gone", no_owner_before_its_dependents, |api| names(api).is_empty()).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn orphans_stay_without_their_owner() {
    let api = FakeApi::default();
    chain(&api);
    let running = Running::start(&api, CONTROLLER);
    api.settle().await;
    api.delete("/configmaps", "ns", "a", "Orphan");
    api.until("the owner is gone", |_| {}, |api| names(api) == ["b", "c"]).await;
    api.settle().await;
    let b: ConfigMap = api.get("/configmaps", "ns", "b").unwrap();
    assert_eq!(b.metadata.owner_references.unwrap_or_default(), []);
    assert_eq!(names(&api), ["b", "c"]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_cycle_can_be_deleted() {
    let api = FakeApi::default();
    let a = api.create("/configmaps", &config_map("a", vec![]));
    let b = api.create("/configmaps", &config_map("b", vec![to(&a)]));
    api.edit("/configmaps", "ns", "a", |a| a["metadata"]["ownerReferences"] = serde_json::json!([to(&b)]));
    let running = Running::start(&api, CONTROLLER);
    api.settle().await;
    api.delete("/configmaps", "ns", "a", "Foreground");
    api.until("both gone", |_| {}, |api| names(api).is_empty()).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn one_living_owner_is_enough_and_the_dead_are_taken_off() {
    let api = FakeApi::default();
    let a = api.create("/configmaps", &config_map("a", vec![]));
    let b = api.create("/configmaps", &config_map("b", vec![]));
    api.create("/configmaps", &config_map("c", vec![to(&a), to(&b)]));
    let running = Running::start(&api, CONTROLLER);
    api.settle().await;
    api.delete("/configmaps", "ns", "a", "Background");
    let owners = |api: &FakeApi| {
        let c: ConfigMap = api.get("/configmaps", "ns", "c").unwrap();
        c.metadata.owner_references.unwrap_or_default()
    };
    api.until("the dead owner is taken off", |_| {}, |api| owners(api) == [to(&b)]).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn strangers_under_the_owners_name_do_not_count() {
    let api = FakeApi::default();
    let a = api.create("/configmaps", &config_map("a", vec![]));
    let mut reference = to(&a);
    reference.uid = "another-life".to_owned();
    api.create("/configmaps", &config_map("b", vec![reference]));
    let elsewhere = ConfigMap {
        metadata: ObjectMeta { namespace: Some("other".to_owned()), ..config_map("x", vec![]).metadata },
        ..ConfigMap::default()
    };
    let x = api.create("/configmaps", &elsewhere);
    api.create("/configmaps", &config_map("c", vec![to(&x)]));
    let running = Running::start(&api, CONTROLLER);
    api.until("both dependents go", |_| {}, |api| names(api) == ["a", "x"]).await;
    api.until("the event", |_| {}, |api| !api.events("OwnerRefInvalidNamespace").is_empty()).await;
    let message = &api.events("OwnerRefInvalidNamespace")[0];
    let uid = x["metadata"]["uid"].as_str().unwrap();
    let expected = format!(
        "ownerRef [v1/ConfigMap, namespace: ns, name: x, uid: {uid}] does not exist in namespace \"ns\""
    );
    assert_eq!(*message, expected);
    running.stop().await;
}

/// A ConfigMap `c`, owned by a CronJob by a version of its kind that is about to go, and by a ConfigMap `a`.
fn owned_by_an_old_version(api: &FakeApi) -> OwnerReference {
    api.serve("batch", &["v1beta1", "v1"]);
    let cron =
        api.create("batch/cronjobs", &serde_json::json!({"metadata": {"name": "cron", "namespace": "ns"}}));
    let old =
        OwnerReference { api_version: "batch/v1beta1".to_owned(), kind: "CronJob".to_owned(), ..to(&cron) };
    let a = api.create("/configmaps", &config_map("a", vec![]));
    api.create("/configmaps", &config_map("c", vec![old.clone(), to(&a)]));
    old
}

fn owners_of_c(api: &FakeApi) -> Vec<OwnerReference> {
    let c: ConfigMap = api.get("/configmaps", "ns", "c").expect("it stays");
    c.metadata.owner_references.unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn an_owner_lives_on_when_the_version_that_names_it_is_gone() {
    let api = FakeApi::default();
    let cron = owned_by_an_old_version(&api);
    let running = Running::start(&api, CONTROLLER);
    api.settle().await;
    api.serve("batch", &["v1"]);
    // Nobody has told of it yet, so nobody knows whether the owner is there.
    api.delete("/configmaps", "ns", "a", "Background");
    api.settle().await;
    assert_eq!(owners_of_c(&api).len(), 2, "as it was");
    let definition = serde_json::json!({"metadata": {"name": "crons"}});
    api.create("apiextensions.k8s.io/customresourcedefinitions", &definition);
    api.until(
        "only the dead owner is taken off",
        |api| drop(owners_of_c(api)),
        |api| owners_of_c(api) == [cron.clone()],
    )
    .await;
    api.delete("batch/cronjobs", "ns", "cron", "Background");
    api.until("it goes with its owner", |_| {}, |api| names(api).is_empty()).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn dependents_go_although_the_kind_of_their_owner_is_gone_too() {
    let api = FakeApi::default();
    owned_by_an_old_version(&api);
    let running = Running::start(&api, CONTROLLER);
    api.settle().await;
    api.hold("batch/cronjobs");
    api.delete("batch/cronjobs", "ns", "cron", "Background");
    api.serve("batch", &[]);
    api.delete("/configmaps", "ns", "a", "Background");
    api.settle().await;
    assert_eq!(names(&api), ["c"]);
    api.release("batch/cronjobs");
    api.until("it goes", |_| {}, |api| names(api).is_empty()).await;
    running.stop().await;
}

/// All of it together: a namespace with a Deployment goes away without a trace.
#[tokio::test(start_paused = true)]
async fn a_namespace_is_filled_and_emptied() {
    let api = FakeApi::default();
    let all = [
        "deployment-controller",
        "replicaset-controller",
        "namespace-controller",
        "serviceaccount-controller",
        "root-ca-certificate-publisher-controller",
        "garbage-collector-controller",
    ];
    let running = Running::start(&api, &all);
    api.create("/namespaces", &namespace("ns"));
    api.until(
        "account and certificates",
        |_| {},
        |api| {
            names(api) == ["kube-root-ca.crt"]
                && api.list::<k8s_openapi::api::core::v1::ServiceAccount>("/serviceaccounts").len() == 1
        },
    )
    .await;
    api.create("/pods", &Pod { metadata: ObjectMeta { uid: None, ..meta("lonely") }, ..pod("lonely") });
    api.create(
        "apps/deployments",
        &serde_json::json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": {"replicas": 2,
            "selector": {"matchLabels": {"app": "web"}}, "strategy": {"type": "Recreate"},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "main", "image": "v1"}]}}}}),
    );
    api.until("pods", FakeApi::run_pods, |api| api.list::<Pod>("/pods").len() == 3).await;
    api.settle().await;
    api.delete("/namespaces", "", "ns", "Background");
    let remains = |api: &FakeApi| {
        let namespace: Namespace = api.get("/namespaces", "", "ns").unwrap();
        let conditions = namespace.status.unwrap().conditions.unwrap_or_default();
        conditions.iter().any(|it| it.type_ == "NamespaceContentRemaining" && it.status == "True")
    };
    api.until("the conditions tell of the pods", |_| {}, remains).await;
    api.until("the namespace is gone", FakeApi::run_pods, |api| {
        api.get::<Namespace>("/namespaces", "", "ns").is_none()
    })
    .await;
    assert!(api.list::<Pod>("/pods").is_empty() && api.list::<ReplicaSet>("apps/replicasets").is_empty());
    assert!(names(&api).is_empty());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_say_what_it_serves_is_asked_again() {
    let failed = || crate::metrics::DISCOVERY_FAILED.with([]).value();
    let before = failed();
    let api = FakeApi::default();
    api.keep_secret(true);
    let running = Running::start(&api, CONTROLLER);
    chain(&api);
    api.settle().await;
    assert!(failed() > before);
    api.delete("/configmaps", "ns", "a", "Background");
    api.settle().await;
    assert_eq!(names(&api), ["b", "c"]);
    api.keep_secret(false);
    api.until("all gone", |_| {}, |api| names(api).is_empty()).await;
    running.stop().await;
}
