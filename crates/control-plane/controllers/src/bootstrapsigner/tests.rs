//! Which signatures there are, and that they are right.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::decide::{decide, sign};
use crate::testing::api::{FakeApi, Running};
use crate::testing::{at, labels, meta};

fn token(name: &str, entries: &[(&str, &str)]) -> Secret {
    let data: BTreeMap<String, ByteString> = entries
        .iter()
        .map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())))
        .collect();
    Secret {
        metadata: ObjectMeta { namespace: Some("kube-system".to_owned()), ..meta(name) },
        type_: Some("bootstrap.kubernetes.io/token".to_owned()),
        data: Some(data),
        ..Secret::default()
    }
}

fn map(entries: &[(&str, &str)]) -> ConfigMap {
    ConfigMap { metadata: meta("cluster-info"), data: Some(labels(entries)), ..ConfigMap::default() }
}

const GOOD: &[(&str, &str)] =
    &[("token-id", "abcdef"), ("token-secret", "0123456789abcdef"), ("usage-bootstrap-signing", "true")];

#[test]
fn a_signature_is_a_detached_web_signature() {
    // Computed with Python's hmac and hashlib.
    let signed = sign("content", "abcdef", "0123456789abcdef");
    assert_eq!(
        signed,
        "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9..psz1NayrXM3IaFzKZGsb5n_mBl7MjtlsZ1xE8MRmF_4"
    );
}

#[test]
fn tokens_that_may_sign_do_and_old_signatures_go() {
    let good = token("bootstrap-token-abcdef", GOOD);
    let plain = map(&[("kubeconfig", "content")]);
    let signed = decide(&plain, &[&good], at(10)).expect("a signature is missing");
    assert_eq!(signed.data.as_ref().unwrap().len(), 2);
    assert!(signed.data.as_ref().unwrap().contains_key("jws-kubeconfig-abcdef"));
    assert!(decide(&signed, &[&good], at(10)).is_none(), "nothing is left to do");
    assert_eq!(decide(&signed, &[], at(10)).expect("one too many").data, plain.data);
    let with = |extra: (&'static str, &'static str)| {
        let mut entries: BTreeMap<_, _> = GOOD.iter().copied().collect();
        entries.insert(extra.0, extra.1);
        token("bootstrap-token-abcdef", &entries.into_iter().collect::<Vec<_>>())
    };
    for bad in [
        with(("token-id", "fedcba")),
        with(("token-secret", "")),
        with(("usage-bootstrap-signing", "false")),
        with(("expiration", "1970-01-01T00:00:10Z")),
        token("bootstrap-token-ABCDEF", GOOD),
        Secret { type_: Some("Opaque".to_owned()), ..token("bootstrap-token-abcdef", GOOD) },
    ] {
        assert!(decide(&plain, &[&bad], at(10)).is_none(), "{bad:?}");
    }
    assert!(decide(&map(&[]), &[&good], at(10)).is_none(), "there is nothing to sign");
}

#[tokio::test(start_paused = true)]
async fn the_map_is_signed_for_as_long_as_its_tokens_last() {
    const MAPS: &str = "/configmaps";
    let api = FakeApi::default();
    let content = |text: &str| ConfigMap {
        metadata: ObjectMeta { namespace: Some("kube-public".to_owned()), ..meta("cluster-info") },
        data: Some(labels(&[("kubeconfig", text)])),
        ..ConfigMap::default()
    };
    api.create(MAPS, &content("content"));
    let running = Running::start(&api, &["bootstrap-signer-controller"]);
    let signature = |api: &FakeApi| {
        let map: ConfigMap = api.get(MAPS, "kube-public", "cluster-info")?;
        map.data?.remove("jws-kubeconfig-abcdef")
    };
    api.settle().await;
    assert_eq!(signature(&api), None);
    api.create("/secrets", &token("bootstrap-token-abcdef", GOOD));
    let expected = |text: &str| Some(sign(text, "abcdef", "0123456789abcdef"));
    api.until("it is signed", |_| {}, |api| signature(api) == expected("content")).await;
    api.edit(MAPS, "kube-public", "cluster-info", |map| map["data"]["kubeconfig"] = "other".into());
    api.until("what it says now is signed", |_| {}, |api| signature(api) == expected("other")).await;
    api.edit(MAPS, "kube-public", "cluster-info", |map| {
        map["data"]["jws-kubeconfig-abcdef"] = "forged".into();
    });
    api.until("a forgery is replaced", |_| {}, |api| signature(api) == expected("other")).await;
    api.delete(MAPS, "kube-public", "cluster-info", "Background");
    api.settle().await;
    api.create(MAPS, &content("anew"));
    api.until("a new map is signed", |_| {}, |api| signature(api) == expected("anew")).await;
    api.delete("/secrets", "kube-system", "bootstrap-token-abcdef", "Background");
    api.until("the signature goes with its token", |_| {}, |api| signature(api).is_none()).await;
    running.stop().await;
}
