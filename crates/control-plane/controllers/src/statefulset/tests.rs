//! Decisions about one StatefulSet, and the controller against a server.

mod claims;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{
    RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetOrdinals,
    StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetStatus,
    StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proptest::prelude::*;

use super::decide::{Claims, Decision, Observed, Revisions, Version, decide};
use super::identity::{claim_owners, claims, identify, new_pod, revision};
use super::status::standing;
use super::{INDEX_LABEL, NAME_LABEL};
use crate::testing::api::{FakeApi, Running};
use crate::testing::{PodExt, at, meta, selector, template};

const LABELS: &[(&str, &str)] = &[("app", "db")];

fn set(replicas: i32) -> StatefulSet {
    StatefulSet {
        metadata: meta("db"),
        spec: Some(StatefulSetSpec {
            replicas: Some(replicas),
            selector: selector(LABELS),
            template: template(LABELS, "v1"),
            service_name: Some("db-headless".to_owned()),
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

fn edited(mut set: StatefulSet, edit: impl FnOnce(&mut StatefulSetSpec)) -> StatefulSet {
    edit(set.spec.as_mut().unwrap());
    set
}

fn parallel(replicas: i32) -> StatefulSet {
    edited(set(replicas), |spec| spec.pod_management_policy = Some("Parallel".to_owned()))
}

fn partitioned(replicas: i32, partition: i32) -> StatefulSet {
    edited(set(replicas), |spec| {
        let update = RollingUpdateStatefulSetStrategy { partition: Some(partition), ..Default::default() };
        let strategy = StatefulSetUpdateStrategy {
            type_: Some("RollingUpdate".to_owned()),
            rolling_update: Some(update),
        };
        spec.update_strategy = Some(strategy);
    })
}

fn member(number: i32, revision: &str) -> Pod {
    let mut pod = new_pod(&set(1), &template(LABELS, "v1"), revision, number);
    pod.metadata.uid = Some(format!("uid-{number}"));
    pod.phase_or_new("Pending")
}

/// A pod that has no status yet needs one before it can be changed.
trait Fresh {
    fn phase_or_new(self, phase: &str) -> Pod;
}

impl Fresh for Pod {
    fn phase_or_new(mut self, phase: &str) -> Pod {
        self.status.get_or_insert_default();
        self.phase(phase)
    }
}

fn well(number: i32, revision: &str) -> Pod {
    member(number, revision).ready(1)
}

fn decided(set: &StatefulSet, pods: Vec<Pod>) -> Decision {
    decided_with(set, pods, &Claims::new())
}

fn decided_with(set: &StatefulSet, pods: Vec<Pod>, claims: &Claims) -> Decision {
    let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
    let (old, new) = (template(LABELS, "v1"), template(LABELS, "v2"));
    let revisions = Revisions { current_name: "old", current: &old, update_name: "new", update: &new };
    decide(&Observed { set, pods: &pods, claims, revisions }, at(1000))
}

fn created(decision: &Decision) -> Vec<i32> {
    decision.create.iter().map(|(number, _)| *number).collect()
}

fn deleted(decision: &Decision) -> Vec<&str> {
    decision.delete.iter().map(|target| target.key.name.as_str()).collect()
}

#[test]
fn pods_come_one_after_the_other() {
    assert_eq!(created(&decided(&set(3), vec![])), [0]);
    assert_eq!(created(&decided(&set(3), vec![member(0, "new")])), Vec::<i32>::new());
    assert_eq!(created(&decided(&set(3), vec![well(0, "new")])), [1]);
    assert_eq!(created(&decided(&set(3), vec![well(0, "new"), well(2, "new")])), [1], "gaps are filled");
    assert_eq!(
        created(&decided(&set(3), vec![well(0, "new").deleting()])),
        Vec::<i32>::new(),
        "its name is still taken"
    );
    assert_eq!(deleted(&decided(&set(3), vec![well(0, "new").phase("Failed")])), ["db-0"]);
    assert_eq!(created(&decided(&parallel(3), vec![member(0, "new")])), [1, 2]);
    let shifted = edited(set(2), |spec| spec.ordinals = Some(StatefulSetOrdinals { start: Some(5) }));
    assert_eq!(created(&decided(&shifted, vec![well(5, "new")])), [6]);
    let slow = edited(set(2), |spec| spec.min_ready_seconds = Some(2000));
    let waiting = decided(&slow, vec![well(0, "new")]);
    assert_eq!((created(&waiting), waiting.next_check), (vec![], Some(at(2001))));
}

#[test]
fn as_many_are_updated_at_once_as_may_be_missing() {
    let with = |most: IntOrString, partition: i32| {
        edited(partitioned(5, partition), |spec| {
            let update = spec.update_strategy.as_mut().unwrap().rolling_update.as_mut().unwrap();
            update.max_unavailable = Some(most);
        })
    };
    let int = IntOrString::Int;
    let old = |sick: &[i32]| -> Vec<Pod> {
        (0..5)
            .map(|number| if sick.contains(&number) { member(number, "old") } else { well(number, "old") })
            .collect()
    };
    let going = |set: &StatefulSet, pods| deleted(&decided(set, pods)).join(" ");
    assert_eq!(going(&with(int(2), 0), old(&[])), "db-4 db-3");
    assert_eq!(going(&with(int(2), 4), old(&[])), "db-4", "not below the partition");
    let half = IntOrString::String("50%".to_owned());
    assert_eq!(going(&with(half, 0), old(&[])), "db-4 db-3", "rounded down");
    assert_eq!(going(&with(IntOrString::String("1%".to_owned()), 0), old(&[])), "db-4", "but never none");
    let loose =
        |most| edited(with(int(most), 0), |spec| spec.pod_management_policy = Some("Parallel".to_owned()));
    assert_eq!(going(&loose(3), old(&[1])), "db-4 db-3", "one is missing already");
    assert_eq!(going(&loose(1), old(&[1])), "", "and that is all that may be");
}

#[test]
fn pods_go_from_the_highest_number() {
    let three = || vec![well(0, "new"), well(1, "new"), well(2, "new")];
    assert_eq!(deleted(&decided(&set(1), three())), ["db-2"]);
    let going = vec![well(0, "new"), well(1, "new"), well(2, "new").deleting()];
    assert_eq!(deleted(&decided(&set(1), going)), Vec::<&str>::new(), "one at a time");
    let sick = vec![well(0, "new"), member(1, "new"), well(2, "new")];
    assert_eq!(deleted(&decided(&set(1), sick)), ["db-2"], "what works may go while a lower one is sick");
    let both_sick = vec![well(0, "new"), member(1, "new"), member(2, "new")];
    assert_eq!(
        deleted(&decided(&set(1), both_sick)),
        Vec::<&str>::new(),
        "only the first of the sick may go"
    );
    // Found by seed 13066 of the simulation.
    let ended = vec![well(0, "new"), well(1, "new").phase("Failed"), well(2, "new").phase("Failed")];
    assert_eq!(deleted(&decided(&set(1), ended)), ["db-2"], "what has ended never gets well");
    assert_eq!(deleted(&decided(&parallel(1), three())), ["db-2", "db-1"]);
    let unwell_first = vec![member(0, "new"), well(1, "new")];
    assert_eq!(deleted(&decided(&set(1), unwell_first)), Vec::<&str>::new(), "what stays must be well first");
}

#[test]
fn a_parallel_set_shrinks_and_rolls_whatever_becomes_of_a_pod() {
    let ended = |revision| well(1, revision).phase("Failed");
    let going = |set: &StatefulSet, pods| deleted(&decided(set, pods)).join(" ");
    let of_four = |one: Pod| vec![well(0, "new"), one, well(2, "new"), well(3, "new")];
    assert_eq!(going(&parallel(2), of_four(ended("new"))), "db-1 db-3 db-2");
    assert_eq!(going(&parallel(2), of_four(ended("new").deleting())), "db-3 db-2");
    assert_eq!(going(&set(2), of_four(ended("new").deleting())), "", "in order it waits");
    let old = |one: Pod| vec![well(0, "old"), one, well(2, "old")];
    assert_eq!(going(&parallel(3), old(ended("old"))), "db-1 db-2", "each of them once");
    assert_eq!(going(&parallel(3), old(ended("old").deleting())), "db-2");
    let last = vec![well(0, "old"), well(1, "old").phase("Succeeded")];
    assert_eq!(going(&parallel(2), last), "db-1", "the next one waits for what is above it");
    let beyond = vec![well(0, "old"), well(1, "old"), well(2, "old").deleting()];
    assert_eq!(going(&parallel(2), beyond), "db-1", "and not for what has to go");
    assert_eq!(going(&parallel(3), vec![well(0, "old"), well(2, "old")]), "", "but for what is to come");
}

#[test]
fn updates_go_down_to_the_partition() {
    let old = || vec![well(0, "old"), well(1, "old"), well(2, "old")];
    assert_eq!(deleted(&decided(&set(3), old())), ["db-2"]);
    assert_eq!(deleted(&decided(&set(3), vec![well(0, "old"), well(1, "old"), well(2, "new")])), ["db-1"]);
    assert_eq!(
        deleted(&decided(&set(3), vec![well(0, "old"), well(1, "old"), member(2, "new")])),
        Vec::<&str>::new()
    );
    assert_eq!(
        deleted(&decided(&partitioned(3, 2), vec![well(0, "old"), well(1, "old"), well(2, "new")])),
        Vec::<&str>::new()
    );
    let manual = edited(set(3), |spec| {
        let strategy = StatefulSetUpdateStrategy { type_: Some("OnDelete".to_owned()), rolling_update: None };
        spec.update_strategy = Some(strategy);
    });
    assert_eq!(deleted(&decided(&manual, old())), Vec::<&str>::new());
    let lost = decided(&partitioned(3, 2), vec![well(0, "old"), well(2, "new")]);
    assert_eq!(lost.create, [(1, Version::Current)], "below the partition the old version comes back");
    let lost = decided(&partitioned(3, 1), vec![well(0, "old"), well(2, "new")]);
    assert_eq!(lost.create, [(1, Version::Update)]);
    let mut halfway = set(3);
    halfway.status = Some(StatefulSetStatus { current_replicas: Some(2), ..StatefulSetStatus::default() });
    assert_eq!(decided(&halfway, vec![well(0, "old"), well(2, "new")]).create, [(1, Version::Current)]);
}

#[test]
fn the_status_counts_and_completes() {
    let status = decided(&set(3), vec![well(0, "old"), well(1, "old"), member(2, "new")]).status.unwrap();
    let counts = (status.replicas, status.ready_replicas, status.current_replicas, status.updated_replicas);
    assert_eq!(counts, (3, Some(2), Some(2), Some(1)));
    assert_eq!(
        (status.current_revision.as_deref(), status.update_revision.as_deref()),
        (Some("old"), Some("new"))
    );
    let mut complete = set(2);
    complete.status = decided(&complete, vec![well(0, "new"), well(1, "new")]).status;
    assert_eq!(complete.status.as_ref().unwrap().current_revision.as_deref(), Some("new"));
}

#[test]
fn pods_and_claims_have_their_identity() {
    let data = PersistentVolumeClaim {
        metadata: ObjectMeta { name: Some("data".to_owned()), ..ObjectMeta::default() },
        ..Default::default()
    };
    let policy = |deleted: &str, scaled: &str| StatefulSetPersistentVolumeClaimRetentionPolicy {
        when_deleted: Some(deleted.to_owned()),
        when_scaled: Some(scaled.to_owned()),
    };
    let with = |deleted: &str, scaled: &str| {
        edited(set(2), |spec| {
            spec.volume_claim_templates = Some(vec![data.clone()]);
            spec.persistent_volume_claim_retention_policy = Some(policy(deleted, scaled));
        })
    };
    let keep = with("Retain", "Retain");
    let pod = new_pod(&keep, &template(LABELS, "v1"), "r", 1);
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!(pod.metadata.name.as_deref(), Some("db-1"));
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("db-1"), Some("db-headless")));
    let volume = &spec.volumes.as_ref().unwrap()[0];
    assert_eq!(volume.persistent_volume_claim.as_ref().unwrap().claim_name, "data-db-1");
    let labels = pod.metadata.labels.as_ref().unwrap();
    assert_eq!(
        (labels[NAME_LABEL].as_str(), labels[INDEX_LABEL].as_str(), revision(&pod)),
        ("db-1", "1", "r")
    );
    let mut again = pod.clone();
    identify(&keep, &mut again, 1);
    assert_eq!(again, pod);
    let claim = claims(&keep, 1).remove(0);
    assert_eq!(
        (claim.metadata.name.as_deref(), &claim.metadata.owner_references),
        (Some("data-db-1"), &None)
    );
    assert_eq!(claim.metadata.labels.as_ref().unwrap()["app"], "db");
    assert_eq!(
        claims(&with("Delete", "Retain"), 1)[0].metadata.owner_references.as_ref().unwrap()[0].kind,
        "StatefulSet"
    );
    assert_eq!(claim_owners(&keep, &claim, &pod, true), None);
    let owners = claim_owners(&with("Retain", "Delete"), &claim, &pod, true).unwrap();
    assert_eq!(owners[0].kind, "Pod");
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Decide,
    Ready(i32),
    Gone(i32),
    Scale(i32),
}

proptest! {
    /// Never two pods of one number, never a pod before those below it serve, never more than one going at a time; and in the
    /// end all are there and new.
    #[test]
    fn order_is_kept(
        replicas in 1..5i32,
        steps in proptest::collection::vec(
            prop_oneof![
                4 => Just(Step::Decide),
                3 => (0..6i32).prop_map(Step::Ready),
                3 => (0..6i32).prop_map(Step::Gone),
                1 => (0..6i32).prop_map(Step::Scale),
            ],
            0..100,
        ),
    ) {
        let mut current = set(replicas);
        let mut pods: Vec<(i32, Pod)> = (0..replicas).map(|number| (number, well(number, "old"))).collect();
        let step = |current: &mut StatefulSet, pods: &mut Vec<(i32, Pod)>, step: Step| -> Result<(), TestCaseError> {
            match step {
                Step::Decide => {
                    let decision = decided(current, pods.iter().map(|(_, pod)| pod.clone()).collect());
                    if let Some(status) = decision.status {
                        current.status = Some(status);
                    }
                    prop_assert!(decision.create.len() + decision.delete.len() <= 1);
                    for (number, version) in decision.create {
                        prop_assert!(pods.iter().all(|(other, _)| *other != number), "two of number {}", number);
                        let below = (0..number).all(|low| pods.iter().any(|(other, pod)| *other == low && crate::pods::is_ready(pod)));
                        prop_assert!(below, "number {} before its time", number);
                        let revision = if version == Version::Update { "new" } else { "old" };
                        pods.push((number, member(number, revision)));
                        pods.sort_by_key(|(number, _)| *number);
                    }
                    for target in decision.delete {
                        prop_assert!(pods.iter().all(|(_, pod)| !crate::pods::is_terminating(pod)), "two go at once");
                        for (_, pod) in pods.iter_mut().filter(|(_, pod)| pod.metadata.name.as_ref() == Some(&target.key.name)) {
                            *pod = pod.clone().deleting();
                        }
                    }
                }
                Step::Ready(number) => {
                    for (_, pod) in pods.iter_mut().filter(|(other, _)| *other == number) {
                        *pod = pod.clone().ready(1);
                    }
                }
                Step::Gone(number) => {
                    pods.retain(|(other, pod)| *other != number || !crate::pods::is_terminating(pod));
                }
                Step::Scale(size) => current.spec.as_mut().unwrap().replicas = Some(size),
            }
            Ok(())
        };
        for next in steps {
            step(&mut current, &mut pods, next)?;
        }
        for _ in 0..80 {
            step(&mut current, &mut pods, Step::Decide)?;
            for number in 0..6 {
                step(&mut current, &mut pods, Step::Gone(number))?;
                step(&mut current, &mut pods, Step::Ready(number))?;
            }
        }
        let wanted = current.spec.as_ref().unwrap().replicas.unwrap();
        prop_assert_eq!(pods.len(), usize::try_from(wanted).unwrap());
        prop_assert!(pods.iter().all(|(_, pod)| revision(pod) == "new"));
    }
}

#[test]
fn what_may_be_missing_and_what_is() {
    let now = at(1_000);
    let with = |most: IntOrString| {
        edited(partitioned(5, 0), |spec| {
            spec.update_strategy.as_mut().unwrap().rolling_update.as_mut().unwrap().max_unavailable =
                Some(most);
        })
    };
    let arcs = |pods: Vec<Pod>| pods.into_iter().map(Arc::new).collect::<Vec<_>>();
    let five = || (0..5).map(|number| well(number, "new")).collect::<Vec<Pod>>();
    assert_eq!(standing(&set(5), &arcs(five()), now), (1, 0));
    assert_eq!(standing(&with(IntOrString::Int(3)), &arcs(five()), now), (3, 0));
    assert_eq!(standing(&with(IntOrString::String("50%".to_owned())), &[], now), (2, 5), "rounded down");
    let mut some = five();
    some[0] = member(0, "new");
    some[1] = well(1, "new").deleting();
    some.remove(4);
    some.push(well(7, "new"));
    assert_eq!(standing(&set(5), &arcs(some), now), (1, 3), "one too many makes up for none");
    let slow = edited(set(5), |spec| spec.min_ready_seconds = Some(2000));
    assert_eq!(standing(&slow, &arcs(five()), now), (1, 5));
}

#[tokio::test(start_paused = true)]
async fn a_set_comes_updates_and_shrinks() {
    let api = FakeApi::default();
    let data = PersistentVolumeClaim {
        metadata: ObjectMeta { name: Some("data".to_owned()), ..ObjectMeta::default() },
        ..Default::default()
    };
    let stored = edited(set(3), |spec| {
        spec.volume_claim_templates = Some(vec![data]);
        spec.persistent_volume_claim_retention_policy =
            Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                when_deleted: Some("Retain".to_owned()),
                when_scaled: Some("Delete".to_owned()),
            });
    });
    api.create("apps/statefulsets", &stored);
    let running = Running::start(&api, &["statefulset-controller", "garbage-collector-controller"]);
    let serving = |api: &FakeApi, image: &str| {
        let of_image = |pod: &Pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some(image);
        let pods: Vec<Pod> = api.list("/pods");
        let names = pods.iter().filter(|pod| of_image(pod) && crate::pods::is_ready(pod));
        names.map(|pod| pod.metadata.name.clone().unwrap()).collect::<Vec<_>>()
    };
    let status = |api: &FakeApi| {
        api.get::<StatefulSet>("apps/statefulsets", "ns", "db").unwrap().status.unwrap_or_default()
    };
    api.until("three", FakeApi::run_pods, |api| {
        serving(api, "v1") == ["db-0", "db-1", "db-2"] && status(api).available_replicas == Some(3)
    })
    .await;
    let claim_names = |api: &FakeApi| {
        let claims: Vec<PersistentVolumeClaim> = api.list("/persistentvolumeclaims");
        claims.into_iter().map(|claim| claim.metadata.name.unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(claim_names(&api), ["data-db-0", "data-db-1", "data-db-2"]);
    api.edit("apps/statefulsets", "ns", "db", |set| {
        set["spec"]["template"]["spec"]["containers"][0]["image"] = "v2".into();
    });
    let two_serve = |api: &FakeApi| {
        assert!(serving(api, "v1").len() + serving(api, "v2").len() >= 2);
        api.run_pods();
    };
    api.until("updated", two_serve, |api| {
        let status = status(api);
        serving(api, "v2").len() == 3 && status.current_revision == status.update_revision
    })
    .await;
    api.edit("apps/statefulsets", "ns", "db", |set| set["spec"]["replicas"] = 1.into());
    api.until("smaller, and the claims with it", FakeApi::run_pods, |api| {
        serving(api, "v2") == ["db-0"] && claim_names(api) == ["data-db-0"]
    })
    .await;
    let mut text = String::new();
    crate::collect_metrics(&mut text);
    for gauge in ["max_unavailable", "unavailable_replicas"] {
        let row = format!(
            "statefulset_controller_statefulset_{gauge}{{statefulset_namespace=\"ns\",statefulset_name=\"db\","
        );
        assert!(text.contains(&row), "{text}");
    }
    let events = api.events("SuccessfulCreate");
    assert!(events.contains(&"Create Pod db-0 in StatefulSet db successful".to_owned()), "{events:?}");
    assert!(
        events.contains(&"Create Claim data-db-1 Pod db-1 in StatefulSet db success".to_owned()),
        "{events:?}"
    );
    running.stop().await;
}
