//! A pretended registry on loopback: tokens, redirects, interruptions.

use super::*;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, RANGE};
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use podium_cri::v1;
use std::convert::Infallible;
use tokio::net::TcpListener;

/// Answers by a function of path and headers; gives the address.
async fn registry(
    answer: impl Fn(&str, &HeaderMap) -> Response<Full<Bytes>> + Clone + Send + 'static,
) -> Host {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let response = answer(request.uri().path(), request.headers());
                async move { Ok::<_, Infallible>(response) }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    Host { url: format!("http://{address}/v2"), resolve: true, ..Host::default() }
}

fn reply(status: u16, headers: &[(&'static str, String)], text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text.to_owned())));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        response.headers_mut().insert(*name, HeaderValue::from_str(value).unwrap());
    }
    response
}

#[tokio::test]
async fn a_redirect_on_the_same_host_keeps_what_the_host_is_told() {
    let mut host = registry(|path, headers| {
        let has = |name: &str, value: &str| headers.get(name).is_some_and(|found| found == value);
        match (path, has("authorization", "Basic dTpw"), has("x-own", "yes")) {
            (_, _, false) => reply(400, &[], ""),
            (_, false, _) => reply(401, &[("www-authenticate", "Basic realm=\"r\"".to_owned())], ""),
            ("/v2/a/blobs/x", ..) => reply(307, &[("location", "/elsewhere/x".to_owned())], ""),
            ("/elsewhere/x", ..) => reply(200, &[], "content"),
            _ => reply(404, &[], ""),
        }
    })
    .await;
    host.headers = vec![("x-own".to_owned(), "yes".to_owned())];
    let auth = v1::AuthConfig { username: "u".into(), password: "p".into(), ..Default::default() };
    let client = Client::new(Credentials::of(Some(&auth), "a"));
    assert_eq!(client.get(&host, "a/blobs/x", "x", 100).await.unwrap().1, b"content");
}

#[tokio::test]
async fn tokens_are_fetched_and_redirects_get_none() {
    let elsewhere = registry(|_, headers| {
        let known = headers.contains_key(AUTHORIZATION);
        reply(if known { 400 } else { 200 }, &[], "content")
    })
    .await;
    let target = elsewhere.url.clone();
    let host = registry(move |path, headers| {
        let authorization =
            headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        match (path, authorization) {
            ("/token", "Basic dTpw") => reply(200, &[], r#"{"token":"secret"}"#),
            ("/token", _) => reply(401, &[], ""),
            ("/v2/a/manifests/v1", "Bearer secret") => {
                reply(200, &[("content-type", "application/x; charset=utf-8".to_owned())], "document")
            }
            ("/v2/a/blobs/x", "Bearer secret") => reply(307, &[("location", format!("{target}/x"))], ""),
            ("/v2/a/manifests/absent", "Bearer secret") => reply(404, &[], ""),
            ("/v2/a/manifests/broken", _) => {
                reply(500, &[], r#"{"errors":[{"code":"X","message":"the disk is full"}]}"#)
            }
            _ => {
                let own = headers[HOST].to_str().unwrap();
                let challenge = format!(r#"Bearer realm="http://{own}/token",service="s",scope="pull""#);
                reply(401, &[("www-authenticate", challenge)], "")
            }
        }
    })
    .await;
    let auth =
        podium_cri::v1::AuthConfig { username: "u".into(), password: "p".into(), ..Default::default() };
    let client = Client::new(Credentials::of(Some(&auth), "x"));
    let (media_type, bytes) = client.get(&host, "a/manifests/v1", "*/*", 100).await.unwrap();
    assert_eq!((media_type.as_str(), bytes.as_slice()), ("application/x", b"document".as_slice()));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("blob");
    let pull = super::super::progress::Pulls::default().begin("a");
    client.download(&host, "a/blobs/x", &file, 7, &pull).await.unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), b"content");
    let absent = client.get(&host, "a/manifests/absent", "*/*", 100).await;
    assert!(matches!(absent, Err(HttpError::NotFound { .. })), "{absent:?}");
    let broken = client.get(&host, "a/manifests/broken", "*/*", 100).await.unwrap_err();
    assert!(
        broken.to_string().ends_with("500 Internal Server Error: the disk is full") && broken.is_transient()
    );
    let nobody = Client::new(Credentials::default());
    let refused = nobody.get(&host, "a/manifests/v1", "*/*", 100).await;
    assert!(matches!(refused, Err(HttpError::Authorize(_))), "{refused:?}");
    let long = client.get(&host, "a/manifests/v1", "*/*", 3).await;
    assert!(matches!(long, Err(HttpError::TooLong { .. })), "{long:?}");
}

#[tokio::test]
async fn what_a_name_means_is_told_without_the_document() {
    let digest = blobs::digest(b"document");
    let told = digest.clone();
    let host = registry(move |path, _| match path {
        "/v2/a/manifests/v1" => reply(
            200,
            &[("docker-content-digest", told.clone()), ("content-type", "application/x".to_owned())],
            "document",
        ),
        "/v2/a/manifests/odd" => reply(200, &[("docker-content-digest", "../../x".to_owned())], "document"),
        "/v2/a/manifests/silent" => reply(200, &[], "document"),
        _ => reply(405, &[], ""),
    })
    .await;
    let client = Client::new(Credentials::default());
    let seen = client.head(&host, "a/manifests/v1", "x").await.unwrap();
    assert_eq!(seen, Some(("application/x".to_owned(), digest, 8)));
    assert_eq!(client.head(&host, "a/manifests/odd", "x").await.unwrap(), None);
    assert_eq!(client.head(&host, "a/manifests/silent", "x").await.unwrap(), None);
    let refused = client.head(&host, "a/manifests/absent", "x").await.unwrap_err();
    assert!(refused.to_string().contains("HEAD request"), "{refused}");
}

#[tokio::test]
async fn a_download_goes_on_where_it_broke_off() {
    let host = registry(|_, headers| match headers.get(RANGE).and_then(|value| value.to_str().ok()) {
        Some("bytes=4-") => reply(206, &[], "456789"),
        Some(_) => reply(416, &[], ""),
        None => reply(200, &[], "0123"),
    })
    .await;
    let client = Client::new(Credentials::default());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("blob");
    let pulls = super::super::progress::Pulls::default();
    let pull = pulls.begin("x");
    let short = client.download(&host, "x", &file, 10, &pull).await.unwrap_err();
    assert!(short.is_transient(), "{short}");
    client.download(&host, "x", &file, 10, &pull).await.unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), b"0123456789");
    assert_eq!(pulls.list()[0].bytes, 10);
    // What is there is fetched again where a host gives no part.
    let whole = registry(|_, _| reply(200, &[], "0123456789")).await;
    std::fs::write(&file, "0123").unwrap();
    client.download(&whole, "x", &file, 10, &pull).await.unwrap();
    assert_eq!((std::fs::read(&file).unwrap().as_slice(), pulls.list()[0].bytes), (&b"0123456789"[..], 16));
    let longer = directory.path().join("longer");
    assert!(matches!(client.download(&host, "x", &longer, 2, &pull).await, Err(HttpError::TooLong { .. })));
}

#[test]
fn where_redirects_lead() {
    let base = "https://a.io/v2/x";
    assert_eq!(join(base, "/y?z").as_deref(), Some("https://a.io/y?z"));
    assert_eq!(join(base, "https://b.io/y").as_deref(), Some("https://b.io/y"));
    for bad in ["//b.io/y", "y", "ftp://b.io"] {
        assert_eq!(join(base, bad), None, "{bad}");
    }
    assert_eq!(encode("a b:c/d"), "a%20b%3Ac%2Fd");
}
