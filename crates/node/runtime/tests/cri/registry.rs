//! Pulls from a real registry: Debian's docker-registry on loopback, started by the test, with users and passwords.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use podium_cri::v1;

use super::fixture::{Fixture, Kind, eventually};

const PROGRAM: &str = "docker-registry";
/// `user` with the password `secret`.
const USERS: &str = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";
const REPOSITORY: &str = "podium/pulled";

/// A registry that ends with the test.
struct Registry {
    child: Child,
    host: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts one that has the test's image as `v1`, in the registry's own form on disk; none if it is not installed.
async fn start(fixture: &Fixture) -> Option<Registry> {
    let root = fixture.path("registry");
    fill(fixture, &root.join("docker/registry/v2"));
    std::fs::write(root.join("users"), USERS).unwrap();
    // Free a moment ago: the registry takes no socket from us.
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let host = format!("127.0.0.1:{port}");
    let config = format!(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {root}\nhttp:\n  addr: {host}\n\
         auth:\n  htpasswd:\n    realm: test\n    path: {root}/users\n",
        root = root.display()
    );
    std::fs::write(root.join("config.yml"), config).unwrap();
    let started = Command::new(PROGRAM)
        .arg("serve")
        .arg(root.join("config.yml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(root.join("log")).unwrap())
        .spawn();
    let Ok(child) = started else {
        println!("skipped: {PROGRAM} is not installed");
        return None;
    };
    let registry = Registry { child, host };
    eventually("the registry answers", || async {
        match tokio::net::TcpStream::connect(&registry.host).await {
            Ok(_) => Ok(()),
            Err(error) => {
                Err(format!("{error}: {}", std::fs::read_to_string(root.join("log")).unwrap_or_default()))
            }
        }
    })
    .await;
    Some(registry)
}

fn fill(fixture: &Fixture, root: &Path) {
    let images = podium_cri::archive::read(&fixture.path("image.tar")).unwrap();
    let manifest = &images.names[0].1.digest;
    let write = |path: String, bytes: &[u8]| {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    let repository = format!("repositories/{REPOSITORY}");
    for blob in &images.blobs {
        let mut bytes = vec![0; usize::try_from(blob.size).unwrap()];
        blob.source.read(0, &mut bytes).unwrap();
        let hex = blob.digest.trim_start_matches("sha256:");
        write(format!("blobs/sha256/{}/{hex}/data", &hex[..2]), &bytes);
        write(format!("{repository}/_layers/sha256/{hex}/link"), blob.digest.as_bytes());
    }
    let hex = manifest.trim_start_matches("sha256:");
    for link in [
        format!("revisions/sha256/{hex}"),
        "tags/v1/current".to_owned(),
        format!("tags/v1/index/sha256/{hex}"),
    ] {
        write(format!("{repository}/_manifests/{link}/link"), manifest.as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_registry_with_passwords_and_as_a_mirror() {
    let Some(fixture) = Fixture::start(Kind::Podium).await else { return };
    let Some(registry) = start(&fixture).await else { return };
    for image in fixture.cri.list_images().await.unwrap() {
        fixture.cri.remove_image(&image.id).await.unwrap();
    }
    let spec = |name: &str| v1::ImageSpec { image: name.to_owned(), ..Default::default() };
    let auth = |password: &str| {
        let (username, password) = ("user".to_owned(), password.to_owned());
        Some(v1::AuthConfig { username, password, ..Default::default() })
    };
    let name = format!("{}/{REPOSITORY}:v1", registry.host);
    for (auth, why) in [(None, "wants a user and a password"), (auth("wrong"), "401")] {
        let refused = fixture.cri.pull_image(spec(&name), auth, None).await.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
    let id = fixture.cri.pull_image(spec(&name), auth("secret"), None).await.unwrap();
    let absent = format!("{}/{REPOSITORY}:v2", registry.host);
    let missing = fixture.cri.pull_image(spec(&absent), auth("secret"), None).await.unwrap_err();
    assert!(missing.is_not_found(), "{missing:?}");
    // The same through a mirror that the machine's owner has named, with what it is told there.
    fixture.cri.remove_image(&id).await.unwrap();
    let hosts = fixture.path("registries/mirrored.example");
    std::fs::create_dir_all(&hosts).unwrap();
    let text = format!(
        "server = \"http://127.0.0.1:1\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n\
         [host.\"http://{}\".header]\nAuthorization = \"Basic dXNlcjpzZWNyZXQ=\"\n",
        registry.host, registry.host
    );
    std::fs::write(hosts.join("hosts.toml"), text).unwrap();
    let mirrored = format!("mirrored.example/{REPOSITORY}:v1");
    assert_eq!(fixture.cri.pull_image(spec(&mirrored), None, None).await.unwrap(), id);
    drop(registry);
    fixture.finish().await;
}
