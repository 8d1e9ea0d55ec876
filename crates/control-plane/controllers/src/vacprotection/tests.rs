//! When classes are held and let go.

use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimStatus,
};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::decide::{Decision, FINALIZER, classes_of, decide};
use crate::testing::api::{FakeApi, Running};
use crate::testing::{meta, time};

fn class(held: bool, deleting: bool) -> VolumeAttributesClass {
    VolumeAttributesClass {
        metadata: ObjectMeta {
            namespace: None,
            finalizers: held.then(|| vec![FINALIZER.to_owned()]),
            deletion_timestamp: deleting.then(|| time(1)),
            ..meta("gold")
        },
        driver_name: "driver".to_owned(),
        parameters: None,
    }
}

fn claim(wanted: &str, current: &str) -> PersistentVolumeClaim {
    PersistentVolumeClaim {
        metadata: meta("data"),
        spec: Some(PersistentVolumeClaimSpec {
            volume_attributes_class_name: Some(wanted.to_owned()),
            ..Default::default()
        }),
        status: Some(PersistentVolumeClaimStatus {
            current_volume_attributes_class_name: Some(current.to_owned()),
            ..Default::default()
        }),
    }
}

#[test]
fn classes_in_use_are_held() {
    for (held, deleting, used, expected) in [
        (false, false, false, Decision::Hold),
        (true, false, false, Decision::Keep),
        (true, true, true, Decision::Keep),
        (true, true, false, Decision::Release),
    ] {
        assert_eq!(decide(&class(held, deleting), || used), expected, "{held} {deleting} {used}");
    }
    assert_eq!(classes_of(&claim("gold", "silver")), ["gold", "silver"]);
    assert_eq!(classes_of(&claim("gold", "gold")), ["gold"]);
    assert!(classes_of(&claim("", "")).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_class_goes_after_the_last_claim_that_names_it() {
    let api = FakeApi::default();
    api.create("storage.k8s.io/volumeattributesclasses", &class(false, false));
    api.create("/persistentvolumeclaims", &claim("silver", "gold"));
    let running = Running::start(&api, &["volumeattributesclass-protection-controller"]);
    let stored = |api: &FakeApi| {
        api.get::<VolumeAttributesClass>("storage.k8s.io/volumeattributesclasses", "", "gold")
    };
    api.until("it is held", |_| {}, |api| stored(api).is_some_and(|it| it.metadata.finalizers.is_some()))
        .await;
    api.delete("storage.k8s.io/volumeattributesclasses", "", "gold", "Background");
    api.settle().await;
    assert!(stored(&api).is_some(), "a claim still has it");
    api.edit("/persistentvolumeclaims", "ns", "data", |claim| {
        claim["status"]["currentVolumeAttributesClassName"] = "silver".into();
    });
    api.until("it goes", |_| {}, |api| stored(api).is_none()).await;
    running.stop().await;
}
