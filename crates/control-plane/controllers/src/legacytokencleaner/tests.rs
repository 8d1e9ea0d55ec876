//! Which tokens are retired, and when.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    ConfigMap, LocalObjectReference, ObjectReference, Pod, Secret, ServiceAccount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use podium_pki::token::legacy::{ACCOUNT_NAME, INVALID_SINCE, LAST_USED, SECRET_TYPE};
use serde_json::json;

use super::decide::{Decision, decide, is_known_long_enough, secrets_of};
use crate::manager::Settings;
use crate::testing::api::{FakeApi, Running};
use crate::testing::{PodExt, at, labels, meta, pass, pod, time};

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

#[tokio::test(start_paused = true)]
async fn a_token_that_nobody_uses_is_refused_and_goes_days_later() {
    const SECRETS: &str = "/secrets";
    let days = |days: u64| Duration::from_secs(days * DAY.unsigned_abs());
    let api = FakeApi::default();
    let named = |name: &str| Secret {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..token(&[]).metadata },
        ..token(&[])
    };
    // The time is 1970-01-12. What is made now was made in the first seconds of the epoch.
    for name in ["bot-token", "mounted", "strange"] {
        api.create(SECRETS, &named(name));
    }
    let mut account = account();
    let reference =
        |name: &str| ObjectReference { name: Some(name.to_owned()), ..ObjectReference::default() };
    account.secrets.as_mut().unwrap().push(reference("mounted"));
    api.create("/serviceaccounts", &account);
    let spec = json!({"containers": [], "volumes": [{"name": "v", "secret": {"secretName": "mounted"}}]});
    api.create("/pods", &pod("p").edit(|pod| pod.spec = Some(serde_json::from_value(spec).unwrap())));
    let settings = Settings { legacy_token_period: days(5), ..Settings::default() };
    let running = Running::start_with(&api, &["legacy-serviceaccount-token-cleaner-controller"], settings);
    let marks = |api: &FakeApi| {
        let secrets: Vec<Secret> = api.list(SECRETS);
        let mark = |it: Secret| {
            (it.metadata.name.unwrap(), it.metadata.labels.and_then(|mut it| it.remove(INVALID_SINCE)))
        };
        secrets.into_iter().map(mark).collect::<Vec<_>>()
    };
    let expected = |marked: &[(&str, Option<&str>)]| {
        marked.iter().map(|(name, mark)| ((*name).to_owned(), mark.map(str::to_owned))).collect::<Vec<_>>()
    };
    pass(2 * DAY.unsigned_abs()).await;
    let untouched = expected(&[("bot-token", None), ("mounted", None), ("strange", None)]);
    assert_eq!(marks(&api), untouched, "nobody has noted uses");
    api.create(
        "/configmaps",
        &json!({"metadata": {"name": "kube-apiserver-legacy-service-account-token-tracking",
        "namespace": "kube-system"}, "data": {"since": "1970-01-10"}}),
    );
    pass(DAY.unsigned_abs()).await;
    assert_eq!(marks(&api), untouched, "not for long enough");
    pass(2 * DAY.unsigned_abs()).await;
    let refused = expected(&[("bot-token", Some("1970-01-16")), ("mounted", None), ("strange", None)]);
    assert_eq!(marks(&api), refused);
    pass(4 * DAY.unsigned_abs()).await;
    assert_eq!(marks(&api), refused, "its user has as long to complain");
    pass(2 * DAY.unsigned_abs()).await;
    assert_eq!(marks(&api), expected(&[("mounted", None), ("strange", None)]));
    running.stop().await;
}
