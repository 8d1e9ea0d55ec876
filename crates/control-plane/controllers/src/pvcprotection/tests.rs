//! When claims are held and let go.

use k8s_openapi::api::core::v1::{
    EphemeralVolumeSource, PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::decide::{Decision, FINALIZER, claims_of, decide};
use crate::testing::api::{FakeApi, Running};
use crate::testing::{PodExt, meta, pod, time};

fn claim(held: bool, deleting: bool) -> PersistentVolumeClaim {
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            finalizers: held.then(|| vec![FINALIZER.to_owned()]),
            deletion_timestamp: deleting.then(|| time(1)),
            ..meta("data")
        },
        ..PersistentVolumeClaim::default()
    }
}

fn user() -> Pod {
    let source = PersistentVolumeClaimVolumeSource { claim_name: "data".to_owned(), read_only: None };
    let volume = Volume { name: "v".to_owned(), persistent_volume_claim: Some(source), ..Volume::default() };
    pod("user").on("n").edit(|pod| pod.spec.as_mut().unwrap().volumes = Some(vec![volume]))
}

#[test]
fn claims_in_use_are_held() {
    for (held, deleting, used, expected) in [
        (false, false, false, Decision::Hold),
        (true, false, false, Decision::Keep),
        (true, true, true, Decision::Keep),
        (true, true, false, Decision::Release),
        (false, true, false, Decision::Keep),
    ] {
        assert_eq!(decide(&claim(held, deleting), || used), expected, "{held} {deleting} {used}");
    }
    assert_eq!(claims_of(&user()), ["data"]);
    assert!(claims_of(&user().edit(|pod| pod.spec.as_mut().unwrap().node_name = None)).is_empty());
}

#[test]
fn what_was_made_for_a_pod_waits_for_its_kubelet_only() {
    let made = Volume {
        name: "w".to_owned(),
        ephemeral: Some(EphemeralVolumeSource::default()),
        ..Volume::default()
    };
    let both = user().edit(|pod| pod.spec.as_mut().unwrap().volumes.as_mut().unwrap().push(made.clone()));
    let deleted = |grace| {
        both.clone().edit(|pod| {
            pod.metadata.deletion_timestamp = Some(time(1));
            pod.metadata.deletion_grace_period_seconds = Some(grace);
        })
    };
    assert_eq!(claims_of(&both), ["data", "user-w"]);
    assert_eq!(claims_of(&deleted(30)), ["data", "user-w"]);
    assert_eq!(claims_of(&deleted(0)), ["data"]);
}

#[tokio::test(start_paused = true)]
async fn a_claim_goes_after_its_last_pod() {
    let api = FakeApi::default();
    api.create("/persistentvolumeclaims", &claim(false, false));
    api.create("/pods", &user());
    let running = Running::start(&api, &["persistentvolumeclaim-protection-controller"]);
    let stored = |api: &FakeApi| api.get::<PersistentVolumeClaim>("/persistentvolumeclaims", "ns", "data");
    api.until("it is held", |_| {}, |api| stored(api).is_some_and(|it| it.metadata.finalizers.is_some()))
        .await;
    api.delete("/persistentvolumeclaims", "ns", "data", "Background");
    api.settle().await;
    assert!(stored(&api).is_some(), "the pod still uses it");
    api.end_pod("ns", "user");
    api.until("it goes", |_| {}, |api| stored(api).is_none()).await;
    running.stop().await;
}
