//! The directory over time: what is made, kept, and made anew.

use std::os::unix::fs::PermissionsExt as _;

use jiff::ToSpan as _;

use super::*;

const NOW: &str = "2026-01-01T00:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn names() -> ServerNames {
    ServerNames {
        addresses: vec!["192.168.1.5".parse().unwrap()],
        service_ip: "10.96.0.1".parse().unwrap(),
        hostname: "host-a".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        extra: vec!["api.example.com".to_owned(), "203.0.113.9".to_owned()],
    }
}

#[test]
fn everything_is_kept_and_private() {
    let top = tempfile::tempdir().unwrap();
    let directory = top.path().join("pki");
    let pki = Pki::open(&directory, now()).unwrap();
    let first = pki.api_server(&names(), now()).unwrap();
    let admin = pki.admin(now()).unwrap();
    pki.kubelet_client(now()).unwrap();
    pki.front_proxy_client(now()).unwrap();
    let node = NodeNames { name: "node-1".to_owned(), addresses: vec!["10.0.0.7".parse().unwrap()] };
    pki.node(&node, now()).unwrap();
    let kid = pki.token_keys().signing_key_id().to_owned();

    let again = Pki::open(&directory, now()).unwrap();
    assert_eq!(again.authority().certificate(), pki.authority().certificate());
    assert_eq!(again.api_server(&names(), now()).unwrap(), first);
    assert_eq!(again.admin(now()).unwrap(), admin);
    assert_eq!(again.token_keys().signing_key_id(), kid);

    let mut open = vec![directory];
    let mut seen = 0;
    while let Some(path) = open.pop() {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        if path.is_dir() {
            assert_eq!(mode, 0o700, "{path:?}");
            open.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        } else {
            assert_eq!(mode, 0o600, "{path:?}");
            seen += 1;
        }
    }
    assert_eq!(seen, 2 + 2 + 2 + 4 * 2 + 4, "authorities, token keys, four pairs, a node's two");
}

#[test]
fn identities_are_what_rbac_expects() {
    let top = tempfile::tempdir().unwrap();
    let pki = Pki::open(top.path(), now()).unwrap();
    let node = NodeNames { name: "node-1".to_owned(), addresses: vec!["10.0.0.7".parse().unwrap()] };
    let node = pki.node(&node, now()).unwrap();
    let cases = [
        (pki.admin(now()).unwrap(), "kubernetes-admin", "system:masters"),
        (node.client, "system:node:node-1", "system:nodes"),
        (node.serving.clone(), "system:node:node-1", "system:nodes"),
    ];
    for (pair, name, group) in cases {
        let facts = pair.facts().unwrap();
        assert_eq!((facts.common_name.as_str(), facts.organizations), (name, vec![group.to_owned()]));
        assert_eq!(facts.not_after, now() + 8760.hours());
    }
    let serving: Vec<String> = node.serving.facts().unwrap().names.iter().map(ToString::to_string).collect();
    assert_eq!(serving, ["node-1", "10.0.0.7"]);
    for bad in ["", "../x", "a/b", "A", "-a", "a..b"] {
        let names = NodeNames { name: bad.to_owned(), addresses: Vec::new() };
        assert!(matches!(pki.node(&names, now()), Err(Error::Malformed { .. })), "{bad:?}");
    }
}

/// SECURITY.md, "Unauthenticated certificate names": the names are the configured ones and nothing else.
#[test]
fn unauthenticated_certificate_names_only_configured_ones() {
    let top = tempfile::tempdir().unwrap();
    let pki = Pki::open(top.path(), now()).unwrap();
    let facts = pki.api_server(&names(), now()).unwrap().facts().unwrap();
    let all: Vec<String> = facts.names.iter().map(ToString::to_string).collect();
    assert_eq!(
        all,
        [
            "api.example.com",
            "host-a",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
            "10.96.0.1",
            "127.0.0.1",
            "192.168.1.5",
            "203.0.113.9",
        ]
    );
}

#[test]
fn certificates_are_made_anew_when_names_change_or_the_end_is_near() {
    let top = tempfile::tempdir().unwrap();
    let pki = Pki::open(top.path(), now()).unwrap();
    let first = pki.api_server(&names(), now()).unwrap();
    let mut moved = names();
    moved.addresses = vec!["192.168.1.6".parse().unwrap()];
    let second = pki.api_server(&moved, now()).unwrap();
    assert_ne!(first, second);
    assert_eq!(pki.api_server(&moved, now() + 6000.hours()).unwrap(), second, "six of twelve months");
    let third = pki.api_server(&moved, now() + 7500.hours()).unwrap();
    assert_ne!(third, second);
    // Another authority's, or a key of another pair, does not serve.
    let other = tempfile::tempdir().unwrap();
    let foreign = Pki::open(other.path(), now()).unwrap().api_server(&moved, now()).unwrap();
    files::write(&top.path().join("apiserver.crt"), foreign.certificate.as_bytes()).unwrap();
    assert_ne!(pki.api_server(&moved, now()).unwrap().certificate, foreign.certificate);
    let kept = pki.api_server(&moved, now()).unwrap();
    files::write(&top.path().join("apiserver.key"), first.key.expose().as_bytes()).unwrap();
    assert_ne!(pki.api_server(&moved, now()).unwrap(), kept);
    files::write(&top.path().join("apiserver.crt"), b"torn").unwrap();
    pki.api_server(&moved, now()).unwrap().facts().unwrap();
}

#[test]
fn an_authority_without_key_is_an_error_not_a_new_authority() {
    let top = tempfile::tempdir().unwrap();
    Pki::open(top.path(), now()).unwrap();
    std::fs::remove_file(top.path().join("ca.key")).unwrap();
    assert!(matches!(Pki::open(top.path(), now()), Err(Error::HalfPair { .. })));
}

#[test]
fn kubeconfigs_hold_the_credentials() {
    let top = tempfile::tempdir().unwrap();
    let pki = Pki::open(top.path(), now()).unwrap();
    let admin = pki.admin(now()).unwrap();
    let config = crate::kubeconfig::write(
        "podium",
        "kubernetes-admin",
        "https://127.0.0.1:6443",
        pki.authority().certificate(),
        &admin,
    );
    assert!(config.expose().contains("current-context: \"kubernetes-admin@podium\"\n"));
    assert!(config.expose().contains("    server: \"https://127.0.0.1:6443\"\n"));
    assert_eq!(format!("{config:?}"), "[secret]");
    assert_eq!(format!("{admin:?}").matches("PRIVATE").count(), 0);
}
