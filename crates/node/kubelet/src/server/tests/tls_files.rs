//! Certificates and authorities that are replaced while the server runs.

use std::fs;

use super::*;

/// Whether the server is known by this authority, and lets in a client of that one.
async fn lets_in(world: &World, server: &Authority, client: &Authority) -> bool {
    let request = CertificateRequest {
        common_name: "admin",
        organization: None,
        names: BTreeSet::new(),
        usage: Usage::Client,
        life: LEAF_LIFE,
    };
    let pair = client.issue(&request, Timestamp::now()).unwrap();
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(server))
        .with_client_auth_cert(pair.chain().unwrap(), pair.key_der().unwrap())
        .unwrap();
    let stream = TcpStream::connect(("127.0.0.1", world.port)).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let Ok(mut stream) = TlsConnector::from(Arc::new(config)).connect(name, stream).await else {
        return false;
    };
    let request = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let mut answer = Vec::new();
    // A certificate that is refused shows in what is read at the latest.
    let asked =
        stream.write_all(request).await.is_ok() && limited(stream.read_to_end(&mut answer)).await.is_ok();
    asked && answer.starts_with(b"HTTP/1.1 200")
}

#[tokio::test]
async fn files_that_change_are_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let now = Timestamp::now();
    let [first, second, other] =
        ["first", "second", "other"].map(|name| Authority::generate(name, now).unwrap());
    let write = |pair: &podium_pki::KeyPair| {
        fs::write(path("tls.crt"), &pair.certificate).unwrap();
        fs::write(path("tls.key"), pair.key.expose()).unwrap();
    };
    write(&serving_pair(&first));
    fs::write(path("ca.crt"), first.certificate()).unwrap();
    let fields = json!({"tlsCertFile": path("tls.crt"), "tlsPrivateKeyFile": path("tls.key"),
        "authentication": {"anonymous": {"enabled": false}, "x509": {"clientCAFile": path("ca.crt")},
            "webhook": {"enabled": true, "cacheTTL": "2m0s"}}});
    let settings = Configuration::of(&[], fields.as_object().unwrap().clone()).unwrap();
    let mut world = World::with(Arc::new(FakeRuntime::default()), json!({}), settings).await;
    limited(world.tls.changed()).await.unwrap();
    assert!(lets_in(&world, &first, &first).await);
    assert!(!lets_in(&world, &first, &second).await);

    // Half a certificate, then authorities that are whole: when those are seen, so was the half, and the old one is shown.
    let next = serving_pair(&second);
    fs::write(path("tls.crt"), &next.certificate[..next.certificate.len() / 2]).unwrap();
    fs::write(path("ca.crt"), second.certificate()).unwrap();
    limited(world.tls.changed()).await.unwrap();
    assert!(lets_in(&world, &first, &second).await);
    assert!(!lets_in(&world, &first, &first).await, "the old authority is no longer believed");

    // A certificate without its key, and then with it; a bundle that ends in the middle keeps the old one.
    let bundle = format!("{}{}", second.certificate(), &other.certificate()[..100]);
    fs::write(path("ca.crt"), bundle).unwrap();
    write(&next);
    limited(world.tls.changed()).await.unwrap();
    assert!(lets_in(&world, &second, &second).await);
    assert!(!lets_in(&world, &first, &second).await, "the old certificate is no longer shown");

    // As volumes and certbot do it: a link is put in the place of a file, and what it leads to is replaced.
    let real = tempfile::tempdir().unwrap();
    fs::write(real.path().join("ca"), format!("{}{}", second.certificate(), other.certificate())).unwrap();
    std::os::unix::fs::symlink(real.path().join("ca"), path("new")).unwrap();
    fs::rename(path("new"), path("ca.crt")).unwrap();
    limited(world.tls.changed()).await.unwrap();
    assert!(lets_in(&world, &second, &other).await && lets_in(&world, &second, &second).await);
    fs::write(real.path().join("new"), other.certificate()).unwrap();
    fs::rename(real.path().join("new"), real.path().join("ca")).unwrap();
    limited(world.tls.changed()).await.unwrap();
    assert!(lets_in(&world, &second, &other).await && !lets_in(&world, &second, &second).await);
    world.stop().await;
}
