//! Answers of a real server, good and bad, and what becomes of the pods.

use std::collections::BTreeSet;

use jiff::Timestamp;
use podium_pki::{
    authority::{Authority, LEAF_LIFE, Request, Usage},
    certificate::{AltName, from_pem},
    tls::ServingCertificate,
};
use rustls::ServerConfig;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::testing::pages::{Pages, ok, redirect};

fn one(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn list(items: &[Value]) -> String {
    json!({"apiVersion": "v1", "kind": "PodList", "items": items}).to_string()
}

fn source_of(url: &str) -> UrlSource {
    let headers = [("X-Token".to_owned(), vec!["a".to_owned(), "b".to_owned()])];
    UrlSource::new(url, &headers.into(), "n1").unwrap()
}

async fn start() -> (Pages, UrlSource) {
    let pages = Pages::start().await;
    let source = source_of(&format!("http://{}/pods?of=n1", pages.address));
    (pages, source)
}

fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
    pods.iter().map(|one| pod::name(one)).collect()
}

#[tokio::test]
async fn pods_and_lists_are_read() {
    let (pages, mut source) = start().await;
    let mut bare = one("bare");
    bare.as_object_mut().unwrap().retain(|field, _| field != "kind" && field != "apiVersion");
    let yaml = "apiVersion: v1\nkind: Pod\nmetadata: {name: yaml, namespace: other}\nspec: {containers: [{name: c, image: i}]}\n";
    for (body, expected) in [
        (one("json").to_string(), vec!["json-n1"]),
        (yaml.to_owned(), vec!["yaml-n1"]),
        (list(&[one("a"), one("b"), bare]), vec!["a-n1", "b-n1", "bare-n1"]),
        (list(&[]), vec![]),
    ] {
        pages.set([ok(&body)]);
        assert_eq!(names(&source.read().await.unwrap().unwrap()), expected);
        // The same again is nothing new.
        assert_eq!(source.read().await.unwrap(), None);
    }
    let requests = pages.requests();
    assert!(requests[0].starts_with("GET /pods?of=n1 HTTP/1.1\r\n"), "{}", requests[0]);
    assert!(requests[0].contains("x-token: a\r\nx-token: b\r\n"), "{}", requests[0]);
}

#[tokio::test]
async fn a_pod_from_a_url_is_static() {
    let (pages, mut source) = start().await;
    pages.set([ok(&one("web").to_string())]);
    let pods = source.read().await.unwrap().unwrap();
    let annotations = pods[0].metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations["kubernetes.io/config.source"], "http");
    assert_eq!(annotations["kubernetes.io/config.hash"], pod::uid(&pods[0]));
    assert!(pod::is_static(&pods[0]) && pod::uid(&pods[0]).len() == 32);
    let spec = pods[0].spec.as_ref().unwrap();
    assert_eq!((spec.node_name.as_deref(), &spec.tolerations), (Some("n1"), &None));
}

#[tokio::test]
async fn what_cannot_be_used_is_told_and_tried_again() {
    let (pages, mut source) = start().await;
    let twin = |name: &str| {
        let mut pod = one(name);
        pod["metadata"]["uid"] = json!("same");
        pod
    };
    let mut unnamed = one("x");
    unnamed["metadata"] = json!({});
    let long =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{}", MAX_BYTES + 1, " ".repeat(MAX_BYTES + 1));
    let mut service = one("x");
    service["kind"] = json!("Service");
    for (answer, why) in [
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(), "/pods?of=n1: 404 Not Found"),
        (ok(""), "zero-length data received from http://"),
        (ok("{"), "couldn't parse as pod"),
        (ok("[]"), "neither a Pod nor a PodList of v1"),
        (ok("text"), "neither a Pod nor a PodList of v1"),
        (ok(&service.to_string()), "neither a Pod nor a PodList of v1"),
        (
            ok(&json!({"apiVersion": "v1", "kind": "PodList", "items": "x"}).to_string()),
            "neither a Pod nor a PodList",
        ),
        (ok(&list(&[one("a"), service])), "not a Pod of v1"),
        (ok(&list(&[one("a"), unnamed])), "name is needed for the pod"),
        (ok(&list(&[one("a"), json!("x")])), "not a Pod of v1"),
        (ok(&list(&[twin("a"), twin("b")])), "metadata.uid: Duplicate value: \"same\""),
        (ok(&list(&[one("a"), one("a")])), "metadata.name: Duplicate value: \"a-n1\""),
        (long, "length limit exceeded"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{}".to_owned(), "error"),
        (redirect("/round"), "stopped after 10 redirects"),
        ("nonsense\r\n\r\n".to_owned(), "Get \"http://"),
    ] {
        pages.set([answer]);
        for _ in 0..2 {
            let error = error_chain(&source.read().await.unwrap_err());
            assert!(error.contains(why), "{error} lacks {why}");
        }
    }
}

#[tokio::test]
async fn failures_keep_the_pods() {
    let (pages, mut source) = start().await;
    let (told, seen) = watch::channel(None);
    let known = || seen.borrow().as_ref().map(|pods: &Vec<Arc<Pod>>| pods.len());
    // Nobody knows anything before the first good answer.
    pages.set(["HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n".to_owned()]);
    source.round(&told).await;
    assert_eq!(known(), None);
    assert!(
        source.failure.as_ref().unwrap().ends_with(": 500 Internal Server Error"),
        "{:?}",
        source.failure
    );
    pages.set([ok(&one("a").to_string())]);
    source.round(&told).await;
    assert_eq!((known(), &source.failure), (Some(1), &None));
    for bad in ["HTTP/1.1 503 Wait\r\ncontent-length: 0\r\n\r\n".to_owned(), ok("{"), "gone".to_owned()] {
        pages.set([bad]);
        source.round(&told).await;
        assert!(source.failure.is_some());
        assert_eq!(known(), Some(1));
    }
    // Nothing at all is an answer, and what was there before is news after it.
    pages.set([ok("")]);
    source.round(&told).await;
    assert_eq!(known(), Some(0));
    assert!(source.failure.is_some());
    pages.set([ok(&one("a").to_string())]);
    source.round(&told).await;
    assert_eq!((known(), &source.failure), (Some(1), &None));
}

#[tokio::test]
async fn redirects_are_followed_without_secrets() {
    let (pages, mut source) = start().await;
    let elsewhere = Pages::start().await;
    elsewhere.set([ok(&one("far").to_string())]);
    pages.set([redirect("/near"), ok(&one("near").to_string())]);
    assert_eq!(names(&source.read().await.unwrap().unwrap()), ["near-n1"]);
    let requests = pages.requests();
    assert!(requests[1].starts_with("GET /near ") && requests[1].contains("x-token: a"), "{}", requests[1]);
    pages.set([redirect(&format!("http://localhost:{}/far", elsewhere.address.port()))]);
    assert_eq!(names(&source.read().await.unwrap().unwrap()), ["far-n1"]);
    let asked = &elsewhere.requests()[0];
    assert!(asked.starts_with("GET /far ") && !asked.to_lowercase().contains("x-token"), "{asked}");
}

#[tokio::test]
async fn certificates_are_checked() {
    let now = Timestamp::now();
    let authority = Authority::generate("test", now).unwrap();
    let names = BTreeSet::from([AltName::Ip([127, 0, 0, 1].into())]);
    let request =
        Request { common_name: "pods", organization: None, names, usage: Usage::Server, life: LEAF_LIFE };
    let serving = ServingCertificate::new(&authority.issue(&request, now).unwrap()).unwrap();
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(serving);
    let pages = Pages::start_as(Some(TlsAcceptor::from(Arc::new(config)))).await;
    pages.set([ok(&one("safe").to_string())]);
    let mut source = source_of(&format!("https://{}/", pages.address));
    let error = source.read().await.unwrap_err().to_string();
    assert!(error.contains("invalid peer certificate"), "{error}");
    assert!(pages.requests().is_empty());
    let mut roots = RootCertStore::empty();
    roots.add(from_pem(authority.certificate()).unwrap().remove(0)).unwrap();
    source.trust = trust(roots);
    let pods = source.read().await.unwrap().unwrap();
    assert_eq!(pod::name(&pods[0]), "safe-n1");
    // Out of TLS no secrets go.
    let open = Pages::start().await;
    open.set([ok(&one("open").to_string())]);
    pages.set([redirect(&format!("http://{}/", open.address))]);
    source.read().await.unwrap().unwrap();
    assert!(!open.requests()[0].to_lowercase().contains("x-token"));
}
