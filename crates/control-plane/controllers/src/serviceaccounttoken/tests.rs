//! When token Secrets are filled and deleted.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use podium_pki::token::legacy::{ACCOUNT_NAME, ACCOUNT_UID, SECRET_TYPE};
use podium_pki::token::{Keys, generate_key};

use super::decide::{Decision, decide, filled, without_reference};
use crate::manager::Settings;
use crate::testing::api::{FakeApi, Running};
use crate::testing::{labels, meta};

fn secret(annotations: &[(&str, &str)]) -> Secret {
    Secret {
        metadata: ObjectMeta { annotations: Some(labels(annotations)), ..meta("t") },
        type_: Some(SECRET_TYPE.to_owned()),
        ..Secret::default()
    }
}

fn account() -> ServiceAccount {
    ServiceAccount { metadata: meta("bot"), ..ServiceAccount::default() }
}

#[test]
fn secrets_are_filled_kept_and_deleted() {
    let bot = account();
    let new = secret(&[(ACCOUNT_NAME, "bot")]);
    let Decision::Fill { claims: Some(claims) } = decide(&new, Some(&bot), "PEM") else {
        panic!("it is empty")
    };
    assert_eq!(claims["iss"], "kubernetes/serviceaccount");
    assert_eq!(claims["sub"], "system:serviceaccount:ns:bot");
    assert_eq!(claims["kubernetes.io/serviceaccount/secret.name"], "t");
    let full = filled(&new, &bot, "PEM", Some("a.b.c".to_owned()));
    assert_eq!(decide(&full, Some(&bot), "PEM"), Decision::Keep);
    assert_eq!(
        decide(&full, Some(&bot), "NEW"),
        Decision::Fill { claims: None },
        "only the certificate is old"
    );
    assert_eq!(decide(&full, None, "PEM"), Decision::Delete);
    let other =
        ServiceAccount { metadata: ObjectMeta { uid: Some("x".to_owned()), ..meta("bot") }, ..account() };
    assert_eq!(decide(&full, Some(&other), "PEM"), Decision::Delete, "another life of the account");
    assert_eq!(full.metadata.annotations.as_ref().unwrap()[ACCOUNT_UID], "bot-uid");
    assert_eq!(decide(&secret(&[]), None, "PEM"), Decision::Keep, "it names no account");
    let opaque = Secret { type_: Some("Opaque".to_owned()), ..new };
    assert_eq!(decide(&opaque, None, "PEM"), Decision::Keep);
}

#[test]
fn references_to_lost_secrets_go() {
    let reference =
        |name: &str| ObjectReference { name: Some(name.to_owned()), ..ObjectReference::default() };
    let lists = ServiceAccount { secrets: Some(vec![reference("t"), reference("u")]), ..account() };
    assert_eq!(without_reference(&lists, "t").unwrap().secrets.unwrap(), [reference("u")]);
    assert!(without_reference(&lists, "x").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_token_comes_and_goes_with_its_account() {
    let api = FakeApi::default();
    api.create("/serviceaccounts", &account());
    api.create("/secrets", &secret(&[(ACCOUNT_NAME, "bot")]));
    let keys = Arc::new(Keys::new(&generate_key().unwrap(), &[]).unwrap());
    let settings =
        Settings { token_keys: Some(keys.clone()), root_ca_pem: "PEM".to_owned(), ..Settings::default() };
    let running = Running::start_with(&api, &["serviceaccount-token-controller"], settings);
    let token = |api: &FakeApi| {
        let secret: Secret = api.get("/secrets", "ns", "t")?;
        String::from_utf8(secret.data?.get("token")?.0.clone()).ok()
    };
    api.until("it is filled", |_| {}, |api| token(api).is_some()).await;
    let claims = keys.verify(&token(&api).unwrap()).expect("signed with our key");
    assert_eq!(claims["sub"], "system:serviceaccount:ns:bot");
    api.delete("/serviceaccounts", "ns", "bot", "Background");
    api.until("it goes", |_| {}, |api| api.list::<Secret>("/secrets").is_empty()).await;
    running.stop().await;
}
