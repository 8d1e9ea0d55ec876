//! Which tokens are retired, and when.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    ConfigMap, LocalObjectReference, ObjectReference, Pod, Secret, ServiceAccount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use podium_pki::token::legacy::{ACCOUNT_NAME, INVALID_SINCE, LAST_USED, SECRET_TYPE};

use super::decide::{Decision, decide, is_known_long_enough, secrets_of};
use crate::testing::{PodExt, at, labels, meta, pod, time};

const DAY: i64 = 24 * 3600;
const YEAR: i64 = 365 * DAY;
/// 1971-06-29: a year and a half after the tokens were made.
const NOW: i64 = 544 * DAY;

fn token(marks: &[(&str, &str)]) -> Secret {
    Secret {
        metadata: ObjectMeta {
            creation_timestamp: Some(time(0)),
            labels: Some(labels(marks)),
            annotations: Some(labels(&[(ACCOUNT_NAME, "bot")])),
            ..meta("bot-token")
        },
        type_: Some(SECRET_TYPE.to_owned()),
        ..Secret::default()
    }
}

fn account() -> ServiceAccount {
    let reference = ObjectReference { name: Some("bot-token".to_owned()), ..ObjectReference::default() };
    ServiceAccount { metadata: meta("bot"), secrets: Some(vec![reference]), ..ServiceAccount::default() }
}

#[test]
fn unused_tokens_are_refused_and_then_deleted() {
    let none = BTreeSet::new();
    let used = BTreeSet::from(["bot-token".to_owned()]);
    let today = jiff::civil::date(1971, 6, 29);
    let last_used = LAST_USED;
    for (what, secret, account, mounted, expected) in [
        ("never used", token(&[]), Some(account()), &none, Decision::Invalidate(today)),
        (
            "used long ago",
            token(&[(last_used, "1970-06-01")]),
            Some(account()),
            &none,
            Decision::Invalidate(today),
        ),
        ("used lately", token(&[(last_used, "1971-01-01")]), Some(account()), &none, Decision::Keep),
        ("unreadable", token(&[(last_used, "lately")]), Some(account()), &none, Decision::Keep),
        ("mounted", token(&[]), Some(account()), &used, Decision::Keep),
        (
            "made by hand",
            token(&[]),
            Some(ServiceAccount { secrets: None, ..account() }),
            &none,
            Decision::Keep,
        ),
        ("of nobody", token(&[]), None, &none, Decision::Keep),
        ("just refused", token(&[(INVALID_SINCE, "1971-06-01")]), Some(account()), &none, Decision::Keep),
        (
            "refused long ago",
            token(&[(INVALID_SINCE, "1970-05-01")]),
            Some(account()),
            &none,
            Decision::Delete,
        ),
        ("odd mark", token(&[(INVALID_SINCE, "ages")]), Some(account()), &none, Decision::Invalidate(today)),
        (
            "no token",
            Secret { type_: Some("Opaque".to_owned()), ..token(&[]) },
            Some(account()),
            &none,
            Decision::Keep,
        ),
    ] {
        assert_eq!(decide(&secret, account.as_ref(), mounted, YEAR, at(NOW)), expected, "{what}");
    }
    for (days, expected) in [(30, Decision::Delete), (70, Decision::Keep), (600, Decision::Keep)] {
        let secret = token(&[(LAST_USED, "1971-02-01"), (INVALID_SINCE, "1971-05-15")]);
        let decision = decide(&secret, Some(&account()), &none, days * DAY, at(NOW));
        assert_eq!(decision, expected, "unused after {days} days");
    }
}

#[test]
fn uses_must_have_been_noted_for_a_year() {
    let since = |text: &str| ConfigMap { data: Some(labels(&[("since", text)])), ..ConfigMap::default() };
    for (text, known) in [("1970-01-01", true), ("1970-12-31", false), ("soon", false)] {
        assert_eq!(is_known_long_enough(&since(text), YEAR, at(366 * DAY)), known, "{text}");
    }
    assert!(is_known_long_enough(&since("1970-12-31"), 0, at(366 * DAY)));
    assert!(!is_known_long_enough(&ConfigMap::default(), YEAR, at(NOW)));
}

#[test]
fn secrets_are_found_wherever_pods_name_them() {
    let spec = serde_json::json!({"imagePullSecrets": [{"name": "pull"}],
        "volumes": [{"name": "a", "secret": {"secretName": "volume"}},
            {"name": "b", "projected": {"sources": [{"secret": {"name": "projected"}}]}},
            {"name": "c", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "csi"}}}],
        "containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "all"}}],
            "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "one", "key": "k"}}}]}]});
    let user: Pod = pod("p").edit(|pod| pod.spec = Some(serde_json::from_value(spec).unwrap()));
    let found: Vec<String> = secrets_of(&user).into_iter().collect();
    assert_eq!(found, ["all", "csi", "one", "projected", "pull", "volume"]);
    let none = LocalObjectReference::default();
    assert!(
        secrets_of(&pod("p").edit(|pod| pod.spec.as_mut().unwrap().image_pull_secrets = Some(vec![none])))
            .is_empty()
    );
}
