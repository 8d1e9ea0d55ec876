//! When bootstrap tokens are deleted.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::decide::{Decision, decide};
use crate::testing::api::{FakeApi, Running};
use crate::testing::{at, meta};

fn token(type_: &str, expiration: Option<&str>) -> Secret {
    let data: BTreeMap<String, ByteString> = expiration
        .map(|text| ("expiration".to_owned(), ByteString(text.as_bytes().to_vec())))
        .into_iter()
        .collect();
    Secret {
        metadata: ObjectMeta { namespace: Some("kube-system".to_owned()), ..meta("bootstrap-token-abcdef") },
        type_: Some(type_.to_owned()),
        data: Some(data),
        ..Secret::default()
    }
}

const TYPE: &str = "bootstrap.kubernetes.io/token";

#[test]
fn tokens_live_until_their_time() {
    for (type_, expiration, expected) in [
        (TYPE, None, Decision::Keep),
        (TYPE, Some("1970-01-01T00:00:10Z"), Decision::Delete),
        (TYPE, Some("1970-01-01T00:00:11Z"), Decision::LookAgain(at(11))),
        (TYPE, Some("tomorrow"), Decision::Delete),
        ("Opaque", Some("1970-01-01T00:00:10Z"), Decision::Keep),
    ] {
        assert_eq!(decide(&token(type_, expiration), at(10)), expected, "{type_} {expiration:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_goes_in_time() {
    let api = FakeApi::default();
    // The tests' clock starts at a million seconds.
    api.create("/secrets", &token(TYPE, Some("1970-01-12T13:47:40Z")));
    let running = Running::start(&api, &["token-cleaner-controller"]);
    let started = tokio::time::Instant::now();
    api.until("it goes", |_| {}, |api| api.list::<Secret>("/secrets").is_empty()).await;
    assert_eq!(started.elapsed().as_secs(), 60);
    running.stop().await;
}
