//! What is mounted below a volume: whether it can be written, and which way new mounts travel.

use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount, umount};
use podium_cri::v1;

use super::Fixture;
use super::fixture::eventually;

/// A directory of the host that is a mount of its own and hands new mounts on, as a machine's root does.
fn shared(fixture: &Fixture, name: &str) -> PathBuf {
    let host = fixture.path(name);
    std::fs::create_dir(&host).unwrap();
    mount(Some(&host), &host, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    mount(None::<&str>, &host, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
    host
}

/// A file system of its own with a file in it.
fn disk(at: &Path) {
    std::fs::create_dir_all(at).unwrap();
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).unwrap();
    std::fs::write(at.join("file"), "").unwrap();
}

fn bind(host: &Path, path: &str) -> v1::Mount {
    v1::Mount { container_path: path.to_owned(), host_path: host.display().to_string(), ..Default::default() }
}

pub(crate) async fn read_only_to_the_ground(fixture: &Fixture) {
    let host = shared(fixture, "volume");
    disk(&host.join("disk"));
    let flat = v1::Mount { readonly: true, ..bind(&host, "/flat") };
    let deep = v1::Mount { readonly: true, recursive_read_only: true, ..bind(&host, "/deep") };
    let offered = fixture.cri.status(v1::StatusRequest::default()).await.unwrap().runtime_handlers;
    let offered = offered.iter().any(|handler| {
        handler.name.is_empty()
            && handler.features.is_some_and(|features| features.recursive_read_only_mounts)
    });
    // A runtime that does not know the field makes the mount without it.
    if offered {
        let script = "for at in /flat /flat/disk /deep /deep/disk; do \
            touch $at/new 2>/dev/null && echo written || echo refused; done; ls /deep/disk";
        let mounts = vec![flat.clone(), deep.clone()];
        let (_, text) = fixture.outcome("deep", |_, config| config.mounts = mounts, script).await;
        assert_eq!(text, "refused\nwritten\nrefused\nrefused\nfile\nnew\n");
        // What could be written through afterwards is refused.
        let pod = fixture.pod("refused");
        let sandbox = fixture.run_pod(&pod).await;
        let travelling = v1::MountPropagation::PropagationHostToContainer.into();
        for (name, wrong) in [
            ("writable", v1::Mount { readonly: false, ..deep.clone() }),
            ("travelling", v1::Mount { propagation: travelling, ..deep.clone() }),
        ] {
            let mut config = fixture.script(name, "true");
            config.mounts = vec![wrong];
            assert!(fixture.create(&sandbox, config, &pod).await.is_err(), "{name}");
        }
    } else {
        println!("skipped: {:?} does not offer recursive read-only mounts", fixture.kind);
    }
    umount(&host.join("disk")).unwrap();
    umount(&host).unwrap();
}

pub(crate) async fn which_way_they_travel(fixture: &Fixture) {
    let host = shared(fixture, "volume");
    let mut pod = fixture.pod("p");
    pod.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
    let sandbox = fixture.run_pod(&pod).await;
    let run = async |name: &str, propagation: v1::MountPropagation| {
        let mut config = fixture.script(name, "sleep 1000");
        config.mounts = vec![v1::Mount { propagation: propagation.into(), ..bind(&host, "/v") }];
        config.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
        fixture.run(&sandbox, config, &pod).await
    };
    let private = run("private", v1::MountPropagation::PropagationPrivate).await;
    let slave = run("slave", v1::MountPropagation::PropagationHostToContainer).await;
    let both = run("both", v1::MountPropagation::PropagationBidirectional).await;
    let sees = async |id: &str, path: &str| {
        let (code, _, _) = fixture.exec(id, &format!("grep -q ' /v/{path} ' /proc/self/mountinfo")).await;
        code == 0
    };
    // What the host mounts while they run.
    disk(&host.join("host"));
    for (id, expected) in [(&private, false), (&slave, true), (&both, true)] {
        assert_eq!(sees(id, "host").await, expected, "{}", fixture.status(id).await.metadata.unwrap().name);
    }
    // What a container mounts.
    let on_host = |path: &str| {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.contains(&format!(" {} ", host.join(path).display()))
    };
    for (id, path, expected) in [(&private, "one", false), (&slave, "two", false), (&both, "three", true)] {
        let (code, _, error) =
            fixture.exec(id, &format!("mkdir /v/{path} && mount -t tmpfs x /v/{path}")).await;
        assert_eq!(code, 0, "{error}");
        assert!(sees(id, path).await);
        assert_eq!(on_host(path), expected, "{path}");
    }
    assert!(sees(&slave, "three").await && !sees(&private, "three").await);
    // And it goes as it came.
    umount(&host.join("host")).unwrap();
    assert!(!sees(&slave, "host").await && !sees(&both, "host").await);
    let (code, _, error) = fixture.exec(&both, "busybox umount /v/three").await;
    assert_eq!(code, 0, "{error}");
    assert!(!on_host("three"));
    fixture.remove(&sandbox).await;
    umount(&host).unwrap();
    // Without a mount that is shared there is nothing that could travel to the host.
    let alone = fixture.path("alone");
    std::fs::create_dir(&alone).unwrap();
    mount(Some(&alone), &alone, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    mount(None::<&str>, &alone, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    let sandbox = fixture.run_pod(&pod).await;
    let mut config = fixture.script("alone", "true");
    let propagation = v1::MountPropagation::PropagationBidirectional.into();
    config.mounts = vec![v1::Mount { propagation, ..bind(&alone, "/v") }];
    let refused = match fixture.create(&sandbox, config, &pod).await {
        Ok(id) => fixture.start_container(&id).await.is_err(),
        Err(_) => true,
    };
    assert!(refused);
    eventually("nothing holds the mount", || async { umount(&alone).map_err(|error| error.to_string()) })
        .await;
}
