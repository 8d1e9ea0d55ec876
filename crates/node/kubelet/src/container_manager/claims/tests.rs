//! Whether a pod may use a claim, and what becomes of claims.

use k8s_openapi::api::{core::v1::Pod, resource::v1::ResourceClaim};
use serde_json::{Value, json};

use super::{
    judge,
    state::{Claim, Claims, Device},
};

fn pod(claims: Value, statuses: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"containers": [], "resourceClaims": claims}, "status": {"resourceClaimStatuses": statuses}}))
    .unwrap()
}

#[test]
fn claims_are_found_by_name_or_by_what_was_made_of_a_template() {
    let found = |entry: Value, statuses: Value| {
        let wanted = pod(json!([entry]), statuses);
        judge::name_of(&wanted, &judge::entries(&wanted)[0])
            .map(|name| name.map(|(name, made)| (name.to_owned(), made)))
    };
    let made = json!([{"name": "gpu", "resourceClaimName": "p-gpu-x"}, {"name": "none"}]);
    assert_eq!(
        found(json!({"name": "gpu", "resourceClaimName": "shared"}), json!([])),
        Ok(Some(("shared".into(), false)))
    );
    let template = |name: &str| json!({"name": name, "resourceClaimTemplateName": "t"});
    assert_eq!(found(template("gpu"), made.clone()), Ok(Some(("p-gpu-x".into(), true))));
    assert_eq!(found(template("none"), made.clone()), Ok(None));
    assert_eq!(found(template("other"), made), Err("pod \"n/p\": ResourceClaim not found".into()));
    assert_eq!(
        found(json!({"name": "gpu"}), json!([])),
        Err("pod \"n/p\", spec.resourceClaim \"gpu\": none of the supported fields are set".into())
    );
}

#[test]
fn only_a_claim_that_is_allocated_and_reserved_may_be_used() {
    let wanted = pod(json!([]), json!([]));
    let claim = |owner: &str, user: &str| -> ResourceClaim {
        serde_json::from_value(json!({
            "metadata": {"name": "c", "uid": "cu", "ownerReferences":
                [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true}]},
            "spec": {},
            "status": {"reservedFor": [{"resource": "pods", "name": "p", "uid": user}], "allocation": {"devices": {"results": [
                {"request": "a", "driver": "d2", "pool": "x", "device": "y"},
                {"request": "b", "driver": "d1", "pool": "x", "device": "y"},
                {"request": "c", "driver": "d2", "pool": "x", "device": "z"}]}}},
        }))
        .unwrap()
    };
    for (owner, user, made, refusal) in [
        ("u", "u", true, ""),
        ("other", "u", false, ""),
        ("other", "u", true, "ResourceClaim n/c was not created for pod n/p (pod is not owner)"),
        ("u", "other", true, "pod p (u) is not allowed to use ResourceClaim c (cu)"),
    ] {
        let outcome = judge::may_use(&wanted, &claim(owner, user), made).err().unwrap_or_default();
        assert_eq!(outcome, refusal, "{owner} {user} {made}");
    }
    assert_eq!(judge::drivers(&claim("u", "u")).unwrap(), ["d1", "d2"]);
    let bare: ResourceClaim = serde_json::from_value(json!({"metadata": {"name": "c"}, "spec": {}})).unwrap();
    assert_eq!(judge::drivers(&bare).unwrap_err(), "ResourceClaim c: not allocated");
}

fn claim(name: &str, uid: &str) -> Claim {
    Claim {
        uid: uid.into(),
        namespace: "n".into(),
        name: name.into(),
        pods: Default::default(),
        drivers: [("d".to_owned(), Vec::new())].into(),
        prepared: false,
    }
}

#[test]
fn a_claim_stays_until_its_last_pod_leaves() {
    let mut claims = Claims::default();
    claims.refer(claim("a", "1"), "p1").unwrap();
    claims.refer(claim("a", "1"), "p2").unwrap();
    claims.refer(claim("b", "2"), "p1").unwrap();
    let refused = claims.refer(claim("a", "3"), "p3").unwrap_err();
    assert_eq!(
        refused,
        "old ResourceClaim with same name a and different UID 1 still exists (previous pod force-deleted?!)"
    );
    let device = |name: &str, requests: &[&str]| Device {
        pool: "pool".into(),
        device: name.into(),
        share_id: None,
        requests: requests.iter().map(|one| (*one).to_owned()).collect(),
        cdi: vec![format!("v/c={name}")],
    };
    claims.prepared_by("1", "d", vec![device("x", &["r1"]), device("y", &["r2"]), device("z", &[])]);
    claims.prepared("1");
    let a = claims.get("n", "a").unwrap();
    assert!(a.prepared);
    assert_eq!(a.cdi(Some("r1")), ["v/c=x", "v/c=z"]);
    assert_eq!(a.cdi(None), ["v/c=x", "v/c=y", "v/c=z"]);
    // A restarted kubelet knows it all, but asks the driver again.
    let text = serde_json::to_string(&claims).unwrap();
    let again: Claims = serde_json::from_str(&text).unwrap();
    let recalled = again.get("n", "a").unwrap();
    assert_eq!((recalled.prepared, &recalled.drivers), (false, &a.drivers));
    claims.leave("p1");
    assert_eq!((claims.get("n", "b"), claims.pods().len()), (None, 1));
    claims.leave("p2");
    assert_eq!(claims, Claims::default());
}

#[test]
fn claims_in_use_are_counted_by_driver() {
    let claim = |name: &str, drivers: &[&str]| Claim {
        uid: name.to_owned(),
        namespace: "n".to_owned(),
        name: name.to_owned(),
        pods: Default::default(),
        drivers: drivers.iter().map(|driver| ((*driver).to_owned(), Vec::new())).collect(),
        prepared: false,
    };
    let mut claims = Claims::default();
    for (name, drivers) in [("a", &["x", "y"][..]), ("b", &["x"]), ("c", &["z"])] {
        claims.refer(claim(name, drivers), "pod").unwrap();
    }
    claims.prepared("a");
    claims.prepared("b");
    let counts: Vec<_> = claims.in_use().into_iter().collect();
    assert_eq!(counts, [("<any>".to_owned(), 2), ("x".to_owned(), 2), ("y".to_owned(), 1)]);
}
