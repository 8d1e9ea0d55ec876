//! Images.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use podium_cri::v1;

use super::fixture::IMAGE;
use super::{Fixture, Kind};

fn spec(name: &str) -> v1::ImageSpec {
    v1::ImageSpec { image: name.to_owned(), ..Default::default() }
}

pub(crate) async fn life_of_an_image(fixture: &Fixture) {
    let image = fixture.cri.image_status(spec(IMAGE)).await.unwrap().expect("the image");
    assert_eq!(image.repo_tags, [IMAGE]);
    assert!(image.id.starts_with("sha256:") && image.size > 100_000, "{image:?}");
    assert!(image.repo_digests.iter().all(|one| one.starts_with("example.com/podium/test@sha256:")));
    for name in [&image.id, &image.id["sha256:".len()..]] {
        assert_eq!(fixture.cri.image_status(spec(name)).await.unwrap().unwrap().id, image.id);
    }
    assert!(fixture.cri.image_status(spec("example.com/absent:v1")).await.unwrap().is_none());
    let listed = fixture.cri.list_images().await.unwrap();
    assert!(listed.iter().any(|one| one.id == image.id));
    // Loaded again, nothing changes.
    podium_cri::import_image(&fixture.endpoint(), &fixture.path("image.tar")).await.unwrap();
    assert_eq!(fixture.cri.list_images().await.unwrap().len(), listed.len());
    // A running container keeps what it stands on.
    let pod = fixture.pod("p");
    let sandbox = fixture.run_pod(&pod).await;
    let id = fixture.run(&sandbox, fixture.script("c", "sleep 1000"), &pod).await;
    if fixture.kind == Kind::Podium {
        for _ in 0..2 {
            fixture.cri.remove_image(IMAGE).await.unwrap();
        }
        assert!(fixture.cri.image_status(spec(IMAGE)).await.unwrap().is_none());
        assert_eq!(fixture.exec(&id, "cat /etc/passwd > /dev/null; echo fine").await.1, "fine\n");
        assert!(fixture.create(&sandbox, fixture.script("d", "true"), &pod).await.is_err());
        podium_cri::import_image(&fixture.endpoint(), &fixture.path("image.tar")).await.unwrap();
    }
    assert_eq!(fixture.cri.image_status(spec(IMAGE)).await.unwrap().unwrap().id, image.id);
}

/// An image as a volume, as the kubelet asks for it.
pub(crate) fn volume(path: &str, image: &str, sub_path: &str) -> v1::Mount {
    v1::Mount {
        container_path: path.to_owned(),
        readonly: true,
        image: Some(spec(image)),
        image_sub_path: sub_path.to_owned(),
        ..Default::default()
    }
}

pub(crate) async fn as_volumes(fixture: &Fixture) {
    if fixture.kind == Kind::Containerd {
        // It takes no notice of what it does not know; its kubelets must not ask it.
        println!("skipped: containerd has images as volumes from 2.1 on");
        return;
    }
    let id = fixture.cri.image_status(spec(IMAGE)).await.unwrap().unwrap().id;
    let change = |_: &mut v1::PodSandboxConfig, config: &mut v1::ContainerConfig| {
        config.mounts = vec![
            volume("/all", IMAGE, ""),
            volume("/all/tmp", &id, "root"),
            volume("/part", &id, "etc"),
            volume("/one/file", &id, "etc/group"),
        ];
    };
    let script = "busybox head -n 1 /all/etc/passwd; busybox head -n 1 /part/passwd; busybox tail -n 1 /one/file; \
                  (echo x > /all/no) 2>/dev/null || echo refused; (echo x > /part/passwd) 2>/dev/null || echo refused; \
                  (echo x > /one/file) 2>/dev/null || echo refused; ls /all/tmp; /all/bin/echo runs";
    let (code, text) = fixture.outcome("volumes", change, script).await;
    let expected = "root:x:0:0::/root:/bin/sh\nroot:x:0:0::/root:/bin/sh\nlogs:x:50:web\n\
                    refused\nrefused\nrefused\nruns\n";
    assert_eq!((code, text.as_str()), (0, expected));
    let pod = fixture.pod("p");
    let sandbox = fixture.run_pod(&pod).await;
    for (mount, expected) in [
        (volume("/v", IMAGE, "no/such"), "ImageVolumeMountFailed"),
        (volume("/v", IMAGE, "../etc"), "is not within it"),
        (volume("/v", "example.com/absent:v1", ""), "not found"),
        (v1::Mount { readonly: false, ..volume("/v", IMAGE, "") }, "not read-only"),
    ] {
        let config = v1::ContainerConfig { mounts: vec![mount], ..fixture.script("c", "true") };
        let error = format!("{:?}", fixture.create(&sandbox, config, &pod).await.unwrap_err());
        assert!(error.contains(expected), "{error}");
    }
    // What failed left its name free, and no other trace.
    let config = v1::ContainerConfig { mounts: vec![volume("/v", IMAGE, "")], ..fixture.script("c", "true") };
    let made = fixture.run(&sandbox, config, &pod).await;
    assert_eq!(fixture.ended(&made).await.exit_code, 0);
    assert_eq!(fixture.status(&made).await.mounts[0].image, Some(spec(IMAGE)));
}

/// A registry on loopback that has the test's image: its address, and how many manifests it has given out.
async fn registry(fixture: &Fixture) -> (String, Arc<AtomicUsize>) {
    use std::collections::HashMap;
    use std::convert::Infallible;

    let images = podium_cri::archive::read(&fixture.path("image.tar")).unwrap();
    let mut content: HashMap<String, (String, Vec<u8>)> = HashMap::new();
    let target = &images.names[0].1;
    for blob in &images.blobs {
        let mut bytes = vec![0; usize::try_from(blob.size).unwrap()];
        blob.source.read(0, &mut bytes).unwrap();
        if blob.digest == target.digest {
            for version in ["v1", target.digest.as_str()] {
                let path = format!("/v2/podium/pulled/manifests/{version}");
                content.insert(path, (target.media_type.clone(), bytes.clone()));
            }
        }
        let path = format!("/v2/podium/pulled/blobs/{}", blob.digest);
        content.insert(path, ("application/octet-stream".to_owned(), bytes));
    }
    content.insert("/v2/".to_owned(), ("application/json".to_owned(), b"{}".to_vec()));
    let content = Arc::new(content);
    let given = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&given);
    let digest = target.digest.clone();
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (content, count, digest) = (Arc::clone(&content), Arc::clone(&count), digest.clone());
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let found = content.get(request.uri().path()).cloned();
                let head = request.method() == http::Method::HEAD;
                let mut response = http::Response::builder();
                if request.uri().path().contains("/manifests/") {
                    response = response.header("docker-content-digest", digest.clone());
                    count.fetch_add(usize::from(!head), Ordering::Relaxed);
                }
                async move {
                    let body = match found {
                        Some((kind, bytes)) => {
                            response =
                                response.header("content-type", kind).header("content-length", bytes.len());
                            if head { Vec::new() } else { bytes }
                        }
                        None => {
                            response = response.status(404);
                            Vec::new()
                        }
                    };
                    Ok::<_, Infallible>(
                        response.body(http_body_util::Full::new(bytes::Bytes::from(body))).unwrap(),
                    )
                }
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
        }
    });
    (format!("127.0.0.1:{port}"), given)
}

pub(crate) async fn pulled_from_a_registry(fixture: &Fixture) {
    let (host, given) = registry(fixture).await;
    let known = fixture.cri.image_status(spec(IMAGE)).await.unwrap().unwrap();
    let name = format!("{host}/podium/pulled:v1");
    let id = fixture.cri.pull_image(spec(&name), None, None).await.unwrap();
    // The same content: one image with one more name.
    assert_eq!(id, known.id);
    let image = fixture.cri.image_status(spec(&name)).await.unwrap().unwrap();
    assert!(image.repo_tags.contains(&name), "{image:?}");
    let digest = image.repo_digests.iter().find(|one| one.starts_with(&host)).unwrap().clone();
    assert_eq!(fixture.cri.image_status(spec(&digest)).await.unwrap().unwrap().id, id);
    fixture.cri.pull_image(spec(&digest), None, None).await.unwrap();
    if fixture.kind == Kind::Podium {
        // Registries count manifests: what has not changed is not fetched again.
        let before = given.load(Ordering::Relaxed);
        assert_eq!(fixture.cri.pull_image(spec(&name), None, None).await.unwrap(), id);
        assert!(before > 0 && given.load(Ordering::Relaxed) == before);
    }
    let absent = format!("{host}/podium/absent:v1");
    let error = fixture.cri.pull_image(spec(&absent), None, None).await.unwrap_err();
    assert!(error.is_not_found(), "{error:?}");
    if fixture.kind == Kind::Podium {
        // From nothing, through a mirror of another registry.
        fixture.cri.remove_image(&id).await.unwrap();
        let hosts = fixture.path("registries/mirrored.example");
        std::fs::create_dir_all(&hosts).unwrap();
        let text = format!(
            "server = \"http://127.0.0.1:1\"\n[host.\"http://{host}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
        );
        std::fs::write(hosts.join("hosts.toml"), text).unwrap();
        let name = "mirrored.example/podium/pulled:v1";
        assert_eq!(fixture.cri.pull_image(spec(name), None, None).await.unwrap(), id);
        // Saved, removed, loaded: the same again.
        let (other, kept) = ("other:v2", "docker.io/library/other:v2");
        assert_eq!(podium_cri::tag(&fixture.endpoint(), name, other).await.unwrap(), kept);
        assert_eq!(fixture.cri.image_status(spec(other)).await.unwrap().unwrap().id, id);
        for (image, tag) in [("absent:v1", "x:v1"), (name, "UPPER:v1"), (name, digest.as_str())] {
            assert!(podium_cri::tag(&fixture.endpoint(), image, tag).await.is_err(), "{image} {tag}");
        }
        let saved = fixture.path("saved.tar");
        podium_cri::save(&fixture.endpoint(), name, &saved).await.unwrap();
        let (removed, bytes) = podium_cri::prune(&fixture.endpoint()).await.unwrap();
        assert!(removed == [kept] && bytes > 100_000, "{removed:?}");
        assert_eq!(fixture.cri.list_images().await.unwrap().len(), 0);
        assert_eq!(podium_cri::import_image(&fixture.endpoint(), &saved).await.unwrap(), [kept, name]);
        assert_eq!(fixture.cri.image_status(spec(name)).await.unwrap().unwrap().id, id);
    }
}
