//! What becomes of claims, and what becomes of pods because of them.

use super::super::identity::is_claim_of;
use super::*;
use crate::owner::controller_reference;
use crate::testing::controlled_by;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

/// A set whose pods have one claim each.
fn with_claims(set: StatefulSet, when_deleted: &str, when_scaled: &str) -> StatefulSet {
    let data = ObjectMeta { name: Some("data".to_owned()), ..ObjectMeta::default() };
    edited(set, |spec| {
        spec.volume_claim_templates =
            Some(vec![PersistentVolumeClaim { metadata: data, ..Default::default() }]);
        spec.persistent_volume_claim_retention_policy =
            Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                when_deleted: Some(when_deleted.to_owned()),
                when_scaled: Some(when_scaled.to_owned()),
            });
    })
}

fn stored(number: i32, owners: &[OwnerReference]) -> (String, Arc<PersistentVolumeClaim>) {
    let name = format!("data-db-{number}");
    let metadata = ObjectMeta { owner_references: Some(owners.to_vec()), ..meta(&name) };
    (name, Arc::new(PersistentVolumeClaim { metadata, ..Default::default() }))
}

fn earlier(api_version: &str, kind: &str, name: &str) -> OwnerReference {
    OwnerReference { uid: "earlier".to_owned(), ..controlled_by(api_version, kind, name) }
}

#[test]
fn no_pod_is_made_on_a_claim_that_goes() {
    #[track_caller]
    fn check(owner: &OwnerReference, waits: bool) {
        for policy in ["Delete", "Retain"] {
            let set = with_claims(set(2), "Retain", policy);
            let claims = Claims::from([stored(1, std::slice::from_ref(owner))]);
            let decision = decided_with(&set, vec![well(0, "new")], &claims);
            let (create, awaited) = if waits { (vec![], 1) } else { (vec![1], 0) };
            assert_eq!((created(&decision), decision.awaited.len()), (create, awaited), "{policy}");
        }
    }
    check(&earlier("v1", "Pod", "db-1"), true);
    check(&earlier("apps/v1", "StatefulSet", "db"), true);
    check(&controller_reference(&set(1)), false);
    check(&earlier("v1", "Pod", "other"), false);
    check(&earlier("apps/v1", "StatefulSet", "other"), false);
    check(&earlier("example.com/v1", "Pod", "db-1"), false);
}

#[test]
fn a_claim_in_the_way_holds_up_no_other_pod_of_a_parallel_set() {
    let set = with_claims(parallel(3), "Retain", "Delete");
    let claims = Claims::from([stored(0, &[earlier("v1", "Pod", "db-0")])]);
    let decision = decided_with(&set, vec![], &claims);
    assert_eq!(created(&decision), [1, 2]);
    let mut going = stored(0, &[]);
    Arc::make_mut(&mut going.1).metadata.deletion_timestamp = Some(crate::testing::time(1));
    assert_eq!(created(&decided_with(&set, vec![], &Claims::from([going]))), [1, 2]);
}

#[test]
fn claims_are_known_by_name() {
    let set = with_claims(set(1), "Retain", "Retain");
    for (name, is) in
        [("data-db-0", true), ("data-db-12", true), ("data-db", false), ("data-db-x", false), ("db-0", false)]
    {
        assert_eq!(is_claim_of(&set, name), is, "{name}");
    }
}

fn claim_uid(api: &FakeApi, name: &str) -> Option<String> {
    api.get::<PersistentVolumeClaim>("/persistentvolumeclaims", "ns", name)?.metadata.uid
}

fn ready(api: &FakeApi) -> usize {
    api.list::<Pod>("/pods").iter().filter(|pod| crate::pods::is_ready(pod)).count()
}

#[tokio::test(start_paused = true)]
async fn a_number_that_comes_back_gets_a_new_claim() {
    let api = FakeApi::default();
    api.create("apps/statefulsets", &with_claims(set(3), "Retain", "Delete"));
    // No garbage collector: it may take its time.
    let running = Running::start(&api, &["statefulset-controller"]);
    api.until("three", FakeApi::run_pods, |api| ready(api) == 3).await;
    let old = claim_uid(&api, "data-db-2");
    api.edit("apps/statefulsets", "ns", "db", |set| set["spec"]["replicas"] = 2.into());
    api.until("two", FakeApi::run_pods, |api| api.list::<Pod>("/pods").len() == 2).await;
    api.edit("apps/statefulsets", "ns", "db", |set| set["spec"]["replicas"] = 3.into());
    api.settle().await;
    assert_eq!(claim_uid(&api, "data-db-2"), old);
    assert!(api.get::<Pod>("/pods", "ns", "db-2").is_none(), "made on a claim that is to be deleted");
    api.delete("/persistentvolumeclaims", "ns", "data-db-2", "Background");
    api.until("three again", FakeApi::run_pods, |api| ready(api) == 3).await;
    let new = claim_uid(&api, "data-db-2");
    assert!(new.is_some() && new != old, "{old:?}, now {new:?}");
    running.stop().await;
}
