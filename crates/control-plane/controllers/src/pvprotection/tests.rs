//! When volumes are held and let go.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::decide::{Decision, FINALIZER, decide};
use crate::testing::api::{FakeApi, Running};
use crate::testing::{meta, time};

fn volume(held: bool, deleting: bool, phase: &str) -> PersistentVolume {
    PersistentVolume {
        metadata: ObjectMeta {
            namespace: None,
            finalizers: held.then(|| vec![FINALIZER.to_owned()]),
            deletion_timestamp: deleting.then(|| time(1)),
            ..meta("v")
        },
        status: Some(PersistentVolumeStatus { phase: Some(phase.to_owned()), ..Default::default() }),
        ..PersistentVolume::default()
    }
}

#[test]
fn bound_volumes_are_held() {
    for (held, deleting, phase, expected) in [
        (false, false, "Available", Decision::Hold),
        (true, false, "Bound", Decision::Keep),
        (true, true, "Bound", Decision::Keep),
        (true, true, "Released", Decision::Release),
        (true, true, "Available", Decision::Release),
        (false, true, "Available", Decision::Keep),
    ] {
        assert_eq!(decide(&volume(held, deleting, phase)), expected, "{held} {deleting} {phase}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_volume_goes_when_its_claim_is_gone() {
    let api = FakeApi::default();
    api.create("/persistentvolumes", &volume(false, false, "Bound"));
    let running = Running::start(&api, &["persistentvolume-protection-controller"]);
    let stored = |api: &FakeApi| api.get::<PersistentVolume>("/persistentvolumes", "", "v");
    api.until("it is held", |_| {}, |api| stored(api).is_some_and(|it| it.metadata.finalizers.is_some()))
        .await;
    api.delete("/persistentvolumes", "", "v", "Background");
    api.settle().await;
    assert!(stored(&api).is_some(), "a claim is bound to it");
    api.edit("/persistentvolumes", "", "v", |volume| volume["status"]["phase"] = "Released".into());
    api.until("it goes", |_| {}, |api| stored(api).is_none()).await;
    running.stop().await;
}
