//! ClusterTrustBundles: names, contents, changes; and what pods may say of them.

use super::*;
use podium_pki::certificate::to_pem;

use crate::pem;

const GROUP: &str = "certificates.k8s.io";
const KIND: &str = "ClusterTrustBundle";

/// A self-signed certificate, of an authority or not. Made once by hand:
/// `openssl req -x509 -newkey ed25519 -nodes -subj /CN=a -days 36500 -addext basicConstraints=critical,CA:TRUE`.
const AUTHORITY: &str = include_str!("authority.pem");
const LEAF: &str = include_str!("leaf.pem");

fn bundle(name: &str, signer: &str, content: &str) -> Value {
    let mut spec = json!({"trustBundle": content});
    if !signer.is_empty() {
        spec["signerName"] = json!(signer);
    }
    json!({"metadata": {"name": name}, "spec": spec})
}

#[test]
fn names_follow_the_signer() {
    for (name, signer, fault) in [
        ("roots", "", ""),
        ("a:b", "", "ClusterTrustBundle without signer name must not have \":\" in its name"),
        ("example.com:ca:roots", "example.com/ca", ""),
        (
            "roots",
            "example.com/ca",
            "ClusterTrustBundle for signerName example.com/ca must be named with prefix example.com:ca:",
        ),
    ] {
        let found = faults_of(GROUP, KIND, &bundle(name, signer, AUTHORITY));
        let wanted = format!("metadata.name: Invalid value: {name:?}: {fault}");
        assert_eq!(found, if fault.is_empty() { vec![] } else { vec![wanted] });
    }
    let found = faults_of(GROUP, KIND, &bundle("example.com:ca:Roots", "example.com/ca", AUTHORITY));
    assert!(
        found[0].starts_with("metadata.name: Invalid value: \"example.com:ca:Roots\": a lowercase RFC 1123"),
        "{found:?}"
    );
    check(
        GROUP,
        KIND,
        bundle("x:", "x", AUTHORITY),
        &[
            "metadata.name: Invalid value: \"x:\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
           characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for \
           validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
            "spec.signerName: Invalid value: \"x\": must be a fully qualified domain and path of the form 'example.com/signer-name'",
        ],
    );
}

#[test]
fn bundles_hold_authorities_and_nothing_else() {
    let der = pem::blocks(AUTHORITY).remove(0).bytes;
    for (content, faults) in [
        (format!("# ours\n{AUTHORITY}"), vec![]),
        (String::new(), vec!["at least one trust anchor must be provided"]),
        ("no blocks".to_owned(), vec!["at least one trust anchor must be provided"]),
        (LEAF.to_owned(), vec!["entry 0 does not have the CA bit set"]),
        (format!("{AUTHORITY}{AUTHORITY}"), vec!["duplicate trust anchor (indices [0 1])"]),
        (
            format!("{AUTHORITY}{}{}", to_pem("KEY", b"x"), to_pem("CERTIFICATE", b"x")),
            vec!["entry 1 has bad block type: KEY", "entry 2 does not parse as X.509"],
        ),
        (to_pem("CERTIFICATE", &[der.as_slice(), b"more"].concat()), vec!["entry 0 does not parse as X.509"]),
        (
            AUTHORITY.replacen("CERTIFICATE-----\n", "CERTIFICATE-----\nA: b\n\n", 1),
            vec!["entry 0 has PEM block headers"],
        ),
    ] {
        let wanted: Vec<String> = faults
            .iter()
            .map(|fault| format!("spec.trustBundle: Invalid value: \"<value omitted>\": {fault}"))
            .collect();
        assert_eq!(faults_of(GROUP, KIND, &bundle("roots", "", &content)), wanted);
    }
    let long = "x".repeat(1024 * 1024 + 1);
    check(
        GROUP,
        KIND,
        bundle("roots", "", &long),
        &["spec.trustBundle: Too long: may not be more than 1048576 bytes"],
    );
}

#[test]
fn the_signer_stays() {
    let old = bundle("example.com:ca:roots", "example.com/ca", AUTHORITY);
    check_update(GROUP, KIND, old.clone(), |new| new["metadata"]["labels"] = json!({"a": "b"}), &[]);
    check_update(
        GROUP,
        KIND,
        old,
        |new| {
            new["spec"]["signerName"] = json!("example.com/other");
            new["metadata"]["name"] = json!("example.com:other:roots");
        },
        &["spec.signerName: Invalid value: \"example.com/other\": field is immutable"],
    );
}

fn pod(source: Value) -> Value {
    json!({"metadata": {"name": "p", "namespace": "default"}, "spec": {
        "containers": [{"name": "c", "image": "nginx"}],
        "volumes": [{"name": "v", "projected": {"sources": [{"clusterTrustBundle": source}]}}]}})
}

#[test]
fn pods_name_a_bundle_or_a_signer() {
    const AT: &str = "spec.volumes[0].projected.sources[0].clusterTrustBundle";
    let invalid =
        |field: &str, value: &str, why: &str| format!("{AT}.{field}: Invalid value: {value}: {why}");
    for (source, faults) in [
        (json!({"name": "roots", "path": "ca.pem"}), vec![]),
        (json!({"name": "example.com:ca:roots", "path": "ca.pem"}), vec![]),
        (json!({"signerName": "example.com/ca", "labelSelector": {}, "path": "ca.pem"}), vec![]),
        (
            json!({"name": "roots", "path": "ca.pem", "labelSelector": {"matchLabels": {"a": "b"}}}),
            vec![invalid(
                "labelSelector",
                "{\"matchLabels\":{\"a\":\"b\"}}",
                "labelSelector must be unset if name is specified",
            )],
        ),
        (
            json!({"signerName": "example/ca", "path": "../ca.pem"}),
            vec![
                invalid(
                    "signerName",
                    "\"example\"",
                    "should be a domain with at least two segments separated by dots",
                ),
                invalid("path", "\"../ca.pem\"", "must not contain '..'"),
            ],
        ),
        (
            json!({"path": "ca.pem"}),
            vec![format!("{AT}: Required value: either name or signerName must be specified")],
        ),
        (json!({"name": "roots", "path": ""}), vec![format!("{AT}.path: Required value")]),
    ] {
        let object = created("", "Pod", pod(source));
        assert_eq!(faults_of("", "Pod", &object), faults);
    }
    let object = created("", "Pod", pod(json!({"name": "", "path": "ca.pem"})));
    let found = faults_of("", "Pod", &object);
    assert_eq!(found[0], format!("{AT}.name: Required value: must be a valid object name"));
    let object = created("", "Pod", pod(json!({"name": "a/b:roots", "path": "ca.pem"})));
    let found = faults_of("", "Pod", &object);
    assert!(
        found[0].contains(
            "not a valid clustertrustbundlename: ClusterTrustBundle for signerName a/b must be named with prefix a:b:"
        ),
        "{found:?}"
    );
}

#[test]
fn sources_without_anything_are_told() {
    let mut object = created("", "Pod", pod(json!({"name": "roots", "path": "ca.pem"})));
    assert_eq!(rules("", "Pod").warnings(&object, None), [""; 0]);
    features::Features::default().drop_disabled("", "Pod", &mut object, None);
    assert_eq!(
        rules("", "Pod").warnings(&object, None),
        ["volume \"v\" (Projected) has no sources provided"]
    );
}
