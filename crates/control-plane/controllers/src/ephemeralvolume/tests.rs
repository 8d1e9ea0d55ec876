//! Which claims are made, and whose claims are left alone.

use k8s_openapi::api::core::v1::{
    EphemeralVolumeSource, PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimTemplate,
    Pod, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::decide::{Need, decide, volumes};
use crate::testing::api::{FakeApi, Running};
use crate::testing::{PodExt, labels, meta, pod};

fn user() -> Pod {
    let template = PersistentVolumeClaimTemplate {
        metadata: Some(ObjectMeta { labels: Some(labels(&[("a", "b")])), ..ObjectMeta::default() }),
        spec: PersistentVolumeClaimSpec { storage_class_name: Some("fast".to_owned()), ..Default::default() },
    };
    let source = EphemeralVolumeSource { volume_claim_template: Some(template) };
    let volume = Volume { name: "scratch".to_owned(), ephemeral: Some(source), ..Volume::default() };
    pod("p").edit(|pod| pod.spec.as_mut().unwrap().volumes = Some(vec![volume]))
}

#[test]
fn a_claim_is_made_once_and_another_ones_is_not_used() {
    let user = user();
    let volume = volumes(&user).next().unwrap();
    let Need::Create(claim) = decide(&user, volume, None) else { panic!("one is missing") };
    assert_eq!(claim.metadata.name.as_deref(), Some("p-scratch"));
    assert_eq!(claim.metadata.labels, Some(labels(&[("a", "b")])));
    assert_eq!(claim.spec.as_ref().unwrap().storage_class_name.as_deref(), Some("fast"));
    assert_eq!(decide(&user, volume, Some(&claim)), Need::Nothing);
    let foreign = PersistentVolumeClaim { metadata: meta("p-scratch"), ..Default::default() };
    let why = "PVC ns/p-scratch was not created for pod ns/p (pod is not owner)";
    assert_eq!(decide(&user, volume, Some(&foreign)), Need::Taken(why.to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_claim_comes_back() {
    let api = FakeApi::default();
    let running = Running::start(&api, &["ephemeral-volume-controller"]);
    api.create("/pods", &user());
    let has = |api: &FakeApi| api.get::<PersistentVolumeClaim>("/persistentvolumeclaims", "ns", "p-scratch");
    api.until("it is made", |_| {}, |api| has(api).is_some()).await;
    let first = has(&api).unwrap().metadata.uid;
    api.delete("/persistentvolumeclaims", "ns", "p-scratch", "Background");
    api.until("it is made again", |_| {}, |api| has(api).is_some_and(|it| it.metadata.uid != first)).await;
    running.stop().await;
}
