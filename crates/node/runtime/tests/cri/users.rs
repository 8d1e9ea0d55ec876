//! Pods with user namespaces: who is root inside is nobody outside, and files have the ids that they are to have.

use std::os::unix::fs::MetadataExt;

use podium_cri::v1;

use super::fixture::{Fixture, IMAGE, Kind};
use super::images::volume;

/// The first id on the host.
const FIRST: u32 = 131_072;

fn maps() -> Vec<v1::IdMapping> {
    vec![v1::IdMapping { host_id: FIRST, container_id: 0, length: 65_536 }]
}

/// A pod in a user namespace of its own; none where the machine has none, which is said.
async fn pod(fixture: &Fixture, name: &str, pid: v1::NamespaceMode) -> Option<v1::PodSandboxConfig> {
    let status = fixture.cri.status(v1::StatusRequest::default()).await.unwrap();
    if !status
        .runtime_handlers
        .iter()
        .all(|one| one.features.is_some_and(|features| features.user_namespaces))
    {
        println!("skipped: no user namespaces, or no mounts with other ids, on this machine");
        return None;
    }
    let mut pod = fixture.pod(name);
    let linux = pod.linux.as_mut().unwrap();
    let options = linux.security_context.as_mut().unwrap().namespace_options.as_mut().unwrap();
    options.pid = pid.into();
    options.userns_options =
        Some(v1::UserNamespace { mode: v1::NamespaceMode::Pod.into(), uids: maps(), gids: maps() });
    Some(pod)
}

/// A container's configuration in such a pod.
fn script(
    fixture: &Fixture,
    pod: &v1::PodSandboxConfig,
    name: &str,
    script: &str,
    mounts: Vec<v1::Mount>,
) -> v1::ContainerConfig {
    let mut config = fixture.script(name, script);
    let options = pod.linux.as_ref().unwrap().security_context.as_ref().unwrap().namespace_options.clone();
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options = options;
    config.mounts = mounts;
    for mount in &mut config.mounts {
        (mount.uid_mappings, mount.gid_mappings) = (maps(), maps());
    }
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn root_inside_is_nobody_outside() {
    let Some(fixture) = Fixture::start(Kind::Podium).await else { return };
    let Some(pod) = pod(&fixture, "p", v1::NamespaceMode::Container).await else { return };
    let sandbox = fixture.run_pod(&pod).await;
    let host = fixture.path("volume");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("given"), "x").unwrap();
    let mounts = vec![
        v1::Mount {
            container_path: "/v".to_owned(),
            host_path: host.display().to_string(),
            ..Default::default()
        },
        volume("/image", IMAGE, "etc"),
    ];
    let text = "cat /proc/self/uid_map; id -u; echo $$; echo to-stdout > /dev/stdout
        for file in / /bin/busybox /etc/hostname /v/given /image/passwd /proc /dev /dev/null /dev/shm /newdir; do
            mkdir -p /newdir; stat -c '%n %u %g' $file; done
        echo y > /v/made; echo z > /dev/shm/z; echo w > /dev/null; hostname
        chown 1000:1000 /v/made; ip link set lo up && echo lo
        mount -t tmpfs none /newdir 2> /dev/null || echo no mounts
        exec sleep 1000";
    let id = fixture.run(&sandbox, script(&fixture, &pod, "c", text, mounts), &pod).await;
    super::fixture::eventually("the script is through", || async {
        let log = fixture.log("p", "c").await;
        if log.ends_with("no mounts\n") { Ok(()) } else { Err(log) }
    })
    .await;
    let log = fixture.log("p", "c").await;
    let lines: Vec<String> =
        log.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let owned = |name: &str| format!("{name} 0 0");
    let expected: Vec<String> = [format!("0 {FIRST} 65536"), "0".into(), "1".into(), "to-stdout".into()]
        .into_iter()
        .chain(["/", "/bin/busybox", "/etc/hostname", "/v/given", "/image/passwd"].map(owned))
        // The kernel's own, wherever it is mounted.
        .chain(["/proc 65534 65534".into()])
        .chain(["/dev", "/dev/null", "/dev/shm", "/newdir"].map(owned))
        .chain(["p".into(), "lo".into(), "no mounts".into()])
        .collect();
    assert_eq!(lines, expected);
    let made = std::fs::metadata(host.join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (1000, 1000), "a volume has the ids that are said inside");
    // On the host the process is somebody that nobody is.
    let request = v1::ContainerStatusRequest { container_id: id.clone(), verbose: true };
    let info = fixture.cri.container_status(request).await.unwrap().info["info"].clone();
    let pid = serde_json::from_str::<serde_json::Value>(&info).unwrap()["pid"].as_i64().unwrap();
    assert_eq!(std::fs::metadata(format!("/proc/{pid}")).unwrap().uid(), FIRST);
    // A command is in the same place, with streams of its own.
    let (code, out, _) = fixture
        .exec(&id, "id -u; cat /proc/self/uid_map | tr -s ' '; echo again > /dev/stdout; cat /v/given")
        .await;
    assert_eq!((code, out.as_str()), (0, format!("0\n 0 {FIRST} 65536\nagain\nx").as_str()));
    fixture.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_terminals_and_shared_processes_inside() {
    let Some(fixture) = Fixture::start(Kind::Podium).await else { return };
    let Some(pod) = pod(&fixture, "p", v1::NamespaceMode::Pod).await else { return };
    let sandbox = fixture.run_pod(&pod).await;
    let mut first = script(&fixture, &pod, "first", "exec sleep 1000", Vec::new());
    first.linux.as_mut().unwrap().security_context.as_mut().unwrap().run_as_user =
        Some(v1::Int64Value { value: 1000 });
    fixture.run(&sandbox, first, &pod).await;
    let text = "tty; stat -c '%u %g' $(tty); id -u; for p in /proc/[0-9]*; do
        echo $(stat -c %u $p) $(cat $p/comm); done | grep -e pause -e sleep";
    let mut second = script(&fixture, &pod, "second", text, Vec::new());
    second.tty = true;
    let id = fixture.run(&sandbox, second, &pod).await;
    assert_eq!(fixture.ended(&id).await.exit_code, 0);
    let log = fixture.log("p", "second").await.replace('\r', "");
    assert_eq!(log, "/dev/pts/0\n0 5\n0\n65535 pause\n1000 sleep\n");
    fixture.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_without_other_ids_is_refused() {
    let Some(fixture) = Fixture::start(Kind::Podium).await else { return };
    let Some(pod) = pod(&fixture, "p", v1::NamespaceMode::Container).await else { return };
    let sandbox = fixture.run_pod(&pod).await;
    let sysfs = v1::Mount {
        container_path: "/v".to_owned(),
        host_path: "/sys/kernel".to_owned(),
        ..Default::default()
    };
    let config = script(&fixture, &pod, "c", "true", vec![sysfs.clone()]);
    let id = fixture.create(&sandbox, config, &pod).await.unwrap();
    let refused = fixture.start_container(&id).await.unwrap_err().to_string();
    assert!(refused.contains("doesn't support idmap mounts"), "{refused}");
    let mut other = script(&fixture, &pod, "d", "true", vec![sysfs]);
    other.mounts[0].uid_mappings[0].host_id += 1;
    let refused = fixture.create(&sandbox, other, &pod).await.unwrap_err().to_string();
    assert!(refused.contains("not those of the pod's user namespace"), "{refused}");
    fixture.finish().await;
}
