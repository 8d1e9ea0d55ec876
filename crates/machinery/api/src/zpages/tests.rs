//! The pages, and which of their forms an `Accept` header gets.

use super::*;

fn time(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn asked(accept: &str) -> Asked<'_> {
    Asked { accept, pretty: false, now: time("2026-11-28T13:01:05.9Z"), pick: 1 }
}

fn statusz(asked: Asked<'_>) -> (Answer, String) {
    let paths =
        ["/healthz", "/healthz/ping", "/metrics", "/apis/apps", "/api", "/", "odd"].map(str::to_owned);
    let component = Component {
        name: "kubelet",
        started: time("2026-11-08T11:00:00.5Z"),
        runtime: "none (Rust)",
        binary_version: "1.36.2",
        emulation_version: Some("1.36"),
        paths: &paths,
    };
    let answer = answer(Page::Statusz(component), asked);
    let text = String::from_utf8(answer.body.clone()).expect("text");
    (answer, text)
}

fn flagz(asked: Asked<'_>) -> (Answer, String) {
    let flags = [("storage-backend", "etcd3"), ("bind-address", "0.0.0.0")];
    let flags = flags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let answer = answer(Page::Flagz { name: "apiserver", flags: &flags }, asked);
    let text = String::from_utf8(answer.body.clone()).expect("text");
    (answer, text)
}

#[test]
fn text_for_people() {
    let expected = "\nkubelet statusz\nWarning: This endpoint is not meant to be machine parseable, has no formatting \
        compatibility guarantees and is for debugging purposes only.\n\nStarted:  Sun Nov  8 11:00:00 UTC 2026\n\
        Up:  482 hr 01 min 05 sec\nGo version:  none (Rust)\nBinary version:  1.36.2\nEmulation version:  1.36\n\
        Paths:  /healthz /metrics\n";
    for accept in ["", " ", "*/*", "text/plain", "text/*", "application/json, text/plain"] {
        let (answer, text) = statusz(asked(accept));
        assert_eq!((answer.code, text.as_str()), (200, expected), "{accept:?}");
        assert_eq!(answer.content_type, "text/plain; charset=utf-8");
    }
    let (_, text) = flagz(Asked { pick: 6, ..asked("") });
    assert!(text.starts_with("\napiserver flagz\nWarning: "), "{text}");
    assert!(text.ends_with(" only.\nbind-address=0.0.0.0\nstorage-backend=etcd3\n"), "{text}");
}

#[test]
fn objects() {
    let (answer, text) = statusz(asked("application/json;as=Statusz;v=v1beta1;g=config.k8s.io"));
    assert_eq!(
        text,
        "{\"kind\":\"Statusz\",\"apiVersion\":\"config.k8s.io/v1beta1\",\"metadata\":{\"name\":\"kubelet\"},\
         \"startTime\":\"2026-11-08T11:00:00Z\",\"uptimeSeconds\":1735265,\"goVersion\":\"none (Rust)\",\
         \"binaryVersion\":\"1.36.2\",\"emulationVersion\":\"1.36\",\"paths\":[\"/healthz\",\"/metrics\"]}\n"
    );
    assert_eq!(answer.content_type, "application/json;g=config.k8s.io;v=v1beta1;as=Statusz");
    assert_eq!(answer.warning, None);
    let (answer, text) = flagz(asked("application/yaml;as=Flagz;v=v1alpha1;g=config.k8s.io"));
    assert_eq!(
        text,
        "apiVersion: config.k8s.io/v1alpha1\nflags:\n  bind-address: 0.0.0.0\n  storage-backend: etcd3\nkind: Flagz\n\
         metadata:\n  name: apiserver\n"
    );
    assert_eq!(answer.content_type, "application/yaml;g=config.k8s.io;v=v1alpha1;as=Flagz");
    assert!(answer.warning.is_some_and(|text| text.contains("flagz endpoint is deprecated")));
}

#[test]
fn no_other_form() {
    for accept in [
        "application/json",
        "application/*",
        "text/html",
        "application/vnd.kubernetes.protobuf;as=Flagz;v=v1beta1;g=config.k8s.io",
        "application/json;as=Statusz;v=v1beta1;g=config.k8s.io",
        "application/json;as=Flagz;v=v1;g=config.k8s.io",
        "text/plain;as=Flagz;v=v1beta1;g=config.k8s.io",
        "text/plain;stream=watch",
    ] {
        let (answer, text) = flagz(asked(accept));
        assert_eq!((answer.code, answer.content_type), (406, "application/json"), "{accept}");
        let types = "application/json, application/yaml, text/plain";
        assert!(
            text.contains(&format!("\"only the following media types are accepted: {types}\"")),
            "{text}"
        );
    }
    let (answer, text) = flagz(asked("application/yaml"));
    assert_eq!((answer.code, answer.content_type), (406, "application/yaml"));
    assert!(text.contains("reason: NotAcceptable"), "{text}");
}

#[test]
fn pretty() {
    assert!(
        wants_pretty(Some("true"), "") && wants_pretty(None, "curl/8.0") && wants_pretty(Some(""), "Wget")
    );
    assert!(!wants_pretty(Some("false"), "curl/8.0") && !wants_pretty(None, "kubectl/v1.36"));
    let json = "application/json;as=Flagz;v=v1beta1;g=config.k8s.io";
    let (_, text) = flagz(Asked { pretty: true, ..asked(json) });
    assert!(text.starts_with("{\n  \"kind\": \"Flagz\",\n"), "{text}");
}

#[test]
fn a_component_serves_both() {
    let pages = Pages {
        name: "kube-scheduler",
        started: time("2026-11-28T13:00:00Z"),
        flags: [("v".to_owned(), "2".to_owned())].into(),
        paths: vec!["/healthz".to_owned()],
    };
    let text = |path| {
        let answer = pages.at(path, asked(""))?;
        Some(String::from_utf8(answer.body).expect("text"))
    };
    let page = text(STATUSZ).expect("a page");
    assert!(page.starts_with("\nkube-scheduler statusz\n"), "{page}");
    assert!(page.ends_with("Emulation version:  1.36\nPaths:  /healthz\n"), "{page}");
    assert!(text(FLAGZ).expect("a page").ends_with(" only.\nv: 2\n"));
    assert_eq!((text("/flagz/"), text("/status")), (None, None));
}
