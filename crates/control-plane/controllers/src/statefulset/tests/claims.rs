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

#[test]
fn claims_go_with_whom_the_policy_says() {
    let pod = member(1, "new");
    let of_set = controller_reference(&set(1));
    let of_pod = OwnerReference { block_owner_deletion: Some(false), ..controller_reference(&pod) };
    let mut weak = of_set.clone();
    weak.controller = None;
    let other = controlled_by("v1", "ConfigMap", "other");
    let mut guest = other.clone();
    guest.controller = None;
    let check = |policy: (&str, &str), condemned: bool, old: &[&OwnerReference], new: &[&OwnerReference]| {
        let owned = |refs: &[&OwnerReference]| refs.iter().map(|it| (*it).clone()).collect::<Vec<_>>();
        let set = with_claims(set(2), policy.0, policy.1);
        let (_, claim) = stored(1, &owned(old));
        let answer = claim_owners(&set, &claim, &pod, condemned);
        let case = format!("{policy:?} condemned {condemned} old {old:?}");
        assert_eq!(answer, (old != new).then(|| owned(new)), "{case}");
        let (_, claim) = stored(1, &owned(new));
        assert_eq!(claim_owners(&set, &claim, &pod, condemned), None, "again: {case}");
    };
    let (keep, with_set, with_pod, both) =
        (("Retain", "Retain"), ("Delete", "Retain"), ("Retain", "Delete"), ("Delete", "Delete"));
    for old in [&[][..], &[&of_set], &[&of_pod], &[&weak], &[&of_set, &of_pod]] {
        check(keep, false, old, &[]);
        check(keep, true, old, &[]);
        check(with_set, false, old, &[&of_set]);
        check(with_set, true, old, &[&of_set]);
        check(with_pod, false, old, &[]);
        check(with_pod, true, old, &[&of_pod]);
        check(both, false, old, &[&of_set]);
        check(both, true, old, &[&of_pod]);
    }
    check(both, false, &[&of_pod, &guest], &[&guest, &of_set]);
    check(both, true, &[&guest], &[&guest, &of_pod]);
    check(both, true, &[&other], &[&other]);
    check(both, true, &[&of_set, &other], &[&other]);
    let stale = earlier("v1", "Pod", "db-1");
    check(both, true, &[&stale], &[&stale]);
    check(
        keep,
        false,
        &[&earlier("apps/v1", "StatefulSet", "db")],
        &[&earlier("apps/v1", "StatefulSet", "db")],
    );
}

#[test]
fn claims_are_handed_over_and_taken_back() {
    let owners = |set: &StatefulSet, pods: Vec<Pod>, claims: &Claims| -> Vec<(String, Vec<String>)> {
        let decision = decided_with(set, pods, claims);
        let of = |claim: &PersistentVolumeClaim| {
            let owners = claim.metadata.owner_references.iter().flatten();
            (claim.metadata.name.clone().unwrap(), owners.map(|it| it.name.clone()).collect())
        };
        decision.hand_over.iter().map(|(_, claim)| of(claim)).collect()
    };
    let names = |number: i32, owners: &[&str]| {
        (format!("data-db-{number}"), owners.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>())
    };
    let all = || vec![well(0, "new"), well(1, "new"), well(2, "new")];
    let free: Claims = (0..3).map(|number| stored(number, &[])).collect();
    let goes = |replicas| with_claims(set(replicas), "Retain", "Delete");
    assert_eq!(
        owners(&goes(1), all(), &free),
        [names(2, &["db-2"]), names(1, &["db-1"])],
        "of all that have to go, though they go one after the other"
    );
    let early = owners(&goes(1), vec![member(0, "new"), well(1, "new")], &free);
    assert!(early.is_empty(), "not before its time: {early:?}");
    let handed: Claims =
        all().iter().zip(0..).map(|(pod, at)| stored(at, &[controller_reference(pod)])).collect();
    assert_eq!(
        owners(&goes(3), all(), &handed),
        [names(0, &[]), names(1, &[]), names(2, &[])],
        "the set is to be large again"
    );
    let one_goes = || vec![well(0, "new"), well(1, "new"), well(2, "new").deleting()];
    assert_eq!(owners(&goes(3), one_goes(), &handed), [names(0, &[]), names(1, &[])]);
    let loose = with_claims(parallel(3), "Retain", "Delete");
    assert_eq!(owners(&loose, one_goes(), &handed), [names(0, &[]), names(1, &[]), names(2, &[])]);
    let with_set = with_claims(set(3), "Delete", "Retain");
    let sick = vec![member(0, "new"), member(1, "new")];
    assert_eq!(
        owners(&with_set, sick, &free),
        [names(0, &["db"]), names(1, &["db"])],
        "whether they serve or not"
    );
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

#[tokio::test(start_paused = true)]
async fn a_policy_that_changes_is_kept_from_then_on() {
    let api = FakeApi::default();
    api.create("apps/statefulsets", &with_claims(set(2), "Retain", "Retain"));
    let running = Running::start(&api, &["statefulset-controller"]);
    api.until("two", FakeApi::run_pods, |api| ready(api) == 2).await;
    let owned_by = |api: &FakeApi, kind: Option<&str>| {
        let claims: Vec<PersistentVolumeClaim> = api.list("/persistentvolumeclaims");
        let owner = |it: &PersistentVolumeClaim| {
            it.metadata.owner_references.iter().flatten().map(|it| it.kind.clone()).next()
        };
        claims.len() == 2 && claims.iter().all(|it| owner(it).as_deref() == kind)
    };
    api.settle().await;
    assert!(owned_by(&api, None));
    let set_policy = |when: &str| {
        api.edit("apps/statefulsets", "ns", "db", |set| {
            set["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] = when.into();
        });
    };
    set_policy("Delete");
    api.until("they go with the set", |_| {}, |api| owned_by(api, Some("StatefulSet"))).await;
    set_policy("Retain");
    api.until("they stay", |_| {}, |api| owned_by(api, None)).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn claims_that_are_refused_hold_up_neither_the_others_nor_the_status() {
    let api = FakeApi::default();
    // Two are left from an earlier life, and there is no room for more.
    for name in ["data-db-0", "data-db-1"] {
        let metadata = ObjectMeta { uid: None, resource_version: None, ..meta(name) };
        api.create("/persistentvolumeclaims", &PersistentVolumeClaim { metadata, ..Default::default() });
    }
    api.refuse("/persistentvolumeclaims", "exceeded quota");
    api.create("apps/statefulsets", &with_claims(parallel(5), "Retain", "Retain"));
    let running = Running::start(&api, &["statefulset-controller"]);
    let status = |api: &FakeApi| {
        api.get::<StatefulSet>("apps/statefulsets", "ns", "db").unwrap().status.unwrap_or_default()
    };
    api.until("two", FakeApi::run_pods, |api| {
        let status = status(api);
        (ready(api), status.ready_replicas, status.observed_generation) == (2, Some(2), Some(1))
    })
    .await;
    api.edit("apps/statefulsets", "ns", "db", |set| set["spec"]["replicas"] = 4.into());
    let told = |api: &FakeApi| api.events("FailedCreate").iter().any(|it| it.contains("data-db-2"));
    api.until("the edit is seen", |_| {}, |api| status(api).observed_generation == Some(2) && told(api))
        .await;
    let claims = [3, 4].map(|number| format!("data-db-{number}"));
    let failed = api.events("FailedCreate");
    let of_others = failed.iter().filter(|message| claims.iter().any(|claim| message.contains(claim)));
    assert_eq!(of_others.count(), 0, "a quota is met once: {failed:?}");
    api.accept();
    api.until("four", FakeApi::run_pods, |api| ready(api) == 4).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_stays_until_its_claim_is_known_to_be_handed_over() {
    let api = FakeApi::default();
    api.create("apps/statefulsets", &with_claims(set(2), "Retain", "Delete"));
    let running = Running::start(&api, &["statefulset-controller"]);
    api.until("two", FakeApi::run_pods, |api| ready(api) == 2).await;
    api.settle().await;
    api.lose_answer("/persistentvolumeclaims", "data-db-1");
    api.edit("apps/statefulsets", "ns", "db", |set| set["spec"]["replicas"] = 1.into());
    // Longer than an update without an answer is waited for.
    crate::testing::pass(60).await;
    let observed = api.get::<StatefulSet>("apps/statefulsets", "ns", "db").unwrap().status.unwrap();
    assert_eq!((ready(&api), observed.observed_generation), (2, Some(2)));
    api.release("/persistentvolumeclaims");
    api.until("one", FakeApi::run_pods, |api| api.list::<Pod>("/pods").len() == 1).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_set_that_is_deleted_while_it_shrinks_takes_its_claims_along() {
    let api = FakeApi::default();
    api.create("apps/statefulsets", &with_claims(set(2), "Delete", "Delete"));
    let controllers = [
        "statefulset-controller",
        "garbage-collector-controller",
        "persistentvolumeclaim-protection-controller",
    ];
    let running = Running::start(&api, &controllers);
    let claims = |api: &FakeApi| api.list::<PersistentVolumeClaim>("/persistentvolumeclaims");
    let protected = |api: &FakeApi| claims(api).iter().filter(|it| it.metadata.finalizers.is_some()).count();
    api.until("two", FakeApi::run_pods, |api| (ready(api), protected(api)) == (2, 2)).await;
    api.edit("apps/statefulsets", "ns", "db", |set| set["spec"]["replicas"] = 0.into());
    // One pod is on its way, the other still serves, and its claim is to go with it.
    api.until(
        "both claims are handed over",
        |_| {},
        |api| {
            let of_pod = |it: &PersistentVolumeClaim| {
                it.metadata.owner_references.iter().flatten().any(|owner| owner.kind == "Pod")
            };
            claims(api).iter().all(of_pod)
        },
    )
    .await;
    api.delete("apps/statefulsets", "ns", "db", "Foreground");
    api.until("all is gone", FakeApi::run_pods, |api| {
        let left = (api.list::<StatefulSet>("apps/statefulsets").len(), api.list::<Pod>("/pods").len());
        (left, claims(api).len()) == ((0, 0), 0)
    })
    .await;
    running.stop().await;
}
